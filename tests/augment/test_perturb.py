from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from augment.perturb import choose_perturbation, perturb


def test_brightness_and_contrast_by_hand() -> None:
    """Twice the contrast around a mean of 100 and 0.1 brighter: 80 becomes 60 + 25.5."""
    values = np.array([[80, 100, 100], [120, 100, 100]], np.float32)
    result = perturb(values, choose_perturbation(values, [(2.0, 0.1)]))
    np.testing.assert_allclose(result, [[85.5, 125.5, 125.5], [165.5, 125.5, 125.5]], rtol=1e-6)


def test_the_mean_moves_by_the_brightness_and_the_spread_by_the_contrast(subject: NDArray[np.uint8]) -> None:
    """On a real picture, per channel, exactly as the formula says."""
    values = subject.astype(np.float32)
    result = perturb(values, choose_perturbation(values, [(0.7, -0.05)]))
    np.testing.assert_allclose(result.mean(axis=0), values.mean(axis=0) - 0.05 * 255, atol=0.01)
    np.testing.assert_allclose(result.std(axis=0), 0.7 * values.std(axis=0), rtol=1e-4)


def test_the_first_candidate_that_does_not_clip_is_taken() -> None:
    """Candidates that clip are passed over and counted."""
    chosen = choose_perturbation(np.full((10, 3), 240, np.float32), [(1.0, 0.2), (1.0, 0.1), (1.0, -0.1), (1.0, 0.0)])
    assert (chosen.index, chosen.redraws, chosen.clipped) == (2, 2, 0.0)


def test_where_all_clip_the_least_clipping_is_taken() -> None:
    """Of three that clip, the one that drives the fewest values out wins; all three count as refused."""
    values = np.array([[10, 10, 10]] * 7 + [[250, 250, 250]] * 3, np.float32)
    chosen = choose_perturbation(values, [(1.0, -0.2), (1.0, 0.2), (1.5, -0.2)])
    assert (chosen.index, chosen.redraws) == (1, 3)
    assert chosen.clipped == pytest.approx(0.3)


def test_values_that_were_clipped_before_do_not_count() -> None:
    """A white shirt that stays white is no reason to draw again."""
    values = np.full((10, 3), 255, np.float32)
    assert choose_perturbation(values, [(1.0, 0.2)]).redraws == 0


def test_nothing_to_choose_from_is_refused() -> None:
    """An empty subject and an empty list of candidates are the caller's mistakes."""
    with pytest.raises(ValueError, match="got 0 pixels and 1 candidates"):
        choose_perturbation(np.zeros((0, 3), np.float32), [(1.0, 0.0)])
    with pytest.raises(ValueError, match="got 1 pixels and 0 candidates"):
        choose_perturbation(np.zeros((1, 3), np.float32), [])
