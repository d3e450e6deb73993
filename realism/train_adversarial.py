"""Train a network against a critic: the loop of `realism.train` for two, with the same promises.

In each step the critic moves first, `rounds` times, then the network once. The network's weights are averaged, the
critic's are not: nobody uses it afterwards.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from realism.train import (
    Learnt,
    LoopSettings,
    Network,
    Progress,
    check_loss,
    decay_at,
    descend,
    follow,
    mixed_precision,
    restore_state,
    write_state,
)

Critic = TypeVar("Critic", bound=nn.Module)


class AdversarialSettings(LoopSettings, Protocol):
    """What the loop has to know beyond `LoopSettings`."""

    @property
    def critic_rate(self) -> float:
        """Return the critic's highest learning rate."""

    @property
    def beta(self) -> float:
        """Return Adam's decay of the mean gradient, for both."""


@dataclass(frozen=True)
class Game(Generic[Network, Critic, Learnt]):
    """What network and critic are taught."""

    loss: Callable[[Network, Critic, Learnt], Tensor]
    """Of the network, the critic held still; a scalar."""
    critic_loss: Callable[[Network, Critic, Learnt], Tensor]
    """Of the critic, the network held still; a scalar."""
    rounds: int = 1
    """Batches that the critic learns from in a step; the network learns from the last of them."""
    limit: Callable[[nn.Module], None] | None = None
    """Keeps the critic within bounds, before each of its rounds."""


def fit_adversarial(
    build: Callable[[], tuple[Network, Critic]],
    draw: Callable[[int], Learnt],
    game: Game[Network, Critic, Learnt],
    settings: AdversarialSettings,
    *,
    identity: Mapping[str, Any],
    state: Path,
    device: str = "cpu",
    half_on_cpu: bool = False,
    validate: Callable[[Network], Mapping[str, float]] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> tuple[Network, list[dict[str, float]]]:
    """Train both, or go on from `state` where it is there; return the averaged network and its history.

    Arguments and errors are those of `realism.train.fit`, but for:

    Args:
        build: Makes network and critic; called once, after torch's generator was seeded.
        draw: Number to batch, the same batch for the same number; step s takes `rounds` of them from s x rounds on.
        game: What is taught.
        settings: Of the loop.
        identity: All settings of the training, as JSON would hold them.
        state: File that holds the training.
        device: `cpu` or `cuda`; mixed precision on the latter, where a batch that does not fit is halved.
        half_on_cpu: Use mixed precision (bfloat16) on the CPU too.
        validate: Measures the averaged network after each stretch.
        report: Told of each stretch.

    Raises:
        ValueError: `state` is damaged or belongs to other settings.
        NotANumberLossError: A loss stopped being finite.
    """
    running = _begin(build, settings, device=device, half_on_cpu=half_on_cpu)
    if state.exists():
        _load(state, identity, running)
    started, losses = time.perf_counter(), []
    for step in range(running.step, settings.steps):
        _set_rates(running, step, settings)
        values = _step(running, draw, game)
        for value in values:
            check_loss(value, step=step, state=state, settings=settings)
        losses.append(values)
        follow(running.average, running.model, decay=decay_at(step, settings))
        running.step = step + 1
        if running.step % settings.save_every == 0 or running.step == settings.steps:
            measured = dict(validate(running.average)) if validate else {}
            loss, critic_loss = (float(mean) for mean in np.mean(losses, axis=0))
            running.history.append({"step": running.step, "loss": loss, "critic_loss": critic_loss, **measured})
            _save(state, identity, running)
            if report:
                seconds = time.perf_counter() - started
                report(Progress(running.step, loss, seconds, measured, running.history))
            losses = []
    return running.average.eval(), running.history


def linear_rate(step: int, settings: LoopSettings) -> float:
    """Return the share of the learning rate: 1 in the first half, then down to a fiftieth in a line (pix2pix, 2017)."""
    warm = min(1.0, (step + 1) / max(settings.warmup, 1))
    return warm * max(0.02, min(1.0, 2 * (1 - step / settings.steps)))


@dataclass
class _Running(Generic[Network, Critic]):
    """All that changes in a training of two, and in what precision it is computed."""

    model: Network
    critic: Critic
    average: Network
    optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    critic_scaler: torch.amp.GradScaler
    mixed: torch.autocast
    step: int = 0
    parts: int = 1
    history: list[dict[str, float]] = field(default_factory=list)

    def saved(self) -> dict[str, Any]:
        """Return what has a `state_dict`, by name."""
        names = ("model", "critic", "average", "optimizer", "critic_optimizer", "scaler", "critic_scaler")
        return {name: getattr(self, name) for name in names}


def _begin(
    build: Callable[[], tuple[Network, Critic]], settings: AdversarialSettings, *, device: str, half_on_cpu: bool
) -> _Running[Network, Critic]:
    torch.manual_seed(settings.seed)
    model, critic = build()
    model.to(device)
    critic.to(device)
    optimizers = [
        torch.optim.AdamW(
            network.parameters(),
            lr=rate,
            betas=(settings.beta, 0.999),
            weight_decay=settings.weight_decay,
            fused=device == "cpu",  # a quarter of the time of GP-GAN's 65 million weights
        )
        for network, rate in ((model, settings.learning_rate), (critic, settings.critic_rate))
    ]
    mixed, scaled = mixed_precision(device, enabled=device == "cuda" or half_on_cpu)
    scalers = [torch.amp.GradScaler(enabled=scaled) for _ in optimizers]
    return _Running(
        model=model,
        critic=critic,
        average=copy.deepcopy(model).eval(),
        optimizer=optimizers[0],
        critic_optimizer=optimizers[1],
        scaler=scalers[0],
        critic_scaler=scalers[1],
        mixed=mixed,
    )


def _set_rates(running: _Running[Network, Critic], step: int, settings: AdversarialSettings) -> None:
    share = linear_rate(step, settings)
    for optimizer, rate in (
        (running.optimizer, settings.learning_rate),
        (running.critic_optimizer, settings.critic_rate),
    ):
        for group in optimizer.param_groups:
            group["lr"] = rate * share


def _step(
    running: _Running[Network, Critic], draw: Callable[[int], Learnt], game: Game[Network, Critic, Learnt]
) -> tuple[float, float]:
    """Make one step and return the losses of network and critic; a loss that is not finite ends it."""
    model, critic = running.model, running.critic
    for number in range(running.step * game.rounds, (running.step + 1) * game.rounds):
        if game.limit is not None:
            game.limit(critic)
        batch = draw(number)
        critic_value, running.parts = descend(
            critic,
            running.critic_optimizer,
            running.critic_scaler,
            batch,
            lambda network, part: game.critic_loss(model, network, part),
            mixed=running.mixed,
            parts=running.parts,
            clip_norm=math.inf,
        )
        if not math.isfinite(critic_value):
            return 0.0, critic_value
    critic.requires_grad_(requires_grad=False)
    try:
        value, running.parts = descend(
            model,
            running.optimizer,
            running.scaler,
            batch,
            lambda network, part: game.loss(network, critic, part),
            mixed=running.mixed,
            parts=running.parts,
            clip_norm=math.inf,
        )
    finally:
        critic.requires_grad_(requires_grad=True)
    return value, critic_value


def _save(state: Path, identity: Mapping[str, Any], running: _Running[Network, Critic]) -> None:
    values = {name: part.state_dict() for name, part in running.saved().items()}
    write_state(state, identity, {"step": running.step, "parts": running.parts, "history": running.history, **values})


def _load(state: Path, identity: Mapping[str, Any], running: _Running[Network, Critic]) -> None:
    def restore(values: Mapping[str, Any]) -> None:
        for name, part in running.saved().items():
            part.load_state_dict(values[name])
        running.step, running.parts, running.history = values["step"], values["parts"], values["history"]

    restore_state(state, identity, restore)
