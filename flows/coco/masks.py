"""Read a COCO segmentation, however it is written, as a mask; refuse what cannot be one."""

from __future__ import annotations

import json
import reprlib
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Mask = NDArray[np.bool_]

Runs = dict[str, Any]
"""A mask as pycocotools' compressed run lengths."""

MAX_PIXELS: Final = 100_000_000
"""Most pixels of a mask; a run-length code of a few bytes can claim any size."""

MAX_POLYGON_NUMBERS: Final = 200_000
"""Most numbers of one instance's polygons together (COCO's longest has about 3,000)."""

MAX_POLYGON_PATH: Final = 1_000_000
"""Most pixels of way along one instance's edges: pycocotools takes 80 bytes for each, and a polygon that runs to and
fro across the frame asks for gigabytes."""


def decode_mask(segmentation: bytes, *, height: int, width: int) -> Mask:
    """Decode one instance's segmentation to bool (height, width).

    Arguments and errors are those of `encode_mask`.
    """
    return decode_runs(encode_mask(segmentation, height=height, width=width))


def decode_runs(runs: Runs) -> Mask:
    """Draw run lengths as bool (height, width)."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # pycocotools 2.0.11 with numpy 2
        return np.asarray(coco_mask.decode(runs), dtype=np.bool_)


def area_of(mask: Runs) -> float:
    """Count the pixels of a mask, without drawing it."""
    return float(coco_mask.area(mask))


def union_of(masks: Sequence[Runs]) -> Runs:
    """Unite masks of one size, at least one."""
    union: Runs = coco_mask.merge(list(masks))
    return union


def encode_mask(segmentation: bytes, *, height: int, width: int) -> Runs:
    """Read one instance's segmentation as run lengths.

    Args:
        segmentation: JSON text of COCO's `segmentation`: a list of polygons `[x0, y0, x1, y1, ...]`, or an object
            with `size` `[height, width]` and `counts`, a list of run lengths or COCO's compressed string.
        height: Rows of the photograph.
        width: Columns of the photograph.

    Returns:
        The mask's runs; polygons are rasterised by COCO's own rule (pycocotools).

    Raises:
        ValueError: The text is none of these, has no polygon of three finite points, or claims another size.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"size must be 1 to {MAX_PIXELS} pixels, got {width} x {height}")
    try:
        value = json.loads(segmentation)
    except (ValueError, RecursionError):
        raise ValueError("segmentation is not JSON") from None
    if isinstance(value, list):
        return _encode_polygons(value, height=height, width=width)
    if isinstance(value, dict):
        return _encode_runs(value, height=height, width=width)
    raise ValueError(f"segmentation must be polygons or run lengths, got {type(value).__name__}")


def scale_mask(mask: Mask, *, height: int, width: int) -> Mask:
    """Scale a mask to another size: a pixel is inside where the area average of the mask is over one half."""
    if mask.shape == (height, width):
        return mask
    import cv2  # noqa: PLC0415 - only scaled builds need it here

    covered = cv2.resize(mask.astype(np.uint8) * 255, dsize=(width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(covered > 127)


def _encode_polygons(polygons: list[Any], *, height: int, width: int) -> Runs:
    kept = []
    numbers = 0
    path = 0.0
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            continue
        numbers += len(polygon)
        if not all(type(number) in {int, float} for number in polygon):
            raise ValueError("a polygon holds something that is no number")
        try:
            points = np.asarray(polygon, dtype=np.float64)
        except OverflowError:
            raise ValueError("a polygon holds a number out of range") from None
        if not np.isfinite(points).all():
            raise ValueError("a polygon holds a point that is not finite")
        # pycocotools cuts at the frame itself, but walks every pixel of every edge: far-away points come nearer first
        corners = np.clip(points.reshape(-1, 2), (-width, -height), (2 * width, 2 * height))
        path += float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())
        kept.append(corners.ravel().tolist())
    if path > MAX_POLYGON_PATH:
        raise ValueError(f"polygons have edges of {path:.0f} pixels, more than {MAX_POLYGON_PATH}")
    if numbers > MAX_POLYGON_NUMBERS:
        raise ValueError(f"polygons have {numbers} numbers, more than {MAX_POLYGON_NUMBERS}")
    if not kept:
        raise ValueError("no polygon has three points")
    return union_of(coco_mask.frPyObjects(kept, height, width))


def _encode_runs(value: dict[str, Any], *, height: int, width: int) -> Runs:
    size, counts = value.get("size"), value.get("counts")
    if size != [height, width]:
        raise ValueError(f"run lengths are for size {reprlib.repr(size)}, the photograph has {[height, width]}")
    if isinstance(counts, str):
        lengths = np.asarray(_read_compressed(counts), dtype=np.int64)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        if any(not 0 <= count <= MAX_PIXELS for count in counts):
            raise ValueError("a run length is out of range")
        lengths = np.asarray(counts, dtype=np.int64)
    else:
        raise ValueError("counts must be run lengths or COCO's compressed string")
    if lengths.size == 0 or lengths.min() < 0 or int(lengths.sum()) != height * width:
        raise ValueError(f"run lengths do not add up to {height * width} pixels")
    runs: Runs = coco_mask.frPyObjects({"size": [height, width], "counts": lengths.tolist()}, height, width)
    return runs


def _read_compressed(text: str) -> list[int]:
    """Read COCO's compressed counts: groups of 5 bits, sign in the last, from the third on as differences.

    Written here and not left to pycocotools, whose C code trusts the string.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("compressed counts hold a foreign character")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        if not 0 <= counts[-1] <= MAX_PIXELS:
            raise ValueError("a compressed run length is out of range")
        value = shift = 0
    if shift:
        raise ValueError("compressed counts end in the middle of a number")
    return counts
