from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from flows.store.write import pack, write_tar
from flows.view.pictures import LARGE, TILE, cut_square, make_pictures, read_members


def _decode(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def test_a_strip_is_three_squares(pictures: Mapping[str, bytes]) -> None:
    """Before, mask and composite stand side by side in one picture of a fixed size."""
    made = make_pictures(pictures)
    assert made is not None
    strip = _decode(made.strip)
    assert strip.shape == (TILE, 3 * TILE, 3)
    mask = strip[:, TILE : 2 * TILE]
    assert mask.min() < 10
    assert mask.max() > 245


def test_a_small_photograph_is_not_scaled(pictures: Mapping[str, bytes]) -> None:
    """The enlarged pictures of a small photograph have its size, and the mask its values."""
    made = make_pictures(pictures)
    assert made is not None
    assert made.mask is not None
    assert (made.width, made.height, made.before_name) == (96, 64, "real")
    np.testing.assert_array_equal(_decode(made.mask), _decode(pictures["mask.png"]))


@pytest.mark.parametrize(("height", "width"), [(900, 1700), (2000, 1000), (150, 6500)])
def test_a_large_photograph_is_scaled_down(height: int, width: int) -> None:
    """The longer side of the enlarged pictures is bounded, and the shape stays."""
    jpeg = cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8))[1].tobytes()
    made = make_pictures({"real.jpg": jpeg, "composite.jpg": jpeg})
    assert made is not None
    assert max(made.width, made.height) == LARGE
    assert made.width / made.height == pytest.approx(width / height, rel=0.03)
    assert _decode(made.composite).shape == (made.height, made.width, 3)


def test_a_fusion_sample_shows_its_background() -> None:
    """Where there is no real picture, the scene before is the background."""
    jpeg = cv2.imencode(".jpg", np.full((20, 30, 3), 90, np.uint8))[1].tobytes()
    made = make_pictures({"foreground.jpg": jpeg, "background.jpg": jpeg, "composite.jpg": jpeg})
    assert made is not None
    assert (made.before_name, made.mask) == ("background", None)


@pytest.mark.parametrize("broken", [{}, {"real.jpg": b""}, {"real.jpg": b"no picture"}])
def test_members_without_pictures_make_none(pictures: Mapping[str, bytes], broken: dict[str, bytes]) -> None:
    """What cannot be shown is no error."""
    assert make_pictures({**broken, "composite.jpg": pictures["composite.jpg"]}) is None


def test_a_cut_jpeg_makes_no_traceback(pictures: Mapping[str, bytes]) -> None:
    """A member that ends early is decoded as far as it goes or shown as missing."""
    half = pictures["real.jpg"][: len(pictures["real.jpg"]) // 2]
    made = make_pictures({**pictures, "real.jpg": half})
    assert made is None or made.width == 96


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 10, 10), (slice(0, 60), slice(0, 60))),
        ((80, 0, 20, 60), (slice(0, 60), slice(40, 100))),
        ((40, 20, 20, 20), (slice(0, 60), slice(20, 80))),
        (None, (slice(0, 60), slice(20, 80))),
    ],
)
def test_the_square_follows_the_subject(box: tuple[int, int, int, int] | None, expected: tuple[slice, slice]) -> None:
    """The square is as high as the frame and as near to the middle of the subject as the frame allows."""
    mask = np.zeros((60, 100), np.uint8)
    if box:
        x, y, width, height = box
        mask[y : y + height, x : x + width] = 255
    assert cut_square(mask, width=100, height=60) == expected


def test_members_are_read_by_offset(tmp_path: Path, pictures: Mapping[str, bytes]) -> None:
    """The second sample of a tar is read without the first."""
    first, second = pack("a", {"json": b"{}"}), pack("b", {**pictures, "json": b"[]"})
    write_tar(tmp_path / "x.tar", [first, second])
    members = read_members(tmp_path / "x.tar", offset=len(first), size=len(second))
    assert members == {**pictures, "json": b"[]"}


@pytest.mark.parametrize(("offset", "size"), [(100, 700), (10**9, 512), (0, 0), (-5, 10)])
def test_a_wrong_extent_reads_nothing(tmp_path: Path, offset: int, size: int) -> None:
    """An index that points elsewhere is no error here."""
    write_tar(tmp_path / "x.tar", [pack("a", {"json": b"{}" * 400})])
    assert read_members(tmp_path / "x.tar", offset=offset, size=size) == {}
