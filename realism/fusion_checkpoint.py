"""Keep a trained fusion network, as `realism.checkpoint` keeps a discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from realism.checkpoint import damage_told, fill, read_weights, write_weights
from realism.fusion import FUSION, FUSION_VERSION, FusionNet, FusionShape

MAX_FUSION_BYTES: Final = 64_000_000
_LARGEST_WIDTH: Final = 1024


@dataclass(frozen=True)
class FusionCheckpoint:
    """A fusion network with what is known of it."""

    model: FusionNet
    stage: int = 1
    """1 learnt from easy people, 2 and more from hard ones too."""
    image_ids: frozenset[int] = frozenset()
    """Photographs whose people it learnt from; the scenes are of the `train` split as well."""
    data_digest: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the training."""
    parent: str = ""
    """Digest of the network that made the hard people, and whose weights the training began with; empty at stage 1."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    """sha256 of the weights file, set by loading."""


def save_fusion(checkpoint: FusionCheckpoint, path: Path) -> str:
    """Write `path` with the suffixes `.pt` and `.json`, each atomically, the JSON last; return the weights' sha256."""
    about = {
        "architecture": FUSION,
        "architecture_version": FUSION_VERSION,
        "shape": asdict(checkpoint.model.shape),
        "parameters": sum(tensor.numel() for tensor in checkpoint.model.parameters()),
        "stage": checkpoint.stage,
        "parent": checkpoint.parent,
        "metrics": dict(checkpoint.metrics),
        "settings": dict(checkpoint.settings),
        "data_digest": checkpoint.data_digest,
        "image_ids": sorted(checkpoint.image_ids),
    }
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.model.state_dict().items()}
    return write_weights(path, about, tensors)


def load_fusion(path: Path) -> FusionCheckpoint:
    """Load what `save_fusion` wrote.

    Args:
        path: Either of the two files, or their common name without suffix.

    Raises:
        ValueError: One line: missing, truncated, damaged, of another architecture or version, or with code in it.
    """
    about, tensors, digest = read_weights(path, architecture=FUSION, version=FUSION_VERSION, max_bytes=MAX_FUSION_BYTES)
    with damage_told(path):
        shape = _shape(about["shape"])
        return FusionCheckpoint(
            model=fill(lambda: FusionNet(shape), tensors),
            stage=int(about["stage"]),
            image_ids=frozenset(int(value) for value in about["image_ids"]),
            data_digest=str(about["data_digest"]),
            settings=dict(about["settings"]),
            parent=str(about["parent"]),
            metrics=dict(about["metrics"]),
            digest=digest,
        )


def _shape(values: Mapping[str, Any]) -> FusionShape:
    shape = FusionShape(**{**values, "widths": tuple(int(width) for width in values["widths"])})
    if max(*shape.widths, int(shape.detail)) > _LARGEST_WIDTH:
        raise ValueError(f"widths are {shape.widths}, more than {_LARGEST_WIDTH}")
    return shape
