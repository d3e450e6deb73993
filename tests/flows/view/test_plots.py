from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest

from flows.view.plots import Group, by_strength, plot_curve, plot_effect, plot_scores, plot_strength

GATES = (100.0, 5000.0)


def _group(name: str = "mkl", *, count: int = 40) -> Group:
    rng = np.random.default_rng(3)
    effect = 10 ** rng.uniform(1, 4, count)
    score = np.where(np.arange(count) % 5, rng.uniform(0, 1, count), np.nan)
    return Group(name, rng.uniform(0.3, 1, count), effect, score, (effect >= 100) & (effect <= 5000))


def _all() -> list[str]:
    groups = [_group("mkl"), _group("idt", count=7)]
    plots = [
        plot_curve([(0.0, 50), (0.1, 20), (0.5, 0)], chosen=0.06),
        plot_effect(groups, gates=GATES),
        plot_strength(groups, gates=GATES),
        plot_scores(groups, threshold=0.0149, name="family"),
        plot_scores(groups, threshold=None, name="strength"),
    ]
    return [plot for plot in plots if plot]


def test_plots_are_well_formed_and_named() -> None:
    """Each plot is one svg element with a role and a name for those who do not see it."""
    for plot in _all():
        root = ET.fromstring(plot)  # noqa: S314 - our own text
        assert root.tag.endswith("svg")
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert root.get("width") is None


def test_plots_hold_text_and_colours_of_the_page_only() -> None:
    """No colour is fixed, so that light and dark both work; text stays text; no time, no library's name."""
    for plot in _all():
        assert not re.search(r"#[0-9a-f]{3,6}\b", re.sub(r"(url\(|href=\")#\w+", "", plot))
        assert "<text" in plot
        assert "atplotlib" not in plot
        assert "<style" not in plot
        assert "<metadata" not in plot


def test_plots_do_not_depend_on_the_users_style() -> None:
    """A matplotlibrc of the user changes nothing, and is as it was afterwards."""
    before = _all()
    with mpl.rc_context({"font.size": 31, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert _all() == before
        assert mpl.rcParams["font.size"] == 31


def test_the_curve_marks_the_setting() -> None:
    """The images kept at the setting stand beside the mark, between two points of the curve if need be."""
    plot = plot_curve([(0.0, 50), (0.1, 30), (0.5, 0)], chosen=0.05)
    assert plot
    assert "this run: 0.05, 40 images" in plot


def test_the_gates_are_named() -> None:
    """Both limits stand at the lines that mark them."""
    plot = plot_effect([_group()], gates=GATES)
    assert plot
    assert ">100<" in plot
    assert ">5,000<" in plot


def test_a_name_with_markup_is_escaped() -> None:
    """The name of a family may hold anything."""
    plot = plot_effect([_group("<b>$x^2$&")], gates=GATES)
    assert plot
    assert "&lt;b&gt;$x^2$&amp;" in plot


@pytest.mark.parametrize("effect", [[], [np.nan, np.nan]])
def test_nothing_measured_is_nothing_plotted(effect: list[float]) -> None:
    """Without a number there is no plot."""
    group = Group("mkl", np.full(len(effect), 0.5), np.array(effect), np.array(effect), np.zeros(len(effect), bool))
    assert plot_scores([group], threshold=0.5, name="family") is None
    assert plot_effect([group], gates=GATES) is None
    assert plot_strength([group], gates=GATES) is None
    assert plot_curve([], chosen=0.06) is None


@pytest.mark.parametrize("effect", [[0.0], [0.0, 0.5, 65025.0], [500.0] * 3])
def test_extreme_effects_are_drawn(effect: list[float]) -> None:
    """No edit at all, the largest possible one, and equal ones all fit the logarithmic axis."""
    unscored, kept = np.full(len(effect), np.nan), np.ones(len(effect), bool)
    group = Group("mkl", np.linspace(0.3, 1, len(effect)), np.array(effect), unscored, kept)
    assert plot_effect([group], gates=GATES)
    assert plot_strength([group], gates=GATES)


def test_the_median_counts_what_was_measured() -> None:
    """Unknown effects do not count."""
    effect = np.array([1.0, np.nan, 3.0, 8.0])
    assert Group("x", np.zeros(4), effect, effect, np.ones(4, bool)).median == 3


@pytest.mark.parametrize("threshold", [0.0, 0.0149, 0.5, 1.0])
def test_the_threshold_is_named(threshold: float) -> None:
    """It stands at the line that marks it, the ends of the scale included; where there is none, there is no line."""
    plot, plain = (plot_scores([_group()], threshold=each, name="family") for each in (threshold, None))
    assert plot
    assert plain
    assert f">{threshold:.4g}<" in plot
    assert plain.count("stroke-dasharray") == plot.count("stroke-dasharray") - 1


def test_scores_of_all_sizes_are_drawn() -> None:
    """0 and 1 themselves are drawn at the ends."""
    score = np.array([0.0, 1.0, 0.5, np.nan])
    group = Group("mkl", np.full(4, 0.5), score, score, np.array([False, True, True, False]))
    plot = plot_scores([group], threshold=0.4, name="family")
    assert plot
    assert plot.count("var(--kept)") == 2
    assert plot.count("var(--rejected)") == 1


def test_groups_of_like_strength_hold_every_sample_once() -> None:
    """Seven groups, the weakest first; a sample of unknown strength is in none."""
    strength = np.array([0.3, 0.35, 0.65, 1.0, np.nan, 0.95])
    numbers = np.arange(6.0)
    groups = by_strength(Group("all", strength, numbers, numbers, np.ones(6, bool)))
    assert [group.score.tolist() for group in groups] == [[0, 1], [], [], [2], [], [], [3, 5]]
    assert [groups[0].name, groups[-1].name] == ["0.3 to 0.4", "0.9 to 1"]
    assert by_strength(Group("all", strength[4:5], numbers[:1], numbers[:1], np.ones(1, bool))) == []
