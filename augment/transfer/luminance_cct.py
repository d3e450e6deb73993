"""Give the subject the colour of the light and the lightness distribution of the reference.

The light's colour is guessed from the mean linear chromaticity of each set (McCamy 1992) and changed by Bradford
adaptation (Lam 1985) between whites of those temperatures; then CIE L* is matched by its histogram. Chromaticity is
kept there, as under more or less of the same light, and not a* and b*, which would make gold of a darkened beige.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.color import (
    KELVIN_RANGE,
    LINEAR_TO_XYZ,
    WHITE_D65,
    XYZ_TO_LINEAR,
    Floats,
    Matrix,
    Pixels,
    adaptation_matrix,
    chromaticity,
    duv_from_xy,
    kelvin_from_xy,
    lab_f,
    lab_f_inverse,
    linear_from_srgb,
    mean_linear,
    rows,
    srgb_from_linear,
    steps_from_floats,
    transform,
    white_of_kelvin,
)
from augment.transfer.colormap import ColorMap, Note, check_pixels
from augment.transfer.histogram import count_bins, limit_gain, matching_shift

MIRED_LIMIT = 120.0
"""Largest change of colour temperature, in mired (a million over kelvin)."""
DUV_LIMIT = 0.02
"""Farther than this from the locus of lights a colour temperature means nothing (green shirt, purple stage)."""
STEPS_PER_L = 32
BINS = 128 * STEPS_PER_L
_RATIO_TO_LINEAR = XYZ_TO_LINEAR * WHITE_D65


def luminance_cct(subject: Pixels, reference: Pixels) -> ColorMap:
    """Estimate the map to the reference's colour temperature and distribution of CIE L*.

    Args:
        subject: uint8 sRGB (N, 3).
        reference: uint8 sRGB (M, 3).

    Returns:
        The map. Notes: `kelvin_subject`, `kelvin_reference`, `duv_subject`, `duv_reference` (None for pure black),
        `mired_shift` as applied, `mired_limited`, `cct_skipped`: None, or why only L* is matched (`black`, `duv`,
        `range`), and `gain_limited`, whether the curve of L* met `histogram.GAIN_LIMIT`.

    Raises:
        TypeError, ValueError: Not uint8, not (N, 3), or no pixels.

    """
    check_pixels("subject", subject)
    check_pixels("reference", reference)
    adaptation, notes = _adaptation(subject, reference)
    to_ratio = (adaptation @ LINEAR_TO_XYZ) / WHITE_D65[:, None]
    own = count_bins(_lightness_bins(subject, to_ratio), BINS)
    other = count_bins(_lightness_bins(reference, LINEAR_TO_XYZ), BINS)
    shift, notes["gain_limited"] = limit_gain(matching_shift(own, other), own)
    # L* = 116 f(Y) - 16, and f is a cube root: multiplying it alike for X, Y and Z is multiplying the light.
    gain = 1 + shift / (np.arange(BINS, dtype=np.float32) + np.float32(16 * STEPS_PER_L))
    return ColorMap(partial(_apply, to_ratio=to_ratio, gain=gain), notes)


def light_of(pixels: Pixels) -> tuple[float, float] | None:
    """Return correlated colour temperature (kelvin) and Duv of the mean linear light of (N, 3); None if all black."""
    mean = mean_linear(pixels)
    if mean.sum() <= 0:
        return None
    xy = chromaticity(LINEAR_TO_XYZ @ mean)
    return kelvin_from_xy(xy), duv_from_xy(xy)


def _adaptation(subject: Pixels, reference: Pixels) -> tuple[Matrix, dict[str, Note]]:
    own, other = light_of(subject), light_of(reference)
    skipped = _reason_to_skip(own) or _reason_to_skip(other)
    matrix, shift, limited = np.eye(3), 0.0, False
    if own and other and not skipped:
        matrix, shift, limited = _limited_adaptation(own[0], other[0])
    return matrix, {
        "kelvin_subject": own and own[0],
        "kelvin_reference": other and other[0],
        "duv_subject": own and own[1],
        "duv_reference": other and other[1],
        "mired_shift": shift,
        "mired_limited": limited,
        "cct_skipped": skipped,
    }


def _reason_to_skip(light: tuple[float, float] | None) -> str | None:
    if light is None:
        return "black"
    kelvin, duv = light
    if abs(duv) > DUV_LIMIT:
        return "duv"
    return None if KELVIN_RANGE[0] <= kelvin <= KELVIN_RANGE[1] else "range"


def _limited_adaptation(own: float, other: float) -> tuple[Matrix, float, bool]:
    wanted = 1e6 / other - 1e6 / own
    shift = float(np.clip(wanted, -MIRED_LIMIT, MIRED_LIMIT))
    matrix = adaptation_matrix(white_of_kelvin(own), white_of_kelvin(1e6 / (1e6 / own + shift)))
    return matrix, shift, shift != wanted


def _bins_of_root(root: Floats) -> NDArray[np.uint16]:
    return steps_from_floats(root, 116.0 * STEPS_PER_L, -16.0 * STEPS_PER_L)


def _lightness_bins(pixels: Pixels, to_ratio: Matrix) -> NDArray[np.uint16]:
    return _bins_of_root(lab_f(transform(linear_from_srgb(pixels), to_ratio[1:2])))


def _apply(pixels: Pixels, *, to_ratio: Matrix, gain: Floats) -> Floats:
    root = lab_f(transform(linear_from_srgb(pixels), to_ratio))
    light = rows(gain.take(_bins_of_root(root[:, 1:2]).ravel(), mode="clip"))
    root = np.asarray(cv2.multiply(rows(root), cv2.merge([light, light, light])), np.float32).reshape(-1, 3)
    return srgb_from_linear(transform(lab_f_inverse(root), _RATIO_TO_LINEAR))
