"""The catalogue: a COCO instances file read once into compact Parquet, cached by the file's hash.

Everything after it, planning included, reads the catalogue, so the JSON (448 MB for train2017) is parsed once for
all runs. Segmentations stay as the JSON text they are: most are never looked at.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flows.errors import BadRequest

CATALOG_VERSION: Final = 2
"""Raised when the catalogue's content changes for the same file; older ones are then made anew."""

MAX_ID: Final = 10**12
"""Ids from here on do not fit the 12 digits of a sample's key."""

MAX_SIDE: Final = 30_000

MAX_CODE: Final = 2**31
"""Ids of categories and licences from here on do not fit their columns."""

MAX_COORDINATE: Final = 1e9
"""Polygons with points from here on have no area of their own; larger numbers overflow in its formula."""

ROW_GROUP: Final = 65_536
"""Annotations that are spelt out, and written, at a time: about 40 MB of polygons."""

IMAGES = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("file_name", pa.string()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("license", pa.int32()),
        pa.field("coco_url", pa.string()),
        pa.field("flickr_url", pa.string()),
    ]
)

ANNOTATIONS = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("category_id", pa.int32(), nullable=False),
        pa.field("iscrowd", pa.bool_(), nullable=False),
        pa.field("area", pa.float64(), nullable=False),
        pa.field("segmentation", pa.binary(), nullable=False),
    ]
)


class _Annotation(msgspec.Struct, gc=False):
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    id: Any = None
    image_id: Any = None
    category_id: Any = None
    iscrowd: Any = 0
    area: Any = None


class _Image(msgspec.Struct, gc=False):
    id: Any = None
    file_name: Any = None
    width: Any = None
    height: Any = None
    license: Any = None
    coco_url: Any = None
    flickr_url: Any = None


class _Instances(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[Any]
    licenses: list[Any] = []


@dataclass(frozen=True)
class Catalog:
    """One annotation file, catalogued.

    Attributes:
        folder: Holds `images.parquet`, `people.parquet`, `others.parquet` (all other annotations) and `about.json`.
        digest: sha256 of the annotation file.
        person_ids: Category ids named `person`.
        categories: Category id to name.
        licenses: Licence id to `{"name", "url"}`.
        malformed: Records that could not be catalogued: `images`, `annotations`, and `people` among the latter.
    """

    folder: Path
    digest: str
    person_ids: tuple[int, ...]
    categories: dict[int, str]
    licenses: dict[int, dict[str, str | None]]
    malformed: dict[str, int]

    def images(self) -> pa.Table:
        """Read the image records, in the file's order."""
        return pq.read_table(self.folder / "images.parquet", memory_map=True)

    def people(self, *, columns: Sequence[str]) -> pa.Table:
        """Read the chosen columns of all `person` annotations, crowd regions among them, in the file's order."""
        return pq.read_table(self.folder / "people.parquet", columns=list(columns), memory_map=True)


def open_catalog(annotations: Path, *, cache: Path) -> Catalog:
    """Open the catalogue of an annotation file; make it first where the cache does not hold it.

    Raises:
        BadRequest: The file is missing, not JSON, not COCO instances, or has no person category.
    """
    try:
        with annotations.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadRequest(f"cannot read the annotation file {annotations}: {error.strerror}") from None
    folder = cache / "catalog" / f"v{CATALOG_VERSION}-{digest[:32]}"
    about = _read_about(folder)
    if about is None:
        _make_catalog(annotations, folder=folder, digest=digest)
        about = json.loads((folder / "about.json").read_text())
    return Catalog(
        folder=folder,
        digest=digest,
        person_ids=tuple(about["person_ids"]),
        categories={int(key): name for key, name in about["categories"].items()},
        licenses={int(key): value for key, value in about["licenses"].items()},
        malformed=about["malformed"],
    )


def _make_catalog(annotations: Path, *, folder: Path, digest: str) -> None:
    """Write the catalogue beside its place and rename it, so that two processes at once do no harm."""
    instances = _read_instances(annotations)
    categories = _named(instances.categories)
    person_ids = [key for key, category in categories.items() if category.get("name") == "person"]
    if not person_ids:
        raise BadRequest(f"{annotations} has no category named 'person'; hcoco edits people, so it needs one")
    images, bad_images = _image_table(instances.images)
    columns, good = _annotation_columns(instances.annotations, images=images)
    people = np.isin(columns["category_id"], person_ids)
    about = {
        "source": annotations.name,
        "sha256": digest,
        "person_ids": person_ids,
        "categories": {key: str(category.get("name")) for key, category in categories.items()},
        "licenses": {
            key: {"name": _text(v.get("name")), "url": _text(v.get("url"))}
            for key, v in _named(instances.licenses).items()
        },
        "malformed": {
            "images": bad_images,
            "annotations": int((~good).sum()),
            "people": int((people & ~good).sum()),
        },
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    except OSError as error:
        raise BadRequest(
            f"cannot write the cache folder {folder.parent}: {error.strerror}; set HCOCO_CACHE to a folder that can be written"
        ) from None
    try:
        pq.write_table(images, making / "images.parquet", compression="zstd")
        for name, wanted in (("people.parquet", people & good), ("others.parquet", ~people & good)):
            _write_annotations(making / name, records=instances.annotations, columns=columns, wanted=wanted)
        (making / "about.json").write_text(json.dumps(about, indent=1))
        _rename_folder(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _read_about(folder: Path) -> dict[str, Any] | None:
    """Read a catalogue's description; None where there is none, or a damaged one."""
    try:
        about = json.loads((folder / "about.json").read_text())
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None


def _rename_folder(making: Path, folder: Path) -> None:
    try:
        making.replace(folder)
    except OSError:
        if _read_about(folder) is None:  # not made by another process meanwhile, but damaged
            shutil.rmtree(folder)
            making.replace(folder)


def _read_instances(annotations: Path) -> _Instances:
    """Parse the file without copying its segmentations: they stay views of the mapped file."""
    with annotations.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise BadRequest(f"{annotations} is empty; expected a COCO instances file (JSON)")
        text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return msgspec.json.decode(text, type=_Instances)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{annotations} is JSON but not a COCO instances file: {error}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _read_lenient(annotations, text)


def _read_lenient(annotations: Path, text: mmap.mmap) -> _Instances:
    """Parse what only Python's reader takes (`NaN` among the numbers), at its price in memory."""
    try:
        value = json.loads(bytes(text))
        for annotation in value["annotations"]:
            annotation["segmentation"] = msgspec.Raw(json.dumps(annotation.get("segmentation")).encode())
        return msgspec.convert(value, type=_Instances)
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError):
        raise BadRequest(f"{annotations} is JSON but not a COCO instances file") from None
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise BadRequest(f"{annotations} is not JSON{where}; expected a COCO instances file") from None


def _named(records: Sequence[Any]) -> dict[int, dict[str, Any]]:
    return {r["id"]: r for r in records if isinstance(r, dict) and _is_id(r.get("id")) and r["id"] < MAX_CODE}


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_ID


def _text(value: object) -> str | None:
    """Return a text that is not empty and can be written; JSON's escapes may spell half a character."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value or None


def _image_table(records: Sequence[_Image]) -> tuple[pa.Table, int]:
    """Keep the records with a valid id, name and size, the first of each id; count the others."""
    good: dict[int, _Image] = {}
    for record in records:
        sizes = all(type(side) is int and 0 < side <= MAX_SIDE for side in (record.width, record.height))
        if _is_id(record.id) and record.id not in good and sizes and _text(record.file_name):
            good[record.id] = record
    columns = {
        "id": list(good),
        "file_name": [record.file_name for record in good.values()],
        "width": [record.width for record in good.values()],
        "height": [record.height for record in good.values()],
        "license": [r.license if _is_id(r.license) and r.license < MAX_CODE else None for r in good.values()],
        "coco_url": [_text(record.coco_url) for record in good.values()],
        "flickr_url": [_text(record.flickr_url) for record in good.values()],
    }
    return pa.table(columns, schema=IMAGES), len(records) - len(good)


def _annotation_columns(
    records: Sequence[_Annotation], *, images: pa.Table
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """Read all but the segmentations of all records; say which of them name an image and have an id of their own."""
    image_ids, place = np.unique(images["id"].to_numpy(), return_index=True)
    pixels = (images["width"].to_numpy().astype(np.int64) * images["height"].to_numpy())[place]
    columns: dict[str, NDArray[Any]] = {
        "id": _ids((record.id for record in records), below=MAX_ID, count=len(records)),
        "image_id": _ids((record.image_id for record in records), below=MAX_ID, count=len(records)),
        "category_id": _ids((record.category_id for record in records), below=MAX_CODE, count=len(records)),
        "iscrowd": np.fromiter((bool(record.iscrowd) for record in records), dtype=np.bool_, count=len(records)),
    }
    named = np.isin(columns["image_id"], image_ids)
    ids, categories = columns["id"], columns["category_id"]
    complete = np.flatnonzero((ids >= 0) & (categories >= 0) & named)
    _, first = np.unique(ids[complete], return_index=True)
    good = np.zeros(len(records), dtype=np.bool_)
    good[complete[first]] = True
    limits = np.zeros(len(records), dtype=np.int64)
    limits[good] = pixels[np.searchsorted(image_ids, columns["image_id"][good])]
    return {**columns, "area": _areas(records, limits=limits)}, good


def _ids(values: Iterable[object], *, below: int, count: int) -> NDArray[np.int64]:
    """Return whole numbers from 0 to `below`; -1 for whatever is none."""
    valid = (value if type(value) is int and 0 <= value < below else -1 for value in values)
    return np.fromiter(valid, dtype=np.int64, count=count)


def _areas(records: Sequence[_Annotation], *, limits: NDArray[np.int64]) -> NDArray[np.float64]:
    """Take the annotated areas where they are believable, above 0 and up to the limit, else the polygons' own."""
    most = int(limits.max(initial=0))
    areas = np.fromiter(
        (r.area if isinstance(r.area, int | float) and 0 < r.area <= most else 0 for r in records),  # not NaN either
        dtype=np.float64,
        count=len(records),
    )
    for row in np.flatnonzero((limits > 0) & ((areas == 0) | (areas > limits))).tolist():
        areas[row] = _area_of_polygons(bytes(records[row].segmentation), pixels=int(limits[row]))
    return areas


def _write_annotations(
    path: Path, *, records: Sequence[_Annotation], columns: dict[str, NDArray[Any]], wanted: NDArray[np.bool_]
) -> None:
    """Write the wanted records, some at a time: their polygons are copied out of the mapped file only then."""
    rows = np.flatnonzero(wanted)
    with pq.ParquetWriter(path, ANNOTATIONS, compression="zstd", use_dictionary=False) as writer:
        for first in range(0, len(rows), ROW_GROUP):
            group = rows[first : first + ROW_GROUP]
            segmentations = pa.array([bytes(records[row].segmentation) for row in group.tolist()], type=pa.binary())
            values = {name: column[group] for name, column in columns.items()}
            writer.write_table(pa.table({**values, "segmentation": segmentations}, schema=ANNOTATIONS))


def _area_of_polygons(segmentation: bytes, *, pixels: int) -> float:
    """Compute the area of all polygons (shoelace formula), at most that of the photograph."""
    try:
        value = json.loads(segmentation)
    except (ValueError, RecursionError):
        return 0.0
    if not isinstance(value, list):
        return float(pixels)  # run lengths: let the mask itself decide, later
    return min(float(pixels), sum(_shoelace(polygon) for polygon in value if isinstance(polygon, list)))


def _shoelace(polygon: list[Any]) -> float:
    believable = all(isinstance(v, int | float) and abs(v) < MAX_COORDINATE for v in polygon)
    if len(polygon) < 6 or len(polygon) % 2 or not believable:
        return 0.0
    x, y = np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
