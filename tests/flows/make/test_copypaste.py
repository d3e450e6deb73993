"""The stage copypaste of a build: planned, made, judged, proved, made again, extended."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from flows.coco.select import split_of
from flows.make.decide import decide
from flows.make.paste import FIRST_VARIANT, Paste, draw_paste, read_paste, region_of
from flows.make.plan import plan_run, read_plan, read_planned
from flows.make.remake import remake
from flows.make.repair import repair_run
from flows.make.run import finish_run, left_to_make
from flows.make.shard import make_shard
from flows.make.verify import verify_run
from flows.runners import LocalRunner
from flows.settings import DEFAULT_FAMILIES, BuildSettings
from flows.store.decisions import Named
from flows.store.layout import Layout
from flows.store.lock import only_build
from flows.store.manifest import read_manifest
from flows.store.read import load_samples, read_tar
from flows.store.record import FIELDS
from tests.flows.make.building import build_in, differing, hashes, make_left, plan_in, rows_of, settings_for
from tests.flows.make.forging import forge, with_member, with_record
from tests.flows.make.fusing import fusing
from tests.flows.make.gating import save_untrained as save_gate

MEMBERS = ["composite.jpg", "json", "mask.png", "real.jpg", "source.jpg"]
SHARD = "copypaste-train-00000"
PASTING: dict[str, Any] = {"stages": "copypaste", "samples": 12}


@pytest.fixture(scope="module")
def pasted(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a finished run of 12 copy-paste pairs; do not write into it."""
    return build_in(tiny_coco, tmp_path_factory.mktemp("paste"), **PASTING)


@pytest.fixture
def copied(pasted: Layout, tmp_path: Path) -> Layout:
    """Return a copy of the run that a test may damage."""
    shutil.copytree(pasted.run, tmp_path / "run")
    return Layout(tmp_path / "run")


def samples_of(layout: Layout) -> list[Any]:
    """Return all samples of a run that have pictures."""
    tars = [*sorted((layout.run / "copypaste").glob("*.tar")), *sorted((layout.run / "rejected").glob("*.tar"))]
    return [sample for tar in tars for sample in read_tar(tar) if "real.jpg" in sample.members]


def decoded(data: bytes, flags: int = cv2.IMREAD_COLOR_RGB) -> Any:
    """Decode a member."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def test_a_run_keeps_every_promise(pasted: Layout) -> None:
    """Every check of `verify` passes, and the counts add up, over all and by stage."""
    assert list(verify_run(pasted)) == []
    counts = read_manifest(pasted)["counts"]
    assert counts["planned"] == counts["kept"] + counts["rejected"] == 12
    assert counts["by_stage"] == {"copypaste": {name: counts[name] for name in ("planned", "kept", "rejected")}}
    assert counts["kept"] > 0


def test_members_and_fields_are_those_of_the_format(pasted: Layout) -> None:
    """The pictures have one size, the region is hard, and every field of a record is there."""
    for sample in samples_of(pasted):
        assert list(sample.members) == MEMBERS
        record = sample.record
        assert list(record) == list(FIELDS)
        assert record["stage"] == "copypaste"
        assert record["reference"]["annotation_id"] is record["foreground"]["image_id"] is None
        assert record["recipe"]["feather_px"] == 0
        region = decoded(sample.members["mask.png"], cv2.IMREAD_UNCHANGED)
        assert set(np.unique(region)) == {0, 255}
        assert {decoded(sample.members[name]).shape for name in MEMBERS if name.endswith("jpg")} == {(*region.shape, 3)}


def test_the_composite_is_the_source_inside_and_the_photograph_outside(pasted: Layout) -> None:
    """Blocks that lie in the region whole decode as the source's do, those without it as the photograph's."""
    for sample in samples_of(pasted):
        real, source, composite = (decoded(sample.members[f"{name}.jpg"]) for name in ("real", "source", "composite"))
        region = decoded(sample.members["mask.png"], cv2.IMREAD_UNCHANGED)
        inside = outside = 0
        for y in range(0, region.shape[0] - 7, 8):
            for x in range(0, region.shape[1] - 7, 8):
                block = np.s_[y : y + 8, x : x + 8]
                if region[block].all():
                    inside += 1
                    assert np.array_equal(composite[block], source[block])
                elif not region[block].any():
                    outside += 1
                    assert np.array_equal(composite[block], real[block])
        assert min(inside, outside) > 0


def test_the_light_is_on_the_whole_photograph(pasted: Layout) -> None:
    """The source differs from the photograph outside the region too: what is pasted is a cut of another light."""
    for sample in samples_of(pasted):
        real, source = (decoded(sample.members[f"{name}.jpg"]).astype(int) for name in ("real", "source"))
        outside = decoded(sample.members["mask.png"], cv2.IMREAD_UNCHANGED) == 0
        assert np.abs(real - source)[outside].mean() > 1


def test_some_regions_are_spoilt_and_some_are_the_polygon(pasted: Layout) -> None:
    """About six in ten take surroundings along or leave some of the person; the others are the annotation's."""
    seeds = [row["recipe_spoil_seed"] for row in rows_of(pasted)]
    assert 2 <= sum(seed is None for seed in seeds) <= 9
    mask = np.zeros((60, 80), np.bool_)
    mask[20:50, 20:60] = True
    light = draw_paste("a", seed=0, families=DEFAULT_FAMILIES).light
    assert np.array_equal(region_of(mask, Paste(light, None)), mask * np.uint8(255))
    assert not np.array_equal(region_of(mask, Paste(light, 3)), mask * np.uint8(255))


def test_a_region_that_would_vanish_is_the_polygon() -> None:
    """A speck that shrinking takes away stays as annotated: something is always pasted."""
    speck = np.zeros((40, 40), np.bool_)
    speck[20, 20] = True
    light = draw_paste("a", seed=0, families=DEFAULT_FAMILIES).light
    assert all(region_of(speck, Paste(light, seed)).any() for seed in range(12))


def test_photographs_and_keys_are_of_their_own(pasted: Layout) -> None:
    """Both photographs are of the sample's split, and the variants have the numbers from 100 on."""
    for row in rows_of(pasted):
        assert row["target_image_id"] != row["reference_image_id"]
        assert {split_of(row[f"{role}_image_id"]) for role in ("target", "reference")} == {row["split"]}
        assert row["key"].endswith(f"-{FIRST_VARIANT}")


def test_it_is_not_made_unless_asked_for() -> None:
    """The default stages are those that were there before."""
    assert BuildSettings().stages == ("harmonization", "fusion")


def test_a_sample_is_remade_to_the_same_bytes(pasted: Layout) -> None:
    """Alone, from its recipe, kept or rejected."""
    for row in rows_of(pasted)[:4]:
        assert remake(pasted.run, row["key"]).same


def test_a_recipe_is_read_back_as_it_was_drawn(pasted: Layout) -> None:
    """The record holds all of it."""
    plan = read_plan(pasted)
    for sample in samples_of(pasted):
        assert read_paste(sample.record) == draw_paste(sample.key, seed=plan.seed, families=plan.families)


@pytest.mark.slow
def test_workers_do_not_change_a_byte(pasted: Layout, tiny_coco: Path, tmp_path: Path) -> None:
    """Planned and made by two processes it is the run that one process made."""
    with LocalRunner(2) as runner:
        planned = plan_run(settings_for(tiny_coco, tmp_path / "two", **PASTING), over=runner.map)
        with only_build(planned.layout):
            names = [shard.name for shard in left_to_make(planned.layout, planned.plan)]
            list(runner.each((make_shard, planned.layout.run, name) for name in names))
            finish_run(planned.layout, planned.plan)
    assert differing(hashes(pasted), hashes(planned.layout)) == []
    assert (pasted.run / "copypaste" / "train-00000.tar").read_bytes() == (
        planned.layout.run / "copypaste" / "train-00000.tar"
    ).read_bytes()


def test_more_samples_extend_a_run(tiny_coco: Path, tmp_path: Path, pasted: Layout) -> None:
    """What was made before keeps its bytes."""
    first = build_in(tiny_coco, tmp_path, **{**PASTING, "samples": 8})
    kept = (first.run / "index" / "copypaste-train-00000.parquet").read_bytes()
    layout = make_left(plan_in(tiny_coco, tmp_path, **PASTING)).layout
    assert (layout.run / "index" / "copypaste-train-00000.parquet").read_bytes() == kept
    assert {row["key"] for row in rows_of(layout)} == {row["key"] for row in rows_of(pasted)}
    assert list(verify_run(layout)) == []


@pytest.mark.slow
def test_all_stages_share_a_run(many_coco: Path, fuser: Path, tmp_path: Path) -> None:
    """Keys differ, people are counted once, and everything is proved."""
    stages = {"stages": "harmonization,fusion,copypaste", "samples": 6}
    layout = build_in(many_coco, tmp_path, **fusing(fuser, **stages))
    rows = rows_of(layout)
    assert len({row["key"] for row in rows}) == len(rows) == 18
    assert {name: counts["planned"] for name, counts in read_manifest(layout)["counts"]["by_stage"].items()} == (
        dict.fromkeys(("copypaste", "fusion", "harmonization"), 6)
    )
    selection = read_manifest(layout)["selection"]
    dropped = sum(selection["dropped_by_reason"].values())
    assert selection["people"] == selection["subjects"] + dropped + selection["unvisited"]
    assert list(verify_run(layout)) == []


def test_a_gate_scores_the_composite(tiny_coco: Path, tmp_path: Path) -> None:
    """Every pair has a score, which `verify` gives it again and `remake` finds."""
    gate = save_gate(tmp_path / "gate")
    layout = build_in(tiny_coco, tmp_path, **{**PASTING, "samples": 4}, gate="on", gate_checkpoint=str(gate))
    assert all(row["score"] is not None for row in rows_of(layout))
    assert list(verify_run(layout)) == []
    assert remake(layout.run, rows_of(layout)[0]["key"]).same


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("mask.png", "mask.png is not the region that plan and recipe give"),
        ("source.jpg", "what was pasted differs from source.jpg inside the region's whole 8x8 blocks"),
        ("real.jpg", "the background differs outside the touched 8x8 blocks"),
        ("composite.jpg", "foreground_mse is not that of the decoded pictures"),
    ],
)
def test_a_changed_picture_is_found(copied: Layout, name: str, what: str) -> None:
    """Whatever is exchanged for a whole picture of the right size contradicts something."""

    def changed(sample: Any) -> Any:
        flags = cv2.IMREAD_UNCHANGED if name == "mask.png" else cv2.IMREAD_COLOR
        picture = decoded(sample[1][name], flags)
        return with_member(sample, name, cv2.imencode(name[-4:], 255 - picture)[1].tobytes())

    forge(copied, SHARD, kept=lambda samples: [changed(sample) for sample in samples])
    assert what in {problem.what for problem in verify_run(copied)}


def test_another_recipe_is_found(copied: Layout) -> None:
    """A spoil seed that was not drawn is told."""
    forge(copied, SHARD, kept=lambda samples: [with_record(sample, recipe={"spoil_seed": 7}) for sample in samples])
    assert "the recipe is not what plan and seed give" in {problem.what for problem in verify_run(copied)}


def test_a_gone_photograph_is_a_counted_sample(tiny_coco: Path, tmp_path: Path) -> None:
    """Its pairs have the reason `unreadable`, and the run is whole."""
    shutil.copytree(tiny_coco, tmp_path / "coco")
    planned = plan_in(tmp_path / "coco", tmp_path, **PASTING)
    row = read_planned(planned.layout, planned.plan.shards[0])[0]
    (tmp_path / "coco" / "tiny" / row["target_file_name"]).unlink()
    layout = make_left(planned).layout
    assert next(each for each in rows_of(layout) if each["key"] == row["key"])["reason"] == "unreadable"
    assert list(verify_run(layout)) == []


def test_damage_is_repaired_and_decisions_hold(copied: Layout, pasted: Layout) -> None:
    """A lost tar comes back with its bytes; a banned pair moves, and the run is whole."""
    copied.shard(SHARD).unlink()
    assert [mended.what for mended in repair_run(copied)][:1] == [SHARD]
    assert differing(hashes(pasted), hashes(copied)) == []
    key = next(row["key"] for row in rows_of(copied) if row["status"] == "kept")
    decide(copied, Named(ban=frozenset({key})))
    assert next(row["reason"] for row in rows_of(copied) if row["key"] == key) == "banned"
    assert list(verify_run(copied)) == []


def test_the_loader_gives_the_pairs(pasted: Layout) -> None:
    """Composite, region, photograph and source by name, as arrays of one size."""
    samples = list(load_samples(pasted.run, split="train", stage="copypaste"))
    assert samples
    for sample in samples:
        assert sample["source"].shape == sample["real"].shape == sample["composite"].shape == (*sample["mask"].shape, 3)
