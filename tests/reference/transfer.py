"""The transfer families in float64, without tables or histograms: slow and obvious."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from tests.reference.color import lab_f_inverse_of, lab_f_of, level_of, linear_of

Array = NDArray[np.float64]

_LINEAR = np.vectorize(linear_of, otypes=[float])
_LEVEL = np.vectorize(level_of, otypes=[float])
_F = np.vectorize(lab_f_of, otypes=[float])
_F_INVERSE = np.vectorize(lab_f_inverse_of, otypes=[float])

LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])


def mid_rank_match(values: Array, reference: Array) -> Array:
    """Give each value the reference's value of the same mid-rank, linear between the reference's values."""
    own, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.array([(values < v).sum() + 0.5 * n for v, n in zip(own, counts, strict=True)]) / len(values)
    other, other_counts = np.unique(reference, return_counts=True)
    other_rank = np.array([(reference < v).sum() + 0.5 * n for v, n in zip(other, other_counts, strict=True)])
    return np.interp(rank, other_rank / len(reference), other)[inverse]


def ycbcr(pixels: Array) -> Array:
    """Convert sRGB (N, 3) on the 0..255 scale to the YCbCr of JPEG."""
    r, g, b = pixels.T
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return np.stack([y, 128 + (b - y) / 1.772, 128 + (r - y) / 1.402], axis=1)


def mkl(subject: Array, reference: Array, *, floor: float) -> Array:
    """Map the subject by Monge and Kantorovich's linear map, matrix roots by scipy."""
    own = np.cov(subject.T, bias=True) + floor * np.eye(3)
    other = np.cov(reference.T, bias=True) + floor * np.eye(3)
    root = np.real(scipy.linalg.sqrtm(own))
    inverse = np.linalg.inv(root)
    matrix = inverse @ np.real(scipy.linalg.sqrtm(root @ other @ root)) @ inverse
    return (subject - subject.mean(axis=0)) @ matrix.T + reference.mean(axis=0)


def l_alpha_beta(pixels: Array, *, floor: float) -> Array:
    """Convert sRGB (N, 3) to Ruderman's l-alpha-beta, in natural logarithms."""
    long, medium, short = np.log(_LINEAR(pixels) @ LMS.T + floor).T
    return np.stack(
        [(long + medium + short) / 3**0.5, (long + medium - 2 * short) / 6**0.5, (long - medium) / 2**0.5], axis=1
    )


def reinhard(subject: Array, reference: Array, *, floor: float) -> Array:
    """Give the subject the reference's mean and spread in each of l, alpha and beta."""
    own, other = l_alpha_beta(subject, floor=floor), l_alpha_beta(reference, floor=floor)
    lab = (own - own.mean(axis=0)) / own.std(axis=0) * other.std(axis=0) + other.mean(axis=0)
    light, alpha, beta = (lab / np.sqrt([3, 6, 2])).T
    lms = np.exp(np.stack([light + alpha + beta, light + alpha - beta, light - 2 * alpha], axis=1)) - floor
    return _LEVEL(lms @ np.linalg.inv(LMS).T)


def relight(pixels: Array, *, adaptation: Array, to_xyz: Array, white: Array, gain: Array) -> Array:
    """Adapt sRGB (N, 3) and multiply f of X, Y and Z over white by each pixel's own gain (N,)."""
    ratio = _LINEAR(pixels) @ to_xyz.T @ adaptation.T / white
    return _LEVEL((_F_INVERSE(_F(ratio) * gain[:, None]) * white) @ np.linalg.inv(to_xyz).T)


def lightness(pixels: Array, *, adaptation: Array, to_xyz: Array) -> Array:
    """Return CIE L* of sRGB (N, 3) after adaptation."""
    return 116 * _F((_LINEAR(pixels) @ to_xyz.T @ adaptation.T)[:, 1]) - 16
