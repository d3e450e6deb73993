"""Make the small pictures of a page from the members of a sample."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flows.decoding import decode_member
from flows.store.read import Damaged, read_sample

Pixels = NDArray[np.uint8]

TILE: Final = 240
"""Side of one picture in the strip, in pixels."""
LARGE: Final = 800
"""Longer side of an enlarged picture at most, in pixels: a COCO photograph (640) stays as it is."""

BEFORE: Final = ("real.jpg", "background.jpg", "real.png", "background.png")
"""Members that show the scene before the edit, by stage and encoding; the first that is there is taken."""
AFTER: Final = ("composite.jpg", "composite.png")

_TILE_JPEG: Final = (cv2.IMWRITE_JPEG_QUALITY, 86)
_LARGE_JPEG: Final = (cv2.IMWRITE_JPEG_QUALITY, 85)
_PNG: Final = (cv2.IMWRITE_PNG_COMPRESSION, 6)
_REDUCED: Final = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


@dataclass(frozen=True)
class Pictures:
    """The pictures of one sample as encoded files.

    Attributes:
        strip: JPEG, three squares side by side: before, mask, composite, cut around the subject.
        before: JPEG of the whole scene before the edit.
        composite: JPEG of the whole composite, the same size.
        mask: PNG of the whole mask, the same size; None where the sample has none.
        width: Columns of the whole pictures.
        height: Rows of them.
        before_name: The member that `before` shows, without its extension.
    """

    strip: bytes
    before: bytes
    composite: bytes
    mask: bytes | None
    width: int
    height: int
    before_name: str


def read_members(tar: Path, *, offset: int, size: int) -> dict[str, bytes]:
    """Read the members of one sample from its extent in a tar, by extension.

    Returns nothing where the tar is missing or holds something else there: telling what is damaged is the work of
    `verify`, a page shows the rest.
    """
    try:
        return read_sample(tar, offset=offset, size=size).members
    except Damaged:
        return {}


@lru_cache(maxsize=8)
def decode_recent(content: bytes | None, flags: int) -> Pixels | None:
    """Decode to uint8, in full size or as `flags` say; None where there is nothing, or nothing that can be decoded.

    The last pictures are kept: samples of one photograph stand next to each other and hold the same `real.jpg`.
    """
    return decode_member(content, flags)


def make_pictures(members: Mapping[str, bytes]) -> Pictures | None:
    """Make the pictures of one sample; None where it has no two pictures that can be decoded.

    Args:
        members: Content by extension, such as `composite.jpg`.
    """
    before_name = next((name for name in BEFORE if name in members), None)
    after_name = next((name for name in AFTER if name in members), None)
    if before_name is None or after_name is None:
        return None
    before, after = _decode(members[before_name]), _decode(members[after_name])
    if before is None or after is None:
        return None
    height, width = after.shape[:2]
    before = _resize(before, width=width, height=height)
    mask = _decode(members["mask.png"]) if "mask.png" in members else None
    if mask is not None:
        mask = _resize(mask, width=width, height=height)
    return Pictures(
        strip=_encode(".jpg", _strip(before, mask, after), _TILE_JPEG),
        before=_encode(".jpg", before, _LARGE_JPEG),
        composite=_encode(".jpg", after, _LARGE_JPEG),
        mask=None if mask is None else _encode(".png", mask[..., 0], _PNG),
        width=width,
        height=height,
        before_name=before_name.partition(".")[0],
    )


def cut_square(mask: Pixels | None, *, width: int, height: int) -> tuple[slice, slice]:
    """Return rows and columns of the largest square in a frame, as near to the middle of the subject as it gets.

    Args:
        mask: uint8 (height, width), the subject where > 127; None for the middle of the frame.
        width: Columns of the frame.
        height: Rows of the frame.
    """
    side = min(width, height)
    x, y, columns, rows = (0, 0, 0, 0) if mask is None else cv2.boundingRect((mask > 127).view(np.uint8))
    if not columns:
        x, y, columns, rows = 0, 0, width, height
    left = min(max(x + columns // 2 - side // 2, 0), width - side)
    top = min(max(y + rows // 2 - side // 2, 0), height - side)
    return slice(top, top + side), slice(left, left + side)


def _strip(before: Pixels, mask: Pixels | None, after: Pixels) -> Pixels:
    height, width = after.shape[:2]
    square = cut_square(None if mask is None else mask[..., 0], width=width, height=height)
    shown = np.full_like(after, 128) if mask is None else mask
    tiles = [_resize(np.ascontiguousarray(each[square]), width=TILE, height=TILE) for each in (before, shown, after)]
    return np.hstack(tiles)


def _decode(data: bytes) -> Pixels | None:
    """Decode to uint8 (H, W, 3) BGR with the longer side at most `LARGE`; None where that fails."""
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # of its size
            Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image,
        ):
            longer = max(image.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    flags = next((flag for factor, flag in _REDUCED if longer >= factor * LARGE), cv2.IMREAD_COLOR)
    picture = decode_member(data, flags)
    if picture is None:
        return None
    height, width = picture.shape[:2]
    scale = min(1.0, LARGE / max(height, width))
    return _resize(picture, width=max(1, round(width * scale)), height=max(1, round(height * scale)))


def _resize(picture: Pixels, *, width: int, height: int) -> Pixels:
    rows, columns = picture.shape[:2]
    if (rows, columns) == (height, width):
        return picture
    way = cv2.INTER_AREA if width * height < rows * columns else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, dsize=(width, height), interpolation=way), dtype=np.uint8)


def _encode(extension: str, picture: Pixels, options: tuple[int, ...]) -> bytes:
    return cv2.imencode(extension, picture, options)[1].tobytes()
