from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from augment.blend.gaussian_poisson import blend_gaussian_poisson, blend_towards, solve_frame
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


def scene(*, height: int = 130, width: int = 190) -> tuple[Picture, Picture]:
    """Return a textured picture and the mask of an ellipse in it."""
    rng = np.random.default_rng(8)
    parts = [
        weight * cv2.resize(rng.random((grid, grid, 3)), dsize=(width, height), interpolation=cv2.INTER_CUBIC)
        for grid, weight in ((3, 80), (9, 50), (60, 40))
    ]
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 2, height // 2), (width // 5, height // 4), 0, 0, 360, 255, -1)
    return np.rint(np.clip(40 + sum(parts), 0, 255)).astype(np.uint8), mask


def small(picture: Picture) -> NDArray[np.float32]:
    """Return the picture's colours at 48 x 48, somewhat blurred, as a network would answer them."""
    shrunk = cv2.resize(picture, dsize=(48, 48), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(shrunk, ksize=(0, 0), sigmaX=0.8), np.float32)


def test_the_cosine_solution_is_drawn_towards_a_change() -> None:
    """With gradients of zero wanted, a constant change is met exactly, and a fast one hardly at all."""
    constant = np.full((9, 12, 3), 7.0)
    assert np.allclose(solve_frame(np.zeros_like(constant), towards=constant), constant)
    fast = constant * np.where(np.indices((9, 12)).sum(axis=0) % 2, 1, -1)[..., None]
    assert np.abs(solve_frame(np.zeros_like(fast), towards=fast)).max() < 1.5


def test_colours_of_a_small_picture_come_to_full_size() -> None:
    """A subject pasted in another light gets its light back within a few levels, detail and background as they were."""
    real, mask = scene()
    pasted = real.copy()
    pasted[mask > 0] = np.clip(pasted[mask > 0].astype(int) + np.array((35, -20, 15)), 0, 255)
    result = blend_towards(pasted, mask, small(real))
    inside = mask > 0
    assert np.abs(result.astype(int) - real)[inside].mean() < np.abs(pasted.astype(int) - real)[inside].mean() / 5
    assert np.array_equal(result[~inside], pasted[~inside])
    deep = cv2.erode(mask, kernel=np.ones((7, 7), np.uint8)) > 0
    steps = [np.diff(picture.astype(float), axis=1)[deep[:, 1:]] for picture in (result, pasted)]
    assert np.abs(steps[0] - steps[1]).mean() < 0.5


def test_colours_that_are_there_change_next_to_nothing() -> None:
    """Towards its own colours a picture keeps its own within a few levels; an empty mask keeps every pixel."""
    real, mask = scene()
    assert np.abs(blend_towards(real, mask, small(real)).astype(int) - real)[mask > 0].mean() < 4
    assert np.array_equal(blend_towards(real, 0 * mask, small(real)), real)


def test_colours_must_be_a_picture() -> None:
    """One channel, or none, is refused; so is a mask of another size."""
    real, mask = scene()
    with pytest.raises(ValueError, match=r"colours must be \(h, w, 3\)"):
        blend_towards(real, mask, small(real)[..., 0])
    with pytest.raises(ValueError, match="alpha must be"):
        blend_towards(real, mask[:-1], small(real))
