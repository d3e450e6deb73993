"""Judge an edit by closed formulas: a reason to drop it, or None."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.blend import check_layers
from augment.color import Pixels

LIMITS: Final[Mapping[str, float]] = {
    "clipping": 0.05,
    "hue_flip": 0.20,
    "effect_small": 100.0,
    "effect_large": 5000.0,
    "background_changed": 3.0,
    "subject_lost": 0.05,
    "halo": 0.1,
}
"""Gate to limit, in the order in which they are asked; a value at the limit passes. The first four are of an edit, the
others of a composition (`augment.composition`)."""

SATURATED_CHROMA: Final = 40
"""A pixel is saturated when its largest and smallest channel are at least so many levels apart."""
SATURATED_SHARE: Final = 0.01
"""With fewer saturated pixels than this share of the subject, hue says nothing."""
_TURN: Final = 43  # 60 degrees in OpenCV's 256ths of a circle, 42.7, rounded up


def measure_gates(original: Pixels, edited: Pixels, alpha: Pixels) -> dict[str, float]:
    """Measure the gates that need no encoding, on a subject's box before and after the edit.

    `clipping` is the share of pixels inside (alpha > 127) that are pure black or pure white in all channels and were
    not so before. `hue_flip` is the share, among the pixels inside that are saturated both before and after, of those
    whose hue turned by more than 60 degrees (hue in steps of 1.4 degrees); 0 where those are too few.

    Args:
        original: uint8 sRGB (h, w, 3).
        edited: The same, after the edit.
        alpha: uint8 (h, w).

    Raises:
        TypeError: An array is not uint8.
        ValueError: The shapes do not belong together.

    """
    check_layers(original=original, edited=edited, alpha=alpha)
    index = np.flatnonzero(alpha > 127)
    if not len(index):
        return {"clipping": 0.0, "hue_flip": 0.0}
    before, after = (picture.reshape(-1, 3).take(index, axis=0)[None] for picture in (original, edited))
    clipped = cv2.countNonZero(_pure(after) & ~_pure(before))
    return {"clipping": clipped / len(index), "hue_flip": _hue_flip(before, after)}


def _pure(pixels: Pixels) -> Pixels:
    """Return 255 where all channels are 0 or all are 255, else 0; uint8 (1, N)."""
    black = cv2.inRange(pixels, (0, 0, 0), (0, 0, 0))
    return np.asarray(cv2.bitwise_or(black, cv2.inRange(pixels, (255, 255, 255), (255, 255, 255))), np.uint8)


def _hue_flip(before: Pixels, after: Pixels) -> float:
    hue, other = (cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)[0, :, 0] for pixels in (before, after))
    saturated = _saturated(before) & _saturated(after)
    count = int(np.count_nonzero(saturated))
    if count < SATURATED_SHARE * before.shape[1]:
        return 0.0
    # A full circle is 256, so uint8 differences wrap as angles do; the smaller of the two ways round counts.
    turned = np.minimum(hue - other, other - hue) >= _TURN
    return int(np.count_nonzero(turned & saturated)) / count


def _saturated(pixels: Pixels) -> NDArray[np.bool_]:
    r, g, b = cv2.split(pixels)
    chroma = cv2.max(cv2.max(r, g), b) - cv2.min(cv2.min(r, g), b)
    return np.asarray(chroma[0] >= SATURATED_CHROMA)


def judge_gates(
    gates: Mapping[str, float | None], *, limits: Mapping[str, float] = LIMITS
) -> tuple[str, float, float] | None:
    """Return the first failed gate as (reason, value, limit), or None where all pass.

    Args:
        gates: Gate to value, for any of `LIMITS`; `effect_small` and `effect_large` both hold the foreground MSE.
            One that is missing or None is not judged.
        limits: Gate to limit. `effect_small` fails below its limit, the others above.

    """
    for reason in LIMITS:
        value, limit = gates.get(reason), limits.get(reason)
        if value is None or limit is None:
            continue
        if value < limit if reason == "effect_small" else value > limit:
            return reason, value, limit
    return None


def foreground_mse(real: Pixels, composite: Pixels, inside: NDArray[np.bool_]) -> float:
    """Return the mean squared difference over the channels and pixels inside, 8-bit scale squared; 0 if none is.

    Args:
        real: uint8 (H, W, 3).
        composite: uint8 (H, W, 3).
        inside: bool (H, W).

    Raises:
        TypeError, ValueError: Wrong dtype or shapes that do not belong together.

    """
    if inside.dtype != np.bool_:
        raise TypeError(f"inside must be bool, got {inside.dtype}")
    mask = inside.view(np.uint8)
    check_layers(original=real, edited=composite, alpha=mask)
    count = cv2.countNonZero(mask)
    x, y, width, height = cv2.boundingRect(mask)
    window = np.s_[y : y + height, x : x + width]
    if not count:
        return 0.0
    total = cv2.norm(real[window], composite[window], normType=cv2.NORM_L2SQR, mask=mask[window])
    return float(total) / (3 * count)
