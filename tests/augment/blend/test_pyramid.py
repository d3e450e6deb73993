from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from augment.blend.pyramid import HALVINGS, blend_laplacian, collapse, laplacian_pyramid

Picture = NDArray[np.uint8]


@pytest.mark.parametrize("halvings", [0, 1, HALVINGS])
def test_a_pyramid_reconstructs(target: Picture, halvings: int) -> None:
    """The bands add up to the picture again, odd sides included."""
    picture = target[:299, :219].astype(np.float32)
    bands = laplacian_pyramid(picture, halvings)
    assert len(bands) == halvings + 1
    assert np.abs(collapse(bands) - picture).max() < 1e-3


def test_fine_detail_is_cut_sharper_than_coarse() -> None:
    """Over a hard edge, a step of brightness becomes a wide ramp while a fine pattern ends within a few pixels."""
    alpha = np.zeros((64, 96), np.uint8)
    alpha[:, 48:] = 255
    flat = np.full((64, 96, 3), 100, np.uint8)
    step = np.full_like(flat, 180)
    ramp = blend_laplacian(step, flat, alpha)[32, :, 0].astype(int)
    assert (np.diff(ramp) >= 0).all()
    assert np.count_nonzero((ramp > 102) & (ramp < 178)) > 12
    checked = flat.copy()
    checked[::2, ::2] += 60
    checked[1::2, 1::2] += 60
    checked[::2, 1::2] -= 60
    checked[1::2, ::2] -= 60
    pattern = np.abs(blend_laplacian(checked, flat, alpha)[32, :, 0].astype(int) - 100)
    assert pattern[:44].max() <= 4
    assert pattern[54:90].min() >= 50
