"""Compare distributions by their quantiles: with those of HCOCO in words, and group by group in a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from flows.view.plots import INK, KEPT, LINE, MUTED, PLAIN, drawing, printable, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS: Final = (0.05, 0.25, 0.5, 0.75, 0.95)

HCOCO: Final = {"foreground_mse": (187.0, 404.0, 738.0, 1413.0, 3183.0), "share": (0.011, 0.016, 0.031, 0.077, 0.245)}
"""Quantiles of the published HCOCO at `LEVELS`; their source stands in docs/statistics.md."""
FACTOR: Final = 1.25
"""A quantile that is less than this times as large, or as small, is taken for alike."""
_SIGMAS: Final = 3.0

_ROW: Final = 0.3
"""Height of a row of a plot, in inches."""
_WIDE: Final = 4.6
"""Width of a plot, in inches: its text can be read on a phone."""
_NAMES: Final = 1.1
"""Width of the names on its left, in inches."""
_COUNTS: Final = 0.55
"""Width of the counts on its right, in inches."""


@dataclass(frozen=True)
class Level:
    """A quantile of a set beside that of the reference.

    Attributes:
        level: 0..1.
        theirs: Of the reference.
        ours: Of the set.
        below: Share of the set below `theirs`; `level` where both are alike.
        differs: Whether both differ by more than `FACTOR`, and by more than chance.
    """

    level: float
    theirs: float
    ours: float
    below: float
    differs: bool

    @property
    def ratio(self) -> float:
        """Return how many times as large as the reference's it is."""
        return self.ours / self.theirs


def compare(values: NDArray[np.float64], reference: Sequence[float]) -> list[Level]:
    """Compare a set with the quantiles of another one, at `LEVELS`.

    A difference counts where the quantile is `FACTOR` times larger or smaller, and where the share of the set that lies
    below the reference's quantile is more than three standard errors of a binomial draw off: few samples say little.

    Args:
        values: float (N,), finite; N at least 1.
        reference: The other's quantiles, positive.
    """
    levels = []
    for level, theirs, ours in zip(LEVELS, reference, np.quantile(values, LEVELS).tolist(), strict=True):
        below = float(np.mean(values < theirs))
        chance = _SIGMAS * (level * (1 - level) / len(values)) ** 0.5
        far = not 1 / FACTOR <= ours / theirs <= FACTOR
        levels.append(Level(level, theirs, ours, below, far and abs(below - level) > chance))
    return levels


@dataclass(frozen=True)
class Bar:
    """What is drawn of one distribution: its quantiles at `LEVELS`, all None where nothing is known."""

    quantiles: tuple[float, ...] | None
    count: int


@dataclass(frozen=True)
class Row:
    """A row of a plot: a name, and a bar for each of the sides that are compared.

    Attributes:
        apart: Whether a gap stands above it.
    """

    name: str
    bars: tuple[Bar, ...]
    apart: bool = False


def bar_of(values: NDArray[np.float64]) -> Bar:
    """Return the bar of some values, float (N,); NaN is unknown and left out."""
    known = values[np.isfinite(values)]
    return Bar(tuple(np.quantile(known, LEVELS).tolist()) if len(known) else None, len(known))


@dataclass(frozen=True)
class Scale:
    """The axis of a plot.

    Attributes:
        label: What it measures.
        log: Whether it is logarithmic.
        ticks: Where it is labelled.
        form: Format of a label, as `,.0f`.
        marks: Values that a line marks, such as limits of gates.
    """

    label: str
    log: bool = False
    ticks: tuple[float, ...] = ()
    form: str = "g"
    marks: tuple[float, ...] = ()


def plot_quantiles(rows: Sequence[Row], scale: Scale, *, name: str, label: str) -> str | None:
    """Draw a row a group: a line from the 5 % to the 95 % quantile, a bar from 25 % to 75 %, a tick at the median.

    Of two bars of a row the upper one is before, the lower one after. The row named HCOCO is drawn in grey.

    Args:
        rows: From above.
        scale: Of the axis.
        name: Makes the ids in the figure its own.
        label: For those who do not see the plot.
    """
    rows = [row for row in rows if any(bar.quantiles for bar in row.bars)]
    if not rows:
        return None
    places, depth = [], 0.0
    for row in rows:
        depth += _ROW * (1.5 if row.apart else 1.0)
        places.append(depth - _ROW / 2)
    tall = depth + 0.72
    with drawing(name, height=tall, width=_WIDE) as figure:
        axes = figure.add_axes((_NAMES / _WIDE, 0.5 / tall, 1 - (_NAMES + _COUNTS) / _WIDE, depth / tall))
        for row, place in zip(rows, places, strict=True):
            _draw_row(axes, row, place)
        _dress(axes, rows, scale, depth)
        return svg_of(figure, label=label)


def _draw_row(axes: Axes, row: Row, place: float) -> None:
    two = len(row.bars) > 1
    for number, bar in enumerate(row.bars):
        if bar.quantiles is None:
            continue
        middle = place + (0.065 * (2 * number - 1) if two else 0.0)
        colour = MUTED if row.name == "HCOCO" else PLAIN if two and not number else KEPT
        low, left, median, right, high = bar.quantiles
        half = 0.04 if two else 0.06
        axes.plot([low, high], [middle, middle], color=colour, linewidth=1.1, solid_capstyle="butt")
        axes.fill_between([left, right], middle - half, middle + half, color=colour, linewidth=0)
        axes.plot([median, median], [middle - half - 0.02, middle + half + 0.02], color=INK, linewidth=1.6)
    margin, count = axes.get_yaxis_transform(), max(bar.count for bar in row.bars)
    colour = MUTED if row.name == "HCOCO" else INK
    axes.text(-0.02, place, printable(row.name), ha="right", va="center", color=colour, transform=margin)
    if count:
        axes.text(1.02, place, f"{count:,}", ha="left", va="center", color=MUTED, fontsize=8.5, transform=margin)


def _dress(axes: Axes, rows: Sequence[Row], scale: Scale, depth: float) -> None:
    """Set limits, ticks and labels; the axis reaches a little farther than what is drawn."""
    drawn = np.array([bar.quantiles for row in rows for bar in row.bars if bar.quantiles])
    low, high = float(drawn.min()), float(drawn.max())
    if scale.log:
        axes.set_xscale("log")
        low, high = low / 1.15, high * 1.15
    else:
        pad = 0.04 * (high - low) or 0.5
        low, high = low - pad, high + pad
    axes.set_xlim(low, high)
    axes.set_ylim(depth, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.minorticks_off()
    ticks = [tick for tick in scale.ticks if low <= tick <= high]
    if len(ticks) > 1:
        axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(lambda value, _: format(value, scale.form))
    axes.set_xlabel(scale.label)
    axes.grid(visible=True, axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for mark in scale.marks:
        if low < mark < high:
            axes.axvline(mark, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))


def tell_quantiles(bar: Bar, form: str) -> tuple[str, ...]:
    """Return a bar's quantiles as text, a dash each where nothing is known."""
    values: Sequence[Any] = bar.quantiles or ("\N{EN DASH}",) * len(LEVELS)
    return tuple(value if isinstance(value, str) else format(value, form) for value in values)
