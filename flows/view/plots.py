"""Draw the plots of a report as SVG that stands inside a page and takes its colours from it.

Matplotlib lays out, the page colours: every colour here is a placeholder that becomes a CSS variable. The same
numbers give the same text, and no font, time or version of a library goes in. Matplotlib is imported on first use.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, KEPT, REJECTED, BAND = "#010203", "#020304", "#030405", "#040506", "#050607", "#060708"
PLAIN = "#070809"
_VARIABLES: Final = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    KEPT: "kept",
    REJECTED: "rejected",
    BAND: "band",
    PLAIN: "plain",
}

_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.parse_math": False,
}

_LEAST: Final = 1.0
"""Foreground MSE below one level squared is drawn as one: a logarithmic axis knows no zero."""
_BINS_PER_DECADE: Final = 12
_POINTS: Final = 150
"""Points drawn per family at most; the line of medians uses all samples."""
_STRENGTH_BINS: Final = 7
_SURE: Final = 0.001
"""Scores nearer to 0 or 1 than this are drawn there: a scale of odds has no ends."""
_SCORE_BINS: Final = 44
_SCORE_TICKS: Final = (0.01, 0.1, 0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Group:
    """The samples of one family.

    Attributes:
        name: Of the family.
        strength: float (N,), 0..1, NaN where unknown.
        effect: float (N,), foreground MSE on the 8-bit scale, NaN where unknown.
        score: float (N,), realism score, 0..1, NaN where unknown.
        kept: bool (N,).
    """

    name: str
    strength: NDArray[Any]
    effect: NDArray[Any]
    score: NDArray[Any]
    kept: NDArray[np.bool_]

    @property
    def median(self) -> float | None:
        """Return the median effect of all attempts that were measured."""
        known = self.effect[np.isfinite(self.effect)]
        return float(np.median(known)) if len(known) else None


def plot_curve(curve: Sequence[tuple[float, int]], *, chosen: float | None) -> str | None:
    """Draw images kept against the least share of the image that people cover, with the setting used marked.

    Args:
        curve: (least share, images) in rising order of the share.
        chosen: The setting of the run.
    """
    if len(curve) < 2:
        return None
    share, images = np.array(curve, dtype=float).T
    with drawing("curve") as figure:
        axes = figure.add_axes((0.1, 0.16, 0.87, 0.78))
        axes.fill_between(share, images, color=BAND, linewidth=0)
        axes.plot(share, images, color=INK, linewidth=1.4)
        axes.set_xlim(share[0], share[-1])
        axes.set_ylim(0, max(images.max() * 1.08, 1))
        axes.set_xlabel("least share of the image covered by people")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="y", nbins=5, integer=True)
        axes.grid(visible=True, axis="y", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        if chosen is not None and share[0] <= chosen <= share[-1]:
            left = float(np.interp(chosen, share, images))
            axes.axvline(chosen, color=KEPT, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.plot([chosen], [left], marker="o", color=KEPT, markersize=5)
            right = chosen < (share[0] + share[-1]) / 2
            axes.annotate(
                f"this run: {chosen:.3g}, {left:,.0f} images",
                (chosen, left),
                xytext=(9 if right else -9, 7),
                textcoords="offset points",
                ha="left" if right else "right",
                color=INK,
            )
        return svg_of(figure, label="Images kept against the least share of the image covered by people")


def plot_effect(groups: Sequence[Group], *, gates: tuple[float, float]) -> str | None:
    """Draw how often which effect size occurs, a row a family, kept on rejected, with the band of the gates marked.

    Args:
        groups: The samples of each family.
        gates: Least and largest foreground MSE that is kept.
    """
    groups = [group for group in groups if np.isfinite(group.effect).any()]
    if not groups:
        return None
    edges = _log_edges(groups, gates)
    tall = 0.56 * len(groups) + 0.62
    with drawing("effect", height=tall) as figure:
        for number, group in enumerate(groups):
            bottom = (0.42 + 0.56 * (len(groups) - 1 - number)) / tall
            axes = figure.add_axes((0.235, bottom, 0.745, 0.46 / tall))
            _draw_effect(axes, group, edges)
            _draw_gates(axes, gates, vertical=True)
            last = number == len(groups) - 1
            axes.tick_params(labelbottom=last, length=3 if last else 0, which="major")
            axes.text(-0.02, 0.5, printable(group.name), transform=axes.transAxes, ha="right", va="center")
            if last:
                axes.set_xlabel("foreground MSE (logarithmic)")
            if not number:
                _name_gates(axes, gates)
        return svg_of(figure, label="Distribution of foreground MSE per family, with the gates marked")


def plot_strength(groups: Sequence[Group], *, gates: tuple[float, float]) -> str | None:
    """Draw effect against strength, a panel a family: some samples as points, the median of all as a line.

    Args:
        groups: The samples of each family.
        gates: Least and largest foreground MSE that is kept.
    """
    groups = [group for group in groups if np.isfinite(group.effect * group.strength).any()]
    if not groups:
        return None
    edges = _log_edges(groups, gates)
    rows = -(-len(groups) // 2)
    tall = 1.45 * rows + 0.4
    with drawing("strength", height=tall) as figure:
        for number, group in enumerate(groups):
            row, column = divmod(number, 2)
            below = number + 2 >= len(groups)
            axes = figure.add_axes(
                (0.1 + 0.47 * column, (0.42 + 1.45 * (rows - 1 - row)) / tall, 0.41, 1.12 / tall),
            )
            _draw_strength(axes, group, edges)
            _draw_gates(axes, gates, vertical=False)
            axes.tick_params(labelleft=not column, labelbottom=below)
            axes.set_title(printable(group.name), loc="left", fontsize=9, color=INK, pad=4)
            if below:
                axes.set_xlabel("strength")
        return svg_of(figure, label="Foreground MSE against strength per family, with the gates marked")


def plot_scores(groups: Sequence[Group], *, threshold: float | None, name: str) -> str | None:
    """Draw how often which realism score occurs, a row a group, kept on rejected, with the threshold marked.

    Args:
        groups: Of samples, such as those of a family.
        threshold: Of the gate; None where it is not one for all.
        name: What the groups are, in one word; makes the ids in the figure its own.
    """
    groups = [group for group in groups if np.isfinite(group.score).any()]
    if not groups:
        return None
    edges = np.linspace(_odds(_SURE), _odds(1 - _SURE), _SCORE_BINS + 1)
    tall = 0.56 * len(groups) + 0.62
    with drawing(f"scores-{name}", height=tall) as figure:
        for number, group in enumerate(groups):
            bottom = (0.42 + 0.56 * (len(groups) - 1 - number)) / tall
            axes = figure.add_axes((0.235, bottom, 0.745, 0.46 / tall))
            _draw_counts(axes, _odds(group.score), group.kept, edges)
            last = number == len(groups) - 1
            axes.set_xticks([_odds(tick) for tick in _SCORE_TICKS], [f"{tick:g}" for tick in _SCORE_TICKS])
            axes.tick_params(labelbottom=last, length=3 if last else 0)
            axes.text(-0.02, 0.5, printable(group.name), transform=axes.transAxes, ha="right", va="center")
            if threshold is not None:
                axes.axvline(_odds(threshold), color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            if last:
                axes.set_xlabel("realism score (scale of odds)")
            if not number and threshold is not None:
                _name_line(axes, _odds(threshold), f"{threshold:.4g}")
        return svg_of(figure, label=f"Distribution of the realism score per {name}, with the threshold marked")


def by_strength(group: Group) -> list[Group]:
    """Cut samples into groups of like strength, the weakest first; those of unknown strength are left out."""
    known = group.strength[np.isfinite(group.strength)]
    if not len(known):
        return []
    edges = np.linspace(min(0.3, float(known.min())), max(1.0, float(known.max())), _STRENGTH_BINS + 1)
    place = np.clip(np.searchsorted(edges, group.strength, side="right") - 1, 0, _STRENGTH_BINS - 1)
    place[~np.isfinite(group.strength)] = -1
    return [
        Group(f"{low:.2g} to {high:.2g}", *(part[place == number] for part in _columns(group)))
        for number, (low, high) in enumerate(pairwise(edges))
    ]


def _columns(group: Group) -> tuple[NDArray[Any], ...]:
    return group.strength, group.effect, group.score, group.kept


def _odds(score: Any) -> Any:
    """Return the logarithm of the odds, so that scores near 0 and near 1 have room; NaN stays NaN."""
    inside = np.clip(score, _SURE, 1 - _SURE)
    return np.log(inside / (1 - inside))


def _draw_effect(axes: Axes, group: Group, edges: NDArray[Any]) -> None:
    axes.set_xscale("log")
    _draw_counts(axes, np.maximum(group.effect, _LEAST), group.kept, edges)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_tick_params(which="minor", length=0, labelsize=0)
    axes.xaxis.set_minor_formatter(lambda _value, _: "")
    axes.plot([max(group.median or _LEAST, _LEAST)], [0], marker="^", color=INK, markersize=5, clip_on=False, zorder=5)


def _draw_counts(axes: Axes, values: NDArray[Any], kept: NDArray[np.bool_], edges: NDArray[Any]) -> None:
    """Draw how many values lie in each bin, rejected on kept; those that are not known are left out."""
    widths, start = np.diff(edges), np.zeros(len(edges) - 1)
    for side, colour in ((kept, KEPT), (~kept, REJECTED)):
        count = np.histogram(values[side & np.isfinite(values)], bins=edges)[0]
        some = count > 0
        axes.bar(edges[:-1][some], count[some], widths[some], start[some], align="edge", color=colour, linewidth=0)
        start = start + count
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, max(float(start.max()) * 1.15, 1))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _draw_strength(axes: Axes, group: Group, edges: NDArray[Any]) -> None:
    known = np.flatnonzero(np.isfinite(group.effect * group.strength))
    effect, strength = np.maximum(group.effect[known], _LEAST), group.strength[known]
    some = np.unique(np.linspace(0, len(known) - 1, min(len(known), _POINTS)).round().astype(int))
    for side, colour in ((True, KEPT), (False, REJECTED)):
        shown = some[group.kept[known][some] == side]
        axes.plot(strength[shown], effect[shown], ".", color=colour, markersize=4.5, markeredgewidth=0, alpha=0.75)
    low, high = min(0.3, float(strength.min())), max(1.0, float(strength.max()))
    bins = np.linspace(low, high, _STRENGTH_BINS + 1)
    inside = [effect[(strength >= a) & (strength <= b)] for a, b in pairwise(bins)]
    medians = [
        (middle, np.median(part))
        for middle, part in zip((bins[:-1] + bins[1:]) / 2, inside, strict=True)
        if len(part) > 4
    ]
    if len(medians) > 1:
        axes.plot(*zip(*medians, strict=True), color=INK, linewidth=1.4)
    pad = 0.02 * (high - low)
    axes.set_xlim(low - pad, high + pad)
    axes.set_yscale("log")
    axes.set_ylim(edges[0], edges[-1])
    axes.set_yticks([10.0**power for power in range(9) if edges[0] <= 10**power <= edges[-1]])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_minor_formatter(lambda _value, _: "")
    axes.yaxis.set_tick_params(which="minor", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}")


def _draw_gates(axes: Axes, gates: tuple[float, float], *, vertical: bool) -> None:
    span, line = (axes.axvspan, axes.axvline) if vertical else (axes.axhspan, axes.axhline)
    span(*gates, color=BAND, linewidth=0, zorder=0)
    for gate in gates:
        line(gate, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)


def _name_gates(axes: Axes, gates: tuple[float, float]) -> None:
    """Write the gates' values above the lines that mark them."""
    for gate in gates:
        _name_line(axes, gate, f"{gate:,.0f}")


def _name_line(axes: Axes, place: float, text: str) -> None:
    axes.annotate(
        text,
        (place, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=MUTED,
        fontsize=8.5,
    )


def _log_edges(groups: Sequence[Group], gates: tuple[float, float]) -> NDArray[Any]:
    """Return edges of bins over whole decades around all that was measured and the gates."""
    effect = np.concatenate([group.effect[np.isfinite(group.effect)] for group in groups])
    low = np.floor(np.log10(max(min(float(effect.min()), gates[0] / 2), _LEAST)))
    high = np.log10(max(float(effect.max()) * 1.2, gates[1] * 3))
    steps = int(np.ceil((high - low) * _BINS_PER_DECADE))
    return np.asarray(10 ** (low + np.arange(steps + 1) / _BINS_PER_DECADE))


def printable(name: str) -> str:
    """Return a name as one line of letters that a font has: a stranger may have named a family."""
    return "".join(letter if letter.isprintable() else " " for letter in name)


@contextmanager
def drawing(name: str, *, height: float = 2.9, width: float = 6.2) -> Iterator[Figure]:
    """Yield a figure in the report's own style, whatever the user's matplotlibrc says; restore that afterwards.

    Args:
        name: Salts the ids in the figure's SVG, so that several stand in one page.
        height: In inches, 72 units of the SVG each.
        width: In inches; the narrower, the larger the text on a page.
    """
    import matplotlib as mpl  # noqa: PLC0415 - half a second that only a report should cost
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        mpl.rcParams["svg.hashsalt"] = name
        yield Figure(figsize=(width, height))


def dot_of(history: Sequence[object]) -> str:
    """Return a marker where there are points so few that a line would hide them."""
    return "." if len(history) < 20 else ""


def draw_grid(axes: Axes) -> None:
    """Draw level lines behind a curve over the steps of a training, and write its steps with commas."""
    axes.grid(visible=True, axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.locator_params(axis="y", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def svg_of(figure: Figure, *, label: str) -> str:
    """Return a figure as an `svg` element: no metadata, no ids but those in use, colours of the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<metadata>.*?</metadata>|<style type=\"text/css\">.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL
    )
    used = set(re.findall(r"(?:xlink:href=\"|url\()#([^\")]+)", text))
    text = re.sub(r" id=\"([^\"]*)\"", lambda match: match[0] if match[1] in used else "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    box = re.search(r"viewBox=\"[^\"]*\"", text)
    head = f'<svg role="img" aria-label="{html.escape(label)}" {box[0] if box else ""}'
    head += ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    text = head + text[text.index(">") + 1 :]
    return re.sub(r"\s*\n\s*", "\n", text).strip()
