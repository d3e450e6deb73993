from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from augment.transfer.idt import PIXEL_CAP, ROTATION_COUNT, ROTATIONS, idt, regrain
from tests.reference import transfer as slow
from tests.reference.regrain import regrain as exact_regrain

Pixels = NDArray[np.uint8]
DIRECTIONS = np.random.default_rng(9).normal(size=(40, 3))
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)


def _distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return the mean difference of quantiles along directions that the table does not hold, in levels."""
    ranks = np.linspace(0.005, 0.995, 100)
    a, b = (np.quantile(pixels @ DIRECTIONS.T, ranks, axis=0) for pixels in (one, other))
    return float(np.abs(a - b).mean())


def test_the_table_holds_rotations() -> None:
    """Every entry is orthonormal and keeps the hand; the first is the identity; all differ."""
    turned = ROTATIONS @ ROTATIONS.transpose(0, 2, 1)
    np.testing.assert_allclose(turned, np.broadcast_to(np.eye(3), turned.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(ROTATIONS), 1)
    assert (ROTATIONS[0] == np.eye(3)).all()
    assert len(np.unique(ROTATIONS.round(6), axis=0)) == ROTATION_COUNT


def test_one_iteration_without_rotation_matches_the_channels(subject: Pixels, reference: Pixels) -> None:
    """From the identity, one iteration is mid-rank matching of R, G and B by themselves."""
    own, other = subject[:5000], reference[:5000]
    mapped = idt(own, other, rotation=0, iterations=1).apply(own)
    for channel in range(3):
        expected = slow.mid_rank_match(own[:, channel].astype(float), other[:, channel].astype(float))
        np.testing.assert_allclose(mapped[:, channel], expected, atol=0.35)


@pytest.mark.parametrize("rotation", [0, 13, ROTATION_COUNT - 1])
def test_the_whole_distribution_becomes_the_references(rotation: int, subject: Pixels, reference: Pixels) -> None:
    """The defining property: along any direction the quantiles agree, from whatever entry it starts."""
    before = _distance(subject, reference)
    after = _distance(idt(subject, reference, rotation=rotation).apply(subject), reference)
    assert before > 20
    assert after < 2


def test_iterations_bring_it_nearer(subject: Pixels, reference: Pixels) -> None:
    """More iterations match directions better that were not iterated over."""
    other = np.column_stack([255 - reference[:, 0], reference[:, 1:]])
    few, many = (_distance(idt(subject, other, iterations=n).apply(subject), other) for n in (1, 12))
    assert many < few / 2


def test_estimating_on_a_part_matches_the_whole(reference: Pixels) -> None:
    """Above the cap every n-th pixel is enough for all of them."""
    assert len(reference) > 2 * PIXEL_CAP
    own = 255 - reference[:, [2, 0, 1]]
    assert _distance(idt(own, reference).apply(own), reference) < 2


@pytest.mark.parametrize(("rotation", "iterations"), [(-1, 5), (ROTATION_COUNT, 5), (0, 0)])
def test_entries_outside_the_table_are_refused(rotation: int, iterations: int, subject: Pixels) -> None:
    """The message says what is possible."""
    with pytest.raises(ValueError, match=r"iterations >= 1 and rotation in 0..31"):
        idt(subject, subject, rotation=rotation, iterations=iterations)


REGION = np.hypot(*(np.mgrid[:38, :51] - np.array([20, 25]).reshape(2, 1, 1))) < 17


def _grainy(target: Pixels) -> tuple[Pixels, NDArray[np.float32]]:
    """Return a small crop, and an edit of it that brightens and adds grain."""
    original = target[40:78, 60:111]
    grain = np.random.default_rng(2).normal(scale=12, size=original.shape)
    return original, np.where(REGION[..., None], original + 40 + grain, original).astype(np.float32)


def test_regrain_comes_near_the_exact_minimum(target: Pixels) -> None:
    """A few steps from coarse to fine do most of the way to the exact solution."""
    original, edited = _grainy(target)
    exact = exact_regrain(original, edited, REGION)
    found = regrain(original, edited, REGION)
    assert np.abs(found - exact)[REGION].mean() < 0.25 * np.abs(edited - exact)[REGION].mean()


def test_regrain_takes_the_added_grain_away_and_keeps_the_edit(target: Pixels) -> None:
    """The edit's roughness falls to about a third or less, and its mean stays."""
    original, edited = _grainy(target)
    edit, kept = ((picture - original)[REGION] for picture in (edited, regrain(original, edited, REGION)))
    assert kept.std() < 0.35 * edit.std()
    assert kept.mean() == pytest.approx(edit.mean(), abs=1.5)


def test_regrain_does_not_fade_at_the_regions_edge(target: Pixels) -> None:
    """An even edit stays even right up to an unedited background."""
    original = target[40:78, 60:111]
    edited = np.where(REGION[..., None], original + 40.0, original).astype(np.float32)
    np.testing.assert_allclose(regrain(original, edited, REGION), edited, atol=0.05)


def test_regrain_leaves_the_outside_and_its_arguments(target: Pixels) -> None:
    """Outside the region the original comes back, and nothing is written to."""
    original, edited = _grainy(target)
    copies = original.copy(), edited.copy(), REGION.copy()
    result = regrain(original, edited, REGION)
    assert result.dtype == np.float32
    assert (result[~REGION] == original[~REGION]).all()
    assert all((a == b).all() for a, b in zip((original, edited, REGION), copies, strict=True))


def test_regrain_of_a_flat_picture_is_finite() -> None:
    """With no gradient anywhere the edit is evened out, not divided by zero."""
    original = np.full((40, 70, 3), 90, np.uint8)
    region = np.zeros((40, 70), bool)
    region[5:30, 10:60] = True
    edited = np.where(region[..., None], original + 30.0, original).astype(np.float32)
    np.testing.assert_allclose(regrain(original, edited, region), edited, atol=0.01)
