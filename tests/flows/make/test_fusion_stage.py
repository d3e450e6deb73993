"""The stage fusion of a build: planned, made, judged, proved, made again, extended."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.coco.select import split_of
from flows.errors import BadRequest
from flows.make import shard as shard_module
from flows.make.compose import encode_jpeg, encode_png
from flows.make.compose_fusion import compose_fusion, draw_composition, open_stock
from flows.make.decide import decide
from flows.make.judge import judge
from flows.make.plan import plan_run, read_plan, read_planned
from flows.make.plan_fusion import FIRST_VARIANT
from flows.make.remake import remake
from flows.make.repair import repair_run
from flows.make.run import finish_run, left_to_make
from flows.make.shard import make_shard
from flows.make.verify import Problem, verify_run
from flows.runners import LocalRunner
from flows.store.decisions import Named
from flows.store.layout import Layout
from flows.store.lock import only_build
from flows.store.manifest import read_manifest
from flows.store.read import read_tar
from flows.store.record import FIELDS
from realism.fusion_checkpoint import load_fusion
from tests.conftest import save_instances, write_coco
from tests.flows.make.building import build_in, differing, hashes, make_left, plan_in, rows_of, settings_for
from tests.flows.make.forging import Sample, flip, forge, record_in, with_member, with_record
from tests.flows.make.fusing import SHAPE, Grey, fusing, save_untrained
from tests.flows.make.gating import save_untrained as save_gate


@pytest.fixture
def copied(fusion_run: Layout, tmp_path: Path) -> Layout:
    """Return a copy of the run that a test may damage."""
    shutil.copytree(fusion_run.run, tmp_path / "run")
    return Layout(tmp_path / "run")


def decoded(data: bytes, flags: int = cv2.IMREAD_COLOR_RGB) -> Any:
    """Decode a member."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def problems_of(layout: Layout) -> list[Problem]:
    """Return all that is wrong with a run."""
    return list(verify_run(layout))


def samples_of(layout: Layout) -> list[Any]:
    """Return all samples of a run."""
    tars = [*sorted((layout.run / "fusion").glob("*.tar")), *sorted((layout.run / "rejected").glob("fusion-*.tar"))]
    return [sample for tar in tars for sample in read_tar(tar)]


def test_a_run_keeps_every_promise(fusion_run: Layout) -> None:
    """Every check of `verify` passes, and the counts add up, over all and by stage."""
    assert list(verify_run(fusion_run)) == []
    counts = read_manifest(fusion_run)["counts"]
    assert counts["planned"] == counts["kept"] + counts["rejected"] == 12
    assert counts["by_stage"] == {"fusion": {name: counts[name] for name in ("planned", "kept", "rejected")}}
    assert set(counts["by_family"]) == {"easy", "hard"}


def test_members_and_fields_are_those_of_the_format(fusion_run: Layout) -> None:
    """Pictures of one size, masks of 8 bits, the fields of every sample, and no person in a background."""
    for sample in samples_of(fusion_run):
        assert list(sample.members) == [
            *("alpha.png", "background.jpg", "composite.jpg", "foreground.jpg", "json", "mask.png")
        ]
        record = sample.record
        assert list(record) == list(FIELDS)
        assert (record["stage"], record["family"] in {"easy", "hard"}) == ("fusion", True)
        assert record["background"]["annotation_id"] is None
        assert record["target"]["image_id"] is record["reference"]["image_id"] is None
        assert 0 <= record["difficulty"]["total"] <= 1
        shapes = {decoded(sample.members[f"{name}.jpg"]).shape for name in ("foreground", "background", "composite")}
        masks = [decoded(sample.members[f"{name}.png"], cv2.IMREAD_UNCHANGED) for name in ("mask", "alpha")]
        assert shapes == {(*masks[0].shape, 3)} == {(*masks[1].shape, 3)}
        assert max(masks[0].shape) <= 160


def test_a_hard_sample_names_its_parents(fusion_run: Layout, fuser: Path) -> None:
    """It names the network and the scene it was laid into first; an easy one has neither."""
    digest = load_fusion(fuser).digest
    assert load_fusion(fusion_run.fuser).digest == digest
    for row in rows_of(fusion_run):
        hard = row["family"] == "hard"
        assert row["model"] == (digest if hard else None)
        assert (row["first_background_image_id"] is not None) == hard
        used = [row[f"{role}_image_id"] for role in ("foreground", "background", "first_background")]
        assert len({image_id for image_id in used if image_id}) == (3 if hard else 2)


def test_every_photograph_is_of_the_samples_split(fusion_run: Layout) -> None:
    """Subject and both backgrounds stand on one side."""
    for row in rows_of(fusion_run):
        for role in ("foreground", "background", "first_background"):
            assert row[f"{role}_image_id"] is None or split_of(row[f"{role}_image_id"]) == row["split"]


def test_keys_of_the_stages_differ(fusion_run: Layout) -> None:
    """Variants of fusion have the numbers from 50 on, so that a key names one sample of a run."""
    assert {row["key"][-2:] for row in rows_of(fusion_run)} == {str(FIRST_VARIANT)}


def test_a_hard_foreground_is_the_network_s_picture(fusion_run: Layout) -> None:
    """Its surroundings are the first background; an easy one's are the subject's photograph."""
    plan = read_plan(fusion_run)
    row = next(row for row in read_planned(fusion_run, plan.shards[0]) if row["family"] == "hard")
    stock = open_stock(fusion_run, plan)
    made = compose_fusion(row, stock, recipe=draw_composition(row, seed=plan.seed))
    easy = {**row, "family": "easy"}
    plain = compose_fusion(easy, stock, recipe=draw_composition(easy, seed=plan.seed))
    assert made.members["composite.jpg"] == plain.members["composite.jpg"]
    assert made.members["mask.png"] == plain.members["mask.png"]
    assert made.members["foreground.jpg"] != plain.members["foreground.jpg"]
    assert (made.model is None, plain.model is None) == (False, True)


@pytest.mark.slow
def test_workers_do_not_change_a_byte(fusion_run: Layout, many_coco: Path, fuser: Path, tmp_path: Path) -> None:
    """Planned and made by two processes it is the run that one process made, with a cold cache of mattes."""
    with LocalRunner(2) as runner, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HCOCO_CACHE", str(tmp_path / "cold"))
        planned = plan_run(settings_for(many_coco, tmp_path / "two", **fusing(fuser)), over=runner.map)
        with only_build(planned.layout):
            names = [shard.name for shard in left_to_make(planned.layout, planned.plan)]
            list(runner.each((make_shard, planned.layout.run, name) for name in reversed(names)))
            finish_run(planned.layout, planned.plan)
    here, there = hashes(planned.layout), hashes(fusion_run)
    assert differing(here, there) in ([], ["manifest.json"])  # the manifest names the checkpoint's path
    assert [shard.name for shard in planned.plan.shards] == [shard.name for shard in read_plan(fusion_run).shards]


def test_one_sample_made_again_is_the_same(fusion_run: Layout) -> None:
    """Of either kind, alone, byte by byte."""
    for family in ("easy", "hard"):
        key = next(row["key"] for row in rows_of(fusion_run) if row["family"] == family)
        remade = remake(fusion_run.run, key)
        assert remade.same, remade.differing


def test_more_samples_keep_what_is_there(many_coco: Path, fuser: Path, tmp_path: Path) -> None:
    """A run extended from 5 to 12 has the 5 unchanged, and is as proved as any."""
    few = build_in(many_coco, tmp_path, **fusing(fuser, samples=5))
    before = {path: digest for path, digest in hashes(few).items() if path != "manifest.json"}
    more = build_in(many_coco, tmp_path, **fusing(fuser, samples=12))
    after = hashes(more)
    assert before.items() <= after.items()
    assert read_manifest(more)["counts"]["planned"] == 12
    assert list(verify_run(more)) == []


def test_a_next_variant_is_of_the_other_kind(many_coco: Path, fuser: Path, tmp_path: Path) -> None:
    """The same person, easy once and hard once, in another place."""
    planned = plan_in(many_coco, tmp_path, **fusing(fuser, samples=None, variants=2))
    rows = [row for shard in planned.plan.shards for row in read_planned(planned.layout, shard)]
    kinds: dict[str, dict[int, str]] = {}
    for row in rows:
        kinds.setdefault(row["key"][:-3], {})[row["variant"]] = row["family"]
    both = [by_variant for by_variant in kinds.values() if len(by_variant) == 2]
    assert both
    assert all(by_variant[0] != by_variant[1] for by_variant in both)


def test_both_stages_stand_side_by_side(many_coco: Path, fuser: Path, tmp_path: Path) -> None:
    """`samples` bounds each; shards, keys and counts are apart, and the edits are those of a build of edits alone."""
    both = build_in(many_coco, tmp_path / "both", **fusing(fuser, stages="harmonization,fusion", samples=6))
    alone = build_in(many_coco, tmp_path / "alone", samples=6)
    assert list(verify_run(both)) == []
    assert {name: here["planned"] for name, here in read_manifest(both)["counts"]["by_stage"].items()} == {
        "harmonization": 6,
        "fusion": 6,
    }
    edits = {path: digest for path, digest in hashes(alone).items() if path != "manifest.json"}
    assert edits.items() <= hashes(both).items()
    assert len({row["key"] for row in rows_of(both)}) == 12


def test_who_was_not_taken_is_counted(fusion_run: Layout) -> None:
    """Everybody who passed the selection is among the easiest, harder, dropped or waiting."""
    fusion = read_manifest(fusion_run)["selection"]["fusion"]
    left = sum(fusion["dropped_by_reason"].values())
    assert fusion["people"] == fusion["easy"] + fusion["harder"] + fusion["waiting"] + left
    assert fusion["easy"] >= 12


def test_a_person_cut_by_the_frame_is_counted(fuser: Path, tmp_path: Path) -> None:
    """`border` stands in the selection; with nobody left a line says so."""
    instances = write_coco(tmp_path / "coco", images=6, people=1)
    for annotation in instances["annotations"]:
        annotation["segmentation"] = [[0, 20, 60, 20, 60, 100, 0, 100]]
    save_instances(tmp_path / "coco", instances)
    with pytest.raises(BadRequest, match=r"nobody could be brought into another photograph: .*border 6"):
        plan_in(tmp_path / "coco", tmp_path / "out", **fusing(fuser))


def test_one_photograph_alone_is_one_line(fuser: Path, tmp_path: Path) -> None:
    """There is nothing to bring its person into."""
    write_coco(tmp_path / "coco", images=1, people=1)
    with pytest.raises(BadRequest, match="1 found no place") as caught:
        plan_in(tmp_path / "coco", tmp_path / "out", **fusing(fuser))
    assert "\n" not in str(caught.value)


def test_a_split_of_two_photographs_has_easy_samples_only(fuser: Path, tmp_path: Path) -> None:
    """A hard one needs two backgrounds."""
    first = next(number for number in range(1, 500) if split_of(number) == split_of(number + 1) == "train")
    write_coco(tmp_path / "coco", images=2, people=1, first_id=first)
    planned = plan_in(tmp_path / "coco", tmp_path / "out", **fusing(fuser, easy_share=1))
    rows = [row for shard in planned.plan.shards for row in read_planned(planned.layout, shard)]
    assert Counter(row["family"] for row in rows) == {"easy": 2}


def test_edits_are_made_where_nobody_can_be_fused(tiny_coco: Path, fuser: Path, tmp_path: Path) -> None:
    """Two people fill each tiny photograph, so nobody finds a place; the other stage goes on."""
    planned = plan_in(tiny_coco, tmp_path, **fusing(fuser, stages="harmonization,fusion", samples=4))
    assert {shard.stage for shard in planned.plan.shards} == {"harmonization"}
    assert planned.note is not None
    assert "0 placements of easy people were found" in planned.note


def test_another_network_is_refused(many_coco: Path, tmp_path: Path) -> None:
    """A realism checkpoint is no fusion network; a missing file is none either. One line each."""
    gate = save_gate(tmp_path / "gate")
    for checkpoint, what in ((gate, "two_stream_fusion"), (tmp_path / "missing.pt", "cannot be read")):
        with pytest.raises(BadRequest, match=f"setting fusion_checkpoint: .*{what}"):
            plan_in(many_coco, tmp_path / "out", **fusing(checkpoint))
    assert not (tmp_path / "out" / "run").exists()


def test_a_network_that_answers_no_numbers_is_a_reason(many_coco: Path, tmp_path: Path) -> None:
    """Its hard samples are rejected with pictures and a reason; the easy ones are made."""
    broken = save_untrained(tmp_path / "broken", overflow=True)
    layout = build_in(many_coco, tmp_path, **fusing(broken, samples=4))
    assert list(verify_run(layout)) == []
    by_kind = {(row["family"], row["reason"]) for row in rows_of(layout)}
    assert by_kind == {("easy", None), ("hard", "subject_lost")}
    assert all(row["value"] == 1 for row in rows_of(layout) if row["reason"])


def test_a_grey_picture_is_a_reason(fusion_run: Layout) -> None:
    """A network that paints grey loses the subject and the background."""
    plan = read_plan(fusion_run)
    row = next(row for row in read_planned(fusion_run, plan.shards[0]) if row["family"] == "hard")
    stock = replace(open_stock(fusion_run, plan), model=Grey(SHAPE))
    made = compose_fusion(row, stock, recipe=draw_composition(row, seed=plan.seed))
    assert judge(made.gates).reason == "background_changed"


def test_a_photograph_that_is_gone_is_a_reason(many_coco: Path, fuser: Path, tmp_path: Path) -> None:
    """Background or first background: the sample is unreadable, and the rest of the shard is made."""
    shutil.copytree(many_coco, tmp_path / "coco")
    planned = plan_in(tmp_path / "coco", tmp_path / "out", **fusing(fuser))
    row = next(
        row for shard in planned.plan.shards for row in read_planned(planned.layout, shard) if row["family"] == "hard"
    )
    (tmp_path / "coco" / "val2017" / row["first_background_file_name"]).unlink()
    finished = make_left(planned)
    reasons = {each["key"]: each["reason"] for each in rows_of(finished.layout)}
    assert reasons[row["key"]] == "unreadable"
    assert set(reasons.values()) > {"unreadable"}
    assert list(verify_run(finished.layout)) == []


def test_a_crash_in_any_shard_loses_nothing(
    many_coco: Path, fuser: Path, fusion_run: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted between the stages or within one, the same build ends in the same bytes."""
    planned = plan_in(many_coco, tmp_path, **fusing(fuser))
    write, calls = shard_module.write_samples, []

    def stop(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(shard_module, "write_samples", stop)
    with pytest.raises(KeyboardInterrupt):
        make_left(planned)
    monkeypatch.setattr(shard_module, "write_samples", write)
    assert len(left_to_make(planned.layout, planned.plan)) == len(planned.plan.shards) - 1
    make_left(planned)
    assert differing(hashes(planned.layout), hashes(fusion_run)) == []


def test_a_changed_background_is_found(copied: Layout) -> None:
    """`verify` decodes every kept pair: a background that differs away from the person is named."""
    name = next(shard.name for shard in read_plan(copied).shards)

    def spoil(samples: list[Sample]) -> list[Sample]:
        members = samples[0][1]
        picture = decoded(members["background.jpg"]).copy()
        assert not decoded(members["alpha.png"], cv2.IMREAD_UNCHANGED)[:8, :8].any()
        picture[:8, :8] = 255 - picture[:8, :8]
        return [with_member(samples[0], "background.jpg", encode_jpeg(picture)), *samples[1:]]

    forge(copied, name, kept=spoil)
    assert any("the background differs outside the touched 8x8 blocks" in str(each) for each in problems_of(copied))


@pytest.mark.parametrize(
    ("member", "what"),
    [
        ("mask.png", "mask.png is not the mask that plan and recipe give"),
        ("alpha.png", "alpha.png reaches farther from the mask than a matte may"),
    ],
)
def test_a_wrong_mask_is_found(copied: Layout, member: str, what: str) -> None:
    """The polygon that the network gets is that of plan and recipe, and the matte stays near it."""

    def spoil(samples: list[Sample]) -> list[Sample]:
        mask = decoded(samples[0][1][member], cv2.IMREAD_UNCHANGED).copy()
        mask[0, 0] = 255
        return [with_member(samples[0], member, encode_png(mask)), *samples[1:]]

    forge(copied, read_plan(copied).shards[0].name, kept=spoil)
    assert any(what in str(each) for each in problems_of(copied))


def test_a_changed_recipe_is_found(copied: Layout) -> None:
    """Drawn numbers follow from seed and key; placed ones stand in the plan."""

    def spoil(samples: list[Sample]) -> list[Sample]:
        recipe = record_in(samples[0])["recipe"]
        return [with_record(samples[0], recipe={**recipe, "spoil_seed": 1}), *samples[1:]]

    forge(copied, read_plan(copied).shards[0].name, kept=spoil)
    assert any("the recipe is not what plan and seed give" in str(each) for each in problems_of(copied))


def test_a_damaged_network_of_the_run_is_found(copied: Layout) -> None:
    """The run's copy is part of what is proved; making a shard with it is refused in one line."""
    copied.fuser.write_bytes(copied.fuser.read_bytes()[:-7])
    assert any(each.path == "fuser/checkpoint.pt" for each in problems_of(copied))
    name = read_plan(copied).shards[0].name
    copied.done(name).unlink()
    with pytest.raises(BadRequest):
        make_shard(copied.run, name)


def test_a_lost_shard_is_repaired_to_the_same_bytes(copied: Layout, fusion_run: Layout) -> None:
    """`repair` makes a fusion shard anew from plan, photographs and the run's network."""
    shard = read_plan(copied).shards[0]
    copied.shard(shard.name).unlink()
    with only_build(copied):
        mended = list(repair_run(copied))
    assert [(each.what, each.how) for each in mended] == [(shard.name, "remade")]
    assert differing(hashes(copied), hashes(fusion_run)) == []


@pytest.fixture(scope="module")
def both_stages(many_coco: Path, fuser: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a run of both stages that was planned and made at once; do not write into it."""
    return build_in(many_coco, tmp_path_factory.mktemp("both"), **of_both(fuser, samples=8, variants=2))


def of_both(fuser: Path, **more: Any) -> dict[str, Any]:
    """Return settings of a build of both stages."""
    return fusing(fuser, stages="harmonization,fusion", shard_size=3, **more)


@pytest.mark.parametrize(
    "harm",
    [lambda path: os.truncate(path, path.stat().st_size // 2), lambda path: flip(path, 700)],
    ids=["cut", "flipped"],
)
@pytest.mark.parametrize("tars", ["fusion/*", "rejected/fusion-*", "shards/*"])
def test_only_the_damaged_shard_of_a_stage_is_made_again(
    both_stages: Layout, tmp_path: Path, tars: str, harm: Callable[[Path], None]
) -> None:
    """Found by `verify`, mended by `repair` to the same bytes; of the other shards, whatever stage, no file is touched."""
    shutil.copytree(both_stages.run, tmp_path / "run")
    layout = Layout(tmp_path / "run")
    with only_build(layout):
        decide(layout, Named(ban=frozenset({min(row["key"] for row in rows_of(layout) if row["stage"] == "fusion")})))
    whole, tar = hashes(layout), min(layout.run.glob(tars))
    name = f"fusion-{tar.stem}" if tar.parent.name == "fusion" else tar.stem
    others = [path for path in layout.run.rglob("*-*.*") if path.stem not in {name, name.removeprefix("fusion-")}]
    before = {path: path.stat().st_mtime_ns for path in others}
    harm(tar)
    assert layout.relative(tar) in {problem.path for problem in problems_of(layout)}
    with only_build(layout):
        mended = list(repair_run(layout))
    assert [(each.what, each.how) for each in mended] == [(name, "remade")]
    assert differing(hashes(layout), whole) == []
    assert problems_of(layout) == []
    assert {path: path.stat().st_mtime_ns for path in others} == before


def test_both_stages_are_extended_without_touching_a_byte(
    many_coco: Path, fuser: Path, both_stages: Layout, tmp_path: Path
) -> None:
    """By samples, then by variants: every shard that was there keeps its bytes, and the samples are those of one plan."""
    before: dict[str, str] = {}
    for size in ({"samples": 3}, {"samples": 4}, {"samples": 8, "variants": 2}):
        layout = build_in(many_coco, tmp_path, **of_both(fuser, **size))
        after = {path: digest for path, digest in hashes(layout).items() if path != "manifest.json"}
        assert before.items() < after.items()
        assert problems_of(layout) == []
        before = after
    assert read_manifest(layout)["counts"]["by_stage"] == read_manifest(both_stages)["counts"]["by_stage"]
    assert [row["key"] for row in rows_of(layout)] == [row["key"] for row in rows_of(both_stages)]


def test_a_ban_moves_a_sample(copied: Layout) -> None:
    """Decisions know the stage's shards: kept becomes rejected, and every check still passes."""
    key = next(row["key"] for row in rows_of(copied) if row["status"] == "kept")
    with only_build(copied):
        change = decide(copied, Named(ban=frozenset({key})))
    assert change.dropped == 1
    assert next(row for row in rows_of(copied) if row["key"] == key)["tar"].startswith("rejected/fusion-")
    assert list(verify_run(copied)) == []


def test_the_realism_gate_looks_at_both_kinds(many_coco: Path, fuser: Path, tmp_path: Path) -> None:
    """Every sample with pictures has a score, which `verify` finds again from the members."""
    gate = save_gate(tmp_path / "gate")
    layout = build_in(many_coco, tmp_path, **fusing(fuser, samples=6, gate="on", gate_checkpoint=str(gate)))
    assert list(verify_run(layout)) == []
    assert all(row["score"] is not None for row in rows_of(layout))
    for family in ("easy", "hard"):
        assert remake(layout.run, next(row["key"] for row in rows_of(layout) if row["family"] == family)).same


def test_the_plan_holds_what_a_worker_needs(fusion_run: Layout) -> None:
    """A row group a shard, without any outline of a background."""
    plan = read_plan(fusion_run)
    for shard in plan.shards:
        rows = read_planned(fusion_run, shard)
        assert len(rows) == shard.planned
        assert all(row["background_segmentation"] is None and row["foreground_segmentation"] for row in rows)
    assert pq.read_schema(fusion_run.plan_part(0)).names.count("place_scale") == 1
