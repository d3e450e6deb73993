"""What an audit's table is judged by: each limit on its own, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest

from realism.audit import find_failures, is_within_limits

GOOD: dict[str, Any] = {
    "subjects": 300,
    "null": {"mkl": 0.53, "idt": 0.47},
    "null_auroc": 0.5,
    "shift": {"natural:jpeg_75": 0.02, "edit:mask_grown": -0.02},
    "worst_shift": 0.02,
}


def test_limits_themselves_pass() -> None:
    """A table whose every figure stands at its limit has no failure."""
    assert find_failures(GOOD) == []
    assert is_within_limits(GOOD)


@pytest.mark.parametrize(
    ("change", "failures"),
    [
        ({"subjects": 299}, ["299 subjects, fewer than 300"]),
        ({"null_auroc": 0.4699}, ["all null edits: AUROC 0.470"]),
        ({"null": {"mkl": 0.54, "idt": 0.4}}, ["null edit mkl: AUROC 0.540", "null edit idt: AUROC 0.400"]),
        ({"null": {"mkl": float("nan")}}, ["null edit mkl: AUROC nan"]),
        ({"shift": {"edit:mask_grown": -0.0201}}, ["edit:mask_grown shifts the mean score by -0.0201"]),
        ({"shift": {"edit:mask_grown": float("nan")}}, ["edit:mask_grown shifts the mean score by +nan"]),
    ],
)
def test_each_figure_beyond_its_limit_is_told(change: dict[str, Any], failures: list[str]) -> None:
    """Too few subjects, null edits that can be told, means that move, and figures that are no numbers are failures."""
    assert find_failures({**GOOD, **change}) == failures


def test_few_subjects_are_no_figure() -> None:
    """Figures may be within their limits on too few subjects: the audit fails, and they are."""
    assert is_within_limits({**GOOD, "subjects": 3})
