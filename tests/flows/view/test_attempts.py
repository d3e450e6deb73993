from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flows.store.layout import Layout
from flows.view.attempts import count_outcomes, read_attempts, read_rows, take_turns

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


def test_outcomes_are_counted_by_family_and_reason(make_run: MakeRun, sample: Sample) -> None:
    """Each family has a column a reason that occurred, and the last row adds them up; an empty run adds up to nothing."""
    assert count_outcomes(make_run(_lopsided(sample))) == [
        {"family": "idt", "planned": 3, "kept": 3, "clipping": 0, "effect_small": 0},
        {"family": "mkl", "planned": 102, "kept": 60, "clipping": 2, "effect_small": 40},
        {"family": "all", "planned": 105, "kept": 63, "clipping": 2, "effect_small": 40},
    ]
    assert count_outcomes(make_run([])) == [{"family": "all", "planned": 0, "kept": 0}]


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


def test_the_best_and_the_worst_scores_are_found(make_run: MakeRun, sample: Sample) -> None:
    """The highest first, the lowest first, whatever became of them; a sample without a score is neither."""
    scores = [0.5, None, 0.9, 0.1, 0.9999, 0.0001, 0.4, 0.6]
    records = [sample(n, score=score, threshold=0.2) for n, score in enumerate(scores)]
    records[3] = sample(3, score=0.1, threshold=0.2, status="rejected", reason="unnatural", value=0.1, limit=0.2)
    attempts = read_attempts(make_run(records), show=8, extremes=2)
    assert [row["score"] for row in read_rows(attempts.best)] == [0.9999, 0.9]
    assert [row["score"] for row in read_rows(attempts.worst)] == [0.0001, 0.1]
    assert attempts.threshold == 0.2
    assert np.isnan(attempts.score).sum() == 1


def test_no_sample_is_both_best_and_worst(make_run: MakeRun, sample: Sample) -> None:
    """Of three scored samples one is the best and one the worst; without scores there is neither."""
    records = [sample(n, score=0.3 + n / 10, threshold=0.2 + n / 10) for n in range(3)]
    attempts = read_attempts(make_run(records), show=8, extremes=10)
    assert [row["score"] for row in read_rows((*attempts.best, *attempts.worst))] == [0.5, 0.3]
    assert attempts.threshold is None  # they are not judged alike
    ungated = read_attempts(make_run([sample(1)]), show=8, extremes=10)
    assert (ungated.best, ungated.worst, ungated.threshold) == ((), (), None)
