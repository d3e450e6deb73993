"""Blend each band of frequencies over a width of its own.

Burt, Adelson: A multiresolution spline with application to image mosaics, 1983.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from augment.blend.alpha import check_layers
from augment.color import Floats, Pixels

HALVINGS: Final = 3
"""Times the pictures are halved: the coarsest band blends over some 16 px to both sides. At one more, people of 60 px in
width dissolved into their surroundings."""
PYRAMID_REACH_PX: Final = 4 * (2**HALVINGS - 1)
"""Each halving and each doubling looks 2 px far at its own scale: 2 (1 + 2 + 4) down, and the same up."""


def blend_laplacian(foreground: Pixels, background: Pixels, alpha: Pixels) -> Pixels:
    """Blend the Laplacian pyramids of two pictures by the Gaussian pyramid of alpha.

    Shapes and errors as `augment.blend` says. The foreground's colours are used up to `PYRAMID_REACH_PX` beyond
    alpha > 0. A picture under 8 px is halved only down to one pixel.
    """
    check_layers(original=background, edited=foreground, alpha=alpha)
    halvings = min(HALVINGS, min(alpha.shape).bit_length() - 1)
    over, under = (laplacian_pyramid(picture.astype(np.float32), halvings) for picture in (foreground, background))
    share: Floats = alpha.astype(np.float32) / np.float32(255)
    bands = []
    for above, below in zip(over, under, strict=True):
        bands.append(below + share[..., None] * (above - below))
        share = np.asarray(cv2.pyrDown(share), np.float32)
    return np.clip(np.rint(collapse(bands)), 0, 255).astype(np.uint8)


def laplacian_pyramid(picture: Floats, halvings: int) -> list[Floats]:
    """Split float32 (H, W, 3) into bands from fine to coarse; the last is the picture itself, halved `halvings` times."""
    bands = []
    for _ in range(halvings):
        half = np.asarray(cv2.pyrDown(picture), np.float32)
        bands.append(picture - _doubled(half, like=picture))
        picture = half
    return [*bands, picture]


def collapse(bands: list[Floats]) -> Floats:
    """Add the bands of a pyramid up again."""
    picture = bands[-1]
    for band in reversed(bands[:-1]):
        picture = band + _doubled(picture, like=band)
    return picture


def _doubled(half: Floats, *, like: Floats) -> Floats:
    return np.asarray(cv2.pyrUp(half, dstsize=like.shape[1::-1]), np.float32)
