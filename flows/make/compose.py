"""Make one sample: decode, edit the subject, encode, measure. A pure function of its row of the plan."""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from augment import Recipe, draw_recipe, edit_subject, feather, measure_gates
from augment.checks import foreground_mse
from flows.coco.fetch import bring_photographs, folder_of
from flows.coco.masks import Mask, decode_mask, scale_mask
from flows.coco.pictures import BadPicture, Picture, decode, locate, read_bytes, scale_down, scaled_size
from flows.store.layout import HARMONIZATION
from flows.store.record import EDIT

if TYPE_CHECKING:  # it draws by the seed of a plan, whose making begins with this module
    from flows.make.paste import Paste

JPEG: Final = (
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)
"""Without chroma subsampling the 8x8 blocks are independent: where nothing is edited, nothing differs."""
PNG: Final = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
)
"""Masks are long runs of 0 and 255: unfiltered runs are 4 times as fast as OpenCV's defaults, and smaller."""
BLOCK: Final = 8
WHOLE_FROM: Final = 0.55
"""From this share of the picture on, decoding the whole is quicker than encoding and decoding a box (measured)."""

Key = TypeVar("Key")
Value = TypeVar("Value")

Box = tuple[int, int, int, int]

Look = Callable[[Picture, NDArray[np.uint8]], NDArray[np.uint8] | None]
"""Takes a composite as a reader sees it and its alpha, and keeps of them what judges need."""


@dataclass(frozen=True)
class Made:
    """A sample before judgement.

    Attributes:
        key: Of the sample.
        members: `composite.jpg`, `real.jpg`, `mask.png` as bytes; empty where a photograph could not be read.
        recipe: Every drawn number.
        notes: What the edit found out on the way.
        gates: Value of every closed-form gate, None where it was not measured.
        foreground_mse: On the decoded JPEGs, mask > 127, 8-bit scale.
        psnr: Of the whole decoded pictures, dB, peak 255.
        failure: `unreadable` where a photograph could not be read, else None.
        stage: `harmonization`, or `copypaste`, whose samples have a `source.jpg` too.
        crop: What `look` kept of the composite, if anything.
    """

    key: str
    members: Mapping[str, bytes]
    recipe: Recipe | Paste
    notes: Mapping[str, Any]
    gates: Mapping[str, float | None]
    foreground_mse: float | None
    psnr: float | None
    failure: str | None = None
    stage: str = HARMONIZATION
    crop: NDArray[np.uint8] | None = field(default=None, compare=False)


class Photograph:
    """One decoded photograph, and what is made of it once for all the people in it."""

    def __init__(self, picture: Picture) -> None:
        """Keep a decoded picture, uint8 (H, W, 3) RGB."""
        self.picture = picture

    @cached_property
    def jpeg(self) -> bytes:
        """Return `real.jpg`."""
        return encode_jpeg(self.picture)

    @cached_property
    def decoded(self) -> Picture:
        """Return what a reader of `real.jpg` sees."""
        return decode_jpeg(self.jpeg)


class Photographs:
    """Decode photographs, each once while it stays among the last few used."""

    def __init__(self, roots: Mapping[str, Path], *, max_side: int | None, keep: int = 4) -> None:
        """Read below `roots` (folder by subset); keep the `keep` photographs used last."""
        self._roots = roots
        self._max_side = max_side
        self._recent: _Recent[tuple[str, str], Photograph] = _Recent(keep)
        self._colours: _Recent[tuple[str, str, int], Picture] = _Recent(2 * keep)

    def get(self, person: Mapping[str, Any]) -> Photograph:
        """Return the photograph of a person of the plan.

        Raises:
            BadPicture: It is gone, changed since it was planned, or cannot be decoded.
        """
        return self._recent.get((person["subset"], person["file_name"]), lambda: self._read(person))

    def mask(self, person: Mapping[str, Any]) -> Mask:
        """Return a person's mask, bool, in the size of the decoded photograph.

        Raises:
            BadPicture: The outline cannot be drawn: somebody changed the plan.
        """
        try:
            mask = decode_mask(person["segmentation"], height=person["height"], width=person["width"])
        except ValueError as error:
            raise BadPicture("unreadable", str(error)) from None
        width, height = self._size(person)
        return scale_mask(mask, height=height, width=width)

    def colours(self, person: Mapping[str, Any]) -> Picture:
        """Return a person's pixels: uint8 (N, 3).

        Raises:
            BadPicture: As `get`.
        """
        name = (person["subset"], person["file_name"], person["annotation_id"])
        return self._colours.get(name, lambda: inside_pixels(self.get(person).picture, self.mask(person)))

    def _read(self, person: Mapping[str, Any]) -> Photograph:
        if person["subset"] not in self._roots:
            raise BadPicture("unreadable", "the plan does not say where its photographs lie")
        data = read_bytes(locate(self._roots[person["subset"]], person["file_name"]))
        if zlib.crc32(data) != person["crc32"]:
            raise BadPicture("unreadable", f"{person['file_name']!r} has changed since it was planned")
        picture = decode(data, width=person["width"], height=person["height"])
        width, height = self._size(person)
        return Photograph(scale_down(picture, width=width, height=height))

    def _size(self, person: Mapping[str, Any]) -> tuple[int, int]:
        return scaled_size(width=person["width"], height=person["height"], max_side=self._max_side)


class _Recent(Generic[Key, Value]):
    """Keep the values used last, so many of them."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of `key`, made now if it is not among those kept."""
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        while len(self._values) > self._keep:
            self._values.popitem(last=False)
        return self._values[key]


def recipe_of(key: str, *, seed: int, families: Mapping[str, float]) -> Recipe:
    """Draw the recipe of a sample from the run's seed and the sample's key, and from nothing else."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    return draw_recipe(generator, families=families)


def read_recipe(record: Mapping[str, Any]) -> Recipe:
    """Return the recipe of an edit from its record, whose recipe has the fields of every stage.

    Raises:
        KeyError, ValueError, TypeError: A field is missing, or of another kind.
    """
    return Recipe.from_json({name: record["recipe"][name] for name in EDIT})


def person_of(row: Mapping[str, Any], role: str) -> dict[str, Any]:
    """Return the columns of `target` or `reference` of a row of the plan, without the prefix."""
    return {name.removeprefix(f"{role}_"): value for name, value in row.items() if name.startswith(f"{role}_")}


def bring_rows(roots: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """See to it that the photographs of some rows of the plan lie here, where they come from elsewhere.

    Args:
        roots: Where the photographs of each subset come from.
        rows: Of one stage.

    Raises:
        BadRequest: One could not be fetched though it may exist.
    """
    roles = [name.removesuffix("_subset") for name in (rows[0] if rows else ()) if name.endswith("_subset")]
    for subset, root in roots.items():
        names = {row[f"{role}_file_name"] for row in rows for role in roles if row[f"{role}_subset"] == subset}
        bring_photographs(root, sorted(names), folder=folder_of(root))


def compose(row: Mapping[str, Any], photographs: Photographs, *, recipe: Recipe, look: Look | None = None) -> Made:
    """Make the sample of one row of the plan; let `look` see the composite, where given."""
    target, reference = person_of(row, "target"), person_of(row, "reference")
    try:
        photograph = photographs.get(target)
        colours = photographs.colours(reference)
        mask = photographs.mask(target)
    except BadPicture:
        return Made(row["key"], {}, recipe, {}, {}, None, None, failure="unreadable")
    alpha = feather(mask, recipe.feather_px)
    edited = edit_subject(photograph.picture, alpha, colours, recipe)
    box = block_box(edited.box, height=alpha.shape[0], width=alpha.shape[1])
    real, composite = crop(photograph.picture, box), crop(edited.picture, box)
    inside = crop(alpha, box) > 127
    jpeg = encode_jpeg(edited.picture)
    real_decoded = crop(photograph.decoded, box)
    composite_decoded = decoded_box(jpeg, edited.picture, box)
    effect = round(foreground_mse(real_decoded, composite_decoded, inside), 4)
    gates = {name: round(value, 6) for name, value in measure_gates(real, composite, crop(alpha, box)).items()}
    return Made(
        key=row["key"],
        members={
            "composite.jpg": jpeg,
            "mask.png": encode_png(alpha),
            "real.jpg": photograph.jpeg,
        },
        recipe=recipe,
        notes=edited.notes,
        gates={**gates, "effect_small": effect, "effect_large": effect},
        foreground_mse=effect,
        psnr=psnr(real_decoded, composite_decoded, pixels=alpha.size),
        crop=look(_with_box(photograph.decoded, composite_decoded, box), alpha) if look else None,
    )


def _with_box(real: Picture, part: Picture, box: Box) -> Picture:
    """Return the decoded composite without decoding it: outside the box of whole blocks it is the decoded real."""
    whole = real.copy()
    crop(whole, box)[:] = part
    return whole


def inside_pixels(picture: Picture, mask: Mask) -> Picture:
    """Gather the pixels of a mask: uint8 (N, 3), in the order of rows."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.empty((0, 3), dtype=np.uint8)
    box = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    inside = np.flatnonzero(crop(mask, box))
    # three bytes as one element: taking rows of three is several times as slow
    pixels = np.ascontiguousarray(crop(picture, box)).view("V3").ravel().take(inside)
    return pixels.view(np.uint8).reshape(-1, 3)


def crop(array: NDArray[Any], box: Box) -> NDArray[Any]:
    """Return a view of the box (y0, y1, x0, x1)."""
    return array[box[0] : box[1], box[2] : box[3]]


def block_box(box: Box, *, height: int, width: int) -> Box:
    """Grow a box to whole 8x8 blocks inside the picture."""
    y0, y1, x0, x1 = box
    return (
        y0 // BLOCK * BLOCK,
        min(height, -(-y1 // BLOCK) * BLOCK),
        x0 // BLOCK * BLOCK,
        min(width, -(-x1 // BLOCK) * BLOCK),
    )


def decoded_box(jpeg: bytes, picture: Picture, box: Box) -> Picture:
    """Return the box (of whole blocks) of a JPEG as a reader sees it.

    Args:
        jpeg: The picture, encoded by `encode_jpeg`.
        picture: The same, before encoding.
        box: y0, y1, x0, x1, from `block_box`.
    """
    part = crop(picture, box)
    if part.size > WHOLE_FROM * picture.size:
        return crop(decode_jpeg(jpeg), box)
    return through_jpeg(part)


def through_jpeg(picture: Picture) -> Picture:
    """Encode and decode. A box of whole blocks comes out as it does within the whole picture (tested)."""
    return decode_jpeg(encode_jpeg(picture))


def decode_jpeg(data: bytes) -> Picture:
    """Decode a JPEG that `encode_jpeg` made to uint8 (H, W, 3) RGB."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR_RGB), dtype=np.uint8)


def encode_jpeg(picture: Picture) -> bytes:
    """Encode uint8 (H, W, 3) RGB as JPEG, quality 95, 4:4:4."""
    return _encode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), JPEG).tobytes()


def encode_png(mask: NDArray[np.uint8]) -> bytes:
    """Encode uint8 (H, W) as PNG."""
    return _encode(".png", mask, PNG).tobytes()


def psnr(real: Picture, composite: Picture, *, pixels: int) -> float:
    """Return the PSNR in dB, peak 255, of pictures of `pixels` pixels that differ in these boxes only.

    Pictures without any difference have no finite PSNR; 100 stands for it.
    """
    squares = float(cv2.norm(real, composite, cv2.NORM_L2SQR))
    return round(float(10 * np.log10(255**2 * 3 * pixels / squares)), 4) if squares > 0 else 100.0


def _encode(extension: str, picture: NDArray[Any], options: tuple[int, ...]) -> NDArray[np.uint8]:
    done, encoded = cv2.imencode(extension, picture, options)
    if not done:
        raise ValueError(f"cannot encode a picture of shape {picture.shape} as {extension}")
    return np.asarray(encoded, dtype=np.uint8)
