from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flows.errors import BadRequest
from flows.make import decide as decide_module
from flows.make.decide import Change, decide, undo
from flows.make.plan import read_plan
from flows.make.remake import remake
from flows.make.shard import read_done
from flows.make.verify import verify_run
from flows.store.decisions import Decision, Named, Regated, Rule, Ruled, read_decisions
from flows.store.layout import Layout
from flows.store.lock import only_build
from flows.store.manifest import read_manifest
from tests.flows.make.building import build_in, differing, hashes, make_left, plan_in, rows_of
from tests.flows.make.forging import flip, forge, with_record

ROOT = Path(__file__).resolve().parents[3]

STRONG = Ruled("ban", Rule(min_strength=0.5))


def keys_of(layout: Layout, status: str) -> list[str]:
    """Return the keys of the kept or the rejected samples."""
    return [row["key"] for row in rows_of(layout) if row["status"] == status]


def taken(layout: Layout, *decisions: Decision) -> Change:
    """Take decisions, one after the other; return what the last one did."""
    with only_build(layout):
        return [decide(layout, decision) for decision in decisions][-1]


def list_for(layout: Layout, *, readmit: int = 2, ban: int = 3) -> Named:
    """Return a list of some rejected and some kept samples, from all over the run."""
    rejected, kept = keys_of(layout, "rejected"), keys_of(layout, "kept")
    return Named(readmit=frozenset(rejected[::2][:readmit]), ban=frozenset(kept[::3][:ban]))


# Deciding


def test_a_decided_run_is_proved_by_verify(damaged_run: Layout) -> None:
    """After every kind of decision all hashes, offsets, counts and promises hold, and planned = kept + rejected."""
    for decision in (list_for(damaged_run), STRONG, Regated("effect_small", 50.0)):
        taken(damaged_run, decision)
        assert [str(problem) for problem in verify_run(damaged_run)] == []
        counts = read_manifest(damaged_run)["counts"]
        assert counts["planned"] == counts["kept"] + counts["rejected"] == 22


def test_a_list_moves_what_it_names_and_nothing_else(damaged_run: Layout) -> None:
    """Named samples change sides, with their reasons; every other row of the index keeps everything but its place."""
    before, named = {row["key"]: row for row in rows_of(damaged_run)}, list_for(damaged_run)
    change = taken(damaged_run, named)
    assert (change.readmitted, change.dropped, change.spared) == (len(named.readmit), len(named.ban), 0)
    for row in rows_of(damaged_run):
        old = before[row["key"]]
        if row["key"] in named.readmit:
            assert (row["status"], row["reason"], row["decision_by"]) == ("kept", None, "readmit")
            assert (row["decision_reason"], row["decision_value"]) == (old["reason"], old["value"])
        elif row["key"] in named.ban:
            assert (row["status"], row["reason"], row["decision_by"]) == ("rejected", "banned", "ban")
        else:
            assert {k: v for k, v in row.items() if k != "offset"} == {k: v for k, v in old.items() if k != "offset"}


def test_counts_tell_of_decisions(damaged_run: Layout) -> None:
    """Manifest and markers count what was decided; what was banned counts as a reason."""
    taken(damaged_run, list_for(damaged_run))
    manifest = read_manifest(damaged_run)
    assert manifest["decisions"] == {"ban": 3, "readmit": 2}
    assert manifest["counts"]["by_reason"]["banned"] == 3
    markers = [read_done(damaged_run, shard.name) for shard in read_plan(damaged_run).shards]
    total: Counter[str] = sum((Counter(done.by_decision) for done in markers if done), Counter())
    assert dict(total) == {"ban": 3, "readmit": 2}


def test_pictures_are_copied_and_nothing_is_decoded(damaged_run: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deciding opens no picture: neither OpenCV's decoder nor its encoder is called."""
    import cv2

    def never(*_arguments: Any) -> None:
        raise AssertionError("a picture was decoded or encoded")

    for name in ("imdecode", "imencode", "imread"):
        monkeypatch.setattr(cv2, name, never)
    taken(damaged_run, list_for(damaged_run))


def test_shards_without_a_change_are_not_written(damaged_run: Layout) -> None:
    """Only the shards of the named samples are written anew."""
    key = keys_of(damaged_run, "kept")[0]
    before = {path: path.stat().st_mtime_ns for path in damaged_run.run.rglob("*.tar")}
    change = taken(damaged_run, Named(ban=frozenset({key})))
    assert len(change.shards) == 1
    touched = {path.stem for path in damaged_run.run.rglob("*.tar") if before.get(path) != path.stat().st_mtime_ns}
    assert touched == set(change.shards)


def test_a_decided_sample_is_remade_to_the_same_bytes(damaged_run: Layout) -> None:
    """`remake` knows the decisions, so its record is that of the run."""
    named = list_for(damaged_run)
    taken(damaged_run, named)
    assert all(remake(damaged_run.run, key).same for key in (*named.readmit, *named.ban))


def test_a_rule_bans_what_fits_and_spares_what_a_list_names(damaged_run: Layout) -> None:
    """Someone who named a sample looked at it; a rule does not override him, and says how many it spared."""
    strong = [row["key"] for row in rows_of(damaged_run) if row["strength"] >= 0.5 and row["status"] == "rejected"][:1]
    taken(damaged_run, Named(readmit=frozenset(strong)))
    change = taken(damaged_run, STRONG)
    assert change.spared == 1
    for row in rows_of(damaged_run):
        assert row["status"] == "rejected" or row["strength"] < 0.5 or row["key"] in strong


def test_a_shard_may_lose_all_its_kept_samples(damaged_run: Layout) -> None:
    """A tar that would be empty is not there, and comes back with its samples."""
    before = hashes(damaged_run)
    taken(damaged_run, Ruled("ban", Rule(min_strength=0.0)))
    assert not list((damaged_run.run / "shards").iterdir())
    assert [str(problem) for problem in verify_run(damaged_run)] == []
    with only_build(damaged_run):
        undo(damaged_run)
    assert hashes(damaged_run) == before


# The same bytes


def test_an_undone_run_is_the_run_as_it_was_built(damaged_run: Layout) -> None:
    """Every byte of shards, index, markers and manifest comes back, one decision at a time or all at once."""
    start, markers = hashes(damaged_run), {p.name: p.read_bytes() for p in damaged_run.done("x").parent.glob("*.json")}
    taken(damaged_run, list_for(damaged_run))
    decided = hashes(damaged_run)
    taken(damaged_run, STRONG, Regated("effect_small", 50.0))
    with only_build(damaged_run):
        undo(damaged_run)
        undo(damaged_run)
        assert hashes(damaged_run) == decided
        undo(damaged_run, every=True)
    assert hashes(damaged_run) == start
    assert {p.name: p.read_bytes() for p in damaged_run.done("x").parent.glob("*.json")} == markers
    assert not damaged_run.decisions.exists()


def test_decisions_taken_twice_are_taken_once(damaged_run: Layout) -> None:
    """The same list, rule or limit again changes no file and is not recorded."""
    decisions = (list_for(damaged_run), STRONG, Regated("effect_small", 50.0))
    taken(damaged_run, *decisions)
    before = {path: path.stat().st_mtime_ns for path in damaged_run.run.rglob("*.*")}
    for decision in decisions:
        assert taken(damaged_run, decision).shards == ()
    assert {path: path.stat().st_mtime_ns for path in damaged_run.run.rglob("*.*")} == before
    assert len(read_decisions(damaged_run).taken) == 3


def test_the_order_of_lists_does_not_matter(damaged_run: Layout, whole_run: Layout, tmp_path: Path) -> None:
    """The same keys in one list or in many, in any order, end in the same bytes as on another machine."""
    import shutil

    named = list_for(whole_run, readmit=3, ban=4)
    taken(damaged_run, named)
    parts = [Named(readmit=frozenset({key})) for key in named.readmit] + [Named(ban=frozenset({k})) for k in named.ban]
    random.Random(1).shuffle(parts)
    shutil.copytree(whole_run.run, tmp_path / "elsewhere")
    taken(Layout(tmp_path / "elsewhere"), *parts)
    assert differing(hashes(damaged_run), hashes(Layout(tmp_path / "elsewhere"))) == []


def test_a_run_extended_after_decisions_keeps_them(tiny_coco: Path, tmp_path: Path) -> None:
    """Decided then extended is extended then decided, byte by byte: rules hold for what is made later, too."""
    first = build_in(tiny_coco, tmp_path / "one", samples=14)
    named = list_for(first, readmit=1, ban=2)
    taken(first, named, STRONG)
    build_in(tiny_coco, tmp_path / "one", samples=24)
    assert [str(problem) for problem in verify_run(first)] == []
    second = build_in(tiny_coco, tmp_path / "two", samples=14)
    make_left(plan_in(tiny_coco, tmp_path / "two", samples=24))
    taken(second, STRONG, named)
    assert differing(hashes(first), hashes(second)) == []


# Records of decisions


def test_decisions_are_recorded_with_their_time(damaged_run: Layout) -> None:
    """`decisions.json` holds the rule and no time; `done/decisions.jsonl` a line with the time for each, undone or not."""
    taken(damaged_run, STRONG)
    with only_build(damaged_run):
        undo(damaged_run)
    taken(damaged_run, STRONG)
    assert json.loads(damaged_run.decisions.read_text()) == {
        "version": 1,
        "decisions": [{"action": "ban", "rule": {"min_strength": 0.5}}],
    }
    lines = [json.loads(line) for line in damaged_run.history.read_text().splitlines()]
    assert [line.get("decision", line.get("undone")) for line in lines] == [STRONG.to_json(), 1, STRONG.to_json()]
    assert all(line["time"].endswith("+00:00") for line in lines)


def test_there_is_nothing_to_undo_in_a_run_as_it_was_built(damaged_run: Layout) -> None:
    """Undo without a decision is one line."""
    with pytest.raises(BadRequest, match="has no decisions to take back"), only_build(damaged_run):
        undo(damaged_run)


# What does not fit the run


def refused(layout: Layout, decision: Decision) -> str:
    """Return the line that refuses a decision, and see that nothing changed."""
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in layout.run.rglob("*") if path.is_file()}
    with pytest.raises(BadRequest) as told:
        taken(layout, decision)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in layout.run.rglob("*") if path.is_file()}
    assert {p: v for p, v in after.items() if p != layout.lock} == {p: v for p, v in before.items() if p != layout.lock}
    return str(told.value)


def test_what_does_not_fit_the_run_is_refused_as_a_whole(damaged_run: Layout) -> None:
    """One bad key refuses the list; nothing of it is done."""
    kept, rejected = keys_of(damaged_run, "kept"), keys_of(damaged_run, "rejected")
    unknown = "000000099999-000000099999-00"
    both = Named(readmit=frozenset({rejected[0], unknown}))
    assert f"has no sample {unknown}" in refused(damaged_run, both)
    assert "is it another run's list?" in refused(damaged_run, Named(ban=frozenset({unknown})))
    already = Named(readmit=frozenset({rejected[0], kept[0]}))
    assert f"{kept[0]} is kept already: there is nothing to re-admit" in refused(damaged_run, already)
    assert "is rejected already (" in refused(damaged_run, Named(ban=frozenset({rejected[0]})))
    assert "fits the rule" in refused(damaged_run, Ruled("ban", Rule(min_strength=2.0)))


def test_a_rule_about_scores_needs_scores(tiny_coco: Path, tmp_path: Path) -> None:
    """In a run without the realism gate such a rule, or another threshold, is one line."""
    layout = build_in(tiny_coco, tmp_path, samples=4, gate="off")
    assert "has no realism scores" in refused(layout, Ruled("ban", Rule(max_score=0.5)))
    assert "has no realism scores" in refused(layout, Regated("unnatural", 0.5))


def test_an_unfinished_run_is_not_decided_about(tiny_coco: Path, tmp_path: Path) -> None:
    """A run without its manifest, or with a shard that is not done, is one line."""
    planned = plan_in(tiny_coco, tmp_path, samples=8)
    assert "is not finished" in refused(planned.layout, STRONG)


@pytest.mark.parametrize("folder", ["shards", "rejected", "index"])
def test_damage_is_not_copied(damaged_run: Layout, folder: str) -> None:
    """A flipped bit in what would be copied stops the decision: repair comes first."""
    flip(max((damaged_run.run / folder).iterdir()), 2000)
    assert "repair" in refused(damaged_run, Ruled("ban", Rule(min_strength=0.0)))


def test_a_disk_that_fills_up_leaves_the_old_run(damaged_run: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte of the old run is touched before all of the new one is written."""
    import os

    before, flushes = hashes(damaged_run), Counter[str]()

    def full(_descriptor: int) -> None:
        flushes["all"] += 1
        if flushes["all"] == 5:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        taken(damaged_run, STRONG)
    assert hashes(damaged_run) == before
    assert not damaged_run.beside.exists()
    assert not damaged_run.decisions.exists()


def test_the_old_shards_stay_until_the_new_ones_are_proved(
    damaged_run: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new shard that is not what it should be is never swapped in."""
    before = hashes(damaged_run)

    def spoiled(layout: Layout, name: str, *arguments: Any) -> Any:
        written = decide_module_write(layout, name, *arguments)
        path = layout.shard(name) if layout.shard(name).exists() else layout.rejected(name)
        flip(path, 3000)
        return written

    decide_module_write = decide_module.write_samples
    monkeypatch.setattr(decide_module, "write_samples", spoiled)
    with pytest.raises(BadRequest, match="was not written as it should be"):
        taken(damaged_run, STRONG)
    assert hashes(damaged_run) == before


def test_two_at_once_is_one_line(damaged_run: Layout) -> None:
    """While a build or another decision is at work, nothing is decided."""
    with only_build(damaged_run), pytest.raises(BadRequest, match="is at work in"):
        taken(damaged_run, STRONG)


# What verify knows


def test_verify_finds_a_sample_that_is_not_as_decided(damaged_run: Layout) -> None:
    """A record that claims a decision nobody took is named."""
    own = {"by": "readmit", "reason": "clipping", "value": 0.2, "limit": 0.05}
    name = read_plan(damaged_run).shards[0].name
    forge(damaged_run, name, kept=lambda samples: [with_record(samples[0], decision=own), *samples[1:]])
    found = [str(problem) for problem in verify_run(damaged_run)]
    assert any("is not what its gates and decisions.json make of it" in line for line in found)
    assert any("counts decisions {}, the index holds {'readmit': 1}" in line for line in found)


def test_verify_finds_decisions_that_were_not_applied(damaged_run: Layout) -> None:
    """Deleted or damaged decisions of a decided run are named, and so is an interrupted change."""
    taken(damaged_run, STRONG)
    content = damaged_run.decisions.read_bytes()
    damaged_run.decisions.unlink()
    assert any("decisions.json make of it" in str(problem) for problem in verify_run(damaged_run))
    damaged_run.decisions.write_bytes(content[:-9])
    assert [problem.path for problem in verify_run(damaged_run)] == ["decisions.json"]
    damaged_run.decisions.write_bytes(content)
    assert [str(problem) for problem in verify_run(damaged_run)] == []
    damaged_run.beside.mkdir()
    (damaged_run.beside / "moves.json").write_text('{"files": [], "removed": []}')
    assert [problem.path for problem in verify_run(damaged_run)] == [".beside"]


# Killed


@pytest.mark.parametrize("deed", ["decide", "undo"])
@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_is_the_old_run_or_ends_in_the_new(
    deed: str, step: int, tiny_coco: Path, tmp_path: Path
) -> None:
    """After SIGKILL the run is whole, the old or the new one, or its moves wait to be ended; again is enough to end."""
    command = [sys.executable, "-m", "tests.flows.make.killed_deed", deed, str(tiny_coco), str(tmp_path), str(step)]
    asked = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=900)
    answer = json.loads(asked.stdout)
    points, start, end = answer["points"], answer["start"], answer["points"][-1]["hashes"]
    assert len(points) > 40 / step
    assert not points[-1]["killed"]
    assert start != end
    for point in points:
        assert point["unsettled"] or (point["after"] in (start, end) and point["whole"])
        assert point["finished"]
        assert point["hashes"] == end
        assert point["whole_then"]
        assert point["left_over"] == []
