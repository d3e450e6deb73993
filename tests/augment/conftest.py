"""Real pictures for the kernels: crops of those that scikit-image carries, never square."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

Picture = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def target() -> Picture:
    """Return an astronaut, 300 x 220."""
    return np.ascontiguousarray(data.astronaut()[0:300, 130:350])


@pytest.fixture(scope="session")
def mask() -> NDArray[np.bool_]:
    """Return an ellipse around the astronaut, with a hole, cut by the lower edge."""
    y, x = np.mgrid[:300, :220]
    ellipse = ((y - 190) / 150) ** 2 + ((x - 105) / 80) ** 2 < 1
    return np.asarray(ellipse & ((y - 200) ** 2 + (x - 90) ** 2 > 15**2))


@pytest.fixture(scope="session")
def subject(target: Picture, mask: NDArray[np.bool_]) -> Picture:
    """Return the astronaut's pixels, (N, 3)."""
    return target[mask]


@pytest.fixture(scope="session")
def reference() -> Picture:
    """Return a cat's pixels, (M, 3)."""
    return np.ascontiguousarray(data.chelsea()[20:260, 90:350].reshape(-1, 3))
