"""Training the realism network: what is gathered, drawn ahead, told, measured."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from flows.coco.select import split_of
from flows.coco.sources import open_source
from flows.errors import BadRequest
from flows.make.ahead import computing_threads, drawing_ahead
from flows.make.realism import (
    Gathered,
    Told,
    drawing_of,
    gather,
    layout_of,
    loop_settings,
    only_training,
)
from flows.make.severity import Cases, audit_cases, draw_cases, group_cases, join_cases, people_of
from flows.make.subjects import annotated_subjects
from flows.settings import parse
from flows.train_settings import TrainRealismSettings
from realism import Batch, Shape, TrainSettings, is_within_limits
from realism.metrics import auroc
from realism.score import score_logits
from realism.train import train
from tests.conftest import write_coco


def settings(source: object, output: Path, **values: object) -> TrainRealismSettings:
    """Return the settings of a short training."""
    return parse(TrainRealismSettings, {"source": str(source), "output": output, "steps": 2, "groups": 2, **values})


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of trainings, whose cases are drawn once."""
    return tmp_path_factory.mktemp("trainings")


@pytest.fixture(scope="module")
def gathered(tiny_coco: Path, output: Path) -> Gathered:
    """Return what a training on the tiny folder learns from."""
    return gather(settings(tiny_coco, output))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of pictures without annotations."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(30):
        blocks = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(blocks, dsize=(128, 96), interpolation=cv2.INTER_NEAREST))
    return folder


def test_only_photographs_of_train_are_learnt_from(gathered: Gathered) -> None:
    """Every subject is of the split `train`; the cases are of photographs of the others."""
    assert {split_of(subject.image_id) for subject in gathered.subjects} == {"train"}
    assert gathered.photographs == len({subject.image_id for subject in gathered.subjects})
    for name, path in gathered.cases.items():
        assert {split_of(int(image_id)) for image_id in Cases.load(path).image_id} == {name}


def test_a_split_of_one_photograph_is_left_out(gathered: Gathered) -> None:
    """The tiny folder has one photograph of `test`, too few to draw references from; `val` is enough to train."""
    assert set(gathered.cases) == {"val"}


def test_cases_are_drawn_once_for_all_trainings(gathered: Gathered, tiny_coco: Path, output: Path) -> None:
    """Another training of the same source is measured on the same files."""
    before = gathered.cases["val"].stat().st_mtime_ns
    other = gather(settings(tiny_coco, output, name="other", seed=5))
    assert other.cases == gathered.cases
    assert gathered.cases["val"].stat().st_mtime_ns == before


def test_photographs_without_annotations_are_learnt_from_too(tiny_coco: Path, output: Path, photos: Path) -> None:
    """A folder of photographs adds borrowed masks or segments, and subjects to audit on."""
    found = gather(settings(tiny_coco, output, name="photos", photos=photos))
    assert {"borrowed", "segment"} & set(found.kinds)
    assert found.summary.startswith("learning from ")
    assert set(found.cases) == {"val", "more"}


def test_a_kind_without_a_share_is_not_learnt_from(tiny_coco: Path, output: Path, photos: Path) -> None:
    """What is never drawn is neither among the photographs that were learnt from nor among the references."""
    found = gather(settings(tiny_coco, output, name="people", photos=photos, share="person"))
    assert set(found.kinds) == {"person"}
    assert len(drawing_of(found).references) == len(found.subjects)


def test_the_number_of_photographs_is_bounded(many_coco: Path) -> None:
    """At most so many photographs are opened, those of the smallest ids."""
    source = open_source(str(many_coco))
    few = [subject.image_id for subject in annotated_subjects(source, split="train", most=5)]
    every = [subject.image_id for subject in annotated_subjects(source, split="train")]
    assert few == every[: len(few)]
    assert len(set(few)) == 5


def test_the_drawing_follows_the_settings(tiny_coco: Path, output: Path, gathered: Gathered) -> None:
    """Families left out, groups, vigour and seed reach what batches are drawn from."""
    chosen = settings(tiny_coco, output, without="mkl", groups=3, vigour=0.1, seed=9)
    drawing = drawing_of(Gathered(chosen, gathered.layout, gathered.subjects, gathered.cases))
    assert "mkl" not in drawing.families
    assert (drawing.groups, drawing.vigour, drawing.seed) == (3, 0.1, 9)


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (24, 2), (3000, 200)])
def test_states_are_saved_a_dozen_times(steps: int, every: int) -> None:
    """A short training saves often, a long one every 200 steps."""
    assert loop_settings(parse(TrainRealismSettings, {"steps": steps})).save_every == every


def test_a_training_is_named_after_its_source(tmp_path: Path) -> None:
    """Without a name the folder is that of the source."""
    for source, name in (("sample", "sample"), ("coco:val2017", "coco-val2017"), (tmp_path / "My COCO", "my-coco")):
        assert layout_of(settings(source, tmp_path)).folder == tmp_path / name


@pytest.mark.usefixtures("gathered")
def test_another_training_in_the_same_folder_is_refused(tiny_coco: Path, output: Path) -> None:
    """A folder that was begun with another seed is not continued; the line names what differs."""
    with pytest.raises(BadRequest, match=r"begun with other seed \(0, now 1\)"):
        gather(settings(tiny_coco, output, seed=1))


def test_other_photographs_in_the_same_folder_are_refused(gathered: Gathered, many_coco: Path, output: Path) -> None:
    """A folder that was begun on other photographs is not continued."""
    with pytest.raises(BadRequest, match="other photographs or subjects"):
        gather(settings(many_coco, output, name=gathered.layout.folder.name))


def test_a_damaged_beginning_is_refused(tiny_coco: Path, output: Path) -> None:
    """A training.json that cannot be read is named."""
    layout = layout_of(settings(tiny_coco, output, name="damaged"))
    layout.folder.mkdir()
    layout.begun.write_text("{")
    with pytest.raises(BadRequest, match=r"training\.json is damaged"):
        gather(settings(tiny_coco, output, name="damaged"))


def test_too_few_photographs_to_measure_on_are_one_line(tmp_path: Path) -> None:
    """Where `val` has one photograph, nothing is trained, and the line says how many there are."""
    write_coco(tmp_path / "coco", images=11)  # of the ids 1 to 11 only 3 is of `val`
    with pytest.raises(BadRequest, match="too few photographs with people in the split `val`, 1; add photographs"):
        gather(settings(tmp_path / "coco", tmp_path))


def test_nobody_to_learn_from_is_one_line(tmp_path: Path) -> None:
    """Where `train` shows no people, nothing is trained."""
    write_coco(tmp_path / "coco", images=2, first_id=15)  # both of `val`
    with pytest.raises(BadRequest, match="shows no people in the split `train`"):
        gather(settings(tmp_path / "coco", tmp_path))


def test_one_process_trains_at_a_time(gathered: Gathered) -> None:
    """A second training in the same folder is refused; what a killed one left half-written is removed."""
    litter = gathered.layout.folder / ".training.state.1.tmp"
    litter.write_bytes(b"")
    with only_training(gathered.layout):
        assert not litter.exists()
        with pytest.raises(BadRequest, match="another training is at work"), only_training(gathered.layout):
            pass


def test_batches_drawn_ahead_are_the_same(gathered: Gathered) -> None:
    """A thread that draws ahead changes no batch, wherever a training goes on."""
    drawing = drawing_of(gathered)
    with drawing_ahead(drawing.batch, steps=9) as draw:
        ahead = [draw(step) for step in range(3, 9)]
    for step, batch in enumerate(ahead, 3):
        assert all(
            np.array_equal(a, b) for a, b in zip(vars(batch).values(), vars(drawing.batch(step)).values(), strict=True)
        )


def test_no_batch_is_drawn_in_vain() -> None:
    """Each step is drawn once, and none beyond the last."""
    drawn: list[int] = []
    with drawing_ahead(drawn.append, steps=6) as draw:  # type: ignore[arg-type]
        for step in range(6):
            draw(step)
    assert drawn == list(range(6))


def test_a_fault_of_the_drawing_is_no_bad_request() -> None:
    """A ValueError of the drawing thread arrives as what it is: a fault of the program, with its cause."""

    def fail(_step: int) -> Batch:
        raise ValueError("of ours")

    with drawing_ahead(fail, steps=2) as draw, pytest.raises(RuntimeError, match="batch 0") as fault:
        draw(0)
    assert isinstance(fault.value.__cause__, ValueError)


def test_a_training_is_told_in_one_line() -> None:
    """A saved state is told with loss, validation, pace and time left."""
    told = Told(20, 100, seconds=10.0, made=10, saved=True, loss=0.5, validation={"band_auroc": 0.7})
    assert told.line == "step 20 of 100: loss 0.500, validation AUROC 0.700; 1.0 steps a second, 80 s left"
    assert Told(0, 10).seconds_left is None


def test_null_edits_of_the_sample_look_natural(tmp_path: Path) -> None:
    """A tiny network that learnt a little from the sample tells gross edits apart, and null edits not."""
    source = open_source("sample")
    subjects = list(annotated_subjects(source, split="train", most=12))
    chosen = settings("sample", tmp_path, groups=4)
    drawing = drawing_of(Gathered(chosen, layout_of(chosen), subjects, {}))
    shape = Shape(width=8, hidden=32, dropout=0, branches=("quantiles", "colours"))
    loop = TrainSettings(steps=40, warmup=4, average=0.8, shape=shape)
    with computing_threads(1):
        network, _ = train(drawing.batch, loop, state=tmp_path / "state")
    cases = join_cases(
        *(draw_cases(people_of(source, split=s), seed=1, per_photograph=1, most=4) for s in ("val", "test"))
    )
    scores = 1 / (1 + np.exp(-score_logits(network, cases.crops)))
    groups = group_cases(cases)
    assert auroc(scores[groups["naturals"]], scores[groups["gross"]]) > 0.6
    assert is_within_limits(audit_cases(scores, cases))
