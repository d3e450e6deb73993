from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from augment.color import (
    LINEAR_TO_XYZ,
    WHITE_D65,
    XYZ_TO_LINEAR,
    adaptation_matrix,
    levels_from_floats,
    linear_from_srgb,
    srgb_from_linear,
    white_of_kelvin,
)
from augment.transfer.luminance_cct import MIRED_LIMIT, light_of, luminance_cct
from tests.reference import transfer as slow

Pixels = NDArray[np.uint8]


def _lit_by(kelvin: float, *, count: int = 200) -> Pixels:
    """Return greys of many lightnesses under a light of that temperature."""
    light = np.linspace(0.05, 0.5, count)[:, None] * (XYZ_TO_LINEAR @ white_of_kelvin(kelvin))
    return levels_from_floats(srgb_from_linear(light.astype(np.float32)))


@pytest.mark.parametrize("kelvin", [3000.0, 4500.0, 6500.0, 9000.0])
def test_the_temperature_of_greys_is_that_of_their_light(kelvin: float) -> None:
    """A grey subject shows the light it stands in, to 2 %."""
    light = light_of(_lit_by(kelvin))
    assert light is not None
    assert light[0] == pytest.approx(kelvin, rel=0.02)
    assert abs(light[1]) < 0.006


def test_warm_greys_become_the_references_cool_ones() -> None:
    """Greys in the light of 4,500 K get the chromaticity of 6,500 K."""
    own = _lit_by(4500)
    color_map = luminance_cct(own, _lit_by(6500))
    assert color_map.notes["mired_shift"] == pytest.approx(1e6 / 6500 - 1e6 / 4500, abs=2)
    assert not color_map.notes["mired_limited"]
    np.testing.assert_allclose(color_map.apply(own)[100], _lit_by(6500)[100], atol=2)


@pytest.mark.parametrize(("own", "other", "sign"), [(2700.0, 9000.0, -1), (9000.0, 2700.0, 1)])
def test_the_shift_is_limited(own: float, other: float, sign: int) -> None:
    """Candle light does not become shade: 120 mired either way, and it is noted."""
    notes = luminance_cct(_lit_by(own), _lit_by(other)).notes
    assert notes["mired_shift"] == sign * MIRED_LIMIT
    assert notes["mired_limited"] is True


@pytest.mark.parametrize(
    ("subject_color", "reference_color", "reason"),
    [
        ((30, 160, 40), (150, 140, 130), "duv"),
        ((150, 140, 130), (0, 0, 0), "black"),
        ((150, 180, 255), (120, 120, 120), "range"),
    ],
)
def test_meaningless_temperatures_are_skipped(
    subject_color: tuple[int, ...], reference_color: tuple[int, ...], reason: str
) -> None:
    """A green shirt, black, and a light beyond 25,000 K get L* matching alone, and the reason is noted."""
    own, other = (np.full((20, 3), value, np.uint8) for value in (subject_color, reference_color))
    notes = luminance_cct(own, other).notes
    assert notes["cct_skipped"] == reason
    assert notes["mired_shift"] == 0


def test_lightness_takes_the_references_distribution(subject: Pixels, reference: Pixels) -> None:
    """On a real picture the quantiles of L* become the reference's, all but the darkest, where the gain is limited."""
    mapped = luminance_cct(subject, reference).apply(subject)
    ranks = np.linspace(0.1, 0.98, 25)
    own, wanted = (
        np.quantile(slow.lightness(pixels, adaptation=np.eye(3), to_xyz=LINEAR_TO_XYZ), ranks)
        for pixels in (np.clip(mapped[::5], -20, 300).astype(float), reference[::5].astype(float))
    )
    assert np.abs(own - wanted).max() < 0.5


def test_lightness_alone_keeps_the_chromaticity() -> None:
    """A third of the same light on one colour gives that colour at a third of its light."""
    own = np.full((10, 3), (180, 130, 110), np.uint8)
    darker = levels_from_floats(srgb_from_linear(linear_from_srgb(own) / 3))
    np.testing.assert_allclose(luminance_cct(own, darker).apply(own), darker, atol=1)


def test_the_map_is_the_formula_step_by_step(subject: Pixels, reference: Pixels) -> None:
    """Tables, merged matrices and float32 agree with float64 formulas to a tenth of a level."""
    some = subject[::40]
    color_map = luminance_cct(subject, reference)
    own, shift = (color_map.notes[name] for name in ("kelvin_subject", "mired_shift"))
    assert isinstance(own, float)
    assert isinstance(shift, float)
    adaptation = adaptation_matrix(white_of_kelvin(own), white_of_kelvin(1e6 / (1e6 / own + shift)))
    mapped = color_map.apply(some).astype(float)
    lightness = slow.lightness(some.astype(float), adaptation=adaptation, to_xyz=LINEAR_TO_XYZ)
    wanted = slow.lightness(mapped, adaptation=np.eye(3), to_xyz=LINEAR_TO_XYZ)
    expected = slow.relight(
        some.astype(float),
        adaptation=adaptation,
        to_xyz=LINEAR_TO_XYZ,
        white=WHITE_D65,
        gain=(wanted + 16) / (lightness + 16),
    )
    shown = (mapped > 0) & (mapped < 255)
    assert np.abs(mapped - expected)[shown].max() < 0.2
