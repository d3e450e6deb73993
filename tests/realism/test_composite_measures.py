"""The measures of a composite, on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from realism.metrics import boundary_band, decibels, measure_composite, squared_error


def square() -> np.ndarray:
    """Return the matte of a square, (40, 60)."""
    alpha = np.zeros((40, 60), np.uint8)
    alpha[12:28, 20:40] = 255
    return alpha


def test_decibels_by_hand() -> None:
    """A mean squared error of 65.025 is 30 dB below the peak; none at all is capped."""
    assert decibels(65.025) == pytest.approx(30)
    assert decibels(0) == 100


def test_squared_error_of_a_region() -> None:
    """Only the pixels that are asked for count; of none it is 0."""
    first = np.zeros((2, 3, 3), np.uint8)
    second = first.copy()
    second[0, 0] = (3, 0, 0)
    where = np.zeros((2, 3), bool)
    where[0] = True
    assert squared_error(first, second) == pytest.approx(9 / 18)
    assert squared_error(first, second, where=where) == pytest.approx(1)
    assert squared_error(first, second, where=~where & where) == 0


def test_band_reaches_as_far_as_said_on_both_sides() -> None:
    """Straight up from the square's upper edge and down into it, and wherever the matte is mixed."""
    alpha = square()
    alpha[2, 5] = 100
    band = boundary_band(alpha, reach=4)
    assert np.flatnonzero(band[:20, 30]).tolist() == list(range(8, 16))
    assert band[2, 5]
    assert not boundary_band(np.zeros_like(alpha)).any()


def test_error_away_from_the_edge_is_not_the_boundarys() -> None:
    """A wrong corner lowers the PSNR of the picture and leaves the band's alone; a wrong edge lowers both."""
    wanted = np.full((40, 60, 3), 100, np.uint8)
    corner, edge = wanted.copy(), wanted.copy()
    corner[:3, :3] += 50
    edge[12, 20:40] += 50
    far, near = (measure_composite(picture, wanted, square()) for picture in (corner, edge))
    assert far["boundary_psnr"] == 100
    assert far["boundary_error"] == 0
    assert far["psnr"] == pytest.approx(decibels(50**2 * 9 / 2400))
    band = boundary_band(square()).sum()
    assert near["boundary_psnr"] == pytest.approx(decibels(50**2 * 20 / band))
    assert near["boundary_error"] == pytest.approx(50 * 20 / band)
    assert near["ssim"] < 1


def test_sizes_must_belong_together() -> None:
    """A matte of another size is a caller's mistake."""
    picture = np.zeros((40, 60, 3), np.uint8)
    with pytest.raises(ValueError, match="one size"):
        measure_composite(picture, picture, square().T)
