"""A short fuzzing of every target; `python -m tests.fuzz --cases 2000` is the long one."""

from __future__ import annotations

import pytest

from tests.fuzz.names import NAMES
from tests.fuzz.watch import Work, fuzz

CASES = 30
"""Changed ones of a target with share 1, besides the hand-made ones: some 1,800 in all."""

NEVER_TAKEN = ("names", "export-begun")
"""Whose cases are all to be refused: names that lead elsewhere, exports of something else."""

NEVER_REFUSED = ("plan-part", "marker", "history", "moves", "tar-in-run")
"""Of whose damage commands tell and go on, with exit code 1, or which they mend."""


@pytest.mark.slow
def test_nothing_that_others_wrote_ends_in_more_than_a_reason() -> None:
    """Every case is read, or refused with its reason or one line: no other error, no hang, no 2 GB of memory."""
    outcomes = fuzz(Work(NAMES, cases=CASES, seed=7, short=True))
    assert {name: each.failures for name, each in outcomes.items() if each.failures} == {}
    assert [name for name, each in outcomes.items() if not each.taken] == list(NEVER_TAKEN)
    assert all(each.refused for name, each in outcomes.items() if name not in NEVER_REFUSED)
