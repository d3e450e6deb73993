"""The fusion network of a run: which checkpoint makes its hard triplets. A run keeps a copy, as of its gate's.

torch is imported in the functions that need it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flows.errors import BadRequest
from flows.settings import SAMPLE, BuildSettings
from flows.store.layout import Layout, write_bytes

if TYPE_CHECKING:
    from realism.fusion_checkpoint import FusionCheckpoint


@dataclass(frozen=True)
class Fuser:
    """The fusion network of a run as plan.json and manifest.json describe it.

    Attributes:
        weights_sha256: Of the weights file; stands in every hard sample as `model`.
        stage: Of its training: 1 learnt from easy people alone.
    """

    weights_sha256: str
    stage: int


@dataclass(frozen=True)
class FoundFuser:
    """A checkpoint that can be used: for the plan, the weights file, and the content of the JSON beside it."""

    fuser: Fuser
    weights: Path
    about: bytes


def wanted_fuser(settings: BuildSettings) -> Path | str | None:
    """Return the checkpoint that the settings ask for, its path or the name of a shipped one; None without fusion."""
    if "fusion" not in settings.stages:
        return None
    return settings.fusion_checkpoint or ("sample" if settings.source == SAMPLE else "photographs")


def find_fuser(wanted: Path | str) -> FoundFuser:
    """Load a checkpoint and describe it. Call it in a worker, which needs torch anyway.

    Raises:
        BadRequest: It is missing, damaged, or of another network.
    """
    from realism.fusion_checkpoint import load_fusion  # noqa: PLC0415
    from realism.weights import shipped_fusion  # noqa: PLC0415

    path = wanted if isinstance(wanted, Path) else shipped_fusion(wanted)
    weights = path.with_suffix(".pt") if path.suffix in {".pt", ".json"} else path.with_name(f"{path.name}.pt")
    try:
        checkpoint = load_fusion(weights)
        about = weights.with_suffix(".json").read_bytes()
    except (ValueError, OSError) as error:
        raise BadRequest(f"setting fusion_checkpoint: {error}") from None
    return FoundFuser(Fuser(checkpoint.digest, checkpoint.stage), weights, about)


def keep_fuser(layout: Layout, found: FoundFuser) -> None:
    """Put the checkpoint into the run.

    Raises:
        BadRequest: It has changed since it was looked at.
    """
    weights = found.weights.read_bytes()
    if hashlib.sha256(weights).hexdigest() != found.fuser.weights_sha256:
        raise BadRequest(f"{found.weights} has changed while the run was planned; run the same build again")
    write_bytes(layout.fuser, weights)
    write_bytes(layout.fuser.with_suffix(".json"), found.about)


def load_fuser(layout: Layout, fuser: Fuser) -> FusionCheckpoint:
    """Load the run's copy of its fusion network; once in a process while the file stays the same.

    Raises:
        BadRequest: It is missing, damaged, or not the one of the plan.
    """
    try:
        stamp = layout.fuser.stat().st_mtime_ns
    except OSError:
        stamp = 0
    return _load(layout.fuser, fuser.weights_sha256, stamp)


@lru_cache(maxsize=2)
def _load(path: Path, digest: str, _stamp: int) -> FusionCheckpoint:
    from realism.fusion_checkpoint import load_fusion  # noqa: PLC0415

    try:
        checkpoint = load_fusion(path)
    except ValueError as error:
        raise BadRequest(f"the run's {error}; or put the checkpoint there again") from None
    if checkpoint.digest != digest:
        raise BadRequest(f"{path} is not the checkpoint that the plan names; put that one there again")
    return checkpoint
