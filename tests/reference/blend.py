"""Feathering by distances and blending by fractions: slow and obvious."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt


def feather(mask: NDArray[np.bool_], feather_px: float) -> NDArray[np.float64]:
    """Return the alpha, 0..255 not rounded, of a mask that has pixels of both kinds."""
    distance = np.where(mask, distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask))
    return 255 * np.clip(0.5 + distance / (feather_px + 1), 0, 1)


def composite(original: NDArray[np.uint8], edited: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the blend, 0..255 not rounded."""
    share = alpha[..., None] / 255
    return share * edited + (1 - share) * original
