"""The report of a training: it tells what was measured, loads nothing, and hostile names stay text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.errors import BadRequest
from flows.store.layout import TrainingLayout, write_bytes
from flows.view.cards import DASH
from flows.view.training import (
    FIGURES,
    audit_checks,
    plot_loss,
    plot_roc,
    plot_scores,
    plot_validation,
    render_training,
    roc,
    write_training_report,
)

HOSTILE = "</style><script>alert(1)</script>\"'&{{7*7}}"


def about_of(*, splits: tuple[str, ...] = ("val", "test"), **changes: Any) -> dict[str, Any]:
    """Return a checkpoint's JSON as a training writes it."""
    figures = {figure.key: 0.8 for figure in FIGURES} | {"calibration_error": 0.04}
    measured = {**figures, "family_auroc": {"mkl": 0.7, "idt": None}, "counts": {"naturals": 3, "gross_passing": 2}}
    audit = {
        "subjects": 320,
        "null": {"mkl": 0.51},
        "null_auroc": 0.505,
        "shift": {"edit:jpeg_75": -0.03},
        "worst_shift": 0.03,
        "maskless_auroc": 0.51,
        "passed": False,
    }
    history = [
        {"step": 1, "loss": 2.0, "band_auroc": 0.5},
        {"step": 2, "loss": 1.0, "band_auroc": 0.6, "spearman": 0.1},
    ]
    return {
        "image_ids": [1, 2],
        "parameters": 1000,
        "threshold": 0.25,
        "calibration": {"temperature": 1.0, "offset": 0.0},
        "data_digest": "d" * 64,
        "weights_sha256": "e" * 64,
        "settings": {"steps": 2, "history": history},
        "metrics": dict.fromkeys(splits, measured),
        "audit": audit,
        **changes,
    }


def scores_of(splits: tuple[str, ...] = ("val", "test")) -> dict[str, dict[str, list[float]]]:
    """Return scores of each group."""
    groups = {"naturals": [0.6, 0.9], "band": [0.4, 0.7], "edits": [0.4], "mild": [0.5, 0.8], "gross": [0.1, 0.2]}
    return {split: {**groups, "gross_passing": [0.2]} for split in splits}


def text_of(page: bytes) -> str:
    """Return what a reader sees of a page, plots and styles left out."""
    text = re.sub(r"<(style|svg|script).*?</\1>", " ", page.decode(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_the_report_says_what_was_measured() -> None:
    """Figures of each split stand beside what is wanted, with the outcome; a figure that is unknown is a dash."""
    text = text_of(render_training(name="mine", about=about_of(), scores=scores_of()))
    assert "Learnt from 2 photographs; 1,000 weights." in text
    assert "0.800 0.800 at least 0.7 holds" in text
    assert "0.800 0.800 at least 0.9 fails" in text
    assert "0.040 0.040 at most 0.05 holds" in text
    assert f"idt {DASH} {DASH}" in text


def test_a_failed_audit_names_what_failed() -> None:
    """The line under the title says what does not hold."""
    text = text_of(render_training(name="mine", about=about_of(), scores=scores_of()))
    assert "The audit does not hold : edit:jpeg_75 shifts the mean score by -0.0300." in text


def test_the_audit_is_judged_line_by_line() -> None:
    """Each null edit and each shift has its own limit; what is only reported has no outcome."""
    outcomes = {check.name: check.passed for check in audit_checks(about_of()["audit"])}
    assert outcomes["subjects"] is True
    assert outcomes["null edit mkl, AUROC"] is True
    assert outcomes["shift of the mean score, edit, jpeg_75"] is False
    assert outcomes["naturals against edits, mask hidden, AUROC"] is None


def test_a_training_without_a_test_split_is_shown_on_val() -> None:
    """Where there were too few photographs, the page says so and judges by `val`."""
    text = text_of(render_training(name="mine", about=about_of(splits=("val",)), scores=scores_of(("val",))))
    assert "there were too few photographs for a test" in text
    assert "On val" in text


def test_hostile_names_stay_text() -> None:
    """What stands in the files enters the page escaped."""
    settings = {"source": HOSTILE, "history": []}
    page = render_training(name=HOSTILE, about=about_of(settings=settings), scores=scores_of()).decode()
    assert "<script" not in page
    assert "alert(1)" in page
    assert "49" not in page.replace("var(", "").split("<main>")[0].split("<h1>")[1]


def test_the_page_loads_nothing() -> None:
    """No script, no link to elsewhere, no file beside it; its policy forbids them too."""
    page = render_training(name="mine", about=about_of(), scores=scores_of()).decode()
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|img|iframe)|src=|url\(http|@import", page)


def test_the_same_training_gives_the_same_bytes() -> None:
    """Rendering twice changes no byte."""
    pages = {render_training(name="mine", about=about_of(), scores=scores_of()) for _ in range(2)}
    assert len(pages) == 1


def test_plots_without_numbers_are_left_out() -> None:
    """No history, no scores: no plot, and no error."""
    empty = {name: [] for name in scores_of()["val"]}
    assert plot_loss([]) is None
    assert plot_validation([{"step": 1, "loss": 1.0}]) is None
    assert plot_scores(empty, threshold=0.5) is None
    assert plot_roc({"val": empty}) is not None
    assert render_training(name="mine", about=about_of(), scores={"val": empty, "test": empty})


def test_roc_is_the_share_of_each_below_every_threshold() -> None:
    """By hand: good .2 .6, bad .1 .4 give a curve from corner to corner; its area is the AUROC."""
    low, found = roc([0.2, 0.6], [0.1, 0.4])
    assert low == [0, 0, 0.5, 0.5, 1]
    assert found == [0, 0.5, 0.5, 1, 1]
    assert np.trapezoid(found, low) == pytest.approx(0.75)


def test_an_unfinished_training_is_refused(tmp_path: Path) -> None:
    """Without a checkpoint or scores, or with half of them, the line says what to do."""
    layout = TrainingLayout(tmp_path / "mine")
    with pytest.raises(BadRequest, match=r"mine\.json is missing or damaged"):
        write_training_report(layout)
    write_bytes(layout.folder / "mine.json", b"{}")
    write_bytes(layout.scores, b"{}")
    with pytest.raises(BadRequest, match="holds no whole training"):
        write_training_report(layout)
