"""Train a network: one visible loop, `fit`, that can be killed at any moment and goes on as if nothing had been.

What is learnt from comes from outside as a function of the step, so the state of a training is the step, the weights,
their running average, the optimizer's moments and torch's generator: saved together, atomically. `train` is the loop
for the discriminator; `realism.train_fusion` is the one for the fusion network.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from realism.discriminator import Discriminator, Shape
from realism.tensors import is_bulky

STATE_VERSION: Final = 1


class LoopSettings(Protocol):
    """What the loop has to know of a training's settings; see `TrainSettings`."""

    @property
    def steps(self) -> int:
        """Return how many batches are learnt from."""

    @property
    def seed(self) -> int:
        """Return the seed of the first weights and of dropout."""

    @property
    def learning_rate(self) -> float:
        """Return the highest learning rate."""

    @property
    def weight_decay(self) -> float:
        """Return AdamW's decay; 0 makes it Adam."""

    @property
    def warmup(self) -> int:
        """Return how many steps the learning rate rises for."""

    @property
    def average(self) -> float:
        """Return the decay of the running average of the weights."""

    @property
    def save_every(self) -> int:
        """Return how many steps lie between two saved states."""


class Divisible(Protocol):
    """A batch, as far as the loop has to know it."""

    def __len__(self) -> int:
        """Return how many examples it holds."""

    def split(self, parts: int) -> list[Self]:
        """Return it cut into `parts`."""


Network = TypeVar("Network", bound=nn.Module)
Learnt = TypeVar("Learnt", bound=Divisible)


@dataclass(frozen=True)
class Batch:
    """What one step learns from: `groups` of `ladder` crops of one subject each, in order of severity.

    In a group the first crop is natural, the others are edits; `order` names pairs whose severity is known.
    """

    crops: NDArray[np.uint8]
    """(groups * ladder, side, side, 4), sRGB and mask."""
    natural: NDArray[np.float32]
    """(groups * ladder,): 1 natural, 0 edited."""
    weights: NDArray[np.float32]
    """(groups * ladder,): of the cross-entropy; 0 for edits too small to be called unnatural."""
    changes: NDArray[np.float32]
    """(groups * ladder, 6): what the edit did to the subject, about -1..1 each; 0 for naturals."""
    order: NDArray[np.int64]
    """(P, 2): rows (milder, more severe)."""

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.crops)

    def split(self, parts: int) -> list[Batch]:
        """Return it cut into `parts`, as even as can be; pairs that a cut would part are left out."""
        return split_batch(self, parts)


@dataclass(frozen=True)
class TrainSettings:
    """Numbers of a training; stand in the checkpoint."""

    steps: int = 2000
    seed: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 50
    average: float = 0.995
    """Decay of the running average of the weights, which is what is kept."""
    rank: float = 2.0
    """Weight of the ranking loss."""
    change: float = 4.0
    """Weight of guessing the edit."""
    save_every: int = 200
    shape: Shape = field(default_factory=Shape)


@dataclass
class Progress:
    """How a training goes, told after every saved stretch."""

    step: int
    loss: float
    seconds: float
    validation: Mapping[str, float]
    history: list[dict[str, float]]


class NotANumberLossError(ArithmeticError):
    """The loss was not finite: the state before the last saved stretch is kept."""


def train(
    draw: Callable[[int], Batch],
    settings: TrainSettings,
    *,
    state: Path,
    device: str = "cpu",
    validate: Callable[[Discriminator], Mapping[str, float]] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> tuple[Discriminator, list[dict[str, float]]]:
    """Train a discriminator with `fit`, whose arguments and errors these are."""
    identity = asdict(settings)
    identity["shape"]["branches"] = list(settings.shape.branches)
    return fit(
        lambda: Discriminator(settings.shape),
        draw,
        lambda model, batch: loss_of(model, batch, settings, device=device),
        settings,
        identity=identity,
        state=state,
        device=device,
        validate=validate,
        report=report,
    )


def fit(
    build: Callable[[], Network],
    draw: Callable[[int], Learnt],
    loss: Callable[[Network, Learnt], Tensor],
    settings: LoopSettings,
    *,
    identity: Mapping[str, Any],
    state: Path,
    device: str = "cpu",
    half_on_cpu: bool = False,
    validate: Callable[[Network], Mapping[str, float]] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> tuple[Network, list[dict[str, float]]]:
    """Train, or go on from `state` where it is there; return the averaged network and its history.

    Args:
        build: Makes the network; called once, after torch's generator was seeded.
        draw: Step to batch, the same batch for the same step whenever it is asked.
        loss: Of a network on a batch, a scalar.
        settings: Of the loop.
        identity: All settings of the training, as JSON would hold them. A state that was begun with others is refused.
        state: File that holds the training; replaced atomically.
        device: `cpu` or `cuda`; mixed precision on the latter. Where its memory is too small the batch is halved.
        half_on_cpu: Use mixed precision (bfloat16) on the CPU too.
        validate: Measures the averaged network after each stretch, for the record only.
        report: Told of each stretch.

    Raises:
        ValueError: `state` is damaged or belongs to other settings.
        NotANumberLossError: The loss stopped being finite.
    """
    running = _begin(build, settings, device=device, half_on_cpu=half_on_cpu)
    if state.exists():
        _load_state(state, identity, running)
    started, losses = time.perf_counter(), []
    for step in range(running.step, settings.steps):
        for group in running.optimizer.param_groups:
            group["lr"] = rate_at(step, settings)
        value = _step(running, draw(step), loss)
        check_loss(value, step=step, state=state, settings=settings)
        losses.append(value)
        follow(running.average, running.model, decay=decay_at(step, settings))
        running.step = step + 1
        if running.step % settings.save_every == 0 or running.step == settings.steps:
            measured = dict(validate(running.average)) if validate else {}
            mean = float(np.mean(losses))
            running.history.append({"step": running.step, "loss": mean, **measured})
            _save_state(state, identity, running)
            if report:
                seconds = time.perf_counter() - started
                report(Progress(running.step, mean, seconds, measured, running.history))
            losses = []
    return running.average.eval(), running.history


@dataclass
class _Running(Generic[Network]):
    """All that changes in a training, and in what precision it is computed."""

    model: Network
    average: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    mixed: torch.autocast
    step: int = 0
    parts: int = 1
    history: list[dict[str, float]] = field(default_factory=list)


def _begin(
    build: Callable[[], Network], settings: LoopSettings, *, device: str, half_on_cpu: bool
) -> _Running[Network]:
    torch.manual_seed(settings.seed)
    model = build().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    mixed, scaled = mixed_precision(device, enabled=device == "cuda" or half_on_cpu)
    scaler = torch.amp.GradScaler(enabled=scaled)
    return _Running(model, copy.deepcopy(model).eval(), optimizer, scaler, mixed)


def mixed_precision(device: str, *, enabled: bool) -> tuple[torch.autocast, bool]:
    """Return a device's mixed precision, and whether its gradients must be scaled.

    It is bfloat16, whose range no loss leaves; float16, and scaled, on cards that lack it.
    """
    narrow = device == "cuda" and not torch.cuda.is_bf16_supported()
    half = torch.float16 if narrow else torch.bfloat16
    return torch.autocast(device, dtype=half, enabled=enabled), enabled and narrow


def rate_at(step: int, settings: LoopSettings) -> float:
    """Return the learning rate: up over the warm-up, then down by a half cosine to a fiftieth."""
    warm = min(1.0, (step + 1) / max(settings.warmup, 1))
    left = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return settings.learning_rate * warm * (0.02 + 0.98 * left)


def loss_of(model: Discriminator, batch: Batch, settings: TrainSettings, *, device: str) -> Tensor:
    """Return the loss of a batch: natural or not, the order of severity, and what the edit was; a scalar."""
    logits, changes = model(torch.from_numpy(batch.crops).to(device))  # (N,), (N, 6)
    natural, weights, wanted = (
        torch.from_numpy(values).to(device) for values in (batch.natural, batch.weights, batch.changes)
    )
    entropy = functional.binary_cross_entropy_with_logits(logits, natural, weights, reduction="sum")
    loss = entropy / weights.sum().clamp(min=1)
    if len(batch.order):
        milder, severer = torch.from_numpy(batch.order).to(device).T
        loss = loss + settings.rank * functional.softplus(logits[severer] - logits[milder]).mean()
    return loss + settings.change * functional.smooth_l1_loss(changes, wanted, beta=0.3)


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch into `parts`, as even as can be; pairs that a cut would part are left out."""
    cuts = np.linspace(0, len(batch.crops), parts + 1).astype(int).tolist()
    pieces = []
    for low, high in pairwise(cuts):
        whole = ((batch.order >= low) & (batch.order < high)).all(axis=1)
        pieces.append(
            Batch(
                crops=batch.crops[low:high],
                natural=batch.natural[low:high],
                weights=batch.weights[low:high],
                changes=batch.changes[low:high],
                order=batch.order[whole] - low,
            )
        )
    return pieces


def _step(running: _Running[Network], batch: Learnt, loss: Callable[[Network, Learnt], Tensor]) -> float:
    """Make one step and return the loss."""
    value, running.parts = descend(
        running.model, running.optimizer, running.scaler, batch, loss, mixed=running.mixed, parts=running.parts
    )
    return value


def descend(
    model: Network,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: Learnt,
    loss: Callable[[Network, Learnt], Tensor],
    *,
    mixed: torch.autocast,
    parts: int,
    clip_norm: float = 5.0,
) -> tuple[float, int]:
    """Move a network down its loss, once, unless the loss is not finite.

    Args:
        model: The network; set to training.
        optimizer: Of its parameters.
        scaler: Of its gradients.
        batch: What is learnt from.
        loss: Of the network on a batch, a scalar.
        mixed: In what precision it is computed.
        parts: How many pieces of the batch go through the network one after the other.
        clip_norm: Longer gradients are shortened to this.

    Returns:
        (loss, parts): where memory was too small, `parts` is larger than it was.
    """
    model.train()
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            total = 0.0
            for part in batch.split(parts):
                with mixed:
                    value = loss(model, part) / parts
                scaler.scale(value).backward()  # type: ignore[no-untyped-call]
                total += float(value.detach())
            break
        except torch.OutOfMemoryError:
            if 4 * parts > len(batch):  # normalization needs more than one example
                raise
            parts *= 2
            torch.cuda.empty_cache()
    if math.isfinite(total):
        scaler.unscale_(optimizer)
        if clip_norm < math.inf:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        scaler.step(optimizer)
        scaler.update()
    return total, parts


def decay_at(step: int, settings: LoopSettings) -> float:
    """Return the decay of the running average: less at first, when the weights still come from the first ones."""
    return min(settings.average, (1 + step) / (10 + step))


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, *, decay: float) -> None:
    """Move the averaged weights a little towards the present ones; counters are copied."""
    for slow, fast in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - decay)
        else:
            slow.copy_(fast)


def _save_state(state: Path, identity: Mapping[str, Any], running: _Running[Network]) -> None:
    values = {
        "step": running.step,
        "parts": running.parts,
        "history": running.history,
        "model": running.model.state_dict(),
        "average": running.average.state_dict(),
        "optimizer": running.optimizer.state_dict(),
        "scaler": running.scaler.state_dict(),
    }
    write_state(state, identity, values)


_STATE_PICKLE_BYTES: Final = 2_000_000
"""Of a state's pickle, which holds the history of the training: it is read at 1 MB/s."""
_STATE_ERRORS: Final = (
    *(RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError, AssertionError, OverflowError),
    *(EOFError, OSError, MemoryError, pickle.UnpicklingError, zipfile.BadZipFile, NotImplementedError, struct.error),
)
"""What `torch.load`, and putting what it found into a network, are known to raise on damaged files."""


def _load_state(state: Path, identity: Mapping[str, Any], running: _Running[Network]) -> None:
    def restore(values: Mapping[str, Any]) -> None:
        running.model.load_state_dict(values["model"])
        running.average.load_state_dict(values["average"])
        running.optimizer.load_state_dict(values["optimizer"])
        running.scaler.load_state_dict(values["scaler"])
        running.step, running.parts, running.history = values["step"], values["parts"], values["history"]

    restore_state(state, identity, restore)


def _load_plain(state: Path) -> Any:
    """Load a state of torch's zip format, of which nothing is packed: it takes the memory that the file has bytes."""
    with state.open("rb") as file:
        if is_bulky(file, max_bytes=state.stat().st_size, pickle_bytes=_STATE_PICKLE_BYTES):
            raise ValueError("packed, or with a history without end")
        return torch.load(file, map_location="cpu", weights_only=True)


def write_state(state: Path, identity: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Keep a training: all that changes in it, whose it is, and where torch's generators stand."""
    whole = {
        "version": STATE_VERSION,
        "settings": dict(identity),
        **values,
        "generator": torch.get_rng_state(),
        "cuda_generators": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    replace_atomically(state, lambda path: torch.save(whole, path))


def restore_state(state: Path, identity: Mapping[str, Any], restore: Callable[[Mapping[str, Any]], None]) -> None:
    """Give what `write_state` kept to `restore`, and set torch's generators as they were.

    Raises:
        ValueError: It is damaged or belongs to other settings.
    """
    try:
        values = _load_plain(state)
        begun, version = values["settings"], values["version"]
    except _STATE_ERRORS as error:
        raise ValueError(f"{state} is no training that can go on ({type(error).__name__}); remove it") from None
    if version != STATE_VERSION or begun != identity:
        raise ValueError(f"{state} was begun with other settings or by another version; remove it or name another file")
    try:
        restore(values)
        torch.set_rng_state(values["generator"])
        if torch.cuda.is_available() and values["cuda_generators"]:
            torch.cuda.set_rng_state_all(values["cuda_generators"])
    except _STATE_ERRORS as error:
        raise ValueError(f"{state} is no training that can go on ({type(error).__name__}); remove it") from None


def check_loss(value: float, *, step: int, state: Path, settings: LoopSettings) -> None:
    """Raise NotANumberLossError where a loss is not finite."""
    if not math.isfinite(value):
        raise NotANumberLossError(
            f"the loss is {value} at step {step}; what was saved last stays in {state.name}; "
            f"train with a smaller learning rate than {settings.learning_rate:g}"
        )


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, flush to the disk, rename: a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
