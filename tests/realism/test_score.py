"""Crops and scores."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from realism import Calibration, Checkpoint, Discriminator, Shape, prepare, score_crops
from realism.score import BATCH


def picture_of(seed: int, *, height: int, width: int) -> np.ndarray:
    """Return a smooth coloured picture."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, dsize=(width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """Return an untrained network with a calibration."""
    torch.manual_seed(3)
    return Checkpoint(Discriminator(Shape()).eval(), Calibration(temperature=0.5, offset=0.1))


def test_crop_holds_subject_with_surroundings() -> None:
    """A crop is 1.7 times the longer side of the subject's box, centred on it, picture and mask alike."""
    picture, mask = np.zeros((100, 140, 3), np.uint8), np.zeros((100, 140), bool)
    mask[40:60, 60:70] = True
    picture[mask] = (200, 100, 50)
    crop = prepare(picture, mask, side=34)
    assert crop.shape == (34, 34, 4)
    assert np.array_equal(crop, np.dstack([picture, np.uint8(255) * mask.view(np.uint8)])[33:67, 48:82])


def test_crop_at_the_frame_is_moved_inside() -> None:
    """A subject at the frame gets as much context as the picture has, and no padding."""
    picture = picture_of(0, height=50, width=80)
    mask = np.zeros((50, 80), bool)
    mask[0:20, 70:80] = True
    crop = prepare(picture, mask, side=34)
    assert np.array_equal(crop[..., :3], picture[:34, 46:])


def test_bool_and_alpha_masks_agree() -> None:
    """A bool mask is an alpha of 0 and 255; neither is written into."""
    picture = picture_of(1, height=70, width=90)
    mask = np.zeros((70, 90), bool)
    mask[20:50, 30:44] = True
    alpha = mask.astype(np.uint8) * 255
    before = picture.copy(), mask.copy()
    assert np.array_equal(prepare(picture, mask), prepare(picture, alpha))
    assert np.array_equal(before[0], picture)
    assert np.array_equal(before[1], mask)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (40, 61)])
def test_mask_that_leaves_nothing_to_compare_is_refused(size: tuple[int, int], *, fill: bool) -> None:
    """A mask that is empty or covers the picture has no subject in a scene, one pixel of picture included."""
    with pytest.raises(ValueError, match="mask must cover part of the picture"):
        prepare(np.zeros((*size, 3), np.uint8), np.full(size, fill))


def test_mask_of_another_size_is_refused() -> None:
    """Picture and mask have one size."""
    with pytest.raises(ValueError, match=r"mask \(H, W\), got \(40, 60, 3\) and \(60, 40\)"):
        prepare(np.zeros((40, 60, 3), np.uint8), np.zeros((60, 40), bool))


def test_wrong_dtype_is_refused() -> None:
    """Floating-point pictures are refused by name."""
    with pytest.raises(TypeError, match="picture must be uint8"):
        prepare(np.zeros((40, 60, 3)), np.zeros((40, 60), bool))


@pytest.mark.parametrize("size", [(30, 10_000), (10_000, 7), (2, 3)])
def test_extreme_pictures_are_scored(size: tuple[int, int], checkpoint: Checkpoint) -> None:
    """Very wide, very high and tiny pictures get a score between 0 and 1."""
    mask = np.zeros(size, bool)
    mask[: size[0] // 2, : size[1] // 2 + 1] = True
    score = score_crops(checkpoint, prepare(picture_of(2, height=size[0], width=size[1]), mask)[None])
    assert 0 <= score[0] <= 1


def test_score_does_not_depend_on_the_company(checkpoint: Checkpoint) -> None:
    """A crop's score is the same alone, first, last, or in another order."""
    rng = np.random.default_rng(4)
    crops = rng.integers(0, 256, (BATCH + 9, 64, 64, 4), dtype=np.uint8)
    together = score_crops(checkpoint, crops)
    order = rng.permutation(len(crops))
    assert np.array_equal(score_crops(checkpoint, crops[order]), together[order])
    assert np.array_equal(np.concatenate([score_crops(checkpoint, crop[None]) for crop in crops[:5]]), together[:5])


def test_scores_have_four_decimals(checkpoint: Checkpoint) -> None:
    """Scores are rounded before anyone compares them, and none is asked of nothing."""
    crops = np.random.default_rng(5).integers(0, 256, (7, 64, 64, 4), dtype=np.uint8)
    scores = score_crops(checkpoint, crops)
    assert np.array_equal(scores, np.round(scores, 4))
    assert len(score_crops(checkpoint, crops[:0])) == 0


def test_scoring_leaves_the_number_of_threads(checkpoint: Checkpoint) -> None:
    """Scoring computes with one thread and gives the caller's number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        score_crops(checkpoint, np.zeros((1, 64, 64, 4), np.uint8))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_crops_of_another_side_are_refused(checkpoint: Checkpoint) -> None:
    """The network takes one size of crop."""
    with pytest.raises(ValueError, match=r"crops must be uint8 \(N, 64, 64, 4\)"):
        score_crops(checkpoint, np.zeros((2, 96, 96, 4), np.uint8))
