"""Teaching stage after stage, and comparing them: what is written, gone on from, refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.coco.sources import open_source
from flows.errors import BadRequest
from flows.fusion_settings import FusionTraining, SelfTeachSettings, TrainFusionSettings
from flows.make import self_teach
from flows.make.evaluate_fusion import cases_of_run, compare, open_methods, read_networks, tell_comparison
from flows.make.fusion import Gathered
from flows.make.fusion_data import Drawing, cases
from flows.make.self_teach import School, compare_stages, load_first, only_teaching, train_stage
from flows.settings import parse
from flows.store.layout import Layout
from flows.view.fusion_page import write_fusion_page
from realism.fusion_checkpoint import load_fusion
from tests.flows.make.building import build_in
from tests.flows.make.fusing import SHAPE, fusing, save_untrained
from tests.flows.make.gating import save_untrained as save_gate
from tests.flows.make.test_fusion_data import person, scenes


def gathered(*, seed: int = 0) -> Gathered:
    """Return two people and three scenes."""
    return Gathered([person(seed=seed), person(seed=seed + 1)], scenes(), 6)


@pytest.fixture
def school(tmp_path: Path, tiny_coco: Path, monkeypatch: pytest.MonkeyPatch) -> School:
    """Return a training of two steps a stage over two people, with a small network and small crops."""
    monkeypatch.setattr("flows.make.fusion.Drawing", lambda *people, **more: Drawing(*people, **more, crops=2, side=32))
    monkeypatch.setattr(self_teach, "SAMPLE_SHAPE", SHAPE)
    monkeypatch.setattr("flows.make.self_teach.COMPOSITIONS", 2)
    settings = parse(SelfTeachSettings, {"output": str(tmp_path), "steps": 2, "perceptual": 0})
    return School(tmp_path / "sample", open_source(str(tiny_coco)), settings, gathered(), gathered(seed=5))


def teach(school: School) -> list[tuple[int, int]]:
    """Train both stages; return the stretches that were made, as (stage, step)."""
    told: list[tuple[int, int]] = []
    made = None
    for stage in (1, 2):
        made = train_stage(school, stage, first=made, tell=lambda number, how: told.append((number, how.step)))
    return told


def test_each_stage_names_the_one_before(school: School) -> None:
    """Two checkpoints, and a comparison of them with the blends."""
    assert teach(school) == [(1, 2), (2, 2)]
    one, two = (load_fusion(school.checkpoint(stage)) for stage in (1, 2))
    assert (one.stage, two.stage, two.parent) == (1, 2, one.digest)
    comparison = compare_stages(school, stages=2)
    assert comparison.counts == {"easy": 2, "hard": 2}
    for rows in comparison.tables.values():
        assert {"copy_paste", "poisson", "m1", "m2"} <= {row["method"] for row in rows}


def test_what_is_done_is_not_made_again(school: School) -> None:
    """Begun again after a kill, a finished stage is loaded; the bytes are the same."""
    teach(school)
    before = [school.checkpoint(stage).read_bytes() for stage in (1, 2)]
    school.checkpoint(2).unlink()
    assert teach(school) == []
    assert [school.checkpoint(stage).read_bytes() for stage in (1, 2)] == before


def test_a_first_stage_that_learnt_nothing_is_one_line(school: School) -> None:
    """Where no picture of it passes the gates, the next stage is refused."""
    broken = load_fusion(save_untrained(school.folder / "broken", overflow=True))
    with pytest.raises(BadRequest, match="no picture of the stage before passed the gates"):
        train_stage(school, 2, first=broken, tell=lambda *_: None)


def changed(school: School, **settings: object) -> School:
    """Return the same training with other settings."""
    return dataclasses.replace(school, settings=school.settings.model_copy(update=settings))


@pytest.mark.parametrize("setting", [{"seed": 1}, {"truth": "polygon"}])
def test_other_settings_in_the_same_folder_are_refused(school: School, setting: dict[str, object]) -> None:
    """A training is not gone on from with another seed, or towards other composites."""
    train_stage(school, 1, first=None, tell=lambda *_: None)
    other = changed(school, **setting)
    with pytest.raises(BadRequest, match="choose another --name"):
        train_stage(other, 1, first=None, tell=lambda *_: None)


def test_the_polygon_may_take_the_place_of_the_matte(school: School) -> None:
    """For comparison: the checkpoint says so, and other weights are learnt."""
    made = {}
    for truth in ("matte", "polygon"):
        there = dataclasses.replace(changed(school, truth=truth), folder=school.folder / truth)
        made[truth] = train_stage(there, 1, first=None, tell=lambda *_: None)
    assert {name: one.settings["truth"] for name, one in made.items()} == {"matte": "matte", "polygon": "polygon"}
    assert made["matte"].digest != made["polygon"].digest


def test_one_training_at_a_time(tmp_path: Path) -> None:
    """The second says so in one line."""
    settings = parse(FusionTraining, {"output": str(tmp_path)})
    with (
        only_teaching(settings),
        pytest.raises(BadRequest, match="another training is at work"),
        only_teaching(settings),
    ):
        pass


def test_nobody_held_out_is_one_line(school: School) -> None:
    """The networks are there; what they are worth needs a larger source."""
    alone = School(school.folder, school.source, school.settings, school.learnt, None)
    with pytest.raises(BadRequest, match="nobody in `val`"):
        compare_stages(alone, stages=1)


def test_the_stage_before_must_be_a_fusion_network(tmp_path: Path) -> None:
    """A realism checkpoint or a missing file is one line."""
    assert load_first(None) is None
    for path in (save_gate(tmp_path / "gate"), tmp_path / "missing.pt"):
        with pytest.raises(BadRequest, match="setting first: "):
            load_first(path)


@pytest.mark.parametrize("model", [FusionTraining, TrainFusionSettings, SelfTeachSettings])
def test_every_setting_is_explained(model: type[FusionTraining]) -> None:
    """Each field has a sentence."""
    assert all((field.description or "").endswith(".") for field in model.model_fields.values())


@pytest.mark.parametrize(("model", "name"), [(TrainFusionSettings, "train_fusion"), (SelfTeachSettings, "self_teach")])
def test_the_flow_has_the_same_settings(model: type[FusionTraining], name: str) -> None:
    """Parameters of the flow: the same names in the same order, with equal defaults."""
    import importlib
    import inspect

    work = getattr(importlib.import_module(f"flows.{name}"), name)
    parameters = inspect.signature(work.fn).parameters
    assert list(parameters) == list(model.model_fields)
    assert parse(model, {key: each.default for key, each in parameters.items()}) == parse(model, {})


def test_streams_are_read_as_words() -> None:
    """On the command line every value is a word."""
    assert parse(FusionTraining, {"streams": "1"}).streams == 1
    with pytest.raises(BadRequest, match="setting streams"):
        parse(FusionTraining, {"streams": "3"})


def test_a_run_of_training_samples_alone_is_refused(fusion_run: Layout) -> None:
    """A small plan has nobody in `val` or `test` yet."""
    with pytest.raises(BadRequest, match="has no kept fusion samples in val or test"):
        cases_of_run(fusion_run, most=2)


def test_a_run_has_held_out_compositions(many_coco: Path, fuser: Path, tmp_path: Path) -> None:
    """Those of `val` and `test`; the wanted one is the sample's composite, and every method gets a row."""
    sets = cases_of_run(build_in(many_coco, tmp_path, **fusing(fuser, samples=None)), most=2)
    methods = open_methods({"mine": fuser}, device="cpu")
    comparison = compare(sets, methods)
    assert [row["method"] for row in next(iter(comparison.tables.values()))][-1] == "mine"
    shown = {"tables": comparison.tables, "counts": comparison.counts, "pictures": comparison.pictures}
    page = write_fusion_page(tmp_path / "page.html", title="<Mine>", **shown).read_text()
    assert "&lt;Mine&gt;" in page
    hostile = "<script>pwned()</script>](javascript:pwned())`|\n{{7*7}}\ud800"
    other = write_fusion_page(tmp_path / "hostile.html", title=hostile, **shown).read_text()
    assert re.findall("<[a-z/][a-z]*", other) == re.findall("<[a-z/][a-z]*", page)
    assert "<td>mine<td>" in page
    assert page.count("<figure>") == sum(len(each) for kind in comparison.pictures.values() for each in kind)
    assert any("mine" in line for line in tell_comparison(comparison))


def test_the_wanted_composition_itself_is_perfect() -> None:
    """The best of every column is bold on the page, and the truth has no error."""
    chosen = cases(gathered().people, scenes(), count=2, seed=0)
    comparison = compare({"easy": chosen}, {"truth": lambda case: case.wanted})
    row: Any = comparison.tables["easy"][0]
    assert (row["boundary_error"], row["ssim"]) == (0, 1)


def test_networks_are_named(tmp_path: Path) -> None:
    """NAME=FILE; anything else is one line."""
    assert read_networks(["a=x.pt", "b=y.pt"]) == {"a": Path("x.pt"), "b": Path("y.pt")}
    assert list(read_networks([])) == ["shipped"]
    for given in (["x.pt"], ["=x.pt"], ["a=x", "a=y"]):
        with pytest.raises(BadRequest, match="is no NAME=FILE"):
            read_networks(given)
    with pytest.raises(BadRequest, match="--network a: "):
        open_methods({"a": tmp_path / "missing.pt"}, device="cpu")


def test_evaluate_wants_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither, and both, are refused in one line."""
    assert main(["evaluate", "fusion"]) == 2
    assert capsys.readouterr().err == "hcoco evaluate: give either a RUN or a --source\n"
