"""Audit a discriminator: does it judge the look of the subject, or the traces that editing and encoding leave?

Null edits leave the look as it is, so naturals and null edits must be indistinguishable to it; and other encodings,
sizes and edges of the mask must not move its scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from realism.metrics import auroc

NULL_TOLERANCE: Final = 0.03
"""AUROC of naturals against null edits may be 0.5 so much up or down."""
SHIFT_TOLERANCE: Final = 0.02
"""The mean score may move so much."""
MIN_SUBJECTS: Final = 300
"""With fewer the audit is reported, and does not pass."""


def audit_scores(
    naturals: ArrayLike,
    nulls: Mapping[str, ArrayLike],
    shifts: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    maskless: tuple[ArrayLike, ArrayLike] | None = None,
    min_subjects: int = MIN_SUBJECTS,
) -> dict[str, Any]:
    """Make the audit's table.

    Args:
        naturals: Scores of naturals, one a subject.
        nulls: Kind of null edit to the scores of the same subjects.
        shifts: Perturbation to the scores before and after it, pairs of equal length.
        maskless: Scores of naturals and of edits whose masks were hidden from the network; reported, not judged:
            without the mask there is no subject to speak of.
        min_subjects: Least number of naturals.

    Returns:
        `subjects`; `null` (kind to AUROC) and `null_auroc` of all kinds together; `shift` (perturbation to the
        change of the mean) and `worst_shift`; `maskless_auroc`; `passed`.
    """
    count = int(np.size(naturals))
    null = {kind: round(auroc(naturals, scores), 4) for kind, scores in sorted(nulls.items())}
    together = auroc(naturals, np.concatenate([np.asarray(s, np.float64) for s in nulls.values()])) if nulls else 0.5
    shift = {
        kind: round(float(np.mean(np.asarray(after, np.float64)) - np.mean(np.asarray(before, np.float64))), 4)
        for kind, (before, after) in sorted(shifts.items())
    }
    worst = max((abs(value) for value in shift.values()), default=0.0)
    table = {
        "subjects": count,
        "null": null,
        "null_auroc": round(together, 4),
        "shift": shift,
        "worst_shift": worst,
        "maskless_auroc": round(auroc(*maskless), 4) if maskless and all(map(np.size, maskless)) else None,
    }
    return {**table, "passed": not find_failures(table, min_subjects=min_subjects)}


def is_within_limits(audit: Mapping[str, Any]) -> bool:
    """Say whether every figure of an audit's table is within its limit, on however few subjects it was taken."""
    return not find_failures(audit, min_subjects=0)


def find_failures(audit: Mapping[str, Any], *, min_subjects: int = MIN_SUBJECTS) -> list[str]:
    """Say what of an audit's table is beyond its limits, a line for each; a figure that is not finite is."""
    nulls = {"all null edits": audit["null_auroc"], **{f"null edit {k}": v for k, v in audit["null"].items()}}
    few = [f"{audit['subjects']} subjects, fewer than {min_subjects}"] if audit["subjects"] < min_subjects else []
    told = {name: value for name, value in nulls.items() if not round(abs(value - 0.5), 4) <= NULL_TOLERANCE}
    moved = {name: value for name, value in audit["shift"].items() if not abs(value) <= SHIFT_TOLERANCE}
    return [
        *few,
        *(f"{name}: AUROC {value:.3f}" for name, value in told.items()),
        *(f"{name} shifts the mean score by {value:+.4f}" for name, value in moved.items()),
    ]
