"""What a harmonizer learns from: composites, masks and the photographs that they were made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Triplets:
    """What one step learns from: N triplets of one size, all uint8."""

    composite: Pixels
    """(N, H, W, 3), sRGB."""
    mask: Pixels
    """(N, H, W), alpha of the edit."""
    real: Pixels
    """(N, H, W, 3), sRGB."""

    def __len__(self) -> int:
        """Return the number of triplets."""
        return len(self.mask)

    def split(self, parts: int) -> list[Triplets]:
        """Return it cut into `parts`, as even as can be."""
        layers = (self.composite, self.mask, self.real)
        pieces = zip(*(np.array_split(layer, parts) for layer in layers), strict=True)
        return [Triplets(*piece) for piece in pieces]

    def on(self, device: str) -> Tensors:
        """Return it as tensors on a device."""
        return Tensors(*(tensor_of(layer, device=device) for layer in (self.composite, self.mask, self.real)))


@dataclass(frozen=True)
class Tensors:
    """The same as float32, 0..1."""

    composite: Tensor
    """(N, 3, H, W), sRGB."""
    mask: Tensor
    """(N, 1, H, W)."""
    real: Tensor
    """(N, 3, H, W), sRGB."""


def tensor_of(layer: Pixels, *, device: str) -> Tensor:
    """Return uint8 pictures (N, H, W, 3) or masks (N, H, W) as float32 (N, C, H, W), 0..1."""
    values = torch.from_numpy(np.ascontiguousarray(layer)).to(device)
    values = values[:, None] if values.ndim == 3 else values.permute(0, 3, 1, 2)
    return values.float() / 255
