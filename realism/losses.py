"""Tell how far a composite is from the wanted one: by its colours, and by what a network sees in it.

The perceptual part (Johnson, Alahi, Fei-Fei 2016) compares features of a network that learnt from photographs: of
VGG-16 where the user has its weights, else of the project's own realism network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from realism.discriminator import Convolution, look
from realism.vgg import Features as Vgg

Features = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""Picture (B, 3, H, W), sRGB 0..1, and mask (B, 1, H, W), 0..1, to features at several scales, (B, C, h, w) each."""

_LEAST_LIGHT: Final = 1e-4  # the gradient of its logarithm stays finite


def colour_loss(composite: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean absolute difference, a scalar."""
    return (composite - wanted).abs().mean()


def perceptual_loss(composite: Tensor, wanted: Tensor, mask: Tensor, *, features: Features) -> Tensor:
    """Return the mean absolute difference of features relative to their mean size, averaged over scales; a scalar.

    Args:
        composite: (B, 3, H, W), sRGB, nominally 0..1; what is outside counts as clipped.
        wanted: The same, no gradient is taken of it.
        mask: (B, 1, H, W), 0..1, where the subject is.
        features: Of a network whose weights are frozen.
    """
    with torch.no_grad():
        targets = features(wanted.clamp(0, 1), mask)
    seen = features(composite.clamp(0, 1), mask)
    parts = [(a - b).abs().mean() / (b.abs().mean() + 1e-6) for a, b in zip(seen, targets, strict=True)]
    return torch.stack(parts).mean()


def vgg_features(network: Vgg) -> Features:
    """Return the features of VGG-16 that perceptual losses are made of, at 1, 1/2 and 1/4 of the picture's size."""
    layers = ("relu1_2", "relu2_2", "relu3_3")
    return lambda picture, _mask: network(picture, layers=layers)


def convolution_features(network: nn.Module, *, scales: int = 2) -> Features:
    """Return the features of a realism network's convolution, at 1/2, 1/4, ... of the picture's size.

    The network's weights are frozen in place and it is put in evaluation mode.

    Raises:
        ValueError: The network has no such convolution.
    """
    branches = [part for part in network.modules() if isinstance(part, Convolution)]
    if not branches:
        raise ValueError("the realism network has no branch `convolution` whose features could be compared")
    stages = [branches[0].stem, *list(branches[0].stages)[: scales - 1]]
    network.eval().requires_grad_(requires_grad=False)

    def features(picture: Tensor, mask: Tensor) -> list[Tensor]:
        values = look(torch.cat([picture.clamp(min=_LEAST_LIGHT), mask], 1)).full
        found = []
        for stage in stages:
            values = stage(values)
            found.append(values)
        return found

    return features
