"""GP-GAN's blending GAN: repaint a copy-paste picture small, as one scene; a blender, not a harmonizer.

Wu, Zheng, Zhang, Huang: GP-GAN: Towards Realistic High-Resolution Image Blending, 2017. An encoder and decoder with no
skips and a wide bottleneck between them answers the colours at 64 pixels, under an L2 loss and a Wasserstein critic
(Arjovsky, Chintala, Bottou: Wasserstein GAN, 2017) whose weights are kept small. What brings the picture to full size,
with the gradients of the photographs, is closed-form: `augment.blend.gaussian_poisson.blend_towards`. Two things differ
from the published training: masks here have any shape, so the network is given the mask too, and the critic's hundred
rounds at the very start are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from realism.harmonizers.batch import Tensors
from realism.harmonizers.layers import draw_weights, signed, unsigned

L2_WEIGHT: Final = 0.999
"""The critic's word counts what is left to 1."""
CRITIC_LIMIT: Final = 0.01
"""Between minus this and this the critic's weights are kept."""
_COARSEST: Final = 4  # pixels, either way, of what the bottleneck takes in whole


@dataclass(frozen=True)
class GpGanShape:
    """What generator and critic are built from; stands in the checkpoint."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Channels at 1/2, 1/4, ... of the picture's size, the last of which is 4 pixels."""
    bottleneck: int = 4000


class GpGan(nn.Module):
    """Map a copy-paste picture and its mask to the colours of one scene."""

    def __init__(self, shape: GpGanShape) -> None:
        """Build the network and draw its weights."""
        super().__init__()
        self.shape = shape
        self.encoder = nn.Sequential(
            *_halvings(4, shape.widths),
            nn.Flatten(),
            nn.Linear(shape.widths[-1] * _COARSEST**2, shape.bottleneck, bias=False),
            nn.BatchNorm1d(shape.bottleneck),
            nn.LeakyReLU(0.2),
        )  # (B, bottleneck)
        grown: list[nn.Module] = [
            nn.Linear(shape.bottleneck, shape.widths[-1] * _COARSEST**2, bias=False),
            nn.Unflatten(1, (shape.widths[-1], _COARSEST, _COARSEST)),
        ]
        for width, out in zip(shape.widths[::-1], shape.widths[-2::-1], strict=False):
            grown += [nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, out, 4, 2, 1, bias=False)]
        grown += [nn.BatchNorm2d(shape.widths[0]), nn.ReLU(), nn.ConvTranspose2d(shape.widths[0], 3, 4, 2, 1)]
        self.decoder = nn.Sequential(*grown, nn.Tanh())
        draw_weights(self)

    def forward(self, composite: Tensor, mask: Tensor) -> Tensor:
        """Return the picture (B, 3, S, S), sRGB 0..1.

        S is 4 times 2 to the number of widths.

        Args:
            composite: (B, 3, S, S), sRGB 0..1.
            mask: (B, 1, S, S), 0..1.
        """
        return unsigned(self.decoder(self.encoder(torch.cat([signed(composite), mask], 1))))


class WassersteinCritic(nn.Module):
    """Rate pictures: the lower, the likelier a photograph."""

    def __init__(self, shape: GpGanShape) -> None:
        """Build the network and draw its weights."""
        super().__init__()
        self.layers = nn.Sequential(*_halvings(3, shape.widths), nn.Conv2d(shape.widths[-1], 1, _COARSEST, bias=False))
        draw_weights(self)

    def forward(self, picture: Tensor) -> Tensor:
        """Return the mean rating of pictures (B, 3, S, S), a scalar."""
        rating: Tensor = self.layers(signed(picture)).float().mean()
        return rating


def gp_gan_loss(answer: Tensor, batch: Tensors) -> Tensor:
    """Return the weighted mean squared difference of the whole picture on the scale -1..1, a scalar."""
    return 4 * L2_WEIGHT * (answer - batch.real).square().mean()


def deceive(critic: WassersteinCritic, answer: Tensor, batch: Tensors) -> Tensor:
    """Return the generator's part of the adversarial loss, a scalar."""
    del batch
    rating: Tensor = critic(answer)
    return (1 - L2_WEIGHT) * rating


def tell_apart(critic: WassersteinCritic, answer: Tensor, batch: Tensors) -> Tensor:
    """Return the critic's loss, a scalar."""
    loss: Tensor = critic(batch.real) - critic(answer)
    return loss


@torch.no_grad()
def keep_small(critic: nn.Module) -> None:
    """Clip the critic's weights, which is what makes its rating a distance."""
    for parameter in critic.parameters():
        parameter.clamp_(-CRITIC_LIMIT, CRITIC_LIMIT)


def _halvings(channels: int, widths: tuple[int, ...]) -> list[nn.Module]:
    parts: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for before, width in pairwise(widths):
        parts += [nn.Conv2d(before, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
    return parts
