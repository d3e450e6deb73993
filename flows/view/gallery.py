"""Write the gallery of a run: every attempted sample, in a folder that opens from disk and asks nobody for anything.

    gallery/index.html       the page, with its style and script
    gallery/data/index.js    what is needed to filter, sort and place: a few numbers a sample, by columns
    gallery/data/NNNNN-NNN.js    everything else that the index says of up to 256 samples, read when one is opened
    gallery/sheets/NNNNN-NNN.jpg    the pictures of up to 8 samples

Data lies in scripts, since a browser lets no page read other files from disk. Samples that lie in one tar share
sheets, so both a run in its own order and its rejected samples come from few of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import cv2
import jinja2
import numpy as np
import pyarrow as pa
from markupsafe import Markup
from numpy.typing import NDArray

from augment import LIMITS
from flows.coco.sources import Watch, unwatched
from flows.errors import BadRequest
from flows.store.index import read_index
from flows.store.layout import Layout, read_json
from flows.store.manifest import read_manifest
from flows.store.record import STAGE_GATES
from flows.view.attempts import NO_FAMILY
from flows.view.cards import MEANINGS
from flows.view.links import links_of
from flows.view.pictures import decode_recent, read_members

Pixels = NDArray[np.uint8]
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Yields a function's results in the order of the items: the builtin `map`, or that of a pool of processes."""

SIDE: Final = 256
"""Longer side of a picture in pixels."""
CONTEXT: Final = 3.0
"""A picture reaches so many times as far as the subject's box: enough of the scene to judge the subject in it."""

_OWN: Final = frozenset({"index.html", "data", "sheets"})
_SAMPLES_A_SHEET: Final = 8
_SAMPLES_A_CHUNK: Final = 256
_BLOCK: Final = 8
_JPEG: Final = (
    *(cv2.IMWRITE_JPEG_QUALITY, 85),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)
"""With whole blocks a picture and full chroma, what is equal in two pictures stays equal in the sheet: flipping shows
the edit and nothing else. Colours are off by 2.3 Lab units on average, 2.9 with halved chroma (measured)."""


@dataclass(frozen=True)
class Stage:
    """What is shown of the samples of a stage.

    Attributes:
        tiles: The pictures in their order: what each is called, and the members that may hold it.
        before: The picture that is flipped against `composite`; both have one size.
    """

    tiles: Mapping[str, tuple[str, ...]]
    before: str


_MASK: Final = ("mask.png",)
_COMPOSITE: Final = ("composite.jpg", "composite.png")

STAGES: Final[Mapping[str, Stage]] = {
    "harmonization": Stage({"real": ("real.jpg", "real.png"), "mask": _MASK, "composite": _COMPOSITE}, before="real"),
    "fusion": Stage(
        {
            "foreground": ("foreground.jpg", "foreground.png"),
            "mask": _MASK,
            "background": ("background.jpg", "background.png"),
            "composite": _COMPOSITE,
        },
        before="background",
    ),
    "copypaste": Stage(
        {"real": ("real.jpg", "real.png"), "mask": _MASK, "source": ("source.jpg",), "composite": _COMPOSITE},
        before="real",
    ),
}
"""What is shown, by stage; a stage that is not named here is shown as the first one."""

GATES: Final = (
    *((name, limit, "least" if name == "effect_small" else "most") for name, limit in LIMITS.items()),
    ("unnatural", None, "least"),
)
"""Gate, limit, and whether a value must be at least or at most that; the limit of `unnatural` stands in each row."""

_WORDS: Final = ("status", "stage", "split", "family", "reason")
_NUMBERS: Final = ("strength", "foreground_mse", "score", "value", "limit")
_PLACES: Final = ("sheet", "top", "shape")


@dataclass(frozen=True)
class Gallery:
    """What was written.

    Attributes:
        page: The file to open.
        samples: Attempted samples in it.
        pictured: Those of them that have pictures.
        size: Bytes of all files.
    """

    page: Path
    samples: int
    pictured: int
    size: int


@dataclass(frozen=True)
class _Part:
    """One file of the index, and where its share of the gallery goes."""

    layout: Layout
    number: int
    index: Path
    folder: Path
    side: int


@dataclass
class _Drawn:
    """The share of one file of the index; every list of `columns` has an entry a sample.

    Attributes:
        columns: By name; `sheet` counts into `sheets`, `shape` into `shapes`; both None where there are no pictures.
        chunks: File below `data/`, and how many samples it describes.
        sheets: File below `sheets/`, its width and its height.
        shapes: For each tile its width and height, as often as they differ.
    """

    columns: dict[str, list[Any]] = field(default_factory=dict)
    chunks: list[tuple[str, int]] = field(default_factory=list)
    sheets: list[tuple[str, int, int]] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)


def write_gallery(layout: Layout, *, over: Map = map, side: int = SIDE, watch: Watch = unwatched) -> Gallery:
    """Write `gallery/` of a finished run anew. Nothing changes before all of it is there; the same run gives the same bytes.

    Files that are not the gallery's own, such as a list that was saved there, stay.

    Args:
        layout: Of the run; the caller holds its lock.
        over: Maps the work over the files of the index; in this process where not given.
        side: Longer side of a picture, in pixels; smaller ones are not enlarged.
        watch: Is told how many files of the index are done.

    Raises:
        BadRequest: The run is unfinished, or its manifest or index is damaged.
        OSError: The disk is full or not writable.
    """
    read_manifest(layout)  # says in one line where the run is unfinished
    target = layout.run / "gallery"
    building, old = layout.run / ".gallery.tmp", layout.run / ".gallery-old.tmp"
    _retire(old, target)  # here as well, since one may have been killed
    shutil.rmtree(building, ignore_errors=True)
    try:
        gallery = _fill(building, layout, over=over, side=side, watch=watch)
        if target.exists():
            target.rename(old)
        building.rename(target)
    finally:
        _retire(old, target)
        shutil.rmtree(building, ignore_errors=True)
    return replace(gallery, page=target / "index.html")


def _retire(old: Path, target: Path) -> None:
    """Take an old gallery away: the user's files in it move to the new one, or all of it back where there is none."""
    if not old.exists():
        return
    if not target.exists():
        old.rename(target)
        return
    for path in sorted(old.iterdir()):
        if path.name not in _OWN and not (target / path.name).exists():
            path.rename(target / path.name)
    shutil.rmtree(old)


def _fill(folder: Path, layout: Layout, *, over: Map, side: int, watch: Watch) -> Gallery:
    for each in ("data", "sheets"):
        (folder / each).mkdir(parents=True)
    paths = sorted(layout.index("any").parent.glob("*.parquet"))
    parts = [_Part(layout, number, path, folder, side) for number, path in enumerate(paths)]
    drawn = []
    watch("gallery, shards", 0, len(parts))
    for done in over(draw_part, parts):
        drawn.append(done)
        watch("gallery, shards", len(drawn), len(parts))
    data = _join(drawn)
    samples = len(data["columns"]["key"])
    plan = _read_plan(layout)
    about = {
        "name": layout.run.name,
        "identity": _identify(plan),
        "stages": [[name, list(stage.tiles), stage.before] for name, stage in STAGES.items()],
        "gates": GATES,
        "stage_gates": [[stage, list(names)] for stage, names in STAGE_GATES.items()],
        "meanings": list(MEANINGS.items()),
        "licenses": _licenses(plan),
        "samples": samples,
    }
    data["columns"] = list(data["columns"].items())
    _write_script(folder / "data" / "index.js", "index", {**about, **data})
    (folder / "index.html").write_bytes(render_page(layout.run.name, links=links_of(layout, layout.gallery)))
    pictured = sum(each is not None for part in drawn for each in part.columns["sheet"])
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Gallery(folder / "index.html", samples, pictured, size)


def render_page(name: str, *, links: str) -> bytes:
    """Return the page as UTF-8; what it shows it reads from `data/`.

    Args:
        name: Of the run.
        links: To its other pages, as HTML.
    """
    files = resources.files("flows.view")
    template, style, script = (files.joinpath(f"gallery.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    text = environment.from_string(template).render(
        name=name,
        links=Markup(links),  # noqa: S704 - our own
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        style_hash=_hash_of(style),
        script_hash=_hash_of(script),
    )
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate from a file name must not end the gallery


def draw_part(part: _Part) -> _Drawn:
    """Write the sheets and chunks of one file of the index; in memory are one chunk of rows and a sheet a tar.

    Raises:
        BadRequest: The file is damaged.
        OSError: The disk is full or not writable.
    """
    drawn = _Drawn(columns={name: [] for name in ("key", *_WORDS, *_NUMBERS, *_PLACES)})
    book = _Book(part, drawn)
    for number, columns in enumerate(_read_chunks(part.index)):
        count = len(columns["key"])
        for name in ("key", *_WORDS):
            drawn.columns[name] += columns.get(name) or [None] * count
        for name in _NUMBERS:
            drawn.columns[name] += map(_short, columns.get(name) or [None] * count)
        for name in columns:
            if name.endswith(("_image_id", "_annotation_id")):
                drawn.columns.setdefault(name, []).extend(columns[name])
        columns["shown"] = [_place_sample(book, columns, row) for row in range(count)]
        file = f"{part.number:05d}-{number:03d}.js"
        _write_script(part.folder / "data" / file, file, _squeeze(columns))
        drawn.chunks.append((file, count))
    book.close()
    return drawn


def _place_sample(book: _Book, columns: Mapping[str, list[Any]], row: int) -> str | None:
    """Put a sample's pictures on a sheet; return which part of the photograph they show, None without pictures."""
    place = {name: columns[name][row] for name in ("tar", "offset", "size")}
    members = read_members(book.part.layout.run / str(place["tar"]), offset=place["offset"], size=place["size"])
    stage = STAGES.get(str(columns["stage"][row]), STAGES["harmonization"])
    cut = cut_tiles(members, stage, side=book.part.side)
    book.place(None if cut is None else cut.tiles, tar=str(place["tar"]))
    return None if cut is None else cut.shown


def _read_chunks(path: Path) -> Iterator[dict[str, list[Any]]]:
    """Yield the rows of a file of the index, some at a time, as columns."""
    try:
        table = read_index(path)
        lacking = {"key", "status", "stage", "tar", "offset", "size"} - {*table.column_names}
        if lacking:
            raise BadRequest(f"{path} is damaged (no column {min(lacking)}); run hcoco verify")
        for batch in table.to_batches(max_chunksize=_SAMPLES_A_CHUNK):
            yield batch.to_pydict()
    except (OSError, pa.ArrowException) as error:
        message = str(error).splitlines()[0]
        raise BadRequest(f"{path} is damaged ({message}); run the same build again to make it anew") from None


# The pictures


@dataclass(frozen=True)
class Cut:
    """The pictures of one sample.

    Attributes:
        tiles: uint8 (h, w, 3) BGR, in the order of the stage; longer side at most `side`.
        shown: Which part of the photograph they show, in words.
    """

    tiles: tuple[Pixels, ...]
    shown: str


def cut_tiles(members: Mapping[str, bytes], stage: Stage, *, side: int) -> Cut | None:
    """Decode a sample's pictures, cut them around the subject, and scale them down; None where one is not there.

    What is equal in real and composite is equal in their tiles.

    Args:
        members: Content by extension, such as `composite.jpg`.
        stage: What to show.
        side: Longer side of a tile at most, in pixels.
    """
    mask = decode_recent(members.get("mask.png"), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        return None
    height, width = mask.shape
    rows, columns = choose_window(mask, side=side)
    # Half the size is decoded in a fraction of the time, and is enough where the tile is no larger.
    factor = 2 if max(rows.stop - rows.start, columns.stop - columns.start) >= 2 * side else 1
    flags = cv2.IMREAD_COLOR if factor == 1 else cv2.IMREAD_REDUCED_COLOR_2
    tiles = []
    for role, names in stage.tiles.items():
        if role == "mask":
            tiles.append(cv2.cvtColor(_shrink(mask[rows, columns], side=side), cv2.COLOR_GRAY2BGR))
            continue
        picture = decode_recent(next((members[name] for name in names if name in members), None), flags)
        if picture is None:
            return None
        if picture.shape[:2] == (-(-height // factor), -(-width // factor)):  # else of another frame: shown whole
            picture = picture[_scaled(rows, factor), _scaled(columns, factor)]
        tiles.append(_shrink(picture, side=side))
    size = (columns.stop - columns.start, rows.stop - rows.start)
    part = "all" if size == (width, height) else f"{size[0]} x {size[1]}"
    return Cut(tuple(np.asarray(tile, np.uint8) for tile in tiles), f"{part} of {width} x {height} px")


def choose_window(mask: Pixels, *, side: int) -> tuple[slice, slice]:
    """Return rows and columns to show: a square around the subject, as far as the frame reaches.

    It is `CONTEXT` times as long as the subject's box and never shorter than `side`.

    Args:
        mask: uint8 (H, W), the subject where > 127; the whole frame is shown where nothing is.
        side: In pixels.
    """
    x, y, width, height = cv2.boundingRect((mask > 127).view(np.uint8))
    if not width:
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    length = max(round(CONTEXT * max(width, height)), side)
    return (
        _span(y + height // 2, length=length, size=mask.shape[0]),
        _span(x + width // 2, length=length, size=mask.shape[1]),
    )


def _span(centre: int, *, length: int, size: int) -> slice:
    """Return `length` pixels around a place in `size` pixels, from an even one on, so that they can be halved."""
    if length >= size:
        return slice(0, size)
    start = min(max(centre - length // 2, 0), size - length) // 2 * 2
    return slice(start, start + length)


def _scaled(span: slice, factor: int) -> slice:
    return slice(span.start // factor, -(-span.stop // factor))


def _shrink(picture: Pixels, *, side: int) -> Pixels:
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, dsize=size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


class _Book:
    """The sheets of one file of the index; each tar has an open one, so that kept and rejected samples do not mix."""

    def __init__(self, part: _Part, drawn: _Drawn) -> None:
        """Begin without a sheet; what is placed is noted in `drawn`."""
        self.part = part
        self._drawn = drawn
        self._open: dict[str, tuple[int, list[Pixels]]] = {}
        self._shapes: dict[tuple[int, ...], int] = {}

    def place(self, tiles: Sequence[Pixels] | None, *, tar: str) -> None:
        """Put the next sample on the open sheet of its tar."""
        columns = self._drawn.columns
        if tiles is None:
            for name in _PLACES:
                columns[name].append(None)
            return
        if tar not in self._open:
            self._open[tar] = (len(self._drawn.sheets), [])
            self._drawn.sheets.append(("", 0, 0))
        sheet, strips = self._open[tar]
        shape = tuple(length for tile in tiles for length in (tile.shape[1], tile.shape[0]))
        columns["sheet"].append(sheet)
        columns["top"].append(sum(len(strip) for strip in strips) + _BLOCK)
        columns["shape"].append(self._shapes.setdefault(shape, len(self._shapes)))
        strips.append(join_tiles(tiles))
        if len(strips) == _SAMPLES_A_SHEET:
            self._write(tar)

    def close(self) -> None:
        """Write the sheets that are still open."""
        for tar in list(self._open):
            self._write(tar)
        self._drawn.shapes += self._shapes

    def _write(self, tar: str) -> None:
        number, strips = self._open.pop(tar)
        width = max(strip.shape[1] for strip in strips)
        picture = np.vstack([np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0))) for strip in strips])
        file = f"{self.part.number:05d}-{number:03d}.jpg"
        (self.part.folder / "sheets" / file).write_bytes(cv2.imencode(".jpg", picture, _JPEG)[1].tobytes())
        self._drawn.sheets[number] = (file, width, len(picture))


def join_tiles(tiles: Sequence[Pixels]) -> Pixels:
    """Put tiles side by side, each with its own edge pixels around it.

    So no tile shows a trace of its neighbour, neither by the JPEG nor by a browser that scales it.

    Args:
        tiles: uint8 (h, w, 3) each.

    Returns:
        uint8 (H, W, 3). Each tile begins at a whole block, 8 pixels below the top and 8 pixels right of where the one
        before ends with its block; after it come 1 to 8 pixels up to the next block.
    """
    height = max(to_blocks(tile.shape[0]) for tile in tiles)
    return np.hstack([_surround(tile, width=to_blocks(tile.shape[1]), height=height) for tile in tiles])


def to_blocks(length: int) -> int:
    """Return the next multiple of 8 above a length."""
    return (length // _BLOCK + 1) * _BLOCK


def _surround(tile: Pixels, *, width: int, height: int) -> Pixels:
    """Continue a tile to all sides by its edge: a block to the left and the top, to `width` and `height` else."""
    rows, columns = height - tile.shape[0], width - tile.shape[1]
    around = (_BLOCK, rows, _BLOCK, columns)
    return np.asarray(cv2.copyMakeBorder(tile, *around, borderType=cv2.BORDER_REPLICATE), np.uint8)


# The data


def _join(drawn: Sequence[_Drawn]) -> dict[str, Any]:
    """Put the parts together: words become numbers of their place in a list, sheets and shapes are counted on."""
    names = dict.fromkeys(("key", *_WORDS, *_NUMBERS, *_PLACES))
    names |= dict.fromkeys(name for part in drawn for name in part.columns)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    sheets: list[tuple[str, int, int]] = []
    shapes: dict[tuple[int, ...], int] = {}
    for part in drawn:
        shape_of = [shapes.setdefault(shape, len(shapes)) for shape in part.shapes]
        moved = {
            "sheet": [None if number is None else number + len(sheets) for number in part.columns["sheet"]],
            "shape": [None if number is None else shape_of[number] for number in part.columns["shape"]],
        }
        for name in names:
            columns[name] += moved.get(name) or part.columns.get(name) or [None] * len(part.columns["key"])
        sheets += part.sheets
    columns["family"] = [family or NO_FAMILY for family in columns["family"]]
    words = []
    for name in _WORDS:
        known = sorted({word for word in columns[name] if word})
        code = {word: number for number, word in enumerate(known)}
        columns[name] = [code.get(word) for word in columns[name]]
        words.append([name, known])
    chunks = [chunk for part in drawn for chunk in part.chunks]
    return {"words": words, "columns": columns, "sheets": sheets, "shapes": list(shapes), "chunks": chunks}


def _squeeze(columns: Mapping[str, list[Any]]) -> list[list[Any]]:
    """Return columns as pairs: those that know nothing are left out, those of one value hold it once."""
    pairs: list[list[Any]] = []
    for name, values in columns.items():
        known = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
        same = all(value == known[0] for value in known)
        if not same:
            pairs.append([name, known])
        elif known[0] is not None:
            pairs.append([name, known[0]])
    return pairs


def _short(value: float | None) -> float | None:
    """Return a number to seven digits, None where it is none."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")


def _write_script(path: Path, name: str, value: object) -> None:
    """Write a value as a script that hands it to the page."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, default=str)
    path.write_text(f"galleryData({json.dumps(name)},{text});\n", "utf-8")


def _read_plan(layout: Layout) -> Mapping[str, Any]:
    """Return the plan; nothing where it cannot be read, since the samples can be looked at without it."""
    try:
        plan = read_json(layout.plan)
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) else {}


def _identify(plan: Mapping[str, Any]) -> str:
    """Return what tells this run's marks from those of another one of the same name."""
    return hashlib.sha256(json.dumps(plan.get("identity"), sort_keys=True).encode()).hexdigest()[:16]


def _licenses(plan: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return id, name and URL of the plan's licences."""
    licenses = plan.get("licenses")
    items = licenses.items() if isinstance(licenses, dict) else ()
    return [(key, value.get("name"), value.get("url")) for key, value in items if isinstance(value, dict)]


def _hash_of(text: str) -> str:
    """Return the hash by which a content security policy lets one script or style in."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
