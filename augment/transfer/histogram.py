"""Match cumulative histograms, channel by channel in YCbCr (Fecker, Barkowsky, Kaup 2008)."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.color import (
    RGB_TO_YCBCR,
    Floats,
    Pixels,
    float_from_srgb,
    srgb_from_ycbcr,
    steps_from_floats,
    transform,
    ycbcr_from_srgb,
)
from augment.transfer.colormap import ColorMap, check_pixels

STEPS_PER_LEVEL = 16
BINS = 256 * STEPS_PER_LEVEL
GAIN_LIMIT = 5.0
"""Contrast is nowhere raised more than this: a smooth cheek falling into a gap of the reference would break in two."""
_CELL = 32
"""Bins over which the gain is taken; a single bin's would be noise."""
# Y, Cb and Cr in steps, one after the other on one axis: one histogram and one look-up serve all three.
_TO_BINS = RGB_TO_YCBCR * STEPS_PER_LEVEL + np.array([[0, 0, 0, c * BINS] for c in range(3)])


def count_bins(index: NDArray[np.uint16], bins: int) -> NDArray[np.float64]:
    """Count how often each of 0..bins-1 occurs in `index`, uint16 of any shape; float64 (bins,)."""
    counts = cv2.calcHist([index.reshape(-1, 1)], [0], None, [bins], [0, bins])
    return counts.ravel().astype(np.float64)


def matching_shift(subject: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float32]:
    """Find how far each bin must move so that one histogram takes the shape of another.

    A bin's rank is that of its middle: half its own count above all below it. So equal histograms give exactly zero,
    and a single-valued one lands on the other's median rather than at its end. Bins that the subject does not use
    are interpolated between those that it does, and the ends are continued: a smooth curve gives no bands.

    Args:
        subject: Counts, float64 (B,), at least one above zero.
        reference: Counts over the same bins, float64 (B,), at least one above zero.

    Returns:
        Shift in bins, float32 (B,); bin + shift never decreases over the subject's used bins.

    """
    used, wanted = np.flatnonzero(subject), np.flatnonzero(reference)
    own, other = subject[used], reference[wanted]
    rank = (np.cumsum(own) - own / 2) / own.sum()
    wanted_rank = (np.cumsum(other) - other / 2) / other.sum()
    shift = np.interp(rank, wanted_rank, wanted) - used
    return np.asarray(np.interp(np.arange(len(subject)), used, shift), np.float32)


def limit_gain(shift: Floats, counts: NDArray[np.float64]) -> tuple[Floats, bool]:
    """Make the steep parts of a matching curve as gentle as `GAIN_LIMIT`.

    A steep cell becomes a straight line; every other cell keeps its shape and is moved as a whole. The subject's
    median stays where the matching put it, so it is the thinly populated tails that fall short.

    Args:
        shift: As from `matching_shift`, float32 (B,).
        counts: The subject's, float64 (B,).

    Returns:
        The limited shift, float32 (B,), and whether anything was limited (if not, the shift is returned as it came).

    """
    bins = np.arange(len(shift))
    nodes = np.append(bins[::_CELL], bins[-1])
    rise = np.diff(nodes + shift[nodes])
    excess = np.maximum(rise - GAIN_LIMIT * np.diff(nodes), 0)
    if not excess.any():
        return shift, False
    detail = shift - np.interp(bins, nodes, shift[nodes])
    detail[np.append(np.repeat(excess > 0, np.diff(nodes)), excess[-1] > 0)] = 0
    gentle = np.interp(bins, nodes, shift[nodes] - np.append(0, np.cumsum(excess))) + detail
    middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    return np.asarray(gentle + (shift[middle] - gentle[middle]), np.float32), True


def _bin_index(pixels: Pixels) -> NDArray[np.uint16]:
    steps = transform(float_from_srgb(pixels), _TO_BINS)
    return steps_from_floats(steps, 1.0, 0.0)


def histogram(subject: Pixels, reference: Pixels) -> ColorMap:
    """Estimate the map that gives the subject's Y, Cb and Cr the reference's distributions, each by itself.

    Args:
        subject: uint8 sRGB (N, 3).
        reference: uint8 sRGB (M, 3).

    Returns:
        The map; note `gain_limited` tells whether `GAIN_LIMIT` was met in any channel.

    Raises:
        TypeError, ValueError: Not uint8, not (N, 3), or no pixels.

    """
    check_pixels("subject", subject)
    check_pixels("reference", reference)
    own, other = (count_bins(_bin_index(pixels), 3 * BINS).reshape(3, BINS) for pixels in (subject, reference))
    limited = [limit_gain(matching_shift(own[c], other[c]), own[c]) for c in range(3)]
    shifts = np.concatenate([shift for shift, _ in limited]) * np.float32(1 / STEPS_PER_LEVEL)
    return ColorMap(partial(_apply, shifts=shifts), {"gain_limited": any(met for _, met in limited)})


def _apply(pixels: Pixels, *, shifts: Floats) -> Floats:
    shift = shifts.take(_bin_index(pixels), mode="clip")
    return srgb_from_ycbcr(ycbcr_from_srgb(float_from_srgb(pixels)) + shift)
