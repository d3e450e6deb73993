"""Write what a comparison of harmonizers came to: one page with tables, plots and pictures, which asks nobody for anything."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from flows.coco.pictures import Picture
from flows.store.layout import write_bytes
from flows.view.plots import INK, KEPT, LINE, MUTED, REJECTED, drawing, svg_of
from flows.view.report import page_environment, page_text
from realism.conventions import CONVENTIONS, MEASURES

SIDE: Final = 320
"""Longer side of a picture on the page, in pixels."""
NATIVE: Final = "native"
COLUMNS: Final = (("mse", 2), ("fmse", 2), ("psnr", 2), ("ssim", 4))
"""Measures in the order of a table, and the decimals of each."""
_BINS: Final = 40
_MOST_DB: Final = 12.0
"""Changes beyond it are drawn there."""


class Shown(Protocol):
    """A sample that is shown; see `flows.make.evaluate_harmonization`."""

    @property
    def method(self) -> str:
        """Return whose best, median or worst it is."""

    @property
    def rank(self) -> str:
        """Return which."""

    @property
    def name(self) -> str:
        """Return the sample's name."""

    @property
    def change(self) -> float:
        """Return the change of foreground MSE."""

    @property
    def pictures(self) -> Mapping[str, Picture]:
        """Return pictures by what they are."""


@dataclass(frozen=True)
class _Picture:
    name: str
    data: str


@dataclass(frozen=True)
class _Case:
    method: str
    rank: str
    name: str
    change: float
    pictures: Sequence[_Picture]


def write_harmonization_page(
    path: Path, about: Mapping[str, Any], figures: Sequence[NDArray[np.float64]], shown: Sequence[Shown]
) -> Path:
    """Write the page; return its path.

    Args:
        path: Of the page.
        about: The evaluation as its JSON holds it.
        figures: Of each sample, (methods, conventions, measures).
        shown: Samples to show.
    """
    native = about["conventions"][NATIVE]
    plots = {
        "means": plot_means(native["rows"]),
        "bins": plot_bins(native["bins"], about["methods"]),
        "changes": plot_changes(np.stack(figures), about["methods"]),
    }
    environment = page_environment()
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "percent": lambda value: f"{100 * value['mean']:.1f} % ({100 * value['low']:.1f} to {100 * value['high']:.1f})",
        "spread": _spread,
        "verdict": _verdict,
    }
    text = environment.get_template("harmonization.html").render(
        name=Path(about["place"]).name,
        style=Markup(page_text("report.css")),  # noqa: S704 - our own file
        about=about,
        bins=native["bins"],
        columns=COLUMNS,
        figures={key: svg and Markup(svg) for key, svg in plots.items()},  # noqa: S704 - `plots` escapes
        cases=[
            _Case(
                each.method,
                each.rank,
                Path(each.name).name,
                each.change,
                [_Picture(name, _encoded(picture)) for name, picture in each.pictures.items()],
            )
            for each in shown
        ],
    )
    write_bytes(path, text.encode("utf-8", "backslashreplace"))
    return path


def plot_means(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw each method's mean foreground MSE with its interval, and a line at that of no change."""
    tall = 0.34 * len(rows) + 0.7
    with drawing("means", height=tall) as figure:
        axes = figure.add_axes((0.24, 0.5 / tall, 0.73, (tall - 0.6) / tall))
        axes.axvline(rows[0]["fmse"]["mean"], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        for place, row in enumerate(reversed(rows)):
            value = row["fmse"]
            axes.plot([value["low"], value["high"]], [place, place], color=_colour(row), linewidth=2)
            axes.plot([value["mean"]], [place], "o", color=_colour(row), markersize=5)
        axes.set_yticks(range(len(rows)), [row["method"] for row in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel("foreground MSE")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.grid(visible=True, axis="x", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        return svg_of(figure, label="Mean foreground MSE of each method with its interval")


def plot_bins(bins: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    """Draw each method's mean foreground MSE, a panel a bin of mask share, on one scale."""
    tall = 0.26 * len(methods) + 0.9
    with drawing("bins", height=tall) as figure:
        most = max(value["high"] for each in bins for value in each["fmse"].values())
        wide = 0.74 / max(len(bins), 1)
        for number, each in enumerate(bins):
            axes = figure.add_axes((0.24 + number * wide, 0.48 / tall, wide - 0.025, (tall - 0.8) / tall))
            for place, method in enumerate(reversed(methods)):
                value = each["fmse"][method]
                axes.barh(place, value["mean"], height=0.6, color=MUTED if place == len(methods) - 1 else KEPT)
                axes.plot([value["low"], value["high"]], [place, place], color=INK, linewidth=1)
            axes.set_yticks(range(len(methods)), [*reversed(methods)] if not number else [""] * len(methods))
            axes.set_xlim(0, most * 1.05 or 1)
            axes.set_title(
                f"{100 * each['from']:g} to {100 * each['to']:g} %", loc="left", fontsize=9, color=INK, pad=4
            )
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axes.locator_params(axis="x", nbins=3)
        return svg_of(
            figure, label="Mean foreground MSE of each method by the share of the picture that the mask covers"
        )


def plot_changes(figures: NDArray[np.float64], methods: Sequence[str]) -> str | None:
    """Draw how often which change of PSNR inside the mask occurs, a row a method; None where there is but no change."""
    if len(methods) < 2:
        return None
    native = list(CONVENTIONS).index(NATIVE)
    psnr = figures[:, :, native, MEASURES.index("psnr")]
    change = np.clip(psnr[:, 1:] - psnr[:, :1], -_MOST_DB, _MOST_DB)
    edges = np.linspace(-_MOST_DB, _MOST_DB, _BINS + 1)
    rows = change.shape[1]
    tall = 0.5 * rows + 0.6
    with drawing("changes", height=tall) as figure:
        for number in range(rows):
            axes = figure.add_axes((0.24, (0.42 + 0.5 * (rows - 1 - number)) / tall, 0.73, 0.42 / tall))
            counts, _ = np.histogram(change[:, number], bins=edges)
            colours = [REJECTED if edge < 0 else KEPT for edge in edges[:-1]]
            axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colours, linewidth=0)
            axes.axvline(0, color=INK, linewidth=0.9)
            axes.set_xlim(edges[0], edges[-1])
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            last = number == rows - 1
            axes.tick_params(labelbottom=last, length=3 if last else 0)
            axes.text(-0.02, 0.5, methods[number + 1], transform=axes.transAxes, ha="right", va="center")
            if last:
                axes.set_xlabel("change of PSNR inside the mask, dB")
        return svg_of(figure, label="Distribution of the change of PSNR inside the mask, a row a method")


def _colour(row: Mapping[str, Any]) -> str:
    change = row["fmse_change"]
    if change is None or change["low"] <= 0 <= change["high"]:
        return INK
    return KEPT if change["high"] < 0 else REJECTED


def _spread(value: Mapping[str, float], digits: int) -> str:
    return f"{value['mean']:,.{digits}f} ({value['low']:,.{digits}f} to {value['high']:,.{digits}f})"


def _verdict(change: Mapping[str, float]) -> str:
    if change["low"] <= 0 <= change["high"]:
        return "no difference"
    return "better" if change["high"] < 0 else "worse"


def _encoded(picture: Picture) -> str:
    scale = min(SIDE / max(picture.shape), 1)
    small = cv2.resize(picture, dsize=None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return base64.b64encode(data.tobytes()).decode()
