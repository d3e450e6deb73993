"""Bound what a small file may make a decoder do, and decode the pictures of samples, which somebody may have forged."""

from __future__ import annotations

import re
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_PIXELS: Final = 100_000_000
"""Of a picture; OpenCV's own limit is set to the same in `flows`."""
MAX_SCANS: Final = 64
"""Passes of a progressive JPEG over its pixels; encoders make about ten."""
MAX_SCANNED_PIXELS: Final = 500_000_000
"""Pixels that the passes go over together: a pass may take a hundred bytes of the file and a second of time."""

PNG: Final = b"\x89PNG\r\n\x1a\n"
JPEG: Final = b"\xff\xd8"
_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""A marker of a JPEG: 00 after ff is a coded pixel, d0 to d7 are restarts within a scan, ff is padding."""
_START_OF_SCAN, _END_OF_IMAGE, _NO_LENGTH = 0xDA, 0xD9, frozenset({0x01, 0xD8})
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame, and tell its size; between them lie those of tables."""


def has_too_many_scans(data: bytes) -> bool:
    """Say whether a JPEG has more scans than a picture of its size may have; False of anything else."""
    scans, most, place = 0, MAX_SCANS, len(JPEG)
    while data.startswith(JPEG) and (found := _MARKER.search(data, place)):
        kind, place = data[found.end() - 1], found.end()
        if kind == _END_OF_IMAGE:
            break
        if kind in _FRAMES:
            height, width = (int.from_bytes(data[at : at + 2], "big") for at in (place + 3, place + 5))
            most = min(most, MAX_SCANNED_PIXELS // max(1, height * width))
        if kind not in _NO_LENGTH:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
        scans += kind == _START_OF_SCAN
        if scans > most:
            return True
    return False


def is_cut_short(data: bytes) -> bool:
    """Say whether the chunks of a PNG claim more than the file holds: OpenCV takes the memory before it looks."""
    if not data.startswith(PNG):
        return False
    place = len(PNG)
    while data[place + 4 : place + 8] not in {b"IEND", b""}:
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return place >= len(data)


def decode_member(data: bytes | None, flags: int) -> NDArray[np.uint8] | None:
    """Decode a picture of a sample: a JPEG or PNG, for hcoco writes no other.

    Args:
        data: The file's bytes.
        flags: Of `cv2.imdecode`.

    Returns:
        What the flags ask for; None where there is no such picture, or one that would take too much time or memory.
    """
    if not data or not data.startswith((JPEG, PNG)) or is_cut_short(data) or has_too_many_scans(data):
        return None
    try:
        # None where it fails, whatever the stub says.
        picture: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)  # type: ignore[assignment]
    except cv2.error:  # a size beyond all bounds
        return None
    return picture
