from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from augment.blend.poisson import blend_poisson, neighbours_of, solve_inside
from tests.reference import blend as slow

Picture = NDArray[np.uint8]


def _pictures(seed: int, shape: tuple[int, int] = (11, 14), *, spread_px: float = 1.2) -> tuple[Picture, Picture]:
    """Return two smooth random pictures in the middle of the range, so that nothing is clipped."""
    noise = np.random.default_rng(seed).uniform(-60, 60, (2, *shape, 3))
    first, second = (spread_px * cv2.GaussianBlur(part, ksize=(0, 0), sigmaX=spread_px) for part in noise)
    return (120 + first).astype(np.uint8), (140 + second).astype(np.uint8)


@pytest.mark.parametrize("kind", ["hard", "soft", "at the frame", "two parts"])
def test_it_is_the_solution_of_the_dense_system(kind: str) -> None:
    """Every pixel agrees with a dense solve of the same equations to rounding."""
    foreground, background = _pictures(1)
    alpha = np.zeros((11, 14), np.uint8)
    if kind == "at the frame":
        alpha[4:, :6] = 255
    elif kind == "two parts":
        alpha[1:4, 1:5] = alpha[6:10, 8:13] = 255
    else:
        alpha[2:9, 3:11] = 255
    if kind == "soft":
        alpha = cv2.GaussianBlur(alpha, ksize=(3, 3), sigmaX=1)
    expected = np.clip(slow.poisson(foreground, background, alpha), 0, 255)
    assert np.abs(blend_poisson(foreground, background, alpha) - expected).max() <= 0.6


def test_gradients_are_the_foregrounds_and_the_edge_is_the_backgrounds() -> None:
    """A foreground that is the background plus a constant comes out as the background: the constant is forgotten."""
    _, background = _pictures(2, (40, 56))
    alpha = np.zeros((40, 56), np.uint8)
    alpha[8:30, 10:45] = 255
    assert np.abs(blend_poisson(background + np.uint8(40), background, alpha).astype(int) - background).max() <= 1


def test_inside_a_real_picture_the_second_differences_are_the_foregrounds() -> None:
    """The Laplacian inside is the foreground's, to the rounding of 8 bits."""
    foreground = data.chelsea()[100:180, 150:250] // 2 + np.uint8(60)  # so that nothing is clipped
    background = np.full_like(foreground, (90, 120, 100))
    alpha = np.zeros((80, 100), np.uint8)
    cv2.ellipse(alpha, center=(50, 40), axes=(30, 22), angle=20, startAngle=0, endAngle=360, color=255, thickness=-1)
    result = blend_poisson(foreground, background, alpha)
    deep = cv2.erode(alpha, kernel=np.ones((3, 3), np.uint8)) > 0
    wanted, got = (cv2.Laplacian(picture.astype(np.float64), ddepth=cv2.CV_64F) for picture in (foreground, result))
    assert np.abs(wanted - got)[deep].max() <= 4.2  # five rounded pixels, the middle one four times


def test_it_agrees_with_opencvs_clone() -> None:
    """OpenCV's own solver, which cuts the mask a little smaller, recolours a smooth foreground by as many levels."""
    foreground, background = _pictures(3, (60, 80), spread_px=6)
    background += np.uint8(60)
    alpha = np.zeros((60, 80), np.uint8)
    alpha[15:46, 20:61] = 255
    peer = cv2.seamlessClone(src=foreground, dst=background, mask=alpha.copy(), p=(40, 30), flags=cv2.NORMAL_CLONE)
    inside = cv2.erode(alpha, kernel=np.ones((7, 7), np.uint8)) > 0
    ours = blend_poisson(foreground, background, alpha).astype(int)[inside]
    assert np.abs(ours - foreground[inside]).mean() > 60
    assert np.abs(ours - peer[inside]).mean() < 3


def test_a_thin_and_winding_region_is_solved() -> None:
    """A region far from a rectangle, where the preconditioner helps least, is still right to a tenth of a level."""
    rng = np.random.default_rng(7)
    inside = np.zeros((60, 90), bool)
    for row in range(4, 56, 4):
        inside[row, 4:86] = True
    inside[4:56, 4::27] = True
    wanted = np.where(inside[..., None], rng.normal(0, 30, (60, 90, 2)), 0).astype(np.float32)
    neighbours = neighbours_of(np.zeros((60, 90), np.uint8))
    padded = np.pad(wanted, ((1, 1), (1, 1), (0, 0)))
    around = padded[2:, 1:-1] + padded[:-2, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2]
    solved = solve_inside(neighbours[..., None] * wanted - around, inside, neighbours)
    assert np.abs(solved - wanted).max() < 0.1
