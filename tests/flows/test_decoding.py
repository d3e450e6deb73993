"""Pictures of samples are decoded, and what would take too much time or memory is not begun."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from flows.decoding import MAX_SCANNED_PIXELS, MAX_SCANS, decode_member, has_too_many_scans, is_cut_short

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def saved(form: str, **options: bool) -> bytes:
    """Write the picture in a format."""
    out = io.BytesIO()
    Image.fromarray(PICTURE).save(out, form, **options)
    return out.getvalue()


def scanned(scans: int, *, height: int = 30, width: int = 40) -> bytes:
    """Return a progressive JPEG that claims a size, and whose last scan stands there so many times in all."""
    data = saved("JPEG", progressive=True)
    frame, last = data.index(b"\xff\xc2"), data.rindex(b"\xff\xda")
    head = data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 : last]
    return head + data[last:-2] * (scans - head.count(b"\xff\xda")) + data[-2:]


@pytest.mark.parametrize(("form", "exact"), [("PNG", True), ("JPEG", False)])
def test_jpeg_and_png_are_decoded(form: str, exact: bool) -> None:  # noqa: FBT001
    """Those two are what hcoco writes."""
    picture = decode_member(saved(form), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    assert picture.shape == PICTURE.shape
    assert np.array_equal(picture, PICTURE) is exact


@pytest.mark.parametrize("data", [None, b"", b"\xff\xd8", b"text", saved("WEBP", lossless=True), saved("GIF")])
def test_anything_else_is_none(data: bytes | None) -> None:
    """No file, no picture, and formats that no sample of hcoco has."""
    assert decode_member(data, cv2.IMREAD_COLOR_RGB) is None


def test_scans_are_counted() -> None:
    """A progressive JPEG may have as many scans as the limit says, and not one more."""
    assert not has_too_many_scans(scanned(MAX_SCANS))
    assert has_too_many_scans(scanned(MAX_SCANS + 1))
    assert decode_member(scanned(MAX_SCANS), cv2.IMREAD_COLOR_RGB) is not None
    assert decode_member(scanned(MAX_SCANS + 1), cv2.IMREAD_COLOR_RGB) is None


def test_a_large_picture_may_have_fewer_scans() -> None:
    """The pixels of all scans together are bounded: 20 scans of 25 million pixels, by the size in the header."""
    side = 5_000
    most = MAX_SCANNED_PIXELS // side**2
    assert not has_too_many_scans(scanned(most, height=side, width=side))
    assert has_too_many_scans(scanned(most + 1, height=side, width=side))


def test_a_chunk_that_claims_more_than_the_file_is_not_believed() -> None:
    """OpenCV would take two gigabytes for the chunk before it looks whether they are there."""
    whole = saved("PNG")
    claims = whole[:8] + whole[8:33] + struct.pack(">I", 2**31 - 1) + b"IDAT" + zlib.compress(bytes(100))
    assert is_cut_short(claims)
    assert decode_member(claims, cv2.IMREAD_COLOR_RGB) is None
    assert not is_cut_short(whole)
