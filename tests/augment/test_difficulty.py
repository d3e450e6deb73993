from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from augment.difficulty import WEIGHTS, measure_difficulty, touches_frame

Mask = NDArray[np.bool_]


@pytest.fixture
def block() -> Mask:
    """Return a mask of 30 x 40 px in the middle of 90 x 120."""
    mask = np.zeros((90, 120), bool)
    mask[30:60, 40:80] = True
    return mask


def test_a_plain_wall_and_a_sure_matte_are_no_difficulty(block: Mask) -> None:
    """Flat surroundings, nobody near and full confidence make 0."""
    picture = np.full((90, 120, 3), 120, np.uint8)
    picture[block] = np.random.default_rng(1).integers(0, 256, (np.count_nonzero(block), 3))
    assert measure_difficulty(picture, block, others=np.zeros_like(block), confidence=1.0).total == 0


def test_a_ramp_has_its_slope_as_gradient(block: Mask) -> None:
    """Grey that grows by 2 levels a px has a gradient of 2, and the spread of its columns."""
    picture = np.repeat((2 * np.arange(120, dtype=np.uint8))[None, :, None].repeat(90, axis=0), 3, axis=2)
    measured = measure_difficulty(picture, block, others=np.zeros_like(block), confidence=0.5)
    assert measured.gradient == pytest.approx(2, abs=0.01)
    y, x = np.nonzero(_ring(block))
    assert measured.spread == pytest.approx((2.0 * x).std(), rel=0.01)
    expected = WEIGHTS["gradient"] * 2 / 16 + WEIGHTS["spread"] * measured.spread / 64 + WEIGHTS["doubt"] * 0.5
    assert measured.total == pytest.approx(expected, abs=2e-4)
    assert len(y)


def _ring(mask: Mask) -> Mask:
    """Return the ring by brute force: over 3 and up to 15 px from the nearest pixel of the mask."""
    inside = np.argwhere(mask)
    y, x = np.indices(mask.shape)
    nearest = np.min(np.hypot(y[..., None] - inside[:, 0], x[..., None] - inside[:, 1]), axis=2)
    return np.asarray((nearest > 3) & (nearest <= 15))


def test_neighbours_are_the_share_of_the_ring_that_they_cover(block: Mask) -> None:
    """Somebody on the whole right half of the picture covers half of the ring."""
    others = np.zeros_like(block)
    others[:, 60:] = True
    picture = np.zeros((90, 120, 3), np.uint8)
    assert measure_difficulty(picture, block, others=others, confidence=1.0).neighbours == pytest.approx(0.5, abs=0.01)


def test_the_total_is_at_most_one(block: Mask) -> None:
    """Noise all round, people all round and no confidence make 1, and the weights sum to 1."""
    picture = np.random.default_rng(2).integers(0, 2, (90, 120, 1), dtype=np.uint8).repeat(3, axis=2) * 255
    hard = measure_difficulty(picture, block, others=~block, confidence=0.0)
    assert hard.total == 1.0
    assert sum(WEIGHTS.values()) == pytest.approx(1)


def test_the_subject_itself_does_not_count(block: Mask) -> None:
    """What the picture shows inside the mask changes nothing."""
    picture = np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    other = picture.copy()
    other[block] = 0
    first, second = (measure_difficulty(p, block, others=~block, confidence=0.3) for p in (picture, other))
    assert first == second
    assert set(first.to_json()) == {"gradient", "spread", "neighbours", "confidence", "total"}


def test_a_subject_without_surroundings_is_as_hard_as_can_be() -> None:
    """Where the mask fills the frame there is no ring to look at."""
    mask = np.ones((20, 30), bool)
    measured = measure_difficulty(np.zeros((20, 30, 3), np.uint8), mask, others=~mask, confidence=0.9)
    assert measured.total == 1.0


def test_wrong_arguments_are_refused(block: Mask) -> None:
    """Dtypes, sizes, an empty mask and a confidence out of range are named."""
    picture = np.zeros((90, 120, 3), np.uint8)
    with pytest.raises(TypeError, match="others must be bool"):
        measure_difficulty(picture, block, others=picture[..., 0], confidence=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of one size"):
        measure_difficulty(picture[1:], block, others=block, confidence=1.0)
    with pytest.raises(ValueError, match="must not be empty"):
        measure_difficulty(picture, np.zeros_like(block), others=block, confidence=1.0)
    with pytest.raises(ValueError, match=r"confidence must be in 0..1, got 1.5"):
        measure_difficulty(picture, block, others=block, confidence=1.5)


@pytest.mark.parametrize(
    ("row", "column", "touches"), [(2, 5, False), (1, 5, True), (5, 0, True), (5, 17, False), (5, 18, True)]
)
def test_touching_the_frame_is_within_two_pixels(row: int, column: int, touches: bool) -> None:  # noqa: FBT001
    """A pixel of the mask in the outer two rows or columns touches, one farther in does not."""
    mask = np.zeros((12, 20), bool)
    mask[row, column] = True
    assert touches_frame(mask) is touches


def test_touching_is_asked_of_a_mask() -> None:
    """Only bool (H, W) and margins from 1 on are taken."""
    with pytest.raises(TypeError, match="mask must be bool"):
        touches_frame(np.zeros((5, 6), np.uint8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="margin_px at least 1"):
        touches_frame(np.zeros((5, 6), bool), margin_px=0)
