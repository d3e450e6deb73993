"""Measure on the pictures of kept samples what their records do not say: share of the image, luminance, colour of light.

Each picture is decoded once in a run's life: the numbers stay in `statistics/measures/`, a file a shard, and only samples
that are not in it are looked at again. What is measured is a function of a sample's pictures, which no decision changes;
so that damage is not kept, numbers are stored only where the tar has the hash that the manifest names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from augment.color import KELVIN_RANGE, LINEAR_TO_XYZ, chromaticity, duv_from_xy, kelvin_from_xy, mean_linear
from augment.transfer.luminance_cct import DUV_LIMIT
from flows.coco.sources import Watch, unwatched
from flows.errors import BadRequest
from flows.store.index import read_bounded, read_index
from flows.store.layout import FUSION, Layout, writing
from flows.store.write import hash_file
from flows.view.gallery import Map
from flows.view.pictures import decode_recent, read_members

MEASURES: Final = ("share", "luminance_before", "luminance_after", "kelvin_before", "kelvin_after")

_ROLES: Final[Mapping[str, tuple[str, str, str]]] = {
    "harmonization": ("mask.png", "real.jpg", "composite.jpg"),
    FUSION: ("alpha.png", "foreground.jpg", "composite.jpg"),
}
"""By stage: where the subject is, and how it looks before and after."""
_INDEX: Final = ("key", "stage", "family", "split", "foreground_mse", "strength", "score")
_PLACE: Final = ("status", "tar", "offset", "size")
_SCHEMA: Final = pa.schema([("key", pa.string()), *((name, pa.float64()) for name in MEASURES)])


@dataclass(frozen=True)
class Part:
    """One file of the index, and what the manifest says of the tars: sha256 by path."""

    layout: Layout
    index: Path
    hashes: Mapping[str, str]


def measure_run(layout: Layout, manifest: Mapping[str, Any], *, over: Map = map, watch: Watch = unwatched) -> pa.Table:
    """Return a row for every kept sample of a run: its key, stage, family and split, and every number.

    Args:
        layout: Of the run; the caller holds its lock.
        manifest: Of the run.
        over: Maps the work over the files of the index; in this process where not given.
        watch: Is told how many files of the index are done.

    Returns:
        Columns `stage`, `family`, `split` (string), `foreground_mse`, `strength`, `score`, `share` (0..1), `luminance_before`
        and `luminance_after` (0..1), `kelvin_before` and `kelvin_after` (double); null where unknown. A row is about
        135 bytes.

    Raises:
        BadRequest: A file of the index is damaged.
        OSError: The disk is full or not writable.
    """
    hashes = {str(entry["path"]): str(entry["sha256"]) for entry in manifest["shards"]}
    paths = sorted(layout.index("any").parent.glob("*.parquet"))
    tables = []
    watch("statistics, shards", 0, len(paths))
    for table in over(measure_part, [Part(layout, path, hashes) for path in paths]):
        tables.append(table)
        watch("statistics, shards", len(tables), len(paths))
    _forget_others(layout, {path.name for path in paths})
    return pa.concat_tables(tables) if tables else _joined([], {})


def measure_part(part: Part) -> pa.Table:
    """Measure the kept samples of one file of the index that were not measured before; one is in memory at a time.

    Raises:
        BadRequest: The file is damaged.
        OSError: The disk is full or not writable.
    """
    rows = _read_kept(part.index)
    store = part.layout.measures(part.index.stem)
    known = _read_known(store)
    whole = {tar: _is_whole(part, tar) for tar in {str(row["tar"]) for row in rows if row["key"] not in known}}
    measured = dict(known)
    for row in rows:
        if row["key"] not in known:
            tar = part.layout.run / str(row["tar"])
            members = read_members(tar, offset=row["offset"], size=row["size"])
            measured[str(row["key"])] = measure_sample(members, stage=str(row["stage"]))
    if any(whole.values()):
        broken = {str(row["key"]) for row in rows if not whole.get(str(row["tar"]), True)}
        _store(store, {key: numbers for key, numbers in measured.items() if key in known or key not in broken})
    return _joined(rows, measured)


Numbers = tuple[float | None, ...]
"""A number for each of `MEASURES`."""


def measure_sample(members: Mapping[str, bytes], *, stage: str) -> Numbers:
    """Measure one sample on its decoded pictures, inside its mask (> 127).

    The share is that of the mask in the image. Luminance is CIE Y of the subject's mean linear light, white at 1. The
    correlated colour temperature, in kelvin, is McCamy's of the same mean; it is unknown where the chromaticity lies
    farther than Duv 0.02 from the locus of lights, as a green shirt's does.

    Args:
        members: Content by extension, such as `composite.jpg`.
        stage: Decides which pictures are before and after; one that is not known is taken for `harmonization`.
    """
    mask_name, *sides = _ROLES.get(stage, _ROLES["harmonization"])
    mask = decode_recent(members.get(mask_name), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        return (None,) * len(MEASURES)
    inside = mask > 127
    left, top, width, height = cv2.boundingRect(inside.view(np.uint8))
    box = np.s_[top : top + height, left : left + width]
    lights = []
    for name in sides:
        picture = decode_recent(members.get(name), cv2.IMREAD_COLOR_RGB)
        fits = picture is not None and picture.shape[:2] == mask.shape and width > 0
        lights.append(measure_light(picture[box][inside[box]]) if picture is not None and fits else (None, None))
    luminance, kelvin = zip(*lights, strict=True)
    return (float(inside.mean()), *luminance, *kelvin)


def measure_light(pixels: NDArray[np.uint8]) -> tuple[float, float | None]:
    """Return luminance (0..1) and correlated colour temperature (kelvin, or None) of the mean light of sRGB (N, 3)."""
    xyz = LINEAR_TO_XYZ @ mean_linear(pixels)
    if xyz.sum() <= 0:
        return 0.0, None
    xy = chromaticity(xyz)
    kelvin = kelvin_from_xy(xy)
    is_light = abs(duv_from_xy(xy)) <= DUV_LIMIT and KELVIN_RANGE[0] <= kelvin <= KELVIN_RANGE[1]
    return float(xyz[1]), kelvin if is_light else None


def _read_kept(path: Path) -> list[dict[str, Any]]:
    try:
        table = read_index(path, columns=[*_INDEX, *_PLACE])
        kept = table.filter(pc.equal(table["status"], "kept"))
    except (OSError, pa.ArrowException) as error:
        message = str(error).splitlines()[0]
        raise BadRequest(f"{path} is damaged ({message}); run the same build again to make it anew") from None
    rows: list[dict[str, Any]] = kept.to_pylist()
    return rows


def _read_known(path: Path) -> dict[str, Numbers]:
    """Return what was measured before, by key; nothing where the file is missing or of another kind."""
    try:
        table = read_bounded(path, schema=_SCHEMA)
        columns = [table[name].to_pylist() for name in _SCHEMA.names]
    except (OSError, pa.ArrowException):
        return {}
    return {str(key): tuple(numbers) for key, *numbers in zip(*columns, strict=True)}


def _is_whole(part: Part, tar: str) -> bool:
    try:
        return hash_file(part.layout.run / tar)[0] == part.hashes.get(tar)
    except OSError:
        return False


def _store(path: Path, measured: Mapping[str, Numbers]) -> None:
    columns = zip(*((key, *numbers) for key, numbers in sorted(measured.items())), strict=True)
    with writing(path) as file:
        pq.write_table(pa.table(list(columns), schema=_SCHEMA), file, compression="zstd")


def _joined(rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Numbers]) -> pa.Table:
    """Return the rows of the index with what was measured, as a table."""
    words = {name: [row[name] for row in rows] for name in _INDEX}
    numbers = [measured[str(row["key"])] for row in rows]
    found = {name: [each[place] for each in numbers] for place, name in enumerate(MEASURES)}
    kinds = [(name, pa.string()) for name in _INDEX[:4]] + [(name, pa.float64()) for name in (*_INDEX[4:], *MEASURES)]
    return pa.table({**words, **found}, schema=pa.schema(kinds))


def _forget_others(layout: Layout, names: set[str]) -> None:
    """Remove what was measured of shards that the run does not have any more."""
    for path in layout.measures("any").parent.glob("*.parquet"):
        if path.name not in names:
            path.unlink()
