from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from flows.make import shard as shard_module
from flows.make.compose import Made, read_recipe, recipe_of
from flows.make.judge import judge
from flows.make.plan import read_plan, read_planned
from flows.make.shard import judge_made, make_shard, read_done
from flows.store.layout import Layout
from flows.store.read import read_tar
from flows.store.record import GATES
from flows.store.write import hash_file
from tests.flows.make.building import differing, hashes, plan_in, rows_of


def test_a_marker_tells_what_lies_on_disk(whole_run: Layout) -> None:
    """Counts, hashes and sizes of a marker are those of the files, and planned = kept + rejected."""
    for shard in read_plan(whole_run).shards:
        done = read_done(whole_run, shard.name)
        assert done is not None
        assert done.planned == shard.planned == done.kept + done.rejected
        assert done.rejected == sum(done.by_reason.values())
        assert sum(sum(counts.values()) for counts in done.by_family.values()) == done.planned
        for path, file in done.files.items():
            assert hash_file(whole_run.run / path) == (file["sha256"], file["size"])
        assert done.files[f"index/{shard.name}.parquet"]["samples"] == shard.planned


def test_every_planned_sample_lies_in_one_tar_with_one_row(whole_run: Layout) -> None:
    """Kept samples lie in `shards`, the others in `rejected`; together they are the planned ones, once each."""
    planned = [row["key"] for s in read_plan(whole_run).shards for row in read_planned(whole_run, s)]
    kept = [stored for path in (whole_run.run / "shards").iterdir() for stored in read_tar(path)]
    rejected = [stored for path in (whole_run.run / "rejected").iterdir() for stored in read_tar(path)]
    assert sorted(planned) == sorted(stored.key for stored in (*kept, *rejected))
    assert sorted(planned) == [row["key"] for row in rows_of(whole_run)]
    assert {stored.record["status"] for stored in kept} == {"kept"}
    assert {stored.record["status"] for stored in rejected} == {"rejected"}


def test_a_verdict_carries_reason_value_and_limit(whole_run: Layout) -> None:
    """A rejected sample names the first failed gate with the value that was compared and its limit; a kept one none."""
    for row in rows_of(whole_run):
        assert (row["reason"] is None) == (row["value"] is None) == (row["limit"] is None) == (row["status"] == "kept")
        gates = {name.removeprefix("gates_"): row[name] for name in row if name.startswith("gates_")}
        verdict = judge(gates)
        assert (verdict.reason, verdict.value, verdict.limit) == (row["reason"], row["value"], row["limit"])
        assert row["score"] is row["threshold"] is row["seen_by_gate"] is None


def test_a_recipe_can_be_read_back(whole_run: Layout) -> None:
    """The recipe of every sample is one of `augment`, with the family and strength that stand beside it."""
    for path in (whole_run.run / "shards").iterdir():
        for stored in read_tar(path):
            recipe = read_recipe(stored.record)
            assert (recipe.family, recipe.strength) == (stored.record["family"], stored.record["strength"])


def test_a_sample_names_its_people_and_their_licence(whole_run: Layout) -> None:
    """Target and reference carry image, annotation, licence and addresses; unknown is null."""
    for row in rows_of(whole_run):
        for role in ("target", "reference"):
            assert row[f"{role}_annotation_id"] // 10 == row[f"{role}_image_id"]
            assert row[f"{role}_license"] == 4
            assert row[f"{role}_coco_url"].endswith(f"{row[f'{role}_image_id']:012d}.jpg")
            assert row[f"{role}_flickr_url"] is None


def test_only_markers_know_times(whole_run: Layout) -> None:
    """Two makings differ in the markers alone, and there in `seconds` and `finished` alone."""
    marker = json.loads(next((whole_run.run / "done").iterdir()).read_text())
    assert {"seconds", "finished"} <= set(marker)
    assert "seconds" not in whole_run.manifest.read_text()


def test_a_done_shard_is_not_made_again(damaged_run: Layout) -> None:
    """A shard with its marker and files is returned as it is: no file is touched."""
    name = read_plan(damaged_run).shards[0].name
    before = {path: path.stat().st_mtime_ns for path in damaged_run.run.rglob("*.*")}
    assert make_shard(damaged_run.run, name) == read_done(damaged_run, name)
    assert {path: path.stat().st_mtime_ns for path in damaged_run.run.rglob("*.*")} == before


def test_a_shard_made_anew_over_its_own_files_is_the_same(damaged_run: Layout, whole_run: Layout) -> None:
    """A shard whose marker is gone is made again to the same bytes."""
    for shard in read_plan(damaged_run).shards:
        damaged_run.done(shard.name).unlink()
        make_shard(damaged_run.run, shard.name)
    assert differing(hashes(damaged_run), hashes(whole_run)) == []


@pytest.mark.parametrize("folder", ["shards", "rejected", "index"])
@pytest.mark.parametrize("spoil", ["deleted", "truncated", "longer", "emptied"])
def test_a_shard_whose_file_is_not_whole_is_made_again(
    damaged_run: Layout, whole_run: Layout, folder: str, spoil: str
) -> None:
    """A deleted, cut or grown file makes its shard count as not done; making it again mends every byte."""
    path = min((damaged_run.run / folder).iterdir())
    size = path.stat().st_size
    if spoil == "deleted":
        path.unlink()
    else:
        path.touch()
        os.truncate(path, {"truncated": size - 1, "longer": size + 512, "emptied": 0}[spoil])
    assert read_done(damaged_run, path.stem) is None
    make_shard(damaged_run.run, path.stem)
    assert differing(hashes(damaged_run), hashes(whole_run)) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"{}", b'{"version": 1}', b'{"version": 9}', b"\xff"], ids=repr
)
def test_a_damaged_marker_counts_as_none(damaged_run: Layout, whole_run: Layout, content: bytes) -> None:
    """A marker that cannot be read never hides an unmade shard, and is written anew."""
    name = read_plan(damaged_run).shards[1].name
    damaged_run.done(name).write_bytes(content)
    assert read_done(damaged_run, name) is None
    done = make_shard(damaged_run.run, name)
    assert read_done(damaged_run, name) == done
    assert differing(hashes(damaged_run), hashes(whole_run)) == []


def test_the_marker_is_written_last(tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the marker lands, tar, rejected and index lie there whole already."""
    planned = plan_in(tiny_coco, tmp_path, samples=8)
    layout, name = planned.layout, planned.plan.shards[0].name
    seen: list[str] = []

    def write(path: Path, data: bytes) -> None:
        assert path == layout.done(name)
        files = json.loads(data)["files"]
        assert all(hash_file(layout.run / each) == (file["sha256"], file["size"]) for each, file in files.items())
        seen.append(path.name)

    monkeypatch.setattr(shard_module, "write_bytes", write)
    make_shard(layout.run, name)
    assert seen == [f"{name}.json"]


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk in the middle of a shard passes through, and leaves no marker and no temporary file."""
    planned = plan_in(tiny_coco, tmp_path, samples=8)
    name = planned.plan.shards[0].name
    flushes = Counter[str]()

    def full(_descriptor: int) -> None:
        flushes["all"] += 1
        if flushes["all"] == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        make_shard(planned.layout.run, name)
    assert read_done(planned.layout, name) is None
    assert not list(planned.layout.run.rglob("*.tmp"))
    monkeypatch.undo()
    assert make_shard(planned.layout.run, name).planned == planned.plan.shards[0].planned


def test_an_empty_tar_is_not_written_and_an_old_one_is_taken_away(tiny_coco: Path, tmp_path: Path) -> None:
    """A shard without rejected samples has no rejected tar, whatever an earlier attempt left at its place."""
    planned = plan_in(tiny_coco, tmp_path, shard_size=1)
    layout = planned.layout
    for shard in planned.plan.shards[:12]:
        for path in (layout.shard(shard.name), layout.rejected(shard.name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"left over")
        done = make_shard(layout.run, shard.name)
        assert layout.shard(shard.name).exists() == (done.kept > 0)
        assert layout.rejected(shard.name).exists() == (done.rejected > 0)


def test_an_unreadable_sample_needs_no_gates(whole_run: Layout) -> None:
    """A failure comes before any gate."""
    row = read_planned(whole_run, read_plan(whole_run).shards[0])[0]
    recipe = recipe_of(row["key"], seed=0, families={"mkl": 1.0})
    made = Made(row["key"], {}, recipe, {}, {}, None, None, failure="unreadable")
    verdict = judge_made(made)
    assert (verdict.reason, verdict.value, verdict.limit, verdict.kept) == ("unreadable", None, None, False)
    record = shard_module.record_of(row, made, verdict)
    assert record["gates"] == dict.fromkeys(GATES)
