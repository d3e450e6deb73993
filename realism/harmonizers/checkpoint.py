"""Keep a trained harmonizer, as `realism.checkpoint` keeps a discriminator: weights, and JSON that says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import nn

from realism.checkpoint import damage_told, fill, read_about, read_weights, write_weights
from realism.harmonizers.table import HARMONIZERS, build_harmonizer
from realism.networks import read_shape

MAX_HARMONIZER_BYTES: Final = 1_000_000_000
"""Of weights; GP-GAN's bottleneck alone is 260 MB."""
PREFIX: Final = "harmonizer_"
"""Stands before the name in a checkpoint's field `architecture`."""
_LARGEST_SIDE: Final = 4096


@dataclass(frozen=True)
class HarmonizerCheckpoint:
    """A harmonizer with what is known of it."""

    name: str
    """In `HARMONIZERS`."""
    model: nn.Module
    side: int
    """Pixels, either way, that the network works at."""
    data_digest: str = ""
    """Of the samples that it learnt from, all of the split `train`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the training."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    """sha256 of the weights file, set by loading."""


def save_harmonizer(checkpoint: HarmonizerCheckpoint, path: Path) -> str:
    """Write `path` with the suffixes `.pt` and `.json`, each atomically, the JSON last; return the weights' sha256."""
    about = {
        "architecture": PREFIX + checkpoint.name,
        "architecture_version": HARMONIZERS[checkpoint.name].version,
        "shape": asdict(checkpoint.model.shape),  # type: ignore[call-overload]
        "side": checkpoint.side,
        "parameters": sum(tensor.numel() for tensor in checkpoint.model.parameters()),
        "metrics": dict(checkpoint.metrics),
        "settings": dict(checkpoint.settings),
        "data_digest": checkpoint.data_digest,
    }
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.model.state_dict().items()}
    return write_weights(path, about, tensors)


def load_harmonizer(path: Path, *, name: str | None = None) -> HarmonizerCheckpoint:
    """Load what `save_harmonizer` wrote.

    Args:
        path: Either of the two files, or their common name without suffix.
        name: The harmonizer that it must be; any where None.

    Raises:
        ValueError: One line: missing, truncated, damaged, of another network or version, or with code in it.
    """
    wanted = PREFIX + name if name is not None else read_about(path).get("architecture")
    known = str(wanted).removeprefix(PREFIX)
    if known not in HARMONIZERS or not str(wanted).startswith(PREFIX):
        raise ValueError(f"checkpoint {path} is of {str(wanted)[:60]!r}, which is no harmonizer of this program")
    version = HARMONIZERS[known].version
    about, tensors, digest = read_weights(
        path, architecture=PREFIX + known, version=version, max_bytes=MAX_HARMONIZER_BYTES
    )
    with damage_told(path):
        shape: Any = read_shape(HARMONIZERS[known].shape, about["shape"])
        side = int(about["side"])
        if not 16 <= side <= _LARGEST_SIDE:
            raise ValueError(f"side must be 16 to {_LARGEST_SIDE}, it is {side}")
        return HarmonizerCheckpoint(
            name=known,
            model=fill(lambda: build_harmonizer(known, shape), tensors),
            side=side,
            data_digest=str(about["data_digest"]),
            settings=dict(about["settings"]),
            metrics=dict(about["metrics"]),
            digest=digest,
        )
