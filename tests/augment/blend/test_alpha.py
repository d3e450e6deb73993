from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from augment.blend import composite, feather
from tests.reference import blend as slow

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def test_a_straight_edge_has_a_ramp_counted_by_hand() -> None:
    """With 1 px of feather, the two pixels at an edge get a quarter and three quarters."""
    mask = np.zeros((5, 9), bool)
    mask[:, 4:] = True
    assert feather(mask, 1.0)[2].tolist() == [0, 0, 0, 64, 191, 255, 255, 255, 255]


@pytest.mark.parametrize("feather_px", [0.0, 1.0, 1.37, 2.0])
def test_the_ramp_is_that_of_distances(mask: Mask, feather_px: float) -> None:
    """Alpha agrees with the distance transform to one level."""
    assert np.abs(feather(mask, feather_px) - slow.feather(mask, feather_px)).max() <= 0.51


@pytest.mark.parametrize("feather_px", [0.0, 1.0, 2.0])
def test_more_than_127_is_the_mask(feather_px: float) -> None:
    """Feathering loses no pixel of the mask and gains none, single pixels and holes included."""
    ragged = np.random.default_rng(3).random((31, 47)) < 0.4
    assert ((feather(ragged, feather_px) > 127) == ragged).all()


def test_a_mask_at_the_frame_is_full_up_to_it() -> None:
    """The picture's frame is no edge of the subject."""
    mask = np.zeros((7, 5), bool)
    mask[4:] = True
    assert (feather(mask, 2.0)[6] == 255).all()


def test_a_full_mask_is_full_and_an_empty_one_empty() -> None:
    """Nothing is feathered where there is no edge."""
    assert (feather(np.ones((6, 4), bool), 1.5) == 255).all()
    assert not feather(np.zeros((6, 4), bool), 1.5).any()


@pytest.mark.parametrize(("wrong", "feather_px"), [(np.zeros((3, 4, 1), bool), 1.0), (np.zeros((3, 4), bool), 2.5)])
def test_a_wrong_shape_or_width_is_refused(wrong: Mask, feather_px: float) -> None:
    """The message names both arguments."""
    with pytest.raises(ValueError, match=r"mask must be \(H, W\) and feather_px in 0..2"):
        feather(wrong, feather_px)


def test_a_mask_of_numbers_is_refused() -> None:
    """A mask is bool; 0..255 might mean an alpha."""
    with pytest.raises(TypeError, match="mask must be bool, got uint8"):
        feather(np.zeros((3, 4), np.uint8), 1.0)  # type: ignore[arg-type]


def test_blending_is_right_for_every_pair_of_level_and_alpha() -> None:
    """Every blend of black or white with every level, at every alpha, is rounded to the nearest level."""
    alpha, level = (grid.astype(np.uint8) for grid in np.mgrid[:256, :255])
    edited = np.repeat(level[..., None], 3, axis=2)
    for base in (0, 255, 77):
        original = np.full_like(edited, base)
        expected = slow.composite(original, edited, alpha)
        assert np.abs(composite(original, edited, alpha) - expected).max() <= 0.5 + 1e-9


def test_alpha_0_and_255_are_bit_for_bit(target: Picture, mask: Mask) -> None:
    """Outside the alpha the original comes through untouched, inside the edit does."""
    edited, alpha = 255 - target, feather(mask, 1.4)
    result = composite(target, edited, alpha)
    assert (result[alpha == 0] == target[alpha == 0]).all()
    assert (result[alpha == 255] == edited[alpha == 255]).all()


def test_composite_leaves_its_arguments_alone(target: Picture, mask: Mask) -> None:
    """The original, the edit and the alpha are only read."""
    layers = (target.copy(), 255 - target, feather(mask, 1.4))
    before = [layer.copy() for layer in layers]
    composite(*layers)
    assert all((layer == copy).all() for layer, copy in zip(layers, before, strict=True))


def test_layers_that_do_not_fit_are_refused(target: Picture) -> None:
    """Sizes and dtypes are checked, and the message names the argument."""
    alpha = np.zeros(target.shape[:2], np.uint8)
    with pytest.raises(ValueError, match="original and edited must both be"):
        composite(target, target[1:], alpha)
    with pytest.raises(ValueError, match="alpha must be"):
        composite(target, target, alpha.T)
    with pytest.raises(TypeError, match="edited must be uint8, got float32"):
        composite(target, target.astype(np.float32), alpha)  # type: ignore[arg-type]
