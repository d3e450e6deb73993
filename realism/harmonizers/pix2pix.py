"""pix2pix, as the selfie-compositing work that this project goes back to describes it.

Isola, Zhu, Zhou, Efros: Image-to-Image Translation with Conditional Adversarial Networks, 2017: a U-Net with dropout
at training and at test, and a discriminator of patches that sees the input too. That work changed it in three ways: two
convolutions at full size come before the first halving, the discriminator is made of wide residual blocks (Zagoruyko,
Komodakis: Wide Residual Networks, 2016), and the adversarial loss is that of least squares (Mao et al.: Least Squares
Generative Adversarial Networks, 2017) beside L1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from realism.harmonizers.batch import Tensors
from realism.harmonizers.layers import draw_weights, signed, unsigned

L1_WEIGHT: Final = 100.0
"""Beside the adversarial loss (Isola et al.)."""


@dataclass(frozen=True)
class Pix2pixShape:
    """What generator and discriminator are built from; stands in the checkpoint."""

    flat: tuple[int, ...] = (64, 64)
    """Channels of the convolutions at full size."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512)
    """Channels at 1/2, 1/4, ... of the picture's size; its sides are multiples of the last step."""
    dropout: float = 0.5
    """Of the deepest decoder stages, in training and at test."""
    dropout_stages: int = 3
    """How many of them, from the deepest on."""
    critic: tuple[int, ...] = (64, 128, 256, 256)
    """Channels of the discriminator's blocks; all but the last halve the size."""


class Pix2pix(nn.Module):
    """Map a composite and its mask to the harmonized picture."""

    def __init__(self, shape: Pix2pixShape) -> None:
        """Build the network and draw its weights.

        Raises:
            ValueError: No convolution at full size, or fewer than two widths.
        """
        super().__init__()
        if not shape.flat or len(shape.widths) < 2:
            raise ValueError(f"flat must be one or more and widths two or more, got {shape.flat} and {shape.widths}")
        self.shape = shape
        channels = (4, *shape.flat)
        self.flat = nn.Sequential(
            *(_conv(before, width, norm=before != 4) for before, width in zip(channels, shape.flat, strict=False))
        )
        levels = (shape.flat[-1], *shape.widths)
        self.down = nn.ModuleList(
            _conv(before, width, kernel=4, stride=2, norm=level < len(shape.widths) - 1)
            for level, (before, width) in enumerate(zip(levels, shape.widths, strict=False))
        )
        self.up = nn.ModuleList()
        for depth, (out, width) in enumerate(zip(levels[-2::-1], levels[:0:-1], strict=True)):
            self.up.append(_up(width if not depth else 2 * width, out))
        mirrored = (2 * shape.flat[-1], *shape.flat[::-1])
        self.out = nn.Sequential(
            *(_conv(before, width) for before, width in pairwise(mirrored)),
            nn.Conv2d(shape.flat[0], 3, 3, 1, 1),
            nn.Tanh(),
        )
        draw_weights(self)

    def forward(self, composite: Tensor, mask: Tensor) -> Tensor:
        """Return the picture (B, 3, H, W), sRGB 0..1; with dropout it differs from call to call, at test too.

        Args:
            composite: (B, 3, H, W), sRGB 0..1.
            mask: (B, 1, H, W), 0..1.
        """
        levels = [self.flat(torch.cat([signed(composite), mask], 1))]  # (B, flat[-1], H, W)
        for stage in self.down:
            levels.append(stage(levels[-1]))
        values = levels.pop()
        for depth, stage in enumerate(self.up):
            values = stage(values)
            if depth < self.shape.dropout_stages and self.shape.dropout:
                values = functional.dropout(values, self.shape.dropout, training=True)
            values = torch.cat([levels.pop(), values], 1)
        return unsigned(self.out(values))


class PatchCritic(nn.Module):
    """Tell, patch by patch, a photograph from an answer, both seen beside the composite and the mask."""

    def __init__(self, shape: Pix2pixShape) -> None:
        """Build the network and draw its weights."""
        super().__init__()
        pairs = list(zip((7, *shape.critic), shape.critic, strict=False))
        self.blocks = nn.Sequential(
            *(_Wide(before, width, stride=1 if at == len(pairs) - 1 else 2) for at, (before, width) in enumerate(pairs))
        )
        self.out = nn.Conv2d(shape.critic[-1], 1, 3, 1, 1)
        draw_weights(self)

    def forward(self, picture: Tensor, batch: Tensors) -> Tensor:
        """Return (B, 1, h, w): 1 where a patch of the picture (B, 3, H, W) is taken for a photograph's."""
        answer: Tensor = self.out(
            functional.relu(self.blocks(torch.cat([signed(picture), signed(batch.composite), batch.mask], 1)))
        )
        return answer.float()


def pix2pix_loss(answer: Tensor, batch: Tensors) -> Tensor:
    """Return the weighted L1 of the whole picture, a scalar."""
    return L1_WEIGHT * (answer - batch.real).abs().mean()


def deceive(critic: PatchCritic, answer: Tensor, batch: Tensors) -> Tensor:
    """Return the generator's part of the adversarial loss, a scalar."""
    judged: Tensor = critic(answer, batch)
    return (judged - 1).square().mean()


def tell_apart(critic: PatchCritic, answer: Tensor, batch: Tensors) -> Tensor:
    """Return the discriminator's loss, a scalar; half, so that it learns more slowly (Isola et al.)."""
    real, fake = critic(batch.real, batch), critic(answer, batch)
    loss: Tensor = ((real - 1).square().mean() + fake.square().mean()) / 2
    return loss


class _Wide(nn.Module):
    """A wide residual block: twice normalization, ReLU and convolution, and a shortcut."""

    def __init__(self, channels: int, out: int, *, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, out, 3, stride, 1))
        self.second = nn.Sequential(nn.BatchNorm2d(out), nn.ReLU(), nn.Conv2d(out, out, 3, 1, 1))
        self.shortcut = nn.Conv2d(channels, out, 1, stride)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.shortcut(values) + self.second(self.first(values))
        return result


def _conv(channels: int, out: int, *, kernel: int = 3, stride: int = 1, norm: bool = True) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Conv2d(channels, out, kernel, stride, 1, bias=not norm)]
    return nn.Sequential(*parts, *([nn.BatchNorm2d(out)] if norm else []), nn.LeakyReLU(0.2))


def _up(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(channels, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
