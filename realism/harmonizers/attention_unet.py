"""The U-Net with attention on its skips that harmonizers of 2020 share, DoveNet's generator among them.

Cun, Pun: Improving the Harmony of the Composite Image by Spatial-Separated Attention Module, 2020, in the simple form
that Cong et al. (DoveNet, 2020) take: at three scales the skip and what comes back from below are weighted, place by
place and channel by channel, by a sigmoid of a 1x1 convolution of themselves. Widths, kernels and normalization are
those of pix2pix (Isola, Zhu, Zhou, Efros: Image-to-Image Translation with Conditional Adversarial Networks, 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from realism.harmonizers.layers import draw_weights, signed, unsigned

_ATTENDED = 3
"""Skips with attention, counted from the second largest scale down."""


@dataclass(frozen=True)
class AttentionUnetShape:
    """What the network is built from; stands in the checkpoint."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512, 512)
    """Channels at 1/2, 1/4, ... of the picture's size; its sides are multiples of the last step."""
    dropout: float = 0.5
    """In training, after the deep decoder stages that have the widest layers below and above."""


class AttentionUnet(nn.Module):
    """Map a composite and its mask to the harmonized picture."""

    def __init__(self, shape: AttentionUnetShape) -> None:
        """Build the network and draw its weights.

        Raises:
            ValueError: Fewer than three widths.
        """
        super().__init__()
        if len(shape.widths) < 3:
            raise ValueError(f"widths must be three or more, got {shape.widths}")
        self.shape = shape
        last = len(shape.widths) - 1
        self.down = nn.ModuleList(
            _down(before, width, first=not level, deepest=level == last)
            for level, (before, width) in enumerate(zip((4, *shape.widths), shape.widths, strict=False))
        )
        self.up = nn.ModuleList()
        self.attention = nn.ModuleDict()
        for level in range(last, 0, -1):
            below = shape.widths[level] if level == last else 2 * shape.widths[level]
            out = shape.widths[level - 1]
            wide = level != last and shape.widths[level] == shape.widths[level - 1]
            self.up.append(_up(below, out, dropout=shape.dropout if wide else 0))
            if level <= _ATTENDED:
                self.attention[str(level)] = nn.Sequential(nn.Conv2d(2 * out, 2 * out, 1), nn.Sigmoid())
        self.out = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(2 * shape.widths[0], 3, 4, 2, 1), nn.Tanh())
        draw_weights(self)

    def forward(self, composite: Tensor, mask: Tensor) -> Tensor:
        """Return the picture (B, 3, H, W), sRGB 0..1.

        Args:
            composite: (B, 3, H, W), sRGB 0..1.
            mask: (B, 1, H, W), 0..1.
        """
        values, levels = torch.cat([signed(composite), mask], 1), []
        for stage in self.down:
            values = stage(values)
            levels.append(values)  # (B, widths[level], H / 2^(level + 1), ...)
        values = levels.pop()
        for level, stage in zip(range(len(levels), 0, -1), self.up, strict=True):
            values = torch.cat([levels.pop(), stage(values)], 1)
            if level <= _ATTENDED:
                values = values * self.attention[str(level)](values)
        return unsigned(self.out(values))


def _down(channels: int, out: int, *, first: bool, deepest: bool) -> nn.Sequential:
    plain = first or deepest  # pix2pix normalizes neither
    parts: list[nn.Module] = [] if first else [nn.LeakyReLU(0.2)]
    parts.append(nn.Conv2d(channels, out, 4, 2, 1, bias=plain))
    return nn.Sequential(*parts, *([] if plain else [nn.BatchNorm2d(out)]))


def _up(channels: int, out: int, *, dropout: float) -> nn.Sequential:
    parts = [nn.ReLU(), nn.ConvTranspose2d(channels, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out)]
    return nn.Sequential(*parts, *([nn.Dropout(dropout)] if dropout else []))
