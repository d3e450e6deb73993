"""The gates, one pixel at a time."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def clipping(original: Picture, edited: Picture, alpha: Picture) -> float:
    """Return the share of pixels inside that became pure black or white."""
    pure = [(0, 0, 0), (255, 255, 255)]
    inside = [place for place in np.ndindex(alpha.shape) if alpha[place] > 127]
    new = [p for p in inside if tuple(edited[p].tolist()) in pure and tuple(original[p].tolist()) not in pure]
    return len(new) / len(inside)


def hue_flip(original: Picture, edited: Picture, alpha: Picture, *, chroma: int) -> float:
    """Return the share of pixels inside, saturated before and after, whose hue turned by more than 60 degrees."""
    turned = []
    for place in np.ndindex(alpha.shape):
        before, after = original[place].tolist(), edited[place].tolist()
        if alpha[place] <= 127 or min(max(before) - min(before), max(after) - min(after)) < chroma:
            continue
        turn = abs(colorsys.rgb_to_hsv(*before)[0] - colorsys.rgb_to_hsv(*after)[0])
        turned.append(min(turn, 1 - turn) > 1 / 6)
    return sum(turned) / len(turned)
