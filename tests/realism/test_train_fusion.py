"""Training the fusion network: it repairs masks, repeats itself, goes on after a kill, starts from another."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from realism.fusion import FusionNet, FusionShape
from realism.fusion_checkpoint import FusionCheckpoint, load_fusion, save_fusion
from realism.train_fusion import FusionBatch, FusionSettings, fusion_loss, tensor_of, train_network

SHAPE = FusionShape(widths=(6, 8, 8, 8), detail=6)
SMALL = FusionSettings(steps=6, save_every=3, warmup=2, perceptual=0, shape=SHAPE)


def draw(step: int) -> FusionBatch:
    """Draw red boxes on grey, to be laid over noise, with masks that are 2 pixels too large on every side."""
    rng = np.random.default_rng(step)
    alpha, mask = np.zeros((2, 32, 48), np.uint8), np.zeros((2, 32, 48), np.uint8)
    alpha[:, 8:24, 12:36] = 255
    mask[:, 6:26, 10:38] = 255
    subject = np.full((2, 32, 48, 3), (200, 40, 40), np.uint8)
    foreground = np.where(alpha[..., None] > 0, subject, np.uint8(90))
    background = rng.integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    return FusionBatch(foreground, background, mask, alpha, subject)


def weights_of(model: torch.nn.Module) -> list[bytes]:
    """Return the bytes of all weights."""
    return [tensor.contiguous().numpy().tobytes() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("streams", [1, 2])
def test_it_learns_to_repair_the_mask(streams: int, tmp_path: Path) -> None:
    """After 60 steps the rim that the mask has too much is mostly background, and the subject is kept."""
    settings = dataclasses.replace(
        SMALL,
        steps=60,
        save_every=60,
        average=0.8,
        learning_rate=5e-3,
        shape=dataclasses.replace(SHAPE, streams=streams),
    )
    model, history = train_network(draw, settings, features=None, state=tmp_path / "state")
    batch = draw(1000)
    layers = [tensor_of(layer, device="cpu") for layer in (batch.foreground, batch.background, batch.mask)]
    with torch.inference_mode():
        alpha = model(*layers)[1][:, 0].numpy()
    rim = (batch.mask > 0) & (batch.alpha == 0)
    assert alpha[rim].mean() < 0.3
    assert alpha[batch.alpha > 0].mean() > 0.9
    assert history[-1]["loss"] < 0.05


def test_same_seed_same_weights(tmp_path: Path) -> None:
    """Two trainings of one seed end in the same bits, another seed in others."""
    first, second, other = (
        train_network(draw, dataclasses.replace(SMALL, seed=seed), features=None, state=tmp_path / name)[0]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert weights_of(first) == weights_of(second) != weights_of(other)


def test_killed_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """After a kill -9 between two saved stretches, the same call ends in the same weights as an undisturbed one."""
    program = (
        "import os, sys; sys.path[:0] = sys.argv[2:]; import test_train_fusion as t; from pathlib import Path\n"
        "kill = lambda step: os.kill(os.getpid(), 9) if step == 4 else t.draw(step)\n"
        "t.train_network(kill, t.SMALL, features=None, state=Path(sys.argv[1]))"
    )
    here, state = Path(__file__).resolve().parent, tmp_path / "state"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", program, str(state), str(here), str(here.parents[1])]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert state.exists()
    resumed, _ = train_network(draw, SMALL, features=None, state=state)
    undisturbed, _ = train_network(draw, SMALL, features=None, state=tmp_path / "other")
    assert weights_of(resumed) == weights_of(undisturbed)


def test_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    """A training does not go on with other settings, a network's shape among them, nor with other photographs."""
    train_network(draw, SMALL, features=None, state=tmp_path / "state")
    for other in (dataclasses.replace(SMALL, matte=0.5), dataclasses.replace(SMALL, shape=FusionShape())):
        with pytest.raises(ValueError, match="begun with other settings"):
            train_network(draw, other, features=None, state=tmp_path / "state")
    with pytest.raises(ValueError, match="begun with other settings"):
        train_network(draw, SMALL, features=None, state=tmp_path / "state", origin="other photographs")


def test_second_stage_begins_where_the_first_ended(tmp_path: Path) -> None:
    """A network given as start is where the training begins, and is not changed."""
    torch.manual_seed(5)
    first = FusionNet(SHAPE)
    before = weights_of(first)
    still = dataclasses.replace(SMALL, steps=1, save_every=1, learning_rate=0.0)
    model, _ = train_network(draw, still, features=None, state=tmp_path / "state", start=first)
    assert torch.equal(model.edge[0].weight, first.edge[0].weight)
    assert weights_of(first) == before
    with pytest.raises(ValueError, match="start must be of the shape"):
        train_network(draw, still, features=None, state=tmp_path / "x", start=FusionNet(FusionShape()))


def test_perceptual_loss_needs_features(tmp_path: Path) -> None:
    """A weight without features is a mistake of the caller, said before anything is trained."""
    with pytest.raises(ValueError, match="features must be given"):
        train_network(draw, FusionSettings(), features=None, state=tmp_path / "state")


def test_right_composite_has_no_loss() -> None:
    """With the matte as mask and nothing behind the edge, a network that copies has a small loss, a wrong mask more."""
    model = FusionNet(SHAPE).eval()
    batch = draw(0)
    right = dataclasses.replace(batch, mask=batch.alpha)
    losses = [float(fusion_loss(model, given, SMALL, features=None, device="cpu").detach()) for given in (right, batch)]
    assert losses[0] < losses[1]


def test_batch_is_cut_as_even_as_can_be() -> None:
    """Halves hold every crop once."""
    parts = draw(0).split(2)
    assert [len(part) for part in parts] == [1, 1]
    assert np.array_equal(np.concatenate([part.background for part in parts]), draw(0).background)


def test_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    """Weights, shape, ids and lineage survive; the digest is the file's."""
    torch.manual_seed(2)
    kept = FusionCheckpoint(
        FusionNet(SHAPE).eval(), 2, frozenset({7, 3}), "data", {"steps": 1}, "parent", {"psnr": 1.5}
    )
    digest = save_fusion(kept, tmp_path / "net.pt")
    back = load_fusion(tmp_path / "net")
    assert weights_of(back.model) == weights_of(kept.model)
    assert back.model.shape == SHAPE
    assert (back.stage, back.image_ids, back.parent, back.digest) == (2, frozenset({3, 7}), "parent", digest)


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    """A realism checkpoint is no fusion checkpoint, and one whose JSON speaks of another shape is damaged."""
    from realism import Checkpoint, Discriminator, Shape, save_checkpoint

    save_checkpoint(Checkpoint(Discriminator(Shape(side=32, width=8, hidden=32))), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="architecture"):
        load_fusion(tmp_path / "other.pt")
    save_fusion(FusionCheckpoint(FusionNet(SHAPE)), tmp_path / "net.pt")
    about = (tmp_path / "net.json").read_text()
    for wrong in ('"streams": 1', '"streams": 9', '"streams": null'):
        (tmp_path / "net.json").write_text(about.replace('"streams": 2', wrong))
        with pytest.raises(ValueError, match="damaged"):
            load_fusion(tmp_path / "net.pt")
