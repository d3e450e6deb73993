"""Read photographs that others made: find what is wrong with one before anything is done with it."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from flows.decoding import MAX_PIXELS, has_too_many_scans, is_cut_short

Picture = NDArray[np.uint8]

MAX_BYTES: Final = 200_000_000

GREY_LEVELS: Final = 8
"""A pixel is grey where its channels lie within so many levels of each other."""
GREY_SHARE: Final = 0.95
"""A photograph is greyscale where at least this share of its pixels is grey."""
_STRIP: Final = 256  # rows that are looked at together: what is made of them stays in the processor's cache
_CLEARLY_COLOURED: Final = 0.75
"""Below this share of grey pixels in the picture reduced eightfold, the full picture needs no count."""

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "GIF")
"""What Pillow may take a file for; among the rest are formats that it hands to other programs (EPS)."""

_DECODING_ERRORS: Final = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, MemoryError, IndexError, KeyError, ZeroDivisionError),
)
"""What Pillow is known to raise on files that are no pictures, or broken ones."""

Image.MAX_IMAGE_PIXELS = None  # sizes are checked below, before any decoding, with a reason instead of a warning


class BadPicture(Exception):  # noqa: N818 - it carries a reason code, it is no programming error
    """Tell why a photograph cannot be used: a selection reason of the format (`unreadable`, `size_mismatch`)."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason code and a line for people."""
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Screening:
    """What one look at a photograph's file told: its checksum and whether it is greyscale."""

    crc32: int
    greyscale: bool


def locate(folder: Path, file_name: str) -> Path:
    """Join a file name from an annotation to its folder.

    Raises:
        BadPicture: The name would leave the folder (absolute, `..`, a drive) or cannot be a name at all. Links
            in the folder are followed: whoever keeps photographs by git-annex or in a cache has nothing else.
    """
    posix, windows = PurePosixPath(file_name), PureWindowsPath(file_name)
    leaves = posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or ".." in windows.parts
    if leaves or not posix.parts or "\0" in file_name:
        raise BadPicture("unreadable", f"the name {file_name[:200]!r} leaves the folder of the photographs")
    return folder / posix


def read_bytes(path: Path) -> bytes:
    """Read a photograph's file whole.

    Raises:
        BadPicture: It is missing, no plain file, empty, or larger than 200 MB.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise BadPicture("unreadable", f"{path.name!r} is no plain file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BadPicture("unreadable", f"{path.name!r} cannot be read: {error}") from None
    if not data or len(data) > MAX_BYTES:
        raise BadPicture("unreadable", f"{path.name!r} is empty or larger than {MAX_BYTES} bytes")
    return data


def screen(data: bytes, *, width: int, height: int) -> Screening:
    """Look at a photograph's file as cheaply as certainty allows: header, a decode reduced eightfold, greyness.

    Args:
        data: The file's bytes, of any format that OpenCV and Pillow both read.
        width: Columns that the annotation promises.
        height: Rows that the annotation promises.

    Raises:
        BadPicture: Not a picture, truncated, too large, or of another size than the annotation says.
    """
    with opened(data, annotated=(width, height)) as image:
        _check_size(image, width=width, height=height)
        reduced = image.format == "JPEG"
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        # Pillow unpacks a WebP as a film, with four copies of a frame; to OpenCV it is one picture
        seen = None if image.format == "WEBP" else np.asarray(image.convert("RGB"))
    greyscale = seen is None or grey_share(seen) >= (_CLEARLY_COLOURED if reduced else GREY_SHARE)
    if greyscale and (reduced or seen is None):
        greyscale = grey_share(decode(data, width=width, height=height)) >= GREY_SHARE
    return Screening(crc32=zlib.crc32(data), greyscale=greyscale)


@contextmanager
def opened(data: bytes, *, annotated: tuple[int, int] | None = None) -> Iterator[Image.Image]:
    """Open a picture's header with Pillow; nothing is decoded until something asks for pixels.

    Raises:
        BadPicture: Not a picture, truncated, or one whose decoding would take too much memory or time; also in place
            of what goes wrong while the picture is in use.
    """
    if is_cut_short(data):
        raise BadPicture("unreadable", "cut short: a PNG chunk ends after the file")
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # of metadata nobody asked for
            Image.open(io.BytesIO(data), formats=_FORMATS) as image,
        ):
            if annotated is not None and image.size not in (annotated, annotated[::-1]) and _is_small(*annotated):
                raise _mismatch(image, *annotated)
            _check_work(data, image)
            yield image
    except UnidentifiedImageError:  # whose message holds an address in memory
        raise BadPicture("unreadable", "not a picture") from None
    except _DECODING_ERRORS as error:
        raise BadPicture("unreadable", f"not a picture or cut short: {error}") from None


def decode(data: bytes, *, width: int, height: int) -> Picture:
    """Decode a photograph to uint8 (height, width, 3) RGB: grey, CMYK and 16-bit files alike.

    COCO's annotations are for the pixels as stored, so an EXIF rotation is applied only where the stored size does
    not fit the annotation and the rotated one does.

    Raises:
        BadPicture: It cannot be decoded, or fits the annotated size in neither way. Nothing is decoded where the
            header says so.
    """
    if not data:
        raise BadPicture("unreadable", "cannot be decoded: the file is empty")
    with opened(data, annotated=(width, height)) as image:
        _check_size(image, width=width, height=height)
    encoded = np.frombuffer(data, dtype=np.uint8)
    shape: tuple[int, ...] = ()
    for flags in (cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, cv2.IMREAD_COLOR_RGB):
        try:
            picture: Picture | None = cv2.imdecode(encoded, flags)  # type: ignore[assignment] # None where it fails
        except cv2.error as error:
            raise BadPicture("unreadable", f"cannot be decoded: {error.err}") from None
        if picture is None:
            raise BadPicture("unreadable", "cannot be decoded")
        shape = picture.shape
        if shape == (height, width, 3):
            return picture
    raise BadPicture("size_mismatch", f"decodes to {shape[1]} x {shape[0]}, annotated {width} x {height}")


def grey_share(picture: Picture) -> float:
    """Return the share of pixels of a uint8 (H, W, 3) picture whose channels lie within 8 levels of each other."""
    grey = sum(_count_grey(picture[top : top + _STRIP]) for top in range(0, len(picture), _STRIP))
    return grey / int(picture.shape[0] * picture.shape[1])


def _count_grey(picture: Picture) -> int:
    red, green, blue = cv2.split(picture)
    spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    return int(np.count_nonzero(spread <= GREY_LEVELS))


def scaled_size(*, width: int, height: int, max_side: int | None) -> tuple[int, int]:
    """Return (width, height) scaled down so that the longer side is at most `max_side`."""
    longer = max(width, height)
    if max_side is None or longer <= max_side:
        return width, height
    return max(1, round(width * max_side / longer)), max(1, round(height * max_side / longer))


def scale_down(picture: Picture, *, width: int, height: int) -> Picture:
    """Scale a uint8 (H, W, 3) picture down by area averaging."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(cv2.resize(picture, dsize=(width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _check_size(image: Image.Image, *, width: int, height: int) -> None:
    # Pillow may decode the whole picture to find its EXIF data, so it is asked for last
    if image.size != (width, height) and not (image.size == (height, width) and _is_turned(image)):
        raise _mismatch(image, width, height)


def _mismatch(image: Image.Image, width: int, height: int) -> BadPicture:
    return BadPicture("size_mismatch", f"the file is {image.width} x {image.height}, annotated {width} x {height}")


def _is_small(width: int, height: int) -> bool:
    return width * height <= MAX_PIXELS


def _check_work(data: bytes, image: Image.Image) -> None:
    """Refuse a picture that is small as a file and huge to decode."""
    width, height = image.size
    if not _is_small(width, height):
        raise BadPicture("unreadable", f"{width} x {height} is more than {MAX_PIXELS} pixels")
    if has_too_many_scans(data):
        raise BadPicture("unreadable", f"a JPEG of {width} x {height} with too many scans")


def _is_turned(image: Image.Image) -> bool:
    """Say whether EXIF asks for a rotation that swaps width and height."""
    return image.getexif().get(ExifTags.Base.Orientation) in {5, 6, 7, 8}
