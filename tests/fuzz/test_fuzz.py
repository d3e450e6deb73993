"""A short fuzzing of every target; `python -m tests.fuzz --cases 20000` is the long one."""

from __future__ import annotations

import pytest

from tests.fuzz.names import NAMES
from tests.fuzz.watch import fuzz

CASES = 150
"""Of a target with share 1: some 4,000 cases in all where the time allows."""

NEVER_TAKEN = ("names", "export-begun")
"""Whose cases are all to be refused: names that lead elsewhere, exports of something else."""


@pytest.mark.by_hand
def test_nothing_that_others_wrote_ends_in_more_than_a_reason() -> None:
    """Every case is read, or refused with its reason or one line: no other error, no hang, no 2 GB of memory."""
    outcomes = fuzz(NAMES, cases=CASES, seed=7, seconds=2.0)
    assert {name: each.failures for name, each in outcomes.items() if each.failures} == {}
    assert all(each.taken for name, each in outcomes.items() if name not in NEVER_TAKEN)
    assert all(each.refused for each in outcomes.values())
