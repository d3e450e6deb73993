from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from augment.transfer.mkl import GAIN_LIMIT, VARIANCE_FLOOR, mkl, moments
from tests.reference import transfer as slow

Pixels = NDArray[np.uint8]


def _spread(center: tuple[int, ...], deviation: int) -> Pixels:
    offsets = np.concatenate([np.eye(3), -np.eye(3)]) * deviation
    return (np.array(center) + offsets).astype(np.uint8)


def test_equal_axes_are_scaled_and_moved() -> None:
    """Twice the spread around 120, moved to 90: 130 becomes 110."""
    mapped = mkl(_spread((120, 120, 120), 30), _spread((90, 90, 90), 60)).apply(np.array([[130, 120, 110]], np.uint8))
    np.testing.assert_allclose(mapped, [[110, 90, 70]], atol=0.05)


def test_moments_are_numpys(subject: Pixels) -> None:
    """Mean and covariance are those of float64, biased."""
    mean, covariance = moments(subject)
    np.testing.assert_allclose(mean, subject.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(subject.T, bias=True), rtol=1e-9)


def test_mean_and_covariance_become_the_references(subject: Pixels, reference: Pixels) -> None:
    """The defining property, on real pictures."""
    color_map = mkl(subject, reference)
    assert color_map.notes == {"gain_limited": False}
    mapped = color_map.apply(subject).astype(float)
    np.testing.assert_allclose(mapped.mean(axis=0), reference.mean(axis=0), atol=0.01)
    wanted = np.cov(reference.T, bias=True)
    assert np.abs(np.cov(mapped.T, bias=True) - wanted).max() < 2 * VARIANCE_FLOOR + 0.002 * wanted.max()


def test_it_agrees_with_scipys_matrix_roots(subject: Pixels, reference: Pixels) -> None:
    """The map is that of the formula with general matrix square roots."""
    expected = slow.mkl(subject.astype(float), reference.astype(float), floor=VARIANCE_FLOOR)
    np.testing.assert_allclose(mkl(subject, reference).apply(subject), expected, atol=0.01)


def test_colours_are_not_inverted(subject: Pixels, reference: Pixels) -> None:
    """Each channel goes up with itself: the map is positive."""
    color_map = mkl(subject, reference)
    base = np.full((1, 3), 100, np.uint8)
    for channel in range(3):
        step = base.copy()
        step[0, channel] += 50
        assert color_map.apply(step)[0, channel] > color_map.apply(base)[0, channel]


def test_a_nearly_flat_subject_is_not_blown_up() -> None:
    """Gains end at the limit, which is noted."""
    own = (np.arange(30).reshape(10, 3) % 2 + 100).astype(np.uint8)
    color_map = mkl(own, np.random.default_rng(0).integers(0, 256, (500, 3), dtype=np.uint8))
    assert color_map.notes == {"gain_limited": True}
    assert np.ptp(color_map.apply(own), axis=0).max() == pytest.approx(GAIN_LIMIT, rel=0.5)
