"""Lay one picture over another: the feathered alpha of an edit, and the blends of a foreground with a background.

Every blend takes (foreground, background, alpha): two uint8 sRGB pictures (H, W, 3) and a uint8 alpha (H, W), and
returns a new uint8 picture. All work on sRGB values, not on linear light: mattes are estimated in sRGB and hold there
only, photographs are composited so by everyone whose results these are compared with, and differences of sRGB values
are closer to visible ones. Pixels farther from alpha > 0 than `SUPPORT_PX` says come out as in the background, bit
for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from augment.blend.alpha import FEATHER_REACH_PX, blend_alpha, blend_feathered, check_layers, composite, feather
from augment.blend.gaussian_poisson import TAPER_PX, blend_gaussian_poisson
from augment.blend.poisson import blend_poisson
from augment.blend.pyramid import PYRAMID_REACH_PX, blend_laplacian
from augment.color import Pixels

__all__ = ["BLENDS", "SUPPORT_PX", "Blend", "check_layers", "composite", "feather"]

Blend = Callable[[Pixels, Pixels, Pixels], Pixels]

BLENDS: Final[Mapping[str, Blend]] = {
    "alpha": blend_alpha,
    "feather": blend_feathered,
    "laplacian": blend_laplacian,
    "poisson": blend_poisson,
    "gaussian_poisson": blend_gaussian_poisson,
}
"""Every blend by its name."""

SUPPORT_PX: Final[Mapping[str, int]] = {
    "alpha": 0,
    "feather": FEATHER_REACH_PX,
    "laplacian": PYRAMID_REACH_PX,
    "poisson": 0,
    "gaussian_poisson": TAPER_PX,
}
"""How far, in px along rows and columns, a blend changes the background beyond alpha > 0."""
