from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from augment.blend.gaussian_poisson import blend_gaussian_poisson, solve_frame
from tests.reference import blend as slow

Picture = NDArray[np.uint8]


@pytest.mark.parametrize(("low_pass_px", "colour_weight"), [(1.0, 1.0), (2.5, 0.2)])
def test_the_cosine_solution_is_the_dense_one(low_pass_px: float, colour_weight: float) -> None:
    """On a small frame, the closed form agrees with dense normal equations to a millionth of a level."""
    rng = np.random.default_rng(4)
    foreground, background = rng.integers(0, 256, (2, 9, 12, 3), dtype=np.uint8)
    alpha = np.zeros((9, 12), np.uint8)
    alpha[2:7, 3:9] = 255
    alpha[2, 3:9] = 90
    expected = slow.gaussian_poisson(
        foreground, background, alpha, low_pass_px=low_pass_px, colour_weight=colour_weight
    )
    plain = slow.composite(background, foreground, alpha)
    matrix = slow.negative_laplacian(alpha.shape)
    lacking = slow.wanted_differences(foreground, background, alpha) - (matrix @ plain.reshape(-1, 3)).reshape(9, 12, 3)
    solved = plain + solve_frame(lacking, low_pass_px=low_pass_px, colour_weight=colour_weight)
    assert np.abs(solved - expected).max() < 1e-6


def test_the_mean_colour_is_the_composites() -> None:
    """The lowest wave is held to the composite: the correction has no mean."""
    right = np.random.default_rng(6).normal(0, 10, (21, 34, 3))
    assert np.abs(solve_frame(right - right.mean(axis=(0, 1))).mean(axis=(0, 1))).max() < 1e-9


def test_the_seam_is_softer_and_the_texture_as_sharp() -> None:
    """A step at the edge is spread out, while a fine pattern inside keeps its contrast."""
    background = np.full((80, 120, 3), 90, np.uint8)
    foreground = np.full((80, 120, 3), 150, np.uint8)
    foreground[::2] += 20
    alpha = np.zeros((80, 120), np.uint8)
    alpha[20:60, 40:90] = 255
    result = blend_gaussian_poisson(foreground, background, alpha).astype(int)
    assert np.abs(np.diff(result[40, :, 0])).max() < 20  # the composite jumps by 80
    assert np.abs(np.diff(result[30:50, 65, 0])).min() >= 18
    assert abs(result[40:42, 65].mean() - 160) < 12


def test_low_frequencies_are_the_composites_in_the_middle(target: Picture) -> None:
    """Far inside, where no seam is near, colours are those of the foreground: nothing is recoloured as by Poisson."""
    background = np.full_like(target, (20, 60, 200))
    alpha = np.zeros(target.shape[:2], np.uint8)
    alpha[60:260, 30:190] = 255
    result = blend_gaussian_poisson(target, background, alpha)
    deep = cv2.erode(alpha, kernel=np.ones((101, 101), np.uint8)) > 0
    assert np.abs(result[deep].astype(int) - target[deep]).mean() < 1.5
