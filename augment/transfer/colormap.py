"""What a transfer family hands back: a map from colours to colours, and what it noticed while estimating it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from augment.color import Floats, Pixels

Note = float | int | bool | str | None


@dataclass(frozen=True)
class ColorMap:
    """A colour map estimated from two sets of pixels."""

    apply: Callable[[Pixels], Floats]
    """Map uint8 sRGB (K, 3) to float32 (K, 3) on the 0..255 scale, neither rounded nor clipped."""
    notes: Mapping[str, Note] = field(default_factory=dict)
    """Scalars worth keeping with the sample."""


def check_pixels(name: str, pixels: Pixels) -> None:
    """Raise unless `pixels` is a non-empty uint8 (N, 3); `name` is the argument the message speaks of."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        raise TypeError(f"{name} must be a uint8 array, got {getattr(pixels, 'dtype', type(pixels).__name__)}")
    if pixels.ndim != 2 or pixels.shape[1] != 3 or not len(pixels):
        raise ValueError(f"{name} must have shape (N, 3) with N >= 1, got {pixels.shape}")
