from __future__ import annotations

import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from augment import DEFAULT_FAMILIES, Recipe, draw_recipe, edit_subject, feather
from augment.edit import NOTE_KEYS, local_light
from augment.transfer import TRANSFERS

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
FAMILIES = sorted(DEFAULT_FAMILIES)

PLAIN = Recipe(
    family="mkl",
    strength=1.0,
    feather_px=1.5,
    perturb=None,
    local_angle=None,
    local_center=None,
    local_width=None,
    local_low=None,
    idt_rotation=None,
    idt_iterations=None,
)
LIT = {"local_angle": 0.0, "local_center": 0.0, "local_width": 0.5, "local_low": 0.25}


def _recipe(family: str, **changes: object) -> Recipe:
    numbers: dict[str, object] = {"idt_rotation": 3, "idt_iterations": 6} if family == "idt" else {}
    if family == "perturb":
        numbers["perturb"] = ((1.2, 0.1),)
    return dataclasses.replace(PLAIN, family=family, **{**numbers, **changes})


@pytest.fixture(scope="module")
def alpha(mask: Mask) -> Picture:
    """Return the alpha of the astronaut's mask."""
    return feather(mask, 1.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_changes_where_alpha_is_zero(family: str, target: Picture, alpha: Picture, reference: Picture) -> None:
    """Outside, the composite is the target bit for bit; inside it is not."""
    edited = edit_subject(target, alpha, reference, _recipe(family))
    assert (edited.picture[alpha == 0] == target[alpha == 0]).all()
    assert (edited.picture[alpha == 255] != target[alpha == 255]).any(axis=1).mean() > 0.9


def test_the_box_is_that_of_the_alpha(target: Picture, alpha: Picture, reference: Picture) -> None:
    """y0, y1, x0, x1 hold every pixel with alpha above zero, tightly."""
    y0, y1, x0, x1 = edit_subject(target, alpha, reference, PLAIN).box
    rows, columns = np.nonzero(alpha)
    assert (y0, y1, x0, x1) == (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)


def test_full_strength_is_the_map(target: Picture, alpha: Picture, reference: Picture, subject: Picture) -> None:
    """Where alpha is full, the composite is the mapped colour, rounded and clipped once."""
    mapped = TRANSFERS["mkl"](subject, reference).apply(target[alpha == 255])
    picture = edit_subject(target, alpha, reference, PLAIN).picture
    assert np.abs(picture[alpha == 255] - np.clip(mapped, 0, 255)).max() <= 0.501


def test_strength_goes_part_of_the_way(target: Picture, alpha: Picture, reference: Picture, subject: Picture) -> None:
    """At 0.4 a pixel is four tenths of the way to its mapped colour, before clipping."""
    picture = edit_subject(target, alpha, reference, dataclasses.replace(PLAIN, strength=0.4)).picture
    own = target[alpha == 255]
    wanted = own + 0.4 * (TRANSFERS["mkl"](subject, reference).apply(own) - own)
    assert np.abs(picture[alpha == 255] - np.clip(wanted, 0, 255)).max() <= 0.501


@pytest.mark.parametrize("family", sorted(TRANSFERS))
def test_the_own_reference_gives_the_target_again(family: str, target: Picture, mask: Mask, alpha: Picture) -> None:
    """With the subject as its own reference no pixel changes, regrained or not."""
    picture = edit_subject(target, alpha, target[mask], _recipe(family)).picture
    assert np.abs(picture.astype(int) - target).max() == 0


def test_statistics_are_those_of_the_inside(target: Picture, alpha: Picture, reference: Picture) -> None:
    """Pixels of the ramp, alpha 127 and below, and of the background do not influence the inside."""
    painted = target.copy()
    painted[alpha <= 127] = (255, 0, 255)
    one, other = (edit_subject(picture, alpha, reference, PLAIN).picture for picture in (target, painted))
    assert (one[alpha == 255] == other[alpha == 255]).all()


def test_perturbation_comes_last(target: Picture, alpha: Picture, reference: Picture, mask: Mask) -> None:
    """Around the mean of the subject as the transfer left it, whatever the strength."""
    changed = dataclasses.replace(PLAIN, strength=0.5, perturb=((0.8, 0.02),))
    before = (
        edit_subject(target, alpha, reference, dataclasses.replace(PLAIN, strength=0.5)).picture[mask].astype(float)
    )
    after = edit_subject(target, alpha, reference, changed).picture
    wanted = 0.8 * (before - before.mean(axis=0)) + before.mean(axis=0) + 0.02 * 255
    full = (alpha == 255)[mask]
    assert np.abs(after[mask] - wanted)[full].mean() < 1


def test_perturb_as_a_family_follows_strength(target: Picture, alpha: Picture, reference: Picture) -> None:
    """Half the strength of 0.1 brightness is 0.05, and the reference is not looked at."""
    recipe = _recipe("perturb", strength=0.5, perturb=((1.0, 0.1),))
    picture = edit_subject(target, alpha, reference, recipe).picture
    changed = picture[alpha == 255].astype(int) - target[alpha == 255]
    assert np.median(changed) in {12, 13}
    assert (picture == edit_subject(target, alpha, reference[:0], recipe).picture).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_notes_have_fixed_keys_and_plain_values(
    family: str, target: Picture, alpha: Picture, reference: Picture
) -> None:
    """Every family fills the same keys; numbers have six decimals."""
    notes = edit_subject(target, alpha, reference, _recipe(family)).notes
    assert tuple(notes) == NOTE_KEYS
    for note in notes.values():
        assert note is None or isinstance(note, str | bool | int | float)
        assert not isinstance(note, float) or round(note, 6) == note


def test_notes_tell_which_perturbation_was_used(target: Picture, alpha: Picture, reference: Picture) -> None:
    """The candidate's place and the number refused are kept; without perturbation they are None."""
    notes = edit_subject(target, alpha, reference, _recipe("perturb", perturb=((1.5, 0.9), (1.0, 0.01)))).notes
    assert (notes["perturb_index"], notes["perturb_redraws"]) == (1, 1)
    assert edit_subject(target, alpha, reference, PLAIN).notes["perturb_index"] is None


def test_notes_count_pixels(target: Picture, alpha: Picture, mask: Mask, reference: Picture) -> None:
    """The sizes of both sets are those the statistics were taken from."""
    notes = edit_subject(target, alpha, reference, PLAIN).notes
    assert notes["subject_pixels"] == mask.sum()
    assert notes["reference_pixels"] == len(reference)


def test_local_light_by_hand() -> None:
    """Lit from the right: a quarter on the left, all on the right, half way between in the middle."""
    field = local_light((3, 101), dataclasses.replace(PLAIN, **LIT))
    np.testing.assert_allclose(field[:, [0, 50, 100]], [[0.25, 0.625, 1.0]] * 3, atol=1e-6)
    assert (np.diff(field, axis=1) >= 0).all()


@pytest.mark.parametrize(("angle", "bright"), [(0, (2, 4)), (90, (4, 2)), (180, (2, 0)), (270, (0, 2))])
def test_local_light_comes_from_its_angle(angle: float, bright: tuple[int, int]) -> None:
    """0 degrees is right, 90 below, as rows and columns run."""
    field = local_light((5, 5), dataclasses.replace(PLAIN, **{**LIT, "local_angle": float(angle)}))
    assert field[bright] == pytest.approx(1)
    assert field[4 - bright[0], 4 - bright[1]] == pytest.approx(0.25)


@pytest.mark.parametrize("family", FAMILIES)
def test_local_light_weakens_the_far_side(family: str, target: Picture, alpha: Picture, reference: Picture) -> None:
    """With nothing left on the far side, the left of the box is the target and the right the even edit."""
    even = edit_subject(target, alpha, reference, _recipe(family))
    lit = edit_subject(target, alpha, reference, _recipe(family, **{**LIT, "local_low": 0.0}))
    _, _, x0, x1 = even.box
    left, right = slice(x0, x0 + (x1 - x0) // 5), slice(x1 - (x1 - x0) // 5, x1)
    assert np.abs(lit.picture[:, left].astype(int) - target[:, left]).max() <= 1
    assert np.abs(lit.picture[:, right].astype(int) - even.picture[:, right]).max() <= 1


def test_a_recipe_without_local_light_has_no_field() -> None:
    """Asking for it is the caller's mistake."""
    with pytest.raises(ValueError, match="must have all of local_"):
        local_light((3, 4), PLAIN)


@pytest.mark.parametrize("family", FAMILIES)
def test_arguments_are_only_read(family: str, target: Picture, alpha: Picture, reference: Picture) -> None:
    """Target, alpha and reference are as they were, and the picture is a new array."""
    arrays = [target.copy(), alpha.copy(), reference.copy()]
    edited = edit_subject(arrays[0], arrays[1], arrays[2], _recipe(family, **LIT))
    assert all((a == b).all() for a, b in zip(arrays, (target, alpha, reference), strict=True))
    assert not np.shares_memory(edited.picture, arrays[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_subject_of_one_pixel_at_the_corner_can_be_edited(family: str, target: Picture, reference: Picture) -> None:
    """The smallest subject is no special case."""
    tiny = np.zeros(target.shape[:2], bool)
    tiny[-1, 0] = True
    edited = edit_subject(target, feather(tiny, 2.0), reference, _recipe(family))
    assert edited.notes["subject_pixels"] == 1


@pytest.mark.parametrize("family", ["luminance_cct", "idt"])
def test_the_whole_picture_can_be_the_subject(family: str, target: Picture, reference: Picture) -> None:
    """An alpha of 255 throughout has no edge and no outside."""
    full = np.full(target.shape[:2], 255, np.uint8)
    assert edit_subject(target, full, reference, _recipe(family)).box == (0, 300, 0, 220)


def test_no_subject_is_refused(target: Picture, reference: Picture) -> None:
    """An alpha that never exceeds 127 selects nothing."""
    for level in (0, 127):
        with pytest.raises(ValueError, match="alpha must be above 127 somewhere"):
            edit_subject(target, np.full(target.shape[:2], level, np.uint8), reference, PLAIN)


def test_no_reference_is_refused(target: Picture, alpha: Picture, reference: Picture) -> None:
    """Statistics of nothing are an error, not a guess."""
    with pytest.raises(ValueError, match=r"^reference must have shape"):
        edit_subject(target, alpha, reference[:0], PLAIN)


def test_an_unknown_family_is_refused(target: Picture, alpha: Picture, reference: Picture) -> None:
    """The message lists what there is."""
    with pytest.raises(ValueError, match="must be perturb or one of luminance_cct"):
        edit_subject(target, alpha, reference, dataclasses.replace(PLAIN, family="sepia"))


def test_pictures_of_other_types_are_refused(target: Picture, alpha: Picture, reference: Picture) -> None:
    """Floats and greys are not guessed at."""
    with pytest.raises(TypeError, match="must be uint8"):
        edit_subject(target.astype(np.float32), alpha, reference, PLAIN)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must both be \(H, W, 3\)"):
        edit_subject(target[..., 0], alpha, reference, PLAIN)


def test_a_target_that_is_a_view_is_edited_alike(target: Picture, alpha: Picture, reference: Picture) -> None:
    """Memory layout does not change a byte."""
    view = np.asfortranarray(target)
    one, other = (edit_subject(picture, alpha, reference, PLAIN).picture for picture in (target, view))
    assert (one == other).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_do_not_change_a_byte(family: str, target: Picture, alpha: Picture, reference: Picture) -> None:
    """The same recipe gives the same bytes alone, repeated, beside others, and with OpenCV's own threads."""
    recipe = draw_recipe(np.random.default_rng(21), families={family: 1.0})

    def digest(_: int) -> str:
        return hashlib.sha256(edit_subject(target, alpha, reference, recipe).picture.tobytes()).hexdigest()

    digests = {digest(0)}
    with ThreadPoolExecutor(max_workers=3) as pool:
        digests |= set(pool.map(digest, range(3)))
    cv2.setNumThreads(4)
    digests.add(digest(0))
    assert len(digests) == 1
