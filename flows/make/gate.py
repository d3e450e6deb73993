"""The realism gate of a run: which checkpoint judges, and what it says of samples.

A run keeps the checkpoint that judged it, so it can be extended, proved and made again wherever the original went.
torch is imported in the functions that need it: a build without a gate never loads it, and where workers score, neither
does the process that plans.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from flows.coco.pictures import Picture
from flows.errors import BadRequest
from flows.make.compose import Look
from flows.make.judge import Opinion
from flows.settings import SAMPLE, BuildSettings
from flows.store.layout import Layout, write_bytes

if TYPE_CHECKING:
    from realism import Checkpoint

Crop = NDArray[np.uint8]
"""uint8 (side, side, 4): what the network sees of a sample, sRGB and mask."""

NEAR: Final = 0.001
"""Scores of one sample by two kinds of device or processor differ by less: sums are taken in another order."""


@dataclass(frozen=True)
class Gate:
    """The gate of a run as plan.json and manifest.json describe it.

    Attributes:
        checkpoint: Digest of all that decides scores and `seen_by_gate`: weights, calibration, image ids.
        weights_sha256: Of the weights file.
        threshold: A sample is kept where score >= threshold.
        side: Pixels of a crop.
        audit: What is wrong with the checkpoint's audit, for people; empty where it passed.
    """

    checkpoint: str
    weights_sha256: str
    threshold: float
    side: int
    audit: str


@dataclass(frozen=True)
class Wanted:
    """What a build asks of its gate: a checkpoint's path or the name of a shipped one, a threshold, a device."""

    checkpoint: Path | str
    threshold: float | None
    device: str


@dataclass(frozen=True)
class Found:
    """A checkpoint that can be used.

    Attributes:
        gate: For the plan.
        weights: The weights file.
        about: Content of the JSON beside it.
        device: `cpu` or `cuda`: what was asked for, with `auto` resolved on this machine.
    """

    gate: Gate
    weights: Path
    about: bytes
    device: str


def wanted_of(settings: BuildSettings) -> Wanted | None:
    """Return what the settings ask of a gate; None where they ask for none."""
    if settings.gate == "off":
        return None
    default = "sample" if settings.source == SAMPLE else "photographs"
    return Wanted(settings.gate_checkpoint or default, settings.gate_threshold, settings.device)


def find_gate(wanted: Wanted) -> Found:
    """Load a checkpoint and describe it. Call it in a worker, which needs torch anyway.

    Raises:
        BadRequest: The checkpoint is missing or unusable, or the device is not there.
    """
    import torch  # noqa: PLC0415

    from realism import load_checkpoint, shipped  # noqa: PLC0415

    path = wanted.checkpoint if isinstance(wanted.checkpoint, Path) else shipped(wanted.checkpoint)
    try:
        weights = path.with_suffix(".pt") if path.suffix in {".pt", ".json"} else path.with_name(f"{path.name}.pt")
        checkpoint = load_checkpoint(weights)
        about = weights.with_suffix(".json").read_bytes()
    except (ValueError, OSError) as error:
        raise BadRequest(f"setting gate_checkpoint: {error}") from None
    cuda = torch.cuda.is_available()
    if wanted.device == "cuda" and not cuda:
        raise BadRequest("setting device: cuda was asked for, and torch finds none here; give --device cpu or auto")
    gate = Gate(
        checkpoint=_digest(checkpoint),
        weights_sha256=checkpoint.digest,
        threshold=checkpoint.threshold if wanted.threshold is None else wanted.threshold,
        side=checkpoint.model.shape.side,
        audit=_tell_audit(checkpoint.audit),
    )
    return Found(gate, weights, about, "cuda" if cuda and wanted.device != "cpu" else "cpu")


def keep_gate(layout: Layout, found: Found) -> None:
    """Put the checkpoint into the run.

    Raises:
        BadRequest: It has changed since it was looked at.
    """
    weights = found.weights.read_bytes()
    if hashlib.sha256(weights).hexdigest() != found.gate.weights_sha256:
        raise BadRequest(f"{found.weights} has changed while the run was planned; run the same build again")
    write_bytes(layout.gate, weights)
    write_bytes(layout.gate.with_suffix(".json"), found.about)


def load_gate(layout: Layout, gate: Gate) -> Checkpoint:
    """Load the run's copy of its checkpoint; once in a process while the file stays the same.

    Raises:
        BadRequest: It is missing, damaged, or not the one of the plan.
    """
    try:
        stamp = layout.gate.stat().st_mtime_ns
    except OSError:
        stamp = 0
    return _load(layout.gate, gate.checkpoint, stamp)


@lru_cache(maxsize=2)
def _load(path: Path, digest: str, _stamp: int) -> Checkpoint:
    from realism import load_checkpoint  # noqa: PLC0415

    try:
        checkpoint = load_checkpoint(path)
    except ValueError as error:
        raise BadRequest(f"the run's {error}; or put the checkpoint there again") from None
    if _digest(checkpoint) != digest:
        raise BadRequest(f"{path} is not the checkpoint that the plan names; put that one there again")
    return checkpoint


def look_through(gate: Gate) -> Look:
    """Return what cuts the network's crop out of a composite; None where its mask is empty or the whole picture."""
    from realism import prepare  # noqa: PLC0415

    def look(picture: Picture, alpha: NDArray[np.uint8]) -> Crop | None:
        try:
            return prepare(picture, alpha, side=gate.side)
        except ValueError:  # the mask leaves nothing to compare; sizes and kinds are right by making
            return None

    return look


def ask_gate(
    layout: Layout,
    gate: Gate,
    crops: NDArray[np.uint8],
    image_ids: Sequence[int],
    *,
    device: str,
    unseen: Sequence[bool] | None = None,
) -> list[Opinion]:
    """Score crops in batches, in their order.

    Args:
        layout: Of the run.
        gate: Of the run.
        crops: uint8 (N, side, side, 4); may lie on disk, a batch is read at a time.
        image_ids: Of the targets, N.
        device: `cpu` or `cuda`.
        unseen: Where true, the crop only keeps a place, and the score is None.

    Raises:
        BadRequest: The run's checkpoint is damaged, or the accelerator's memory is full.
    """
    import torch  # noqa: PLC0415

    from realism import score_crops  # noqa: PLC0415

    checkpoint = load_gate(layout, gate)
    if device == "cuda":  # TensorFloat-32 and tuning would move scores from run to run by more than rounding hides
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        scores = score_crops(checkpoint, crops, device=device)
    except torch.cuda.OutOfMemoryError:  # a smaller batch would give other sums, so other bytes
        raise BadRequest("the accelerator's memory is full; free some of it, or give --device cpu") from None
    blank = [False] * len(crops) if unseen is None else unseen
    return [
        Opinion(float(score) if np.isfinite(score) and not hidden else None, gate.threshold, i in checkpoint.image_ids)
        for score, i, hidden in zip(scores, image_ids, blank, strict=True)
    ]


def ask_again(
    layout: Layout, gate: Gate, crop: Crop | None, *, place: int, image_id: int, device: str, before: float | None
) -> Opinion:
    """Score one sample as it was scored within its shard: at the same place of a batch, the other places empty.

    Args:
        layout: Of the run.
        gate: Of the run.
        crop: Of the sample.
        place: Number of the sample in its shard, in the order of the plan.
        image_id: Of the target.
        device: Where it was scored, `cpu` or `cuda`. Where that is not at hand the CPU scores, and `before` is
            believed if it is as near as another kind of device comes.
        before: The score that it got.
    """
    import torch  # noqa: PLC0415

    from realism.score import BATCH  # noqa: PLC0415

    crops = np.zeros((place % BATCH + 1, gate.side, gate.side, 4), np.uint8)
    if crop is not None:
        crops[-1] = crop
    here = device if device == "cpu" or torch.cuda.is_available() else "cpu"
    unseen = [crop is None] * len(crops)
    opinion = ask_gate(layout, gate, crops, [image_id] * len(crops), device=here, unseen=unseen)[-1]
    return replace(opinion, score=before) if here != device and is_near(opinion.score, before) else opinion


def is_near(score: float | None, other: float | None) -> bool:
    """Say whether two scores of one sample agree, whatever the device and processor of each."""
    return score == other or (score is not None and other is not None and abs(score - other) < NEAR)


def _digest(checkpoint: Checkpoint) -> str:
    """Name a checkpoint by what decides scores and `seen_by_gate`; an audit made anew leaves it the same."""
    numbers = (checkpoint.model.shape.side, checkpoint.calibration.temperature, checkpoint.calibration.offset)
    parts = [checkpoint.digest, *numbers, sorted(checkpoint.image_ids)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _tell_audit(audit: Mapping[str, Any]) -> str:
    """Say what is wrong with an audit, in one line; nothing where it passed."""
    from realism.audit import find_failures  # noqa: PLC0415

    if audit.get("passed") is True:
        return ""
    if not audit:
        return "was never audited"
    try:
        failure = next(iter(find_failures(audit)), "")
    except (KeyError, TypeError, ValueError, AttributeError):  # no table that this program made
        failure = ""
    return "did not pass its audit" + (f" ({' '.join(failure.split())[:100]})" if failure else "")
