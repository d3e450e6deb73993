"""Teach fusion networks, stage after stage, in a folder where a killed process is gone on from.

The first stage learns from easy people. Each further one learns from these and from the same people as the stage before
laid them into busy scenes, those pictures that pass the closed-form gates (Zhang, Zhang, Perazzi, Lin, Patel: Deep
Image Compositing, 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flows.coco.sources import Source, Watch, label_of, open_source, unwatched
from flows.errors import BadRequest
from flows.fusion_settings import FusionTraining
from flows.make.evaluate_fusion import Comparison, compare, open_methods
from flows.make.fusion import Gathered, gather, hard_cases, perceptual_features, train_fusion
from flows.make.fusion_data import cases
from flows.make.realism import choose_device
from flows.settings import SAMPLE
from flows.store.lock import holding
from realism.fusion import FusionShape
from realism.fusion_checkpoint import FusionCheckpoint, load_fusion
from realism.train import NotANumberLossError, Progress
from realism.train_fusion import FusionSettings

Tell = Callable[[int, Progress], None]
"""Told the number of the stage, and how it goes."""

SAMPLE_SHAPE: Final = FusionShape(widths=(12, 20, 28, 36), detail=8)
"""The drawn sample has 17 easy people: a smaller network learns them in two minutes of one core."""


COMPOSITIONS: Final = 48
"""Of a kind, at most, that the stages are compared on."""
SEED: Final = 1
"""Of these compositions; those that were looked at in training have another."""


@dataclass(frozen=True)
class School:
    """What all stages of a training share.

    Attributes:
        folder: Of the training.
        source: Of the photographs.
        learnt: Of the split `train`.
        held_out: Of `val`; None where it has nobody.
    """

    folder: Path
    source: Source
    settings: FusionTraining
    learnt: Gathered
    held_out: Gathered | None

    @property
    def summary(self) -> str:
        """Say in a line what is learnt from."""
        held = self.held_out
        return (
            f"{len(self.learnt.people)} easy people of {self.learnt.found}, {len(self.learnt.scenes)} scenes; "
            f"held out {len(held.people) if held else 0} people; into {self.folder}"
        )

    def checkpoint(self, stage: int) -> Path:
        """Return the weights file of a stage."""
        return self.folder / f"m{stage}.pt"

    @property
    def report(self) -> Path:
        """Return the page that people open first."""
        return self.folder / "report" / "index.html"


def folder_of(settings: FusionTraining) -> Path:
    """Return where a training stands: by default in a folder of the source's name."""
    source = settings.source
    label = label_of(source if source.startswith("coco:") else Path(source).expanduser().resolve().name)
    return settings.output.expanduser().resolve() / (settings.name or label)


@contextmanager
def only_teaching(settings: FusionTraining) -> Iterator[None]:
    """Hold the training's lock.

    Raises:
        BadRequest: Another process trains here.
    """
    folder = folder_of(settings)
    with holding(folder / ".lock", busy=f"another training is at work in {folder}; wait, or choose another --name"):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        yield


def open_school(settings: FusionTraining, *, watch: Watch = unwatched) -> School:
    """Gather what is learnt from and what is held out; mattes that are kept are not made again.

    Raises:
        BadRequest: Something that was asked for is not there, or nobody in the source is fit.
    """
    choose_device(settings.device)
    photos = settings.photos and settings.photos.expanduser()
    if photos is not None and not photos.is_dir():
        raise BadRequest(f"the folder of photographs {photos} does not exist; mend --photos")
    source = open_source(
        settings.source,
        images=settings.images,
        annotations=settings.annotations,
        coco_base=settings.coco_base,
        watch=watch,
    )
    learnt = gather(source, photos, split="train")
    try:
        held_out = gather(source, photos, split="val")
    except BadRequest:  # nothing to measure on; the training is none the worse
        held_out = None
    return School(folder_of(settings), source, settings, learnt, held_out)


def train_stage(school: School, stage: int, *, first: FusionCheckpoint | None, tell: Tell) -> FusionCheckpoint:
    """Train one stage, go on with it, or load it where it is done.

    Args:
        school: Of the training.
        stage: Number of the checkpoint that is written.
        first: The stage before; None trains the first.
        tell: Told of each saved stretch.

    Raises:
        BadRequest: The folder holds another training, the loss stopped being finite, or no hard picture passed.
    """
    settings, device = school.settings, choose_device(school.settings.device)
    numbers = FusionSettings(
        steps=settings.batches,
        seed=settings.seed,
        learning_rate=settings.learning_rate,
        perceptual=settings.perceptual,
        shape=_shape(settings, first),
    )
    features = perceptual_features(vgg=settings.vgg16_weights, device=device) if settings.perceptual else None
    try:
        train_fusion(
            school.learnt,
            numbers,
            output=school.checkpoint(stage),
            features=features,
            first=first,
            held_out=school.held_out,
            truth=settings.truth,
            device=device,
            threads=settings.threads,
            report=lambda progress: tell(stage, progress),
        )
        return load_fusion(school.checkpoint(stage))
    except NotANumberLossError as error:
        raise BadRequest(f"{error}, under another --name") from None
    except ValueError as error:
        raise BadRequest(f"{error}; or choose another --name") from None


def compare_stages(school: School, *, stages: int) -> Comparison:
    """Measure the stages of a training beside the closed-form blends, on people of the split `val`.

    Raises:
        BadRequest: Nobody was held out.
    """
    held_out = school.held_out
    if held_out is None:
        raise BadRequest(
            "the networks are trained, but the source has nobody in `val` to measure on; compare them by "
            "hcoco evaluate fusion with a larger source"
        )
    device = choose_device(school.settings.device)
    paths = {f"m{number}": school.checkpoint(number) for number in range(1, stages + 1)}
    first = load_fusion(school.checkpoint(1)).model
    sets = {
        "easy": cases(held_out.people, held_out.scenes, count=COMPOSITIONS, seed=SEED),
        "hard": hard_cases(first, held_out, count=COMPOSITIONS, seed=SEED, device=device),
    }
    return compare({kind: chosen for kind, chosen in sets.items() if chosen}, open_methods(paths, device=device))


def _shape(settings: FusionTraining, first: FusionCheckpoint | None) -> FusionShape:
    if first is not None:
        return first.model.shape
    shape = SAMPLE_SHAPE if settings.source == SAMPLE else FusionShape()
    return FusionShape(streams=settings.streams, widths=shape.widths, detail=shape.detail)


def load_first(path: Path | None) -> FusionCheckpoint | None:
    """Load the stage before.

    Raises:
        BadRequest: It is missing, damaged, or of another network.
    """
    if path is None:
        return None
    try:
        return load_fusion(path.expanduser())
    except ValueError as error:
        raise BadRequest(f"setting first: {error}") from None
