"""Train any harmonizer: with the loop of `realism.train`, or against a critic with that of `realism.train_adversarial`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realism.harmonizers.batch import Triplets
from realism.harmonizers.table import Adversary, build_harmonizer, known_harmonizer
from realism.train import Progress, fit
from realism.train_adversarial import Game, fit_adversarial


@dataclass(frozen=True)
class HarmonizerSettings:
    """Numbers of a training; stand in the checkpoint."""

    name: str
    shape: Any
    side: int = 256
    batch: int = 8
    steps: int = 40_000
    seed: int = 0
    learning_rate: float = 1e-3
    critic_rate: float = 2e-4
    rounds: int = 1
    """Batches that a critic learns from in a step; the network learns from the last of them."""
    beta: float = 0.5
    """Adam's decay of the mean gradient where there is a critic; else it is 0.9."""
    weight_decay: float = 0.0
    warmup: int = 50
    average: float = 0.995
    """Decay of the running average of the weights, which is what is kept."""
    save_every: int = 200
    half_on_cpu: bool = False
    """Mixed precision (bfloat16) on the CPU too, which saves time where the processor multiplies in it (AMX)."""
    origin: str = field(default="", kw_only=True)
    """Digest of what is learnt from; a state that was begun from something else is refused."""

    def identity(self) -> dict[str, Any]:
        """Return them as JSON holds them."""
        return {**asdict(self), "shape": {name: _plain(value) for name, value in asdict(self.shape).items()}}


def train_harmonizer(
    draw: Callable[[int], Triplets],
    settings: HarmonizerSettings,
    *,
    state: Path,
    device: str = "cpu",
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a harmonizer; arguments and errors are those of `realism.train.fit`.

    Args:
        draw: Number to batch, from 0 on; a step takes `rounds` of them.
        settings: Of the training.
        state: File that holds it.
        device: `cpu` or `cuda`.
        validate: Measures the averaged network.
        report: Told of each saved stretch.
    """
    known = known_harmonizer(settings.name)
    common: dict[str, Any] = {
        "identity": settings.identity(), "state": state, "device": device, "half_on_cpu": settings.half_on_cpu,
        "validate": validate, "report": report,
    }  # fmt: skip

    def build() -> nn.Module:
        return _channels_last(build_harmonizer(settings.name, settings.shape))

    def loss(model: nn.Module, batch: Triplets) -> Tensor:
        tensors = batch.on(device)
        return known.loss(model(tensors.composite, tensors.mask), tensors)

    if known.adversary is None:
        return fit(build, draw, loss, settings, **common)
    adversary = known.adversary
    game = _game(known.loss, adversary, rounds=settings.rounds, device=device)
    return fit_adversarial(lambda: (build(), adversary.build(settings.shape)), draw, game, settings, **common)


def _game(
    loss: Callable[[Tensor, Any], Tensor], adversary: Adversary, *, rounds: int, device: str
) -> Game[nn.Module, nn.Module, Triplets]:
    def of_model(model: nn.Module, critic: nn.Module, batch: Triplets) -> Tensor:
        tensors = batch.on(device)
        answer = model(tensors.composite, tensors.mask)
        return loss(answer, tensors) + adversary.deceive(critic, answer, tensors)

    def of_critic(model: nn.Module, critic: nn.Module, batch: Triplets) -> Tensor:
        tensors = batch.on(device)
        with torch.no_grad():
            answer = model(tensors.composite, tensors.mask)
        return adversary.tell_apart(critic, answer, tensors)

    return Game(of_model, of_critic, rounds=rounds, limit=adversary.limit)


def _channels_last(model: nn.Module) -> nn.Module:
    """Lay weights out as the pictures come; a quarter faster on the CPU."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
