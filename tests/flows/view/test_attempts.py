from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flows.store.layout import Layout
from flows.view.attempts import read_attempts, read_rows, take_turns

MakeRun = Callable[..., Layout]
Sample = Callable[..., dict[str, Any]]


def _lopsided(sample: Sample) -> list[dict[str, Any]]:
    """Return 60 kept samples of one family and 3 of another, 40 rejected for one reason and 2 for another."""
    kept = [sample(number, family="mkl" if number < 60 else "idt") for number in range(63)]
    reasons = ["effect_small"] * 40 + ["clipping"] * 2
    rejected = [sample(100 + n, status="rejected", reason=reason) for n, reason in enumerate(reasons)]
    return [*kept, *rejected]


def test_rare_families_and_reasons_are_shown_whole(make_run: MakeRun, sample: Sample) -> None:
    """Of 63 kept and 42 rejected samples the draw of 8 and 8 holds every one of the rare kinds."""
    rows = read_rows(read_attempts(make_run(_lopsided(sample)), show=8).shown)
    kinds = Counter((row["status"], row["reason"] or row["family"]) for row in rows)
    assert kinds == {
        ("kept", "idt"): 3,
        ("kept", "mkl"): 5,
        ("rejected", "clipping"): 2,
        ("rejected", "effect_small"): 6,
    }


def test_the_draw_does_not_depend_on_the_order(make_run: MakeRun, sample: Sample) -> None:
    """The same samples are shown whatever the order that they were planned in."""
    records = _lopsided(sample)
    draws = [
        [row["key"] for row in read_rows(read_attempts(make_run(some, name=name), show=8).shown)]
        for name, some in (("forth", records), ("back", records[::-1]))
    ]
    assert draws[0] == draws[1]


def test_columns_hold_every_attempt(make_run: MakeRun, sample: Sample) -> None:
    """Families count into sorted names, and an unknown number is NaN."""
    records = [sample(1, family="reinhard"), sample(2, family="idt", foreground_mse=None), sample(3, family=None)]
    attempts = read_attempts(make_run([*records], counts=_NO_COUNTS), show=8)
    assert attempts.families == ("idt", "none", "reinhard")
    assert attempts.family.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(attempts.effect, np.array([812.5, np.nan, 812.5], dtype=np.float32))
    assert attempts.kept.all()


_NO_COUNTS = {"planned": 3, "kept": 3, "rejected": 0, "by_reason": {}, "by_family": {}}


@pytest.mark.parametrize(
    ("streams", "expected"),
    [([], []), ([[]], []), ([[1, 2, 3], [4]], [1, 4, 2, 3]), ([[1], [2, 3], [4, 5]], [1, 2, 4, 3, 5])],
)
def test_streams_take_turns(streams: list[list[int]], expected: list[int]) -> None:
    """One item of each in turn, until all have ended."""
    assert list(take_turns(streams)) == expected
