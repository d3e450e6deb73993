"""Find and read pictures and masks that users made: composites of their own, or a data set in iHarmony4's layout.

iHarmony4 (Cong et al. 2020) keeps `composite_images/<name>_<m>_<k>.jpg`, `masks/<name>_<m>.png` and
`real_images/<name>.jpg`, in one folder for each of its data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from flows.coco.pictures import BadPicture, Picture, decode, locate, opened, read_bytes
from flows.errors import BadRequest

Alpha = NDArray[np.uint8]

COMPOSITES: Final = "composite_images"
MASKS: Final = "masks"
REALS: Final = "real_images"
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_LIST_BYTES: Final = 30_000_000
MAX_LISTED: Final = 300_000
"""iHarmony4 has 73,146 composites."""

_GREY_LEVELS: Final = 16
"""Channels of a grey mask lie within so many levels of each other."""
_TURNS: Final[Mapping[int, Callable[[Picture], Picture]]] = {
    2: lambda picture: picture[:, ::-1],
    3: lambda picture: picture[::-1, ::-1],
    4: lambda picture: picture[::-1],
    5: lambda picture: picture.swapaxes(0, 1),
    6: lambda picture: np.rot90(picture, -1),
    7: lambda picture: picture[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
"""EXIF orientation to what makes a picture upright."""


@dataclass(frozen=True)
class Pair:
    """A composite with its mask, and the photograph that it was made of where there is one.

    Attributes:
        composite: Its file.
        mask: Its file; None where none was found.
        real: The photograph's file; None where none was found.
        group: Name of the folder that holds `composite_images`: `HCOCO`, `HAdobe5k`, ...
    """

    composite: Path
    mask: Path | None
    real: Path | None
    group: str


@dataclass(frozen=True)
class _Stored:
    """A file's pixels as stored, how they are turned upright, and its alpha where some of it is not opaque."""

    pixels: Picture
    turn: Callable[[Picture], Picture]
    alpha: Alpha | None


def read_pair(picture: Path, mask: Path) -> tuple[Picture, Alpha]:
    """Read a picture and its mask, whatever they are stored as: 16 bits, grey, palette, with alpha, turned by EXIF.

    A picture that EXIF says is turned is made upright, unless the mask fits it only as it is stored. The mask is the
    grey value of its file, or its alpha channel where that is not opaque everywhere.

    Returns:
        uint8 (H, W, 3) sRGB, RGB order, and uint8 (H, W).

    Raises:
        BadPicture: `unreadable`, a picture that is transparent in places too; `mask_coloured`; or `size_mismatch`.
    """
    image, layer = _read(picture), _read(mask)
    if image.alpha is not None:
        raise BadPicture("unreadable", f"{picture.name!r} is transparent in places; lay it over its background first")
    alpha = np.ascontiguousarray(layer.turn(_grey(mask, layer.pixels) if layer.alpha is None else layer.alpha))
    for pixels in (image.turn(image.pixels), image.pixels):
        if pixels.shape[:2] == alpha.shape:
            return np.ascontiguousarray(pixels), alpha
    sizes = f"{mask.name!r} is {_size(alpha)}, {picture.name!r} {_size(image.turn(image.pixels))}"
    raise BadPicture("size_mismatch", f"{sizes}; scale the mask to the picture's size")


def _grey(mask: Path, pixels: Picture) -> Alpha:
    """Return a mask's grey values; colours beyond what JPEG makes of grey mean something else."""
    red, green, blue = cv2.split(pixels)
    spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    if spread.max() > _GREY_LEVELS:
        raise BadPicture(
            "mask_coloured", f"{mask.name!r} has colours; a mask is white where the subject is, else black"
        )
    return np.asarray(green, np.uint8)


def _size(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


def _read(path: Path) -> _Stored:
    data = read_bytes(path)
    try:
        with opened(data) as image:
            width, height = image.size
            turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1), lambda picture: picture)
            alpha = _alpha_of_webp(data, image) if image.format == "WEBP" else _alpha(image)
            if alpha is None and image.format != "WEBP":
                image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
                image.load()  # OpenCV fills up what is cut short with grey
        return _Stored(decode(data, width=width, height=height), turn, alpha)
    except BadPicture as bad:
        raise BadPicture(bad.reason, f"{path.name!r}: {bad}") from None


def _alpha(image: Image.Image) -> Alpha | None:
    """Return the alpha channel; None where there is none or it is opaque everywhere."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return None
    alpha = np.asarray(image.convert("RGBA").getchannel("A"), np.uint8)
    return None if alpha.min() == 255 else alpha


def _alpha_of_webp(data: bytes, image: Image.Image) -> Alpha | None:
    """Return the alpha channel by OpenCV: Pillow unpacks a WebP as a film, with four copies of a frame."""
    if "A" not in image.getbands():
        return None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.shape[2:] != (4,):
        return None
    alpha = np.ascontiguousarray(pixels[..., 3], np.uint8)
    return None if alpha.min() == 255 else alpha


def find_pairs(place: Path) -> list[Pair]:
    """Find composites with their masks and photographs.

    Args:
        place: A folder that holds `composite_images`, one of such folders, or a text file such as `HCOCO_test.txt` that
            names composites, one a line, by their path from the list's folder or by their name alone.

    Returns:
        In the order of the list, or of the names. A listed composite is returned whether or not it is there.

    Raises:
        BadRequest: There is no such place, or nothing in it.
    """
    if place.is_file():
        return _listed(place)
    if not place.is_dir():
        raise BadRequest(f"{place} is neither a picture, a list, nor a folder; check the path")
    folders = [place] if (place / COMPOSITES).is_dir() else sorted(f.parent for f in place.glob(f"*/{COMPOSITES}"))
    composites = [path for folder in folders for path in _pictures(folder / COMPOSITES)]
    if not composites:
        raise BadRequest(f"{place} holds no {COMPOSITES} with pictures, nor do its folders; give one that does")
    return _pairs(composites)


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _listed(place: Path) -> list[Pair]:
    try:
        if place.stat().st_size > MAX_LIST_BYTES:
            raise BadRequest(f"list {place} is larger than {MAX_LIST_BYTES} bytes")
        lines = [line.strip() for line in place.read_text(encoding="utf-8").splitlines()]
        if len(lines) > MAX_LISTED:
            raise BadRequest(f"list {place} has more than {MAX_LISTED} lines")
    except UnicodeDecodeError:
        raise BadRequest(f"{place} is no text; for a picture, give its mask too") from None
    composites = [_listed_composite(place.parent, line) for line in lines if line]
    if not composites:
        raise BadRequest(f"list {place} names no composites, one a line")
    return _pairs(composites)


def _listed_composite(folder: Path, line: str) -> Path:
    try:
        candidates = [locate(folder, line), locate(folder, f"{COMPOSITES}/{line}")]
        return next((path for path in candidates if path.exists()), candidates[0])
    except BadPicture as bad:
        raise BadRequest(f"list in {folder}: {bad}") from None
    except OSError as error:  # a name that no file system takes
        raise BadRequest(f"list in {folder}: {line[:60]!r} is no name of a file ({error.strerror})") from None


def _pairs(composites: Sequence[Path]) -> list[Pair]:
    """Find mask and photograph by name among the files beside `composite_images`; folders are read once."""
    listings: dict[Path, dict[str, Path]] = {}

    def among(folder: Path, *stems: str) -> Path | None:
        if folder not in listings:
            listings[folder] = {path.stem: path for path in _pictures(folder)} if folder.is_dir() else {}
        return next((listings[folder][stem] for stem in stems if stem in listings[folder]), None)

    pairs = []
    for composite in composites:
        folder, stem = composite.parent.parent, composite.stem
        masked, name = stem.rpartition("_")[0], stem.rpartition("_")[0].rpartition("_")[0]
        mask, real = among(folder / MASKS, masked, stem), among(folder / REALS, name, stem)
        pairs.append(Pair(composite, mask, real, folder.name))
    return pairs
