from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.coco.select import split_of
from flows.errors import BadRequest
from flows.make.compose import encode_jpeg, encode_png
from flows.make.plan import read_plan
from flows.make.verify import PROBLEMS_PER_SHARD, Problem, verify_run, verify_shard
from flows.store.layout import Layout
from flows.store.write import pack
from tests.flows.make.building import rows_of
from tests.flows.make.forging import (
    Sample,
    flip,
    forge,
    forge_manifest,
    record_in,
    samples_of,
    with_member,
    with_record,
)

NAME = "train-00000"


def problems_of(layout: Layout) -> list[Problem]:
    """Return everything that `verify` finds."""
    return list(verify_run(layout))


def only_problem(layout: Layout) -> str:
    """Return the one thing that is wrong: every other check passes, so this one alone found it."""
    problems = problems_of(layout)
    assert len(problems) == 1, [str(problem) for problem in problems]
    return str(problems[0])


def first(change: Callable[[Sample], Sample]) -> Callable[[list[Sample]], list[Sample]]:
    """Return a change of the first sample alone."""
    return lambda samples: [change(samples[0]), *samples[1:]]


# A run that is whole


def test_a_good_run_has_no_problems(whole_run: Layout) -> None:
    """Nothing is wrong with a run as it was made."""
    assert problems_of(whole_run) == []


def test_forging_without_a_change_is_not_noticed(damaged_run: Layout) -> None:
    """The forger of these tests leaves a whole run whole, so what is found below is the damage and not the forging."""
    forge(damaged_run, NAME, kept=lambda samples: samples)
    assert problems_of(damaged_run) == []


def test_shards_may_be_checked_by_anybody_in_order(damaged_run: Layout) -> None:
    """Who maps the check over the shards does not change what is found."""
    flip(damaged_run.shard(NAME), 5000)
    asked: list[Any] = []

    def over(check: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        asked.extend(items)
        return [check(item) for item in asked]

    assert list(verify_run(damaged_run, over=over)) == problems_of(damaged_run)
    assert asked == [shard.name for shard in read_plan(damaged_run).shards]


# Files


@pytest.mark.parametrize("place", [0, 100, 148, 600, 5_000, 20_000, -1, -1030, -2000])
def test_a_flipped_bit_in_a_tar_is_found_and_named(damaged_run: Layout, place: int) -> None:
    """One bit, in a header, a picture, padding or the end: the hash finds it, and the tar is named."""
    flip(damaged_run.shard(NAME), place)
    found = problems_of(damaged_run)
    assert Problem(f"shards/{NAME}.tar", None, "differs from its hash in the manifest") in found


@pytest.mark.parametrize("place", [0, 148, 600, 5_000, 21_000])
def test_a_flipped_bit_is_found_without_the_hash(damaged_run: Layout, place: int) -> None:
    """A bit flipped in a header or in a picture is found even where the manifest's hash was forged."""
    flip(damaged_run.shard(NAME), place)
    manifest = json.loads(damaged_run.manifest.read_text())
    entry = next(entry for entry in manifest["shards"] if entry["path"] == f"shards/{NAME}.tar")
    entry["sha256"] = _sha256(damaged_run.shard(NAME))
    damaged_run.manifest.write_text(json.dumps(manifest))
    assert problems_of(damaged_run)


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("left", [0, 100, 512, 30_000, -1, -512, -1024, -5_000])
def test_a_cut_tar_is_found(damaged_run: Layout, left: int) -> None:
    """A tar that ends early is found, wherever it ends."""
    path = damaged_run.rejected(NAME)
    os.truncate(path, left if left >= 0 else path.stat().st_size + left)
    assert any(problem.path == f"rejected/{NAME}.tar" for problem in problems_of(damaged_run))


@pytest.mark.parametrize("folder", ["shards", "rejected", "index"])
def test_a_deleted_file_is_found(damaged_run: Layout, folder: str) -> None:
    """A file of the manifest that is gone is named."""
    path = min((damaged_run.run / folder).iterdir())
    path.unlink()
    found = problems_of(damaged_run)
    assert Problem(damaged_run.relative(path), None, "is in the manifest but not on disk") in found


@pytest.mark.parametrize("name", ["shards/train-00099.tar", "rejected/x.tar.bak", "index/extra", "shards/sub/x.tar"])
def test_a_file_too_many_is_found(damaged_run: Layout, name: str) -> None:
    """A file that the manifest does not list is named, whatever it is called."""
    (damaged_run.run / name).parent.mkdir(exist_ok=True)
    (damaged_run.run / name).write_bytes(b"")
    assert only_problem(damaged_run) == f"{name}: is on disk but not in the manifest"


def test_a_manifest_cannot_point_out_of_the_run(damaged_run: Layout) -> None:
    """A path that leaves the run's folder is not followed."""
    outside = damaged_run.run.parent / "outside.tar"
    outside.write_bytes(b"")
    manifest = json.loads(damaged_run.manifest.read_text())
    manifest["shards"].append({"path": "../outside.tar", "sha256": _sha256(outside), "samples": 0})
    damaged_run.manifest.write_text(json.dumps(manifest))
    assert only_problem(damaged_run) == "../outside.tar: is in the manifest, and no path in the run"


@pytest.mark.parametrize("spoil", ["flipped", "deleted"])
def test_a_damaged_plan_part_is_found(damaged_run: Layout, spoil: str) -> None:
    """The planned samples themselves have a hash, in plan.json."""
    path = damaged_run.plan_part(0)
    path.unlink() if spoil == "deleted" else flip(path, 100)
    assert only_problem(damaged_run) == "plan/part-00000.parquet: is missing or differs from the hash in plan.json"


# Samples


def test_swapped_samples_are_found(damaged_run: Layout) -> None:
    """Two samples in each other's place break the order of the keys, even where the index was forged along."""
    forge(damaged_run, NAME, kept=lambda samples: [samples[1], samples[0], *samples[2:]])
    assert only_problem(damaged_run).endswith("is out of order or stands there twice")


def test_swapped_samples_are_found_by_their_place(damaged_run: Layout) -> None:
    """Where the index still says where they were, both are named."""
    forge(damaged_run, NAME, kept=lambda samples: [samples[1], samples[0], *samples[2:]], index=False)
    assert sum("lies elsewhere than the index says" in str(problem) for problem in problems_of(damaged_run)) >= 2


def test_swapped_pictures_are_found(damaged_run: Layout) -> None:
    """The pictures of one sample under the key of another are not what plan and recipe give."""

    def swapped(samples: list[Sample]) -> list[Sample]:
        one, other, *rest = samples
        pictures = ("composite.jpg", "mask.png", "real.jpg")
        return [
            (one[0], {**one[1], **{name: other[1][name] for name in pictures}}),
            (other[0], {**other[1], **{name: one[1][name] for name in pictures}}),
            *rest,
        ]

    forge(damaged_run, NAME, kept=swapped)
    assert {problem.key for problem in problems_of(damaged_run)} == {
        key for key, _ in samples_of(damaged_run.shard(NAME))[:2]
    }


@pytest.mark.parametrize(
    "change",
    [{"strength": 0.5}, {"target": {"license": 1}}, {"split": "val"}, {"notes": {"subject_pixels": 1}}],
    ids=["strength", "license", "split", "notes"],
)
def test_an_edited_record_is_found(damaged_run: Layout, change: dict[str, Any]) -> None:
    """A record that says something else than the index is found, although the tar's hash was forged."""
    forge(damaged_run, NAME, kept=first(lambda sample: with_record(sample, **change)), index=False)
    # the member's length may change, and then the samples behind it lie elsewhere too
    assert any("the json member differs from the index" in str(problem) for problem in problems_of(damaged_run))


def test_an_added_field_is_found(damaged_run: Layout) -> None:
    """Every sample has the same fields: one that only this sample has is found, though the index cannot hold it."""

    def with_field(sample: Sample) -> Sample:
        return sample[0], {**sample[1], "json": json.dumps({**record_in(sample), "extra": 1}).encode()}

    before = samples_of(damaged_run.shard(NAME))[0]
    forge(damaged_run, NAME, kept=first(with_field), index=False)
    found = [problem for problem in problems_of(damaged_run) if problem.key == before[0]]
    assert any("the json member differs from the index" in problem.what for problem in found)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target", {"image_id": 1}),
        ("target", {"annotation_id": 1}),
        ("reference", {"annotation_id": 1}),
        ("reference", {"license": 1}),
        ("split", "val"),
    ],
    ids=str,
)
def test_a_record_that_differs_from_the_plan_is_found(damaged_run: Layout, field: str, value: Any) -> None:
    """A record forged in tar, index and manifest alike still is not what was planned."""
    forge(damaged_run, NAME, kept=first(lambda sample: with_record(sample, **{field: value})))
    assert any("the json member differs from the plan" in str(problem) for problem in problems_of(damaged_run))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"], ids=repr)
def test_a_record_that_is_no_json_is_found(damaged_run: Layout, content: bytes) -> None:
    """A json member that cannot be read is named with its sample."""
    before = forge(damaged_run, NAME, kept=first(lambda sample: with_member(sample, "json", content)), index=False)
    found = [problem for problem in problems_of(damaged_run) if problem.key == before[0][0]]
    assert any("the json member is" in problem.what for problem in found)


@pytest.mark.parametrize("name", ["composite.jpg", "mask.png", "real.jpg"])
def test_a_missing_member_is_found(damaged_run: Layout, name: str) -> None:
    """A sample without one of its pictures is named."""

    def without(sample: Sample) -> Sample:
        return sample[0], {member: content for member, content in sample[1].items() if member != name}

    forge(damaged_run, NAME, kept=first(without))
    assert "has members" in only_problem(damaged_run)


def test_a_member_too_many_is_found(damaged_run: Layout) -> None:
    """A member that the format does not know is named."""
    forge(damaged_run, NAME, kept=first(lambda sample: with_member(sample, "thumb.jpg", b"x")))
    assert "has members composite.jpg, json, mask.png, real.jpg, thumb.jpg" in only_problem(damaged_run)


@pytest.mark.parametrize("name", ["composite.jpg", "mask.png", "real.jpg"])
@pytest.mark.parametrize("content", [b"", b"no picture"], ids=["empty", "text"])
def test_a_picture_that_cannot_be_decoded_is_found(damaged_run: Layout, name: str, content: bytes) -> None:
    """Every picture is decoded."""
    forge(damaged_run, NAME, kept=first(lambda sample: with_member(sample, name, content)))
    assert only_problem(damaged_run).endswith("a picture cannot be decoded")


def _decoded(data: bytes) -> Any:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))


def _mask(sample: Sample) -> Any:
    return np.asarray(cv2.imdecode(np.frombuffer(sample[1]["mask.png"], np.uint8), cv2.IMREAD_UNCHANGED))


@pytest.mark.parametrize("name", ["composite.jpg", "real.jpg"])
def test_a_picture_of_another_size_is_found(damaged_run: Layout, name: str) -> None:
    """Pictures have the size that the plan promises."""

    def smaller(sample: Sample) -> Sample:
        return with_member(sample, name, encode_jpeg(_decoded(sample[1][name])[:-8]))

    forge(damaged_run, NAME, kept=first(smaller))
    assert "pictures are not all" in only_problem(damaged_run)


@pytest.mark.parametrize("change", ["dilated", "level", "inverted", "colour"])
def test_a_wrong_mask_is_found(damaged_run: Layout, change: str) -> None:
    """A mask that is not the feathered polygon of plan and recipe is found, by one level of one pixel already."""

    def wrong(sample: Sample) -> Sample:
        mask = _mask(sample)
        if change == "dilated":
            mask = cv2.dilate(mask, np.ones((3, 3), np.uint8))
        elif change == "level":
            mask.flat[int(mask.argmax())] ^= 1
        elif change == "inverted":
            mask = 255 - mask
        else:
            mask = np.stack([mask] * 3, axis=-1)
        return with_member(sample, "mask.png", encode_png(mask))

    forge(damaged_run, NAME, kept=first(wrong))
    what = "pictures are not all" if change == "colour" else "mask.png is not the mask that plan and recipe give"
    assert any(what in str(problem) for problem in problems_of(damaged_run))


def test_a_changed_background_is_found_by_its_check_alone(damaged_run: Layout) -> None:
    """One block far from the subject re-encoded with other pixels: only the promise of the background finds it."""

    def changed(sample: Sample) -> Sample:
        composite, mask = _decoded(sample[1]["composite.jpg"]), _mask(sample)
        blocks = [
            (y, x)
            for y in range(0, mask.shape[0] - 7, 8)
            for x in range(0, mask.shape[1] - 7, 8)
            if not mask[y : y + 8, x : x + 8].any()
        ]
        y, x = blocks[-1]
        # the block is replaced in the JPEG's own pixels, which pass the encoder almost unchanged elsewhere
        real = _decoded(sample[1]["real.jpg"])
        composite[y : y + 8, x : x + 8] = 255 - real[y : y + 8, x : x + 8]
        return with_member(sample, "composite.jpg", encode_jpeg(composite))

    def forged(samples: list[Sample]) -> list[Sample]:
        sample = changed(samples[0])
        inside = _mask(sample) > 127
        real, composite = (_decoded(sample[1][name]).astype(float) for name in ("real.jpg", "composite.jpg"))
        effect = round(float(((real - composite) ** 2)[inside].sum() / (3 * inside.sum())), 4)
        return [with_record(sample, foreground_mse=effect), *samples[1:]]

    forge(damaged_run, NAME, kept=forged)
    assert only_problem(damaged_run).endswith("the background differs outside the touched 8x8 blocks")


def test_a_wrong_effect_is_found(damaged_run: Layout) -> None:
    """`foreground_mse` is measured again on the decoded pictures."""

    def wrong(sample: Sample) -> Sample:
        return with_record(sample, foreground_mse=record_in(sample)["foreground_mse"] + 0.0001)

    forge(damaged_run, NAME, kept=first(wrong))
    assert only_problem(damaged_run).endswith("foreground_mse is not that of the decoded pictures")


def test_a_recipe_that_cannot_be_read_is_found(damaged_run: Layout) -> None:
    """A recipe without its fields is named, and stops no other check."""

    def wrong(sample: Sample) -> Sample:
        return with_record(sample, recipe={"feather_px": 99.0})

    forge(damaged_run, NAME, kept=first(wrong))
    assert "the recipe cannot be read" in only_problem(damaged_run)


def test_a_sample_left_out_is_found(damaged_run: Layout) -> None:
    """A planned sample that is missing from tar, index and counts is found against the plan."""
    forge(damaged_run, NAME, kept=lambda samples: samples[1:])
    text = "\n".join(map(str, problems_of(damaged_run)))
    assert f"index/{NAME}.parquet: 8 samples were planned, 7" in text
    assert "manifest.json: planned 22, but counts" in text


def test_a_sample_of_the_index_that_is_in_no_tar_is_found(damaged_run: Layout) -> None:
    """A row without its sample is named."""
    before = forge(damaged_run, NAME, kept=lambda samples: samples[:-1], index=False)
    found = problems_of(damaged_run)
    assert Problem(f"shards/{NAME}.tar", before[-1][0], "is in the index but in no tar") in found


def test_a_foreign_sample_is_found(damaged_run: Layout) -> None:
    """A sample that was never planned is named."""
    key = "999999999999-999999999999-00"

    def foreign(samples: list[Sample]) -> list[Sample]:
        return [*samples, (key, samples[0][1])]

    forge(damaged_run, NAME, kept=foreign, index=False)
    assert any(problem.key == key and problem.what == "was never planned" for problem in problems_of(damaged_run))


def test_a_sample_twice_is_found(damaged_run: Layout) -> None:
    """A sample that stands in a tar twice is named, side by side or not."""
    forge(damaged_run, NAME, kept=lambda samples: [*samples[:2], samples[0], *samples[2:]], index=False)
    assert any("is out of order or stands there twice" in str(problem) for problem in problems_of(damaged_run))
    data = pack(*samples_of(damaged_run.rejected(NAME))[0])
    damaged_run.rejected(NAME).write_bytes(data * 2 + bytes(1024))
    assert any("stands there twice" in str(problem) for problem in problems_of(damaged_run))


def test_a_rejected_sample_among_the_kept_is_found(damaged_run: Layout) -> None:
    """A sample of status `rejected` that lies in `shards` is named."""

    def rejected(sample: Sample) -> Sample:
        return with_record(sample, status="rejected", reason="hue_flip", value=0.3, limit=0.2)

    forge(damaged_run, NAME, kept=first(rejected))
    assert any("has status 'rejected' but lies in shards/" in str(problem) for problem in problems_of(damaged_run))


# Index, counts, split


@pytest.mark.parametrize("column", ["offset", "size"])
def test_a_wrong_place_in_the_index_is_found(damaged_run: Layout, column: str) -> None:
    """An offset or size that is off by one block is found, although the index's hash was forged."""
    path = damaged_run.index(NAME)
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[2] += 512
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values, pa.int64())), path)
    forge_manifest(damaged_run)
    assert only_problem(damaged_run).endswith("lies elsewhere than the index says")


@pytest.mark.parametrize("spoil", ["text", "other columns", "fewer columns"])
def test_an_index_that_is_none_is_found(damaged_run: Layout, spoil: str) -> None:
    """An index that is no Parquet, or has other columns, is a problem and not a traceback."""
    path = damaged_run.index(NAME)
    if spoil == "text":
        path.write_bytes(b"no parquet")
    elif spoil == "other columns":
        pq.write_table(pa.table({"x": [1]}), path)
    else:
        pq.write_table(pq.read_table(path).select(["key", "status", "reason", "family"]), path)
    assert any(problem.path == f"index/{NAME}.parquet" for problem in problems_of(damaged_run))
    assert problems_of(damaged_run)[1:]


@pytest.mark.parametrize("column", ["target_image_id", "reference_image_id"])
def test_a_forged_split_leak_is_found(damaged_run: Layout, column: str) -> None:
    """A photograph of `val` in a sample of `train`, forged in tar, index and manifest alike, is named as a leak."""
    other = next(row["target_image_id"] for row in rows_of(damaged_run) if split_of(row["target_image_id"]) == "val")
    role = column.removesuffix("_image_id")
    forge(damaged_run, NAME, kept=first(lambda sample: with_record(sample, **{role: {"image_id": other}})))
    assert any(f"image {other} stands in" in str(problem) for problem in problems_of(damaged_run))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("planned", lambda counts: {**counts, "planned": counts["planned"] + 1}),
        ("kept", lambda counts: {**counts, "kept": counts["kept"] + 1, "rejected": counts["rejected"] - 1}),
        ("reasons", lambda counts: {**counts, "by_reason": {"clipping": counts["rejected"]}}),
        ("fewer", lambda counts: {**counts, "by_reason": {}}),
        ("families", lambda counts: {**counts, "by_family": {"mkl": {"kept": 22, "rejected": 0}}}),
    ],
)
def test_wrong_counts_in_the_manifest_are_found(
    damaged_run: Layout, name: str, change: Callable[[dict[str, Any]], Any]
) -> None:
    """Every number of the manifest is counted again from the index."""
    manifest = json.loads(damaged_run.manifest.read_text())
    manifest["counts"] = change(manifest["counts"])
    damaged_run.manifest.write_text(json.dumps(manifest))
    assert {problem.path for problem in problems_of(damaged_run)} == {"manifest.json"}, name


@pytest.mark.parametrize("part", ["selection", "settings", "code"])
def test_a_manifest_that_differs_from_the_plan_is_found(damaged_run: Layout, part: str) -> None:
    """Selection, settings and code of the manifest are those of the plan."""
    manifest = json.loads(damaged_run.manifest.read_text())
    manifest[part] = {**manifest[part], "images": 1, "seed": 5, "hcoco": "9"}
    damaged_run.manifest.write_text(json.dumps(manifest))
    assert only_problem(damaged_run) == f"manifest.json: {part} is not that of the plan"


@pytest.mark.parametrize("shards", [None, 5, [1], [{"path": 1}], [{"path": "shards/train-00000.tar"}]], ids=repr)
def test_a_manifest_of_another_shape_is_a_bad_request(damaged_run: Layout, shards: Any) -> None:
    """A manifest whose list of files cannot be read is one line that says how to make it anew, no traceback."""
    manifest = json.loads(damaged_run.manifest.read_text())
    damaged_run.manifest.write_text(json.dumps({**manifest, "shards": shards}))
    with pytest.raises(BadRequest, match="is no manifest of hcoco; run the same build again"):
        problems_of(damaged_run)


def test_an_unfinished_run_is_a_bad_request(damaged_run: Layout) -> None:
    """A run without manifest is not verified but finished first."""
    damaged_run.manifest.unlink()
    with pytest.raises(BadRequest, match="is not finished"):
        problems_of(damaged_run)


def test_a_run_extended_but_not_finished_is_told(damaged_run: Layout) -> None:
    """A plan with more shards than were made: the missing ones are named."""
    plan = json.loads(damaged_run.plan.read_text())
    plan["shards"].append({**plan["shards"][-1], "name": "train-00009"})
    damaged_run.plan.write_text(json.dumps(plan))
    assert any(problem.path == "index/train-00009.parquet" for problem in problems_of(damaged_run))


def test_a_shard_full_of_problems_is_cut_short(damaged_run: Layout) -> None:
    """A shard of which all is wrong prints a screenful, and says that there is more."""
    data = b"".join(pack(f"{number:04d}", {"json": b"{}"}) for number in range(PROBLEMS_PER_SHARD + 20))
    damaged_run.shard(NAME).write_bytes(data + bytes(1024))
    found = verify_shard(damaged_run.run, NAME)
    assert len(found) == PROBLEMS_PER_SHARD + 1
    assert found[-1].what == "more problems in this shard are not listed"
