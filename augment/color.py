"""Convert between the colour spaces the kernels need, and reason about the colour of the light.

Pixels are rows: (N, 3). Encoded values are sRGB on the 0..255 scale, linear light is 0..1 (IEC 61966-2-1:1999).
Values outside those ranges are carried, not clipped: whoever writes a picture clips once.
"""

from __future__ import annotations

from typing import Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]
_Scalar = TypeVar("_Scalar", np.uint8, np.uint16, np.float32)

RED_XY, GREEN_XY, BLUE_XY = (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)
WHITE_XY: Final = (0.3127, 0.3290)
"""D65, the white of sRGB."""

# Ruderman, Cronin, Chiao 1998, as printed by Reinhard et al. 2001; rows sum to about 1 for linear sRGB white.
LINEAR_TO_LMS: Final[Matrix] = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
LOG_LMS_TO_LAB: Final[Matrix] = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array(
    [[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]]
)

# ITU-T T.871 (2011), the YCbCr of JPEG; the fourth column is the offset on the 0..255 scale.
RGB_TO_YCBCR: Final[Matrix] = np.array(
    [
        [0.299, 0.587, 0.114, 0.0],
        [-0.299 / 1.772, -0.587 / 1.772, 0.5, 128.0],
        [0.5, -0.587 / 1.402, -0.114 / 1.402, 128.0],
    ]
)
YCBCR_TO_RGB: Final[Matrix] = np.column_stack(
    [np.linalg.inv(RGB_TO_YCBCR[:, :3]), -np.linalg.inv(RGB_TO_YCBCR[:, :3]) @ RGB_TO_YCBCR[:, 3]]
)

BRADFORD: Final[Matrix] = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""XYZ to the cone-like space of the Bradford transform (Lam 1985)."""

KELVIN_RANGE: Final = (1667.0, 25000.0)
"""Where both published locus formulas hold."""

_LAB_KNEE = (6 / 29) ** 3
_LAB_SLOPE = (29 / 6) ** 2 / 3
# The table from linear light to sRGB: 65,536 steps over this range, at most 0.05 of a level wrong, in deep shadow only.
_TABLE_LOW, _TABLE_HIGH, _TABLE_STEPS = -0.125, 1.5, 65536


def white_xyz(xy: tuple[float, float]) -> Matrix:
    """Return the XYZ of a white of luminance 1 with the given chromaticity, float64 (3,)."""
    x, y = xy
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _linear_to_xyz() -> Matrix:
    primaries = np.column_stack([white_xyz(RED_XY), white_xyz(GREEN_XY), white_xyz(BLUE_XY)])
    return np.asarray(primaries * np.linalg.solve(primaries, white_xyz(WHITE_XY)), np.float64)


LINEAR_TO_XYZ: Final[Matrix] = _linear_to_xyz()
XYZ_TO_LINEAR: Final[Matrix] = np.asarray(np.linalg.inv(LINEAR_TO_XYZ), np.float64)
WHITE_D65: Final[Matrix] = white_xyz(WHITE_XY)


def decode_srgb(encoded: NDArray[np.floating]) -> Matrix:
    """Decode sRGB 0..255 to linear light 0..1 by the exact formula, mirrored below zero; slow, for tables and tests."""
    value = np.abs(np.asarray(encoded, np.float64)) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.copysign(linear, encoded))


def encode_srgb(linear: NDArray[np.floating]) -> Matrix:
    """Encode linear light 0..1 as sRGB 0..255 by the exact formula, mirrored below zero; slow, for tables and tests."""
    value = np.abs(np.asarray(linear, np.float64))
    encoded = np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)
    return np.asarray(np.copysign(255 * encoded, linear))


_TO_LINEAR = decode_srgb(np.arange(256.0)).astype(np.float32)
_TO_SRGB = encode_srgb(np.linspace(_TABLE_LOW, _TABLE_HIGH, _TABLE_STEPS)).astype(np.float32)


def rows(values: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """View (N, C) as the (N, 1, C) image that OpenCV's per-pixel functions want."""
    return values.reshape(len(values), 1, -1)


def levels_from_floats(values: Floats) -> Pixels:
    """Round float32 values of any shape to the nearest level and clip them to 0..255, uint8."""
    return np.asarray(cv2.addWeighted(values, 1.0, values, 0.0, 0.0, dtype=cv2.CV_8U), np.uint8)


def steps_from_floats(values: Floats, scale: float, offset: float) -> NDArray[np.uint16]:
    """Round scale * value + offset of float32 values of any shape, clipped to 0..65535, uint16: an index to a table."""
    values = np.ascontiguousarray(values)  # OpenCV would go through a single column row by row, far slower
    return np.asarray(cv2.addWeighted(values, scale, values, 0.0, offset, dtype=cv2.CV_16U), np.uint16)


def transform(values: Floats, matrix: Matrix) -> Floats:
    """Multiply every row of `values`, float32 (N, 3), by `matrix`, (R, 3) or (R, 4) with an offset; float32 (N, R)."""
    image = cv2.transform(rows(values), matrix.astype(np.float32))
    return np.asarray(image, np.float32).reshape(-1, len(matrix))


def linear_from_srgb(pixels: Pixels) -> Floats:
    """Look up the linear light of uint8 sRGB pixels (N, 3); float32 (N, 3), 0..1, exact to float32."""
    return np.asarray(cv2.LUT(rows(pixels), _TO_LINEAR), np.float32).reshape(-1, 3)


def srgb_from_linear(linear: Floats) -> Floats:
    """Encode linear light (N, 3) as sRGB on the 0..255 scale, float32 (N, 3), not rounded.

    Light outside -0.125..1.5 gets the value of that limit, far outside what a picture can hold.
    """
    scale = (_TABLE_STEPS - 1) / (_TABLE_HIGH - _TABLE_LOW)
    index = steps_from_floats(rows(linear), scale, -_TABLE_LOW * scale)
    return _TO_SRGB.take(index).reshape(-1, 3)


def float_from_srgb(pixels: Pixels) -> Floats:
    """Return uint8 pixels (N, 3) as float32 on the same 0..255 scale."""
    return pixels.astype(np.float32)


def mean_linear(pixels: Pixels) -> Matrix:
    """Average uint8 sRGB pixels (N, 3) in linear light; float64 (3,), 0..1. Exact counts, so no order of summing."""
    counts = [cv2.calcHist([rows(pixels)], [c], None, [256], [0, 256]).ravel() for c in range(3)]
    return np.array([(count.astype(np.float64) * _TO_LINEAR).sum() for count in counts]) / len(pixels)


def lab_f(ratio: Floats) -> Floats:
    """Compress XYZ / white, float32 of any shape (N, C), by CIE Lab's cube root with a linear foot (CIE 15:2004)."""
    above = np.maximum(ratio, np.float32(_LAB_KNEE))
    root = cv2.pow(above, 1 / 3)
    return np.asarray(root + np.float32(_LAB_SLOPE) * (ratio - above))


def lab_f_inverse(root: Floats) -> Floats:
    """Undo `lab_f`."""
    above = np.maximum(root, np.float32(6 / 29))
    return np.asarray(above * above * above + np.float32(1 / _LAB_SLOPE) * (root - above))


def lab_from_xyz(xyz: Floats, *, white: Matrix = WHITE_D65) -> Floats:
    """Convert XYZ (N, 3), white at luminance 1, to CIE Lab (N, 3): L* 0..100, a* and b* about -128..128."""
    root = lab_f((xyz / white).astype(np.float32))
    return transform(root, np.array([[0.0, 116, 0, -16], [500, -500, 0, 0], [0, 200, -200, 0]]))


def xyz_from_lab(lab: Floats, *, white: Matrix = WHITE_D65) -> Floats:
    """Convert CIE Lab (N, 3) back to XYZ (N, 3), white at luminance 1."""
    to_root = np.array([[1 / 116, 1 / 500, 0, 16 / 116], [1 / 116, 0, 0, 16 / 116], [1 / 116, 0, -1 / 200, 16 / 116]])
    return np.asarray(lab_f_inverse(transform(lab, to_root)) * white, np.float32)


def ycbcr_from_srgb(pixels: Floats) -> Floats:
    """Convert sRGB (N, 3) on the 0..255 scale to full-range YCbCr (N, 3), also 0..255, greys at 128 (ITU-T T.871)."""
    return transform(pixels, RGB_TO_YCBCR)


def srgb_from_ycbcr(ycbcr: Floats) -> Floats:
    """Convert full-range YCbCr (N, 3) back to sRGB (N, 3) on the 0..255 scale, not clipped."""
    return transform(ycbcr, YCBCR_TO_RGB)


def chromaticity(xyz: Matrix) -> tuple[float, float]:
    """Return CIE 1931 x, y of one XYZ triple; the sum must not be zero."""
    total = float(xyz.sum())
    if total <= 0:
        raise ValueError(f"xyz must have a positive sum, got {xyz.tolist()}")
    return float(xyz[0]) / total, float(xyz[1]) / total


def kelvin_from_xy(xy: tuple[float, float]) -> float:
    """Return the correlated colour temperature in kelvin of a chromaticity (McCamy 1992), good for 2,000 to 12,500."""
    x, y = xy
    rise = 0.1858 - y
    # Only violet, no light at all, comes near to zero here; the temperature is then meaningless, but finite.
    n = (x - 0.3320) / (rise if abs(rise) > 1e-6 else 1e-6)
    return ((449.0 * n + 3525.0) * n + 6823.3) * n + 5520.33


def duv_from_xy(xy: tuple[float, float]) -> float:
    """Return the signed distance from the Planckian locus in CIE 1960 u, v, positive towards green (Ohno 2014)."""
    x, y = xy
    scale = -2 * x + 12 * y + 3
    du, dv = 4 * x / scale - 0.292, 6 * y / scale - 0.24
    radius = float(np.hypot(du, dv))
    angle = float(np.arccos(np.clip(du / max(radius, 1e-9), -1, 1)))
    coefficients = (-0.00616793, 0.0893944, -0.5179722, 1.5317403, -2.4243787, 1.925865, -0.471106)
    return radius - float(np.polyval(coefficients, angle))


def daylight_xy(kelvin: float) -> tuple[float, float]:
    """Return the chromaticity of CIE daylight of 4,000 to 25,000 kelvin (CIE 15:2004)."""
    k = 1000 / kelvin
    if kelvin <= 7000:
        x = ((-4.6070 * k + 2.9678) * k + 0.09911) * k + 0.244063
    else:
        x = ((-2.0064 * k + 1.9018) * k + 0.24748) * k + 0.237040
    return x, (-3.0 * x + 2.870) * x - 0.275


def planckian_xy(kelvin: float) -> tuple[float, float]:
    """Return the chromaticity of a black body of 1,667 to 25,000 kelvin (Kim et al. 2002, cubic splines)."""
    k = 1000 / kelvin
    if kelvin <= 4000:
        x = ((-0.2661239 * k - 0.2343589) * k + 0.8776956) * k + 0.179910
    else:
        x = ((-3.0258469 * k + 2.1070379) * k + 0.2226347) * k + 0.240390
    if kelvin <= 2222:
        y = ((-1.1063814 * x - 1.34811020) * x + 2.18555832) * x - 0.20219683
    elif kelvin <= 4000:
        y = ((-0.9549476 * x - 1.37418593) * x + 2.09137015) * x - 0.16748867
    else:
        y = ((3.0817580 * x - 5.87338670) * x + 3.75112997) * x - 0.37001483
    return x, y


def white_of_kelvin(kelvin: float) -> Matrix:
    """Return the XYZ, luminance 1, of the light of a colour temperature: daylight from 4,000 K up, Planckian below."""
    low, high = KELVIN_RANGE
    if not low <= kelvin <= high:
        raise ValueError(f"kelvin must lie in {low:g}..{high:g}, got {kelvin!r}")
    return white_xyz(daylight_xy(kelvin) if kelvin >= 4000 else planckian_xy(kelvin))


def adaptation_matrix(source_white: Matrix, target_white: Matrix) -> Matrix:
    """Return the (3, 3) Bradford matrix that takes XYZ seen under one white to XYZ under another (Lam 1985)."""
    gains = (BRADFORD @ target_white) / (BRADFORD @ source_white)
    return np.asarray(np.linalg.inv(BRADFORD) @ (gains[:, None] * BRADFORD))
