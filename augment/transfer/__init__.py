"""Colour-transfer families: each estimates a map of colours from two sets of pixels.

A family knows nothing of pictures or masks. What is spatial (regrain, local light) is done by `augment.edit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from augment.color import Pixels
from augment.transfer.colormap import ColorMap, Note
from augment.transfer.histogram import histogram
from augment.transfer.idt import idt
from augment.transfer.luminance_cct import luminance_cct
from augment.transfer.mkl import mkl
from augment.transfer.reinhard import reinhard

__all__ = ["TRANSFERS", "ColorMap", "Note", "histogram", "idt", "luminance_cct", "mkl", "reinhard"]

TRANSFERS: Final[Mapping[str, Callable[[Pixels, Pixels], ColorMap]]] = {
    "luminance_cct": luminance_cct,
    "histogram": histogram,
    "mkl": mkl,
    "reinhard": reinhard,
    "idt": idt,
}
"""Name of a family to the function (subject (N, 3) uint8, reference (M, 3) uint8) -> ColorMap."""
