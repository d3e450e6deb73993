"""What the tests of harmonizers share: triplets with a known edit, and every network in a size that learns in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import cv2
import numpy as np

from realism.harmonizers.attention_unet import AttentionUnetShape
from realism.harmonizers.batch import Pixels, Triplets
from realism.harmonizers.dovenet import DoveNetShape
from realism.harmonizers.gp_gan import GpGanShape
from realism.harmonizers.masked_unet import MaskedUnetShape
from realism.harmonizers.multi_stream import MultiStreamShape
from realism.harmonizers.pix2pix import Pix2pixShape
from realism.harmonizers.teach import HarmonizerSettings

SIDE: Final = 32

SHAPES: Final[Mapping[str, Any]] = {
    "masked_unet": MaskedUnetShape((12, 24, 32)),
    "pix2pix": Pix2pixShape((8, 8), (16, 24, 32), dropout=0.0, critic=(8, 12, 12)),
    "attention_hsv": AttentionUnetShape((20, 28, 40), dropout=0.0),
    "attention_rgb": AttentionUnetShape((20, 28, 40), dropout=0.0),
    "dovenet": DoveNetShape((20, 28, 40), dropout=0.0, critic=(8, 12, 12)),
    "gp_gan": GpGanShape((16, 24, 32), bottleneck=64),
    "multi_stream": MultiStreamShape((12, 16, 24, 32), detail=12),
}
"""Of `SIDE` pixels."""


def settings_of(name: str, **more: Any) -> HarmonizerSettings:
    """Return settings of a short training."""
    fixed: dict[str, Any] = {"side": SIDE, "batch": 8, "steps": 4, "save_every": 2, "warmup": 2}
    return HarmonizerSettings(name, SHAPES[name], **{**fixed, **more})


def triplets(*, seed: int = 3, count: int = 8, height: int = SIDE, width: int = SIDE, pasted: bool = False) -> Triplets:
    """Return smooth, textured pictures in which an ellipse has other gains and offsets of colour.

    Args:
        seed: Of everything that is drawn.
        count: Of the triplets.
        height: Of the pictures.
        width: Of the pictures.
        pasted: The ellipse is that of another picture in strong light, without a soft edge: a copy-paste pair.
    """
    rng = np.random.default_rng(seed)
    made = [_triplet(rng, height, width, pasted=pasted) for _ in range(count)]
    return Triplets(*(np.stack(layer) for layer in zip(*made, strict=True)))


def foreground_psnr(picture: Pixels, batch: Triplets) -> float:
    """Return the PSNR inside the masks of all pictures together, dB."""
    share = batch.mask[..., None] / 255
    squared = (np.square(picture.astype(float) - batch.real) * share).sum() / (3 * share.sum())
    return float(10 * np.log10(255**2 / squared))


def _triplet(rng: np.random.Generator, height: int, width: int, *, pasted: bool) -> tuple[Pixels, Pixels, Pixels]:
    real = np.clip(40 + 175 * _scene(rng, height, width), 0, 255)
    mask = np.zeros((height, width), np.uint8)
    centre = (int(width * rng.uniform(0.3, 0.7)), int(height * rng.uniform(0.3, 0.7)))
    cv2.ellipse(mask, centre, (width // 5, height // 4), 0, 0, 360, 255, -1)
    edited = np.clip(real * rng.uniform(0.6, 1.3, 3) + rng.uniform(-25, 25, 3), 0, 255)
    if not pasted:
        mask = np.asarray(cv2.GaussianBlur(mask, ksize=(3, 3), sigmaX=1), np.uint8)
    share = mask[..., None] / 255
    composite = real * (1 - share) + edited * share
    return np.rint(composite).astype(np.uint8), mask, np.rint(real).astype(np.uint8)


def _scene(rng: np.random.Generator, height: int, width: int) -> Any:
    parts = ((3, 0.5), (8, 0.3), (24, 0.2))
    return sum(
        weight * cv2.resize(rng.random((grid, grid, 3)), dsize=(width, height), interpolation=cv2.INTER_CUBIC)
        for grid, weight in parts
    )
