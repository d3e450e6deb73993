"""The four conventions of the field: by hand, against obvious versions, and against scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from realism.conventions import CONVENTIONS, MEASURES, measure_all
from tests.reference import conventions as reference

Array = np.ndarray[Any, np.dtype[np.uint8]]


def scene(height: int, width: int, *, seed: int = 0) -> tuple[Array, Array, Array]:
    """Return a smooth photograph, a picture that is off inside its mask and a little around it, and the mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([90 + 60 * np.sin(x / 9), 120 + 50 * np.cos(y / 7), 100 + 0.5 * (x + y)], axis=-1)
    real = np.clip(base + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : 3 * height // 4, width // 5 : width // 2] = 255
    mask[height // 4, width // 5 : width // 2] = 100
    made = np.clip(real + np.where(mask[..., None] > 0, 23, rng.integers(-2, 3, real.shape)), 0, 255)
    return made.astype(np.uint8), real, mask


def by(name: str, made: Array, real: Array, mask: Array) -> dict[str, float]:
    """Measure by one convention."""
    return CONVENTIONS[name].measure(made, real, mask)


def test_all_conventions_stand_in_one_table() -> None:
    """A row a convention and a column a measure, each convention with its source."""
    made, real, mask = scene(60, 80)
    table = measure_all(made, real, mask)
    assert table.shape == (4, 4)
    for row, (name, convention) in zip(table, CONVENTIONS.items(), strict=True):
        assert row.tolist() == [by(name, made, real, mask)[measure] for measure in MEASURES]
        assert len(convention.source) > 60


def test_known_answers_at_256() -> None:
    """Flat colours: each convention's peak, and whether the background counts, can be told by hand."""
    real = np.full((256, 256, 3), 100, np.uint8)
    real[0, 0] = 200
    mask = np.zeros((256, 256), np.uint8)
    mask[64:128, 64:192] = 255  # an eighth
    made = np.where(mask[..., None] > 0, 110, real + 2).astype(np.uint8)
    mse = 100 / 8 + 4 * 7 / 8
    ours = {name: by(name, made, real, mask) for name in CONVENTIONS}
    assert [round(ours[name]["mse"], 4) for name in CONVENTIONS] == [mse, mse, 100, 100 / 8]
    assert all(ours[name]["fmse"] == pytest.approx(100) for name in CONVENTIONS)
    assert ours["iharmony4"]["psnr"] == pytest.approx(10 * np.log10((202 - 102) ** 2 / mse))
    assert ours["issam"]["psnr"] == pytest.approx(10 * np.log10(200**2 / mse), abs=1e-5)
    assert ours["native"]["psnr"] == pytest.approx(10 * np.log10(255**2 / 100))
    assert ours["pasted"]["psnr"] == pytest.approx(10 * np.log10(255**2 / 12.5))


def test_iharmony4_agrees_with_an_obvious_version() -> None:
    """Bicubic by Pillow's rules, a binary mask, the made picture's range as peak."""
    made, real, mask = scene(40, 300)
    ours = by("iharmony4", made, real, mask)
    first, second = (reference.bicubic(picture.astype(float), 256) for picture in (made, real))
    error = reference.mse(first, second)
    assert ours["mse"] == pytest.approx(error, rel=0.01)
    assert ours["psnr"] == pytest.approx(reference.psnr(error, float(np.ptp(first))), abs=0.08)


def test_issam_agrees_with_an_obvious_version() -> None:
    """Linear, the mask a weight, the photograph's largest value as peak."""
    made, real, mask = scene(70, 90)
    ours = by("issam", made, real, mask)
    first, second = (reference.linear(picture.astype(float), 256) for picture in (made, real))
    share = reference.linear(mask / 255, 256)
    error = reference.mse(first, second)
    assert ours["mse"] == pytest.approx(error, rel=1e-3)
    assert ours["fmse"] == pytest.approx(reference.foreground_mse(first, second, share), rel=1e-3)
    assert ours["psnr"] == pytest.approx(reference.psnr(error, float(second.max())), abs=0.01)


def test_native_agrees_with_an_obvious_version() -> None:
    """Pixels over 127 only, as they are; SSIM of the windows around them."""
    made, real, mask = scene(44, 56)
    ours = by("native", made, real, mask)
    first, second, inside = made.astype(float), real.astype(float), mask > 127
    error = reference.foreground_mse(first, second, inside.astype(float))
    assert ours["fmse"] == ours["mse"] == pytest.approx(error, rel=1e-6)
    assert ours["psnr"] == pytest.approx(reference.psnr(error, 255), abs=1e-6)
    assert ours["ssim"] == pytest.approx(reference.ssim(first, second, 255, inside), abs=1e-5)


def test_psnr_and_ssim_are_those_of_scikit_image() -> None:
    """At 256 x 256, where nothing is scaled, with each convention's peak."""
    made, real, mask = scene(256, 256)
    first, second = made.astype(np.float64), real.astype(np.float64)
    pasted = np.where(mask[..., None] > 127, first, second)
    cases = (
        ("iharmony4", first, np.ptp(first), np.ptp(first)),
        ("issam", first, second.max(), 255),
        ("pasted", pasted, 255, 255),
    )
    for name, picture, peak, other in cases:
        ours = by(name, made, real, mask)
        assert ours["psnr"] == pytest.approx(peak_signal_noise_ratio(second, picture, data_range=peak), abs=1e-4)
        assert ours["ssim"] == pytest.approx(
            structural_similarity(second, picture, channel_axis=2, data_range=other), abs=1e-5
        )


@pytest.mark.parametrize("box", [(0, 0), (40, 0), (0, 55), (43, 57)])
def test_the_border_of_the_picture_is_no_exception(box: tuple[int, int]) -> None:
    """A mask of a few pixels anywhere has the SSIM that the whole picture's map has there."""
    made, real, mask = scene(46, 60)
    mask[:] = 0
    mask[box[0] : box[0] + 3, box[1] : box[1] + 3] = 255
    _, whole = structural_similarity(
        made.astype(np.float32), real.astype(np.float32), channel_axis=2, data_range=255, full=True
    )
    assert by("native", made, real, mask)["ssim"] == pytest.approx(whole[mask > 127].mean(), abs=1e-5)


@pytest.mark.parametrize("name", list(CONVENTIONS))
def test_the_same_picture_is_perfect(name: str) -> None:
    """No error, SSIM 1, and a PSNR that stays a number."""
    _, real, mask = scene(50, 70)
    ours = by(name, real, real, mask)
    assert (ours["mse"], ours["fmse"], round(ours["ssim"], 6)) == (0, 0, 1)
    assert 99 <= ours["psnr"] <= 110


@pytest.mark.parametrize("name", list(CONVENTIONS))
@pytest.mark.parametrize("level", [0, 255])
def test_flat_pictures_are_measured(name: str, level: int) -> None:
    """A picture of one colour has no range, a black photograph no peak; all values are numbers."""
    _, real, mask = scene(50, 70)
    flat = np.full_like(real, level)
    for pair in ((flat, real), (real, flat), (flat, flat)):
        assert np.isfinite(list(by(name, *pair, mask).values())).all()


def test_arguments_are_left_alone_and_checked() -> None:
    """Nothing is written into them, and what does not belong together is told."""
    made, real, mask = scene(30, 40)
    copies = [layer.copy() for layer in (made, real, mask)]
    measure_all(made, real, mask)
    assert all(np.array_equal(now, before) for now, before in zip((made, real, mask), copies, strict=True))
    with pytest.raises(ValueError, match=r"of one size"):
        measure_all(made[:, 1:], real, mask)
    with pytest.raises(ValueError, match=r"7 pixels a side"):
        measure_all(made[:6], real[:6], mask[:6])
