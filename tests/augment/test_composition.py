"""What is measured on a composition: by hand, at the limits, and on what a network may do wrong."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from augment.checks import LIMITS, judge_gates
from augment.composition import EDGE_PX, SIGHT_PX, measure_composition, near_mask

Picture = NDArray[np.uint8]

REACH = 8


def layers(*, height: int = 150, width: int = 170) -> tuple[Picture, Picture, Picture]:
    """Return foreground, background and mask: a square subject of 40 px, old surroundings 60, new ones 200."""
    foreground, background = (np.full((height, width, 3), level, np.uint8) for level in (60, 200))
    mask = np.zeros((height, width), np.uint8)
    mask[50:90, 60:100] = 255
    foreground[mask > 0] = 120
    return foreground, background, mask


def pasted(foreground: Picture, background: Picture, mask: Picture) -> Picture:
    """Return the exact composition."""
    return np.where(mask[..., None] > 127, foreground, background)


def test_an_exact_composition_has_no_fault() -> None:
    """The subject is there, the background is there, and nothing else: every gate measures 0."""
    foreground, background, mask = layers()
    made = pasted(foreground, background, mask)
    faults = measure_composition(made, foreground, background, mask, reach_px=REACH)
    assert faults == {"background_changed": 0.0, "subject_lost": 0.0, "halo": 0.0}


def test_a_changed_background_by_hand() -> None:
    """Four levels more in one of three channels, all over what is looked at, are a mean of 4 / 3."""
    foreground, background, mask = layers()
    made = pasted(foreground, background, mask)
    made[..., 1] = np.where(near_mask(mask, REACH), made[..., 1], 204)
    faults = measure_composition(made, foreground, background, mask, reach_px=REACH)
    assert faults["background_changed"] == pytest.approx(4 / 3)
    assert faults["subject_lost"] == faults["halo"] == 0


def test_what_is_far_away_is_not_looked_at() -> None:
    """No network changes anything there, and it would only thin the mean out."""
    foreground, background, mask = layers(height=400, width=420)
    made = pasted(foreground, background, mask)
    far = made.copy()
    far[90 + REACH + SIGHT_PX :] = 0
    assert measure_composition(far, foreground, background, mask, reach_px=REACH)["background_changed"] == 0


def test_a_lost_part_is_its_share() -> None:
    """Half of the subject gone is half of its deep pixels."""
    foreground, background, mask = layers()
    made = pasted(foreground, background, mask)
    made[50:70] = background[50:70]
    faults = measure_composition(made, foreground, background, mask, reach_px=REACH)
    assert faults["subject_lost"] == pytest.approx(0.5)
    assert judge_gates(faults) == ("subject_lost", faults["subject_lost"], LIMITS["subject_lost"])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_halo_is_the_share_of_old_surroundings_that_is_seen(share: float) -> None:
    """What shines through outside the mask, whatever the colours."""
    foreground, background, mask = layers()
    made = pasted(foreground, background, mask)
    ring = near_mask(mask, REACH) & (mask == 0)
    made[ring] = np.rint(share * 60 + (1 - share) * 200)
    found = measure_composition(made, foreground, background, mask, reach_px=REACH)["halo"]
    assert found == pytest.approx(share, abs=0.01)


def test_an_edge_of_some_pixels_is_no_halo() -> None:
    """A polygon's edge is uncertain by as much."""
    foreground, background, mask = layers()
    made = pasted(foreground, background, mask)
    made[50 - EDGE_PX + 1 : 50, 60:100] = 60
    assert measure_composition(made, foreground, background, mask, reach_px=REACH)["halo"] == 0


def test_surroundings_of_one_colour_show_no_halo() -> None:
    """Where old and new look alike nobody sees a halo, and nothing is divided by zero."""
    foreground, background, mask = layers()
    background[:] = 62
    made = np.where(near_mask(mask, REACH)[..., None], foreground, background)
    assert measure_composition(made, foreground, background, mask, reach_px=REACH)["halo"] == 0


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_plain_picture_is_dropped(level: int) -> None:
    """A network that paints one colour is dropped by the first gate."""
    foreground, background, mask = layers()
    made = np.full_like(foreground, level)
    failed = judge_gates(measure_composition(made, foreground, background, mask, reach_px=REACH))
    assert failed is not None
    assert failed[0] == "background_changed"


def test_a_subject_as_large_as_the_frame_can_be_measured() -> None:
    """Nothing is outside the mask: no background to change, no ring."""
    foreground, background, mask = layers(height=60, width=64)
    mask[:] = 255
    faults = measure_composition(foreground, foreground, background, mask, reach_px=REACH)
    assert faults == {"background_changed": 0.0, "subject_lost": 0.0, "halo": 0.0}


def test_a_thin_subject_has_a_middle() -> None:
    """A limb of three pixels is not skipped for being thin."""
    foreground, background, mask = layers()
    mask[:] = 0
    mask[40:100, 70:73] = 255
    foreground[mask > 0] = 120
    assert measure_composition(background, foreground, background, mask, reach_px=REACH)["subject_lost"] == 1


def test_arguments_are_checked_and_left_alone() -> None:
    """Wrong kinds and shapes raise; nothing is written into."""
    foreground, background, mask = layers()
    before = [layer.copy() for layer in (foreground, background, mask)]
    measure_composition(foreground, foreground, background, mask, reach_px=REACH)
    assert all(np.array_equal(layer, was) for layer, was in zip((foreground, background, mask), before, strict=True))
    with pytest.raises(TypeError, match="uint8"):
        measure_composition(foreground / 255, foreground, background, mask, reach_px=REACH)
    with pytest.raises(ValueError, match="must"):
        measure_composition(foreground[1:], foreground, background, mask, reach_px=REACH)
    with pytest.raises(ValueError, match="mask must have pixels over 127"):
        measure_composition(foreground, foreground, background, np.zeros_like(mask), reach_px=REACH)


def test_near_is_a_disc() -> None:
    """One pixel grows to a disc of the reach; 127 is outside."""
    mask = np.zeros((31, 37), np.uint8)
    mask[15, 18], mask[3, 3] = 128, 127
    near = near_mask(mask, 5)
    assert near[15, 18 + 5]
    assert not near[15, 18 + 6]
    assert not near[10, 13]
    assert not near[3, 3]
