from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from augment import matte as kernels
from augment.blend import composite, feather
from augment.matte import BACKGROUND, FOREGROUND, UNKNOWN, band_widths, estimate_matte, make_trimap

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def draw_subject(*, noise: float = 2.0) -> tuple[Picture, Picture, Picture]:
    """Return a picture of an orange disc with soft, frayed edge before blue stripes, its true alpha, its true colours."""
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:150, :190]
    angle, radius = np.arctan2(y - 75, x - 95), np.hypot(y - 75, x - 95)
    edge = 45 + np.sin(9 * angle) + 2 * np.sin(23 * angle)
    alpha = np.clip((edge - radius) / 4 + 0.5, 0, 1)
    foreground = np.stack([210 + 0 * x, 120 + 0.2 * x, 40 + 0.2 * y], axis=2)
    background = np.stack([40 + 0 * x, 90 + 15 * np.sin(x / 9), 170 + 15 * np.sin(y / 7)], axis=2)
    picture = alpha[..., None] * foreground + (1 - alpha[..., None]) * background + rng.normal(0, noise, (*x.shape, 3))
    return tuple(np.clip(np.rint(part), 0, 255).astype(np.uint8) for part in (picture, 255 * alpha, foreground))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def rough() -> Mask:
    """Return the subject's mask as a polygon of 16 corners would draw it."""
    alpha = draw_subject()[1]
    contours, _ = cv2.findContours((alpha > 127).astype(np.uint8), mode=cv2.RETR_EXTERNAL, method=cv2.CHAIN_APPROX_NONE)
    corners = np.ascontiguousarray(contours[0][:: len(contours[0]) // 16])
    drawn = cv2.fillPoly(np.zeros_like(alpha), pts=[corners], color=1)
    return np.asarray(drawn > 0)


def test_a_trimap_counted_by_hand() -> None:
    """Along a row, the band reaches the asked number of pixels to both sides of the edge."""
    mask = np.zeros((40, 60), bool)
    mask[:, 30:] = True
    row = make_trimap(mask, inner_px=5, outer_px=3)[20].tolist()
    assert row == [BACKGROUND] * 27 + [UNKNOWN] * 8 + [FOREGROUND] * 25


def test_the_frame_is_no_edge_of_a_trimap() -> None:
    """Where the mask runs out of the picture, it is known up to the frame."""
    mask = np.zeros((40, 60), bool)
    mask[10:, 20:40] = True
    assert (make_trimap(mask, inner_px=4, outer_px=4)[39, 24:36] == FOREGROUND).all()


def test_a_thin_limb_keeps_a_known_core() -> None:
    """A limb of 9 px, all within reach of the edge, keeps its middle; a hair of 2 px does not."""
    mask = np.zeros((80, 90), bool)
    mask[20:60, 10:50] = True
    mask[30:39, 50:80] = True
    mask[50:52, 50:80] = True
    trimap = make_trimap(mask, inner_px=8, outer_px=4)
    assert (trimap[34, 55:75] == FOREGROUND).all()
    assert not (trimap[30:32, 55:75] == FOREGROUND).any()
    assert (trimap[50:52, 60:75] == UNKNOWN).all()


def test_known_pixels_agree_with_the_mask(mask: Mask) -> None:
    """Foreground is only known inside the mask, background only outside."""
    trimap = make_trimap(mask, inner_px=6.5, outer_px=9.0)
    assert mask[trimap == FOREGROUND].all()
    assert not mask[trimap == BACKGROUND].any()
    assert set(np.unique(trimap)) == {BACKGROUND, UNKNOWN, FOREGROUND}


def test_the_band_grows_with_the_subject_within_limits() -> None:
    """A small subject has a band of 3 and 4 px, a large one of 10 and 14."""
    small, large = np.zeros((50, 70), bool), np.zeros((700, 900), bool)
    small[10:30, 10:30] = True
    large[50:650, 50:850] = True
    assert band_widths(small) == (3.0, 4.0)
    assert band_widths(large) == (10.0, 14.0)


@pytest.mark.parametrize("fill", [False, True])
def test_an_empty_or_full_mask_is_refused(fill: bool) -> None:  # noqa: FBT001
    """There is nothing to cut out, or nothing to cut it out of."""
    mask = np.full((20, 30), fill)
    with pytest.raises(ValueError, match="neither empty nor full"):
        make_trimap(mask, inner_px=3, outer_px=3)
    with pytest.raises(ValueError, match="neither empty nor full"):
        estimate_matte(np.zeros((20, 30, 3), np.uint8), mask)


def test_wrong_arrays_are_refused(mask: Mask, target: Picture) -> None:
    """Dtypes, sizes and widths are checked."""
    with pytest.raises(TypeError, match="mask must be bool, got uint8"):
        make_trimap(mask.astype(np.uint8), inner_px=3, outer_px=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must not be negative"):
        make_trimap(mask, inner_px=-1, outer_px=3)
    with pytest.raises(TypeError, match="picture must be uint8"):
        estimate_matte(target.astype(float), mask)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of one size"):
        estimate_matte(target[1:], mask)


def test_a_matte_is_nearer_to_the_truth_than_its_mask(rough: Mask) -> None:
    """From a rough polygon, the true alpha of a drawn subject is found to a twentieth of the polygon's error."""
    picture, alpha, _ = draw_subject()
    matte = estimate_matte(picture, rough)
    error, before = (np.mean((guess - alpha.astype(float)) ** 2) for guess in (matte.alpha, 255.0 * rough))
    assert matte.reason is None
    assert error < before / 20


def test_the_colours_are_free_of_the_old_background(rough: Mask) -> None:
    """Where the picture's edge shows a mixture, the foreground has the subject's own colour."""
    picture, alpha, colours = draw_subject()
    matte = estimate_matte(picture, rough)
    edge = (alpha > 60) & (alpha < 190)
    off, before = (np.abs(guess[edge].astype(int) - colours[edge]).mean() for guess in (matte.foreground, picture))
    assert before > 35
    assert off < before / 3


def test_laid_over_its_own_background_the_picture_comes_back(target: Picture, mask: Mask) -> None:
    """Alpha and colours explain the photograph: over an estimate of the background nothing visible changes."""
    matte = estimate_matte(target, mask)
    inside = matte.alpha == 255
    assert np.abs(matte.foreground[inside].astype(int) - target[inside]).mean() < 1
    assert (composite(target, matte.foreground, matte.alpha)[matte.alpha == 0] == target[matte.alpha == 0]).all()


def test_alpha_is_sure_where_the_trimap_is(target: Picture, mask: Mask) -> None:
    """Known foreground is 255 and known background 0."""
    inner_px, outer_px = band_widths(mask)
    trimap = make_trimap(mask, inner_px=inner_px, outer_px=outer_px)
    alpha = estimate_matte(target, mask).alpha
    assert (alpha[trimap == FOREGROUND] == 255).all()
    assert (alpha[trimap == BACKGROUND] == 0).all()


def test_confidence_falls_with_the_mask_and_with_the_contrast(rough: Mask) -> None:
    """A mask drawn far too wide, and a subject of its background's colours, are trusted less."""
    picture, alpha, _ = draw_subject()
    sure = estimate_matte(picture, rough).confidence
    wide = cv2.dilate((alpha > 127).astype(np.uint8), kernel=np.ones((25, 25), np.uint8)) > 0
    grey = np.random.default_rng(2).integers(100, 140, picture.shape, dtype=np.uint8)
    assert sure > 0.45
    assert estimate_matte(picture, wide).confidence < sure / 2
    assert estimate_matte(grey, rough).confidence < sure / 4


def test_a_large_subject_is_solved_small(monkeypatch: pytest.MonkeyPatch, rough: Mask) -> None:
    """Scaled down for solving, the matte stays close to the one solved in full."""
    picture, _, _ = draw_subject()
    full = estimate_matte(picture, rough)
    monkeypatch.setattr(kernels, "SOLVE_SIDE", 80)
    small = estimate_matte(picture, rough)
    assert small.alpha.shape == full.alpha.shape
    assert np.abs(small.alpha.astype(int) - full.alpha).mean() < 3


def test_a_mask_without_core_gets_the_feathered_mask_and_a_reason() -> None:
    """A hairline mask has nothing that is known to be the subject."""
    mask = np.zeros((40, 70), bool)
    mask[20:22, 10:60] = True
    matte = estimate_matte(np.full((40, 70, 3), 99, np.uint8), mask)
    assert (matte.reason, matte.confidence) == ("no_core", 0.0)
    assert (matte.alpha == feather(mask, 2.0)).all()


def test_a_solver_that_does_not_arrive_gives_a_reason(monkeypatch: pytest.MonkeyPatch, rough: Mask) -> None:
    """Without convergence the feathered mask stands in, with confidence 0, and nothing is raised."""
    picture, _, _ = draw_subject()
    monkeypatch.setattr(kernels, "MAX_ITERATIONS", 1)
    matte = estimate_matte(picture, rough)
    assert (matte.reason, matte.confidence) == ("unsolved", 0.0)
    assert (matte.alpha == feather(rough, 2.0)).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_picture_is_no_crash(level: int, rough: Mask) -> None:
    """Where no colour tells anything, a matte of low confidence comes out."""
    matte = estimate_matte(np.full((*rough.shape, 3), level, np.uint8), rough)
    assert matte.confidence < 0.05


def test_subjects_at_the_frame_and_tiny_ones_are_no_crash() -> None:
    """Masks in a corner, nearly full, or of a few pixels give a matte of the picture's size."""
    picture = np.random.default_rng(3).integers(0, 256, (23, 37, 3), dtype=np.uint8)
    for rows, columns in (
        (np.s_[:9], np.s_[:12]),
        (np.s_[1:], np.s_[:]),
        (np.s_[5:7], np.s_[5:7]),
        (np.s_[:], np.s_[:2]),
    ):
        mask = np.zeros((23, 37), bool)
        mask[rows, columns] = True
        matte = estimate_matte(picture, mask)
        assert matte.alpha.shape == mask.shape
        assert 0 <= matte.confidence <= 1


def test_matting_only_reads_its_arguments(rough: Mask) -> None:
    """Picture and mask stay as they were."""
    picture, mask = draw_subject()[0], rough.copy()
    before = picture.copy()
    estimate_matte(picture, mask)
    assert (picture == before).all()
    assert (mask == rough).all()


_DIGEST = """
import hashlib
from skimage import data
import numpy as np
from augment import estimate_matte
picture = np.ascontiguousarray(data.astronaut()[0:400, 60:400])
y, x = np.mgrid[:400, :340]
matte = estimate_matte(picture, ((y - 230) / 200) ** 2 + ((x - 165) / 100) ** 2 < 1)
print(hashlib.sha256(matte.alpha.tobytes() + matte.foreground.tobytes() + repr(matte.confidence).encode()).hexdigest())
"""


def test_the_bytes_do_not_depend_on_the_number_of_threads() -> None:
    """With one thread and with several, for BLAS, OpenMP and numba, the same matte comes out."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env=os.environ | dict.fromkeys(names, count),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for count in ("1", "4")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == hashlib.sha256().digest_size * 2
