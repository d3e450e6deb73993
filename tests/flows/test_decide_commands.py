from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.make.verify import verify_run
from flows.store.layout import Layout
from flows.store.lock import only_build
from flows.view.gallery import write_gallery
from flows.view.refresh import refresh_views
from flows.view.report import write_report
from tests.flows.make.building import build_in, hashes, rows_of

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def built(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a finished run with its report and realism scores; do not write into it."""
    layout = build_in(tiny_coco, tmp_path_factory.mktemp("built"), samples=22, seed=4, gate="on")
    write_report(layout)
    return layout


@pytest.fixture
def copied(built: Layout, tmp_path: Path) -> Layout:
    """Return a copy of it."""
    shutil.copytree(built.run, tmp_path / "run")
    return Layout(tmp_path / "run")


def told(capsys: Capture, *arguments: object, code: int = 0) -> str:
    """Run a command that ends with `code`; return its output, or its one line of error."""
    assert main([str(each) for each in arguments]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out if code != 2 else err


def answered(capsys: Capture, *arguments: object) -> dict[str, Any]:
    """Run a command with `--json`; return what it answers."""
    value: dict[str, Any] = json.loads(told(capsys, *arguments, "--json"))
    return value


def key_of(layout: Layout, status: str) -> str:
    """Return the first key of a status."""
    return next(row["key"] for row in rows_of(layout) if row["status"] == status)


def test_a_list_is_applied_and_undone(copied: Layout, built: Layout, tmp_path: Path, capsys: Capture) -> None:
    """One list with both words is one decision, by whichever command; the other then has nothing to do; undo ends it."""
    path = tmp_path / "list"
    path.write_text(f"readmit {key_of(copied, 'rejected')}\nban {key_of(copied, 'kept')}\n")
    assert "1 come, 1 go" in told(capsys, "readmit", copied.run, path)
    assert "0 come, 0 go, 0 shards written anew" in told(capsys, "ban", copied.run, path)
    assert answered(capsys, "undo", copied.run)["readmitted"] == 1
    assert hashes(copied) == hashes(built)
    assert "has no decisions to take back" in told(capsys, "undo", copied.run, code=2)


def test_a_rule_is_applied(copied: Layout, capsys: Capture) -> None:
    """Options are the parts of the rule; the answer counts what moved."""
    wanted = [
        row for row in rows_of(copied) if row["reason"] in {"hue_flip", "effect_small"} and row["split"] == "train"
    ]
    answer = answered(capsys, "readmit", copied.run, "--reason", "hue_flip,effect_small", "--split", "train")
    assert (answer["readmitted"], answer["dropped"]) == (len(wanted), 0)
    assert answer["decisions"] == {"readmit": len(wanted)}
    assert [str(problem) for problem in verify_run(copied)] == []


def test_the_report_shows_what_was_decided(copied: Layout, capsys: Capture) -> None:
    """The page counts the new reason and says what it means."""
    told(capsys, "ban", copied.run, "--min-strength", 0.5)
    page = copied.report.read_text()
    assert "banned" in page
    assert "a person took it out, or a rule did" in page
    told(capsys, "undo", copied.run, "--all")
    assert "banned" not in copied.report.read_text()


def test_a_gallery_is_written_anew_where_there_is_one(copied: Layout, capsys: Capture) -> None:
    """A run's gallery follows a decision; a run without one gets none."""
    told(capsys, "ban", copied.run, "--min-strength", 0.5)
    assert not (copied.run / "gallery").exists()
    with only_build(copied):
        write_gallery(copied)
        before = (copied.run / "gallery" / "data" / "index.js").read_bytes()
        refresh_views(copied)
    assert (copied.run / "gallery" / "data" / "index.js").read_bytes() == before
    told(capsys, "undo", copied.run)
    assert (copied.run / "gallery" / "data" / "index.js").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "give a LIST, or a rule such as --reason unnatural --min-score 0.4, and not both"),
        (("LIST", "--split", "val"), "and not both"),
        (("nowhere",), "cannot be read"),
        (("--min-score", "high"), "must be a number, got 'high'"),
        (("--min-score", "nan"), "must be a number, got 'nan'"),
        (("--reason", "ugly"), "there is no reason 'ugly'"),
        (("--min-strength", "2"), "fits the rule"),
    ],
)
def test_a_slip_is_one_line(copied: Layout, arguments: tuple[str, ...], line: str, capsys: Capture) -> None:
    """What is wrong with a decision is told in one line, and nothing changes."""
    before = hashes(copied)
    error = told(capsys, "ban", copied.run, *arguments, code=2)
    assert line in error
    assert error.count("\n") == 1
    assert hashes(copied) == before


def test_another_threshold_is_foretold_drawn_and_applied(copied: Layout, tmp_path: Path, capsys: Capture) -> None:
    """Without `--apply` nothing changes; with it the samples move as foretold."""
    scores = sorted(row["score"] for row in rows_of(copied) if row["status"] == "kept")
    threshold, before = scores[len(scores) // 2], hashes(copied)
    answer = answered(capsys, "regate", copied.run, "--threshold", threshold, "--sheet", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert hashes(copied) == before
    assert answer["go"] == sum(score < threshold for score in scores) > 0
    assert f"{answer['go']} go" in told(capsys, "regate", copied.run, "--threshold", threshold, "--apply")
    assert sum(row["reason"] == "unnatural" for row in rows_of(copied)) == answer["go"]
    assert [str(problem) for problem in verify_run(copied)] == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--threshold", "2"), "the limit of unnatural must be 0 to 1"),
        (("--threshold", "0.5", "--gate", "x"), "there is no gate 'x' to be moved"),
        (("--threshold", "0.5", "--sheet", "sheet.gif"), "a sheet ends in"),
        ((), "--threshold"),
    ],
)
def test_a_slip_of_regate_is_one_line(copied: Layout, arguments: tuple[str, ...], line: str, capsys: Capture) -> None:
    """What is wrong with the question is told in one line."""
    assert line in told(capsys, "regate", copied.run, *arguments, code=2)


def test_status_and_repair_end_with_their_codes(copied: Layout, built: Layout, capsys: Capture) -> None:
    """A whole run is 0, damage that status sees is 1, and after repair all is 0 again."""
    assert "finished" in told(capsys, "status", copied.run)
    assert "nothing was damaged" in told(capsys, "repair", copied.run, "--workers", 1)
    next((copied.run / "index").iterdir()).unlink()
    assert json.loads(told(capsys, "status", copied.run, "--json", code=1))["state"] == "damaged"
    assert answered(capsys, "repair", copied.run, "--workers", 1)["whole"]
    assert hashes(copied) == hashes(built)
    assert "finished" in told(capsys, "status", copied.run)


def test_a_repair_that_cannot_be_done_ends_with_1(copied: Layout, capsys: Capture) -> None:
    """Where the photographs are gone, the line says so, and the exit code is that of damage."""
    plan = json.loads(copied.plan.read_text())
    plan["roots"] = dict.fromkeys(plan["roots"], "gone")
    copied.plan.write_text(json.dumps(plan))
    next((copied.run / "shards").iterdir()).write_bytes(b"")
    out = told(capsys, "repair", copied.run, "--workers", 1, code=1)
    assert "cannot be made again: a photograph of" in out


@pytest.mark.parametrize("command", ["status", "repair", "readmit", "ban", "undo", "regate"])
def test_a_run_that_is_not_there_is_one_line(tmp_path: Path, command: str, capsys: Capture) -> None:
    """Every command answers a wrong folder alike, and makes none."""
    more = {"regate": ("--threshold", "0.5"), "readmit": ("--split", "val"), "ban": ("--split", "val")}.get(command, ())
    assert "does not exist; give the folder of a run" in told(capsys, command, tmp_path / "none", *more, code=2)
    assert not (tmp_path / "none").exists()
