"""Scoring composites of any origin: one score for files and arrays, reasons for what cannot be scored, sums by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flows.cli import main
from flows.errors import BadRequest
from flows.make import score
from flows.make.score import Scored, open_judge, pick_device, score_folder, score_pair, summarize, write_scores
from realism import Calibration, Checkpoint, Discriminator, Shape, prepare, save_checkpoint, score_crops


@pytest.fixture(scope="module")
def judge_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of an untrained network whose scores differ."""
    torch.manual_seed(0)
    model = Discriminator(Shape(side=32, width=8, hidden=32)).eval()
    path = tmp_path_factory.mktemp("judge") / "judge.pt"
    save_checkpoint(Checkpoint(model, Calibration(temperature=0.05), threshold=0.5), path)
    return path


@pytest.fixture(scope="module")
def judge(judge_file: Path) -> Checkpoint:
    """Return it loaded."""
    return open_judge(judge_file)


def picture_of(seed: int, *, height: int = 40, width: int = 60) -> np.ndarray:
    """Return a smooth coloured picture."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, dsize=(width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def mask_of(*, height: int = 40, width: int = 60) -> np.ndarray:
    """Return a mask."""
    mask = np.zeros((height, width), np.uint8)
    mask[10:30, 15:33] = 255
    return mask


def write(path: Path, array: np.ndarray) -> Path:
    """Write a picture in RGB order, or a mask, without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return files of a picture and its mask."""
    return write(tmp_path / "picture.png", picture_of(1)), write(tmp_path / "mask.png", mask_of())


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """Return a data set in iHarmony4's layout: two good composites of one photograph, and one of each fault."""
    folder = tmp_path / "HCOCO"
    write(folder / "real_images/c1.png", picture_of(1))
    write(folder / "masks/c1_5.png", mask_of())
    write(folder / "composite_images/c1_5_1.png", picture_of(2))
    write(folder / "composite_images/c1_5_2.png", picture_of(3))
    for name, mask in {"c2_1": mask_of() * 0, "c3_1": mask_of() * 0 + 255, "c4_1": mask_of(width=59)}.items():
        write(folder / f"masks/{name}.png", mask)
        write(folder / f"real_images/{name[:2]}.png", picture_of(4))
        write(folder / f"composite_images/{name}_1.png", picture_of(5))
    write(folder / "composite_images/c5_1_1.png", picture_of(6))
    write(folder / "masks/c6_1.png", mask_of())
    (folder / "composite_images/c6_1_1.png").write_text("no picture")
    return folder


def test_files_and_arrays_get_one_score(pair: tuple[Path, Path], judge: Checkpoint) -> None:
    """A pair of files, the same as arrays, and the crop by hand get one score."""
    picture, mask = picture_of(1), mask_of()
    by_hand = float(score_crops(judge, prepare(picture, mask, side=32)[None])[0])
    assert score_pair(*pair, checkpoint=judge) == by_hand
    assert score_pair(picture, mask, checkpoint=judge) == by_hand
    assert score_pair(picture, mask > 127, checkpoint=judge) == by_hand


def test_default_is_the_shipped_network(pair: tuple[Path, Path]) -> None:
    """Without a checkpoint the package's own network for photographs scores."""
    assert score_pair(*pair) == score_pair(*pair, checkpoint=open_judge("photographs"))


def test_a_very_wide_picture_is_scored(judge: Checkpoint, tmp_path: Path) -> None:
    """A picture 10,000 pixels wide is scored."""
    picture, mask = picture_of(1, height=50, width=10_000), mask_of(height=50, width=10_000)
    files = write(tmp_path / "wide.png", picture), write(tmp_path / "wide_mask.png", mask)
    assert 0 <= score_pair(*files, checkpoint=judge) <= 1


@pytest.mark.parametrize(
    ("size", "value", "message"),
    [
        ((40, 60), 0, "the mask is empty: no pixel is over 127, the highest is 0; paint the subject white"),
        ((40, 60), 1, "the highest is 1"),
        ((40, 60), 255, "the mask covers the whole picture"),
        ((1, 1), 255, "the mask covers the whole picture"),
        ((1, 1), 0, "the mask is empty"),
        ((60, 40), 255, "'mask.png' is 40 x 60, 'picture.png' 60 x 40"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_pairs_without_a_score_are_refused(  # noqa: PLR0917 - parameters of the cases
    size: tuple[int, int],
    value: int,
    message: str,
    as_json: bool,  # noqa: FBT001
    pair: tuple[Path, Path],
    judge_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Masks that are empty, full or of another size, and pictures of one pixel: one line, exit code 2."""
    write(pair[1], np.full(size, value, np.uint8))
    if size == (1, 1):
        write(pair[0], np.zeros((1, 1, 3), np.uint8))
    arguments = ["score", *map(str, pair), "--checkpoint", str(judge_file), *(["--json"] if as_json else [])]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_file_with_an_array_is_a_mistake(pair: tuple[Path, Path], judge: Checkpoint) -> None:
    """Picture and mask are both files or both arrays."""
    with pytest.raises(TypeError, match="must both be files or arrays"):
        score_pair(pair[0], mask_of(), checkpoint=judge)


def test_a_data_set_is_scored_with_its_photographs(data_set: Path, judge: Checkpoint) -> None:
    """Each composite gets its score and its photograph's, faults get a reason, and every score is that of the pair."""
    rows = {Path(row.composite).name: row for row in score_folder(data_set, checkpoint=judge)}
    real = score_pair(picture_of(1), mask_of(), checkpoint=judge)
    assert {name: row.reason for name, row in rows.items()} == {
        "c1_5_1.png": "",
        "c1_5_2.png": "",
        "c2_1_1.png": "mask_empty",
        "c3_1_1.png": "mask_full",
        "c4_1_1.png": "size_mismatch",
        "c5_1_1.png": "mask_missing",
        "c6_1_1.png": "unreadable",
    }
    for number, seed in ((1, 2), (2, 3)):
        row = rows[f"c1_5_{number}.png"]
        assert row.score == score_pair(picture_of(seed), mask_of(), checkpoint=judge)
        assert row.real_score == real
        assert row.kept == (row.score >= 0.5)
    assert all(row.score is None and row.kept is None for row in rows.values() if row.reason)


def test_chunks_change_nothing(data_set: Path, judge: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored one by one, a data set gets the rows that it gets at once; progress counts up to all."""
    together, told = list(score_folder(data_set, checkpoint=judge)), []
    monkeypatch.setattr(score, "CHUNK", 1)
    one_by_one = score_folder(data_set, checkpoint=judge, watch=lambda *what: told.append(what))
    assert list(one_by_one) == together
    assert told == [("scored", done, 7) for done in range(8)]


def test_photographs_may_be_missing(data_set: Path, judge: Checkpoint) -> None:
    """A composite without its photograph is scored, and the row says what lacks."""
    (data_set / "real_images/c1.png").unlink()
    row = next(score_folder(data_set, checkpoint=judge))
    assert (row.score is not None, row.real_score, row.reason) == (True, None, "real_missing")


def row_of(group: str, composite: float | None, real: float | None, reason: str = "") -> Scored:
    """Return a row."""
    kept = None if composite is None else composite >= 0.5
    return Scored(f"{group}/x.jpg", group, composite, real, kept, reason, "")


def test_summary_by_hand() -> None:
    """Means, shares and AUROC of a few rows, counted by hand; groups and all."""
    rows = [
        row_of("A", 0.2, 0.6), row_of("A", 0.6, 0.6), row_of("B", 0.7, 0.9),
        row_of("B", 0.5, None, "real_missing"), row_of("B", None, None, "mask_empty"),
    ]  # fmt: skip
    found = summarize(rows)
    assert found["all"] == {
        "composites": 5,
        "scored": 4,
        "pairs": 3,
        "kept": 0.75,
        "mean_composite": 0.5,
        "mean_real": 0.7,
        "auroc": round((2 * (1 + 0.5 + 0) + 3) / 9, 4),  # of reals .6, .6, .9 over composites .2, .6, .7
        "real_higher": round(2.5 / 3, 4),
    }
    assert found["groups"]["A"]["real_higher"] == 0.75
    assert found["reasons"] == {"real_missing": 1, "mask_empty": 1}


def test_summary_of_nothing() -> None:
    """Where nothing was scored the figures are None, as JSON can say."""
    found = summarize([row_of("A", None, None, "mask_empty")])["all"]
    assert (found["composites"], found["scored"], found["auroc"], found["kept"]) == (1, 0, None, None)


def test_rows_are_written_as_csv_and_json_lines(tmp_path: Path) -> None:
    """Both files hold every row, with nothing where there is no score, whatever stands in a name."""
    rows = [row_of("A", 0.25, 0.5), row_of('B,"ü\n', None, None, "unreadable")]
    write_scores(rows, tmp_path / "rows.csv")
    write_scores(rows, tmp_path / "rows.jsonl")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [(row["group"], row["score"], row["reason"]) for row in read] == [
        ("A", "0.25", ""),
        ('B,"ü\n', "", "unreadable"),
    ]
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [vars(row) for row in rows]


def test_command_scores_a_pair(pair: tuple[Path, Path], judge_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`hcoco score IMAGE MASK --json` prints score, threshold and what a gate would do."""
    assert main(["score", *map(str, pair), "--checkpoint", str(judge_file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "score": score_pair(*pair, checkpoint=open_judge(judge_file)),
        "threshold": 0.5,
        "kept": found["score"] >= 0.5,
    }


def test_command_scores_a_data_set(data_set: Path, judge_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`hcoco score FOLDER` prints a table and what could not be scored, and writes the rows."""
    output = data_set.parent / "rows.csv"
    assert main(["score", str(data_set), "--checkpoint", str(judge_file), "--output", str(output)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["composites", "scored", "kept", "composite", "real", "AUROC", "real", "higher"]
    assert printed[1].split()[:3] == ["all", "7", "2"]
    assert printed[2].startswith("not scored, or without photograph: ")
    assert len(output.read_text().splitlines()) == 8


def test_command_fails_where_nothing_can_be_scored(
    data_set: Path, judge_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data set without a single score is damage: exit code 1."""
    for path in (data_set / "masks").iterdir():
        path.unlink()
    assert main(["score", str(data_set), "--checkpoint", str(judge_file), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["reasons"] == {"mask_missing": 7}


def test_rows_of_one_picture_are_refused(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """`--output` with one picture is refused, not ignored."""
    assert main(["score", *map(str, pair), "--output", "rows.csv"]) == 2
    assert "--output is for data sets" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "nonsense.json cannot be read: No such file or directory; by name there are photographs, sample"),
        ("/nowhere/net.pt", "cannot be read: No such file or directory"),
    ],
)
def test_unknown_checkpoint_is_refused(name: str, message: str) -> None:
    """A name that no checkpoint has is refused with the names that there are."""
    with pytest.raises(BadRequest, match=message):
        open_judge(name)


def test_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cuda` without an accelerator is refused; `auto` takes what there is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    with pytest.raises(BadRequest, match="torch finds no accelerator here"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (pick_device("auto"), pick_device("cpu")) == ("cuda", "cpu")
