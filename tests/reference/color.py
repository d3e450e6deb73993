"""Colour formulas one value at a time, as the standards print them."""

from __future__ import annotations

import math


def linear_of(level: float) -> float:
    """Decode one sRGB level, 0..255, to linear light, 0..1 (IEC 61966-2-1)."""
    value = level / 255
    return value / 12.92 if value <= 0.04045 else math.pow((value + 0.055) / 1.055, 2.4)


def level_of(linear: float) -> float:
    """Encode linear light as an sRGB level, 0..255; light below zero is mirrored."""
    if linear < 0:
        return -level_of(-linear)
    return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * math.pow(linear, 1 / 2.4) - 0.055)


def lab_f_of(ratio: float) -> float:
    """Return CIE Lab's f of one ratio to white."""
    return math.pow(ratio, 1 / 3) if ratio > (6 / 29) ** 3 else ratio / (3 * (6 / 29) ** 2) + 4 / 29


def lab_f_inverse_of(root: float) -> float:
    """Undo `lab_f_of`."""
    return root**3 if root > 6 / 29 else 3 * (6 / 29) ** 2 * (root - 4 / 29)
