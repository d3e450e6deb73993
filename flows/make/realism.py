"""Train the realism network: gather, train, measure and audit. All of `train-realism` but Prefect and the page.

gather          subjects of the split `train`; held-out cases of `val` and `test`
train_network   the loop, fed by a thread that draws ahead; killed at any moment it goes on later
measure         calibrate and set the threshold on `val`, measure on both, audit, write the checkpoint
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch

import augment
from flows.coco.sources import Source, Watch, label_of, open_source, unwatched
from flows.errors import BadRequest
from flows.make import compose, severity, subjects
from flows.make.ahead import computing_threads, drawing_ahead
from flows.make.audit import HELD_OUT, SUBJECTS
from flows.make.severity import (
    Cases,
    Drawing,
    draw_cases,
    group_cases,
    join_cases,
    make_checkpoint,
    measure_cases,
    people_of,
)
from flows.make.subjects import (
    Subject,
    annotated_subjects,
    check_splits,
    digest_of,
    unlabelled_photographs,
    unlabelled_subjects,
)
from flows.settings import fingerprint
from flows.store.layout import TrainingLayout, read_json, write_bytes
from flows.store.lock import holding
from flows.train_settings import TrainRealismSettings, identity
from realism import score
from realism.audit import find_failures
from realism.checkpoint import Checkpoint, save_checkpoint
from realism.discriminator import Discriminator, Shape
from realism.networks import Network, NetworkShape, make_network
from realism.score import score_crops, score_logits
from realism.train import Batch, Progress, TrainSettings, fit, loss_of
from realism.vgg import VggShape

SHAPES: Final[Mapping[str, NetworkShape]] = {"compact": Shape(), "vgg16": VggShape(side=112)}
"""By the name of the setting. Subjects are kept with 150 pixels at most, of which a crop shows 106."""
VALIDATED: Final = 100
"""Subjects of `val` that the curves are measured on."""
SAVED: Final = 200
"""Steps between two saved states, at most."""


@dataclass(frozen=True)
class Gathered:
    """What is learnt from, and where the cases lie that the network is measured on.

    Attributes:
        subjects: All of the split `train`.
        cases: Files by name: `val`; `test` and `more`, of photographs without annotations, where there are enough.
    """

    settings: TrainRealismSettings
    layout: TrainingLayout
    subjects: Sequence[Subject]
    cases: Mapping[str, Path]

    @property
    def photographs(self) -> int:
        """Return how many photographs are learnt from."""
        return len({subject.image_id for subject in self.subjects})

    @property
    def kinds(self) -> dict[str, int]:
        """Count the subjects of each kind."""
        return dict(sorted(Counter(subject.kind for subject in self.subjects).items()))

    @property
    def summary(self) -> str:
        """Say in one line what is learnt from."""
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.kinds.items())
        return f"learning from {self.photographs:,} photographs, {len(self.subjects):,} subjects ({kinds})"


@dataclass(frozen=True)
class Told:
    """How a training goes.

    Attributes:
        steps: Of the whole training.
        seconds: Since this process began with it.
        made: Steps in these.
        saved: Whether a state was saved at this step, and loss and figures are of it.
        loss: Mean over the steps before the last saved state; None before the first.
        validation: Figures of the last saved state.
    """

    step: int
    steps: int
    seconds: float = 0.0
    made: int = 0
    saved: bool = False
    loss: float | None = None
    validation: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Return the steps a second, 0 before the first."""
        return self.made / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Return the time that the rest will take, None before the first step."""
        return (self.steps - self.step) / self.rate if self.rate else None

    @property
    def figures(self) -> str:
        """Return loss and validation in words."""
        words = [] if self.loss is None else [f"loss {self.loss:.3f}"]
        if "band_auroc" in self.validation:
            words.append(f"validation AUROC {self.validation['band_auroc']:.3f}")
        if "mild_gross_auroc" in self.validation:
            words.append(f"mild against gross {self.validation['mild_gross_auroc']:.3f}")
        return ", ".join(words)

    @property
    def line(self) -> str:
        """Return all of it as one line."""
        left = self.seconds_left or 0
        time_left = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min" if left < 6000 else f"{left / 3600:.1f} h"
        pace = f"{self.rate:.1f} steps a second, {time_left} left" if self.step < self.steps else "done"
        return f"step {self.step} of {self.steps}: {self.figures}; {pace}"


def layout_of(settings: TrainRealismSettings) -> TrainingLayout:
    """Return where a training stands: by default in a folder of the source's name."""
    return TrainingLayout(settings.output.expanduser().resolve() / (settings.name or _source_label(settings)))


def _source_label(settings: TrainRealismSettings) -> str:
    source = settings.source
    return label_of(source if source.startswith("coco:") else Path(source).expanduser().resolve().name)


@contextmanager
def only_training(layout: TrainingLayout) -> Iterator[None]:
    """Hold the training's lock, and remove what a killed process left half-written.

    Raises:
        BadRequest: Another process trains here.
    """
    busy = f"another training is at work in {layout.folder}; wait for it, or choose another --name"
    with holding(layout.lock, busy=busy):
        for path in layout.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        yield


def gather(settings: TrainRealismSettings, *, watch: Watch = unwatched) -> Gathered:
    """Gather subjects and cases; begin the training on disk, or see that it is the one that was begun there.

    Raises:
        BadRequest: Something that was asked for is not there, too few people, or the folder holds another training.
    """
    layout, photos = layout_of(settings), settings.photos and settings.photos.expanduser()
    choose_device(settings.device)
    if photos is not None and not photos.is_dir():
        raise BadRequest(f"the folder of photographs {photos} does not exist; mend --photos")
    source = open_source(
        settings.source,
        images=settings.images,
        annotations=settings.annotations,
        coco_base=settings.coco_base,
        watch=watch,
    )
    watch("gathering subjects", 0, 1)
    found = list(annotated_subjects(source, split="train", most=settings.photographs))
    shapes = [subject.mask for subject in found if subject.kind == "person"]
    if not shapes:
        raise BadRequest(f"source {settings.source!r} shows no people in the split `train`; add photographs")
    if photos:
        found += unlabelled_subjects(photos, split="train", shapes=shapes, each=2, seed=0, most=settings.photographs)
    kept = [subject for subject in found if settings.share.get(subject.kind, 0) > 0]
    check_splits(kept, split="train")
    what = {"settings": identity(settings), "data_digest": digest_of(kept), "code": _drawing_code()}
    _refuse_another(layout, what)
    watch("gathering subjects", 1, 1)
    watch("drawing held-out cases", 0, 1)
    cases = _held_out(settings, source, layout, photos=photos)
    if not layout.begun.exists():  # written when nothing can be refused any more
        write_bytes(layout.begun, (json.dumps(what, indent=1) + "\n").encode())
    return Gathered(settings, layout, kept, cases)


def _refuse_another(layout: TrainingLayout, what: Mapping[str, Any]) -> None:
    """Raise `BadRequest` where the folder holds a training that was begun as something else."""
    if not layout.begun.exists():
        return
    way_out = "choose another --name, or remove the folder"
    try:
        begun = _parts(read_json(layout.begun))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadRequest(f"{layout.begun} is damaged; {way_out}") from None
    now = _parts(what)
    different = [name for name in now | begun if begun.get(name) != now.get(name)]
    if different:
        name = different[0]
        values = f" ({begun.get(name)}, now {now.get(name)})" if name in what["settings"] else ""
        raise BadRequest(f"{layout.folder} was begun with other {name}{values}; {way_out}")


def _parts(what: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a training is by the words that a refusal names it with."""
    return {**what["settings"], "photographs or subjects": what["data_digest"], "code": what["code"]}


@cache  # of the code as it was loaded
def _drawing_code() -> str:
    """Return a digest of the code that draws batches and cases."""
    digest = hashlib.sha256()
    files = [Path(module.__file__) for module in (compose, score, severity, subjects) if module.__file__]
    for path in (*sorted(Path(augment.__file__).parent.rglob("*.py")), *files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _held_out(
    settings: TrainRealismSettings, source: Source, layout: TrainingLayout, *, photos: Path | None
) -> dict[str, Path]:
    """Return the files of the cases; all are drawn where the last one, `val`, does not lie there yet."""
    side = SHAPES[settings.network].side
    key = {
        "annotations": source.digests,
        "photos": photos and sorted((path.name, path.stat().st_size) for path in photos.iterdir()),
        "photographs": settings.photographs,
        "side": side,
        "code": _drawing_code(),
    }
    paths = {name: layout.cases(fingerprint(key), name) for name in ("more", "test", "val")}
    if not paths["val"].exists():
        for name, cases in _draw_held_out(settings, source, photos=photos, side=side):
            cases.save(paths[name])
    return {name: path for name, path in paths.items() if path.exists()}


def _draw_held_out(
    settings: TrainRealismSettings, source: Source, *, photos: Path | None, side: int
) -> Iterator[tuple[str, Cases]]:
    """Yield `more`, `test` and `val`, the first two where there are photographs enough."""
    most = max(2, settings.photographs // 8)
    people = {split: people_of(source, split=split, most=most) for split in HELD_OUT}
    few = f"source {settings.source!r} has too few photographs with people in the split `val`, {len(people['val'])}"
    way_out = "add photographs: one in ten, by its id, goes there"
    if len(people["val"]) < 2:
        raise BadRequest(f"{few}; {way_out}")
    cases = {split: draw_cases(scenes, seed=7, side=side) for split, scenes in people.items() if len(scenes) > 1}
    groups = group_cases(cases["val"])
    if empty := [name for name in ("band", "gross") if not groups[name].any()]:
        raise BadRequest(f"{few}, to draw cases of the group {empty[0]}; {way_out}")
    left = SUBJECTS - sum(int(part.subject.max()) + 1 for part in cases.values())
    if photos and left > 0:
        shapes = [mask.astype(np.uint8) * 255 for _, _, masks in people["val"] for mask in masks]
        scenes = [
            scene
            for split in HELD_OUT
            for scene in islice(unlabelled_photographs(photos, split=split, shapes=shapes, seed=3), most)
        ]
        if len(scenes) > 1:
            yield "more", draw_cases(scenes, seed=8, per_photograph=1, most=left, side=side)
    if "test" in cases:
        yield "test", cases["test"]
    yield "val", cases["val"]


def train_network(
    gathered: Gathered, *, tell: Callable[[Told], None] = lambda _told: None
) -> tuple[Network, list[dict[str, float]]]:
    """Train, or go on where a killed training was; return the averaged network and its history.

    Args:
        gathered: From `gather`.
        tell: Told of every step.

    Raises:
        BadRequest: The saved state or the cases are damaged, or the weights to start from are not what they should be.
        NotANumberLossError: The loss stopped being finite; what was saved last stays.
    """
    settings, layout = gathered.settings, gathered.layout
    device, telling = choose_device(settings.device), _Telling(settings.batches, tell)
    loop = loop_settings(settings)
    with one_line_errors(), computing_threads(settings.threads):
        validate = _validation(Cases.load(gathered.cases["val"]), device=device)
        with drawing_ahead(drawing_of(gathered).batch, steps=loop.steps) as draw:
            return fit(
                lambda: make_network(
                    SHAPES[settings.network].architecture, SHAPES[settings.network], weights=_weights(settings)
                ),
                telling.each(draw),
                lambda model, batch: loss_of(cast("Discriminator", model), batch, loop, device=device),
                loop,
                identity=identity(settings),
                state=layout.state,
                device=device,
                validate=validate,
                report=telling.saved,
            )


def _weights(settings: TrainRealismSettings) -> Path | None:
    return settings.vgg16_weights and settings.vgg16_weights.expanduser()


def loop_settings(settings: TrainRealismSettings) -> TrainSettings:
    """Return the numbers of the loop; a state is saved a dozen times or more."""
    return TrainSettings(
        steps=settings.batches,
        seed=settings.seed,
        learning_rate=settings.highest_rate,
        save_every=min(SAVED, max(1, settings.batches // 12)),
    )


def drawing_of(gathered: Gathered) -> Drawing:
    """Return what batches are drawn from."""
    settings = gathered.settings
    references = [subject.colours for subject in gathered.subjects if subject.kind in {"person", "other"}]
    plain = Drawing(gathered.subjects, references, seed=settings.seed)
    return dataclasses.replace(
        plain,
        groups=settings.groups,
        vigour=settings.vigour,
        share=settings.share,
        families={name: weight for name, weight in plain.families.items() if name not in settings.without},
        side=SHAPES[settings.network].side,
    )


@dataclass
class _Telling:
    """Keeps what is told of a training: the steps as they are drawn, the figures as they are saved."""

    steps: int
    tell: Callable[[Told], None]
    told: Told | None = None
    began: float = 0.0
    first: int = 0

    def each(self, draw: Callable[[int], Batch]) -> Callable[[int], Batch]:
        """Return `draw`, telling of each step before it is made."""

        def drawn(step: int) -> Batch:
            if self.told is None:
                self.began, self.first = time.monotonic(), step
                self.told = Told(step, self.steps)
            self._tell(step, self.told)
            return draw(step)

        return drawn

    def saved(self, progress: Progress) -> None:
        """Tell of a saved state."""
        figures = Told(progress.step, self.steps, loss=progress.loss, validation=progress.validation)
        self._tell(progress.step, figures, saved=True)

    def _tell(self, step: int, figures: Told, *, saved: bool = False) -> None:
        seconds = time.monotonic() - self.began
        self.told = dataclasses.replace(figures, step=step, seconds=seconds, made=step - self.first, saved=saved)
        self.tell(self.told)


def _validation(val: Cases, *, device: str) -> Callable[[Network], Mapping[str, float]]:
    """Return what measures a network for the curves, on some subjects of `val`."""
    some = val.only((val.subject < VALIDATED) & ~np.isin(val.what, ("null", "shift")))

    def validate(model: Network) -> Mapping[str, float]:
        logits = score_logits(model, some.crops, device=device)
        measured = measure_cases(1 / (1 + np.exp(-np.clip(logits, -50, 50))), some)
        figures = {name: measured[name] for name in ("band_auroc", "mild_gross_auroc", "spearman")}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    return validate


def measure(
    gathered: Gathered, model: Network, history: Sequence[Mapping[str, float]], *, watch: Watch = unwatched
) -> Checkpoint:
    """Calibrate, set the threshold, measure and audit a trained network; write its checkpoint and its scores.

    Raises:
        BadRequest: The cases are damaged.
    """
    settings, layout, device = gathered.settings, gathered.layout, choose_device(gathered.settings.device)
    watch("measuring", 0, 1)
    with one_line_errors():
        cases = {name: Cases.load(path) for name, path in gathered.cases.items()}
    described = {
        "source": _source_label(settings),
        **identity(settings),
        "subjects": gathered.kinds,
        "device": device,
        "threads": settings.threads,
        "loop": {name: value for name, value in vars(loop_settings(settings)).items() if name != "shape"},
        "history": [dict(stretch) for stretch in history],
    }
    checkpoint = make_checkpoint(
        model,
        subjects=gathered.subjects,
        val=cases["val"],
        test=cases.get("test"),
        audit=join_cases(*cases.values()),
        settings=described,
        device=device,
    )
    save_checkpoint(checkpoint, layout.checkpoint)
    scores = {split: _scores(checkpoint, cases[split], device=device) for split in HELD_OUT if split in cases}
    write_bytes(layout.scores, (json.dumps(scores) + "\n").encode())
    return checkpoint


def describe_checkpoint(checkpoint: Checkpoint) -> list[str]:
    """Say in two lines what a checkpoint is worth."""
    split = "test" if "test" in checkpoint.metrics else "val"
    figures, audit = checkpoint.metrics[split], checkpoint.audit
    named = {
        "natural against edits inside the band": figures["band_auroc"],
        "mild against gross": figures["mild_gross_auroc"],
        "order of strength": figures["spearman"],
    }
    words = [f"{name} {'unknown' if value is None else f'{value:.3f}'}" for name, value in named.items()]
    outcome = "passed" if audit["passed"] else f"failed: {'; '.join(find_failures(audit))}"
    return [
        f"{split}: {', '.join(words)}",
        f"audit: null edits {audit['null_auroc']:.3f}, worst shift {audit['worst_shift']:.4f}; {outcome}",
    ]


def _scores(checkpoint: Checkpoint, cases: Cases, *, device: str) -> dict[str, list[float]]:
    """Score the cases of each group."""
    groups = group_cases(cases)
    some = np.any(list(groups.values()), axis=0)
    scores = np.zeros(len(some))
    scores[some] = score_crops(checkpoint, cases.crops[some], device=device)
    return {name: sorted(scores[rows].tolist()) for name, rows in groups.items()}


def choose_device(device: str) -> str:
    """Return `cpu` or `cuda` for what was asked for.

    Raises:
        BadRequest: `cuda`, and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BadRequest("device cuda is asked for, and torch finds none on this machine; give auto or cpu")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what the network's package says of wrong files into a `BadRequest`."""
    try:
        yield
    except ValueError as error:
        raise BadRequest(str(error)) from None
