from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pytest

from flows.coco.select import split_of
from flows.errors import BadRequest
from flows.make import plan as plan_module
from flows.make.plan import Planned, check_code, code_version, describe_plan, plan_run, read_plan, read_planned
from flows.make.run import finish_run, left_to_make
from flows.make.shard import make_shard
from flows.make.verify import verify_run
from flows.settings import DEFAULT_FAMILIES
from flows.store.layout import Layout
from tests.conftest import draw_photograph, save_instances, write_coco
from tests.flows.make.building import build_in, differing, hashes, make_left, plan_in, rows_of, settings_for


def all_rows(planned: Planned) -> list[dict[str, Any]]:
    """Return the planned samples of all shards."""
    return [row for shard in planned.plan.shards for row in read_planned(planned.layout, shard)]


def plan_files(layout: Layout) -> dict[str, bytes]:
    """Return the files of a plan."""
    return {layout.relative(path): path.read_bytes() for path in (layout.plan, *layout.plan_part(0).parent.iterdir())}


@pytest.fixture
def other_code(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that makes this code look like another version of itself."""

    def change() -> None:
        other = {**code_version(), "digest": "0" * 16}
        monkeypatch.setattr(plan_module, "code_version", lambda: other)

    return change


# One plan


def test_a_plan_twice_is_the_same_bytes(tiny_coco: Path, tmp_path: Path) -> None:
    """The same settings and source give the same plan, byte by byte, wherever the run lies."""
    one, other = (plan_in(tiny_coco, tmp_path / name) for name in ("one", "other"))
    assert plan_files(one.layout) == plan_files(other.layout)


def test_planning_again_changes_nothing(tiny_coco: Path, tmp_path: Path) -> None:
    """A run that is planned once more keeps its plan untouched and says that nothing was added."""
    first = plan_in(tiny_coco, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.layout.run.rglob("*.*")}
    again = plan_in(tiny_coco, tmp_path)
    assert again.extended == 0
    assert again.plan == first.plan
    assert {path: path.stat().st_mtime_ns for path in first.layout.run.rglob("*.*")} == before


def test_batches_may_be_mapped_by_anybody(tiny_coco: Path, tmp_path: Path) -> None:
    """Who looks at the photographs, and how far ahead, does not show in the plan."""
    one = plan_run(settings_for(tiny_coco, tmp_path / "one"))
    other = plan_run(settings_for(tiny_coco, tmp_path / "other"), over=lambda look, items: [*map(look, [*items])])
    assert plan_files(one.layout) == plan_files(other.layout)


def test_every_sample_is_planned_once_in_one_shard_of_its_split(tiny_coco: Path, tmp_path: Path) -> None:
    """Keys are unique and spell image, annotation and variant; shards hold one split, up to their size each."""
    planned = plan_in(tiny_coco, tmp_path, variants=2)
    rows = all_rows(planned)
    assert len({row["key"] for row in rows}) == len(rows) == planned.plan.planned
    for shard in planned.plan.shards:
        held = read_planned(planned.layout, shard)
        assert len(held) == shard.planned <= 8
        assert {row["split"] for row in held} == {shard.split}
        assert re.fullmatch(rf"{shard.split}-\d{{5}}", shard.name)
    for row in rows:
        assert row["key"] == f"{row['target_image_id']:012d}-{row['target_annotation_id']:012d}-{row['variant']:02d}"
        assert split_of(row["target_image_id"]) == split_of(row["reference_image_id"]) == row["split"]
        assert row["target_image_id"] != row["reference_image_id"]


def test_names_of_shards_are_unique_and_counted_per_split(tiny_coco: Path, tmp_path: Path) -> None:
    """Shards of a split are numbered from 0 without gaps."""
    plan = plan_in(tiny_coco, tmp_path, variants=3, shard_size=5).plan
    for split in {shard.split for shard in plan.shards}:
        numbers = [int(shard.name.rpartition("-")[2]) for shard in plan.shards if shard.split == split]
        assert numbers == list(range(len(numbers)))


def test_samples_bounds_the_plan_to_the_first_of_the_same_order(tiny_coco: Path, tmp_path: Path) -> None:
    """A smaller run holds the first samples of a larger one."""
    small = [row["key"] for row in all_rows(plan_in(tiny_coco, tmp_path / "small", samples=10))]
    large = {row["key"]: row for row in all_rows(plan_in(tiny_coco, tmp_path / "large"))}
    assert len(small) == 10
    assert set(small) < set(large)


def test_another_seed_is_another_plan(tiny_coco: Path, tmp_path: Path) -> None:
    """The seed decides order and pairing; the split of a photograph does not depend on it."""
    one, other = (all_rows(plan_in(tiny_coco, tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    pairs = [{(row["target_image_id"], row["reference_image_id"]) for row in rows} for rows in (one, other)]
    assert pairs[0] != pairs[1]


def test_the_plan_suffices_without_the_annotations(tmp_path: Path) -> None:
    """Once planned, a run needs the photographs alone: the annotation file and the cache may go."""
    write_coco(tmp_path / "coco", images=12)
    whole = build_in(tmp_path / "coco", tmp_path / "whole")
    planned = plan_in(tmp_path / "coco", tmp_path / "bare")
    shutil.rmtree(tmp_path / "coco" / "annotations")
    for shard in left_to_make(planned.layout, planned.plan):
        make_shard(planned.layout.run, shard.name)
    finish_run(planned.layout, planned.plan)
    assert differing(hashes(whole), hashes(planned.layout)) == []


def test_describing_a_plan_names_counts_place_and_disk(tiny_coco: Path, tmp_path: Path) -> None:
    """A user reads how many samples of each split will be made, where, and about how much disk they take."""
    planned = plan_in(tiny_coco, tmp_path, samples=20)
    text = "\n".join(describe_plan(planned))
    assert "20 samples in" in text
    assert str(planned.layout.run) in text
    assert re.search(r"about \d+ MB", text)
    assert "48 people in 24 images" in text


def test_the_expected_disk_is_of_the_right_order(tiny_coco: Path, tmp_path: Path) -> None:
    """The announced size is within a factor of three of what the run takes, even on tiny noisy pictures."""
    planned = plan_in(tiny_coco, tmp_path)
    make_left(planned)
    taken = sum(path.stat().st_size for path in planned.layout.run.rglob("*.tar"))
    assert taken / 3 < planned.bytes_expected < taken * 3


def test_more_samples_than_pairs_is_a_note(tiny_coco: Path, tmp_path: Path) -> None:
    """Who asks for more than exists gets all there is and a line that says how to get more."""
    planned = plan_in(tiny_coco, tmp_path, samples=10_000)
    assert planned.plan.planned < 10_000
    assert planned.note is not None
    assert "raise --variants" in planned.note
    assert describe_plan(planned)[-1] == planned.note


# Extending


def test_more_samples_append_and_keep_every_byte(tiny_coco: Path, tmp_path: Path) -> None:
    """Raising `samples` keeps every file of the earlier shards, byte by byte, and makes only the new ones."""
    layout = build_in(tiny_coco, tmp_path, samples=20)
    before, keys = hashes(layout), {row["key"] for row in rows_of(layout)}
    planned = plan_in(tiny_coco, tmp_path, samples=40)
    assert planned.extended == 20
    assert all(shard.planned for shard in left_to_make(layout, planned.plan))
    assert sum(shard.planned for shard in left_to_make(layout, planned.plan)) == 20
    make_left(planned)
    after = hashes(layout)
    assert {path: after[path] for path in before if path != "manifest.json"} == {
        path: digest for path, digest in before.items() if path != "manifest.json"
    }
    rows = rows_of(layout)
    assert len(rows) == 40
    assert keys < {row["key"] for row in rows}
    assert not list(verify_run(layout))


def test_more_variants_append_and_keep_every_byte(tiny_coco: Path, tmp_path: Path) -> None:
    """Raising `variants` keeps every file of the earlier shards and adds edits with other references."""
    layout = build_in(tiny_coco, tmp_path)
    before, first = hashes(layout), rows_of(layout)
    planned = plan_in(tiny_coco, tmp_path, variants=2)
    assert planned.extended > 0
    make_left(planned)
    after = hashes(layout)
    del before["manifest.json"]
    assert {path: after[path] for path in before} == before
    references = {row["key"]: row["reference_image_id"] for row in rows_of(layout)}
    for row in first:
        assert references.get(f"{row['key'][:-2]}01") != row["reference_image_id"]
    assert not list(verify_run(layout))


def test_an_extended_run_holds_the_samples_of_one_planned_so_at_once(tiny_coco: Path, tmp_path: Path) -> None:
    """Extending in steps gives the same samples, to the byte, as asking for all at once; only the shards differ."""
    build_in(tiny_coco, tmp_path / "steps", samples=7)
    build_in(tiny_coco, tmp_path / "steps", samples=30)
    stepped = build_in(tiny_coco, tmp_path / "steps", variants=2)
    at_once = build_in(tiny_coco, tmp_path / "once", variants=2)

    def content(layout: Layout) -> list[dict[str, Any]]:
        return [{name: row[name] for name in row if name not in {"tar", "offset"}} for row in rows_of(layout)]

    assert content(stepped) == content(at_once)
    assert len(read_plan(stepped).parts) == 3


def test_an_unfinished_run_can_be_extended(tiny_coco: Path, tmp_path: Path) -> None:
    """A run may be extended before it is finished; nothing made is lost or made twice."""
    planned = plan_in(tiny_coco, tmp_path, samples=20)
    made = planned.plan.shards[0].name
    make_shard(planned.layout.run, made)
    before = planned.layout.done(made).read_bytes()
    extended = plan_in(tiny_coco, tmp_path)
    make_left(extended)
    assert planned.layout.done(made).read_bytes() == before
    assert not list(verify_run(extended.layout))


def test_an_extension_that_was_stopped_before_plan_json_is_planned_again(tiny_coco: Path, tmp_path: Path) -> None:
    """A part that plan.json does not name, as a crash leaves it, does not count and is written anew."""
    planned = plan_in(tiny_coco, tmp_path, samples=10)
    planned.layout.plan_part(1).write_bytes(b"left over")
    extended = plan_in(tiny_coco, tmp_path, samples=20)
    assert extended.extended == 10
    make_left(extended)
    assert not list(verify_run(extended.layout))


@pytest.mark.parametrize(
    "wider", [{"samples": None}, {"samples": 10_000}, {"samples": 46}], ids=["all", "more", "as many"]
)
def test_asking_for_more_where_there_is_no_more_keeps_the_run(
    tiny_coco: Path, tmp_path: Path, wider: dict[str, Any]
) -> None:
    """Who raises `samples` over what exists gets the run as it is, not a refusal."""
    first = plan_in(tiny_coco, tmp_path, samples=1_000)
    planned = plan_in(tiny_coco, tmp_path, **wider)
    assert planned.extended == 0
    assert planned.plan.shards == first.plan.shards
    assert [path.name for path in planned.layout.plan_part(0).parent.iterdir()] == ["part-00000.parquet"]


@pytest.mark.parametrize("less", [{"samples": 19}, {"samples": 20, "variants": 1}, {"samples": 1}])
def test_shrinking_is_refused(tiny_coco: Path, tmp_path: Path, less: dict[str, Any]) -> None:
    """A run is never made smaller; the refusal says so and leaves the plan as it was."""
    planned = plan_in(tiny_coco, tmp_path, samples=20, variants=2)
    before = plan_files(planned.layout)
    with pytest.raises(BadRequest, match="it can be extended, not made smaller; choose another --run"):
        plan_in(tiny_coco, tmp_path, **less)
    assert plan_files(planned.layout) == before


# What is refused


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"families": "mkl=1"}, "families"),
        ({"min_person_share": 0.1}, "min_person_share"),
        ({"max_side": 100}, "max_side"),
        ({"shard_size": 9}, "shard_size"),
        ({"licenses": "4"}, "licenses"),
    ],
)
def test_other_settings_are_refused(tiny_coco: Path, tmp_path: Path, other: dict[str, Any], name: str) -> None:
    """An existing run with other settings is one line that names the setting, before and now."""
    planned = plan_in(tiny_coco, tmp_path)
    before = plan_files(planned.layout)
    with pytest.raises(BadRequest, match=f"was made with another {name} .*choose another --run"):
        plan_in(tiny_coco, tmp_path, **other)
    assert plan_files(planned.layout) == before


def test_excluded_ids_are_identity_by_content(tiny_coco: Path, tmp_path: Path) -> None:
    """A list of excluded ids that moved or was written in another order is the same; another list is not."""
    (tmp_path / "a.txt").write_text("3\n5\n")
    (tmp_path / "b.txt").write_text("5\n3\n")
    (tmp_path / "c.txt").write_text("3\n")
    planned = plan_in(tiny_coco, tmp_path, exclude_ids=tmp_path / "a.txt")
    touched = {row[f"{role}_image_id"] for row in all_rows(planned) for role in ("target", "reference")}
    assert not touched & {3, 5}
    assert plan_in(tiny_coco, tmp_path, exclude_ids=tmp_path / "b.txt").extended == 0
    with pytest.raises(BadRequest, match="was made with another inputs"):
        plan_in(tiny_coco, tmp_path, exclude_ids=tmp_path / "c.txt")


@pytest.mark.parametrize(
    "same", [{"workers": 1}, {"workers": 7}, {"device": "cpu"}, {"runner": "local"}, {"families": {**DEFAULT_FAMILIES}}]
)
def test_settings_that_decide_no_byte_may_differ(tiny_coco: Path, tmp_path: Path, same: dict[str, Any]) -> None:
    """Workers, runner and device are not part of what a run is."""
    before = plan_files(plan_in(tiny_coco, tmp_path).layout)
    assert plan_files(plan_in(tiny_coco, tmp_path, **same).layout) == before


def test_a_source_that_moved_is_the_same_source(tiny_coco: Path, tmp_path: Path) -> None:
    """The content of the annotation file counts, not where it lies."""
    shutil.copytree(tiny_coco, tmp_path / "moved")
    plan_in(tiny_coco, tmp_path)
    assert plan_in(tmp_path / "moved", tmp_path).extended == 0


def test_another_annotation_file_is_refused(tmp_path: Path) -> None:
    """A source whose annotations have changed is another source."""
    instances = write_coco(tmp_path / "coco", images=8)
    plan_in(tmp_path / "coco", tmp_path)
    save_instances(tmp_path / "coco", {**instances, "info": {"version": "2"}})
    with pytest.raises(BadRequest, match="was made with another inputs"):
        plan_in(tmp_path / "coco", tmp_path)


def test_a_source_that_lost_photographs_cannot_be_extended(tmp_path: Path) -> None:
    """An extension is refused where the photographs are no longer those that the run was planned from."""
    write_coco(tmp_path / "coco", images=12)
    planned = plan_in(tmp_path / "coco", tmp_path, samples=10)
    before = plan_files(planned.layout)
    for image_id in {row["target_image_id"] for row in all_rows(planned)}:
        (tmp_path / "coco" / "tiny" / f"{image_id:012d}.jpg").unlink()
    with pytest.raises(BadRequest, match="was planned from other photographs than the source holds now"):
        plan_in(tmp_path / "coco", tmp_path)
    assert planned.layout.plan.read_bytes() == before["plan.json"]
    assert read_plan(planned.layout) == planned.plan


def test_other_code_may_not_finish_a_run(tiny_coco: Path, tmp_path: Path, other_code: Callable[[], None]) -> None:
    """Code that would make other bytes neither finishes nor extends a run; one line says which way out."""
    planned = plan_in(tiny_coco, tmp_path, samples=20)
    other_code()
    with pytest.raises(BadRequest, match=r"was begun with digest .*; build into another --run, or go back"):
        left_to_make(planned.layout, planned.plan)
    with pytest.raises(BadRequest, match="was begun with digest"):
        plan_in(tiny_coco, tmp_path, samples=30)


def test_other_code_may_look_at_a_finished_run(tiny_coco: Path, tmp_path: Path, other_code: Callable[[], None]) -> None:
    """A finished run needs no making, so newer code may run the same build again and verify it."""
    planned = plan_in(tiny_coco, tmp_path, samples=10)
    make_left(planned)
    other_code()
    again = plan_in(tiny_coco, tmp_path, samples=10)
    assert left_to_make(again.layout, again.plan) == []
    assert not list(verify_run(again.layout))


def test_code_version_is_what_decides_bytes() -> None:
    """The version names the digest of the code and the libraries that encode, and is the same when asked again."""
    version = code_version()
    assert {"hcoco", "digest", "machine", "numpy", "opencv-python-headless", "pycocotools"} <= set(version)
    assert re.fullmatch("[0-9a-f]{16}", version["digest"])
    assert code_version.__wrapped__() == code_version.__wrapped__()


def test_missing_library_in_an_old_plan_is_other_code(tiny_coco: Path, tmp_path: Path) -> None:
    """A plan that does not name a library that decides bytes now was made by other code."""
    planned = plan_in(tiny_coco, tmp_path, samples=4)
    code = {name: value for name, value in planned.plan.code.items() if name != "numpy"}
    with pytest.raises(BadRequest, match="was begun with numpy None"):
        check_code(plan_module.Plan(**{**vars(planned.plan), "code": code}), planned.layout)


def test_nothing_to_plan_is_a_bad_request_with_the_counts(tmp_path: Path) -> None:
    """Where no pair exists the line says what was dropped and what to loosen, and no plan stays behind."""
    write_coco(tmp_path / "coco", images=6)
    attempt = partial(plan_in, tmp_path / "coco", tmp_path)
    with pytest.raises(BadRequest, match=r"no pair of people.*dropped: license 12; take a larger source, or loosen"):
        attempt(licenses="1")
    assert not (tmp_path / "run" / "plan.json").exists()
    assert attempt().plan.planned > 0


def test_a_single_photograph_has_no_reference(tmp_path: Path) -> None:
    """One photograph, however many people are in it, cannot be paired."""
    write_coco(tmp_path / "coco", images=1)
    with pytest.raises(BadRequest, match="no pair of people in two photographs"):
        plan_in(tmp_path / "coco", tmp_path)


def test_a_folder_that_is_no_run_is_not_built_into(tiny_coco: Path, tmp_path: Path) -> None:
    """A folder with foreign files is left alone."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(BadRequest, match="exists and is no run of hcoco"):
        plan_in(tiny_coco, tmp_path)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"


def test_what_a_killed_planning_leaves_is_no_obstacle(tiny_coco: Path, tmp_path: Path) -> None:
    """A part without plan.json, and the temporary files of a killed write, are planned over."""
    folder = tmp_path / "run" / "plan"
    folder.mkdir(parents=True)
    (folder / "part-00000.parquet").write_bytes(b"half")
    (folder / ".part-00000.parquet-abc.tmp").write_bytes(b"half")
    (tmp_path / "run" / ".plan.json-abc.tmp").write_bytes(b"half")
    planned = plan_in(tiny_coco, tmp_path)
    assert plan_files(planned.layout)["plan.json"] == plan_files(plan_in(tiny_coco, tmp_path / "b").layout)["plan.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"version": 1}', b"\xff", b'{"version": 1, "shards": 5}'], ids=repr
)
def test_a_damaged_plan_is_a_bad_request(tiny_coco: Path, tmp_path: Path, content: bytes) -> None:
    """A plan.json that cannot be read is one line; the run is not planned over."""
    planned = plan_in(tiny_coco, tmp_path, samples=4)
    planned.layout.plan.write_bytes(content)
    with pytest.raises(BadRequest, match=r"plan\.json is damaged"):
        plan_in(tiny_coco, tmp_path, samples=4)
    assert planned.layout.plan.read_bytes() == content


def test_a_plan_of_another_version_is_a_bad_request(tiny_coco: Path, tmp_path: Path) -> None:
    """A plan of a later format is not misread."""
    planned = plan_in(tiny_coco, tmp_path, samples=4)
    planned.layout.plan.write_text(json.dumps({**json.loads(planned.layout.plan.read_text()), "version": 2}))
    with pytest.raises(BadRequest, match="has version 2, this code reads 1"):
        read_plan(planned.layout)


@pytest.mark.parametrize("spoil", ["missing", "cut", "flipped"])
def test_a_damaged_part_is_a_bad_request(tiny_coco: Path, tmp_path: Path, spoil: str) -> None:
    """Planned samples that cannot be read stop the making with one line."""
    planned = plan_in(tiny_coco, tmp_path, samples=4)
    part = planned.layout.plan_part(0)
    data = bytearray(part.read_bytes())
    if spoil == "missing":
        part.unlink()
    elif spoil == "cut":
        part.write_bytes(data[: len(data) // 2])
    else:
        data[-8] ^= 255
        part.write_bytes(data)
    with pytest.raises(BadRequest, match=r"part-00000\.parquet is damaged"):
        make_shard(planned.layout.run, planned.plan.shards[0].name)


def test_a_subject_that_vanishes_when_scaled_never_stops_a_run(tmp_path: Path) -> None:
    """A person of thin lines, of which nothing is left at `max_side`, is dropped or gets a reason: it is a sample."""
    instances = write_coco(tmp_path / "coco", images=8, people=1)
    lines = [[20, float(y), 460, float(y), 460, y + 1.0, 20, y + 1.0] for y in range(10, 340, 7)]
    for image, annotation in zip(instances["images"], instances["annotations"], strict=True):
        picture = draw_photograph(image["id"], width=480, height=360)
        cv2.imwrite(str(tmp_path / "coco" / "tiny" / image["file_name"]), picture)
        image |= {"width": 480, "height": 360}
        annotation |= {"segmentation": lines, "area": 20_000.0}
    save_instances(tmp_path / "coco", instances)
    assert plan_in(tmp_path / "coco", tmp_path / "full").plan.planned > 5
    try:
        planned = plan_in(tmp_path / "coco", tmp_path, max_side=120)
    except BadRequest:
        return
    make_left(planned)
    assert not list(verify_run(planned.layout))
