"""Layers that several harmonizers share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_SPREAD = 0.02  # of first weights, as adversarial networks have had it since DCGAN (Radford, Metz, Chintala 2016)


class PartialConv(nn.Module):
    """A convolution that sees only what a mask lets through, and is scaled up by how much that leaves out.

    Liu, Reda, Shih, Wang, Tao, Catanzaro: Image Inpainting for Irregular Holes Using Partial Convolutions, 2018.
    """

    def __init__(self, channels: int, out: int, *, kernel: int = 3, stride: int = 2) -> None:
        """Make the convolution; its padding keeps what lies at the frame."""
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, out, h, w), 0 where nothing was seen, and the mask (B, 1, h, w) of where something was.

        Args:
            values: (B, channels, H, W).
            mask: (B, 1, H, W), 0..1.
        """
        kernel, stride, padding = self.conv.kernel_size, self.conv.stride, self.conv.padding
        with torch.no_grad():
            window = mask.new_ones((1, 1, *kernel))
            seen = functional.conv2d(mask, window, None, stride, padding)  # (B, 1, h, w)
            some = (seen > 1e-3).to(mask.dtype)
            scale = some * window.numel() / seen.clamp(min=1e-3)
        found = functional.conv2d(values * mask, self.conv.weight, None, stride, padding) * scale
        bias = self.conv.bias
        return (found if bias is None else found + some * bias[:, None, None]), some


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of features (B, C, h, w) where the mask (B, 1, h, w) lets through: (B, C); 0 where it is empty."""
    return (values * mask).sum((2, 3)) / mask.sum((2, 3)).clamp(min=1e-3)


def draw_weights(network: nn.Module) -> None:
    """Draw the weights of convolutions from a normal distribution of spread 0.02; biases are 0."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(part.weight, 0.0, _SPREAD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, _SPREAD)
            nn.init.zeros_(part.bias)


def signed(picture: Tensor) -> Tensor:
    """Return 0..1 as -1..1."""
    return 2 * picture - 1


def unsigned(picture: Tensor) -> Tensor:
    """Return -1..1 as 0..1, in float32."""
    return (picture.float() + 1) / 2
