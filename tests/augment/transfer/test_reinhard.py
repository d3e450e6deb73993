from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from augment.transfer.reinhard import LIGHT_FLOOR, reinhard
from tests.reference import transfer as slow

Pixels = NDArray[np.uint8]


def test_a_darker_copy_needs_the_same_factor_everywhere() -> None:
    """In logarithms an exposure is a shift: a grey of twice the light comes to the reference's mean."""
    own, other = np.full((5, 3), 188, np.uint8), np.full((5, 3), 137, np.uint8)
    np.testing.assert_allclose(reinhard(own, other).apply(own), np.full((5, 3), 137), atol=0.1)


def test_it_agrees_with_the_formula(subject: Pixels, reference: Pixels) -> None:
    """Tables and merged matrices are the paper's steps one by one, where a picture can show them."""
    some = subject[::7]
    expected = slow.reinhard(some.astype(float), reference.astype(float), floor=LIGHT_FLOOR)
    mapped = reinhard(some, reference).apply(some)
    shown = (expected > -10) & (expected < 280)
    assert shown.mean() > 0.9
    np.testing.assert_allclose(mapped[shown], expected[shown], atol=0.1)


def test_mean_and_spread_become_the_references(subject: Pixels, reference: Pixels) -> None:
    """The defining property, on real pictures, where colours stay in range."""
    some = subject[(subject.min(axis=1) > 30) & (subject.max(axis=1) < 220)]
    mapped = reinhard(some, reference).apply(some).astype(float)
    own, wanted = (slow.l_alpha_beta(pixels, floor=LIGHT_FLOOR) for pixels in (mapped, reference.astype(float)))
    np.testing.assert_allclose(own.mean(axis=0), wanted.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(own.std(axis=0), wanted.std(axis=0), rtol=0.02)


def test_no_spread_is_shifted_and_noted() -> None:
    """A flat subject is moved, not stretched."""
    other = np.random.default_rng(0).integers(60, 200, (400, 3), dtype=np.uint8)
    color_map = reinhard(np.full((4, 3), 90, np.uint8), other)
    assert color_map.notes == {"gain_limited": True}
    assert not reinhard(other, other).notes["gain_limited"]
