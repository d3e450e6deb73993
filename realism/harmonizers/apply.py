"""Harmonize one composite of any size with a network that works at its own."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from realism.harmonizers.batch import Pixels, tensor_of
from realism.harmonizers.upsample import upsample_change
from realism.threads import one_thread


class Working(Protocol):
    """A trained network with the size that it works at; `HarmonizerCheckpoint` is one."""

    @property
    def model(self) -> nn.Module:
        """Return the network: composite (B, 3, S, S), mask (B, 1, S, S), 0..1, to picture (B, 3, S, S)."""

    @property
    def side(self) -> int:
        """Return S, in pixels."""


def harmonize(harmonizer: Working, composite: Pixels, mask: Pixels, *, device: str = "cpu") -> Pixels:
    """Return the composite with its subject harmonized; where the mask is 0 the pixels are those of the composite.

    A picture of another size than the network's is scaled to it, out of its proportions as in training; the change of
    colours comes back to full size by `upsample_change`. On the CPU one thread computes, and dropout that works at
    test time too draws from one seed, so the same arguments give the same bytes on one kind of machine.

    Args:
        harmonizer: Such as `load_harmonizer` returns.
        composite: uint8 (H, W, 3) sRGB.
        mask: uint8 (H, W), 0..255, alpha of the subject; an empty one gives the composite.
        device: `cpu` or `cuda`.

    Raises:
        TypeError: Wrong dtype.
        ValueError: Shapes that do not belong together.
        ArithmeticError: The network answered something that is no number.
    """
    check_pair(composite, mask)
    if not mask.any():
        return composite.copy()
    size = (harmonizer.side, harmonizer.side)
    small, level = (shrink(layer, size) for layer in (composite, mask))
    answer = answer_of(harmonizer.model, small, level, device=device)
    change = answer - small.astype(np.float32)
    if composite.shape[:2] != size:
        change = upsample_change(change, small, level, composite)
    share = mask[..., None].astype(np.float32) / 255
    return np.asarray(np.clip(np.rint(composite + share * change), 0, 255), np.uint8)


def answer_of(model: nn.Module, composite: Pixels, mask: Pixels, *, device: str = "cpu") -> NDArray[np.float32]:
    """Return what a network makes of a composite of its own size: float32 (S, S, 3), nominally 0..255."""
    model.to(device).eval()
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with one_thread(), torch.inference_mode(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        found: Tensor = model(tensor_of(composite[None], device=device), tensor_of(mask[None], device=device))
        values = found[0].permute(1, 2, 0).float().cpu().numpy()
    if not np.isfinite(values).all():
        raise ArithmeticError("the harmonizer answered something that is no number")
    return np.asarray(255 * np.clip(values, 0, 1), np.float32)


def check_pair(composite: Pixels, mask: Pixels) -> None:
    """Raise unless composite is uint8 (H, W, 3) and mask uint8 (H, W), not empty."""
    if composite.dtype != np.uint8 or mask.dtype != np.uint8:
        raise TypeError(f"composite and mask must be uint8, got {composite.dtype} and {mask.dtype}")
    if composite.ndim != 3 or composite.shape != (*mask.shape, 3) or not mask.size:
        raise ValueError(
            f"composite must be (H, W, 3) and mask (H, W) of one size, got {composite.shape}, {mask.shape}"
        )


def shrink(layer: Pixels, size: tuple[int, int]) -> Pixels:
    """Return a picture or mask at (height, width): by area where it shrinks, else linearly, as the loader does."""
    height, width = size
    shrinks = height <= layer.shape[0] and width <= layer.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(layer, dsize=(width, height), interpolation=interpolation), np.uint8)
