"""The harmonizers: what they answer, how they learn, and what becomes of a training that is cut off."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flows.harmonizer_settings import NETWORKS
from realism.harmonizers import HARMONIZERS, build_harmonizer
from realism.harmonizers.apply import answer_of
from realism.harmonizers.batch import Triplets
from realism.harmonizers.dovenet import DomainCritic
from realism.harmonizers.gp_gan import CRITIC_LIMIT, WassersteinCritic, keep_small
from realism.harmonizers.hsv_style import hsv_of, style_loss
from realism.harmonizers.layers import PartialConv, masked_mean
from realism.harmonizers.pix2pix import Pix2pix
from realism.harmonizers.teach import train_harmonizer
from realism.train import NotANumberLossError
from realism.train_adversarial import Game, fit_adversarial
from tests.realism.harmonizing import SHAPES, SIDE, foreground_psnr, settings_of, triplets

PHOTOGRAPHS = triplets()


def weights_of(model: nn.Module) -> list[bytes]:
    """Return the bytes of all weights."""
    return [tensor.contiguous().numpy().tobytes() for tensor in model.state_dict().values()]


def drawn(number: int) -> Triplets:
    """Return the batch of a number."""
    return triplets(seed=number, count=4)


def test_the_table_and_the_settings_name_the_same_networks() -> None:
    """Who must not load torch knows every name, and every network says who described it, and when."""
    assert tuple(HARMONIZERS) == NETWORKS
    assert set(SHAPES) == set(HARMONIZERS)
    for name, known in HARMONIZERS.items():
        assert re.search(r"\b(19|20)\d\d\b", known.source) or name == "attention_rgb"
        assert set(known.presets) == {"tiny", "paper"}


@pytest.mark.parametrize("preset", ["tiny", "paper"])
@pytest.mark.parametrize("name", NETWORKS)
def test_presets_fit_their_size(name: str, preset: str) -> None:
    """The network of every preset answers a picture of the preset's size; nothing is computed."""
    numbers = HARMONIZERS[name].presets[preset]
    with torch.device("meta"):
        model = build_harmonizer(name, numbers.shape).eval()
        answer = model(torch.zeros(2, 3, numbers.side, numbers.side), torch.zeros(2, 1, numbers.side, numbers.side))
    assert answer.shape == (2, 3, numbers.side, numbers.side)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_moves_every_weight(name: str) -> None:
    """A network answers 0..1 pictures as float32, and after two steps of its loss every weight tensor has moved."""
    torch.manual_seed(0)
    model, batch = build_harmonizer(name, SHAPES[name]), PHOTOGRAPHS.on("cpu")
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(2):  # a last layer that begins at zero lets the others have a gradient only then
        optimizer.zero_grad()
        answer = model(batch.composite, batch.mask)
        assert (answer.dtype, answer.shape) == (torch.float32, batch.real.shape)
        HARMONIZERS[name].loss(answer, batch).backward()
        optimizer.step()
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    # The fusion network's head `paint` has a fourth channel, of the alpha, that it does not use; no whole tensor of it.
    assert not still
    assert all(torch.isfinite(value).all() for value in model.parameters())


def test_an_unknown_network_and_a_foreign_shape_are_refused() -> None:
    """The errors name the argument, what came and what was wanted."""
    with pytest.raises(ValueError, match=r"name must be one of masked_unet, .*, got 'unet'"):
        build_harmonizer("unet")
    with pytest.raises(TypeError, match="shape must be a Pix2pixShape for pix2pix"):
        build_harmonizer("pix2pix", SHAPES["masked_unet"])


@pytest.mark.parametrize(
    ("colour", "wanted"),
    [
        ((1, 0, 0), (1, 0, 1, 1)),
        ((0, 0.5, 0), (-0.5, 3**0.5 / 2, 1, 0.5)),
        ((0.2, 0.2, 0.4), (-0.5, -(3**0.5) / 2, 0.5, 0.4)),
        ((0.7, 0.7, 0.7), (0, 0, 0, 0.7)),
        ((0, 0, 0), (0, 0, 0, 0)),
    ],
)
def test_hue_saturation_and_value_of_known_colours(colour: tuple[float, ...], wanted: tuple[float, ...]) -> None:
    """Red, green, a pale blue, grey and black have the hue, saturation and value that they have."""
    found = hsv_of(torch.tensor(colour, dtype=torch.float32).view(1, 3, 1, 1)).flatten()
    assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float32), atol=0.02)


def test_hsv_has_the_gradient_of_finite_differences() -> None:
    """Hue, saturation and value train: their gradients are those that small steps measure, and grey has finite ones."""
    generator = torch.Generator().manual_seed(5)
    picture = torch.rand(1, 3, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(hsv_of, (picture,), eps=1e-6, atol=1e-5)
    grey = torch.full((1, 3, 2, 2), 0.5).requires_grad_()
    hsv_of(grey).sum().backward()
    assert grey.grad is not None
    assert torch.isfinite(grey.grad).all()


@pytest.mark.parametrize("space", ["hsv", "rgb"])
def test_style_is_that_of_the_subject_alone(space: str) -> None:
    """The style loss is 0 for the photograph itself whatever lies outside the mask, and not for another hue inside."""
    batch = PHOTOGRAPHS.on("cpu")
    elsewhere = torch.where(batch.mask > 0, batch.real, torch.rand_like(batch.real))
    assert float(style_loss(elsewhere, batch, space=space)) == pytest.approx(0, abs=1e-5)  # type: ignore[arg-type]
    turned = batch.real.roll(1, 1).requires_grad_()  # red becomes green: same saturation, same value
    loss = style_loss(turned, batch, space=space)  # type: ignore[arg-type]
    loss.backward()
    assert float(loss.detach()) > 0.01
    assert turned.grad is not None
    assert float(turned.grad.abs().sum()) > 0


def test_a_partial_convolution_sees_through_its_mask_only() -> None:
    """Hidden pixels have no say, a mask of ones makes it a plain convolution, and where nothing is seen it says 0."""
    torch.manual_seed(1)
    layer = PartialConv(3, 4)
    values, mask = torch.rand(1, 3, 12, 16), torch.zeros(1, 1, 12, 16)
    mask[..., 3:8, 4:9] = 1
    with torch.no_grad():
        seen, where = layer(values, mask)
        assert torch.equal(seen, layer(torch.where(mask > 0, values, 7.0), mask)[0])
        assert not seen[..., 5:, 6:].any()
        assert where.shape == (1, 1, 6, 8)
        assert not where[..., 5:, 6:].any()
        plain = layer.conv(values)
        assert torch.allclose(layer(values, torch.ones_like(mask))[0][..., 1:, 1:], plain[..., 1:, 1:], atol=1e-5)
    assert torch.allclose(masked_mean(values, mask), values[..., 3:8, 4:9].mean((2, 3)))
    assert not masked_mean(values, torch.zeros_like(mask)).any()


def test_the_domain_of_a_subject_does_not_depend_on_its_scene() -> None:
    """DoveNet's verification sees subject and scene apart."""
    torch.manual_seed(2)
    critic, batch = DomainCritic(SHAPES["dovenet"]).eval(), PHOTOGRAPHS.on("cpu")
    hard = (batch.mask > 0).float()
    with torch.no_grad():
        subject = critic.domain(batch.composite, hard)
        assert torch.equal(subject, critic.domain(batch.composite * hard, hard))
        assert not torch.allclose(critic.domain(batch.composite, 1 - hard), critic.domain(batch.real * hard, 1 - hard))


def test_the_wasserstein_critic_is_kept_small() -> None:
    """No weight of the critic is farther from 0 than its limit."""
    critic = WassersteinCritic(SHAPES["gp_gan"])
    keep_small(critic)
    assert max(float(value.detach().abs().max()) for value in critic.parameters()) <= CRITIC_LIMIT


def test_pix2pix_drops_out_at_test_but_not_by_chance() -> None:
    """The network's own answers differ from call to call; `answer_of` draws from one seed and leaves torch's alone."""
    model = Pix2pix(dataclasses.replace(SHAPES["pix2pix"], dropout=0.5)).eval()
    tensors = PHOTOGRAPHS.on("cpu")
    with torch.no_grad():
        first, second = (model(tensors.composite, tensors.mask) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    one, other = (answer_of(model, PHOTOGRAPHS.composite[0], PHOTOGRAPHS.mask[0]) for _ in range(2))
    assert np.array_equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["masked_unet", "pix2pix"])
def test_same_seed_same_weights_and_losses(name: str, tmp_path: Path) -> None:
    """Two trainings of one seed end in the same bits and the same losses, another seed in others."""
    trained = [
        train_harmonizer(drawn, settings_of(name, seed=seed), state=tmp_path / state)
        for seed, state in ((0, "a"), (0, "b"), (1, "c"))
    ]
    assert trained[0][1] == trained[1][1] != trained[2][1]
    assert weights_of(trained[0][0]) == weights_of(trained[1][0]) != weights_of(trained[2][0])


@pytest.mark.parametrize("name", ["masked_unet", "dovenet", "gp_gan"])
def test_a_training_that_stopped_goes_on_to_the_same_weights(name: str, tmp_path: Path) -> None:
    """Stopped between two saved stretches, a training ends as an undisturbed one: weights, critic and history."""
    rounds = 5 if name == "gp_gan" else 1
    settings = settings_of(name, rounds=rounds)

    def stopping(number: int) -> Triplets:
        if number == 3 * rounds:
            raise KeyboardInterrupt
        return drawn(number)

    with pytest.raises(KeyboardInterrupt):
        train_harmonizer(stopping, settings, state=tmp_path / "state")
    asked: list[int] = []
    model, history = train_harmonizer(
        lambda number: asked.append(number) or drawn(number), settings, state=tmp_path / "state"
    )
    undisturbed = train_harmonizer(drawn, settings, state=tmp_path / "other")
    assert asked == list(range(2 * rounds, 4 * rounds))
    assert weights_of(model) == weights_of(undisturbed[0])
    assert history == undisturbed[1]
    assert torch.load(tmp_path / "state", weights_only=True)["history"] == history


def test_a_killed_training_with_critic_and_dropout_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """After a kill -9, pix2pix ends in the weights of a training that nobody killed."""
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "import tests.realism.test_harmonizers as t; from pathlib import Path\n"
        "kill = lambda number: os.kill(os.getpid(), 9) if number == 3 else t.drawn(number)\n"
        "t.train_harmonizer(kill, t.with_dropout(), state=Path(sys.argv[1]))"
    )
    root, state = Path(__file__).resolve().parents[2], tmp_path / "state"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, "-c", program, str(state), str(root)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(state, weights_only=True)["step"] == 2
    model, _ = train_harmonizer(drawn, with_dropout(), state=state)
    undisturbed, _ = train_harmonizer(drawn, with_dropout(), state=tmp_path / "other")
    assert weights_of(model) == weights_of(undisturbed)


def with_dropout():  # noqa: ANN201 - HarmonizerSettings, as `settings_of` returns
    """Return settings of pix2pix with dropout."""
    settings = settings_of("pix2pix")
    return dataclasses.replace(settings, shape=dataclasses.replace(settings.shape, dropout=0.5))


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    """Another learning rate, another network or a damaged file is told in one line, and the file stays."""
    state = tmp_path / "state"
    train_harmonizer(drawn, settings_of("pix2pix"), state=state)
    whole = state.read_bytes()
    for other in (settings_of("pix2pix", learning_rate=5e-4), settings_of("dovenet"), settings_of("masked_unet")):
        with pytest.raises(ValueError, match="begun with other settings"):
            train_harmonizer(drawn, other, state=state)
    assert state.read_bytes() == whole
    state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no training that can go on"):
        train_harmonizer(drawn, settings_of("pix2pix"), state=state)


class _Level(nn.Module):
    """One number."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.ones(()))


def _game(loss: Tensor | None = None, *, critic_loss: float = 1.0) -> Game[_Level, _Level, Triplets]:
    def of_model(model: _Level, _critic: _Level, batch: Triplets) -> Tensor:
        return (model.level - float(batch.real.mean())) ** 2 if loss is None else loss * model.level

    return Game(of_model, lambda _model, critic, _batch: critic_loss * critic.level)


@pytest.mark.parametrize("whose", ["network", "critic"])
def test_a_loss_that_is_no_number_keeps_the_last_good_state(whose: str, tmp_path: Path) -> None:
    """Of network or critic, at step 3: the state of step 2 stays, with finite weights."""
    nan = float("nan")
    bad = _game(torch.tensor(nan)) if whose == "network" else _game(critic_loss=nan)
    good, state, step = _game(), tmp_path / "state", [0]

    def at(name: str):  # noqa: ANN202
        def loss(model: _Level, critic: _Level, batch: Triplets) -> Tensor:
            return getattr(bad if step[0] >= 3 else good, name)(model, critic, batch)

        return loss

    def draw(number: int) -> Triplets:
        step[0] = number
        return drawn(number)

    game = Game(at("loss"), at("critic_loss"))
    with pytest.raises(NotANumberLossError, match="the loss is nan at step 3"):
        fit_adversarial(lambda: (_Level(), _Level()), draw, game, settings_of("pix2pix"), identity={}, state=state)
    saved = torch.load(state, weights_only=True)
    assert saved["step"] == 2
    assert all(torch.isfinite(saved[part]["level"]) for part in ("model", "critic", "average"))


def test_where_memory_is_too_small_the_batch_is_halved(tmp_path: Path) -> None:
    """A batch that does not fit goes through in halves, to the weights that the whole batch gives."""

    def trained(name: str, *, most: int) -> float:
        sizes: list[int] = []

        def loss(model: _Level, _critic: _Level, batch: Triplets) -> Tensor:
            sizes.append(len(batch))
            if len(batch) > most:
                raise torch.OutOfMemoryError
            return (model.level - float(batch.real.mean()) / 255) ** 2

        game = Game(loss, lambda _model, critic, _batch: critic.level**2)
        settings = settings_of("pix2pix")
        model, _ = fit_adversarial(
            lambda: (_Level(), _Level()),
            lambda number: triplets(seed=number),
            game,
            settings,
            identity={},
            state=tmp_path / name,
        )
        assert sizes[-1] == min(most, 8)
        return float(model.level.detach())

    assert trained("halves", most=4) == pytest.approx(trained("whole", most=8), abs=1e-6)


STEPS = {"masked_unet": 90, "pix2pix": 120, "gp_gan": 160}
RATES = {"masked_unet": 6e-3, "multi_stream": 6e-3, "gp_gan": 3e-3}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_overfits_eight_triplets(name: str, tmp_path: Path) -> None:
    """Inside the mask it comes 10 dB nearer to the photographs than no change; GP-GAN on copy-paste pairs."""
    batch, steps = triplets(pasted=name == "gp_gan"), STEPS.get(name, 140)
    settings = settings_of(
        name, steps=steps, save_every=steps, warmup=10, average=0.95, learning_rate=RATES.get(name, 4e-3)
    )
    model, _ = train_harmonizer(lambda _number: batch, settings, state=tmp_path / "state")
    answers = np.stack([answer_of(model, *pair) for pair in zip(batch.composite, batch.mask, strict=True)])
    assert answers.shape == (8, SIDE, SIDE, 3)
    assert foreground_psnr(answers, batch) > foreground_psnr(batch.composite, batch) + 10
