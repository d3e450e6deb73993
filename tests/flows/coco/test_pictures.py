from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from flows.coco.pictures import BadPicture, decode, grey_share, locate, read_bytes, scale_down, scaled_size, screen

HEIGHT, WIDTH = 64, 96
TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT = (200, 40, 40), (40, 180, 40), (40, 40, 220)

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def draw() -> Pixels:
    """Draw a picture whose corners tell how it lies: red, green, blue, and grey."""
    picture = np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)
    picture[: HEIGHT // 2, : WIDTH // 2] = TOP_LEFT
    picture[: HEIGHT // 2, WIDTH // 2 :] = TOP_RIGHT
    picture[HEIGHT // 2 :, : WIDTH // 2] = BOTTOM_LEFT
    return picture


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Encode with Pillow."""
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return out.getvalue()


def oriented(orientation: int) -> Image.Exif:
    """Return EXIF data with an orientation tag."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def close(picture: Pixels, expected: Pixels, *, tolerance: int = 12) -> bool:
    """Compare by the middle of each quarter, where JPEG does not ring."""
    if picture.shape != expected.shape:
        return False
    height, width = picture.shape[:2]
    spots = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return all(np.abs(picture[spot].astype(int) - expected[spot]).max() <= tolerance for spot in spots)


PHOTO = Image.fromarray(draw())
COLOURED: dict[str, bytes] = {
    "JPEG": encode(PHOTO),
    "progressive JPEG": encode(PHOTO, progressive=True),
    "PNG": encode(PHOTO, "PNG"),
    "WebP": encode(PHOTO, "WEBP", lossless=True),
    "TIFF": encode(PHOTO, "TIFF"),
    "BMP": encode(PHOTO, "BMP"),
    "PNG with alpha": encode(PHOTO.convert("RGBA"), "PNG"),
    "PNG with a palette": encode(PHOTO.quantize(16), "PNG"),
    "PNG with a transparent palette": encode(PHOTO.quantize(16), "PNG", transparency=b"\x00\x80" * 20),
    "16-bit PNG": cv2.imencode(".png", draw()[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
    "CMYK JPEG": encode(PHOTO.convert("CMYK")),
}


def reason_of(data: bytes, *, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Return the reason that screening drops the file for."""
    with pytest.raises(BadPicture) as caught:
        screen(data, width=width, height=height)
    return caught.value.reason


@pytest.mark.parametrize("data", COLOURED.values(), ids=COLOURED.keys())
def test_every_kind_of_file_comes_out_as_rgb(data: bytes) -> None:
    """Screening passes it as coloured, with its checksum; decoding gives uint8 RGB, the right way round."""
    looked = screen(data, width=WIDTH, height=HEIGHT)
    assert (looked.crc32, looked.greyscale) == (zlib.crc32(data), False)
    picture = decode(data, width=WIDTH, height=HEIGHT)
    assert picture.dtype == np.uint8
    assert close(picture, draw())


SHADES = np.tile(np.linspace(10, 240, WIDTH).astype(np.uint8), (HEIGHT, 1))
GREY: dict[str, bytes] = {
    "JPEG of one channel": encode(Image.fromarray(SHADES)),
    "JPEG of three equal channels": encode(Image.fromarray(SHADES).convert("RGB")),
    "PNG of one channel": encode(Image.fromarray(SHADES), "PNG"),
    "16-bit PNG of one channel": encode(Image.fromarray(SHADES.astype(np.uint16) * 256), "PNG"),
    "PNG of two levels": encode(Image.fromarray(SHADES).convert("1"), "PNG"),
    "PNG of grey with alpha": encode(Image.fromarray(SHADES).convert("LA"), "PNG"),
    "slightly toned": encode(
        Image.fromarray(np.stack([SHADES, SHADES - 3, SHADES - 7], axis=-1)), "PNG"
    ),  # within 8 levels
}


@pytest.mark.parametrize("data", GREY.values(), ids=GREY.keys())
def test_grey_is_seen_however_it_is_written(data: bytes) -> None:
    """A greyscale photograph is told, and decodes to three channels all the same."""
    assert screen(data, width=WIDTH, height=HEIGHT).greyscale
    assert decode(data, width=WIDTH, height=HEIGHT).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(("columns", "greyscale"), [(4, True), (5, False)])
def test_five_pixels_in_a_hundred_make_a_colour_photograph(columns: int, greyscale: bool) -> None:  # noqa: FBT001
    """Greyscale is 95 % grey pixels, counted at full size."""
    picture = np.full((50, 99, 3), 120, dtype=np.uint8)
    picture[:, :columns] = (220, 20, 20)
    assert screen(encode(Image.fromarray(picture), "PNG"), width=99, height=50).greyscale is greyscale


def test_grey_share_by_hand() -> None:
    """A spread of 8 levels is grey, one of 9 is not."""
    picture = np.array([[[10, 18, 12], [10, 19, 12], [255, 255, 255], [0, 0, 255]]], dtype=np.uint8)
    assert grey_share(picture) == 0.5


def test_a_rotation_in_exif_is_not_applied_where_the_stored_size_fits() -> None:
    """COCO annotates the pixels as stored; those stay where the annotation has their size."""
    for orientation in range(1, 9):
        data = encode(PHOTO, exif=oriented(orientation))
        screen(data, width=WIDTH, height=HEIGHT)
        assert close(decode(data, width=WIDTH, height=HEIGHT), draw())


@pytest.mark.parametrize(("orientation", "turns"), [(6, -1), (8, 1)])
def test_a_rotation_in_exif_is_applied_where_only_the_rotated_size_fits(orientation: int, turns: int) -> None:
    """An annotation in the turned size gets the turned pixels."""
    data = encode(PHOTO, exif=oriented(orientation))
    screen(data, width=HEIGHT, height=WIDTH)
    assert close(decode(data, width=HEIGHT, height=WIDTH), np.rot90(draw(), turns))


def test_a_turned_size_without_exif_is_a_mismatch() -> None:
    """Width and height swapped is a size mismatch where nothing asks for a rotation."""
    assert reason_of(encode(PHOTO), width=HEIGHT, height=WIDTH) == "size_mismatch"
    assert reason_of(encode(PHOTO, exif=oriented(3)), width=HEIGHT, height=WIDTH) == "size_mismatch"


def test_broken_exif_harms_nobody() -> None:
    """A photograph of the right size passes whatever its metadata says."""
    data = encode(PHOTO, exif=b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\xff\xff" + b"\xff" * 40)
    assert not screen(data, width=WIDTH, height=HEIGHT).greyscale


@pytest.mark.parametrize(
    ("width", "height"), [(WIDTH + 1, HEIGHT), (WIDTH, HEIGHT - 1), (2 * WIDTH, 2 * HEIGHT), (1, 1)]
)
def test_another_size_is_a_mismatch(width: int, height: int) -> None:
    """Both the screening and the decoding tell that the size is not the annotated one."""
    assert reason_of(encode(PHOTO), width=width, height=height) == "size_mismatch"
    with pytest.raises(BadPicture) as caught:
        decode(encode(PHOTO), width=width, height=height)
    assert caught.value.reason == "size_mismatch"


WHOLE = COLOURED["JPEG"]
UNREADABLE: dict[str, bytes] = {
    "no bytes": b"",
    "one byte": b"\xff",
    "zeros": bytes(5000),
    "a text": b"<html><body>404 Not Found</body></html>",
    "half a JPEG": WHOLE[: len(WHOLE) // 2],
    "a JPEG's header": WHOLE[:30],
    "half a PNG": COLOURED["PNG"][: len(COLOURED["PNG"]) // 2],
    "half a progressive JPEG": COLOURED["progressive JPEG"][: len(COLOURED["progressive JPEG"]) // 2],
    "half a grey JPEG": GREY["JPEG of one channel"][: len(GREY["JPEG of one channel"]) // 2],
    "PostScript": encode(PHOTO, "EPS"),
    "a vector drawing": b'<svg xmlns="http://www.w3.org/2000/svg" width="96" height="64"></svg>',
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_no_whole_picture_is_unreadable(data: bytes) -> None:
    """Broken files have the reason `unreadable`, never an exception of a library."""
    assert reason_of(data) == "unreadable"


def test_no_bytes_cannot_be_decoded() -> None:
    """Decoding nothing is `unreadable` too."""
    with pytest.raises(BadPicture, match="decoded"):
        decode(b"", width=WIDTH, height=HEIGHT)


def test_a_chunk_that_claims_gigabytes_is_refused_before_memory_is_taken() -> None:
    """A PNG whose chunk is longer than its file is cut short, and that is seen at once."""
    data = bytearray(GREY["PNG of one channel"])
    place = data.index(b"IDAT") - 4
    data[place : place + 4] = (0xF0000000).to_bytes(4, "big")
    began = time.perf_counter()
    assert reason_of(bytes(data)) == "unreadable"
    with pytest.raises(BadPicture):
        decode(bytes(data), width=WIDTH, height=HEIGHT)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_header_of_a_huge_picture_costs_nothing(kind: str) -> None:
    """A small file that claims hundreds of millions of pixels is refused by its header."""
    data = bytearray(COLOURED[kind])
    if kind == "PNG":
        data[16:24] = (30_000).to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    else:
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = (30_000).to_bytes(2, "big") * 2
    began = time.perf_counter()
    assert reason_of(bytes(data), width=30_000, height=30_000) == "unreadable"
    assert reason_of(bytes(data)) == "size_mismatch"
    assert time.perf_counter() - began < 1


def test_mutated_files_are_read_or_dropped() -> None:
    """Whatever bytes are changed, screening answers with a screening or a reason, and never warns."""
    rng = random.Random(11)
    reasons = set()
    seeds = [
        *COLOURED.values(),
        *GREY.values(),
        encode(PHOTO, exif=oriented(6)),
        encode(PHOTO, "PNG", exif=oriented(6)),
    ]
    for _ in range(1500):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice([1, 3, 8])):
            data[rng.randrange(min(len(data), rng.choice([50, 400, 10**6])))] = rng.randrange(256)
        try:
            screen(bytes(data[: rng.randrange(1, 2 * len(data))]), width=WIDTH, height=HEIGHT)
        except BadPicture as bad:
            reasons.add(bad.reason)
    assert reasons == {"unreadable", "size_mismatch"}


@pytest.mark.parametrize(
    "name",
    [
        *("../x.jpg", "a/../../x.jpg", "..", "/etc/passwd", "//server/x.jpg", "", ".", "a\0b.jpg"),
        *("..\\x.jpg", "a\\..\\..\\x.jpg", "C:\\x.jpg", "C:x.jpg", "\\\\server\\share\\x.jpg", "\\x.jpg"),
    ],
)
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    """No name of an annotation file reads outside the folder of the photographs."""
    with pytest.raises(BadPicture) as caught:
        locate(Path("photographs"), name)
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(
    "name", ["x.jpg", "train/x.jpg", "Ünïcode ☃.jpg", "a b.jpg", "..x.jpg", "x..jpg", "'; rm -rf.jpg", "a\nb.jpg"]
)
def test_strange_names_inside_the_folder_are_fine(name: str) -> None:
    """Spaces, line breaks and letters of any script name files like others."""
    assert locate(Path("photographs"), name) == Path("photographs") / name


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    """The bytes are those of the file."""
    (tmp_path / "x.jpg").write_bytes(WHOLE)
    assert read_bytes(tmp_path / "x.jpg") == WHOLE


@pytest.mark.parametrize("name", ["missing.jpg", "folder", "empty.jpg", "pipe", "n" * 300, "a\0b", "file/x.jpg"])
def test_what_is_no_file_is_unreadable_and_waited_for_by_nobody(tmp_path: Path, name: str) -> None:
    """Missing files, folders, pipes and impossible names all have the reason `unreadable`."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "file").write_bytes(WHOLE)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadPicture) as caught:
        read_bytes(tmp_path / name)
    assert caught.value.reason == "unreadable"


def test_a_file_beyond_the_limit_is_unreadable(tmp_path: Path) -> None:
    """A (sparse) file of 300 MB is not read to its end."""
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(300 * 10**6)
    with pytest.raises(BadPicture, match="larger than"):
        read_bytes(tmp_path / "huge.jpg")


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((640, 480), None, (640, 480)),
        ((640, 480), 640, (640, 480)),
        ((640, 480), 320, (320, 240)),
        ((480, 640), 512, (384, 512)),
        ((5000, 7), 64, (64, 1)),
        ((7, 5000), 64, (1, 64)),
    ],
)
def test_scaled_sizes(size: tuple[int, int], max_side: int | None, expected: tuple[int, int]) -> None:
    """The longer side is bounded, the other follows, and neither vanishes."""
    assert scaled_size(width=size[0], height=size[1], max_side=max_side) == expected


def test_scaling_down_averages_areas() -> None:
    """Each pixel is the mean of those it stands for; the argument stays."""
    picture = np.random.default_rng(5).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    before = picture.copy()
    mean = picture.reshape(3, 2, 5, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(scale_down(picture, width=5, height=3) - mean).max() <= 0.5
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(scale_down(picture, width=10, height=6), before)


# what is small as a file and huge to decode, and links


def _scans(picture: Image.Image, count: int) -> bytes:
    """Return a progressive JPEG whose last scan stands there so many times."""
    out = io.BytesIO()
    picture.save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded() -> None:
    """Each pass takes a hundred bytes of the file and goes over all pixels: 400 of them took minutes."""
    data = _scans(Image.new("L", (4000, 3000)), 200)
    assert len(data) < 2_000_000
    for look in (screen, decode):
        with pytest.raises(BadPicture, match="too many scans") as told:
            look(data, width=4000, height=3000)
        assert told.value.reason == "unreadable"


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_as_many_scans_as_encoders_make_is_read(progressive: bool) -> None:  # noqa: FBT001
    """A preview within the metadata, and what a telephone appends behind the picture, count for nothing."""
    out = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), (200, 30, 30), np.uint8)).save(out, "JPEG", progressive=progressive)
    plain = out.getvalue()
    preview = b"\xff\xe1" + (2 + 400).to_bytes(2, "big") + b"\xff\xda\x00\x02" * 100
    assert decode(plain[:2] + preview + plain[2:] + b"\xff\xda" * 100, width=60, height=40).shape == (40, 60, 3)


def test_a_size_that_the_header_denies_is_told_without_decoding() -> None:
    """A picture that claims more pixels than any may have costs neither time nor memory, whatever was annotated."""
    jpeg = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    place = jpeg.index(b"\xff\xc0")
    jpeg[place + 5 : place + 9] = (30_000).to_bytes(2, "big") * 2
    with pytest.raises(BadPicture, match="is more than 100000000 pixels"):
        decode(bytes(jpeg), width=30_000, height=30_000)


def test_opencv_itself_decodes_no_more_than_the_limit() -> None:
    """What reads a picture of a run without a look at its header is held by the library's own limit."""
    code = """
import zlib, flows, cv2, numpy as np
png = bytearray(cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())
png[16:24] = (20_000).to_bytes(4, "big") * 2
png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
try:
    cv2.imdecode(np.frombuffer(bytes(png), np.uint8), cv2.IMREAD_GRAYSCALE)
except cv2.error:
    print("refused")
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "refused\n", done.stderr


def test_links_are_followed(tmp_path: Path) -> None:
    """Collections kept by git-annex, DVC or in a cache are links; a circle of them is unreadable."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    (tmp_path / "object").write_bytes(b"true")
    (folder / "out.jpg").symlink_to(tmp_path / "object")
    (folder / "circle.jpg").symlink_to(folder / "circle.jpg")
    assert read_bytes(locate(folder, "out.jpg")) == b"true"
    with pytest.raises(BadPicture):
        read_bytes(locate(folder, "circle.jpg"))


def test_a_folder_that_is_a_link_itself_is_fine(tmp_path: Path) -> None:
    """Where the photographs lie is the user's own affair."""
    (tmp_path / "true").mkdir()
    (tmp_path / "true" / "x.jpg").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "true")
    assert read_bytes(locate(tmp_path / "link", "x.jpg")) == b"x"


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 700])
def test_greyness_is_counted_over_all_rows(rows: int) -> None:
    """It is counted strip by strip, and is the same as of the whole at once."""
    picture = np.random.default_rng(rows).integers(0, 20, (rows, 37, 3), dtype=np.uint8)
    spread = picture.max(axis=2).astype(int) - picture.min(axis=2)
    assert grey_share(picture) == np.count_nonzero(spread <= 8) / spread.size
