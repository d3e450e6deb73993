from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.color import rgb2lab

from augment import color
from tests.reference.color import lab_f_inverse_of, lab_f_of, level_of, linear_of

ILLUMINANT_A, D50, D65 = (0.44757, 0.40745), (0.34567, 0.35850), (0.31271, 0.32902)
WHITE_D50 = np.array([0.96422, 1.0, 0.82521])


def _ramp(low: float, high: float, count: int = 30_000) -> NDArray[np.float32]:
    return np.linspace(low, high, count, dtype=np.float32).reshape(-1, 3)


def test_linear_light_of_every_level_is_the_standards() -> None:
    """Decoding a level is exact to float32."""
    levels = np.arange(255, dtype=np.uint8).reshape(-1, 3)
    expected = [linear_of(level) for level in range(255)]
    np.testing.assert_allclose(color.linear_from_srgb(levels).ravel(), expected, rtol=1e-6)


def test_encoding_by_table_is_far_below_a_tenth_of_a_level_wrong() -> None:
    """The table for encoding errs by at most 0.05 of a level anywhere in its range."""
    linear = _ramp(-0.12, 1.49)
    expected = np.array([level_of(float(value)) for value in linear.ravel()]).reshape(-1, 3)
    assert np.abs(color.srgb_from_linear(linear) - expected).max() < 0.05


def test_encoding_holds_light_outside_its_table_at_the_ends() -> None:
    """Light far out of range is neither wrapped nor mirrored."""
    encoded = color.srgb_from_linear(np.array([[-9.0, 0.0, 9.0]], np.float32))
    np.testing.assert_allclose(encoded, [[level_of(-0.125), 0.0, level_of(1.5)]], atol=0.05)


def test_every_level_survives_decoding_and_encoding() -> None:
    """Going to linear light and back gives each level again, rounded."""
    levels = np.arange(255, dtype=np.uint8).reshape(-1, 3)
    assert (color.levels_from_floats(color.srgb_from_linear(color.linear_from_srgb(levels))) == levels).all()


def test_levels_are_rounded_and_clipped() -> None:
    """Floats become the nearest level; what is out of range becomes the end, not its absolute value."""
    values = np.array([[-40.0, 0.6, 1.4, 254.6, 300.0, 127.0]], np.float32)
    assert color.levels_from_floats(values).tolist() == [[0, 1, 1, 255, 255, 127]]


def test_the_matrix_to_xyz_is_the_published_one() -> None:
    """Linear sRGB to XYZ has the coefficients of IEC 61966-2-1 to four digits."""
    published = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    np.testing.assert_allclose(color.LINEAR_TO_XYZ, published, atol=1e-4)


def test_middle_grey_has_its_published_lightness() -> None:
    """Reflecting 18 % of the light is L* 49.5, and sRGB 119 is L* 50.0."""
    white = np.array([[0.18, 0.18, 0.18]], np.float32)
    lab = color.lab_from_xyz(color.transform(white, color.LINEAR_TO_XYZ))
    np.testing.assert_allclose(lab, [[49.496, 0, 0]], atol=0.01)
    grey = color.linear_from_srgb(np.full((1, 3), 119, np.uint8))
    np.testing.assert_allclose(color.lab_from_xyz(color.transform(grey, color.LINEAR_TO_XYZ))[0, 0], 50.03, atol=0.01)


def test_lab_agrees_with_scikit_image_on_a_picture(subject: NDArray[np.uint8]) -> None:
    """CIE Lab of real pixels is that of another implementation."""
    xyz = color.transform(color.linear_from_srgb(subject), color.LINEAR_TO_XYZ)
    np.testing.assert_allclose(color.lab_from_xyz(xyz), rgb2lab(subject[:, None])[:, 0], atol=0.03)


def test_lab_goes_back_to_xyz(subject: NDArray[np.uint8]) -> None:
    """Converting to Lab and back changes nothing, for any white."""
    xyz = color.transform(color.linear_from_srgb(subject), color.LINEAR_TO_XYZ)
    back = color.xyz_from_lab(color.lab_from_xyz(xyz, white=WHITE_D50), white=WHITE_D50)
    np.testing.assert_allclose(back, xyz, atol=2e-6)


def test_the_root_of_lab_is_exact_on_both_sides_of_its_knee() -> None:
    """The compression and its inverse are the printed formulas, below zero too."""
    ratio = _ramp(-0.1, 1.4, 3000)
    root = color.lab_f(ratio)
    np.testing.assert_allclose(root.ravel(), [lab_f_of(float(value)) for value in ratio.ravel()], atol=2e-6)
    inverse = [lab_f_inverse_of(float(value)) for value in root.ravel()]
    np.testing.assert_allclose(color.lab_f_inverse(root).ravel(), inverse, atol=2e-6)


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [
        ((255, 255, 255), (255, 128, 128)),
        ((255, 0, 0), (76.245, 84.972, 255.5)),
        ((0, 0, 255), (29.07, 255.5, 107.265)),
    ],
)
def test_ycbcr_of_corners(rgb: tuple[int, ...], ycbcr: tuple[float, ...]) -> None:
    """White, red and blue have the YCbCr that ITU-T T.871 gives them."""
    pixel = np.array([rgb], np.float32)
    np.testing.assert_allclose(color.ycbcr_from_srgb(pixel), [ycbcr], atol=0.01)
    np.testing.assert_allclose(color.srgb_from_ycbcr(color.ycbcr_from_srgb(pixel)), pixel, atol=1e-3)


def test_mean_light_is_that_of_the_pixels(subject: NDArray[np.uint8]) -> None:
    """Averaging by counts is averaging the pixels' light."""
    expected = color.linear_from_srgb(subject).astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(color.mean_linear(subject), expected, rtol=1e-6)


@pytest.mark.parametrize(("xy", "kelvin"), [(ILLUMINANT_A, 2856), (D50, 5003), (D65, 6504)])
def test_temperatures_of_standard_lights(xy: tuple[float, float], kelvin: float) -> None:
    """McCamy's formula gives CIE A, D50 and D65 their temperatures to 5 kelvin."""
    assert color.kelvin_from_xy(xy) == pytest.approx(kelvin, abs=5)


def test_temperature_of_a_violet_is_finite() -> None:
    """The pole of McCamy's formula is no division by zero."""
    assert np.isfinite(color.kelvin_from_xy((0.2, 0.1858)))


@pytest.mark.parametrize(("xy", "duv"), [(ILLUMINANT_A, 0.0), (D50, 0.0033), (D65, 0.0032)])
def test_distances_of_standard_lights_from_the_locus(xy: tuple[float, float], duv: float) -> None:
    """CIE A lies on the Planckian locus, daylight a little above it."""
    assert color.duv_from_xy(xy) == pytest.approx(duv, abs=0.0005)


@pytest.mark.parametrize("kelvin", [2500.0, 4000.0, 9000.0])
@pytest.mark.parametrize("duv", [-0.02, 0.0, 0.02])
def test_distance_is_measured_across_the_locus(kelvin: float, duv: float) -> None:
    """A light moved off a black body's by 0.02, square to the locus in u and v, has that Duv, green being positive."""
    locus = [_uv(color.planckian_xy(kelvin * (1 + step))) for step in (-0.001, 0.0, 0.001)]
    along = (locus[2] - locus[0]) / np.linalg.norm(locus[2] - locus[0])
    u, v = locus[1] + duv * np.array([along[1], -along[0]])
    xy = (3 * u / (2 * u - 8 * v + 4), 2 * v / (2 * u - 8 * v + 4))
    assert color.duv_from_xy(xy) == pytest.approx(duv, abs=0.001)


def _uv(xy: tuple[float, float]) -> NDArray[np.float64]:
    scale = -2 * xy[0] + 12 * xy[1] + 3
    return np.array([4 * xy[0] / scale, 6 * xy[1] / scale])


@pytest.mark.parametrize(
    ("kelvin", "xy"),
    [
        (2222, (0.5030, 0.4152)),
        (2856, (0.4474, 0.4074)),
        (4000, (0.3823, 0.3838)),
        (5003, D50),
        (6504, D65),
        (10000, (0.2788, 0.2920)),
    ],
)
def test_whites_of_temperatures(kelvin: float, xy: tuple[float, float]) -> None:
    """The whites are CIE daylight from 4,000 kelvin up and a black body's below."""
    np.testing.assert_allclose(color.chromaticity(color.white_of_kelvin(kelvin)), xy, atol=0.0015)


@pytest.mark.parametrize(
    ("kelvin", "xy"), [(2000, (0.5267, 0.4133)), (6500, (0.3135, 0.3237)), (20000, (0.2565, 0.2577))]
)
def test_black_bodies(kelvin: float, xy: tuple[float, float]) -> None:
    """The cubic splines of the Planckian locus hold over their whole range."""
    np.testing.assert_allclose(color.planckian_xy(kelvin), xy, atol=0.0015)


@pytest.mark.parametrize("kelvin", [1600.0, 26_000.0, float("nan")])
def test_a_white_outside_the_formulas_is_refused(kelvin: float) -> None:
    """No white is made up beyond the published range."""
    with pytest.raises(ValueError, match=r"kelvin must lie in 1667..25000"):
        color.white_of_kelvin(kelvin)


def test_no_light_has_no_chromaticity() -> None:
    """Black is refused rather than divided by."""
    with pytest.raises(ValueError, match="positive sum"):
        color.chromaticity(np.zeros(3))


def test_bradford_from_d65_to_d50_is_the_published_matrix() -> None:
    """Adapting D65 to D50 is Lindbloom's published matrix."""
    published = [
        [1.0478112, 0.0228866, -0.0501270],
        [0.0295424, 0.9904844, -0.0170491],
        [-0.0092345, 0.0150436, 0.7521316],
    ]
    matrix = color.adaptation_matrix(np.array([0.95047, 1.0, 1.08883]), WHITE_D50)
    np.testing.assert_allclose(matrix, published, atol=2e-5)


def test_adaptation_takes_white_to_white() -> None:
    """The source's white becomes the target's, exactly, and the way back undoes it."""
    warm, cool = color.white_of_kelvin(3000), color.white_of_kelvin(9000)
    np.testing.assert_allclose(color.adaptation_matrix(warm, cool) @ warm, cool, rtol=1e-12)
    there_and_back = color.adaptation_matrix(cool, warm) @ color.adaptation_matrix(warm, cool)
    np.testing.assert_allclose(there_and_back, np.eye(3), atol=1e-12)
