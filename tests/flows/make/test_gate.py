from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import realism
from flows.errors import BadRequest
from flows.make import gate as gate_module
from flows.make.gate import (
    Gate,
    Wanted,
    ask_again,
    ask_gate,
    find_gate,
    keep_gate,
    load_gate,
    look_through,
    wanted_of,
)
from flows.make.judge import Opinion, judge
from flows.make.plan import Planned, read_plan, read_planned
from flows.make.remake import remake
from flows.make.run import Scorer, finish_run, make_one
from flows.make.shard import compose_shard, make_shard, read_done, score_shard
from flows.make.verify import verify_run
from flows.runners import LocalRunner
from flows.settings import parse_settings
from flows.store.layout import Layout
from flows.store.lock import only_build
from flows.store.read import read_sample
from realism.score import BATCH
from tests.flows.make.building import (
    WHOLE,
    build_in,
    differing,
    hashes,
    make_left,
    plan_in,
    rows_of,
    settings_for,
)
from tests.flows.make.forging import Sample, flip, forge, record_in, with_record
from tests.flows.make.gating import make_left_with, save_untrained

ROOT = Path(__file__).resolve().parents[3]
SEEN = 6
"""Photographs of the tiny folder that the tests' network claims to have learnt from: ids 1 to 6."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint that the tiny folder's composites get various scores from."""
    return save_untrained(tmp_path_factory.mktemp("checkpoint") / "mine", image_ids=range(1, SEEN + 1))


@pytest.fixture(scope="module")
def gated(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Layout:
    """Return a finished run with a gate at the median of its scores; do not write into it."""
    threshold = _median(build_in(tiny_coco, tmp_path_factory.mktemp("first"), **_asking(checkpoint)))
    return build_in(tiny_coco, tmp_path_factory.mktemp("gated"), **_asking(checkpoint, threshold))


@pytest.fixture
def copied(gated: Layout, tmp_path: Path) -> Layout:
    """Return a copy of that run, to be damaged."""
    shutil.copytree(gated.run, tmp_path / "run")
    return Layout(tmp_path / "run")


def _asking(checkpoint: Path, threshold: float | None = None) -> dict[str, Any]:
    return {**WHOLE, "gate": "on", "gate_checkpoint": str(checkpoint), "gate_threshold": threshold}


def _asked_of(layout: Layout, checkpoint: Path) -> dict[str, Any]:
    return _asking(checkpoint, _gate_of(layout).threshold)


def _median(layout: Layout) -> float:
    return float(np.median([row["score"] for row in rows_of(layout)]))


def _gate_of(layout: Layout) -> Gate:
    gate = read_plan(layout).gate
    assert gate is not None
    return gate


# what a sample gets


def test_every_made_sample_has_a_score(gated: Layout) -> None:
    """Kept and rejected alike carry score, threshold and whether the network learnt from their target."""
    gate = _gate_of(gated)
    rows = rows_of(gated)
    assert {row["status"] for row in rows} == {"kept", "rejected"}
    for row in rows:
        assert 0 <= row["score"] <= 1
        assert row["score"] == round(row["score"], 4) == row["gates_unnatural"]
        assert row["threshold"] == gate.threshold
        assert row["seen_by_gate"] == (row["target_image_id"] <= SEEN)


def test_the_gate_speaks_last(gated: Layout) -> None:
    """`unnatural` is the reason where no closed-form gate failed, with score and threshold; no other one hides it."""
    rows = rows_of(gated)
    assert {"unnatural", None} < {row["reason"] for row in rows}
    for row in rows:
        closed = judge({name.removeprefix("gates_"): row[name] for name in row if name.startswith("gates_")})
        low = row["score"] < row["threshold"]
        assert row["reason"] == (closed.reason or ("unnatural" if low else None))
        if row["reason"] == "unnatural":
            assert (row["value"], row["limit"]) == (row["score"], row["threshold"])


def test_a_score_is_that_of_the_stored_pictures(gated: Layout) -> None:
    """Whoever decodes composite and mask from the tar and asks the network gets the score, but for the last digit."""
    network = load_gate(gated, _gate_of(gated))
    for row in rows_of(gated):
        members = read_sample(gated.run / row["tar"], offset=row["offset"], size=row["size"]).members
        composite, alpha = (
            cv2.imdecode(np.frombuffer(members[name], np.uint8), flags)
            for name, flags in (("composite.jpg", cv2.IMREAD_COLOR_RGB), ("mask.png", cv2.IMREAD_UNCHANGED))
        )
        crop = realism.prepare(np.asarray(composite, np.uint8), np.asarray(alpha, np.uint8), side=32)
        assert realism.score_crops(network, crop[None])[0] == pytest.approx(row["score"], abs=0.0002)


@pytest.mark.parametrize("network", [None, "photographs", "sample"])
def test_a_score_does_not_depend_on_its_company(gated: Layout, tmp_path: Path, network: str | None) -> None:
    """A crop asked about again, with nothing around it but at its own place, has the very same score."""
    layout, gate = gated, _gate_of(gated)
    if network is not None:
        found = find_gate(Wanted(network, None, "cpu"))
        layout, gate = Layout(tmp_path), found.gate
        keep_gate(layout, found)
    crops = np.random.default_rng(4).integers(0, 256, (BATCH + 9, gate.side, gate.side, 4), np.uint8)
    crops[..., 3] = 0
    crops[:, 8:24, 8:24, 3] = 255
    together = ask_gate(layout, gate, crops, range(len(crops)), device="cpu")
    for place in (0, 1, 9, BATCH - 1, BATCH, BATCH + 8):
        asked = {"place": place, "image_id": place, "device": "cpu", "before": None}
        assert ask_again(layout, gate, crops[place], **asked) == together[place]


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_threshold_decides(
    gated: Layout, checkpoint: Path, tiny_coco: Path, tmp_path: Path, threshold: float
) -> None:
    """At 0 the gate drops nothing, at 1 everything that is not surely natural; the scores stay what they are."""
    rows = rows_of(build_in(tiny_coco, tmp_path, **_asking(checkpoint, threshold)))
    assert [row["score"] for row in rows] == [row["score"] for row in rows_of(gated)]
    passing = [row for row in rows if row["reason"] in {None, "unnatural"}]
    assert all((row["reason"] == "unnatural") == (row["score"] < threshold) for row in passing)
    assert any(row["reason"] == "unnatural" for row in rows) == (threshold > 0)


@pytest.mark.parametrize("score", [0.5, 0.4999, 1.0, None])
def test_a_sample_is_kept_where_its_score_reaches_the_threshold(score: float | None) -> None:
    """The threshold itself passes; a sample that the network has no answer for is not kept."""
    opinion = Opinion(score, 0.5, seen_by_gate=False)
    verdict = judge({"clipping": 0.0}, opinion)
    assert verdict.kept == (score in {0.5, 1.0})
    dropped = (verdict.reason, verdict.value, verdict.limit)
    assert dropped == ((None, None, None) if verdict.kept else ("unnatural", score, 0.5))
    assert judge({"clipping": 1.0}, opinion).reason == "clipping"


@pytest.mark.parametrize("fill", [0, 100, 255])
def test_a_mask_that_leaves_nothing_to_compare_has_no_score(gated: Layout, fill: int) -> None:
    """Empty or the whole picture: the score is null and nothing breaks."""
    gate = _gate_of(gated)
    picture = np.full((40, 61, 3), 90, np.uint8)
    crop = look_through(gate)(picture, np.full((40, 61), fill, np.uint8))
    assert crop is None
    opinion = ask_again(gated, gate, crop, place=5, image_id=9, device="cpu", before=None)
    assert opinion == Opinion(None, gate.threshold, seen_by_gate=False)


def test_a_score_that_is_no_number_becomes_null(
    gated: Layout, checkpoint: Path, tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that answers NaN does not end the build: score and value are null, the sample is not kept."""

    def numberless(_network: object, crops: np.ndarray, **_options: object) -> np.ndarray:
        return np.full(len(crops), np.nan)

    monkeypatch.setattr(realism, "score_crops", numberless)
    layout = build_in(tiny_coco, tmp_path, **_asked_of(gated, checkpoint))
    rows = rows_of(layout)
    assert {row["score"] for row in rows} == {None}
    assert {row["value"] for row in rows if row["reason"] == "unnatural"} == {None}
    assert not any(row["status"] == "kept" for row in rows)
    assert list(verify_run(layout)) == []


def test_a_sample_without_pictures_has_no_score(checkpoint: Path, tiny_coco: Path, tmp_path: Path) -> None:
    """An unreadable photograph comes before every gate, and takes nobody else's place in a batch."""
    source = shutil.copytree(tiny_coco, tmp_path / "coco")
    planned = plan_in(source, tmp_path, **_asking(checkpoint))
    gone = read_planned(planned.layout, planned.plan.shards[0])[1]
    (source / "tiny" / gone["target_file_name"]).unlink()
    rows = {row["key"]: row for row in rows_of(make_left(planned).layout)}
    row = rows[gone["key"]]
    assert row["reason"] == "unreadable"
    assert [row[name] for name in ("score", "threshold", "seen_by_gate", "gates_unnatural")] == [None] * 4
    assert all(each["score"] is not None for each in rows.values() if each["reason"] != "unreadable")
    assert list(verify_run(planned.layout)) == []
    assert all(remake(planned.layout.run, key).same for key in rows)


# who scores


@pytest.fixture(scope="module")
def in_workers(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory, gated: Layout, checkpoint: Path) -> Layout:
    """Return the same run, made by two processes."""
    planned = plan_in(tiny_coco, tmp_path_factory.mktemp("workers"), **_asked_of(gated, checkpoint))
    with LocalRunner(2) as runner, only_build(planned.layout):
        calls = ((make_shard, planned.layout.run, shard.name) for shard in planned.plan.shards)
        assert len(list(runner.each(calls))) > 2
        finish_run(planned.layout, planned.plan)
    return planned.layout


def test_the_number_of_workers_does_not_matter(in_workers: Layout, gated: Layout) -> None:
    """Two processes score to the same bytes as one."""
    assert differing(hashes(in_workers), hashes(gated)) == []


def test_one_scorer_for_all_gives_the_same_bytes(
    gated: Layout, checkpoint: Path, tiny_coco: Path, tmp_path: Path
) -> None:
    """Composed by workers, scored by the parent and written by workers, as with an accelerator: the same run."""
    planned = plan_in(tiny_coco, tmp_path, **_asked_of(gated, checkpoint))
    make_left_with(Scorer(planned.layout.run, device="cpu"), planned)
    assert differing(hashes(planned.layout), hashes(gated)) == []
    assert not list(planned.layout.run.rglob("*.tmp"))


def test_one_shard_at_a_time_is_made_the_same_way(
    gated: Layout, checkpoint: Path, tiny_coco: Path, tmp_path: Path
) -> None:
    """The flow's tasks make a shard each, with and without a scorer, to the same bytes; the marker tells the device."""
    planned = plan_in(tiny_coco, tmp_path, **_asked_of(gated, checkpoint))
    run, names = planned.layout.run, [shard.name for shard in planned.plan.shards]
    scorer = Scorer(run, device="cpu")
    for number, name in enumerate(names):
        done = make_one(_call, run, name, scorer=scorer if number % 2 else None)
        assert done.device == "cpu"
        assert done == read_done(planned.layout, name)
    finish_run(planned.layout, planned.plan)
    assert differing(hashes(planned.layout), hashes(gated)) == []


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def test_a_build_killed_between_the_phases_goes_on_to_the_same_bytes(
    gated: Layout, checkpoint: Path, tiny_coco: Path, tmp_path: Path
) -> None:
    """What was composed and not written counts for nothing; its files are swept, and the run ends as every other."""
    planned = plan_in(tiny_coco, tmp_path, **_asked_of(gated, checkpoint))
    run, names = planned.layout.run, [shard.name for shard in planned.plan.shards]
    compose_shard(run, names[0])
    score_shard(run, compose_shard(run, names[1]), device="cpu")
    assert len(list(run.rglob("*.tmp"))) == 4
    assert not any(read_done(planned.layout, name) for name in names)
    with only_build(planned.layout):
        assert not list(run.rglob("*.tmp"))
    make_left(planned)
    assert differing(hashes(planned.layout), hashes(gated)) == []


def test_a_shard_written_twice_is_written_once(
    gated: Layout, checkpoint: Path, tiny_coco: Path, tmp_path: Path
) -> None:
    """A worker that dies after its marker is begun again, and finds the shard done."""
    from flows.make.shard import write_shard

    planned = plan_in(tiny_coco, tmp_path, **_asked_of(gated, checkpoint))
    run, name = planned.layout.run, planned.plan.shards[0].name
    composed = compose_shard(run, name)
    opinions = score_shard(run, composed, device="cpu")
    assert write_shard(run, composed, opinions, "cpu") == write_shard(run, composed, opinions, "cpu")


def test_a_full_accelerator_is_one_line(
    gated: Layout, checkpoint: Path, tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smaller batch would give other sums, so the build ends with a word of advice, and nothing half made stays."""

    def full(*_arguments: object, **_options: object) -> np.ndarray:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmany lines")

    monkeypatch.setattr(realism, "score_crops", full)
    planned = plan_in(tiny_coco, tmp_path, **_asked_of(gated, checkpoint))
    with pytest.raises(BadRequest, match="accelerator's memory is full; free some of it, or give --device cpu"):
        make_shard(planned.layout.run, planned.plan.shards[0].name)
    assert not list(planned.layout.run.rglob("*.tmp"))


def test_an_accelerator_that_is_not_there_is_refused(
    checkpoint: Path, tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cuda` is taken at its word; `auto` takes what there is, and without a gate nobody asks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = _asking(checkpoint)
    with pytest.raises(BadRequest, match=r"^setting device: cuda was asked for, and torch finds none"):
        plan_in(tiny_coco, tmp_path, **asked, device="cuda")
    assert not (tmp_path / "run").exists()
    assert plan_in(tiny_coco, tmp_path, **asked, device="auto").device == "cpu"
    assert plan_in(tiny_coco, tmp_path, **WHOLE, run="ungated", device="cuda").device is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert plan_in(tiny_coco, tmp_path, **asked, device="auto").device == "cuda"
    assert plan_in(tiny_coco, tmp_path, **asked, device="cpu").device == "cpu"


def test_a_build_without_a_gate_never_loads_torch(tiny_coco: Path, tmp_path: Path) -> None:
    """Planning, making and finishing an ungated run import nothing that is learnt."""
    code = (
        "import sys; from pathlib import Path; from tests.flows.make.building import build_in\n"
        "build_in(Path(sys.argv[1]), Path(sys.argv[2]), samples=2)\n"
        "print([name for name in ('torch', 'realism') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tiny_coco), str(tmp_path)]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "[]"


def test_a_build_with_a_gate_loads_torch_in_its_workers_only(checkpoint: Path, tiny_coco: Path, tmp_path: Path) -> None:
    """Where workers score, the process that plans, reports and waits stays small and quick."""
    code = (
        "import sys; from flows.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print([name for name in ('torch', 'realism') if name in sys.modules])"
    )
    options = ("--samples", "2", "--workers", "1", "--device", "cpu", "--json")
    asked = ("build", "--source", tiny_coco, "--output", tmp_path, "--gate-checkpoint", checkpoint, *options)
    command = [sys.executable, "-c", code, *map(str, asked)]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert told.stdout.splitlines()[-1] == "[]"


# what a run is


def test_a_run_says_which_gate_it_has(gated: Layout, checkpoint: Path, tiny_coco: Path, tmp_path: Path) -> None:
    """Plan and manifest name digest, threshold and audit; without a gate they say null."""
    network = realism.load_checkpoint(checkpoint)
    gate, manifest = _gate_of(gated), json.loads(gated.manifest.read_text())
    assert manifest["gate"] == vars(gate)
    assert (gate.weights_sha256, gate.side, gate.audit) == (network.digest, 32, "")
    plan = json.loads(gated.plan.read_text())
    assert plan["identity"]["gate_checkpoint"] == gate.checkpoint
    assert plan["identity"]["gate_threshold"] == gate.threshold
    ungated = build_in(tiny_coco, tmp_path, **WHOLE)
    assert json.loads(ungated.manifest.read_text())["gate"] is None
    assert not ungated.gate.exists()


@pytest.mark.parametrize(
    ("source", "name"), [("sample", "sample"), ("a/folder", "photographs"), ("coco:val2017", "photographs")]
)
def test_the_shipped_checkpoint_is_the_sources(source: str, name: str) -> None:
    """By default the drawn sample is judged by its own network, photographs by theirs; the threshold is theirs too."""
    wanted = wanted_of(parse_settings({"source": source}))
    assert wanted is not None
    gate, network = find_gate(wanted).gate, realism.load_checkpoint(realism.shipped(name))
    assert (gate.weights_sha256, gate.threshold) == (network.digest, network.threshold)


def test_there_is_no_shipped_checkpoint_of_another_name() -> None:
    """A name is not a path."""
    with pytest.raises(ValueError, match=r"name must be one of photographs, sample, got '\.\./x'"):
        realism.shipped("../x")


def _name_of(tiny_coco: Path, tmp_path: Path, checkpoint: Path, **more: Any) -> str:
    return _planned(tiny_coco, tmp_path, checkpoint, run=None, **more).layout.run.name


def _planned(tiny_coco: Path, tmp_path: Path, checkpoint: Path, **more: Any) -> Planned:
    return plan_in(tiny_coco, tmp_path, **{**_asking(checkpoint), "samples": 2, **more})


def test_the_checkpoints_content_makes_the_run(tiny_coco: Path, tmp_path: Path, checkpoint: Path) -> None:
    """Path, name, suffix and a new audit do not make another run; weights, image ids and the threshold in force do."""
    moved = tmp_path / "else.where"
    for suffix in (".pt", ".json"):
        shutil.copy(checkpoint.with_suffix(suffix), moved.with_name(moved.name + suffix))
    network = realism.load_checkpoint(checkpoint)
    again = save_untrained(tmp_path / "again", image_ids=network.image_ids, audit={"passed": False})
    name = _name_of(tiny_coco, tmp_path, checkpoint)
    for same in (moved, again, again.with_suffix(".json"), again.with_suffix("")):
        assert _name_of(tiny_coco, tmp_path, same) == name
    assert _name_of(tiny_coco, tmp_path, checkpoint, gate_threshold=network.threshold) == name
    assert _name_of(tiny_coco, tmp_path, checkpoint, gate_threshold=0.25) != name
    assert _name_of(tiny_coco, tmp_path, checkpoint, gate="off", gate_checkpoint=None) != name
    assert _name_of(tiny_coco, tmp_path, save_untrained(tmp_path / "other", seed=1)) != name
    assert _name_of(tiny_coco, tmp_path, save_untrained(tmp_path / "ids", image_ids=[7])) != name


def test_a_run_is_not_continued_with_another_gate(tiny_coco: Path, tmp_path: Path, checkpoint: Path) -> None:
    """Another checkpoint, threshold or none: refused by its name."""
    _planned(tiny_coco, tmp_path, checkpoint)
    other = save_untrained(tmp_path / "other", seed=1)
    with pytest.raises(BadRequest, match=r"made with another gate_checkpoint .*choose another --run"):
        _planned(tiny_coco, tmp_path, other)
    with pytest.raises(BadRequest, match="made with another gate_threshold"):
        _planned(tiny_coco, tmp_path, checkpoint, gate_threshold=0.25)
    with pytest.raises(BadRequest, match="made with another gate "):
        _planned(tiny_coco, tmp_path, checkpoint, gate="off", gate_checkpoint=None)


def test_a_run_outlives_its_checkpoints_file(gated: Layout, tiny_coco: Path, tmp_path: Path) -> None:
    """With the original gone, the run is proved, made again and extended by the copy that it keeps."""
    mine = save_untrained(tmp_path / "mine", image_ids=range(1, SEEN + 1))
    asked = _asked_of(gated, mine)
    make_left(plan_in(tiny_coco, tmp_path, **{**asked, "samples": 8}))
    layout = Layout(tmp_path / "run")
    for suffix in (".pt", ".json"):
        mine.with_suffix(suffix).unlink()
    assert list(verify_run(layout)) == []
    row = rows_of(layout)[0]
    assert remake(layout.run, row["key"]).same
    build_in(tiny_coco, tmp_path, **{**asked, "gate_checkpoint": str(layout.gate)})
    assert {row["key"]: row["score"] for row in rows_of(layout)} == {r["key"]: r["score"] for r in rows_of(gated)}


def test_an_extended_run_keeps_what_it_had(gated: Layout, checkpoint: Path, tiny_coco: Path, tmp_path: Path) -> None:
    """More samples are more shards: those that were there keep their bytes, and all have their scores."""
    asked = _asked_of(gated, checkpoint)
    layout = build_in(tiny_coco, tmp_path, **{**asked, "samples": 8})
    before = {path: digest for path, digest in hashes(layout).items() if path != "manifest.json"}
    build_in(tiny_coco, tmp_path, **asked)
    assert {path: hashes(layout)[path] for path in before} == before
    assert len(rows_of(layout)) == WHOLE["samples"]
    assert list(verify_run(layout)) == []


@pytest.mark.parametrize(
    ("audit", "words"),
    [
        ({}, "was never audited"),
        ({"passed": False}, "did not pass its audit"),
        ({"passed": "yes"}, "did not pass its audit"),
        ({"passed": False, "subjects": "many", "null": [1]}, "did not pass its audit"),
        ({"passed": False, "subjects": 400, "null_auroc": 0.7, "null": {}, "shift": {}}, "AUROC 0.700"),
        ({"passed": False, "subjects": 12, "null_auroc": 0.5, "null": {}, "shift": {}}, "(12 subjects, fewer than"),
        ({"passed": True}, None),
    ],
    ids=["none", "failed", "odd", "odder", "leaky", "small", "passed"],
)
def test_a_failed_audit_is_told(tiny_coco: Path, tmp_path: Path, audit: dict[str, Any], words: str | None) -> None:
    """A checkpoint without a passed audit is used, and the build says so in one line."""
    planned = _planned(tiny_coco, tmp_path, save_untrained(tmp_path / "mine", audit=audit))
    if words is None:
        assert planned.warning is None
    else:
        assert words in str(planned.warning)
        assert "\n" not in str(planned.warning)


# proof


def test_a_gated_run_is_whole(gated: Layout) -> None:
    """A run as it was made passes every check."""
    assert list(verify_run(gated)) == []


def test_every_sample_is_made_again_to_the_same_bytes(gated: Layout) -> None:
    """Alone, without the company of its shard, a sample gets the same record, score and all."""
    assert [row["key"] for row in rows_of(gated) if not remake(gated.run, row["key"]).same] == []


FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "a higher score": ({"score": 0.9999, "gates": {"unnatural": 0.9999}}, "has score 0.9999, the gate gives it"),
    "a score below the threshold": ({"score": 0.0, "gates": {"unnatural": 0.0}}, "are not what its gates say"),
    "no score": ({"score": None, "gates": {"unnatural": None}}, "are not what its gates say"),
    "no look": ({"score": None, "threshold": None, "seen_by_gate": None, "gates": {"unnatural": None}}, "gates say"),
    "two scores": ({"gates": {"unnatural": 0.77}}, "are not what its gates say"),
    "another threshold": ({"threshold": 0.0}, "are not what its gates say"),
    "seen or not": ({"seen_by_gate": None}, "are not what its gates say"),
}


@pytest.mark.parametrize(("changes", "words"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_judgement_is_found(copied: Layout, changes: dict[str, Any], words: str) -> None:
    """A record that agrees with index, counts and hashes, and not with the gate, is named."""
    name = read_plan(copied).shards[0].name
    before = forge(copied, name, kept=lambda kept: [with_record(kept[0], **changes), *kept[1:]])
    problems = [problem for problem in verify_run(copied) if problem.key == before[0][0]]
    assert any(words in problem.what for problem in problems)


def test_a_photograph_that_the_network_knows_is_not_hidden(copied: Layout) -> None:
    """`seen_by_gate` is what the checkpoint's list says."""
    name = read_plan(copied).shards[0].name

    def turned(kept: list[Sample]) -> list[Sample]:
        return [with_record(one, seen_by_gate=not record_in(one)["seen_by_gate"]) for one in kept]

    forge(copied, name, kept=turned)
    assert any("seen_by_gate is not what" in problem.what for problem in verify_run(copied))


@pytest.mark.parametrize("suffix", [".pt", ".json"])
@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_damaged_copy_of_the_checkpoint_is_found(copied: Layout, suffix: str, how: str) -> None:
    """`verify` names it once, `remake` is refused, and nothing is scored by it."""
    path = copied.gate.with_suffix(suffix)
    path.unlink() if how == "gone" else flip(path, len(path.read_bytes()) // 2)
    problems = [str(problem) for problem in verify_run(copied)]
    assert [problem.split(":")[0] for problem in problems] == ["gate/checkpoint.pt"]
    with pytest.raises(BadRequest):
        remake(copied.run, rows_of(copied)[0]["key"])


def test_another_checkpoint_in_its_place_is_found(copied: Layout) -> None:
    """A copy that is whole but not the plan's is not taken for it."""
    save_untrained(copied.gate, seed=1)
    assert ["is not the checkpoint that the plan names" in str(problem) for problem in verify_run(copied)] == [True]


def test_a_score_is_believed_from_a_device_that_is_not_here(gated: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made again without the accelerator, a score that is as near as rounding allows is the stored one; others not."""
    gate, row = _gate_of(gated), rows_of(gated)[0]
    crop = np.full((32, 32, 4), 80, np.uint8)
    crop[8:24, 8:24, 3] = 255
    here = ask_gate(gated, gate, crop[None], [row["target_image_id"]], device="cpu")[0].score
    assert here is not None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for before, expected in ((here + 0.0002, here + 0.0002), (here + 0.1, here)):
        opinion = ask_again(gated, gate, crop, place=0, image_id=1, device="cuda", before=before)
        assert opinion.score == expected


def test_the_checkpoint_is_loaded_once(gated: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that makes many shards reads the file once."""
    gate = _gate_of(gated)
    first = load_gate(gated, gate)
    monkeypatch.setattr(realism, "load_checkpoint", None)
    assert load_gate(gated, gate) is first


def test_a_checkpoint_that_changes_meanwhile_is_not_kept(
    tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a checkpoint and the copy of it nobody may swap it."""
    mine = save_untrained(tmp_path / "mine")
    found = gate_module.find_gate

    def swapped(wanted: gate_module.Wanted) -> gate_module.Found:
        seen = found(wanted)
        save_untrained(mine, seed=1)
        return seen

    monkeypatch.setattr("flows.make.plan.find_gate", swapped)
    with pytest.raises(BadRequest, match="has changed while the run was planned"):
        _planned(tiny_coco, tmp_path, mine)
    assert not (tmp_path / "run" / "plan.json").exists()


def test_settings_for_a_gate_reach_the_plan(tiny_coco: Path, tmp_path: Path, checkpoint: Path) -> None:
    """A relative path is taken from the caller's folder."""
    from flows.make.plan import plan_run

    shutil.copy(checkpoint, tmp_path / "mine.pt")
    shutil.copy(checkpoint.with_suffix(".json"), tmp_path / "mine.json")
    settings = settings_for(tiny_coco, tmp_path, gate="on", gate_checkpoint="mine.pt", samples=2)
    planned = plan_run(settings, root=tmp_path)
    assert planned.plan.settings["gate_checkpoint"] == str(tmp_path / "mine.pt")
