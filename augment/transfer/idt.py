"""Match the whole three-dimensional colour distribution (Pitie, Kokaram, Dahyot 2005), then smooth the edit (2007)."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.color import Floats, Matrix, Pixels, float_from_srgb, steps_from_floats, transform
from augment.transfer.colormap import ColorMap, check_pixels
from augment.transfer.histogram import count_bins, matching_shift

ROTATION_COUNT: Final = 32
PIXEL_CAP: Final = 20_000
"""The map is estimated on at most so many pixels of each set, every n-th in order; it is applied to all."""
BINS: Final = 2048
_MIDDLE, _SPAN = 127.5, 480.0
"""Any axis through the middle of the colour cube leaves it within 221 levels; mapped colours may leave it a little."""
_TO_BINS_LOW, _TO_BINS_HIGH = np.float32(-_SPAN / 2), np.float32(_SPAN / 2 * (1 - 1 / BINS))
_TO_BINS = np.column_stack([BINS / _SPAN * np.eye(3), [BINS / 2 + axis * BINS - 0.5 for axis in range(3)]])

JACOBI_STEPS: Final = (4, 16, 32, 64, 64, 64)
"""Of `regrain`, from the full size down, each level half the size of the one before (Pitie et al. 2007)."""
_SMALLEST_SIDE = 16
_HOLD_FLOOR = 0.01


def _rotations() -> Matrix:
    """Spread rotations evenly: unit quaternions (Shoemake 1992) from Roberts' 2018 additive sequence in 3 dimensions.

    The first is replaced by the identity, so that one iteration from it matches R, G and B themselves.
    """
    step = 1 / 1.2207440846057596 ** np.arange(1, 4)
    u = (0.5 + np.arange(ROTATION_COUNT)[:, None] * step) % 1
    low, high, a, b = np.sqrt(1 - u[:, 0]), np.sqrt(u[:, 0]), 2 * np.pi * u[:, 1], 2 * np.pi * u[:, 2]
    x, y, z, w = low * np.sin(a), low * np.cos(a), high * np.sin(b), high * np.cos(b)
    table = np.stack(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    table[0] = np.eye(3)
    return table


ROTATIONS: Final[Matrix] = _rotations()
"""The fixed table of axes, (ROTATION_COUNT, 3, 3), each orthonormal."""


def idt(subject: Pixels, reference: Pixels, *, rotation: int = 0, iterations: int = 16) -> ColorMap:
    """Estimate the map that gives the subject the reference's colour distribution as a whole.

    Each iteration turns both sets, matches the three marginals, and turns back.

    Args:
        subject: uint8 sRGB (N, 3).
        reference: uint8 sRGB (M, 3).
        rotation: Entry of `ROTATIONS` to start at; the table is used cyclically from there.
        iterations: How many, 1 or more.

    Raises:
        TypeError: Not uint8.
        ValueError: Not (N, 3), no pixels, fewer than 1 iteration, or `rotation` outside the table.

    """
    check_pixels("subject", subject)
    check_pixels("reference", reference)
    if iterations < 1 or not 0 <= rotation < ROTATION_COUNT:
        raise ValueError(
            f"want iterations >= 1 and rotation in 0..{ROTATION_COUNT - 1}, got {iterations} and {rotation}"
        )
    moved, wanted = (float_from_srgb(_thin(pixels)) - np.float32(_MIDDLE) for pixels in (subject, reference))
    steps = []
    for k in range(iterations):
        turn = ROTATIONS[(rotation + k) % ROTATION_COUNT]
        own, other = transform(moved, turn), transform(wanted, turn)
        shifts = _marginal_shifts(own, other)
        steps.append((turn, shifts))
        moved = transform(_shifted(own, shifts), turn.T)
    return ColorMap(partial(_apply, steps=tuple(steps)))


def _thin(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[:: -(-len(pixels) // PIXEL_CAP)])


def _bin_index(turned: Floats) -> NDArray[np.uint16]:
    """Number the bin of each coordinate, the three axes one after the other on one axis of 3 * BINS."""
    within = np.clip(turned, _TO_BINS_LOW, _TO_BINS_HIGH)
    return steps_from_floats(transform(within, _TO_BINS), 1.0, 0.0)


def _marginal_shifts(own: Floats, other: Floats) -> Floats:
    counts, wanted = (count_bins(_bin_index(turned), 3 * BINS).reshape(3, BINS) for turned in (own, other))
    shifts = [matching_shift(counts[c], wanted[c]) for c in range(3)]
    return np.asarray(np.concatenate(shifts) * np.float32(_SPAN / BINS))


def _shifted(turned: Floats, shifts: Floats) -> Floats:
    return np.asarray(turned + shifts.take(_bin_index(turned), mode="clip"))


def _apply(pixels: Pixels, *, steps: tuple[tuple[Matrix, Floats], ...]) -> Floats:
    # Turning back and turning to the next axes is one rotation.
    moved = transform(float_from_srgb(pixels) - np.float32(_MIDDLE), steps[0][0])
    for (turn, shifts), (next_turn, _) in pairwise(steps):
        moved = transform(_shifted(moved, shifts), next_turn @ turn.T)
    turn, shifts = steps[-1]
    return np.asarray(transform(_shifted(moved, shifts), turn.T) + np.float32(_MIDDLE))


def regrain(original: Pixels, edited: Floats, region: NDArray[np.bool_]) -> Floats:
    """Give an edited picture back the grain of its original.

    Minimises, over the region, hold * |result - edited|^2 + smooth * |grad(result - original)|^2 with
    smooth = 30 / (1 + 10 g), hold = min(g, 5 / 255) * 255 / 5 and g the original's gradient (levels / 255): where
    the original is flat the edit must be smooth, so stretched noise goes; at texture it may do as it likes
    (Pitie, Kokaram, Dahyot 2007). Coarse to fine, a few Jacobi steps a level.

    Nothing is smoothed across the edge of the region: the edit would fade towards an unedited background, which shows
    as a rim. The pictures are whole ones, so gradients at that edge are the scene's, not those of a blackened mask.

    Args:
        original: uint8 (H, W, 3).
        edited: The composited edit, float32 (H, W, 3) on the 0..255 scale.
        region: bool (H, W), where the edit applies.

    Returns:
        float32 (H, W, 3); outside the region the original.

    """
    picture = original.transpose(2, 0, 1).astype(np.float32)
    inside = region.astype(np.float32)
    edit = (edited.transpose(2, 0, 1) - picture) * inside
    smooth_edit = _solve(picture / np.float32(255), edit, inside, level=0)
    return np.asarray(np.moveaxis(picture + smooth_edit * inside, 0, -1), order="C")


def _solve(picture: Floats, edit: Floats, inside: Floats, *, level: int) -> Floats:
    """Smooth `edit` (3, H, W) where `picture` (3, H, W, 0..1) is flat; `inside` (H, W) is 0 or 1."""
    start = edit
    if min(inside.shape) >= 2 * _SMALLEST_SIDE and level + 1 < len(JACOBI_STEPS):
        coarse_picture, coarse_edit, coarse_inside = _halved(picture, edit, inside)
        coarse = _solve(coarse_picture, coarse_edit, coarse_inside, level=level + 1)
        start = _enlarged(coarse, coarse_inside, inside.shape) * inside
    gradient = _gradient(picture)
    hold = np.maximum(np.minimum(gradient * np.float32(255 / 5), np.float32(1)), np.float32(_HOLD_FLOOR))
    smooth = np.float32(30 * 0.5**level) / (1 + 10 * gradient) * inside
    across = (smooth[:, 1:] + smooth[:, :-1]) / 2 * (inside[:, 1:] * inside[:, :-1])
    down = (smooth[1:] + smooth[:-1]) / 2 * (inside[1:] * inside[:-1])
    return _jacobi(start, hold * edit, (hold, across, down), steps=JACOBI_STEPS[level])


def _jacobi(start: Floats, held: Floats, weights: tuple[Floats, Floats, Floats], *, steps: int) -> Floats:
    hold, across, down = weights
    total = hold.copy()
    total[:, 1:] += across
    total[:, :-1] += across
    total[1:] += down
    total[:-1] += down
    held, across_l, across_r = held / total, across / total[:, 1:], across / total[:, :-1]
    down_u, down_d = down / total[1:], down / total[:-1]
    result = start
    for _ in range(steps):
        new = held.copy()
        new[:, :, 1:] += across_l * result[:, :, :-1]
        new[:, :, :-1] += across_r * result[:, :, 1:]
        new[:, 1:] += down_u * result[:, :-1]
        new[:, :-1] += down_d * result[:, 1:]
        result = new
    return result


def _gradient(picture: Floats) -> Floats:
    """Return the length of the forward-difference gradient over all channels of (3, H, W); float32 (H, W)."""
    square = np.zeros(picture.shape[1:], np.float32)
    square[:, :-1] += (np.diff(picture, axis=2) ** 2).sum(axis=0)
    square[:-1] += (np.diff(picture, axis=1) ** 2).sum(axis=0)
    return np.sqrt(square)


def _halved(picture: Floats, edit: Floats, inside: Floats) -> tuple[Floats, Floats, Floats]:
    """Halve a level; the edit is averaged over the region's pixels only, any of which puts a coarse pixel inside."""
    height, width = (-(-side // 2) for side in inside.shape)

    def halve(plane: Floats) -> Floats:
        return np.asarray(cv2.resize(plane, dsize=(width, height), interpolation=cv2.INTER_AREA), np.float32)

    share = halve(inside)
    mean_edit = np.stack([halve(plane) for plane in edit]) / np.maximum(share, np.float32(1e-6))
    return np.stack([halve(plane) for plane in picture]), mean_edit.astype(np.float32), (share > 0).astype(np.float32)


def _enlarged(edit: Floats, inside: Floats, shape: tuple[int, ...]) -> Floats:
    """Enlarge a coarse edit, each new pixel averaged over the coarse pixels that are inside."""
    height, width = shape

    def enlarge(plane: Floats) -> Floats:
        return np.asarray(cv2.resize(plane, dsize=(width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    share = np.maximum(enlarge(inside), np.float32(1e-6))
    return np.asarray(np.stack([enlarge(plane * inside) for plane in edit]) / share)
