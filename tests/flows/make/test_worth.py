"""What parts of the pipeline are worth: arms of one size, trained once, compared with intervals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.cli import main
from flows.errors import BadRequest
from flows.make import worth as module
from flows.make.evaluate_harmonization import Interval
from flows.make.worth import (
    ARMS,
    Answer,
    Pool,
    WorthSettings,
    choose_runs,
    compare_arms,
    draw_batch,
    evaluate_worth,
    open_pool,
    split_layers,
    tell_worth,
)
from flows.store.layout import HARMONIZATION, Layout
from flows.store.read import read_sample
from tests.flows.make.building import build_in, rows_of
from tests.flows.make.fusing import fusing

SMALL = WorthSettings(steps=2, seeds=2, shape=(4, 6))


@pytest.fixture(scope="module")
def runs(many_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return a run of person-heavy photographs and one of all people; do not write into them."""
    folder = tmp_path_factory.mktemp("worth")
    heavy = build_in(many_coco, folder, run="heavy")
    everybody = build_in(many_coco, folder, run="everybody", min_person_share=0)
    return [heavy.run, everybody.run]


@pytest.fixture(scope="module")
def finished(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, module.Worth]:
    """Return a whole evaluation of two steps a training, and its folder."""
    folder = tmp_path_factory.mktemp("evaluated")
    return folder, evaluate_worth(runs, folder, SMALL)


def pool_of(rows: list[tuple[str, str, str]]) -> Pool:
    """Return a pool of black samples with these statuses, families and splits."""
    names = ("status", "family", "split")
    table = pa.Table.from_pylist(
        [{**dict(zip(names, row, strict=True)), "photograph": n} for n, row in enumerate(rows)]
    )
    return Pool(table, np.zeros((len(rows), 4, 4, 7), np.uint8), "")


def test_arms_choose_what_they_say() -> None:
    """Kept or attempted, of the family with the most samples, of some splits."""
    pool = pool_of(
        [
            ("kept", "mkl", "train"),
            ("kept", "idt", "train"),
            ("kept", "idt", "train"),
            ("rejected", "mkl", "train"),
            ("kept", "mkl", "test"),
            ("rejected", "mkl", "train"),
        ]
    )
    assert pool.choose(ARMS["gated"], ("train",)).tolist() == [0, 1, 2]
    assert pool.choose(ARMS["ungated"], ("train",)).tolist() == [0, 1, 2, 3, 5]
    assert pool.choose(ARMS["one_family"], ("train",)).tolist() == [1, 2]
    assert pool.choose(ARMS["gated"], ("val", "test")).tolist() == [4]


def test_a_pool_holds_the_samples_of_the_run(runs: list[Path], tmp_path: Path) -> None:
    """Every sample with pictures, in the order of the keys, and the same file is read a second time."""
    layout = Layout(runs[0])
    pool = open_pool(layout, HARMONIZATION, tmp_path / "edits")
    rows = [row for row in rows_of(layout) if row["reason"] != "unreadable"]
    assert pool.rows["key"].to_pylist() == [row["key"] for row in rows]
    assert pool.pixels.shape == (len(rows), 128, 128, 7)
    row = rows[3]
    stored = read_sample(layout.run / row["tar"], offset=row["offset"], size=row["size"])
    composite, mask, real = module._edit(stored.members)
    assert abs(pool.pixels[3][..., :3].mean() - composite.mean()) < 1.5
    assert abs(pool.pixels[3][..., 4:].mean() - real.mean()) < 1.5
    assert abs(pool.pixels[3][..., 3].mean() - mask.mean()) < 1.5
    before = (tmp_path / "edits.npy").stat().st_mtime_ns
    open_pool(layout, HARMONIZATION, tmp_path / "edits")
    assert (tmp_path / "edits.npy").stat().st_mtime_ns == before


def test_batches_show_every_sample_once_an_epoch() -> None:
    """In an order of the epoch's own, the same for the same seed; half of them mirrored."""
    pixels = np.zeros((10, 4, 4, 7), np.uint8)
    pixels[..., 0] = np.arange(10)[:, None, None]
    chosen = np.arange(10)
    batches = [draw_batch(pixels, chosen, number, seed=1, size=4) for number in range(5)]
    seen = np.concatenate([batch.composite[:, 0, 0, 0] for batch in batches])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    again = draw_batch(pixels, chosen, 3, seed=1, size=4)
    assert np.array_equal(again.composite, batches[3].composite)


def test_layers_come_apart_as_they_were_put_together() -> None:
    """Composite, mask and photograph."""
    stored = np.arange(2 * 3 * 5 * 7, dtype=np.uint8).reshape(2, 3, 5, 7)
    triplets = split_layers(stored)
    assert np.array_equal(triplets.composite, stored[..., :3])
    assert np.array_equal(triplets.mask, stored[..., 3])
    assert np.array_equal(triplets.real, stored[..., 4:])


def test_all_arms_of_edits_learn_from_equally_many(finished: tuple[Path, module.Worth], runs: list[Path]) -> None:
    """As many as the smallest arm has, and every question of edits has an answer on two test sets."""
    _, worth = finished
    assert len(set(worth.trained_on.values())) == 1
    assert set(worth.trained_on) == {"gated", "ungated", "one_family", "all_people"}
    smallest = [row for row in rows_of(Layout(runs[0])) if (row["status"], row["split"]) == ("kept", "train")]
    assert 2 <= worth.trained_on["gated"] < len(smallest)
    assert [answer.test for answer in worth.answers] == [
        "gated",
        "ungated",
        "one_family",
        "gated",
        "gated",
        "all_people",
    ]
    assert worth.unasked == {"easy against easy and hard": "no run has fusion samples"}
    for answer in worth.answers:
        assert answer.difference.mean == pytest.approx(answer.one - answer.other, abs=0.01)
        assert answer.no_change > 0


def test_what_is_finished_is_read(
    finished: tuple[Path, module.Worth], runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second time nothing is trained; with one arm's file gone only that arm is, to the same figures."""
    folder, worth = finished
    trained: list[int] = []
    train = module.train_harmonizer

    def counted(*arguments: Any, **options: Any) -> Any:
        trained.append(arguments[1].seed)
        return train(*arguments, **options)

    monkeypatch.setattr(module, "train_harmonizer", counted)
    assert evaluate_worth(runs, folder, SMALL) == worth
    assert trained == []
    (folder / "arms" / "ungated-1.npz").unlink()
    assert evaluate_worth(runs, folder, SMALL) == worth
    assert trained == [1]
    assert json.loads((folder / "worth.json").read_text()) == worth.to_json()


def test_another_evaluation_is_refused(finished: tuple[Path, module.Worth], runs: list[Path]) -> None:
    """Other settings in the same folder would mix two experiments."""
    with pytest.raises(BadRequest, match=r"other runs or settings"):
        evaluate_worth(runs, finished[0], replace(SMALL, steps=3))


def test_a_difference_that_is_not_there_is_said() -> None:
    """Where the interval holds 0; and which arm is better where it does not."""
    base = Answer("q", "a", "b", "a", 5, 5, 1.0, 2.0, 3.0, Interval(-1, -2, 0.5))
    assert base.verdict == "no difference found"
    assert replace(base, difference=Interval(-1, -2, -0.5)).verdict == "a is better"
    assert replace(base, difference=Interval(1, 0.5, 2)).verdict == "b is better"


def test_the_interval_holds_samples_and_seeds() -> None:
    """Seeds that disagree widen it, though the samples of each agree; with one of all alike it has no width."""
    photographs = [1, 1, 2, 3, 4]
    same = compare_arms(np.full((3, 5), -2.0), photographs)
    assert (same.mean, same.low, same.high) == (-2, -2, -2)
    apart = compare_arms(np.repeat([[-9.0], [0.0], [9.0]], 5, axis=1), photographs)
    assert apart.low < -5
    assert apart.high > 5
    assert compare_arms(np.array([[1.0, 1.0, 4.0, 1.0, 1.0]]), photographs).mean == pytest.approx(1.6)


def test_it_is_told_as_a_table(finished: tuple[Path, module.Worth]) -> None:
    """Every question, what it was measured on, and what was not asked."""
    lines = list(tell_worth(finished[1]))
    assert sum("against" in line and "first:" in line for line in lines) == 3
    assert lines[-1] == "not asked: easy against easy and hard, since no run has fusion samples"


def test_runs_find_their_part(runs: list[Path]) -> None:
    """In whatever order they are given; a run of all people alone still answers for gate and families."""
    assert choose_runs([runs[1], runs[0]])["edits"].run == runs[0]
    assert set(choose_runs([runs[1]])) == {"edits"}


def test_bad_requests_are_one_line(
    runs: list[Path], tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither runs nor a source; runs of which nothing can be asked."""
    assert main(["evaluate", "worth", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "hcoco evaluate: give either one or more RUNs or a --source\n"
    assert main(["evaluate", "worth", str(runs[0]), "--source", "sample", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    pasted = build_in(tiny_coco, tmp_path, stages="copypaste", samples=3)
    with pytest.raises(BadRequest, match=r"no question can be asked of these runs: no run has harmonization samples"):
        evaluate_worth([pasted.run], tmp_path / "a", SMALL)


@pytest.mark.slow
def test_hard_compositions_are_asked_of_a_fusion_run(many_coco: Path, fuser: Path, tmp_path: Path) -> None:
    """The composite is the foreground inside its mask, may change only around it, and the question has its answers."""
    layout = build_in(many_coco, tmp_path, **fusing(fuser, easy_share=1, samples=80))
    rows = [row for row in rows_of(layout) if row["status"] == "kept"]
    members = read_sample(layout.run / rows[0]["tar"], offset=rows[0]["offset"], size=rows[0]["size"]).members
    pasted, mask, wanted = module._composition(members)
    assert set(np.unique(mask)) == {0, 255}
    assert np.abs(pasted.astype(int) - wanted)[mask == 0].mean() < 1
    worth = evaluate_worth([layout.run], tmp_path / "worth", SMALL)
    assert [answer.test for answer in worth.answers] == ["easy", "hard"]
    assert set(worth.trained_on) == {"easy", "easy_and_hard"}
    assert len(worth.unasked) == 3
