"""Match mean and covariance in RGB by the linear Monge-Kantorovich map (Pitie, Kokaram 2007).

It moves the colours the least of all linear maps that do so, and being symmetric and positive it can neither mirror
nor swap colour axes.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from augment.color import Floats, Matrix, Pixels, float_from_srgb, transform
from augment.transfer.colormap import ColorMap, check_pixels

VARIANCE_FLOOR = 1.0
"""Added to each variance, in levels squared: a flat colour gets a finite gain."""
GAIN_LIMIT = 5.0
"""Along no direction is contrast raised more than this: a nearly flat subject would show only noise and JPEG blocks."""


def mkl(subject: Pixels, reference: Pixels) -> ColorMap:
    """Estimate the linear map that gives the subject the reference's mean and covariance in sRGB.

    Args:
        subject: uint8 sRGB (N, 3).
        reference: uint8 sRGB (M, 3).

    Returns:
        The map; note `gain_limited` tells whether `GAIN_LIMIT` was met, the covariance then stays smaller.

    Raises:
        TypeError, ValueError: Not uint8, not (N, 3), or no pixels.

    """
    check_pixels("subject", subject)
    check_pixels("reference", reference)
    mean, covariance = moments(subject)
    wanted_mean, wanted = moments(reference)
    gains, axes = np.linalg.eigh(_monge_kantorovich(covariance, wanted))
    matrix = (axes * np.minimum(gains, GAIN_LIMIT)) @ axes.T
    affine = np.column_stack([matrix, wanted_mean - matrix @ mean])
    return ColorMap(partial(_apply, affine=affine), {"gain_limited": bool(gains.max() > GAIN_LIMIT)})


def moments(pixels: Pixels) -> tuple[Matrix, Matrix]:
    """Return mean (3,) and covariance (3, 3) of uint8 pixels (N, 3), float64.

    The sums are of whole numbers far below 2**53, so they are exact and no order of adding can change them.
    """
    values = pixels.astype(np.float64)
    mean = np.ones(len(values)) @ values / len(values)
    return mean, values.T @ values / len(values) - np.outer(mean, mean)


def _monge_kantorovich(source: Matrix, target: Matrix) -> Matrix:
    floor = VARIANCE_FLOOR * np.eye(3)
    root, inverse_root = _root_and_inverse(source + floor)
    middle, _ = _root_and_inverse(root @ (target + floor) @ root)
    matrix = inverse_root @ middle @ inverse_root
    return np.asarray((matrix + matrix.T) / 2)


def _root_and_inverse(matrix: Matrix) -> tuple[Matrix, Matrix]:
    values, axes = np.linalg.eigh(matrix)
    # Rounding may leave a variance of zero slightly negative.
    root = np.sqrt(np.maximum(values, 1e-9))
    return np.asarray((axes * root) @ axes.T), np.asarray((axes / root) @ axes.T)


def _apply(pixels: Pixels, *, affine: Matrix) -> Floats:
    return transform(float_from_srgb(pixels), affine)
