"""Where photographs and annotations come from: the embedded sample, a folder, or COCO's own server."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from flows.coco.catalog import Catalog, open_catalog
from flows.coco.download import SUBSETS, Mirror, fetch_annotations
from flows.coco.fetch import bring_photographs
from flows.errors import BadRequest
from flows.objects import cache_folder, check_address, fetch, is_address, list_folder, twin
from flows.settings import COCO_BASE

_ID_LINE: Final = re.compile(
    r"(?:.*/)?c(\d{1,12})(?:_\d+){0,2}\.[a-z]+"  # iHarmony4: c139.jpg, c139_1640.png, c139_1640_1.jpg
    r"|(?:.*/)?(?:COCO_[A-Za-z0-9]+_)?(\d{1,12})(?:\.[A-Za-z]+)?"  # COCO, or a bare id
)
LIST_BYTES: Final = 64_000_000
"""A larger list of ids is not read."""
MAX_LISTED: Final = 2_000_000
"""Lines of a list; COCO has 330,000 photographs."""
LINE_CHARACTERS: Final = 10_000
_PEOPLE_COLUMNS: Final = ("id", "image_id", "iscrowd", "area")


Watch = Callable[[str, int, int], None]
"""Is told what is going on, how much of it is done, and how much there is at most."""


def unwatched(_what: str, _done: int, _at_most: int) -> None:
    """Watch nothing."""


@dataclass(frozen=True)
class Subset:
    """One annotation file and the folder of its photographs.

    Attributes:
        address: Where photographs are fetched from when they are needed; None where all lie in the folder.
    """

    name: str
    images: Path
    annotations: Path
    catalog: Catalog
    address: str | None = None

    @property
    def root(self) -> str:
        """Return where the photographs come from: their address, or their folder."""
        return self.address or str(self.images)


@dataclass(frozen=True)
class Source:
    """Photographs with annotations, from one or several subsets.

    Attributes:
        label: Names the source in the run's name: letters, digits and dashes.
        subsets: In the order of their names; an image id that several hold belongs to the first.
        mirror: How COCO's server is asked for photographs; None where they come from elsewhere.
    """

    label: str
    subsets: tuple[Subset, ...]
    mirror: Mirror | None = None

    @property
    def digests(self) -> dict[str, str]:
        """Return the sha256 of each annotation file by the subset's name."""
        return {subset.name: subset.catalog.digest for subset in self.subsets}

    @property
    def licenses(self) -> dict[int, dict[str, str | None]]:
        """Return what the annotation files say of each licence id."""
        merged: dict[int, dict[str, str | None]] = {}
        for subset in reversed(self.subsets):
            merged.update(subset.catalog.licenses)
        return dict(sorted(merged.items()))

    @cached_property
    def malformed_people(self) -> int:
        """Count the person records that the catalogue could not hold."""
        return sum(subset.catalog.malformed["people"] for subset in self.subsets)

    def images(self) -> pa.Table:
        """Read all image records, sorted by id, with a column `subset` that says which subset holds it."""
        tables = [
            subset.catalog.images().append_column(
                "subset", pa.repeat(pa.scalar(index, pa.int32()), len(subset.catalog.images()))
            )
            for index, subset in enumerate(self.subsets)
        ]
        images = pa.concat_tables(tables).combine_chunks().sort_by([("id", "ascending"), ("subset", "ascending")])
        return _first_of_each(images)

    def people(self) -> pa.Table:
        """Read all person annotations, crowd regions among them, and in `place` where each stands in `segmentations`."""
        tables = [subset.catalog.people(columns=_PEOPLE_COLUMNS) for subset in self.subsets]
        people = pa.concat_tables(tables)
        people = people.append_column("place", pa.array(np.arange(len(people))))
        return people if len(self.subsets) == 1 else _first_of_each(people.sort_by("id"))

    def segmentations(self) -> pa.ChunkedArray:
        """Read the segmentations of all person annotations, as JSON text: 290 MB for train2017."""
        tables = [subset.catalog.people(columns=["segmentation"]) for subset in self.subsets]
        return pa.concat_tables(tables)["segmentation"]

    def fetch(self, names: Mapping[str, Sequence[str]]) -> None:
        """See to it that photographs (file names by subset) lie in their folders; nothing to do for local sources.

        Raises:
            BadRequest: As `bring_photographs`.
        """
        for subset in self.subsets:
            bring_photographs(subset.root, names.get(subset.name, ()), folder=subset.images, mirror=self.mirror)


def _first_of_each(table: pa.Table) -> pa.Table:
    """Keep the first row of each id of a table sorted by id."""
    ids = table["id"].to_numpy()
    if len(ids) < 2:
        return table
    first = ids[1:] != ids[:-1]
    return table if first.all() else table.filter(pa.array([True, *first.tolist()]))


def open_source(
    source: str,
    *,
    images: Path | None = None,
    annotations: Path | None = None,
    coco_base: str = COCO_BASE,
    cache: Path | None = None,
    watch: Watch = unwatched,
) -> Source:
    """Open what the settings `source`, `images`, `annotations` and `coco_base` name.

    Raises:
        BadRequest: Something is missing or holds no COCO annotations; the message says what and how to mend it.
    """
    cache = cache or cache_folder()
    if annotations is not None or (images is not None and source == "sample"):
        return _open_files(source, images=images, annotations=annotations, cache=cache)
    if source == "sample":
        from flows.coco.sample import SAMPLE_VERSION, write_sample  # noqa: PLC0415 - drawing code, for this source only

        folder = cache / "sample" / f"v{SAMPLE_VERSION}"
        write_sample(folder)
        return _open_folder(folder, label="sample", images=None, cache=cache)
    if source.startswith("coco:"):
        return _open_remote(source.removeprefix("coco:"), mirror=Mirror(base=coco_base), cache=cache, watch=watch)
    if is_address(source):
        return _open_address(source, images=images, cache=cache)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise BadRequest(
            f"source {source!r} {what}; give `sample`, a folder in COCO's layout (annotations/instances_*.json beside "
            "the folders of photographs), or --images and --annotations"
        )
    return _open_folder(folder.resolve(), label=label_of(folder.resolve().name), images=images, cache=cache)


def read_ids(path: Path | None) -> frozenset[int]:
    """Read a file of image ids: one a line, or a file name that holds one.

    COCO's names end in the id (`000000000139.jpg`, `COCO_val2014_000000000139.jpg`); those of iHarmony4's composites
    begin with it (`c139_1640_1.jpg`).

    Raises:
        BadRequest: The file cannot be read, or a line holds no id.
    """
    if path is None:
        return frozenset()
    ids = set()
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > LIST_BYTES):
            raise BadRequest(
                f"cannot read the list of excluded ids {path}: no plain file of at most {LIST_BYTES // 1_000_000} MB; "
                "write one id a line"
            )
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if number > MAX_LISTED:
                    raise BadRequest(f"the list of excluded ids {path} has more than {MAX_LISTED:,} lines; shorten it")
                if text := line.split("#", maxsplit=1)[0].strip():
                    ids.add(_read_id(text, where=f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"cannot read the list of excluded ids {path}: {error}") from None
    return frozenset(ids)


def _read_id(text: str, *, where: str) -> int:
    found = _ID_LINE.fullmatch(text) if len(text) <= LINE_CHARACTERS else None
    if not found:
        raise BadRequest(f"{where}: {text[:60]!r} holds no image id; write one id a line")
    return int(found.group(1) or found.group(2))


def _open_remote(subset: str, *, mirror: Mirror, cache: Path, watch: Watch) -> Source:
    """Fetch the annotations of one of COCO's subsets; its photographs come when they are needed."""
    if subset not in SUBSETS:
        raise BadRequest(
            f"source 'coco:{subset}' does not exist; there are {' and '.join(f'coco:{s}' for s in SUBSETS)}"
        )
    here = cache / "coco"
    annotations = fetch_annotations(
        subset,
        cache=here,
        mirror=mirror,
        progress=lambda done, total, _fetched: watch("annotations, bytes", done, total),
    )
    catalog = open_catalog(annotations, cache=cache)
    found = Subset(subset, here / subset, annotations, catalog, address=mirror.address(subset))
    return Source(f"coco-{subset}", (found,), mirror)


def _open_address(source: str, *, images: Path | None, cache: Path) -> Source:
    """Fetch the annotations of a COCO folder in object storage; its photographs come when they are needed."""
    if images is not None:
        raise BadRequest("--images is for folders; with an address as source leave it out")
    try:
        address = check_address(source)
    except ValueError as error:
        raise BadRequest(f"source {source!r}: {error}") from None
    top, folders = list_folder(address)
    below = list_folder(f"{address}/annotations")[0] if "annotations" in folders else {}
    files = {f"annotations/{name}": entry for name, entry in below.items()} | top
    wanted = sorted(path for path in files if re.fullmatch(r"(annotations/)?instances_[^/]*\.json", path))
    if not wanted:
        raise BadRequest(
            f"{address} has no annotations/instances_*.json; give the address of a folder in COCO's layout"
        )
    inner = list_folder(f"{address}/images")[1] if "images" in folders else []
    subsets = []
    for path in wanted:
        name = _subset_name(Path(path))
        place = name if name in folders else f"images/{name}" if name in inner else "images"
        if place.partition("/")[0] in folders:
            root, file = f"{address}/{place}", twin(address, kind="sources") / path
            fetch(f"{address}/{path}", file, entry=files[path])
            subsets.append(Subset(name, twin(root, kind="photographs"), file, open_catalog(file, cache=cache), root))
    if not subsets:
        raise BadRequest(
            f"{address} has annotations but no folder of photographs named {' or '.join(_subset_name(Path(p)) for p in wanted)}"
        )
    return Source(label_of(address.rpartition("/")[2]), tuple(subsets))


def _open_files(source: str, *, images: Path | None, annotations: Path | None, cache: Path) -> Source:
    if images is None or annotations is None:
        given, missing = ("images", "annotations") if annotations is None else ("annotations", "images")
        folder = Path(source)
        if given == "annotations" and source != "sample" and folder.is_dir() and annotations is not None:
            found = _images_of(folder.resolve(), _subset_name(annotations))
            if found is not None:
                return _open_files(source, images=found, annotations=annotations, cache=cache)
        raise BadRequest(f"--{given} is given without --{missing}; give both, or a folder in COCO's layout as source")
    if not images.is_dir():
        raise BadRequest(f"the folder of photographs {images} does not exist; mend --images")
    catalog = open_catalog(annotations, cache=cache)
    name = _subset_name(annotations)
    return Source(label_of(name), (Subset(name, images.resolve(), annotations.resolve(), catalog),))


def _open_folder(folder: Path, *, label: str, images: Path | None, cache: Path) -> Source:
    files = sorted([*folder.glob("annotations/instances_*.json"), *folder.glob("instances_*.json")])
    if not files:
        raise BadRequest(
            f"{folder} has no annotations/instances_*.json; give a folder in COCO's layout, or --images and --annotations"
        )
    placed = [(file, images or _images_of(folder, _subset_name(file))) for file in files]
    subsets = [
        Subset(_subset_name(file), place, file, open_catalog(file, cache=cache))
        for file, place in placed
        if place is not None and place.is_dir()
    ]
    if not subsets:
        names: Sequence[str] = [_subset_name(file) for file in files]
        raise BadRequest(
            f"{folder} has annotations but no folder of photographs named {' or '.join(names)}; mend it or give --images"
        )
    return Source(label, tuple(subsets))


def _subset_name(annotations: Path) -> str:
    """Return `val2017` for `instances_val2017.json`."""
    return annotations.stem.removeprefix("instances_")


def _images_of(folder: Path, subset: str) -> Path | None:
    places = (folder / subset, folder / "images" / subset, folder / "images")
    return next((place for place in places if place.is_dir()), None)


def label_of(name: str) -> str:
    """Return a name of files and folders that is fit for any of both: lower-case letters, digits and dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] or "folder"
