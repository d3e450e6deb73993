"""Measure what networks do.

A discriminator by ranking, calibration, precision and recall, the order of severity: scores in, numbers out. A composite
by its distance to the wanted one, all over and along the subject's edge: pictures in, numbers out.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.metrics import structural_similarity

BAND_PX: Final = 6
"""How far from the matte's edge the boundary band reaches, in pixels, on either side."""
MOST_DECIBELS: Final = 100.0
"""PSNR of what is identical, so that means stay finite."""

Pixels = NDArray[np.uint8]
Values = NDArray[np.float64]


def ranks(values: ArrayLike) -> Values:
    """Return ranks from 1, ties sharing their mean rank; float64 (N,)."""
    array = np.asarray(values, np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)


def auroc(higher: ArrayLike, lower: ArrayLike) -> float:
    """Return P(a score of `higher` is above one of `lower`), ties counting half; NaN where one is empty."""
    above, below = np.asarray(higher, np.float64), np.asarray(lower, np.float64)
    if not above.size or not below.size:
        return float("nan")
    total = ranks(np.concatenate([above, below]))[: above.size].sum()
    return float((total - above.size * (above.size + 1) / 2) / (above.size * below.size))


def calibration_error(scores: ArrayLike, natural: ArrayLike, *, bins: int = 15) -> float:
    """Return the expected calibration error over equally wide bins (Guo, Pleiss, Sun, Weinberger 2017).

    Args:
        scores: P(natural), 0..1, (N,).
        natural: True or 1 where it is, (N,).
        bins: Of equal width.
    """
    probability, truth = np.asarray(scores, np.float64), np.asarray(natural, np.float64)
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=probability - truth, minlength=bins)
    return float(np.abs(gaps).sum() / max(len(probability), 1))


def rejection_curve(gross: ArrayLike, mild: ArrayLike, *, mild_per_gross: float = 9.0) -> tuple[Values, Values, Values]:
    """Return thresholds, precision and recall of rejecting what scores below, gross failures being the target.

    The two sets may have any sizes; precision is that of a mixture with `mild_per_gross` edits for each gross failure.

    Returns:
        float64 (T,) each, thresholds ascending, one above each distinct score; recall ascends with them.
    """
    bad, fine = np.sort(np.asarray(gross, np.float64)), np.sort(np.asarray(mild, np.float64))
    scores = np.unique(np.concatenate([bad, fine]))
    thresholds = np.append((scores[1:] + scores[:-1]) / 2, scores[-1:] + 1e-4)
    recall = np.searchsorted(bad, thresholds) / max(len(bad), 1)
    false = np.searchsorted(fine, thresholds) / max(len(fine), 1)
    rejected = recall + mild_per_gross * false
    precision = np.divide(recall, rejected, out=np.ones_like(recall), where=rejected > 0)
    return thresholds, precision, recall


def recall_at_precision(gross: ArrayLike, mild: ArrayLike, *, precision: float = 0.95) -> tuple[float, float]:
    """Return (recall, threshold) with the most recall at the wanted precision on 1 gross to 9 mild; (0, 0) if none."""
    thresholds, precisions, recalls = rejection_curve(gross, mild)
    good = np.flatnonzero((precisions >= precision) & (recalls > 0))
    if not len(good):
        return 0.0, 0.0
    best = good[np.argmax(recalls[good])]
    return float(recalls[best]), float(thresholds[best])


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's rank correlation; 0 where either is constant."""
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def boundary_band(alpha: Pixels, *, reach: int = BAND_PX) -> NDArray[np.bool_]:
    """Return the pixels within `reach` of a matte's edge, and all that are mixed; bool (H, W) of uint8 (H, W)."""
    solid = (alpha > 127).view(np.uint8)
    disc = cv2.getStructuringElement(shape=cv2.MORPH_ELLIPSE, ksize=(2 * reach + 1,) * 2)
    near = cv2.dilate(solid, kernel=disc) > cv2.erode(solid, kernel=disc)
    return np.asarray(near | ((alpha > 12) & (alpha < 243)))


def squared_error(first: Pixels, second: Pixels, *, where: NDArray[np.bool_] | None = None) -> float:
    """Return the mean squared difference of two uint8 (H, W, 3) pictures in levels, of the pixels `where`; 0 of none."""
    difference = first.astype(np.float32) - second.astype(np.float32)
    chosen = difference if where is None else difference[where]
    return float(np.mean(chosen.astype(np.float64) ** 2)) if chosen.size else 0.0


def decibels(squared: float) -> float:
    """Return the peak signal-to-noise ratio of a mean squared error on the scale 0..255."""
    return MOST_DECIBELS if squared <= 0 else min(float(10 * np.log10(255**2 / squared)), MOST_DECIBELS)


def measure_composite(composite: Pixels, wanted: Pixels, alpha: Pixels) -> dict[str, float]:
    """Measure a composite against the wanted one.

    Args:
        composite: uint8 (H, W, 3) sRGB, at least 7 pixels a side.
        wanted: Of the same shape.
        alpha: uint8 (H, W), the true matte; its edge says where the boundary band is.

    Returns:
        `psnr` and `ssim` of the whole picture (peak 255; Wang, Bovik, Sheikh, Simoncelli 2004), `boundary_psnr` and
        `boundary_error` (mean absolute difference in levels) of the band.

    Raises:
        ValueError: Shapes that do not belong together.
    """
    if composite.shape != wanted.shape or composite.shape != (*alpha.shape, 3):
        shapes = (composite.shape, wanted.shape, alpha.shape)
        raise ValueError(f"composite and wanted must be (H, W, 3) and alpha (H, W) of one size, got {shapes}")
    band = boundary_band(alpha)
    levels = np.abs(composite[band].astype(np.int16) - wanted[band])
    return {
        "psnr": decibels(squared_error(composite, wanted)),
        "ssim": float(structural_similarity(composite, wanted, channel_axis=2, data_range=255)),  # type: ignore[no-untyped-call]
        "boundary_psnr": decibels(squared_error(composite, wanted, where=band)),
        "boundary_error": float(levels.mean()) if levels.size else 0.0,
    }
