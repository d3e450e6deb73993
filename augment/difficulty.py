"""Measure how hard a subject is to cut out: what its surroundings look like, and how sure its matte is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.color import Pixels

Mask = NDArray[np.bool_]

GAP_PX: Final = 3
"""Pixels next to the mask that are not counted: the mask's own edge would be most of the gradient there."""
RING_SHARE, RING_PX = 0.12, (12.0, 40.0)
"""Width of the ring around the mask, as a share of the square root of the mask's pixels, and its least and most."""
GRADIENT_FULL: Final = 16.0
"""Mean gradient of the ring, in levels a px, that counts as 1."""
SPREAD_FULL: Final = 64.0
"""Spread of the ring's colours, in levels, that counts as 1."""
WEIGHTS: Final = {"gradient": 0.15, "spread": 0.15, "neighbours": 0.1, "doubt": 0.6}
"""Weights of the four parts in `Difficulty.total`; they sum to 1. The doubt follows the true error of a matte closest."""


@dataclass(frozen=True)
class Difficulty:
    """How hard a subject is to cut out; every number rounded to 4 decimals."""

    gradient: float
    """Mean length of the luma's gradient in the ring, levels a px."""
    spread: float
    """Standard deviation of the ring's colours, levels: root of the mean of the channels' variances."""
    neighbours: float
    """Share of the ring that other people cover."""
    confidence: float
    """Of the matte."""
    total: float
    """0 easy .. 1 hard."""

    def to_json(self) -> dict[str, float]:
        """Return the fields by name."""
        return asdict(self)


def measure_difficulty(picture: Pixels, mask: Mask, *, others: Mask, confidence: float) -> Difficulty:
    """Measure a subject's surroundings in a ring around its mask, and add the doubt about its matte.

    The total is 0.15 gradient / 16 + 0.15 spread / 64 + 0.1 neighbours + 0.6 (1 - confidence), each part cut at its
    weight. The spread is that of all pixels of the ring together, so a plain wall in two colours counts as mixed.

    Args:
        picture: uint8 sRGB (H, W, 3).
        mask: bool (H, W), not empty.
        others: bool (H, W), the other annotated people.
        confidence: 0..1, of the subject's matte.

    Raises:
        TypeError: A wrong dtype.
        ValueError: Shapes that do not belong together, an empty mask, a confidence outside 0..1.

    """
    _check(picture, mask, others, confidence)
    ring_px = min(max(RING_SHARE * math.sqrt(np.count_nonzero(mask)), RING_PX[0]), RING_PX[1])
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    reach = math.ceil(GAP_PX + ring_px) + 2
    window = np.s_[max(y - reach, 0) : y + height + reach, max(x - reach, 0) : x + width + reach]
    outside = np.ascontiguousarray(~mask[window]).view(np.uint8)
    distance = cv2.distanceTransform(outside, distanceType=cv2.DIST_L2, maskSize=5)
    ring = (distance > GAP_PX) & (distance <= GAP_PX + ring_px)
    if not ring.any():  # the subject fills the frame
        return Difficulty(0.0, 0.0, 0.0, round(confidence, 4), 1.0)
    crop = np.ascontiguousarray(picture[window])
    gradient = float(_gradient(crop)[ring].mean())
    spread = math.sqrt(float(crop[ring].var(axis=0, dtype=np.float64).mean()))
    neighbours = float(others[window][ring].mean())
    parts = {
        "gradient": gradient / GRADIENT_FULL,
        "spread": spread / SPREAD_FULL,
        "neighbours": neighbours,
        "doubt": 1 - confidence,
    }
    total = sum(WEIGHTS[name] * min(part, 1.0) for name, part in parts.items())
    return Difficulty(*(round(number, 4) for number in (gradient, spread, neighbours, confidence, total)))


def touches_frame(mask: Mask, *, margin_px: int = 2) -> bool:
    """Tell whether a mask comes within `margin_px` of the picture's frame, so that the subject may be cut by it.

    Raises:
        TypeError: The mask is not bool.
        ValueError: The mask is not (H, W), or the margin is under 1.

    """
    if mask.dtype != np.bool_:
        raise TypeError(f"mask must be bool, got {mask.dtype}")
    if mask.ndim != 2 or margin_px < 1:
        raise ValueError(f"mask must be (H, W) and margin_px at least 1, got {mask.shape} and {margin_px!r}")
    inner = mask[margin_px:-margin_px, margin_px:-margin_px]
    return bool(np.count_nonzero(mask) > np.count_nonzero(inner))


def _check(picture: Pixels, mask: Mask, others: Mask, confidence: float) -> None:
    for name, array, dtype in (("picture", picture, np.uint8), ("mask", mask, np.bool_), ("others", others, np.bool_)):
        if array.dtype != dtype:
            raise TypeError(f"{name} must be {np.dtype(dtype)}, got {array.dtype}")
    if mask.ndim != 2 or picture.shape != (*mask.shape, 3) or others.shape != mask.shape:
        shapes = picture.shape, mask.shape, others.shape
        raise ValueError(f"picture must be (H, W, 3), mask and others (H, W) of one size, got {shapes}")
    if not mask.any():
        raise ValueError("mask must not be empty")
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence must be in 0..1, got {confidence!r}")


def _gradient(picture: Pixels) -> NDArray[np.float32]:
    """Return the length of the luma's gradient, levels a px: float32 (h, w)."""
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    # Scharr's weights sum to 32 over two px.
    across, down = (cv2.Scharr(luma, ddepth=cv2.CV_32F, dx=dx, dy=1 - dx, scale=1 / 32) for dx in (1, 0))
    return np.asarray(cv2.magnitude(across, down), np.float32)
