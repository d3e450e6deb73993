"""The style loss of hue, saturation and value, for the attention U-Net, and its RGB variant for comparison.

As the HCOCO harmonization work that this project goes back to describes it: partial convolutions see the subject alone,
and the answer's features should have the style of the photograph's (Gram matrices: Gatys, Ecker, Bethge: Image Style
Transfer Using Convolutional Neural Networks, 2016), besides an L1 loss of the picture. Hue, saturation and value are
computed here with gradients; hue is an angle, so its cosine and sine stand for it. The features' weights are drawn once
and never learnt: such features carry texture and colour statistics well enough (Ustyuzhaninov, Brendel, Gatys, Bethge:
What does it take to generate natural textures?, 2017), and no loss can collapse by moving them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from realism.harmonizers.batch import Tensors
from realism.harmonizers.layers import PartialConv, masked_mean

Space = Literal["hsv", "rgb"]

PIXEL_WEIGHT: Final = 10.0
"""Of the L1 loss beside the style's."""
STYLE_WEIGHT: Final = 1.0
WIDTHS: Final = (16, 32, 64)
"""Channels of the features at 1/2, 1/4 and 1/8 of the picture's size."""
_SEED: Final = 20
_COLOURLESS: Final = 0.02  # chroma, 0..1, below which hue fades out: it has no direction where there is no colour


def hsv_of(picture: Tensor) -> Tensor:
    """Return cosine of hue, sine of hue, saturation and value of sRGB (B, 3, H, W), 0..1: (B, 4, H, W).

    Value and saturation are those of the hexcone (Smith: Color Gamut Transform Pairs, 1978): the largest channel, and
    the spread of the channels over it. Hue is the direction in the plane across the grey axis, within 1.2 degrees of
    the hexcone's, since that has a gradient everywhere; both its numbers shrink to 0 where colour does.
    """
    red, green, blue = picture.unbind(1)
    value, least = picture.amax(1), picture.amin(1)
    saturation = (value - least) / value.clamp(min=1e-3)
    along, across = red - (green + blue) / 2, 3**0.5 / 2 * (green - blue)
    chroma = (along.square() + across.square() + _COLOURLESS**2).sqrt()
    return torch.stack([along / chroma, across / chroma, saturation, value], 1)


class StyleFeatures(nn.Module):
    """See a masked subject in partial convolutions whose weights are drawn once."""

    def __init__(self, channels: int) -> None:
        """Draw the weights, the same ones always, without touching torch's generator."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            self.stages = nn.ModuleList(
                PartialConv(before, width) for before, width in zip((channels, *WIDTHS), WIDTHS, strict=False)
            )
        self.requires_grad_(requires_grad=False)

    def forward(self, values: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return features (B, C, h, w) and their masks, scale by scale."""
        found = []
        for stage in self.stages:
            values, mask = stage(values, mask)
            values = functional.leaky_relu(values, 0.2)
            found.append((values, mask))
        return found


def style_of(features: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Return the styles of features: means (B, C) and Gram matrices (B, C, C) over what the masks let through."""
    styles = []
    for values, mask in features:
        area = mask.sum((2, 3)).clamp(min=1)[..., None]
        flat = (values * mask).flatten(2)  # (B, C, h w)
        styles += [masked_mean(values, mask), flat @ flat.transpose(1, 2) / area]
    return styles


def style_loss(answer: Tensor, batch: Tensors, *, space: Space) -> Tensor:
    """Return the mean absolute difference of the answer's and the photograph's styles inside the mask; a scalar.

    Args:
        answer: (B, 3, H, W), sRGB, nominally 0..1.
        batch: With the photographs that are wanted.
        space: Of the colours that the features are taken of.
    """
    network = _features(4 if space == "hsv" else 3).to(answer.device)
    pictures = [answer.clamp(0, 1), batch.real]
    with torch.autocast(answer.device.type, enabled=False):  # squares of halves overflow
        seen, wanted = (
            style_of(network(hsv_of(picture.float()) if space == "hsv" else picture.float(), batch.mask))
            for picture in pictures
        )
        return torch.stack([(a - b).abs().mean() for a, b in zip(seen, wanted, strict=True)]).sum()


def attention_loss(answer: Tensor, batch: Tensors, *, space: Space) -> Tensor:
    """Return L1 and style together; a scalar."""
    pixels = (answer - batch.real).abs().mean()
    return PIXEL_WEIGHT * pixels + STYLE_WEIGHT * style_loss(answer, batch, space=space)


@lru_cache(maxsize=4)
def _features(channels: int) -> StyleFeatures:
    return StyleFeatures(channels)
