from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.errors import BadRequest
from flows.make import repair as repair_module
from flows.make.decide import decide
from flows.make.plan import read_plan
from flows.make.repair import Mended, repair_run
from flows.make.shard import make_shard, read_done
from flows.make.verify import verify_run
from flows.store.decisions import Named, Rule, Ruled
from flows.store.layout import Layout
from flows.store.lock import only_build
from tests.conftest import write_coco
from tests.flows.make.building import build_in, differing, hashes, plan_in, rows_of
from tests.flows.make.forging import flip, forge, with_member

ROOT = Path(__file__).resolve().parents[3]
NAME = "train-00000"


def repaired(layout: Layout) -> list[Mended]:
    """Repair a run; return what was done."""
    with only_build(layout):
        return list(repair_run(layout))


def unlink(path: Path) -> None:
    """Delete a file."""
    path.unlink()


def cut(path: Path) -> None:
    """Cut the end of a file."""
    os.truncate(path, path.stat().st_size // 2)


def flip_one(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    flip(path, path.stat().st_size // 2)


def forbid_making(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test fail where a sample is made again."""

    def never(_run: Path, name: str) -> None:
        raise AssertionError(f"{name} was made again")

    monkeypatch.setattr(repair_module, "compose_shard", never)


# Whole again


def test_a_whole_run_is_left_as_it_is(damaged_run: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is mended where nothing is damaged: no shard is touched."""
    forbid_making(monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in damaged_run.run.rglob("*-*.*")}
    assert repaired(damaged_run) == []
    assert {path: path.stat().st_mtime_ns for path in damaged_run.run.rglob("*-*.*")} == before


@pytest.mark.parametrize("harm", [unlink, cut, flip_one])
@pytest.mark.parametrize("what", ["shards", "rejected"])
def test_a_damaged_tar_is_made_again_from_the_photographs(
    damaged_run: Layout, whole_run: Layout, what: str, harm: Callable[[Path], None]
) -> None:
    """Gone, cut or bit-flipped: only its shard is made again, to the same bytes, and verify passes."""
    others = [path for path in damaged_run.run.rglob("*.tar") if path.stem != NAME]
    before = {path: path.stat().st_mtime_ns for path in others}
    harm(damaged_run.run / what / f"{NAME}.tar")
    assert [(each.what, each.how) for each in repaired(damaged_run)] == [(NAME, "remade")]
    assert differing(hashes(damaged_run), hashes(whole_run)) == []
    assert [str(problem) for problem in verify_run(damaged_run)] == []
    assert {path: path.stat().st_mtime_ns for path in others} == before


@pytest.mark.parametrize("harm", [unlink, cut, flip_one])
@pytest.mark.parametrize("what", ["index", "done"])
def test_a_damaged_index_or_marker_is_written_again_without_photographs(
    damaged_run: Layout, whole_run: Layout, what: str, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where manifest or marker vouch for the tars, all else follows from them."""
    forbid_making(monkeypatch)
    harm(min(path for path in (damaged_run.run / what).iterdir() if path.stem == NAME))
    mended = repaired(damaged_run)
    assert [(each.what, each.how) for each in mended] == [(NAME, "rewritten")]
    assert differing(hashes(damaged_run), hashes(whole_run)) == []
    done = read_done(damaged_run, NAME)
    assert done is not None
    assert [str(problem) for problem in verify_run(damaged_run)] == []


@pytest.mark.parametrize("harm", [unlink, cut, flip_one])
def test_a_damaged_manifest_is_added_up_again(
    damaged_run: Layout, whole_run: Layout, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest follows from the markers."""
    forbid_making(monkeypatch)
    harm(damaged_run.manifest)
    assert [(each.what, each.how) for each in repaired(damaged_run)] == [("manifest.json", "rewritten")]
    assert differing(hashes(damaged_run), hashes(whole_run)) == []


def test_everything_at_once_is_mended(damaged_run: Layout, whole_run: Layout) -> None:
    """Only the plan is left: the whole run comes back."""
    for folder in ("shards", "rejected", "index", "done"):
        shutil.rmtree(damaged_run.run / folder)
    damaged_run.manifest.unlink()
    repaired(damaged_run)
    assert differing(hashes(damaged_run), hashes(whole_run)) == []
    assert [str(problem) for problem in verify_run(damaged_run)] == []


def test_an_unfinished_run_is_finished(tiny_coco: Path, tmp_path: Path) -> None:
    """What was never made is missing, too: repair ends what a build began."""
    planned = plan_in(tiny_coco, tmp_path / "one", samples=12)
    make_shard(planned.layout.run, planned.plan.shards[0].name)
    repaired(planned.layout)
    whole = build_in(tiny_coco, tmp_path / "two", samples=12)
    assert differing(hashes(planned.layout), hashes(whole)) == []


def test_damage_that_hashes_do_not_show_is_mended(damaged_run: Layout, whole_run: Layout) -> None:
    """A picture that somebody replaced, with all hashes forged, is found by its content and made again."""
    forge(damaged_run, NAME, kept=lambda s: [with_member(s[0], "mask.png", b"no picture"), *s[1:]])
    marker = json.loads(damaged_run.done(NAME).read_text())
    for path in marker["files"]:
        data = (damaged_run.run / path).read_bytes()
        marker["files"][path] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    damaged_run.done(NAME).write_text(json.dumps(marker))
    assert [(each.what, each.how) for each in repaired(damaged_run)] == [
        (NAME, "remade"),
        ("manifest.json", "rewritten"),
    ]
    assert differing(hashes(damaged_run), hashes(whole_run)) == []


def test_a_marker_that_miscounts_is_written_again(damaged_run: Layout, whole_run: Layout) -> None:
    """Counts of a marker are compared with the index."""
    marker = json.loads(damaged_run.done(NAME).read_text())
    damaged_run.done(NAME).write_text(json.dumps({**marker, "kept": marker["kept"] + 1}))
    assert [(each.what, each.how) for each in repaired(damaged_run)] == [(NAME, "rewritten")]
    assert differing(hashes(damaged_run), hashes(whole_run)) == []


def test_what_belongs_to_no_shard_is_moved_not_deleted(damaged_run: Layout) -> None:
    """A stray file in the folders of shards goes to `set-aside`, with its content."""
    (damaged_run.run / "shards" / "mine.tar").write_bytes(b"holiday")
    assert [(each.what, each.how) for each in repaired(damaged_run)] == [("shards/mine.tar", "moved")]
    assert (damaged_run.run / "set-aside" / "shards" / "mine.tar").read_bytes() == b"holiday"
    assert [str(problem) for problem in verify_run(damaged_run)] == []


# Decisions


def decided(layout: Layout) -> dict[str, str]:
    """Take decisions of two kinds; return the hashes."""
    rejected = min(row["key"] for row in rows_of(layout) if row["status"] == "rejected")
    with only_build(layout):
        decide(layout, Ruled("ban", Rule(min_strength=0.6)))
        decide(layout, Named(readmit=frozenset({rejected})))
    return hashes(layout)


@pytest.mark.parametrize("what", ["shards", "rejected", "index", "done"])
def test_decisions_are_applied_again(damaged_run: Layout, what: str) -> None:
    """A shard of a decided run is mended to what was decided."""
    before = decided(damaged_run)
    min((damaged_run.run / what).glob("*-*")).unlink()
    assert len(repaired(damaged_run)) == 1
    assert differing(hashes(damaged_run), before) == []
    assert [str(problem) for problem in verify_run(damaged_run)] == []


@pytest.mark.parametrize("harm", [unlink, cut, flip_one])
def test_lost_decisions_come_back_from_their_history(damaged_run: Layout, harm: Callable[[Path], None]) -> None:
    """`done/decisions.jsonl` tells every decision again, so the file follows from it."""
    before = decided(damaged_run)
    content = damaged_run.decisions.read_bytes()
    harm(damaged_run.decisions)
    if damaged_run.decisions.exists() and harm is flip_one:
        damaged_run.decisions.write_bytes(content[:20] + b"\xff" + content[21:])
    assert [(each.what, each.how) for each in repaired(damaged_run)] == [("decisions.json", "rewritten")]
    assert damaged_run.decisions.read_bytes() == content
    assert differing(hashes(damaged_run), before) == []


def test_decisions_of_another_machine_are_applied(damaged_run: Layout, whole_run: Layout, tmp_path: Path) -> None:
    """`decisions.json` copied into the same run elsewhere is all that repair needs to make it the same."""
    wanted = decided(damaged_run)
    shutil.copytree(whole_run.run, tmp_path / "elsewhere")
    other = Layout(tmp_path / "elsewhere")
    shutil.copy(damaged_run.decisions, other.decisions)
    assert {each.how for each in repaired(other)} == {"rewritten"}
    assert differing(hashes(other), wanted) == []


def test_decisions_lost_with_their_history_are_one_line(damaged_run: Layout) -> None:
    """Where neither can be read, somebody has to say what is wanted."""
    decided(damaged_run)
    damaged_run.decisions.write_bytes(b"{")
    damaged_run.history.write_bytes(b"{")
    before = hashes(damaged_run)
    with pytest.raises(BadRequest, match="restore one, or delete both"):
        repaired(damaged_run)
    assert hashes(damaged_run) == before


# What cannot be mended


def test_photographs_that_are_gone_lose_nothing(tmp_path: Path) -> None:
    """A damaged shard whose photographs are gone stays as it is, is named in one line, and is mended when they are back."""
    write_coco(tmp_path / "coco")
    layout = build_in(tmp_path / "coco", tmp_path, samples=12)
    whole = hashes(layout)
    name = read_plan(layout).shards[0].name
    flip(layout.shard(name), 5000)
    layout.index(read_plan(layout).shards[1].name).unlink()
    damaged = layout.shard(name).read_bytes()
    (tmp_path / "coco" / "tiny").rename(tmp_path / "away")
    mended = repaired(layout)
    assert {each.how for each in mended} == {"lost", "rewritten"}
    lost = next(each for each in mended if each.how == "lost")
    assert str(lost).startswith(f"{name}: cannot be made again: a photograph of ")
    assert "\n" not in str(lost)
    assert layout.shard(name).read_bytes() == damaged
    assert not layout.beside.exists()
    (tmp_path / "away").rename(tmp_path / "coco" / "tiny")
    repaired(layout)
    assert differing(hashes(layout), whole) == []


def test_samples_that_were_unreadable_from_the_start_stay_so(tmp_path: Path) -> None:
    """A photograph that was missing in the build is not asked for by repair."""
    write_coco(tmp_path / "coco")
    planned = plan_in(tmp_path / "coco", tmp_path, samples=8)
    row = pq.read_table(planned.layout.plan_part(0)).to_pylist()[0]
    (tmp_path / "coco" / "tiny" / row["target_file_name"]).unlink()
    for shard in planned.plan.shards:
        make_shard(planned.layout.run, shard.name)
    with only_build(planned.layout):
        list(repair_run(planned.layout))
    whole = hashes(planned.layout)
    assert any(row["reason"] == "unreadable" for row in rows_of(planned.layout))
    for path in (planned.layout.run / "shards").iterdir():
        flip(path, 5000)
    assert {each.how for each in repaired(planned.layout)} == {"remade"}
    assert differing(hashes(planned.layout), whole) == []


def test_another_version_of_the_code_is_one_line(damaged_run: Layout) -> None:
    """Samples that other code would make are not mixed in: the shard stays, and the line says why."""
    plan = json.loads(damaged_run.plan.read_text())
    plan["code"]["digest"] = "0" * 16
    damaged_run.plan.write_text(json.dumps(plan))
    flip(damaged_run.shard(NAME), 5000)
    (lost,) = repaired(damaged_run)
    assert (lost.what, lost.how) == (NAME, "lost")
    assert "was begun with digest 0000000000000000" in lost.why


@pytest.mark.parametrize("what", ["plan.json", "plan/part-00000.parquet"])
def test_without_its_plan_nothing_is_touched(damaged_run: Layout, what: str) -> None:
    """A damaged plan is one line: nothing else knows what was planned."""
    cut(damaged_run.run / what)
    damaged_run.index(NAME).unlink()
    before = hashes(damaged_run)
    with pytest.raises(BadRequest, match="restore it"):
        repaired(damaged_run)
    assert hashes(damaged_run) == before


def test_repair_needs_the_lock(damaged_run: Layout) -> None:
    """While a build is at work nothing is mended."""
    with only_build(damaged_run), pytest.raises(BadRequest, match="is at work in"):
        repaired(damaged_run)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_is_ended_by_the_next(step: int, tiny_coco: Path, tmp_path: Path) -> None:
    """After SIGKILL anywhere, repairing again gives the bytes of the undamaged run and leaves nothing behind."""
    command = [sys.executable, "-m", "tests.flows.make.killed_deed", "repair", str(tiny_coco), str(tmp_path), str(step)]
    asked = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=900)
    points = json.loads(asked.stdout)["points"]
    assert len(points) > 25 / step
    assert not points[-1]["killed"]
    for point in points:
        assert point["finished"]
        assert point["whole_then"]
        assert point["hashes"] == points[-1]["hashes"]
        assert point["left_over"] == []
