"""Write the report of a harmonizer's training: pictures, curves, settings; one page that asks nobody for anything."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

from flows.errors import BadRequest
from flows.store.layout import TrainingLayout, write_bytes
from flows.view.cards import tell
from flows.view.plots import INK, MUTED, dot_of, draw_grid, drawing, svg_of
from flows.view.report import page_environment, page_text
from realism.harmonizers.checkpoint import PREFIX
from realism.harmonizers.table import known_harmonizer

SHEETS: Final = {"val": "Samples that it did not learn from (val)", "train": "Samples that it learnt from (train)"}
CURVES: Final = {"loss": "loss", "critic_loss": "loss of the critic", "val_fmse": "foreground MSE"}


def write_harmonizer_page(layout: TrainingLayout) -> Path:
    """Write `report/index.html` of a finished training from its checkpoint's JSON and its sheets; return its path.

    Raises:
        BadRequest: The training is unfinished, or its files are damaged.
    """
    name = layout.checkpoint.name
    try:
        about = json.loads((layout.folder / f"{name}.json").read_bytes())
        page = render_harmonizer_page(name=name, about=about, sheets=_sheets(layout))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, jinja2.UndefinedError) as error:
        raise BadRequest(f"{layout.folder} holds no whole training ({error!r}); run hcoco train again") from None
    write_bytes(layout.report, page)
    return layout.report


def render_harmonizer_page(*, name: str, about: Mapping[str, Any], sheets: Mapping[str, bytes]) -> bytes:
    """Return the page as UTF-8.

    Args:
        name: Of the training.
        about: The checkpoint's JSON.
        sheets: PNG of rows of pictures, by split.
    """
    network, metrics = str(about["architecture"]).removeprefix(PREFIX), about["metrics"]
    history, none = metrics["history"], metrics.get("val_fmse_none")
    environment = page_environment()
    environment.filters["count"] = lambda number: f"{number:,}"
    figures = {key: plot_curve(history, key, level=none if key == "val_fmse" else None) for key in CURVES}
    outcome = "Nothing was held out to measure it on."
    if none is not None:
        last = history[-1]["val_fmse"]
        outcome = f"Foreground MSE {last:.0f} on {metrics['held_out']} samples of val; {none:.0f} with no change."
    text = environment.get_template("harmonizer.html").render(
        name=name,
        style=Markup(page_text("report.css")),  # noqa: S704 - our own file
        about=about,
        network=network,
        source=known_harmonizer(network).source,
        outcome=outcome,
        sheets=[(SHEETS[split], _data_url(sheet)) for split, sheet in sheets.items()],
        figures={key: svg and Markup(svg) for key, svg in figures.items()},  # noqa: S704 - `plots` escapes
        settings=[(key, tell(value)) for key, value in about["settings"].items()],
    )
    return text.encode("utf-8", "backslashreplace")


def plot_curve(history: Sequence[Mapping[str, float]], key: str, *, level: float | None = None) -> str | None:
    """Draw one figure over the steps, with a level to compare with; None where it was never measured."""
    points = [(row["step"], row[key]) for row in history if key in row]
    if not points:
        return None
    with drawing(key, height=2.6) as figure:
        axes = figure.add_axes((0.12, 0.19, 0.85, 0.75))
        axes.plot(*zip(*points, strict=True), color=INK, linewidth=1.4, marker=dot_of(points))
        if level is not None:
            axes.axhline(level, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.set_ylabel(CURVES[key])
        draw_grid(axes)
        return svg_of(figure, label=f"The {CURVES[key]} over the steps of the training")


def _sheets(layout: TrainingLayout) -> dict[str, bytes]:
    files = {split: layout.report.parent / f"{split}.png" for split in SHEETS}
    return {split: file.read_bytes() for split, file in files.items() if file.exists()}


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
