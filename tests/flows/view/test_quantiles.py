from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from flows.view.quantiles import HCOCO, LEVELS, Bar, Row, Scale, bar_of, compare, plot_quantiles, tell_quantiles

REFERENCE = (10.0, 20.0, 30.0, 40.0, 50.0)


def test_quantiles_and_shares_are_those_of_a_count() -> None:
    """Of 0, 1, ..., 100 the quantiles are 5, 25, 50, 75, 95, and 10 of the 101 values lie below 10."""
    levels = compare(np.arange(101.0), REFERENCE)
    assert [level.ours for level in levels] == pytest.approx([5, 25, 50, 75, 95])
    assert [level.ratio for level in levels] == pytest.approx([0.5, 1.25, 5 / 3, 1.875, 1.9])
    assert [level.below for level in levels] == pytest.approx([10 / 101, 20 / 101, 30 / 101, 40 / 101, 50 / 101])


def test_a_quarter_more_counts_and_less_does_not() -> None:
    """A set of the reference's own shape is alike; one that is 1.2 times as large, too; one of 1.3 times differs."""
    own = np.linspace(10, 50, 5001)
    base = np.quantile(own, LEVELS).tolist()
    for factor, differs in ((1.0, False), (1.2, False), (1.3, True), (1 / 1.3, True)):
        assert {level.differs for level in compare(own * factor, base)} == {differs}


def test_few_samples_say_little() -> None:
    """Three values twice as large as the reference's median are no proof; three hundred are."""
    assert not any(level.differs for level in compare(np.full(3, 60.0), (30.0,) * 5)[2:3])
    assert all(level.differs for level in compare(np.full(300, 60.0), (30.0,) * 5)[2:3])


def test_the_figures_of_hcoco_rise() -> None:
    """Quantiles of one distribution are in order, and there is one for each level."""
    for figures in HCOCO.values():
        assert len(figures) == len(LEVELS)
        assert list(figures) == sorted(figures)


def test_what_is_unknown_is_left_out_of_a_bar() -> None:
    """NaN is not counted, and nothing known is no bar."""
    assert bar_of(np.array([np.nan, 2.0, 4.0])) == Bar((2.1, 2.5, 3.0, 3.5, 3.9), 2)
    assert bar_of(np.array([np.nan])) == Bar(None, 0)
    assert tell_quantiles(Bar(None, 0), ".1f") == ("\N{EN DASH}",) * 5


def plot(*, log: bool = False) -> str:
    """Draw three rows: a reference, one bar, two bars of which one is unknown."""
    rows = [
        Row("HCOCO", (Bar(REFERENCE, 0),)),
        Row("<all> & more", (Bar(REFERENCE, 1234),)),
        Row("mkl", (Bar(REFERENCE, 7), Bar(None, 0)), apart=True),
    ]
    scale = Scale("levels", log=log, ticks=(10, 20, 50), form=".0f", marks=(15.0, 1e9))
    return plot_quantiles(rows, scale, name="test", label="A & B") or ""


@pytest.mark.parametrize("log", [False, True])
def test_a_plot_is_well_formed_and_of_the_pages_colours(log: bool) -> None:  # noqa: FBT001 - a case
    """It is one svg element with a name, text is text, no colour is fixed, and it is the same twice."""
    drawn = plot(log=log)
    root = ET.fromstring(drawn)  # noqa: S314 - our own text
    assert (root.get("role"), root.get("aria-label")) == ("img", "A & B")
    assert {"1,234", "mkl", "HCOCO", "<all> & more", "10", "20", "50"} <= {each.text for each in root.iter()}
    assert not re.search(r"#[0-9a-f]{3,6}\b", re.sub(r"(url\(|href=\")#\w+", "", drawn))
    assert drawn == plot(log=log)


def test_nothing_known_is_no_plot() -> None:
    """Rows without quantiles are not drawn, and without rows there is no plot."""
    assert plot_quantiles([Row("mkl", (Bar(None, 0),))], Scale("x"), name="x", label="x") is None


def test_one_value_is_drawn() -> None:
    """A distribution without any spread has an axis all the same."""
    for log in (False, True):
        assert plot_quantiles([Row("all", (Bar((3.0,) * 5, 1),))], Scale("x", log=log), name="x", label="x")
