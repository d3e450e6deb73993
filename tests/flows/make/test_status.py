from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.errors import BadRequest
from flows.make.decide import decide
from flows.make.plan import read_plan
from flows.make.run import finish_run
from flows.make.shard import Done, make_shard
from flows.make.status import read_status, samples_per_second, tell_status
from flows.store.decisions import Rule, Ruled
from flows.store.layout import Layout
from flows.store.lock import only_build
from flows.store.manifest import read_manifest
from tests.flows.make.building import plan_in


def done(*, planned: int, began: float, ended: float) -> Done:
    """Return a marker with these times."""
    return Done("x", planned, planned, 0, {}, {}, {}, seconds=ended - began, finished=ended)


def test_a_finished_run_is_told(whole_run: Layout) -> None:
    """Counts are those of the manifest, and nothing is left."""
    status, counts = read_status(whole_run.run), read_manifest(whole_run)["counts"]
    assert (status.state, status.left, status.problems) == ("finished", 0, ())
    assert (status.planned, status.made, status.kept, status.rejected) == (22, 22, counts["kept"], counts["rejected"])
    assert status.by_reason == counts["by_reason"]
    assert (status.shards_done, status.shards_planned) == (3, 3)
    assert status.seconds_left == 0
    json.dumps(status.to_json())


def test_a_run_is_told_while_it_grows(tiny_coco: Path, tmp_path: Path) -> None:
    """From the plan on: what is made, what is left, how long that takes at the speed so far."""
    planned = plan_in(tiny_coco, tmp_path, samples=12)
    layout, shards = planned.layout, planned.plan.shards
    status = read_status(layout.run)
    assert (status.state, status.made, status.left, status.per_second, status.seconds_left) == (
        "unfinished",
        0,
        12,
        None,
        None,
    )
    make_shard(layout.run, shards[0].name)
    status = read_status(layout.run)
    assert (status.made, status.left) == (shards[0].planned, 12 - shards[0].planned)
    assert status.per_second is not None
    assert status.seconds_left == pytest.approx(status.left / status.per_second)
    assert any(
        line.endswith(f", {status.left} left: about 0:00:00") or " left: about " in line for line in tell_status(status)
    )
    for shard in shards[1:]:
        make_shard(layout.run, shard.name)
    assert read_status(layout.run).state == "unfinished"
    finish_run(layout, planned.plan)
    assert read_status(layout.run).state == "finished"


def test_it_does_not_wait_for_a_build_nor_disturb_it(tiny_coco: Path, tmp_path: Path) -> None:
    """While the lock is held the run is building, and it can still be told."""
    layout = plan_in(tiny_coco, tmp_path, samples=12).layout
    with only_build(layout):
        status = read_status(layout.run)
    assert (status.state, status.at_work) in {("building", True), ("unfinished", None)}


def test_speed_counts_the_time_of_work_only() -> None:
    """Two workers at once count once, a night between two builds not at all."""
    markers = [
        done(planned=10, began=0, ended=10),
        done(planned=20, began=5, ended=15),
        done(planned=30, began=10_000, ended=10_015),
    ]
    assert samples_per_second(markers) == pytest.approx(60 / 30)
    assert samples_per_second(reversed(markers)) == pytest.approx(60 / 30)


def test_markers_that_know_no_time_say_no_speed() -> None:
    """A marker that was restored without its time is left out; alone it gives no speed."""
    assert samples_per_second([]) is None
    assert samples_per_second([done(planned=10, began=5, ended=5)]) is None
    assert samples_per_second([done(planned=10, began=5, ended=5), done(planned=6, began=0, ended=3)]) == 2


def test_damage_is_told(damaged_run: Layout) -> None:
    """A shard that was finished and is not whole, a damaged manifest and damaged decisions are named; counts go on."""
    name = read_plan(damaged_run).shards[0].name
    damaged_run.index(name).unlink()
    damaged_run.manifest.write_bytes(b"{")
    damaged_run.decisions.write_bytes(b"{")
    status = read_status(damaged_run.run)
    assert status.state == "damaged"
    assert status.shards_done == 2
    told = " ".join(status.problems)
    assert f"shard {name} was finished and is not whole any more" in told
    assert "manifest.json is damaged" in told
    assert "decisions.json is damaged" in told


def test_a_missing_marker_of_a_finished_shard_is_damage(damaged_run: Layout) -> None:
    """The manifest remembers what was finished, so a lost marker is not taken for work to do."""
    damaged_run.done(read_plan(damaged_run).shards[0].name).unlink()
    assert read_status(damaged_run.run).state == "damaged"


@pytest.mark.parametrize("content", [None, b"{", b"null"])
def test_a_run_without_its_plan_is_told_by_its_markers(damaged_run: Layout, content: bytes | None) -> None:
    """What is made is known from the markers; what is left is not."""
    damaged_run.plan.unlink()
    if content is not None:
        damaged_run.plan.write_bytes(content)
    status = read_status(damaged_run.run)
    assert (status.state, status.made, status.planned, status.left) == ("damaged", 22, None, None)
    assert "22 of an unknown number of samples made" in tell_status(status)[1]


def test_an_extension_that_was_stopped_is_unfinished_not_damaged(tiny_coco: Path, damaged_run: Layout) -> None:
    """Shards that the manifest does not know yet are work to do."""
    plan_in(tiny_coco, damaged_run.run.parent, samples=30, seed=4)
    status = read_status(damaged_run.run)
    assert (status.state, status.made, status.left) == ("unfinished", 22, 8)


def test_decisions_are_told(damaged_run: Layout) -> None:
    """How many there are, and how many samples they moved."""
    with only_build(damaged_run):
        change = decide(damaged_run, Ruled("ban", Rule(min_strength=0.5)))
    status = read_status(damaged_run.run)
    assert (status.decisions, status.decided) == (1, {"ban": change.dropped})
    assert f"decisions: 1 (ban {change.dropped})" in tell_status(status)


def test_an_interrupted_change_is_told(damaged_run: Layout) -> None:
    """A decision that was killed in its last step is damage until somebody ends it."""
    damaged_run.beside.mkdir()
    (damaged_run.beside / "moves.json").write_text('{"files": [], "removed": []}')
    assert "a decision or repair was interrupted; hcoco repair ends it" in read_status(damaged_run.run).problems


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    """A missing folder, an empty one and a foreign one are refused."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("dear")
    for name in ("missing", "empty", "foreign"):
        with pytest.raises(BadRequest, match=r"does not exist|is no run of hcoco"):
            read_status(tmp_path / name)
