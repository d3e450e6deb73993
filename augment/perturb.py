"""Change brightness and contrast around the subject's own mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from augment.color import Floats, levels_from_floats, rows, transform

CLIPPED_SHARE = 0.02
"""A candidate clips when it drives more of the subject's channel values than this out of 0..255."""


@dataclass(frozen=True)
class Perturbation:
    """The brightness and contrast that were chosen for one subject."""

    index: int
    """Place among the candidates; so many were passed over before it unless all of them clip."""
    redraws: int
    """How many candidates were refused."""
    clipped: float
    """Share of the subject's channel values that it drives out of range."""
    contrast: float
    brightness: float
    """On the 0..1 scale."""
    mean: tuple[float, float, float]
    """Of the subject, on the 0..255 scale."""


def choose_perturbation(subject: Floats, candidates: Sequence[tuple[float, float]]) -> Perturbation:
    """Take the first candidate that does not clip, otherwise the one that clips least.

    Args:
        subject: float32 (N, 3) on the 0..255 scale, at least one pixel; values out of range count as clipped before.
        candidates: Pairs (contrast, brightness), brightness on the 0..1 scale; at least one.

    Raises:
        ValueError: No pixel or no candidate.

    """
    if not len(subject) or not candidates:
        raise ValueError(
            f"subject and candidates must not be empty, got {len(subject)} pixels and {len(candidates)} candidates"
        )
    mean = np.array(cv2.mean(rows(subject))[:3])
    levels = levels_from_floats(rows(subject))
    counts = np.stack([cv2.calcHist([levels], [c], None, [256], [0, 256]).ravel() for c in range(3)])
    contrast, brightness = (np.array(values)[:, None, None] for values in zip(*candidates, strict=True))
    moved = contrast * (np.arange(1.0, 255.0) - mean[:, None]) + mean[:, None] + 255 * brightness
    out = (moved < 0) | (moved > 255)
    shares = (out * counts[:, 1:255].astype(np.float64)).sum(axis=(1, 2)) / (3 * len(subject))
    fitting = np.flatnonzero(shares <= CLIPPED_SHARE)
    index = int(fitting[0]) if len(fitting) else int(shares.argmin())
    redraws = index if len(fitting) else len(candidates)
    r, g, b = mean.tolist()
    return Perturbation(index, redraws, float(shares[index]), *candidates[index], mean=(r, g, b))


def perturb(values: Floats, perturbation: Perturbation) -> Floats:
    """Return contrast * (value - mean) + mean + brightness of float32 (K, 3) on the 0..255 scale, not clipped."""
    mean, contrast = np.array(perturbation.mean), perturbation.contrast
    offset = mean * (1 - contrast) + 255 * perturbation.brightness
    return transform(values, np.column_stack([contrast * np.eye(3), offset]))
