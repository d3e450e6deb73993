from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from flows.errors import BadRequest
from flows.make.decide import decide
from flows.make.regate import check_limit, look_ahead, tell_outlook
from flows.store.decisions import Named, Regated
from flows.store.layout import Layout
from flows.store.lock import only_build
from flows.view.sheet import check_sheet, write_sheet
from tests.flows.make.building import build_in, rows_of


@pytest.fixture(scope="module")
def scored_run(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a finished run whose samples have realism scores; do not write into it."""
    return build_in(tiny_coco, tmp_path_factory.mktemp("scored"), samples=22, seed=4, gate="on")


def middle_score(layout: Layout) -> float:
    """Return the median score of the kept samples."""
    return float(np.median([row["score"] for row in rows_of(layout) if row["status"] == "kept"]))


@pytest.mark.parametrize(("gate", "limit"), [("effect_small", 50.0), ("effect_small", 400.0), ("hue_flip", 0.9)])
def test_what_is_foretold_comes_true(damaged_run: Layout, gate: str, limit: float) -> None:
    """The counts by split and family are those of the samples that the decision then moves."""
    before = {row["key"]: row["status"] for row in rows_of(damaged_run)}
    outlook = look_ahead(damaged_run, Regated(gate, limit))
    with only_build(damaged_run):
        change = decide(damaged_run, Regated(gate, limit))
    moved = [row for row in rows_of(damaged_run) if row["status"] != before[row["key"]]]
    assert (outlook.come, outlook.go) == (change.readmitted, change.dropped)
    assert outlook.come + outlook.go == len(moved) > 0
    assert outlook.kept_then == change.manifest["counts"]["kept"]
    for column, told in (("split", outlook.by_split), ("family", outlook.by_family)):
        come = Counter(row[column] for row in moved if row["status"] == "kept")
        assert {name: counts["come"] for name, counts in told.items() if counts["come"]} == dict(come)
        assert sum(counts["go"] for counts in told.values()) == outlook.go


def test_a_threshold_is_compared_with_the_stored_scores(scored_run: Layout) -> None:
    """What scores less than the threshold goes, what scores as much stays; nothing is written."""
    limit = middle_score(scored_run)
    scores = [row["score"] for row in rows_of(scored_run) if row["status"] == "kept"]
    outlook = look_ahead(scored_run, Regated("unnatural", limit))
    assert (outlook.come, outlook.go) == (0, sum(score < limit for score in scores))
    assert outlook.kept - outlook.go == outlook.kept_then
    assert not scored_run.decisions.exists()


def test_nothing_changes_at_the_limit_in_force(damaged_run: Layout) -> None:
    """At the build's own limit nothing comes or goes; nor at another one that is decided already."""
    assert look_ahead(damaged_run, Regated("effect_small", 100.0)).before == 100
    assert look_ahead(damaged_run, Regated("effect_small", 100.0)).come == 0
    with only_build(damaged_run):
        decide(damaged_run, Regated("effect_small", 50.0))
    outlook = look_ahead(damaged_run, Regated("effect_small", 50.0))
    assert (outlook.before, outlook.come, outlook.go) == (50, 0, 0)
    assert look_ahead(damaged_run, Regated("effect_small", 100.0)).go > 0


def test_named_samples_are_not_counted(damaged_run: Layout) -> None:
    """Who is named in a list stays where he is, whatever the limit."""
    outlook = look_ahead(damaged_run, Regated("effect_small", 50.0))
    key = next(near.row["key"] for near in outlook.nearest if near.row["reason"] == "effect_small" and near.passes)
    with only_build(damaged_run):
        decide(damaged_run, Named(readmit=frozenset({key})))
    assert look_ahead(damaged_run, Regated("effect_small", 50.0)).come == outlook.come - 1


def test_the_nearest_on_either_side_are_named(scored_run: Layout) -> None:
    """No sample that this gate decides about is nearer to the limit than those named, side by side."""
    limit = middle_score(scored_run)
    outlook = look_ahead(scored_run, Regated("unnatural", limit), nearest=2)
    scores = {row["key"]: row["score"] for row in rows_of(scored_run) if row["status"] == "kept"}
    below = sorted(limit - score for score in scores.values() if score < limit)[:2]
    above = sorted(score - limit for score in scores.values() if score >= limit)[:2]
    assert sorted(limit - near.value for near in outlook.nearest if not near.passes) == pytest.approx(below)
    assert sorted(near.value - limit for near in outlook.nearest if near.passes) == pytest.approx(above)


def test_a_run_without_scores_is_one_line(tiny_coco: Path, tmp_path: Path) -> None:
    """Without the realism gate there is no score to compare."""
    layout = build_in(tiny_coco, tmp_path, samples=4, gate="off")
    with pytest.raises(BadRequest, match="has no values of the gate unnatural: it was built without the realism gate"):
        look_ahead(layout, Regated("unnatural", 0.5))


@pytest.mark.parametrize(
    ("gate", "limit"), [("x", 0.5), ("unnatural", 1.1), ("unnatural", -0.1), ("effect_large", 1e9)]
)
def test_an_impossible_limit_is_one_line(gate: str, limit: float) -> None:
    """A gate that does not exist, and a limit that no value can reach, are refused."""
    with pytest.raises(BadRequest, match=r"there is no gate|must be 0 to"):
        check_limit(gate, limit)


def test_it_is_told_in_lines(whole_run: Layout) -> None:
    """Gate, limits and totals first, then a line for each split and each family."""
    outlook = look_ahead(whole_run, Regated("effect_small", 50.0))
    lines = tell_outlook(outlook)
    assert lines[0] == f"effect_small at 50 instead of 100: {outlook.come} come, 0 go"
    assert lines[1] == f"kept {outlook.kept} -> {outlook.kept_then} of 22"
    assert len(lines) == 2 + len(outlook.by_split) + len(outlook.by_family)


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg", "new/folder/sheet.JPEG"])
def test_a_sheet_shows_both_sides(whole_run: Layout, tmp_path: Path, name: str) -> None:
    """The file is a picture of its suffix's kind, two columns wide and as high as its longer side asks."""
    outlook = look_ahead(whole_run, Regated("effect_small", 150.0))
    write_sheet(whole_run, outlook.nearest, tmp_path / name, limit=150.0, title="a title")
    data = (tmp_path / name).read_bytes()
    assert data[:4] == (b"\x89PNG" if name.endswith("png") else b"\xff\xd8\xff\xe0")
    picture = cv2.imread(str(tmp_path / name))
    assert picture is not None
    rows = max(sum(near.passes for near in outlook.nearest), sum(not near.passes for near in outlook.nearest))
    assert picture.shape == (52 + rows * 190, 984, 3)
    assert len(np.unique(picture[44:204, 8:488].reshape(-1, 3), axis=0)) > 500


def test_a_sheet_of_a_damaged_shard_shows_what_is_left(damaged_run: Layout, tmp_path: Path) -> None:
    """Pictures that cannot be read are grey; the others are shown."""
    outlook = look_ahead(damaged_run, Regated("effect_small", 150.0))
    shutil.rmtree(damaged_run.run / "shards")
    write_sheet(damaged_run, outlook.nearest, tmp_path / "sheet.png", limit=150.0, title="")
    assert (tmp_path / "sheet.png").exists()


def test_a_sheet_is_png_or_jpeg(whole_run: Layout, tmp_path: Path) -> None:
    """Another suffix, or nothing to show, is one line."""
    with pytest.raises(BadRequest, match=r"a sheet ends in \.png, \.jpg, \.jpeg"):
        check_sheet(tmp_path / "sheet.gif")
    with pytest.raises(BadRequest, match="nothing to show"):
        write_sheet(whole_run, [], tmp_path / "sheet.png", limit=0.5, title="")
