"""Regrain's energy as one sparse linear system, solved exactly."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray


def regrain(original: NDArray[np.uint8], edited: NDArray[np.float64], region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the minimiser, float64 (H, W, 3), the original outside the region."""
    height, width = region.shape
    picture = original / 255
    gradient = np.zeros(region.shape)
    gradient[:, :-1] += (np.diff(picture, axis=1) ** 2).sum(axis=2)
    gradient[:-1] += (np.diff(picture, axis=0) ** 2).sum(axis=2)
    gradient = np.sqrt(gradient)
    hold, smooth = np.clip(gradient * 51, 0.01, 1), 30 / (1 + 10 * gradient)
    system = scipy.sparse.lil_matrix((height * width, height * width))
    for y, x in np.ndindex(height, width):
        system[y * width + x, y * width + x] += hold[y, x]
        for v, u in ((y + 1, x), (y, x + 1)):
            if v < height and u < width and region[y, x] and region[v, u]:
                link = (smooth[y, x] + smooth[v, u]) / 2
                for a, b in ((y * width + x, v * width + u), (v * width + u, y * width + x)):
                    system[a, a] += link
                    system[a, b] -= link
    edit = np.where(region[..., None], edited - original, 0)
    solve = scipy.sparse.linalg.factorized(system.tocsc())
    smoothed = [solve((hold * edit[..., c]).ravel()).reshape(height, width) for c in range(3)]
    return original + np.where(region[..., None], np.stack(smoothed, axis=2), 0)
