"""Gather subjects for training without labels: any region of any photograph can be one.

Annotated people, masks of every other category, people's masks moved and scaled onto photographs that have no
annotation, and segments of such photographs (Felzenszwalb, Huttenlocher 2004). All are cut out once, with room to
spare, and kept in memory as small uint8 arrays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb

from flows.coco.catalog import Catalog
from flows.coco.masks import Mask, decode_mask
from flows.coco.pictures import GREY_SHARE, BadPicture, Picture, decode, grey_share, locate, opened, read_bytes
from flows.coco.select import MAX_SUBJECT_SHARE, MIN_SUBJECT_PIXELS, MIN_SUBJECT_SHARE, SPLITS, Split, split_of
from flows.coco.sources import Source

Kind = Literal["person", "other", "borrowed", "segment"]

ROOM: Final = 2.4
"""Side of what is cut out, in longer sides of the subject's box: the network sees 1.7, training moves about in it."""
SIDE: Final = 150
"""Longer side of what is kept, in pixels, at most."""
MIN_UNLABELLED_PIXELS: Final = 400
"""Least subject on photographs that come scaled down already."""
REFERENCE_PIXELS: Final = 1500
_COLUMNS: Final = ("image_id", "iscrowd", "segmentation")
_NONE: Final[NDArray[np.int64]] = np.empty(0, np.int64)
_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Subject:
    """A subject with its surroundings, cut out and scaled down.

    Attributes:
        picture: uint8 (h, w, 3) sRGB.
        mask: uint8 (h, w), soft.
        colours: uint8 (N, 3), some of the subject's pixels at full size: what a reference is.
    """

    image_id: int
    kind: Kind
    picture: Picture
    mask: NDArray[np.uint8]
    colours: Picture


def annotated_subjects(
    source: Source, *, split: Split, others: bool = True, most: int | None = None
) -> Iterator[Subject]:
    """Yield the people of a split's photographs, and where `others` the masks of every other category.

    Unreadable and greyscale photographs, crowd regions and what is too small or too large are left out.
    """
    for image_id, picture, masks in annotated_photographs(source, split=split, others=others, most=most):
        for kind, mask in masks:
            yield cut_out(image_id, kind, picture, mask)


def annotated_photographs(
    source: Source, *, split: Split, others: bool = False, most: int | None = None
) -> Iterator[tuple[int, Picture, list[tuple[Kind, Mask]]]]:
    """Yield (image id, picture, subjects as (kind, mask)) of a split's photographs, sorted by id.

    Args:
        source: Photographs that do not lie here yet are fetched first.
        split: Only photographs of this split are opened.
        others: Whether the masks of every other category are subjects, too.
        most: At most so many annotated photographs are looked at, those of the smallest ids.
    """
    tables = [_annotations(subset.catalog, others=others) for subset in source.subsets]
    annotated = [set().union(*(table.rows for table in kinds.values())) for kinds in tables]
    images = [
        image
        for image in source.images().to_pylist()
        if split_of(image["id"]) == split and image["id"] in annotated[image["subset"]]
    ][:most]
    source.fetch(
        {
            subset.name: [image["file_name"] for image in images if image["subset"] == number]
            for number, subset in enumerate(source.subsets)
        }
    )
    for image in images:
        masks = [
            (kind, mask)
            for kind, table in tables[image["subset"]].items()
            for mask in _masks(table, image_id=image["id"], width=image["width"], height=image["height"])
        ]
        if not masks:
            continue
        try:
            path = locate(source.subsets[image["subset"]].images, image["file_name"])
            picture = decode(read_bytes(path), width=image["width"], height=image["height"])
        except BadPicture:
            continue
        if grey_share(picture) < GREY_SHARE:
            yield image["id"], picture, masks


@dataclass(frozen=True)
class _Annotations:
    """Segmentations as JSON text, and in which rows those of each image stand, crowd regions left out."""

    segmentations: pa.ChunkedArray
    rows: Mapping[int, NDArray[np.int64]]


def _annotations(catalog: Catalog, *, others: bool) -> dict[Kind, _Annotations]:
    """Read a subset's annotations by kind of subject."""
    tables: dict[Kind, pa.Table] = {"person": catalog.people(columns=_COLUMNS)}
    if others:
        tables["other"] = pq.read_table(catalog.folder / "others.parquet", columns=list(_COLUMNS))
    return {kind: _Annotations(table["segmentation"], _rows_by_image(table)) for kind, table in tables.items()}


def _rows_by_image(table: pa.Table) -> dict[int, NDArray[np.int64]]:
    rows = np.flatnonzero(~table["iscrowd"].to_numpy(zero_copy_only=False))
    images = table["image_id"].to_numpy()[rows]
    order = np.argsort(images, kind="stable")
    found, first = np.unique(images[order], return_index=True)
    return dict(zip(found.tolist(), np.split(rows[order], first[1:]), strict=True)) if len(rows) else {}


def _masks(table: _Annotations, *, image_id: int, width: int, height: int) -> Iterator[Mask]:
    for segmentation in table.segmentations.take(table.rows.get(image_id, _NONE)).to_pylist():
        try:
            mask = decode_mask(segmentation, height=height, width=width)
        except ValueError:
            continue
        if is_subject(mask, least=MIN_SUBJECT_PIXELS):
            yield mask


def is_subject(mask: Mask, *, least: int) -> bool:
    """Say whether a mask has the size of a subject: 1 % to 80 % of the photograph and `least` pixels."""
    count = int(np.count_nonzero(mask))
    return count >= least and MIN_SUBJECT_SHARE <= count / mask.size <= MAX_SUBJECT_SHARE


def unlabelled_subjects(
    folder: Path,
    *,
    split: Split,
    shapes: Sequence[NDArray[np.uint8]],
    each: int,
    seed: int,
    most: int | None = None,
) -> Iterator[Subject]:
    """Yield subjects of photographs without annotations: borrowed masks and segments in turn, `each` a photograph.

    Args:
        folder: Of pictures; a COCO id in the name says the split, otherwise the file name's hash does.
        split: Only photographs of this split are opened.
        shapes: Masks of people to borrow, uint8, of any size.
        each: Subjects a photograph.
        seed: Of the masks' places and of the segments.
        most: At most so many photographs, the first by name.
    """
    for image_id, picture in islice(_coloured_photographs(folder, split=split), most):
        rng = np.random.default_rng([seed, image_id])
        segments = _segments(picture, rng)
        for number in range(each):
            borrowed = number % 2 == 0 or not segments
            mask = _moved(shapes, picture.shape[:2], rng) if borrowed else segments.pop()
            if is_subject(mask, least=MIN_UNLABELLED_PIXELS):
                yield cut_out(image_id, "borrowed" if borrowed else "segment", picture, mask)


def _coloured_photographs(folder: Path, *, split: Split) -> Iterator[tuple[int, Picture]]:
    """Yield the photographs of a folder that belong to a split and are not greyscale, in the order of their names."""
    for path in sorted(folder.iterdir()):
        image_id = id_of(path)
        if path.suffix.lower() not in _SUFFIXES or split_of(image_id) != split:
            continue
        picture = read_picture(path)
        if picture is not None and grey_share(picture) < GREY_SHARE:
            yield image_id, picture


def unlabelled_photographs(
    folder: Path, *, split: Split, shapes: Sequence[NDArray[np.uint8]], seed: int
) -> Iterator[tuple[int, Picture, list[Mask]]]:
    """Yield (image id, picture, masks) of a split's photographs without annotations: a borrowed mask and a segment."""
    for image_id, picture in _coloured_photographs(folder, split=split):
        rng = np.random.default_rng([seed, image_id])
        moved = _moved(shapes, picture.shape[:2], rng)
        masks = [
            mask for mask in (moved, *_segments(picture, rng)[:1]) if is_subject(mask, least=MIN_UNLABELLED_PIXELS)
        ]
        if masks:
            yield image_id, picture, masks


def id_of(path: Path) -> int:
    """Return the COCO id that a file name ends in, else a hash of the name."""
    found = re.search(r"(\d{1,12})$", path.stem)
    return int(found.group(1)) if found else int(hashlib.sha256(path.name.encode()).hexdigest()[:12], 16)


def read_picture(path: Path) -> Picture | None:
    """Read a picture of any size up to 100 million pixels; None where it is none."""
    try:
        data = read_bytes(path)
        with opened(data):  # says what is too large before anything is decoded
            pass
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except (BadPicture, cv2.error):
        return None
    return None if picture is None else np.asarray(picture, np.uint8)


def _segments(picture: Picture, rng: np.random.Generator) -> list[Mask]:
    """Return segments of a picture that have the size of a subject, in a drawn order."""
    height, width = picture.shape[:2]
    scale = min(1.0, 160 / max(height, width))
    small = cv2.resize(picture, dsize=None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    labels = felzenszwalb(
        small, scale=float(rng.uniform(100, 500)), sigma=0.8, min_size=int(0.012 * small[..., 0].size)
    )
    labels = cv2.resize(labels.astype(np.float32), dsize=(width, height), interpolation=cv2.INTER_NEAREST)
    found = [labels == label for label in rng.permutation(np.unique(labels))]
    return [mask for mask in found if is_subject(mask, least=MIN_UNLABELLED_PIXELS) and mask.mean() < 0.5]


def _moved(shapes: Sequence[NDArray[np.uint8]], size: tuple[int, ...], rng: np.random.Generator) -> Mask:
    """Lay a borrowed mask somewhere over a picture, scaled and perhaps mirrored; parts of it may leave the frame."""
    shape = shapes[int(rng.integers(len(shapes)))]
    x, y, wide, high = cv2.boundingRect((shape > 127).view(np.uint8))
    height, width = size
    scale = float(rng.uniform(0.35, 1.0)) * min(height / high, width / wide)
    left, top = float(rng.uniform(-0.2, 1.2)), float(rng.uniform(0, 1.1))
    flip = -1 if rng.random() < 0.5 else 1
    middle = np.array([wide / 2, high / 2])
    place = np.array([left * (width - scale * wide), top * (height - scale * high)]) + scale * middle
    matrix = np.array([[flip * scale, 0, 0], [0, scale, 0]])
    matrix[:, 2] = place - matrix[:, :2] @ (middle + np.array([x, y]))
    return np.asarray(cv2.warpAffine(shape, matrix, (width, height), flags=cv2.INTER_LINEAR) > 127)


def cut_out(image_id: int, kind: Kind, picture: Picture, mask: Mask) -> Subject:
    """Cut a subject with its surroundings out of a photograph and scale it down."""
    x, y, wide, high = cv2.boundingRect(mask.view(np.uint8))
    reach = ROOM * max(wide, high) / 2
    rows = slice(max(0, int(y + high / 2 - reach)), int(y + high / 2 + reach) + 1)
    columns = slice(max(0, int(x + wide / 2 - reach)), int(x + wide / 2 + reach) + 1)
    layers: list[Any] = [picture[rows, columns], mask[rows, columns].view(np.uint8) * np.uint8(255)]
    height, width = layers[1].shape
    scale = min(1.0, SIDE / (2 * reach))
    size = (max(8, round(scale * width)), max(8, round(scale * height)))
    layers = [cv2.resize(np.ascontiguousarray(layer), dsize=size, interpolation=cv2.INTER_AREA) for layer in layers]
    pixels = picture[mask]
    return Subject(image_id, kind, layers[0], layers[1], pixels[:: -(-len(pixels) // REFERENCE_PIXELS)].copy())


def digest_of(subjects: Iterable[Subject]) -> str:
    """Return a sha256 of what was learnt from: ids, kinds, pictures and masks."""
    digest = hashlib.sha256()
    for subject in subjects:
        digest.update(f"{subject.image_id} {subject.kind} {subject.picture.shape} ".encode())
        digest.update(subject.picture.tobytes())
        digest.update(subject.mask.tobytes())
    return digest.hexdigest()


def check_splits(subjects: Iterable[Subject], *, split: Split) -> None:
    """Raise ValueError where a subject's photograph is of another split."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    foreign = sorted({s.image_id for s in subjects if split_of(s.image_id) != split})
    if foreign:
        raise ValueError(f"subjects must be of the split {split}, these photographs are not: {foreign[:5]}")
