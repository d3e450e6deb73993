"""What every family promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from augment.draw import DEFAULT_FAMILIES
from augment.transfer import TRANSFERS

Pixels = NDArray[np.uint8]
FAMILIES = sorted(TRANSFERS)


def test_the_table_holds_every_family_but_perturb() -> None:
    """What can be drawn can be estimated."""
    assert {*TRANSFERS, "perturb"} == set(DEFAULT_FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_own_statistics_change_nothing(family: str, subject: Pixels) -> None:
    """With itself as reference a subject stays as it is; idt, estimated on a part, may move a rare colour by a level."""
    change = np.abs(TRANSFERS[family](subject, subject).apply(subject) - subject)
    assert change.mean() < 0.05
    assert change.max() < (1 if family == "idt" else 0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_are_float32_on_any_pixels(family: str, subject: Pixels, reference: Pixels) -> None:
    """A map applies to pixels that it was not estimated on, and gives finite float32 of the same shape."""
    corners = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)], np.uint8)
    mapped = TRANSFERS[family](subject, reference).apply(corners)
    assert mapped.shape == (8, 3)
    assert mapped.dtype == np.float32
    assert np.isfinite(mapped).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("one", [(0, 0, 0), (255, 255, 255), (200, 30, 60), (119, 119, 119)])
@pytest.mark.parametrize("count", [1, 50])
def test_flat_colours_and_single_pixels_are_no_trap(
    family: str, one: tuple[int, ...], count: int, subject: Pixels
) -> None:
    """No spread on either side divides by zero or runs away."""
    flat = np.full((count, 3), one, np.uint8)
    for own, other in ((flat, subject), (subject, flat), (flat, flat)):
        color_map = TRANSFERS[family](own, other)
        mapped = color_map.apply(own)
        assert np.isfinite(mapped).all()
        assert np.abs(mapped).max() < 600
        assert all(not isinstance(note, float) or math.isfinite(note) for note in color_map.notes.values())


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "luminance_cct"])
def test_a_flat_subject_comes_near_the_references_middle(family: str, reference: Pixels) -> None:
    """A single colour goes among the reference's and not to their end (`luminance_cct` keeps the hue of what it lights)."""
    mapped = TRANSFERS[family](np.full((9, 3), (40, 90, 150), np.uint8), reference).apply(
        np.full((1, 3), (40, 90, 150), np.uint8)
    )
    assert np.abs(mapped[0] - np.median(reference, axis=0)).max() < 25


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_lightness_changes_between_greys(family: str) -> None:
    """Grey to grey stays grey."""
    ramp = np.repeat(np.arange(40, 200, dtype=np.uint8)[:, None], 3, axis=1)
    mapped = TRANSFERS[family](ramp, (ramp // 2 + 20).astype(np.uint8)).apply(ramp)
    assert np.ptp(mapped, axis=1).max() < 1.5


@pytest.mark.parametrize("family", FAMILIES)
def test_arguments_are_only_read(family: str, subject: Pixels, reference: Pixels) -> None:
    """Estimating and applying leave the pixels alone."""
    own, other = subject.copy(), reference.copy()
    TRANSFERS[family](own, other).apply(own)
    assert (own == subject).all()
    assert (other == reference).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (np.zeros((0, 3), np.uint8), ValueError),
        (np.zeros((4, 4), np.uint8), ValueError),
        (np.zeros((2, 2, 3), np.uint8), ValueError),
        (np.zeros((4, 3), np.float32), TypeError),
        ([[0, 0, 0]], TypeError),
    ],
)
def test_wrong_pixels_are_refused_by_name(family: str, wrong: Pixels, error: type[Exception], subject: Pixels) -> None:
    """The message names the argument that is wrong."""
    with pytest.raises(error, match=r"^subject must"):
        TRANSFERS[family](wrong, subject)
    with pytest.raises(error, match=r"^reference must"):
        TRANSFERS[family](subject, wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_the_pixels_does_not_count(family: str, subject: Pixels, reference: Pixels) -> None:
    """Statistics are those of sets; small sets, so that idt looks at every pixel."""
    own, other = subject[:9000], reference[:7000]
    there, back = (TRANSFERS[family](own[::step], other[::step]).apply(own) for step in (1, -1))
    np.testing.assert_allclose(there, back, atol=1e-3)
