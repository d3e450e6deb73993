"""Decide by the score: calibrate it, set the threshold, keep or drop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from realism.checkpoint import Calibration, Checkpoint
from realism.metrics import rejection_curve

PRECISION: Final = 0.7
"""Of what the gate drops, this share shall be gross; why not more: docs/decisions/0009."""


@dataclass(frozen=True)
class Judged:
    """What the gate says of one sample."""

    kept: bool
    score: float
    threshold: float
    seen_by_gate: bool
    """Whether the network learnt from the sample's photograph."""


def judge_scores(
    checkpoint: Checkpoint, scores: ArrayLike, image_ids: ArrayLike, *, threshold: float | None = None
) -> list[Judged]:
    """Judge samples by their scores and photographs: kept where score >= threshold (the checkpoint's unless given)."""
    limit = checkpoint.threshold if threshold is None else threshold
    pairs = zip(np.asarray(scores, np.float64).tolist(), np.asarray(image_ids).tolist(), strict=True)
    return [Judged(score >= limit, score, limit, image_id in checkpoint.image_ids) for score, image_id in pairs]


def choose_threshold(gross: ArrayLike, mild: ArrayLike, *, precision: float = PRECISION) -> tuple[float, float, float]:
    """Choose the threshold that drops the most gross failures at the wanted precision.

    The mixture is 1 gross failure to 9 edits inside the band. Where no threshold reaches the precision, the one of
    the best precision is taken.

    Args:
        gross: Scores of gross failures.
        mild: Scores of edits inside the band.
        precision: Wanted share of gross ones among what is dropped.

    Returns:
        (threshold, precision reached, recall), measured on these very scores.

    Raises:
        ValueError: Either is empty.
    """
    if not np.size(gross) or not np.size(mild):
        raise ValueError("gross and mild must not be empty")
    thresholds, precisions, recalls = rejection_curve(gross, mild)
    good = np.flatnonzero((precisions >= precision) & (recalls > 0))
    place = good[np.argmax(recalls[good])] if len(good) else int(np.argmax(precisions * (recalls > 0)))
    return round(float(thresholds[place]), 4), float(precisions[place]), float(recalls[place])


def calibrate(natural: ArrayLike, edited: ArrayLike, *, steps: int = 100) -> Calibration:
    """Fit temperature and offset by Newton's method so that the cross-entropy of equal shares of both is least.

    Args:
        natural: Logits of naturals.
        edited: Logits of edits inside the band.
        steps: Of Newton's method; it converges in about ten.

    Raises:
        ValueError: Either is empty, or a logit is not finite.
    """
    good, bad = np.asarray(natural, np.float64), np.asarray(edited, np.float64)
    if not good.size or not bad.size or not (np.isfinite(good).all() and np.isfinite(bad).all()):
        raise ValueError("natural and edited must hold finite logits, some of each")
    rows = np.column_stack([np.concatenate([good, bad]), np.ones(good.size + bad.size)])
    truth = np.concatenate([np.ones(good.size), np.zeros(bad.size)])
    weights = np.concatenate([np.full(good.size, 0.5 / good.size), np.full(bad.size, 0.5 / bad.size)])
    line = np.array([1.0, 0.0])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(rows @ line, -50, 50)))
        gradient = rows.T @ (weights * (p - truth)) + 1e-6 * line
        curvature = (rows * (weights * p * (1 - p))[:, None]).T @ rows + 1e-6 * np.eye(2)
        line = line - np.clip(np.linalg.solve(curvature, gradient), -1, 1)
    # a network whose logits say nothing, or the wrong way round, must not be turned into its opposite
    slope = max(float(line[0]), 1e-3)
    return Calibration(temperature=round(1 / slope, 6), offset=round(float(line[1]), 6))
