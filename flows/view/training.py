"""Write the report of a training of the realism network: how it went, what it tells apart, and its audit.

One page, opened from disk, that asks nobody for anything. It is made from the training's own files alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import jinja2
import numpy as np
from markupsafe import Markup

from flows.errors import BadRequest
from flows.store.layout import TrainingLayout, read_json, write_bytes
from flows.view.cards import DASH, tell
from flows.view.plots import INK, KEPT, LINE, MUTED, REJECTED, dot_of, draw_grid, drawing, svg_of
from flows.view.report import page_environment, page_text
from realism.audit import MIN_SUBJECTS, NULL_TOLERANCE, SHIFT_TOLERANCE, find_failures

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

SPLITS: Final = ("val", "test")
_BINS: Final = 25


@dataclass(frozen=True)
class Figure:
    """A figure of the model card: its key among the metrics, what it means, and the least that is wanted of it.

    Attributes:
        at_most: Whether `floor` is an upper bound.
    """

    key: str
    name: str
    meaning: str
    floor: float | None = None
    at_most: bool = False

    def reached(self, value: float | None) -> bool | None:
        """Say whether a value is good enough; None where nothing is wanted or known."""
        if self.floor is None or value is None:
            return None
        return value <= self.floor if self.at_most else value >= self.floor

    @property
    def wanted(self) -> str:
        """Return the floor in words."""
        if self.floor is None:
            return DASH
        return f"{'at most' if self.at_most else 'at least'} {self.floor:g}"


FIGURES: Final = (
    Figure(
        "band_auroc",
        "natural against edits inside the band",
        "how often a natural scores above an edit that passes the closed-form gates; .5 is a guess (AUROC)",
        0.70,
    ),
    Figure(
        "mild_gross_auroc",
        "mild edits against gross ones",
        "how often an edit of strength up to 0.5 scores above a gross one of foreground MSE over 2,000: what a gate needs",
        0.90,
    ),
    Figure(
        "mild_passing_gross_auroc",
        "the same, gross ones that the closed-form gates let pass",
        "what the network adds to those gates",
        0.85,
    ),
    Figure("natural_gross_auroc", "natural against gross", "how often a natural scores above a gross edit"),
    Figure(
        "spearman",
        "order of strength within a subject",
        "rank correlation of falling score and rising strength of one edit, mean over subjects",
        0.70,
    ),
    Figure(
        "calibration_error",
        "calibration error",
        "how far a score is from the share of naturals among such scores",
        0.05,
        at_most=True,
    ),
    Figure(
        "recall_at_95",
        "gross failures found",
        "share of them that is dropped where 95 of 100 dropped are gross, with 9 edits inside the band to each",
        0.60,
    ),
)
"""What is measured, in the order of the table."""


@dataclass(frozen=True)
class Check:
    """A line of the audit."""

    name: str
    value: str
    wanted: str
    passed: bool | None


def write_training_report(layout: TrainingLayout) -> Path:
    """Write `report/index.html` of a finished training from its checkpoint's JSON and scores; return the page's path.

    Raises:
        BadRequest: The training is unfinished, or its files are damaged.
    """
    name = layout.checkpoint.name
    about, scores = _read(layout.folder / f"{name}.json"), _read(layout.scores)
    try:
        page = render_training(name=name, about=about, scores=scores)
    except (KeyError, TypeError, ValueError, AttributeError, jinja2.UndefinedError) as error:
        raise BadRequest(f"{layout.folder} holds no whole training ({error!r}); run train-realism again") from None
    write_bytes(layout.report, page)
    return layout.report


def render_training(
    *, name: str, about: Mapping[str, Any], scores: Mapping[str, Mapping[str, Sequence[float]]]
) -> bytes:
    """Return the page as UTF-8.

    Args:
        name: Of the training.
        about: The checkpoint's JSON.
        scores: Of held-out cases, by split and group.
    """
    metrics, settings, audit = about["metrics"], dict(about["settings"]), about["audit"]
    history = settings.pop("history", [])
    splits = [split for split in SPLITS if split in metrics]
    shown = splits[-1]
    figures = {
        "loss": plot_loss(history),
        "validation": plot_validation(history),
        "roc": plot_roc({split: scores[split] for split in splits}),
        "scores": plot_scores(scores[shown], threshold=about["threshold"]),
    }
    environment = page_environment()
    environment.filters |= {"figure": _figure, "count": lambda number: f"{number:,}"}
    text = environment.get_template("training.html").render(
        name=name,
        style=Markup(page_text("report.css")),  # noqa: S704 - our own file
        about=about,
        audit=audit,
        checks=audit_checks(audit),
        failures=find_failures(audit),
        figures={key: svg and Markup(svg) for key, svg in figures.items()},  # noqa: S704 - `plots` escapes
        table=[(row, [metrics[split].get(row.key) for split in splits]) for row in FIGURES],
        families=[
            (family, [metrics[split]["family_auroc"].get(family) for split in splits])
            for family in metrics["val"]["family_auroc"]
        ],
        counts=[(split, metrics[split]["counts"]) for split in splits],
        splits=splits,
        shown=shown,
        settings=[(key, tell(value)) for key, value in settings.items()],
    )
    return text.encode("utf-8", "backslashreplace")


def audit_checks(audit: Mapping[str, Any]) -> list[Check]:
    """Return the audit line by line: what was measured, what is wanted, and whether it holds."""
    wanted = f"{0.5 - NULL_TOLERANCE:.2f} to {0.5 + NULL_TOLERANCE:.2f}"
    nulls = {"all null edits together": audit["null_auroc"], **audit["null"]}
    checks = [
        Check("subjects", f"{audit['subjects']:,}", f"at least {MIN_SUBJECTS}", audit["subjects"] >= MIN_SUBJECTS)
    ]
    for name, value in nulls.items():
        label = name if name.startswith("all") else f"null edit {name}"
        checks.append(Check(f"{label}, AUROC", f"{value:.3f}", wanted, round(abs(value - 0.5), 4) <= NULL_TOLERANCE))
    for name, value in audit["shift"].items():
        label = f"shift of the mean score, {name.replace(':', ', ')}"
        checks.append(Check(label, f"{value:+.4f}", f"at most {SHIFT_TOLERANCE:g}", abs(value) <= SHIFT_TOLERANCE))
    if (hidden := audit.get("maskless_auroc")) is not None:
        checks.append(Check("naturals against edits, mask hidden, AUROC", f"{hidden:.3f}", "reported only", None))
    return checks


def plot_loss(history: Sequence[Mapping[str, float]]) -> str | None:
    """Draw the loss over the steps; None where there is no history."""
    if not history:
        return None
    with drawing("loss", height=2.6) as figure:
        axes = figure.add_axes((0.1, 0.19, 0.87, 0.75))
        axes.plot(
            [row["step"] for row in history],
            [row["loss"] for row in history],
            color=INK,
            linewidth=1.4,
            marker=dot_of(history),
        )
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        draw_grid(axes)
        return svg_of(figure, label="Loss over the steps of the training")


def plot_validation(history: Sequence[Mapping[str, float]]) -> str | None:
    """Draw the figures on `val` over the steps; None where there are none."""
    lines = (
        ("band_auroc", "natural against band", KEPT, "-"),
        ("mild_gross_auroc", "mild against gross", REJECTED, "-"),
        ("spearman", "order of strength", INK, (0, (4, 3))),
    )
    known = [(key, name, colour, style) for key, name, colour, style in lines if any(key in row for row in history)]
    if not known:
        return None
    with drawing("validation", height=2.6) as figure:
        axes = figure.add_axes((0.1, 0.19, 0.58, 0.75))
        ends = []
        for key, name, colour, style in known:
            points = [(row["step"], row[key]) for row in history if key in row]
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, linestyle=style, marker=dot_of(history))
            ends.append((points[-1][1], f"{name} {points[-1][1]:.3f}", colour))
        axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set_xlabel("step")
        axes.set_ylim(min(0.45, axes.get_ylim()[0]), 1)
        draw_grid(axes)
        for place, (value, text, colour) in zip(_apart([end[0] for end in ends], axes), ends, strict=True):
            del value
            axes.annotate(
                text,
                (1.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                color=colour,
                annotation_clip=False,
            )
        return svg_of(figure, label="Figures on the split val over the steps of the training")


def plot_roc(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str | None:
    """Draw how often good ones are dropped against how often bad ones are found, for each split.

    Args:
        scores: By split and group; `naturals` against `band`, and `mild` against `gross`.
    """
    panels = (
        ("natural against edits inside the band", "naturals", "band"),
        ("mild edits against gross ones", "mild", "gross"),
    )
    with drawing("roc", height=3.1) as figure:
        for number, (title, good, bad) in enumerate(panels):
            axes = figure.add_axes((0.09 + 0.49 * number, 0.15, 0.405, 0.74))
            axes.plot([0, 1], [0, 1], color=LINE, linewidth=0.8)
            for split, style in (("val", (0, (3, 2))), ("test", "-")):
                if split in scores and len(scores[split][good]) and len(scores[split][bad]):
                    axes.plot(
                        *roc(scores[split][good], scores[split][bad]),
                        color=KEPT,
                        linewidth=1.4,
                        linestyle=style,
                        label=split,
                    )
            axes.set_title(title, loc="left", fontsize=9, color=INK, pad=5)
            axes.set_xlim(-0.01, 1.01)
            axes.set_ylim(-0.01, 1.01)
            axes.set_xlabel(f"share of {'naturals' if good == 'naturals' else 'mild edits'} dropped")
            if not number:
                axes.set_ylabel("share of the others dropped")
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="lower right", frameon=False, labelcolor=INK)
        return svg_of(figure, label="ROC curves of the network on the held-out splits")


def roc(good: Sequence[float], bad: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return (share of good ones below, share of bad ones below) for every threshold that tells scores apart.

    Args:
        good: Scores that should be high.
        bad: Scores that should be low.
    """
    thresholds = np.append(np.unique(np.concatenate([good, bad])), np.inf)
    low = [np.searchsorted(np.sort(values), thresholds) / len(values) for values in (good, bad)]
    return low[0].tolist(), low[1].tolist()


def plot_scores(scores: Mapping[str, Sequence[float]], *, threshold: float) -> str | None:
    """Draw how often which score occurs, a row a group, with the threshold marked."""
    every = (
        ("natural", "naturals", KEPT),
        ("mild edits", "mild", MUTED),
        ("inside the band", "band", INK),
        ("gross", "gross", REJECTED),
    )
    rows = [row for row in every if len(scores[row[1]])]
    if not rows:
        return None
    tall = 0.55 * len(rows) + 0.6
    with drawing("scores", height=tall) as figure:
        for number, (name, group, colour) in enumerate(rows):
            axes = figure.add_axes((0.2, (0.42 + 0.55 * (len(rows) - 1 - number)) / tall, 0.77, 0.45 / tall))
            counts, edges = np.histogram(scores[group], bins=_BINS, range=(0, 1))
            axes.bar(edges[:-1], counts, 1 / _BINS, align="edge", color=colour, linewidth=0)
            axes.axvline(threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.set_xlim(0, 1)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            last = number == len(rows) - 1
            axes.tick_params(labelbottom=last, length=3 if last else 0)
            axes.text(-0.02, 0.5, name, transform=axes.transAxes, ha="right", va="center")
            if last:
                axes.set_xlabel("score, P(natural)")
            if not number:
                axes.annotate(
                    f"threshold {threshold:.3f}", (threshold, 1), xycoords=("data", "axes fraction"),
                    xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", color=MUTED, fontsize=8.5,
                )  # fmt: skip
        return svg_of(figure, label="Distribution of the scores of each group, with the threshold marked")


def _apart(values: Sequence[float], axes: Axes) -> list[float]:
    """Return heights for labels near `values` that do not cover each other."""
    low, high = axes.get_ylim()
    gap = 0.075 * (high - low)
    order = np.argsort(values)
    places = np.array(values, float)
    for below, above in pairwise(order):
        places[above] = max(places[above], places[below] + gap)
    return [float(place) for place in places - max(0.0, float(places.max()) - high)]


def _figure(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        raise BadRequest(f"{path} is missing or damaged; run train-realism again") from None
