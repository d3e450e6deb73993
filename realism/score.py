"""Score pairs of picture and mask: cut a crop around the subject, scale it down, ask the network.

The scaled-down crop removes most of what would give an edit away without being unnatural: rounding, JPEG generation,
resampling, the exact edge of the mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from realism.networks import ARCHITECTURES, Network
from realism.threads import one_thread

if TYPE_CHECKING:
    from realism.checkpoint import Checkpoint

Crop = NDArray[np.uint8]
"""uint8 (side, side, 4): sRGB in RGB order and the mask."""

SIDE: Final = 64
CONTEXT: Final = 1.7
"""Side of the crop in longer sides of the subject's box."""
BATCH: Final = ARCHITECTURES["regions"].batch
"""Crops that the compact network sees at once, always: short batches are padded, so that a score has one value.

The batch of every other architecture divides it, so that a crop's place in a batch of this size says its place there.
"""
DECIMALS: Final = 4


def prepare(picture: NDArray[np.uint8], mask: NDArray[Any], *, side: int = SIDE, context: float = CONTEXT) -> Crop:
    """Cut the crop around a subject and scale it to a square; the frame cuts it, and the aspect gives way.

    Args:
        picture: uint8 (H, W, 3) sRGB, RGB order.
        mask: bool, or uint8 0..255, (H, W); the subject is what is over 127.
        side: Pixels of the crop.
        context: Side of the crop in longer sides of the subject's box, before the frame cuts it.

    Returns:
        uint8 (side, side, 4), a new array.

    Raises:
        TypeError: Wrong dtype.
        ValueError: Wrong shape, or a mask that is empty or covers the whole picture.
    """
    if picture.dtype != np.uint8 or mask.dtype not in {np.dtype(np.uint8), np.dtype(np.bool_)}:
        raise TypeError(f"picture must be uint8 and mask uint8 or bool, got {picture.dtype} and {mask.dtype}")
    if picture.ndim != 3 or picture.shape[2] != 3 or mask.shape != picture.shape[:2]:
        raise ValueError(f"picture must be (H, W, 3) and mask (H, W), got {picture.shape} and {mask.shape}")
    alpha = mask.view(np.uint8) * np.uint8(255) if mask.dtype == np.bool_ else mask
    inside = (alpha > 127).view(np.uint8)
    count = cv2.countNonZero(inside)
    if count in {0, inside.size}:
        what = "empty" if count == 0 else "the whole picture"
        raise ValueError(f"mask must cover part of the picture, it is {what}: there is nothing to compare")
    x, y, width, height = cv2.boundingRect(inside)
    wanted = context * max(width, height)
    window = (_span(y, height, wanted, mask.shape[0]), _span(x, width, wanted, mask.shape[1]))
    layers = [cv2.resize(np.ascontiguousarray(layer[window]), dsize=(side, side), interpolation=cv2.INTER_AREA)
              for layer in (picture, alpha)]  # fmt: skip
    return np.dstack(layers)


def _span(start: int, length: int, wanted: float, frame: int) -> slice:
    """Return the stretch of `wanted` pixels around the box's middle, moved and then cut to stay in the frame."""
    size = max(min(round(wanted), frame), 1)
    first = min(max(round(start + length / 2 - size / 2), 0), frame - size)
    return slice(first, first + size)


def score_crops(checkpoint: Checkpoint, crops: NDArray[np.uint8], *, device: str = "cpu") -> NDArray[np.float64]:
    """Score crops: P(natural), calibrated, rounded to 4 decimals.

    Batches have a fixed size, padded with zeros, and one thread computes them, so a score does not depend on what is
    scored with it.

    Args:
        checkpoint: As loaded.
        crops: uint8 (N, side, side, 4) from `prepare`; N may be 0.
        device: `cpu` or `cuda`.

    Returns:
        float64 (N,), 0..1.

    Raises:
        ValueError: Crops of another shape than the network takes.
    """
    logits = score_logits(checkpoint.model, crops, device=device)
    scores = checkpoint.calibration.apply(logits)
    return np.asarray(np.round(scores, DECIMALS), np.float64)


def score_logits(model: Network, crops: NDArray[np.uint8], *, device: str = "cpu") -> NDArray[np.float64]:
    """Return the network's raw logits, float64 (N,), in padded batches; see `score_crops`."""
    side, size = model.shape.side, ARCHITECTURES[model.shape.architecture].batch
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (side, side, 4):
        raise ValueError(f"crops must be uint8 (N, {side}, {side}, 4), got {crops.dtype} {crops.shape}")
    model.to(device).eval()
    logits = np.empty(len(crops), np.float64)
    with one_thread(), torch.inference_mode():
        for first in range(0, len(crops), size):
            part = crops[first : first + size]
            batch = np.zeros((size, side, side, 4), np.uint8)
            batch[: len(part)] = part
            found, _ = model(torch.from_numpy(batch).to(device))
            logits[first : first + size] = found[: len(part)].cpu().numpy()
    return logits
