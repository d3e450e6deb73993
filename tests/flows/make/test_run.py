from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.errors import BadRequest
from flows.make.plan import read_plan
from flows.make.run import BrokenPromiseError, find_split_leaks, finish_run, left_to_make
from flows.make.shard import make_shard
from flows.store.layout import Layout
from flows.store.lock import only_build
from flows.store.manifest import read_manifest
from flows.store.write import hash_file
from tests.flows.make.building import WHOLE, build_in, differing, hashes, make_left, plan_in, rows_of

ROOT = Path(__file__).resolve().parents[3]

AT_PLAN_JSON = 1  # the second write of a build


def test_the_order_of_the_shards_does_not_matter(tiny_coco: Path, whole_run: Layout, tmp_path: Path) -> None:
    """Shards made in any order, one of them twice, give the same bytes and the same manifest."""
    planned = plan_in(tiny_coco, tmp_path, **WHOLE)
    names = [shard.name for shard in planned.plan.shards]
    random.Random(0).shuffle(names)
    for name in (*names, names[0]):
        make_shard(planned.layout.run, name)
    finish_run(planned.layout, planned.plan)
    assert differing(hashes(planned.layout), hashes(whole_run)) == []


def test_building_again_changes_nothing(tiny_coco: Path, tmp_path: Path) -> None:
    """Twice is once: a finished run is left as it is."""
    layout = build_in(tiny_coco, tmp_path, samples=16)
    before = {path: path.stat().st_mtime_ns for path in layout.run.rglob("*.*") if path != layout.manifest}
    content = hashes(layout)
    build_in(tiny_coco, tmp_path, samples=16)
    assert {path: path.stat().st_mtime_ns for path in layout.run.rglob("*.*") if path != layout.manifest} == before
    assert hashes(layout) == content


def test_what_is_left_is_what_is_not_done_the_largest_first(tiny_coco: Path, tmp_path: Path) -> None:
    """Only unfinished shards are left, ordered by their pixels, so that no core waits long at the end."""
    planned = plan_in(tiny_coco, tmp_path)
    left = left_to_make(planned.layout, planned.plan)
    assert [shard.pixels for shard in left] == sorted((shard.pixels for shard in planned.plan.shards), reverse=True)
    make_shard(planned.layout.run, left[2].name)
    assert left_to_make(planned.layout, planned.plan) == [*left[:2], *left[3:]]


def test_the_manifest_lists_every_file_and_adds_up(whole_run: Layout) -> None:
    """Planned = kept + rejected, reasons and families add up, and every tar and index stands there with its hash."""
    manifest = read_manifest(whole_run)
    counts = manifest["counts"]
    rows = rows_of(whole_run)
    assert counts["planned"] == counts["kept"] + counts["rejected"] == len(rows) == 22
    assert counts["rejected"] == sum(counts["by_reason"].values())
    assert sum(sum(each.values()) for each in counts["by_family"].values()) == 22
    for entry in (*manifest["shards"], *manifest["index"]):
        assert hash_file(whole_run.run / entry["path"])[0] == entry["sha256"]
    tars = {whole_run.relative(path) for path in whole_run.run.rglob("*.tar")}
    assert {entry["path"] for entry in manifest["shards"]} == tars
    assert sum(entry["samples"] for entry in manifest["shards"]) == 22
    assert manifest["selection"] == read_plan(whole_run).selection


def test_the_summary_says_what_came_out(whole_run: Layout) -> None:
    """The last line of a build names planned, kept, rejected, and the reasons."""
    finished = finish_run(whole_run, read_plan(whole_run))
    counts = finished.manifest["counts"]
    assert finished.summary.startswith(f"22 planned = {counts['kept']} kept + {counts['rejected']} rejected (")
    assert all(f"{reason} {count}" in finished.summary for reason, count in counts["by_reason"].items())


def test_an_unfinished_run_is_not_summed_up(tiny_coco: Path, tmp_path: Path) -> None:
    """A run with a shard left gets no manifest, and a line that names the shard."""
    planned = plan_in(tiny_coco, tmp_path)
    make_shard(planned.layout.run, planned.plan.shards[0].name)
    with pytest.raises(BadRequest, match=rf"shard {planned.plan.shards[1].name} is not done; run the same build again"):
        finish_run(planned.layout, planned.plan)
    assert not planned.layout.manifest.exists()


def test_only_one_build_at_a_time(tiny_coco: Path, tmp_path: Path) -> None:
    """A second build into the same run is one clear line; after the first it may begin."""
    layout = plan_in(tiny_coco, tmp_path, samples=4).layout
    with (
        only_build(layout),
        pytest.raises(BadRequest, match=r"another build is at work in .*; wait for it, or choose another --run"),
        only_build(layout),
    ):
        pass
    with only_build(layout):
        pass


def test_a_killed_build_does_not_hold_the_lock(tiny_coco: Path, tmp_path: Path) -> None:
    """The lock goes with the process that held it, so nobody has to delete a stale file."""
    layout = plan_in(tiny_coco, tmp_path, samples=4).layout
    code = (
        "import os, signal, sys; from pathlib import Path; from flows.store.lock import only_build\n"
        "from flows.store.layout import Layout\n"
        "with only_build(Layout(Path(sys.argv[1]))): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(layout.run)], cwd=ROOT, check=False).returncode == -9
    with only_build(layout):
        pass


def _forge_leak(layout: Layout, column: str) -> int:
    """Let one row of the index claim a photograph of another split; return its id."""
    other = next(row for row in rows_of(layout) if row["split"] == "val")["target_image_id"]
    path = layout.index("train-00000")
    table = pq.read_table(path)
    values = [other, *table[column].to_pylist()[1:]]
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values, pa.int64())), path)
    return int(other)


@pytest.mark.parametrize("column", ["target_image_id", "reference_image_id"])
def test_a_photograph_on_two_sides_is_found(damaged_run: Layout, column: str) -> None:
    """A photograph of one split that any sample of another touches, as target or reference, is named."""
    plan = read_plan(damaged_run)
    assert find_split_leaks(damaged_run, plan) == []
    other = _forge_leak(damaged_run, column)
    assert any(f"image {other} stands in" in leak for leak in find_split_leaks(damaged_run, plan))


def test_a_leak_stops_the_manifest(damaged_run: Layout) -> None:
    """A run that leaks is never finished: no manifest is written for it."""
    damaged_run.manifest.unlink()
    _forge_leak(damaged_run, "reference_image_id")
    size = damaged_run.index("train-00000").stat().st_size
    marker = json.loads(damaged_run.done("train-00000").read_text())
    marker["files"]["index/train-00000.parquet"]["size"] = size
    damaged_run.done("train-00000").write_text(json.dumps(marker))
    with pytest.raises(BrokenPromiseError, match=r"stands in .* in all"):
        finish_run(damaged_run, read_plan(damaged_run))
    assert not damaged_run.manifest.exists()


def test_markers_that_count_otherwise_stop_the_manifest(damaged_run: Layout) -> None:
    """A marker that counts other samples than the plan is found before the manifest is written."""
    marker = json.loads(damaged_run.done("train-00000").read_text())
    marker["planned"] += 1
    damaged_run.done("train-00000").write_text(json.dumps(marker))
    with pytest.raises(BrokenPromiseError, match="22 samples were planned, the markers count otherwise"):
        finish_run(damaged_run, read_plan(damaged_run))


def test_what_a_killed_build_left_half_written_is_swept(damaged_run: Layout) -> None:
    """Temporary files of a killed build do not fill the disk for ever: the next build takes them away."""
    for folder in ("shards", "rejected", "index", "done"):
        (damaged_run.run / folder / ".train-00000.tar-abcd1234.tmp").write_bytes(b"half")
    (damaged_run.run / ".manifest.json-abcd1234.tmp").write_bytes(b"half")
    with only_build(damaged_run):
        pass
    assert not list(damaged_run.run.rglob("*.tmp"))


@pytest.fixture(scope="module")
def killed_everywhere(tmp_path_factory: pytest.TempPathFactory, tiny_coco: Path) -> list[dict[str, Any]]:
    """Return what came of builds that were killed at each of their writes and then run again; the last was not."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.flows.make.killed", str(tiny_coco), str(folder)]
    asked = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    outcome: list[dict[str, Any]] = json.loads(asked.stdout)
    return outcome


def test_a_build_killed_at_any_write_is_finished_to_the_same_bytes(killed_everywhere: list[dict[str, Any]]) -> None:
    """Killed at any write, the same build run again gives the bytes of an undisturbed one."""
    assert len(killed_everywhere) > 8
    assert not killed_everywhere[-1]["killed"]
    points = [point for point, each in enumerate(killed_everywhere) if point != AT_PLAN_JSON]
    assert [point for point in points if not killed_everywhere[point]["finished"]] == []
    undisturbed = killed_everywhere[-1]["hashes"]
    assert [point for point in points if killed_everywhere[point]["hashes"] != undisturbed] == []


def test_a_build_killed_at_any_write_leaves_nothing_behind(killed_everywhere: list[dict[str, Any]]) -> None:
    """After the second build nothing is left of what the first was writing when it was killed."""
    left = [name for each in killed_everywhere[AT_PLAN_JSON:] for name in each["left_over"]]
    assert left == []


def test_a_build_killed_while_plan_json_is_written_is_finished(killed_everywhere: list[dict[str, Any]]) -> None:
    """Killed just before plan.json lands, the same build run again gives the bytes of an undisturbed one."""
    assert killed_everywhere[AT_PLAN_JSON]["finished"]
    assert killed_everywhere[AT_PLAN_JSON]["hashes"] == killed_everywhere[-1]["hashes"]


def test_a_build_killed_while_planning_leaves_nothing_behind(killed_everywhere: list[dict[str, Any]]) -> None:
    """After the second build nothing is left of the plan that the first was writing when it was killed."""
    assert killed_everywhere[0]["left_over"] == []


def test_a_run_may_be_moved(whole_run: Layout, tiny_coco: Path, tmp_path: Path, damaged_run: Layout) -> None:
    """A run knows nothing of its own place: copied elsewhere it is finished, and a build there goes on."""
    name = read_plan(damaged_run).shards[0].name
    damaged_run.shard(name).unlink()
    make_left(plan_in(tiny_coco, tmp_path, **WHOLE))
    assert differing(hashes(damaged_run), hashes(whole_run)) == []
