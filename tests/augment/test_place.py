from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from augment.draw import draw_placement
from augment.place import LARGEST_SCALE, LEAST_HEIGHT_PX, Box, Placement, choose_placement, put, put_mask

Mask = NDArray[np.bool_]

SIZE = (300, 400)


@pytest.fixture(scope="module")
def subject() -> Mask:
    """Return a lopsided figure, 60 x 200 px, off the middle of a picture of 260 x 330."""
    mask = np.zeros((260, 330), bool)
    mask[40:240, 200:230] = True
    mask[200:240, 200:260] = True
    return mask


def crowd(*boxes: Box) -> Mask:
    """Return a mask with the boxes filled."""
    people = np.zeros(SIZE, bool)
    for x, y, width, height in boxes:
        people[y : y + height, x : x + width] = True
    return people


def one(feet: float, *, jitter: float = 0.5, side: float = 0.25, anchor: float = 0.0) -> NDArray[np.float64]:
    """Return a single candidate."""
    return np.array([[anchor, feet, jitter, side]])


def test_a_placement_by_hand_without_people(subject: Mask) -> None:
    """Feet at 0.765 of 300 rows stand 139.5 px below the horizon at 0.3, and so high is the figure."""
    found = choose_placement(one(0.5), subject=subject, size=SIZE, boxes=(), people=crowd())
    scale = 139.5 / 200
    assert found == Placement(
        scale=round(scale, 6),
        left=int(np.floor(3 + (394 - 60 * scale) / 2 - 200 * scale)),
        top=int(np.floor(229.5 - 139.5 - 40 * scale)),
        mirrored=False,
    )


def test_people_set_the_scale(subject: Mask) -> None:
    """Beside a person of 120 px, on the same ground, the figure is 120 px high; 40 px lower it is 20 px higher."""
    box = (300, 100, 50, 120)  # feet at row 220
    for row, height in ((220, 120), (260, 140)):
        numbers = one((row / 300 - 0.55) / 0.43, side=0.1)
        found = choose_placement(numbers, subject=subject, size=SIZE, boxes=[box], people=crowd(box))
        assert found is not None
        assert found.scale * 200 == pytest.approx(height, abs=0.1)


def test_a_person_cut_by_the_lower_edge_sets_no_scale_where_another_is_whole(subject: Mask) -> None:
    """Of two people, the one that is seen whole is taken, whatever the number says."""
    boxes = [(10, 200, 60, 100), (300, 100, 50, 120)]
    for anchor in (0.0, 0.99):
        found = choose_placement(
            one(0.43, anchor=anchor), subject=subject, size=SIZE, boxes=boxes, people=crowd(*boxes)
        )
        assert found is not None
        assert found.scale * 200 == pytest.approx(120, abs=1)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 3))
def test_whatever_is_drawn_is_inside_low_and_free(seed: int, count: int) -> None:
    """Every placement lies in the frame, with the feet in its lower half, covers nobody, and is of a sane size."""
    rng = np.random.default_rng(seed)
    figure = np.zeros((260, 330), bool)
    figure[40:240, 200:230] = figure[200:240, 200:260] = True
    boxes: list[Box] = []
    for _ in range(count):
        width, height = int(rng.integers(20, 120)), int(rng.integers(60, 250))
        boxes.append((int(rng.integers(0, 400 - width)), int(rng.integers(0, 300 - height)), width, height))
    people = crowd(*boxes)
    found = draw_placement(rng, subject=figure, size=SIZE, boxes=boxes, people=people)
    if found is None:
        assert boxes
        return
    placed = put_mask(figure, found, size=SIZE)
    x, y, width, height = cv2.boundingRect(placed.astype(np.uint8))
    assert not (placed & people).any()
    assert min(x, y, 400 - x - width, 300 - y - height) >= 1
    assert y + height > 0.54 * 300
    assert max(LEAST_HEIGHT_PX, 0.15 * 300) - 2 <= height <= 0.95 * 300 + 2
    assert found.scale <= LARGEST_SCALE
    assert width / height == pytest.approx(60 / 200, rel=0.05)


def test_nowhere_to_stand_is_none(subject: Mask) -> None:
    """A frame full of people, one too small, and a figure too wide give no placement."""
    rng = np.random.default_rng(1)
    assert (
        draw_placement(rng, subject=subject, size=SIZE, boxes=[(0, 0, 400, 300)], people=crowd((0, 0, 400, 300)))
        is None
    )
    tiny = np.zeros((40, 60), bool)
    assert draw_placement(rng, subject=subject, size=(40, 60), boxes=(), people=tiny) is None
    lying = np.zeros((50, 900), bool)
    lying[20:40, 10:890] = True
    assert draw_placement(rng, subject=lying, size=SIZE, boxes=(), people=crowd()) is None


def test_a_draw_takes_the_same_numbers_whatever_comes_of_it(subject: Mask) -> None:
    """The generator stands at the same place after a success and after a failure."""
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    draw_placement(first, subject=subject, size=SIZE, boxes=(), people=crowd())
    draw_placement(second, subject=subject, size=SIZE, boxes=[(0, 0, 400, 300)], people=crowd((0, 0, 400, 300)))
    assert first.random() == second.random()


def test_a_placement_survives_json() -> None:
    """What stands in the recipe makes the same placement again; a key too few or too many is refused."""
    placement = Placement(0.731244, -35, 17, mirrored=True)
    flat = placement.to_json()
    assert Placement.from_json(flat) == placement
    with pytest.raises(ValueError, match="these differ: \\['top'\\]"):
        Placement.from_json({key: flat[key] for key in ("scale", "left", "mirrored")})


def test_layers_are_put_by_hand() -> None:
    """Mirrored, halved by averaging, and moved partly out of the frame, each pixel is where it belongs."""
    layer = np.array([[0, 40, 100, 100], [80, 120, 200, 200]], np.uint8)
    placed = put(layer, Placement(0.5, 1, 1, mirrored=True), size=(3, 2))
    assert placed.tolist() == [[0, 0], [0, 150], [0, 0]]
    picture = np.repeat(layer[..., None], 3, axis=2)
    assert put(picture, Placement(0.5, 1, 1, mirrored=True), size=(3, 2))[..., 0].tolist() == [[150, 150]] * 3
    assert put_mask(layer > 90, Placement(0.5, 0, 0, mirrored=False), size=(1, 3)).tolist() == [[False, True, False]]


def test_shrinking_averages(target: NDArray[np.uint8]) -> None:
    """A pattern of single pixels becomes grey, not a coarser pattern, and the mean stays."""
    checked = (np.indices((120, 90)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(put(checked, Placement(0.25, 0, 0, mirrored=False), size=(30, 22)).astype(int) - 127).max() <= 1
    small = put(target, Placement(1 / 3, 0, 0, mirrored=False), size=(100, 73))
    assert np.abs(small.mean(axis=(0, 1)) - target.mean(axis=(0, 1))).max() < 1


def test_the_plain_placement_is_the_identity(target: NDArray[np.uint8], mask: Mask) -> None:
    """At scale 1, neither moved nor mirrored, layers come through bit for bit, as new arrays."""
    here = Placement(1.0, 0, 0, mirrored=False)
    placed = put(target, here, size=(300, 220))
    assert (placed == target).all()
    assert not np.shares_memory(placed, target)
    assert (put_mask(mask, here, size=(300, 220)) == mask).all()


def test_wrong_arguments_are_refused(subject: Mask) -> None:
    """Dtypes, shapes and a placement out of sight are named."""
    here = Placement(1.0, 0, 0, mirrored=False)
    with pytest.raises(TypeError, match="layer must be uint8, got bool"):
        put(subject, here, size=SIZE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="mask must be bool, got uint8"):
        put_mask(subject.astype(np.uint8), here, size=SIZE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layer must be \(h, w\)"):
        put(np.zeros((3, 4, 2), np.uint8), here, size=SIZE)
    with pytest.raises(ValueError, match="must leave some of the layer"):
        put(np.zeros((3, 4), np.uint8), Placement(1.0, 400, 0, mirrored=False), size=SIZE)
    with pytest.raises(ValueError, match="subject must not be empty"):
        choose_placement(one(0.5), subject=np.zeros((4, 5), bool), size=SIZE, boxes=(), people=crowd())
    with pytest.raises(ValueError, match="people must be"):
        choose_placement(one(0.5), subject=subject, size=SIZE, boxes=(), people=subject)
    with pytest.raises(ValueError, match=r"numbers must be \(K, 4\)"):
        choose_placement(np.zeros((3, 3)), subject=subject, size=SIZE, boxes=(), people=crowd())
