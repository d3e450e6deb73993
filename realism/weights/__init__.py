"""The checkpoints that come with the package: `photographs`, and `sample` for the drawn sample."""

from __future__ import annotations

from pathlib import Path
from typing import Final

NAMES: Final = ("photographs", "sample")


def shipped(name: str) -> Path:
    """Return the weights file of a checkpoint that comes with the package, for `load_checkpoint`.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    return Path(__file__).with_name(f"{name}.pt")


def shipped_fusion(name: str) -> Path:
    """Return the weights file of a fusion network that comes with the package, for `load_fusion`.

    Raises:
        ValueError: There is none of this name.
    """
    return shipped(name).with_name(f"fusion-{name}.pt")
