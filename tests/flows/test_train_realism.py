"""`train-realism`: as a command, killed and continued, refused, and as a flow under a real, temporary Prefect server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.cli import BAD_REQUEST, DAMAGE, DONE, main
from flows.make.realism import SHAPES
from flows.store.layout import TrainingLayout
from realism import load_checkpoint
from realism.vgg import VggShape
from tests.conftest import write_coco

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12

Capture = pytest.CaptureFixture[str]


def arguments(source: Path, output: Path, *more: object) -> list[str]:
    """Return the arguments of a short training."""
    words = ("train-realism", "--source", source, "--output", output, "--steps", STEPS, "--groups", 2, *more)
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of trainings, whose cases are drawn once."""
    return tmp_path_factory.mktemp("trainings")


@pytest.fixture(scope="module")
def trained(tiny_coco: Path, output: Path) -> TrainingLayout:
    """Train undisturbed."""
    assert main(arguments(tiny_coco, output, "--name", "whole", "--json")) == DONE
    return TrainingLayout(output / "whole")


def test_a_training_writes_checkpoint_scores_and_report(trained: TrainingLayout, tiny_coco: Path) -> None:
    """The checkpoint can be loaded and says what it learnt from, without a path of this machine."""
    checkpoint = load_checkpoint(trained.checkpoint)
    assert checkpoint.image_ids
    assert set(checkpoint.metrics) == {"val"}
    assert not checkpoint.audit_passed  # eight subjects are too few
    assert [row["step"] for row in checkpoint.settings["history"]] == list(range(1, STEPS + 1))
    assert str(tiny_coco.parent) not in (trained.folder / "whole.json").read_text()
    assert set(json.loads(trained.scores.read_bytes())) == {"val"}
    assert trained.report.is_file()


def test_the_command_says_what_came_out(
    trained: TrainingLayout, tiny_coco: Path, output: Path, capsys: Capture
) -> None:
    """A finished training that is asked for again is measured again, to the same bytes, and told in a few lines."""
    before = (trained.folder / "whole.pt").read_bytes(), (trained.folder / "whole.json").read_bytes()
    capsys.readouterr()
    assert main(arguments(tiny_coco, output, "--name", "whole")) == DONE
    text = capsys.readouterr().out
    assert text.startswith("learning from ")
    assert "failed: 8 subjects, fewer than 300" in text
    assert text.splitlines()[-1] == f"report: {trained.report}"
    assert before == ((trained.folder / "whole.pt").read_bytes(), (trained.folder / "whole.json").read_bytes())


def test_a_training_killed_by_9_ends_in_the_same_weights(
    trained: TrainingLayout, tiny_coco: Path, output: Path, capsys: Capture
) -> None:
    """Killed after some steps and begun again, a training ends in the weights of an undisturbed one, bit by bit."""
    layout = TrainingLayout(output / "killed")
    command = [sys.executable, "-m", "flows.cli", *arguments(tiny_coco, output, "--name", "killed")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        limit = time.monotonic() + 240
        while not layout.state.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        _, error = process.communicate(timeout=60)
    assert process.returncode == -9, error
    assert 1 <= torch.load(layout.state, weights_only=True)["step"] < STEPS
    assert not (layout.folder / "killed.pt").exists()
    capsys.readouterr()
    assert main(arguments(tiny_coco, output, "--name", "killed", "--json")) == DONE
    assert json.loads(capsys.readouterr().out)["checkpoint"] == str(layout.folder / "killed.pt")
    assert (layout.folder / "killed.pt").read_bytes() == (trained.folder / "whole.pt").read_bytes()
    assert not list(layout.folder.glob("**/*.tmp"))


def test_a_loss_that_is_no_number_is_exit_code_1(
    trained: TrainingLayout, tiny_coco: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A NaN loss ends the training in one line; the last good state stays, and no checkpoint is written."""
    from flows.make import realism

    plain, calls = realism.loss_of, []

    def spoilt(*positional: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        return plain(*positional, **options) * (float("nan") if len(calls) > 3 else 1.0)

    monkeypatch.setattr(realism, "loss_of", spoilt)
    assert main(arguments(tiny_coco, output, "--name", "spoilt", "--json")) == DAMAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the loss is nan at step 3; what was saved last stays in training.state" in error
    state = torch.load(output / "spoilt" / "training.state", weights_only=True)
    assert state["step"] == 3
    assert not (output / "spoilt" / "spoilt.pt").exists()
    assert trained.folder.is_dir()


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "photos": (("--photos", "nowhere"), "the folder of photographs nowhere does not exist"),
    "family": (("--without", "sepia"), "unknown family 'sepia'"),
    "weights": (("--vgg16-weights", "some.pth"), "vgg16_weights are for the network vgg16"),
    "missing weights": (("--network", "vgg16", "--vgg16-weights", "some.pth", "--name", "vgg"), "some.pth"),
    "source": (("--source", "nowhere"), "does not exist"),
    "name": (("--name", "a/b"), "setting name"),
    "other seed": (("--seed", "7", "--name", "whole"), "begun with other seed"),
}


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_one_line(case: str, tiny_coco: Path, output: Path, capsys: Capture) -> None:
    """A request that cannot be met ends with exit code 2 and one line that says why."""
    options, words = REFUSED[case]
    capsys.readouterr()
    assert main(arguments(tiny_coco, output, "--json", *options)) == BAD_REQUEST
    error = capsys.readouterr().err
    assert error.startswith("hcoco train-realism: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_an_accelerator_that_is_not_there_is_refused(tiny_coco: Path, output: Path, capsys: Capture) -> None:
    """`cuda` without one is a bad request, not a fall-back."""
    assert main(arguments(tiny_coco, output, "--device", "cuda")) == BAD_REQUEST
    assert "give auto or cpu" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["training.state", "cases"])
def test_damaged_files_are_one_line(name: str, tiny_coco: Path, tmp_path: Path, capsys: Capture) -> None:
    """A state or cases that cannot be read are named, and what to do about them."""
    short = arguments(tiny_coco, tmp_path, "--name", "short", "--steps", 1, "--json")
    assert main(short) == DONE
    path = next(tmp_path.glob("cases/*/val.npz")) if name == "cases" else tmp_path / "short" / name
    path.write_bytes(path.read_bytes()[:100])
    capsys.readouterr()
    assert main(short) == BAD_REQUEST
    error = capsys.readouterr().err
    assert str(path) in error
    assert "remove it" in error


def test_vgg16_can_be_trained(
    tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The other network goes the same way; its checkpoint says of which kind it is."""
    monkeypatch.setitem(SHAPES, "vgg16", VggShape(side=32, width=4, hidden=8))  # type: ignore[arg-type]
    assert main(arguments(tiny_coco, tmp_path, "--network", "vgg16", "--name", "vgg", "--steps", 1, "--json")) == DONE
    assert load_checkpoint(Path(json.loads(capsys.readouterr().out)["checkpoint"])).model.shape.architecture == "vgg16"


@pytest.mark.usefixtures("_prefect")
def test_the_flow_trains_and_shows_it(tiny_coco: Path, output: Path, trained: TrainingLayout) -> None:
    """The flow ends in the weights of the command, and leaves progress, figures and a summary in Prefect."""
    from flows.train_realism import train_realism

    outcome: Any = train_realism(source=str(tiny_coco), output=str(output), name="flow", steps=STEPS, groups=2)
    assert outcome["training"] == str(output / "flow")
    assert (output / "flow" / "flow.pt").read_bytes() == (trained.folder / "whole.pt").read_bytes()
    assert (output / "flow" / "report" / "index.html").is_file()
    keys = ["train-realism-progress", "train-realism-figures", "train-realism-summary"]
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=keys)))
    assert {artifact.key for artifact in found} == set(keys)


@pytest.mark.usefixtures("_prefect")
def test_a_flow_that_cannot_be_met_fails_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Too few photographs, and a loss that is no number, are the flow's message, without a traceback."""
    from flows.train_realism import train_realism

    short: dict[str, Any] = {"source": str(tmp_path / "coco"), "output": str(tmp_path), "steps": 2, "groups": 1}
    write_coco(tmp_path / "coco", images=4)
    state: Any = train_realism(**short, return_state=True)
    assert "too few photographs with people in the split `val`" in str(state.message)
    write_coco(tmp_path / "coco", images=16)
    monkeypatch.setattr("flows.make.realism.loss_of", lambda *_, **__: torch.tensor(float("nan"), requires_grad=True))
    state = train_realism(**short, return_state=True)
    assert state.is_failed()
    assert "the loss is nan at step 0" in str(state.message)
    assert "Traceback" not in caplog.text
