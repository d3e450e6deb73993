"""Train the fusion network with the loop of `realism.train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realism.fusion import FusionNet, FusionShape
from realism.losses import Features, colour_loss, perceptual_loss
from realism.train import Progress, fit

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class FusionBatch:
    """What one step learns from: N crops, all uint8."""

    foreground: Pictures
    """(N, S, S, 3), sRGB: the subject in its old surroundings."""
    background: Pictures
    """(N, S, S, 3), sRGB."""
    mask: Pictures
    """(N, S, S): the faulty mask that the network is given."""
    alpha: Pictures
    """(N, S, S): the matte."""
    subject: Pictures
    """(N, S, S, 3), sRGB: the subject's own colours, without what shone through from its old surroundings."""

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.mask)

    def split(self, parts: int) -> list[FusionBatch]:
        """Return it cut into `parts`, as even as can be."""
        layers = (self.foreground, self.background, self.mask, self.alpha, self.subject)
        pieces = zip(*(np.array_split(layer, parts) for layer in layers), strict=True)
        return [FusionBatch(*piece) for piece in pieces]


@dataclass(frozen=True)
class FusionSettings:
    """Numbers of a training; stand in the checkpoint. Published: 200,000 steps of 8 crops of 384 pixels."""

    steps: int = 4000
    seed: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    warmup: int = 50
    average: float = 0.995
    """Decay of the running average of the weights, which is what is kept."""
    perceptual: float = 0.8
    """Weight of the perceptual loss beside the colours'."""
    matte: float = 4.0
    """Weight of the squared difference of alpha: it tells of the edge where both scenes have one colour, and asks for
    the mean where the edge is doubtful, where the other two ask for all or nothing."""
    half_on_cpu: bool = True
    """Compute in bfloat16 on the CPU too; a third to a half of the time where the CPU knows it."""
    save_every: int = 200
    shape: FusionShape = field(default_factory=FusionShape)


def train_network(
    draw: Callable[[int], FusionBatch],
    settings: FusionSettings,
    *,
    features: Features | None,
    state: Path,
    start: FusionNet | None = None,
    origin: str = "",
    device: str = "cpu",
    validate: Callable[[FusionNet], Mapping[str, float]] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> tuple[FusionNet, list[dict[str, float]]]:
    """Train a fusion network; the other arguments and the errors are those of `realism.train.fit`.

    Args:
        draw: Step to batch.
        settings: With `perceptual` 0 no features are looked at.
        features: What the perceptual loss compares, on `device`.
        state: File that holds the training.
        start: Network to go on from, not changed; None begins with drawn weights.
        origin: Names what is learnt from, and `start`; a state that was begun from something else is refused.
        device: `cpu` or `cuda`.
        validate: Measures the averaged network.
        report: Told of each saved stretch.

    Raises:
        ValueError: A perceptual loss is wanted without features, or `start` has another shape.
    """
    if settings.perceptual and features is None:
        raise ValueError("features must be given where the perceptual loss has a weight")
    if start is not None and start.shape != settings.shape:
        raise ValueError(f"start must be of the shape {settings.shape}, got {start.shape}")

    def build() -> FusionNet:
        model = FusionNet(settings.shape)
        if start is not None:
            model.load_state_dict(start.state_dict())
        for parameter in model.parameters():
            if parameter.ndim == 4:  # a quarter faster on the CPU
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return model

    identity = {**asdict(settings), "origin": origin}
    identity["shape"]["widths"] = list(settings.shape.widths)
    return fit(
        build,
        draw,
        lambda model, batch: fusion_loss(model, batch, settings, features=features, device=device),
        settings,
        identity=identity,
        state=state,
        device=device,
        half_on_cpu=settings.half_on_cpu,
        validate=validate,
        report=report,
    )


def fusion_loss(
    model: FusionNet, batch: FusionBatch, settings: FusionSettings, *, features: Features | None, device: str
) -> Tensor:
    """Return the loss of a batch: colours, features, and for a network that tells an alpha, the alpha; a scalar."""
    foreground, background, mask, matte, subject = (
        tensor_of(layer, device=device)
        for layer in (batch.foreground, batch.background, batch.mask, batch.alpha, batch.subject)
    )
    wanted = matte * subject + (1 - matte) * background
    composite, alpha = model(foreground, background, mask)
    loss = colour_loss(composite, wanted)
    if settings.perceptual and features is not None:
        loss = loss + settings.perceptual * perceptual_loss(composite, wanted, matte, features=features)
    if settings.matte and settings.shape.head == "matte":
        loss = loss + settings.matte * (alpha - matte).square().mean()
    return loss


def tensor_of(layer: Pictures, *, device: str) -> Tensor:
    """Return uint8 pictures (N, H, W, 3) or masks (N, H, W) as float (N, C, H, W), 0..1."""
    values = torch.from_numpy(layer).to(device)
    values = values[:, None] if values.ndim == 3 else values.permute(0, 3, 1, 2)  # the latter is channels_last
    return values.float() / 255
