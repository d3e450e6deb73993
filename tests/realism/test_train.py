"""Training: it learns, it repeats itself, it goes on after a kill, it stops on nonsense."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from realism import Batch, Shape, TrainSettings
from realism.train import NotANumberLossError, loss_of, rate_at, split_batch, train

SMALL = TrainSettings(steps=6, save_every=3, seed=1, warmup=2, shape=Shape(side=32, width=8, hidden=32))


def draw(step: int) -> Batch:
    """Draw 4 groups of a natural and an edit: the edit is brighter inside."""
    rng = np.random.default_rng(step)
    crops = rng.integers(60, 120, (8, 32, 32, 4), dtype=np.uint8)
    crops[..., 3] = 0
    crops[:, 8:24, 10:20, 3] = 255
    crops[1::2, 8:24, 10:20, :3] += 90
    natural = np.tile(np.array([1, 0], np.float32), 4)
    changes = np.zeros((8, 6), np.float32)
    changes[1::2, 0] = 1
    order = np.arange(8).reshape(4, 2)
    return Batch(crops, natural, np.ones(8, np.float32), changes, order)


def weights_of(model: torch.nn.Module) -> list[bytes]:
    """Return the bytes of all weights."""
    return [tensor.numpy().tobytes() for tensor in model.state_dict().values()]


def test_one_batch_can_be_learnt_by_heart(tmp_path: Path) -> None:
    """The network tells naturals from edits of one batch after 40 steps on it."""
    shape = Shape(side=32, width=8, hidden=32, dropout=0)
    settings = TrainSettings(steps=40, save_every=40, warmup=2, average=0.8, change=5.0, shape=shape)
    model, history = train(lambda _: draw(0), settings, state=tmp_path / "state")
    with torch.inference_mode():
        logits, changes = model(torch.from_numpy(draw(0).crops))
    assert logits[::2].min() > 0 > logits[1::2].max()
    assert changes[1::2, 0].min() > changes[::2, 0].max()
    assert history[0]["step"] == 40


def test_same_seed_same_weights(tmp_path: Path) -> None:
    """Two trainings of one seed end in the same bits, another seed in others."""
    first, second = (train(draw, SMALL, state=tmp_path / name)[0] for name in ("a", "b"))
    other = train(draw, TrainSettings(**{**vars(SMALL), "seed": 2}), state=tmp_path / "c")[0]
    assert weights_of(first) == weights_of(second)
    assert weights_of(first) != weights_of(other)


def test_same_seed_same_loss() -> None:
    """The loss of a fresh network on a batch is a function of the seed."""
    from realism import Discriminator

    losses = []
    for _ in range(2):
        torch.manual_seed(7)
        losses.append(float(loss_of(Discriminator(SMALL.shape), draw(1), SMALL, device="cpu").detach()))
    assert losses[0] == losses[1]


def test_killed_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """After a kill -9 between two saved stretches, the same call ends in the same weights as an undisturbed one."""
    program = (
        "import os, sys; sys.path[:0] = sys.argv[2:]; import test_train as t; from pathlib import Path\n"
        "kill = lambda step: os.kill(os.getpid(), 9) if step == 4 else t.draw(step)\n"
        "t.train(kill, t.SMALL, state=Path(sys.argv[1]))"
    )
    here = Path(__file__).resolve().parent
    state = tmp_path / "state"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", program, str(state), str(here), str(here.parents[1])]
    killed = subprocess.run(command, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert state.exists()
    resumed, history = train(draw, SMALL, state=state)
    undisturbed, whole = train(draw, SMALL, state=tmp_path / "other")
    assert weights_of(resumed) == weights_of(undisturbed)
    assert history == whole


def test_finished_training_is_not_done_again(tmp_path: Path) -> None:
    """Asked again, a finished training returns the same network without drawing a batch."""
    first, _ = train(draw, SMALL, state=tmp_path / "state")

    def refuse(step: int) -> Batch:
        raise AssertionError(f"step {step} was drawn")

    again, _ = train(refuse, SMALL, state=tmp_path / "state")
    assert weights_of(first) == weights_of(again)


@pytest.mark.parametrize("spoil", [lambda data: data[:100], lambda _: b"", lambda _: b"nonsense"])
def test_damaged_state_is_refused(spoil, tmp_path: Path) -> None:  # noqa: ANN001 - a function of bytes
    """A truncated or foreign state is refused in one line."""
    train(draw, SMALL, state=tmp_path / "state")
    (tmp_path / "state").write_bytes(spoil((tmp_path / "state").read_bytes()))
    with pytest.raises(ValueError, match="no training that can go on"):
        train(draw, SMALL, state=tmp_path / "state")


@pytest.mark.parametrize("how", ["packed", "a long pickle", "old format"])
def test_state_that_may_stand_for_gigabytes_is_refused(how: str, tmp_path: Path) -> None:
    """What a training wrote is an archive of which nothing is packed, with a short pickle."""
    train(draw, SMALL, state=tmp_path / "state")
    values = torch.load(tmp_path / "state", weights_only=True)
    if how == "old format":
        torch.save(values, tmp_path / "state", _use_new_zipfile_serialization=False)
    else:
        with zipfile.ZipFile(tmp_path / "state") as whole:
            members = {name: whole.read(name) for name in whole.namelist()}
        packed = zipfile.ZIP_DEFLATED if how == "packed" else zipfile.ZIP_STORED
        with zipfile.ZipFile(tmp_path / "state", "w", packed) as forged:
            for name, content in members.items():
                forged.writestr(name, content + bytes(2_000_000 * (how == "a long pickle" and name.endswith(".pkl"))))
    with pytest.raises(ValueError, match="no training that can go on"):
        train(draw, SMALL, state=tmp_path / "state")


def test_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    """A training does not go on with other settings than it was begun with."""
    train(draw, SMALL, state=tmp_path / "state")
    with pytest.raises(ValueError, match="begun with other settings"):
        train(draw, TrainSettings(**{**vars(SMALL), "rank": 0.5}), state=tmp_path / "state")


def test_loss_that_is_no_number_stops_and_keeps_what_was_good(tmp_path: Path) -> None:
    """A NaN loss stops the training; the state saved before it is unchanged and finite."""

    def spoilt(step: int) -> Batch:
        batch = draw(step)
        return batch if step < 4 else Batch(**{**vars(batch), "weights": batch.weights * np.float32("nan")})

    with pytest.raises(NotANumberLossError, match="step 4"):
        train(spoilt, SMALL, state=tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    assert state["step"] == 3
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["model"].values())


def test_too_little_memory_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the network runs out of memory the batch goes through it in halves, and training goes on."""
    sizes = []
    plain = loss_of

    def greedy(model: torch.nn.Module, batch: Batch, settings: TrainSettings, *, device: str) -> torch.Tensor:
        sizes.append(len(batch.crops))
        if len(batch.crops) > 4:
            raise torch.OutOfMemoryError("too much")
        return plain(model, batch, settings, device=device)

    monkeypatch.setattr("realism.train.loss_of", greedy)
    _, history = train(draw, SMALL, state=tmp_path / "state")
    assert sizes[:3] == [8, 4, 4]
    assert max(sizes[3:]) == 4
    assert np.isfinite(history[-1]["loss"])


def test_split_batch_keeps_pairs_inside() -> None:
    """Halves hold every crop once, and the pairs that lie within them."""
    batch = draw(0)
    halves = split_batch(batch, 2)
    assert np.array_equal(np.concatenate([half.crops for half in halves]), batch.crops)
    assert [half.order.tolist() for half in halves] == [[[0, 1], [2, 3]]] * 2


def test_learning_rate_rises_then_falls() -> None:
    """The rate warms up to the setting and ends near a fiftieth of it."""
    settings = TrainSettings(steps=1000, warmup=10, learning_rate=1.0)
    assert rate_at(0, settings) == pytest.approx(0.1)
    assert rate_at(9, settings) == pytest.approx(1.0, abs=0.01)
    assert rate_at(999, settings) == pytest.approx(0.02, abs=0.001)
