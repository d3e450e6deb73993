"""The two-stream network of the self-taught stage, as a harmonizer.

Zhang, Zhang, Perazzi, Lin, Patel: Deep Image Compositing, 2021: one encoder for the subject with its mask, one for the
scene with the inverted mask, and a decoder that takes both skips at every scale. `realism.fusion` is that network; here
it sees the composite twice and, with its head `paint`, answers a change of colours, which counts by the mask. Its loss
is the L1 of the subject; the perceptual term of the paper is left out, since a harmonizer draws no new edges.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from realism.fusion import FusionNet, FusionShape
from realism.harmonizers.batch import Tensors


@dataclass(frozen=True)
class MultiStreamShape:
    """What the network is built from; stands in the checkpoint."""

    widths: tuple[int, int, int, int] = (32, 64, 96, 128)
    """Channels of an encoder at 1/2, 1/4, 1/8 and 1/16 of the picture's size, whose sides are multiples of 16."""
    detail: int = 24
    """Channels at full size."""
    streams: int = 2


class MultiStream(nn.Module):
    """Map a composite and its mask to the harmonized picture."""

    def __init__(self, shape: MultiStreamShape) -> None:
        """Build the network.

        Raises:
            ValueError: A shape that a fusion network cannot have.
        """
        super().__init__()
        self.shape = shape
        self.fusion = FusionNet(FusionShape(shape.streams, shape.widths, shape.detail, head="paint"))

    def forward(self, composite: Tensor, mask: Tensor) -> Tensor:
        """Return the picture (B, 3, H, W), sRGB, nominally 0..1.

        Args:
            composite: (B, 3, H, W), sRGB 0..1.
            mask: (B, 1, H, W), 0..1.
        """
        painted: Tensor = self.fusion(composite, composite, mask)[0]
        return composite + mask * (painted - composite)


def multi_stream_loss(answer: Tensor, batch: Tensors) -> Tensor:
    """Return the mean absolute difference inside the masks, each triplet counting alike; a scalar."""
    apart = (answer - batch.real).abs().mean(1, keepdim=True) * batch.mask
    return (apart.sum((1, 2, 3)) / batch.mask.sum((1, 2, 3)).clamp(min=1)).mean()
