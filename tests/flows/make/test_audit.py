"""The audit of a checkpoint: drawn from photographs that it never saw, told with its limits, kept where asked."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flows.cli import main
from flows.coco.select import split_of
from flows.coco.sources import Source, open_source
from flows.errors import BadRequest
from flows.make.audit import audit_checkpoint, draw_audit, tell_audit
from flows.make.severity import Cases
from realism import Calibration, Checkpoint, Discriminator, Shape, save_checkpoint
from realism.checkpoint import read_about


@pytest.fixture(scope="module")
def source(many_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Return the source of 80 small pictures."""
    return open_source(str(many_coco), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def cases(source: Source) -> Cases:
    """Return a few subjects' cases."""
    return draw_audit(source, None, subjects=5)


def network_of(*, side: int = 64) -> Checkpoint:
    """Return a checkpoint of an untrained network."""
    torch.manual_seed(0)
    return Checkpoint(Discriminator(Shape(side=side, width=8, hidden=32)).eval(), Calibration(), threshold=0.1)


def test_cases_are_of_val_and_test(source: Source, cases: Cases) -> None:
    """Cases come from held-out photographs only, as many subjects as wanted, with null edits and shifts for each."""
    assert {split_of(int(image_id)) for image_id in cases.image_id} <= {"val", "test"}
    assert np.unique(cases.subject).tolist() == list(range(5))
    for subject in range(5):
        assert {"natural", "null", "shift", "edit"} <= set(cases.what[cases.subject == subject])
    again = draw_audit(source, None, subjects=5)
    assert np.array_equal(again.crops, cases.crops)


def test_learnt_photographs_are_left_out(source: Source, cases: Cases) -> None:
    """A photograph that the network learnt from is not drawn from, whatever its split."""
    learnt = frozenset({int(cases.image_id[0])})
    assert not learnt & set(draw_audit(source, None, learnt=learnt, subjects=5).image_id.tolist())


def test_photographs_without_people_fill_up(source: Source, tmp_path: Path) -> None:
    """Where people are too few, borrowed masks and segments on other photographs join them; those learnt from do not."""
    held_out = [number for number in range(9_000, 9_200) if split_of(number) != "train"][:12]
    for number in held_out:
        picture = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{number:012d}.png"), cv2.resize(picture, dsize=(160, 120)))
    people = draw_audit(source, None)
    filled = draw_audit(source, tmp_path, learnt=frozenset(held_out[:3]))
    added = set(filled.image_id.tolist()) - set(people.image_id.tolist())
    assert added
    assert added <= set(held_out[3:])


def test_source_without_held_out_photographs_is_refused(source: Source) -> None:
    """Where everything was learnt from there is nothing to audit on."""
    with pytest.raises(BadRequest, match=r"leaves fewer than two photographs of the splits val and test"):
        draw_audit(source, None, learnt=frozenset(range(100)))


def test_crops_fit_the_network(source: Source) -> None:
    """Cases are drawn in the size that a network takes."""
    found = draw_audit(source, None, subjects=2, side=48)
    assert found.crops.shape[1:] == (48, 48, 4)
    assert audit_checkpoint(network_of(side=48), found)["subjects"] == 2


def test_table_is_told_with_its_limits(cases: Cases) -> None:
    """The lines hold every figure of the table, the limits, and last what failed."""
    table = audit_checkpoint(network_of(), cases)
    lines = tell_audit(table)
    text = "\n".join(lines)
    assert f"{table['null']['mkl']:.3f}" in text
    assert f"{table['shift']['edit:mask_grown']:+.4f}" in text
    assert "0.47 to 0.53" in text
    assert "at most 0.02" in text
    assert lines[0] == "subjects: 5 (at least 300)"
    assert lines[-1].startswith("failed: 5 subjects, fewer than 300")
    assert tell_audit({**table, "subjects": 300, "passed": True})[-1] == "passed"


@pytest.mark.parametrize("write", [False, True])
def test_command_prints_marks_and_answers(
    write: bool,  # noqa: FBT001
    many_coco: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`hcoco audit` answers 1 for an audit that failed; only with --write the checkpoint's JSON says so."""
    save_checkpoint(network_of(), tmp_path / "net")
    before = read_about(tmp_path / "net")
    arguments = ["audit", str(tmp_path / "net.pt"), "--source", str(many_coco), "--json"]
    assert main(arguments + (["--write"] if write else [])) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("failures")[0].endswith("subjects, fewer than 300")
    assert not printed["passed"]
    assert read_about(tmp_path / "net") == ({**before, "audit": printed} if write else before)
