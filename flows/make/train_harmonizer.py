"""Train a harmonizer on the samples of a run, in a folder where a killed training is gone on from.

The order of the samples is a function of seed and step, so is how they are varied: what a batch holds does not depend on where
a training was stopped, nor on how many processes read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flows.errors import BadRequest
from flows.harmonizer_settings import TrainHarmonizerSettings
from flows.make.realism import choose_device
from flows.make.vary import cut_windows, jitter, mirror
from flows.store.layout import TrainingLayout, open_run, write_bytes
from flows.store.loader import MEMBERS, Loader, Stage, load_samples
from flows.store.lock import holding
from flows.store.read import Damaged
from realism.harmonizers.apply import answer_of
from realism.harmonizers.batch import Pixels, Triplets
from realism.harmonizers.checkpoint import HarmonizerCheckpoint, save_harmonizer
from realism.harmonizers.table import known_harmonizer
from realism.harmonizers.teach import HarmonizerSettings, train_harmonizer
from realism.threads import threads
from realism.train import NotANumberLossError, Progress

HELD_OUT: Final = 48
"""Samples of `val` that a training is measured on after each stretch, at most, drawn from all: neighbours show one photograph.
They take part in nothing else."""
SHOWN: Final = 8
"""Of these, how many are shown in the report."""
SAVED: Final = 500
"""Steps between two saved states, at most; a training of 200 and more steps saves twenty times or more."""
PICTURES: Final = ("composite", "mask", "real")
REMEMBERED: Final = 2**29
"""Bytes that the decoded samples of a training may take up; with more of them, each is decoded anew in each epoch."""
_CHANNELS: Final = ((3,), (), (3,))  # of PICTURES


@dataclass(frozen=True)
class Course:
    """A training that can begin, or go on.

    Attributes:
        layout: Its files.
        settings: As the user gave them.
        numbers: All numbers of it, with the preset's filled in.
        stage: Whose samples it learns from.
        samples: How many there are.
        held_out: Of `val`, at the network's size; None where the run has none.
        device: `cpu` or `cuda`.
    """

    layout: TrainingLayout
    settings: TrainHarmonizerSettings
    numbers: HarmonizerSettings
    stage: Stage
    samples: int
    held_out: Triplets | None
    device: str

    @property
    def summary(self) -> str:
        """Say in a line what is learnt from, and how."""
        numbers, held = self.numbers, 0 if self.held_out is None else len(self.held_out)
        return (
            f"{numbers.name}: {self.samples:,} {self.stage} samples, {held} held out; {numbers.steps:,} steps of "
            f"{numbers.batch} at {numbers.side} px on {self.device}; into {self.layout.folder}"
        )


def layout_of(settings: TrainHarmonizerSettings) -> TrainingLayout:
    """Return where a training stands: by default in a folder that network, preset and run give their names."""
    run = settings.samples.expanduser().resolve().name
    name = settings.name or f"{settings.network}-{settings.preset}-{run}"
    return TrainingLayout(settings.output.expanduser().resolve() / name)


@contextmanager
def only_course(settings: TrainHarmonizerSettings) -> Iterator[None]:
    """Hold the training's lock.

    Raises:
        BadRequest: Another process trains here, or there is no such run.
    """
    open_run(settings.samples)
    layout = layout_of(settings)
    with holding(layout.lock, busy=f"another training is at work in {layout.folder}; wait, or choose another --name"):
        for path in layout.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        yield


def open_course(settings: TrainHarmonizerSettings) -> Course:
    """Find the samples, and fill in what the preset says.

    Raises:
        BadRequest: There is no such run, device or stage, the run has too few samples, or the side does not fit.
    """
    device, known = choose_device(settings.device), known_harmonizer(settings.network)
    preset = known.presets[settings.preset]
    stage, loader = _open_stage(settings, blender=known.blender)
    batch = min(settings.batch or preset.batch, loader.samples)
    if batch < 2:
        raise BadRequest(f"{settings.samples} has {loader.samples} samples to learn from; at least 2 are needed")
    steps = settings.steps or preset.steps
    numbers = HarmonizerSettings(
        settings.network,
        preset.shape,
        side=settings.side or preset.side,
        batch=batch,
        steps=steps,
        seed=settings.seed,
        learning_rate=settings.learning_rate or preset.learning_rate,
        critic_rate=preset.critic_rate,
        rounds=preset.rounds,
        weight_decay=preset.weight_decay,
        save_every=min(SAVED, max(10, steps // 20)),
        half_on_cpu=settings.half,
        origin=_origin(loader, stage=stage, varied=[settings.flip, settings.window, settings.jitter]),
    )
    _try(numbers)
    held_out = _held_out(settings.samples, stage=stage, side=numbers.side)
    return Course(layout_of(settings), settings, numbers, stage, loader.samples, held_out, device)


def train_course(course: Course, *, tell: Callable[[Progress], None] = lambda _progress: None) -> HarmonizerCheckpoint:
    """Train, or go on where a killed training was; write the checkpoint and what the report shows.

    Raises:
        BadRequest: The saved state is damaged or of another training, the loss stopped being finite, or a shard of the
            run is damaged.
    """
    settings, numbers, layout = course.settings, course.numbers, course.layout
    batches = Batches(course, workers=settings.workers)
    try:
        with threads(settings.threads):
            model, history = train_harmonizer(
                batches.draw,
                numbers,
                state=layout.state,
                device=course.device,
                validate=_validation(course),
                report=tell,
            )
            shown = _show(model, course)
    except NotANumberLossError as error:
        raise BadRequest(f"{error}, under another --name") from None
    except (ValueError, Damaged) as error:
        raise BadRequest(f"{error}; or choose another --name") from None
    finally:
        batches.close()
    checkpoint = HarmonizerCheckpoint(
        name=numbers.name,
        model=model.cpu(),
        side=numbers.side,
        data_digest=numbers.origin,
        settings={**numbers.identity(), "preset": settings.preset, "stage": course.stage},
        metrics={"history": history, "samples": course.samples, **_unchanged(course)},
    )
    digest = save_harmonizer(checkpoint, layout.checkpoint)
    for name, picture in shown.items():
        write_bytes(layout.report.parent / name, picture)
    return replace(checkpoint, digest=digest)


class Batches:
    """The batches of a training by their number: the same batch for the same number, whoever asks when.

    A sample is read and decoded once where all of them fit into `REMEMBERED` bytes, else in each epoch anew.
    """

    def __init__(self, course: Course, *, workers: int) -> None:
        """Open the samples; nothing is read yet."""
        self._settings, self._numbers = settings, numbers = course.settings, course.numbers
        read = math.ceil(numbers.side / settings.window)
        self._loader = load_samples(
            settings.samples,
            stage=course.stage,
            pictures=PICTURES,
            size=(read, read),
            batch_size=numbers.batch,
            drop_last=True,
            seed=numbers.seed % 2**32,
            workers=workers,
            rank=0,
            world_size=1,
        )
        self._epoch_length = self._loader.samples // numbers.batch
        self._order = lru_cache(maxsize=1)(self._loader.order)  # an epoch's batches are asked for one after the other
        self._next = -1
        self._epoch: Iterator[Any] = iter(())
        self._memory = Memory(self._loader.samples, side=read) if _fits(self._loader.samples, read) else None

    def draw(self, number: int) -> Triplets:
        """Return a batch; where it must be read, and they are asked for in order, the next ones are read meanwhile."""
        epoch, place = divmod(number, self._epoch_length)
        first = place * self._numbers.batch
        samples = self._order(epoch)[first : first + self._numbers.batch]
        batch = None if self._memory is None else self._memory.recall(samples)
        if batch is None:
            batch = self._read(number, epoch=epoch, consumed=first)
            if self._memory is not None:
                self._memory.keep(samples, batch)
        return self._varied(batch, number)

    def _read(self, number: int, *, epoch: int, consumed: int) -> Triplets:
        if number != self._next or not consumed:
            self._loader.load_state_dict({**self._loader.state_dict(), "epoch": epoch, "consumed": consumed})
            self._epoch = iter(self._loader)
        self._next = number + 1
        batch = next(self._epoch)
        return Triplets(*(batch[name] for name in PICTURES))

    def _varied(self, batch: Triplets, number: int) -> Triplets:
        settings, seed = self._settings, self._numbers.seed
        if settings.window < 1:
            batch = cut_windows(batch, side=self._numbers.side, smallest=settings.window, seed=[seed, number, 1])
        if settings.jitter:
            batch = jitter(batch, amount=settings.jitter, seed=[seed, number, 2])
        return mirror(batch, seed=[seed, number]) if settings.flip else batch

    def close(self) -> None:
        """End the processes that read."""
        self._epoch = iter(())


class Memory:
    """Triplets by the number of their sample, as they were decoded."""

    def __init__(self, samples: int, *, side: int) -> None:
        """Make room; a page of it is taken only when a sample comes to lie there."""
        self._known = np.zeros(samples, bool)
        self._layers = [np.empty((samples, side, side, *channels), np.uint8) for channels in _CHANNELS]

    def keep(self, samples: NDArray[np.int64], batch: Triplets) -> None:
        """Take a batch in, whose triplets are of these samples."""
        for kept, layer in zip(self._layers, vars(batch).values(), strict=True):
            kept[samples] = layer
        self._known[samples] = True

    def recall(self, samples: NDArray[np.int64]) -> Triplets | None:
        """Return a batch of these samples, a copy; None where one of them was never kept."""
        return Triplets(*(kept[samples] for kept in self._layers)) if self._known[samples].all() else None


def _fits(samples: int, side: int) -> bool:
    return samples * side**2 * sum(math.prod(channels) for channels in _CHANNELS) <= REMEMBERED


def _open_stage(settings: TrainHarmonizerSettings, *, blender: bool) -> tuple[Stage, Loader]:
    """Return the stage to learn from, and a loader of its samples."""
    wanted = (
        [settings.stage]
        if settings.stage != "auto"
        else ["copypaste", "harmonization"]
        if blender
        else ["harmonization"]
    )
    known = [cast("Stage", stage) for stage in wanted if stage in MEMBERS]
    refusal = BadRequest(f"this version makes no {wanted[0]} samples; leave --stage out")
    for stage in known:
        try:
            return stage, load_samples(settings.samples, stage=stage, pictures=PICTURES)
        except BadRequest as request:
            refusal = request
        except Damaged as damage:
            raise BadRequest(f"{settings.samples}: {damage}; run hcoco repair {settings.samples}") from None
    raise refusal


def _origin(loader: Loader, *, stage: str, varied: Sequence[float]) -> str:
    """Return a digest of what is learnt from."""
    what = [stage, *varied, loader.state_dict()["samples"]]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def _try(numbers: HarmonizerSettings) -> None:
    """Let the network answer once, without computing: a side that it cannot take is told before anything is read."""
    known = known_harmonizer(numbers.name)
    with torch.device("meta"):
        try:
            model = known.build(numbers.shape).eval()
            answer = model(torch.zeros(1, 3, numbers.side, numbers.side), torch.zeros(1, 1, numbers.side, numbers.side))
        except (RuntimeError, ValueError):
            answer = None
    if answer is None or answer.shape[-2:] != (numbers.side, numbers.side):
        wanted = sorted({preset.side for preset in known.presets.values()})
        raise BadRequest(
            f"setting side: {numbers.name} cannot work at {numbers.side} px; its presets take "
            f"{' and '.join(map(str, wanted))}, and most networks any multiple of 32"
        )


def _held_out(run: Path, *, stage: Stage, side: int) -> Triplets | None:
    try:
        loader = load_samples(
            run, split="val", stage=stage, pictures=PICTURES, size=(side, side), batch_size=HELD_OUT, seed=0
        )
        batch = next(iter(loader))
    except BadRequest:  # nothing to measure on; the training is none the worse
        return None
    except Damaged as damage:
        raise BadRequest(f"{run}: {damage}; run hcoco repair {run}") from None
    return Triplets(*(batch[name] for name in PICTURES))


def _validation(course: Course) -> Callable[[nn.Module], Mapping[str, float]] | None:
    """Return what measures a network on the samples held out: the mean foreground MSE at the network's size."""
    held = course.held_out
    if held is None:
        return None

    def validate(model: nn.Module) -> Mapping[str, float]:
        return {"val_fmse": foreground_mse(_answers(model, held, device=course.device), held)}

    return validate


def foreground_mse(answer: Pixels, batch: Triplets) -> float:
    """Return the mean over samples of the squared difference where the mask is over 127, 8-bit scale.

    Samples whose mask is empty at this size are left out.
    """
    inside = batch.mask > 127
    squared = np.square(answer.astype(np.float32) - batch.real).mean(axis=-1)
    errors = [float(each[where].mean()) for each, where in zip(squared, inside, strict=True) if where.any()]
    return float(np.mean(errors)) if errors else 0.0


def _answers(model: nn.Module, batch: Triplets, *, device: str) -> Pixels:
    """Return answers at the network's size, the composite's pixels outside the mask: uint8 (N, S, S, 3)."""
    answers = np.stack(
        [
            answer_of(model, picture, mask, device=device)
            for picture, mask in zip(batch.composite, batch.mask, strict=True)
        ]
    )
    share = batch.mask[..., None].astype(np.float32) / 255
    mixed = batch.composite + share * (answers - batch.composite)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def _unchanged(course: Course) -> dict[str, Any]:
    """Return what the samples held out measure with no change."""
    held = course.held_out
    return {} if held is None else {"val_fmse_none": foreground_mse(held.composite, held), "held_out": len(held)}


def _show(model: nn.Module, course: Course) -> dict[str, bytes]:
    """Return sheets of samples, PNG by file name: each a row of composite, mask, answer and photograph."""
    sheets: dict[str, bytes] = {}
    learnt = Batches(course, workers=0).draw(0)
    for split, batch in (("train", learnt), ("val", course.held_out)):
        if batch is None:
            continue
        some = Triplets(*(layer[:SHOWN] for layer in vars(batch).values()))
        answers = _answers(model, some, device=course.device)
        masks = np.repeat(some.mask[..., None], 3, axis=-1)
        rows = [np.hstack(row) for row in zip(some.composite, masks, answers, some.real, strict=True)]
        sheet = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
        sheets[f"{split}.png"] = cv2.imencode(".png", sheet)[1].tobytes()
    return sheets


def describe_training(checkpoint: HarmonizerCheckpoint) -> str:
    """Say in a line what a training came to."""
    metrics = checkpoint.metrics
    if "val_fmse_none" not in metrics:
        return f"{checkpoint.name}: nothing was held out to measure it on; the run has no samples in `val`"
    now, none = metrics["history"][-1]["val_fmse"], metrics["val_fmse_none"]
    return (
        f"{checkpoint.name}: foreground MSE {now:.0f} on {metrics['held_out']} held-out samples at {checkpoint.side} px, "
        f"{none:.0f} with no change"
    )
