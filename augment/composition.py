"""Measure what is wrong with a composition: a changed background, a lost subject, old surroundings around its edge."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.blend import check_layers
from augment.color import Pixels

SIGHT_PX: Final = 48
"""The background is looked at so far around the mask's box; farther away no fusion network changes anything."""
LOST_LEVELS: Final = 24
"""A pixel of the subject is lost where a channel is off by more than so many levels."""
EDGE_PX: Final = 3
"""A mask's edge is uncertain by so many pixels; what lies beyond is surroundings, or hair."""
LEAST_CONTRAST: Final = 8.0
"""Root mean square, in levels, by which old and new surroundings must differ for a halo to be seen."""


def near_mask(mask: Pixels, reach_px: int) -> NDArray[np.bool_]:
    """Return where a composition may differ from its background: within `reach_px` of mask > 127, bool (H, W)."""
    disc = cv2.getStructuringElement(shape=cv2.MORPH_ELLIPSE, ksize=(2 * reach_px + 1,) * 2)
    return np.asarray(cv2.dilate((mask > 127).view(np.uint8), kernel=disc) > 0)


def measure_composition(
    made: Pixels, foreground: Pixels, background: Pixels, mask: Pixels, *, reach_px: int
) -> dict[str, float]:
    """Measure the closed-form gates of a composition, on what a network or a matte made, before anything is repaired.

    - `background_changed`: mean absolute difference from the background, in levels, outside the mask grown by
      `reach_px`, in the box of the mask with `SIGHT_PX` around; 0 where the frame leaves nothing of that.
    - `subject_lost`: share of the pixels deep in the mask that differ from the foreground by more than `LOST_LEVELS`
      in a channel. Deep is over half of `reach_px`, or half of the mask's largest depth where it is thinner.
    - `halo`: share of the old surroundings that is still seen around the subject: in the ring from `EDGE_PX` to
      `reach_px` outside the mask, the difference made - background projected on foreground - background. Hair that a
      mask leaves out counts too, so a good matte does not come to 0. It is 0 where both surroundings look alike.

    Args:
        made: uint8 sRGB (H, W, 3).
        foreground: The same: the subject in its old surroundings, at its place.
        background: The same.
        mask: uint8 (H, W), the subject's polygon.
        reach_px: Reach of a repair, at least 1.

    Raises:
        TypeError: An array is not uint8.
        ValueError: The shapes do not belong together, or the mask has no pixel over 127.

    """
    check_layers(original=background, edited=made, alpha=mask)
    check_layers(original=background, edited=foreground, alpha=mask)
    x, y, width, height = cv2.boundingRect((mask > 127).view(np.uint8))
    if not width:
        raise ValueError("mask must have pixels over 127, got none")
    room = reach_px + SIGHT_PX
    window = np.s_[max(y - room, 0) : y + height + room, max(x - room, 0) : x + width + room]
    made, foreground, background, mask = (
        np.ascontiguousarray(layer[window]) for layer in (made, foreground, background, mask)
    )
    solid = mask > 127
    outside = ~near_mask(mask, reach_px)
    changed = cv2.absdiff(made, background)[outside]
    away = _distance(~solid)
    return {
        "background_changed": float(changed.mean(dtype=np.float64)) if changed.size else 0.0,
        "subject_lost": _lost(made, foreground, _distance(solid), reach_px),
        "halo": _halo(made, foreground, background, (away > EDGE_PX) & (away <= reach_px)),
    }


def _distance(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return each pixel's distance to the nearest one outside the region, px; 0 outside, infinite without an outside."""
    if region.all():
        return np.full(region.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform(region.view(np.uint8), distanceType=cv2.DIST_L2, maskSize=5), np.float32)


def _lost(made: Pixels, foreground: Pixels, depth: NDArray[np.float32], reach_px: int) -> float:
    deep = depth > min(reach_px, float(depth.max())) / 2
    return float((cv2.absdiff(made, foreground)[deep].max(axis=1) > LOST_LEVELS).mean())


def _halo(made: Pixels, foreground: Pixels, background: Pixels, ring: NDArray[np.bool_]) -> float:
    under = background[ring].astype(np.float64)
    old, seen = foreground[ring] - under, made[ring] - under
    energy = float(np.sum(old * old))
    if energy <= LEAST_CONTRAST**2 * old.size:
        return 0.0
    return max(0.0, float(np.sum(seen * old)) / energy)
