"""A small U-Net that changes the subject only: the plainest network that harmonizes.

U-Net (Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015) as Tsai, Shen,
Lin, Sunkavalli, Lu, Yang (Deep Image Harmonization, 2017) brought its shape to harmonization: composite and mask in,
picture out. Here it answers a change of colours, which is laid over the composite by the mask, and the loss is taken
inside the mask. A network that has learnt nothing changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from realism.harmonizers.batch import Tensors


@dataclass(frozen=True)
class MaskedUnetShape:
    """What the network is built from; stands in the checkpoint."""

    widths: tuple[int, ...] = (24, 48, 72, 96)
    """Channels at 1/1, 1/2, 1/4, ... of the picture's size; the picture's sides are multiples of the last step."""


class MaskedUnet(nn.Module):
    """Map a composite and its mask to the harmonized picture."""

    def __init__(self, shape: MaskedUnetShape) -> None:
        """Build the network.

        Raises:
            ValueError: Fewer than two widths.
        """
        super().__init__()
        if len(shape.widths) < 2:
            raise ValueError(f"widths must be two or more, got {shape.widths}")
        self.shape = shape
        first, *rest = shape.widths
        self.stem = _block(4, first)
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in zip(shape.widths, rest, strict=False))
        self.up = nn.ModuleList(
            _block(a + b, b) for a, b in zip(shape.widths[:0:-1], shape.widths[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(first, 3, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, composite: Tensor, mask: Tensor) -> Tensor:
        """Return the picture (B, 3, H, W), sRGB, nominally 0..1.

        Args:
            composite: (B, 3, H, W), sRGB 0..1.
            mask: (B, 1, H, W), 0..1.
        """
        levels = [self.stem(torch.cat([2 * composite - 1, mask], 1))]  # (B, widths[0], H, W)
        for stage in self.down:
            levels.append(stage(levels[-1]))
        values = levels.pop()
        for stage in self.up:
            grown = functional.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
            values = stage(torch.cat([grown, levels.pop()], 1))
        change: Tensor = self.out(values)
        return composite + mask * change.float()


def masked_loss(answer: Tensor, batch: Tensors) -> Tensor:
    """Return the mean squared difference inside the masks, each triplet counting alike; a scalar, 0..1 scale."""
    squared = (answer - batch.real).square().mean(1, keepdim=True) * batch.mask
    return (squared.sum((1, 2, 3)) / batch.mask.sum((1, 2, 3)).clamp(min=1)).mean()


def _block(channels: int, out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
        nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
    )  # fmt: skip
