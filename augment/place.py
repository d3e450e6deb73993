"""Choose where in a background a subject stands and how large, and bring its layers there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.color import Pixels

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]
"""x, y, width, height in px."""

PLACEMENT_NUMBERS: Final = (32, 4)
"""Uniform numbers that one placement takes: 32 candidates, each of anchor, feet, size and side; see `choose_placement`."""

LARGEST_SCALE: Final = 1.2
"""A subject is not enlarged by more: its blur would tell it from the background."""
LEAST_HEIGHT_PX: Final = 64
LEAST_HEIGHT, MOST_HEIGHT = 0.15, 0.95
"""Of the frame's height."""
MARGIN: Final = 0.01
"""Share of the frame's shorter side that stays free at its edges."""
FEET: Final = (0.55, 0.98)
"""Where the feet may stand, as shares of the frame's height: its lower half, ground more often than not."""
PERSPECTIVE: Final = 0.5
"""Growth of a person, in px of height for each px that the feet stand lower than the anchor's. With the camera at eye
height, on level ground and all standing, it would be 1; half of it also suits people who sit."""
SIZE_JITTER: Final = (0.85, 1.15)
LONE_HORIZON, LONE_SIZE = 0.3, (0.75, 1.25)
"""Without people: height = (feet - 0.3 of the frame's height), times this; between 0.19 and 0.85 of the frame."""


@dataclass(frozen=True)
class Placement:
    """Where the whole picture of a subject lies in a background's frame: mirrored, then scaled, then moved."""

    scale: float
    """Px of the background a px of the subject's picture; 6 decimals."""
    left: int
    """Column of the frame at which the scaled picture's first column lies; may be negative."""
    top: int
    """The same for rows."""
    mirrored: bool
    """Whether left and right are swapped first."""

    def to_json(self) -> dict[str, float | int | bool]:
        """Return the fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, flat: Mapping[str, Any]) -> Placement:
        """Restore what `to_json` gave; a missing or unknown key raises ValueError."""
        names = {field.name for field in fields(cls)}
        if flat.keys() != names:
            raise ValueError(
                f"flat must have exactly the keys of a placement, these differ: {sorted(flat.keys() ^ names)}"
            )
        return cls(**flat)


def choose_placement(
    numbers: NDArray[np.float64], *, subject: Mask, size: tuple[int, int], boxes: Sequence[Box], people: Mask
) -> Placement | None:
    """Choose the first of the drawn candidates at which the subject fits into the background.

    A candidate is a row of four numbers in 0..1: which annotated person sets the scale, where the feet stand, how the
    size varies, and where from left to right (each half of the range is the whole width, the upper one mirrored).
    With people in the background, the height is that of the chosen person, more where the feet stand lower than that
    person's and less where higher, by +-15 %; without, it grows from a horizon at 0.3 of the frame's height
    downwards. A candidate fits where the feet are between 0.55 and 0.98 of the height, the whole subject is inside
    the frame, no px of it covers an annotated person, it is 64 px and 0.15 to 0.95 of the frame high, and it is not
    enlarged by more than 1.2.

    Args:
        numbers: float (K, 4), uniform in 0..1; `augment.draw.draw_placement` draws them.
        subject: bool (h, w), what of the subject's picture must be seen, not empty: alpha > 0, or the mask.
        size: Rows and columns of the background.
        boxes: x, y, width, height of the people in the background, crowds left out; may be empty.
        people: bool, of the background's size: every annotated person in it, crowds too.

    Returns:
        A placement of the subject's whole picture, or None where no candidate fits.

    Raises:
        ValueError: An empty subject, numbers that are not (K, 4), people of another size.

    """
    if numbers.ndim != 2 or numbers.shape[1] != 4:
        raise ValueError(f"numbers must be (K, 4), got {numbers.shape}")
    if people.shape != size:
        raise ValueError(f"people must be {size} as the background, got {people.shape}")
    x, y, width, height = cv2.boundingRect(subject.view(np.uint8))
    if not width:
        raise ValueError("subject must not be empty")
    for placement in _candidates(numbers, (x, y, width, height), subject.shape[1], size, boxes):
        if not (put_mask(subject, placement, size=size) & people).any():
            return placement
    return None


def put(layer: Pixels, placement: Placement, *, size: tuple[int, int]) -> Pixels:
    """Bring a picture or an alpha of the subject into the background's frame.

    Shrinking averages over areas (no aliasing), enlarging interpolates linearly. Where the frame shows more than the
    layer, a picture is carried on from its edge and an alpha is 0.

    Args:
        layer: uint8 (h, w, 3) or (h, w).
        placement: As chosen for layers of this size.
        size: Rows and columns of the frame.

    Returns:
        A new array, uint8 (H, W, 3) or (H, W).

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape, or a placement that leaves nothing of the layer in the frame.

    """
    if layer.dtype != np.uint8:
        raise TypeError(f"layer must be uint8, got {layer.dtype}")
    if layer.ndim not in {2, 3} or (layer.ndim == 3 and layer.shape[2] != 3):
        raise ValueError(f"layer must be (h, w) or (h, w, 3), got {layer.shape}")
    scaled = _scaled(layer, placement)
    rows = _overlap(placement.top, scaled.shape[0], size[0])
    columns = _overlap(placement.left, scaled.shape[1], size[1])
    if rows is None or columns is None:
        raise ValueError(f"placement must leave some of the layer in the frame of {size}, got {placement}")
    result = cv2.copyMakeBorder(
        scaled[rows[0], columns[0]],
        top=rows[1],
        bottom=rows[2],
        left=columns[1],
        right=columns[2],
        borderType=cv2.BORDER_REPLICATE if layer.ndim == 3 else cv2.BORDER_CONSTANT,
        value=0,
    )
    return np.asarray(result, np.uint8)


def put_mask(mask: Mask, placement: Placement, *, size: tuple[int, int]) -> Mask:
    """Bring a mask bool (h, w) of the subject into the frame: a pixel is set where over half of its area was.

    Raises:
        TypeError: The mask is not bool.
        ValueError: As for `put`.

    """
    if mask.dtype != np.bool_:
        raise TypeError(f"mask must be bool, got {mask.dtype}")
    return put(mask.astype(np.uint8) * 255, placement, size=size) > 127


def _candidates(
    numbers: NDArray[np.float64], box: Box, width: int, size: tuple[int, int], boxes: Sequence[Box]
) -> Iterator[Placement]:
    """Yield the placements that are inside the frame and of a plausible size, in the order of their numbers."""
    rows, columns = size
    margin = max(1, round(MARGIN * min(size)))
    for anchor, feet, jitter, side in numbers.tolist():
        bottom = rows * _between(feet, FEET)
        height = _height(anchor, jitter, bottom, rows, boxes)
        scale = round(height / box[3], 6)
        wide = scale * box[2]
        if not max(LEAST_HEIGHT_PX, LEAST_HEIGHT * rows) <= height <= MOST_HEIGHT * rows or scale > LARGEST_SCALE:
            continue
        free = columns - 2 * margin - wide
        top = bottom - height
        if free < 0 or top < margin:
            continue
        mirrored = side >= 0.5
        first = width - box[0] - box[2] if mirrored else box[0]
        left = margin + free * (2 * side % 1.0)
        yield Placement(scale, math.floor(left - scale * first), math.floor(top - scale * box[1]), mirrored)


def _height(anchor: float, jitter: float, bottom: float, rows: int, boxes: Sequence[Box]) -> float:
    if not boxes:
        return (bottom - LONE_HORIZON * rows) * _between(jitter, LONE_SIZE)
    whole = [box for box in boxes if box[1] + box[3] < rows - 2] or boxes  # cut by the lower edge: taller than seen
    _, y, _, height = whole[min(int(anchor * len(whole)), len(whole) - 1)]
    return (height + PERSPECTIVE * (bottom - y - height)) * _between(jitter, SIZE_JITTER)


def _scaled(layer: Pixels, placement: Placement) -> Pixels:
    pixels = cv2.flip(layer, flipCode=1) if placement.mirrored else layer
    height, width = (max(1, round(side * placement.scale)) for side in layer.shape[:2])
    how = cv2.INTER_AREA if placement.scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, dsize=(width, height), interpolation=how), np.uint8)


def _overlap(offset: int, length: int, frame: int) -> tuple[slice, int, int] | None:
    """Return which part of `length` px at `offset` lies in a frame, and how much of the frame is free on both sides."""
    first, last = max(offset, 0), min(offset + length, frame)
    return (slice(first - offset, last - offset), first, frame - last) if first < last else None


def _between(share: float, limits: tuple[float, float]) -> float:
    return limits[0] + (limits[1] - limits[0]) * share
