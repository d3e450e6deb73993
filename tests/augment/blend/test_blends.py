"""What every blend promises."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from augment.blend import BLENDS, SUPPORT_PX, feather

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def background() -> Picture:
    """Return a cup of coffee, of the target's size."""
    return np.ascontiguousarray(data.coffee()[60:360, 200:420])


@pytest.mark.parametrize("name", BLENDS)
@pytest.mark.parametrize("feather_px", [0.0, 2.0])
def test_the_background_is_kept_outside_the_stated_support(
    name: str, feather_px: float, target: Picture, background: Picture
) -> None:
    """Farther from alpha than the blend's support, the background comes out bit for bit, and nearer it may change."""
    mask = np.zeros(target.shape[:2], bool)
    mask[120:200, 80:150] = True
    alpha = feather(mask, feather_px)
    reach = 2 * SUPPORT_PX[name] + 1
    support = cv2.dilate((alpha > 0).astype(np.uint8), kernel=np.ones((reach, reach), np.uint8)) > 0
    result = BLENDS[name](target, background, alpha)
    assert (result[~support] == background[~support]).all()
    assert (result != background).any()


@pytest.mark.parametrize("name", BLENDS)
def test_no_alpha_is_the_background(name: str, target: Picture, background: Picture) -> None:
    """Where the foreground is nowhere, nothing is changed."""
    result = BLENDS[name](target, background, np.zeros(target.shape[:2], np.uint8))
    assert (result == background).all()
    assert result is not background


@pytest.mark.parametrize("name", BLENDS)
def test_a_picture_over_itself_is_itself(name: str, target: Picture, mask: Mask) -> None:
    """Where both pictures are the same, no blend invents anything, up to one level of rounding."""
    result = BLENDS[name](target, target, feather(mask, 2.0))
    assert np.abs(result.astype(int) - target).max() <= 1


@pytest.mark.parametrize("name", BLENDS)
def test_one_colour_on_the_same_colour_stays(name: str, mask: Mask) -> None:
    """Constants go through unchanged."""
    flat = np.full((*mask.shape, 3), (13, 120, 255), np.uint8)
    assert (BLENDS[name](flat, flat, feather(mask, 1.0)) == flat).all()


@pytest.mark.parametrize("name", BLENDS)
def test_a_full_alpha_is_the_foreground(name: str, target: Picture, background: Picture) -> None:
    """Where alpha is full everywhere, no blend has anything to meet, and the foreground comes out."""
    result = BLENDS[name](target, background, np.full(target.shape[:2], 255, np.uint8))
    assert np.abs(result.astype(int) - target).max() <= 1


@pytest.mark.parametrize("name", BLENDS)
def test_the_layers_are_only_read(name: str, target: Picture, background: Picture, mask: Mask) -> None:
    """No blend writes into its arguments."""
    layers = (target.copy(), background.copy(), feather(mask, 1.0))
    before = [layer.copy() for layer in layers]
    BLENDS[name](*layers)
    assert all((layer == copy).all() for layer, copy in zip(layers, before, strict=True))


@pytest.mark.parametrize("name", BLENDS)
def test_layers_that_do_not_fit_are_refused(name: str, target: Picture) -> None:
    """Sizes and dtypes are checked by every blend."""
    with pytest.raises(ValueError, match="must both be"):
        BLENDS[name](target, target[1:], np.zeros(target.shape[:2], np.uint8))
    with pytest.raises(TypeError, match="alpha must be uint8, got bool"):
        BLENDS[name](target, target, np.zeros(target.shape[:2], bool))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BLENDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 2), (3, 19)])
def test_tiny_pictures_are_blended(name: str, shape: tuple[int, int]) -> None:
    """A picture of a few pixels, alpha up to its frame, is no special case."""
    rng = np.random.default_rng(5)
    foreground, background = rng.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    alpha = np.full(shape, 255, np.uint8)
    alpha[0, 0] = 0
    result = BLENDS[name](foreground, background, alpha)
    assert result.shape == background.shape
    assert result.dtype == np.uint8
