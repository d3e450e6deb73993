"""Make the alpha of an edit from its mask, and lay pixels over others by their alpha."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.color import Pixels

FEATHER_SIGMA_PX: Final = 2.0
"""Spread of the Gaussian that `blend_feathered` softens alpha with."""
FEATHER_REACH_PX: Final = 6
"""Where that Gaussian is cut off: 3 times its spread."""

_CROSS = cv2.getStructuringElement(shape=cv2.MORPH_CROSS, ksize=(3, 3))
_SQUARE = cv2.getStructuringElement(shape=cv2.MORPH_RECT, ksize=(3, 3))


def feather(mask: NDArray[np.bool_], feather_px: float) -> Pixels:
    """Soften the edge of a mask into an alpha.

    The edge is a linear ramp of `feather_px` seen through the aperture of one pixel, so alpha is
    0.5 + distance / (feather_px + 1), where distance (in px, positive inside) runs from a pixel's centre to the edge
    half way to the nearest pixel of the other kind. Hence alpha > 127 is the mask exactly. The frame is no edge.

    Args:
        mask: bool (H, W).
        feather_px: 0..2; a wider ramp would need more than the two rings of pixels looked at.

    Returns:
        uint8 (H, W): 0 where nothing changes, 255 where the edit is full, in between within 1.5 px of the edge.

    Raises:
        TypeError: The mask is not bool.
        ValueError: The mask is not (H, W), or `feather_px` is outside 0..2.

    """
    if mask.dtype != np.bool_:
        raise TypeError(f"mask must be bool, got {mask.dtype}")
    if mask.ndim != 2 or not 0 <= feather_px <= 2:
        raise ValueError(f"mask must be (H, W) and feather_px in 0..2, got {mask.shape} and {feather_px!r}")
    alpha = np.zeros(mask.shape, np.uint8)
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    window = np.s_[max(y - 2, 0) : y + height + 2, max(x - 2, 0) : x + width + 2]
    crop = np.ascontiguousarray(mask[window]).view(np.uint8)
    if not width:
        return alpha
    # Five nested masks; how many of them hold a pixel tells its distance to the edge: outside by more, by the
    # square root of 2, by 1, inside by 1, by the square root of 2, by more.
    ring = crop + cv2.erode(crop, kernel=_CROSS) + cv2.erode(crop, kernel=_SQUARE) + cv2.dilate(crop, kernel=_CROSS)
    ring += cv2.dilate(crop, kernel=_SQUARE)
    distance = np.array([-1.5, 0.5 - 2**0.5, -0.5, 0.5, 2**0.5 - 0.5, 1.5])
    levels = np.rint(255 * np.clip(0.5 + distance / (feather_px + 1), 0, 1))
    levels[[0, -1]] = 0, 255
    table = np.zeros(256, np.uint8)
    table[:6] = levels
    alpha[window] = cv2.LUT(ring, table)
    return alpha


def composite(original: Pixels, edited: Pixels, alpha: Pixels) -> Pixels:
    """Lay `edited` over `original`: uint8 (H, W, 3) both, alpha uint8 (H, W), rounded to the nearest level.

    Pixels with alpha 0 come out bit for bit as in `original`, those with alpha 255 as in `edited`.

    Raises:
        TypeError: An array is not uint8.
        ValueError: The shapes do not belong together.

    """
    check_layers(original=original, edited=edited, alpha=alpha)
    result = np.asarray(cv2.copyTo(edited, alpha, original.copy()), np.uint8)
    ramp = np.flatnonzero((alpha > 0) & (alpha < 255))
    over, under = (picture.reshape(-1, 3).take(ramp, axis=0).astype(np.uint16) for picture in (edited, original))
    share = alpha.ravel().take(ramp).astype(np.uint16)[:, None]
    total = share * over + (255 - share) * under + 128
    result.reshape(-1, 3)[ramp] = (total + (total >> 8)) >> 8  # exactly total / 255, rounded, for 16 bits
    return result


def blend_alpha(foreground: Pixels, background: Pixels, alpha: Pixels) -> Pixels:
    """Lay the foreground over the background by its alpha; shapes and errors as `augment.blend` says."""
    return composite(background, foreground, alpha)


def blend_feathered(foreground: Pixels, background: Pixels, alpha: Pixels) -> Pixels:
    """Lay the foreground over the background by its alpha, softened by a Gaussian of 2 px.

    Shapes and errors as `augment.blend` says. Colours of the foreground are used up to 6 px beyond alpha > 0.
    """
    check_layers(original=background, edited=foreground, alpha=alpha)
    soft = cv2.GaussianBlur(
        alpha,
        ksize=(2 * FEATHER_REACH_PX + 1,) * 2,
        sigmaX=FEATHER_SIGMA_PX,
        borderType=cv2.BORDER_REPLICATE,
    )
    return composite(background, foreground, np.asarray(soft, np.uint8))


def check_layers(*, original: Pixels, edited: Pixels, alpha: Pixels) -> None:
    """Raise unless the two pictures are uint8 (H, W, 3) of one size and alpha is uint8 (H, W) of that size."""
    for name, array in (("original", original), ("edited", edited), ("alpha", alpha)):
        if array.dtype != np.uint8:
            raise TypeError(f"{name} must be uint8, got {array.dtype}")
    if original.ndim != 3 or original.shape[2] != 3 or edited.shape != original.shape:
        raise ValueError(f"original and edited must both be (H, W, 3), got {original.shape} and {edited.shape}")
    if alpha.shape != original.shape[:2]:
        raise ValueError(f"alpha must be {original.shape[:2]} as the picture, got {alpha.shape}")
