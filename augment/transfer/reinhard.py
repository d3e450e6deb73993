"""Match mean and spread per channel in Ruderman's l-alpha-beta (Reinhard, Ashikhmin, Gooch, Shirley 2001)."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from augment.color import (
    LINEAR_TO_LMS,
    LOG_LMS_TO_LAB,
    Floats,
    Matrix,
    Pixels,
    linear_from_srgb,
    rows,
    srgb_from_linear,
    transform,
)
from augment.transfer.colormap import ColorMap, check_pixels

LIGHT_FLOOR = 2e-3
"""Added to each cone's answer before the logarithm (white is 1): black has a logarithm, and noise in it no weight."""
SPREAD_FLOOR = 1e-3
"""Natural logarithm; a channel with less spread than this is shifted, not stretched."""
GAIN_LIMIT = 5.0
"""No channel's spread is raised more than this."""
_LOG_LIMIT = 3.0
_TO_LMS = np.column_stack([LINEAR_TO_LMS, np.full(3, LIGHT_FLOOR)])
_LMS_TO_LINEAR = np.linalg.inv(LINEAR_TO_LMS)
_FROM_LMS = np.column_stack([_LMS_TO_LINEAR, -_LMS_TO_LINEAR @ np.full(3, LIGHT_FLOOR)])


def reinhard(subject: Pixels, reference: Pixels) -> ColorMap:
    """Estimate the map that gives the subject the reference's mean and spread in each of l, alpha and beta.

    Args:
        subject: uint8 sRGB (N, 3).
        reference: uint8 sRGB (M, 3).

    Returns:
        The map; note `gain_limited` tells whether a spread met `GAIN_LIMIT` or was too small to stretch.

    Raises:
        TypeError, ValueError: Not uint8, not (N, 3), or no pixels.

    """
    check_pixels("subject", subject)
    check_pixels("reference", reference)
    mean, spread = _moments(subject)
    wanted_mean, wanted_spread = _moments(reference)
    flat = spread < SPREAD_FLOOR
    gain = np.where(flat, 1.0, wanted_spread / np.maximum(spread, SPREAD_FLOOR))
    limited = bool(flat.any() or (gain > GAIN_LIMIT).any())
    # l-alpha-beta is linear in the logarithms, so going there, stretching and coming back is one affine map of them.
    to_lab, from_lab = LOG_LMS_TO_LAB, np.linalg.inv(LOG_LMS_TO_LAB)
    gain = np.minimum(gain, GAIN_LIMIT)
    affine = np.column_stack([from_lab @ (gain[:, None] * to_lab), from_lab @ (wanted_mean - gain * mean)])
    return ColorMap(partial(_apply, affine=affine), {"gain_limited": limited})


def _log_lms(pixels: Pixels) -> Floats:
    return np.asarray(cv2.log(rows(transform(linear_from_srgb(pixels), _TO_LMS))), np.float32).reshape(-1, 3)


def _moments(pixels: Pixels) -> tuple[Matrix, Matrix]:
    lab = transform(_log_lms(pixels), LOG_LMS_TO_LAB)
    mean, spread = cv2.meanStdDev(rows(lab))
    return np.asarray(mean, np.float64).ravel(), np.asarray(spread, np.float64).ravel()


def _apply(pixels: Pixels, *, affine: Matrix) -> Floats:
    log_lms = np.minimum(transform(_log_lms(pixels), affine), np.float32(_LOG_LIMIT))
    lms = np.asarray(cv2.exp(rows(log_lms)), np.float32).reshape(-1, 3)
    return srgb_from_linear(transform(lms, _FROM_LMS))
