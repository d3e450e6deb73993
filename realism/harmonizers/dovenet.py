"""DoveNet: harmonize until a discriminator takes subject and scene to be of one domain.

Cong, Zhang, Niu, Liu, Ling, Li, Zhang: DoveNet: Deep Image Harmonization via Domain Verification, 2020. The generator
is the attention U-Net. One discriminator judges the whole picture; another brings subject and scene, each seen alone by
partial convolutions, to a vector, and their inner product says how well they belong together. All their convolutions
are spectrally normalized (Miyato, Kataoka, Koyama, Yoshida: Spectral Normalization for Generative Adversarial Networks,
2018), the losses are hinges. Weights of the losses are those of the authors' code. The inner product here is weighted,
with weights that begin at 1, since normalized layers leave it no scale of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from realism.harmonizers.attention_unet import AttentionUnet, AttentionUnetShape
from realism.harmonizers.batch import Tensors
from realism.harmonizers.layers import PartialConv, draw_weights, masked_mean, signed

L1_WEIGHT: Final = 100.0
"""Beside the two adversarial losses, which count 1 each."""


@dataclass(frozen=True)
class DoveNetShape:
    """What generator and discriminators are built from; stands in the checkpoint."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512, 512)
    """Of the generator; see `AttentionUnetShape`."""
    dropout: float = 0.5
    critic: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512)
    """Channels of the discriminators at 1/2, 1/4, ... of the picture's size."""


class DoveNet(AttentionUnet):
    """Map a composite and its mask to the harmonized picture."""

    def __init__(self, shape: DoveNetShape) -> None:
        """Build the generator."""
        super().__init__(AttentionUnetShape(shape.widths, shape.dropout))
        self.shape = shape  # type: ignore[assignment] # what the checkpoint has to hold


class DomainCritic(nn.Module):
    """Judge the whole picture, and whether its subject belongs to its scene."""

    def __init__(self, shape: DoveNetShape) -> None:
        """Build both discriminators and draw their weights."""
        super().__init__()
        pairs = list(zip((3, *shape.critic), shape.critic, strict=False))
        self.whole = nn.ModuleList(nn.Conv2d(before, width, 3, 2, 1) for before, width in pairs)
        self.parts = nn.ModuleList(PartialConv(before, width) for before, width in pairs)
        self.realism = nn.Linear(shape.critic[-1], 1)
        draw_weights(self)
        for conv in self.whole:
            spectral_norm(conv)
        for partial in self.parts:
            if isinstance(partial, PartialConv):
                spectral_norm(partial.conv)
        self.kinship = nn.Parameter(torch.ones(shape.critic[-1]))

    def forward(self, picture: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return how real the picture is, (B,), and how well subject and scene belong together, (B,).

        Args:
            picture: (B, 3, H, W), sRGB, nominally 0..1.
            mask: (B, 1, H, W), 0..1.
        """
        values = signed(picture)
        for stage in self.whole:
            values = functional.leaky_relu(stage(values), 0.2)
        realism = self.realism(values.mean((2, 3)))[:, 0]
        subject, scene = self.domain(picture, mask), self.domain(picture, 1 - mask)
        return realism.float(), (subject * scene * self.kinship).sum(1).float()

    def domain(self, picture: Tensor, mask: Tensor) -> Tensor:
        """Return the vector (B, C) of what a mask lets through."""
        values = signed(picture)
        for stage in self.parts:
            values, mask = stage(values, mask)
            values = functional.leaky_relu(values, 0.2)
        return masked_mean(values, mask)


def dovenet_loss(answer: Tensor, batch: Tensors) -> Tensor:
    """Return the weighted L1 of the whole picture, a scalar."""
    return L1_WEIGHT * (answer - batch.real).abs().mean()


def deceive(critic: DomainCritic, answer: Tensor, batch: Tensors) -> Tensor:
    """Return the generator's part of both adversarial losses, a scalar."""
    realism, kinship = critic(answer, batch.mask)
    loss: Tensor = -(realism.mean() + kinship.mean())
    return loss


def tell_apart(critic: DomainCritic, answer: Tensor, batch: Tensors) -> Tensor:
    """Return the discriminators' hinge losses, a scalar."""
    loss = answer.new_zeros(())
    for real, fake in zip(critic(batch.real, batch.mask), critic(answer, batch.mask), strict=True):
        loss = loss + functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
    return loss
