"""Measure a discriminator: ranking, calibration, precision and recall, the order of severity. Scores in, numbers out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
