"""Turn the rough mask of a person into a soft alpha and into colours free of the old background.

A trimap around the mask's edge, closed-form matting inside it (Levin, Lischinski, Weiss: A closed-form solution to
natural image matting, 2008) and multi-level foreground estimation (Germer, Uelwer, Conrad, Harmeling: Fast
multi-level foreground estimation, 2020). Matting Laplacian, preconditioner and foreground are those of `pymatting`,
whose first import on a machine compiles for most of a minute; it is imported where it is first needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.blend.alpha import feather
from augment.color import Floats, Pixels

Mask = NDArray[np.bool_]
Vector = NDArray[np.float64]

BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255
"""Levels of a trimap."""

INNER_SHARE, OUTER_SHARE = 0.03, 0.04
"""Half-widths of the unknown band, as shares of the square root of the mask's pixels."""
INNER_PX, OUTER_PX = (3.0, 10.0), (4.0, 14.0)
"""Least and most of these. COCO's polygons cut corners by a few pixels, and leave hair out rather than in."""
CORE: Final = 0.6
"""In a limb thinner than the band, what lies deeper than this share of its half-width stays known foreground."""
CORE_HALF_WIDTH: Final = 2.0
"""A part of a mask with less half-width than this, in px, has no known foreground: it may be all error."""

SOLVE_SIDE: Final = 448
"""Longer side, in px, of the box in which is solved; a larger subject is scaled down for it. Bounds time and memory."""
LAPLACIAN_EPSILON: Final = 1e-5
"""Regularises the windows' colour covariances (picture in 0..1): JPEG noise of about a level counts as flat."""
TOLERANCE, MAX_ITERATIONS = 1e-5, 1000
"""Of the conjugate gradients: relative residual to reach, and when to give up."""
HAZE: Final = 0.04
"""Alpha so near to 0 or to 1 is noise of the solution; the rest is stretched to the full range."""

SETTLED: Final = 0.1
"""A pixel of the band is settled where its alpha is within this of 0 or 1."""
NEAR_PX: Final = 8
"""So far from the band, on both sides, colours are compared for the confidence."""


@dataclass(frozen=True)
class Matte:
    """A subject as a layer: what it covers, and its own colours."""

    alpha: Pixels
    """uint8 (H, W), 0 nothing, 255 all."""
    foreground: Pixels
    """uint8 sRGB (H, W, 3): the subject's colours where alpha > 0, carried on around it; the picture farther away."""
    confidence: float
    """0..1, see `estimate_matte`."""
    reason: Literal["unsolved", "no_core"] | None
    """Why alpha is only the feathered mask and the confidence 0, or None."""


def band_widths(mask: Mask) -> tuple[float, float]:
    """Return how far the unknown band of a mask's trimap reaches inwards and outwards, in px.

    Raises:
        TypeError: The mask is not bool.
        ValueError: The mask is not (H, W), is empty or is full.

    """
    side = math.sqrt(_count(mask))
    return min(max(INNER_SHARE * side, INNER_PX[0]), INNER_PX[1]), min(
        max(OUTER_SHARE * side, OUTER_PX[0]), OUTER_PX[1]
    )


def make_trimap(mask: Mask, *, inner_px: float, outer_px: float) -> Pixels:
    """Divide a picture into known foreground, known background and the unknown band around the mask's edge.

    The picture's frame is no edge. Where a limb is thinner than twice `inner_px`, its middle stays known foreground,
    or matting would have nothing to start from there and lose the limb.

    Args:
        mask: bool (H, W), neither empty nor full.
        inner_px: Reach of the band into the mask.
        outer_px: Reach out of it.

    Returns:
        uint8 (H, W): 0 background, 128 unknown, 255 foreground.

    Raises:
        TypeError: The mask is not bool.
        ValueError: The mask is not (H, W), is empty or is full, or a width is negative.

    """
    _count(mask)
    if min(inner_px, outer_px) < 0:
        raise ValueError(f"inner_px and outer_px must not be negative, got {inner_px!r} and {outer_px!r}")
    depth, distance = _depth(mask), _depth(~mask)
    around = cv2.getStructuringElement(shape=cv2.MORPH_ELLIPSE, ksize=(2 * math.ceil(inner_px) + 1,) * 2)
    half_width = cv2.dilate(depth, kernel=around)
    core = (depth > np.minimum(inner_px, CORE * half_width)) & (half_width >= CORE_HALF_WIDTH)
    trimap = np.full(mask.shape, UNKNOWN, np.uint8)
    trimap[distance > outer_px] = BACKGROUND
    trimap[core] = FOREGROUND
    return trimap


def estimate_matte(picture: Pixels, mask: Mask) -> Matte:
    """Estimate the alpha and the colours of the subject that a rough mask covers.

    Solved in sRGB, in which it is to be composited too, in the box of the band with a margin, scaled down where the
    box is longer than `SOLVE_SIDE`. The confidence is the product of three shares; very good mattes of photographs have
    0.5 to 0.7, wrong ones under 0.25:

    - settled: of the band's pixels, those whose alpha is within 0.1 of 0 or 1; a matte that found an edge is a
      narrow ramp in a wide band, one that did not is grey all over;
    - agreement: 1 - the band's mean of |alpha - mask|, so that a matte that ran away from the mask is not trusted;
    - separation: 1 - the overlap of the colour histograms (8 levels a channel) of the known foreground and the known
      background within 8 px of the band; where both look alike, the edge is a guess.

    The same arguments give the same bytes on any number of threads.

    Args:
        picture: uint8 sRGB (H, W, 3).
        mask: bool (H, W), neither empty nor full.

    Returns:
        The matte; where no pixel is known to be the subject (`no_core`) or the system was not solved (`unsolved`),
        the mask softened by 2 px, with confidence 0 and the reason.

    Raises:
        TypeError: A wrong dtype.
        ValueError: Shapes that do not belong together, an empty or a full mask.

    """
    if picture.dtype != np.uint8:
        raise TypeError(f"picture must be uint8, got {picture.dtype}")
    if picture.ndim != 3 or picture.shape != (*mask.shape, 3):
        raise ValueError(f"picture must be (H, W, 3) and mask (H, W) of one size, got {picture.shape}, {mask.shape}")
    inner_px, outer_px = band_widths(mask)
    trimap = make_trimap(mask, inner_px=inner_px, outer_px=outer_px)
    window = _window(trimap > 0, margin=NEAR_PX)
    crop, known = np.ascontiguousarray(picture[window]), np.ascontiguousarray(trimap[window])
    solved = _solved_alpha(crop, known) if (known == FOREGROUND).any() else None
    alpha = (
        feather(np.ascontiguousarray(mask[window]), 2.0) if solved is None else np.rint(255 * solved).astype(np.uint8)
    )
    whole, colours = np.zeros(mask.shape, np.uint8), picture.copy()
    whole[window] = alpha
    colours[window] = _foreground(crop, alpha)
    if solved is None:
        return Matte(whole, colours, 0.0, "unsolved" if (known == FOREGROUND).any() else "no_core")
    return Matte(whole, colours, _confidence(crop, mask[window], known, solved), None)


def _count(mask: Mask) -> int:
    if mask.dtype != np.bool_:
        raise TypeError(f"mask must be bool, got {mask.dtype}")
    if mask.ndim != 2:
        raise ValueError(f"mask must be (H, W), got {mask.shape}")
    count = int(np.count_nonzero(mask))
    if count in {0, mask.size}:
        raise ValueError(f"mask must be neither empty nor full, got {count} of {mask.size} pixels")
    return count


def _depth(mask: Mask) -> Floats:
    """Return how deep in the mask each pixel's centre lies, in px from the edge; 0 outside."""
    distance = cv2.distanceTransform(mask.view(np.uint8), distanceType=cv2.DIST_L2, maskSize=cv2.DIST_MASK_PRECISE)
    return np.asarray(np.maximum(distance - np.float32(0.5), 0))


def _window(region: Mask, *, margin: int) -> tuple[slice, slice]:
    x, y, width, height = cv2.boundingRect(region.view(np.uint8))
    return np.s_[max(y - margin, 0) : y + height + margin, max(x - margin, 0) : x + width + margin]


def _solved_alpha(crop: Pixels, trimap: Pixels) -> Floats | None:
    """Solve for alpha, float32 (h, w) in 0..1, exact where the trimap knows it; None where that failed."""
    scale = min(1.0, SOLVE_SIDE / max(trimap.shape))
    if scale == 1.0:
        alpha = _closed_form(crop, trimap)
    else:
        size = tuple(max(round(side * scale), 3) for side in reversed(trimap.shape))
        small = cv2.resize(crop, dsize=size, interpolation=cv2.INTER_AREA)
        alpha = _closed_form(np.asarray(small, np.uint8), _shrunk_trimap(trimap, size))
    if alpha is None:
        return None
    alpha = np.clip((alpha.astype(np.float32) - HAZE) / (1 - 2 * HAZE), 0, 1).astype(np.float32)
    if scale != 1.0:
        alpha = np.asarray(cv2.resize(alpha, dsize=trimap.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
    alpha[trimap == FOREGROUND] = 1
    alpha[trimap == BACKGROUND] = 0
    return np.asarray(alpha, np.float32)


def _shrunk_trimap(trimap: Pixels, size: tuple[int, ...]) -> Pixels:
    """Shrink a trimap to (width, height): known is what is known all over the pixel."""
    shares = [
        cv2.resize((trimap == level).astype(np.float32), dsize=size, interpolation=cv2.INTER_AREA) > 1 - 1e-4
        for level in (BACKGROUND, FOREGROUND)
    ]
    return np.select(shares, [np.uint8(BACKGROUND), np.uint8(FOREGROUND)], np.uint8(UNKNOWN))


def _closed_form(crop: Pixels, trimap: Pixels) -> Vector | None:
    """Minimise the matting Laplacian's quadratic form with alpha held at the known pixels: float64 (h, w), not clipped."""
    from pymatting import cf_laplacian, ichol  # noqa: PLC0415

    unknown = trimap.ravel() == UNKNOWN
    foreground = trimap.ravel() == FOREGROUND
    alpha = foreground.astype(np.float64)
    if not unknown.any():
        return np.asarray(alpha.reshape(trimap.shape))
    laplacian = cf_laplacian(crop / 255.0, epsilon=LAPLACIAN_EPSILON, is_known=~unknown)
    rows = laplacian[unknown]
    matrix = rows[:, unknown]
    matrix.sum_duplicates()
    right = -np.asarray(rows[:, foreground].sum(axis=1)).ravel()
    try:
        precondition = ichol(matrix, max_nnz=4 * matrix.nnz)
    except ValueError:  # the matrix is not positive, whatever is added to its diagonal
        return None
    solution = _conjugate_gradients(matrix, right, precondition)
    if solution is None:
        return None
    alpha[unknown] = solution
    return np.asarray(alpha.reshape(trimap.shape))


def _conjugate_gradients(matrix: Any, right: Vector, precondition: Callable[[Vector], Vector]) -> Vector | None:
    """Solve a symmetric positive system; None where the residual does not fall to `TOLERANCE`.

    Inner products are NumPy's sums, not BLAS's, whose rounding depends on the number of threads.
    """
    x, residual = np.zeros_like(right), right.copy()
    enough = TOLERANCE**2 * float(np.sum(right * right))
    direction, energy = np.zeros_like(right), 1.0
    for _ in range(MAX_ITERATIONS):
        length = float(np.sum(residual * residual))
        if length <= enough:
            return x
        conditioned = precondition(residual)
        last, energy = energy, float(np.sum(residual * conditioned))
        direction = conditioned + (energy / last) * direction
        image = matrix @ direction
        curvature = float(np.sum(direction * image))
        if not (math.isfinite(energy) and curvature > 0):
            return None
        x = x + (energy / curvature) * direction
        residual = residual - (energy / curvature) * image
    return None


def _foreground(crop: Pixels, alpha: Pixels) -> Pixels:
    """Return the colours of the subject as if nothing shone through its edge: uint8 (h, w, 3)."""
    from pymatting import estimate_foreground_ml  # noqa: PLC0415

    colours = estimate_foreground_ml(crop / np.float32(255), alpha / np.float32(255))
    return np.asarray(np.rint(255 * np.clip(colours, 0, 1)), np.uint8)


def _confidence(crop: Pixels, mask: Mask, trimap: Pixels, alpha: Floats) -> float:
    band = trimap == UNKNOWN
    if not band.any():
        return 1.0
    values = alpha[band]
    settled = float(np.mean(np.minimum(values, 1 - values) <= SETTLED))
    agreement = 1 - float(np.mean(np.abs(values - mask[band])))
    return round(settled * agreement * _separation(crop, trimap), 4)


def _separation(crop: Pixels, trimap: Pixels) -> float:
    """Return 1 - the shared part of the colour histograms of what is known near the band, on either side of it."""
    histograms = []
    reach = cv2.getStructuringElement(shape=cv2.MORPH_ELLIPSE, ksize=(2 * NEAR_PX + 1,) * 2)
    near = cv2.dilate((trimap == UNKNOWN).view(np.uint8), kernel=reach) > 0
    for level in (FOREGROUND, BACKGROUND):
        pixels = crop[near & (trimap == level)] >> 5
        cells = (pixels[:, 0].astype(np.intp) << 6) | (pixels[:, 1] << 3) | pixels[:, 2]
        histograms.append(np.bincount(cells, minlength=512) / max(len(cells), 1))
    return 1 - float(np.minimum(*histograms).sum())
