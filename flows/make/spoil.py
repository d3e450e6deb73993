"""Spoil a mask as annotators do and worse, so that what learns from it does not trust its edge."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Alpha = NDArray[np.uint8]


def spoil(mask: Alpha, rng: np.random.Generator) -> Alpha:
    """Spoil a mask as annotators do and worse: grow or shrink it by up to 4 pixels, shift it by up to 3, wave its edge.

    Args:
        mask: uint8 (h, w).
        rng: Generator of the sample.

    Returns:
        uint8 (h, w).
    """
    height, width = mask.shape
    reach = int(rng.integers(-4, 5))
    if reach:
        kernel = cv2.getStructuringElement(shape=cv2.MORPH_ELLIPSE, ksize=(2 * abs(reach) + 1,) * 2)
        mask = np.asarray((cv2.dilate if reach > 0 else cv2.erode)(mask, kernel=kernel), np.uint8)
    shift = rng.uniform(-3, 3, 2)
    waves = rng.normal(0, rng.uniform(0, 2.5), (2, 2 + height // 20, 2 + width // 20)).astype(np.float32)
    across, down = (cv2.resize(wave, dsize=(width, height), interpolation=cv2.INTER_CUBIC) for wave in waves)
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved = cv2.remap(
        mask,
        columns + across + np.float32(shift[0]),
        rows + down + np.float32(shift[1]),
        interpolation=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(moved, np.uint8)
