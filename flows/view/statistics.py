"""Write the statistics of a run: how its kept samples are distributed, per family and split, and where HCOCO differs.

One page, opened from disk, that asks nobody for anything. Its numbers come from the index, and from the pictures
where the index does not say them (`measures.py`); the page itself holds quantiles alone, so it is as small for 100,000
samples as for ten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from numpy.typing import NDArray

from augment import LIMITS
from flows.coco.sources import Watch, unwatched
from flows.store.layout import FUSION, Layout, write_bytes
from flows.store.manifest import read_manifest
from flows.view.attempts import NO_FAMILY
from flows.view.gallery import Map
from flows.view.measures import measure_run
from flows.view.quantiles import (
    HCOCO,
    LEVELS,
    Bar,
    Level,
    Row,
    Scale,
    bar_of,
    compare,
    plot_quantiles,
    tell_quantiles,
)
from flows.view.report import page_environment, page_text

Column = NDArray[np.float64]
Columns = dict[str, Column]

SPLITS: Final = ("train", "val", "test")
FEW: Final = 100
"""Below so many samples the page warns that quantiles at the ends are a matter of chance."""

_PERCENT: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_KELVIN: Final = (2000, 2500, 3000, 4000, 5000, 6500, 8000, 10000, 15000, 25000)


@dataclass(frozen=True)
class Measure:
    """A quantity of the page.

    Attributes:
        name: Of its columns and its section.
        title: Heading.
        meaning: What it is, in a sentence or two.
        sides: Takes the columns of all samples and returns one column, or two: before and after. NaN is unknown.
        scale: Of the plot, in the unit of `sides`.
        unit: Multiplies the reference's quantiles to that unit.
        sign: Stands behind a number in a sentence.
    """

    name: str
    title: str
    meaning: str
    sides: Callable[[Columns], tuple[Column, ...]]
    scale: Scale
    unit: float = 1.0
    sign: str = ""


def _one(name: str, *, unit: float = 1.0) -> Callable[[Columns], tuple[Column, ...]]:
    return lambda columns: (columns[name] * unit,)


def _pair(name: str, *, unit: float = 1.0) -> Callable[[Columns], tuple[Column, ...]]:
    """Return both sides where both are known: what is compared must be the same samples."""

    def sides(columns: Columns) -> tuple[Column, ...]:
        before, after = columns[f"{name}_before"] * unit, columns[f"{name}_after"] * unit
        known = np.isfinite(before) & np.isfinite(after)
        return np.where(known, before, np.nan), np.where(known, after, np.nan)

    return sides


def _stops(columns: Columns) -> tuple[Column, ...]:
    """Return how many times luminance was doubled; unknown where there was none."""
    before, after = columns["luminance_before"], columns["luminance_after"]
    lit = (before > 0) & (after > 0)
    return (np.log2(np.where(lit, after, 1.0) / np.where(lit, before, 1.0), where=lit, out=np.full(len(lit), np.nan)),)


def _mired(columns: Columns) -> tuple[Column, ...]:
    return (1e6 / columns["kelvin_after"] - 1e6 / columns["kelvin_before"],)


MEASURES: Final = (
    Measure(
        "foreground_mse",
        "Effect size",
        "Foreground MSE: the mean squared difference between real and composite inside the mask, on the 8-bit scale. "
        "Dashed lines are the limits of the gates.",
        _one("foreground_mse"),
        Scale(
            "foreground MSE (logarithmic)",
            log=True,
            ticks=(50, 100, 200, 500, 1000, 2000, 5000),
            form=",.0f",
            marks=(LIMITS["effect_small"], LIMITS["effect_large"]),
        ),
    ),
    Measure(
        "share",
        "Share of the image",
        "How much of the image the mask covers, in percent.",
        _one("share", unit=100),
        Scale("mask share, % of the image (logarithmic)", log=True, ticks=_PERCENT, form=".3g"),
        unit=100,
        sign="%",
    ),
    Measure(
        "strength",
        "Strength",
        "How far an edit goes from the photograph (0) to its full target (1).",
        _one("strength"),
        Scale("strength", form=".2g"),
    ),
    Measure(
        "score",
        "Realism score",
        "How natural the gate's network finds the subject in its scene, 0 to 1.",
        _one("score"),
        Scale("realism score", form=".2g"),
    ),
    Measure(
        "luminance",
        "Luminance before and after",
        "CIE Y of the subject's mean linear light, in percent of white.",
        _pair("luminance", unit=100),
        Scale("luminance, % of white (logarithmic)", log=True, ticks=_PERCENT, form=".3g"),
    ),
    Measure(
        "stops",
        "Change of luminance",
        "The same sample by sample, in stops: 1 is twice the light, -1 half of it.",
        _stops,
        Scale("change of luminance, stops", form=".2g", marks=(0.0,)),
    ),
    Measure(
        "kelvin",
        "Colour temperature before and after",
        "Correlated colour temperature of the subject's mean linear light (McCamy), where both sides have one: colours "
        "farther than Duv 0.02 from the locus of lights, such as a green shirt's, have none.",
        _pair("kelvin"),
        Scale("correlated colour temperature, K (logarithmic)", log=True, ticks=_KELVIN, form=",.0f"),
    ),
    Measure(
        "mired",
        "Change of colour temperature",
        "The same sample by sample, in mired (a million over kelvin): above 0 warmer, below 0 cooler.",
        _mired,
        Scale("change of colour temperature, mired", form=".3g", marks=(0.0,)),
    ),
)
"""What the page shows, in its order; a quantity that no sample of a stage knows is left out."""


@dataclass(frozen=True)
class Stage:
    """What the page says of a stage.

    Attributes:
        before: What luminance and colour temperature are taken from before; after, it is the composite.
    """

    name: str
    title: str
    before: str
    what: str


STAGES: Final = (
    Stage("harmonization", "Edits", "real photograph", "edited"),
    Stage(FUSION, "Fusion", "foreground, in its other surroundings", "composed"),
)


@dataclass(frozen=True)
class Chart:
    """A section of the page.

    Attributes:
        plot: SVG; None where there is nothing to draw.
        pairs: Whether its rows have two bars.
        table: A line a bar: group, side, count, quantiles.
        levels: The comparison with HCOCO; empty where there is none.
        verdict: What it comes to, in words.
    """

    id: str
    title: str
    meaning: str
    plot: Markup | None
    pairs: bool
    table: Sequence[tuple[str, str, int, tuple[str, ...]]]
    levels: Sequence[tuple[str, ...]] = ()
    verdict: str = ""
    differs: bool = False


@dataclass(frozen=True)
class Statistics:
    """What was written.

    Attributes:
        page: The file to open.
        samples: Kept samples that it tells of.
        measured: Those of them whose pictures could be measured.
    """

    page: Path
    samples: int
    measured: int


def write_statistics(layout: Layout, *, over: Map = map, watch: Watch = unwatched) -> Statistics:
    """Write `statistics/index.html` of a finished run, and beside it what was measured for it.

    The same run gives the same bytes. The page is written last and whole.

    Args:
        layout: Of the run; the caller holds its lock.
        over: Maps the work over the files of the index; in this process where not given.
        watch: Is told how many files of the index are done.

    Raises:
        BadRequest: The run is unfinished, or its manifest or index is damaged.
        OSError: The disk is full or not writable.
    """
    table = measure_run(layout, read_manifest(layout), over=over, watch=watch)
    write_bytes(layout.statistics, render_page(layout.run.name, table))
    return Statistics(layout.statistics, table.num_rows, table.num_rows - table["share"].null_count)


def render_page(name: str, table: pa.Table) -> bytes:
    """Return the page as UTF-8.

    Args:
        name: Of the run.
        table: As `measures.measure_run` returns it.
    """
    stages = []
    for stage in STAGES:
        rows = table.filter(pc.equal(table["stage"], stage.name))
        if rows.num_rows:
            charts = [chart for each in MEASURES if (chart := _chart(each, stage, rows)) is not None]
            stages.append((stage, rows.num_rows, charts))
    text = (
        page_environment()
        .get_template("statistics.html")
        .render(
            name=name,
            style=Markup(page_text("report.css")),  # noqa: S704 - our own file
            stages=stages,
            samples=table.num_rows,
            blank=table["share"].null_count,
            levels=[f"{level:.0%}" for level in LEVELS],
            few=FEW,
        )
    )
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate from a file name must not end the page


def _chart(measure: Measure, stage: Stage, rows: pa.Table) -> Chart | None:
    """Return the section of one quantity; None where no sample knows it."""
    numbers = {name: rows[name].to_numpy() for name in rows.column_names if pa.types.is_floating(rows[name].type)}
    sides = measure.sides(numbers)
    if not any(np.isfinite(side).any() for side in sides):
        return None
    groups = _groups(rows)
    drawn = [Row(name, tuple(bar_of(side[mine]) for side in sides), apart) for name, mine, apart in groups]
    reference = tuple(value * measure.unit for value in HCOCO.get(measure.name, ())) if stage.name != FUSION else ()
    levels = compare(sides[0][np.isfinite(sides[0])], reference) if reference else []
    if reference:
        drawn = [Row("HCOCO", (Bar(reference, 0),)), *drawn]
    svg = plot_quantiles(
        drawn, measure.scale, name=f"{stage.name}-{measure.name}", label=f"{measure.title} by family and split"
    )
    form = measure.scale.form
    called = (stage.before, "composite") if len(sides) > 1 else ("",)
    return Chart(
        id=f"{stage.name}-{measure.name}",
        title=measure.title,
        meaning=measure.meaning,
        plot=None if svg is None else Markup(svg),  # noqa: S704 - our own
        pairs=len(sides) > 1,
        table=[
            (row.name, side, bar.count, tell_quantiles(bar, form))
            for row in drawn
            for side, bar in zip(called, row.bars, strict=False)
        ],
        levels=[_tell_level(level, form) for level in levels],
        verdict=_verdict(levels, form, sign=measure.sign),
        differs=any(level.differs for level in levels),
    )


def _groups(rows: pa.Table) -> list[tuple[str, NDArray[np.bool_], bool]]:
    """Return all samples, those of each family, and those of each split: name, which ones, whether a gap stands before."""
    groups = [("all", np.ones(rows.num_rows, dtype=np.bool_), False)]
    for column, order in (("family", ()), ("split", SPLITS)):
        words = np.array([word or NO_FAMILY for word in rows[column].to_pylist()], dtype=object)
        found = sorted(set(words), key=lambda word: (order.index(word) if word in order else len(order), word))
        groups += [(str(word), words == word, not number) for number, word in enumerate(found)]
    return groups


def _tell_level(level: Level, form: str) -> tuple[str, ...]:
    return (
        f"{level.level:.0%}",
        format(level.theirs, form),
        format(level.ours, form),
        f"{level.ratio:.2f}",
        f"{level.below:.1%}",
        "differs" if level.differs else "alike",
    )


def _verdict(levels: Sequence[Level], form: str, *, sign: str) -> str:
    """Say in a sentence or two where a set differs from HCOCO."""
    different = [level for level in levels if level.differs]
    if not levels or not different:
        return "Like HCOCO: no quantile is a quarter larger or smaller, beyond chance." if levels else ""
    phrases = []
    for word, side in (
        ("larger", [level for level in different if level.ratio > 1]),
        ("smaller", [level for level in different if level.ratio < 1]),
    ):
        if side:
            told = ", ".join(f"{at.level:.0%} ({at.ours:{form}}{sign} against {at.theirs:{form}}{sign})" for at in side)
            phrases.append(f"{word} at {told}")
    return f"Differs from HCOCO at {len(different)} of {len(levels)} quantiles: {'; '.join(phrases)}."
