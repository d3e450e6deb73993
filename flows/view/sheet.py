"""Draw sheets of samples: some that a run kept, or those near the border of a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.errors import BadRequest
from flows.store.index import read_index
from flows.store.layout import Layout, write_bytes
from flows.view.pictures import TILE, make_pictures, read_members

Pixels = NDArray[np.uint8]

SUFFIXES: Final = (".png", ".jpg", ".jpeg")
STRIP: Final = (480, 160)
"""Width and height of one sample: before, mask, composite."""
CAPTION: Final = 22
GAP: Final = 8
PAPER: Final = (245, 245, 245)
INK: Final = (30, 30, 30)
GREY: Final = (150, 150, 150)


class Near(Protocol):
    """A sample near the border: its value, the side it is on, and its row of the index."""

    @property
    def value(self) -> float:
        """Return what is compared with the limit."""

    @property
    def passes(self) -> bool:
        """Say whether it is on the good side."""

    @property
    def row(self) -> Mapping[str, Any]:
        """Return its row."""


def check_sheet(path: Path) -> Path:
    """Return the path of a sheet to be; refuse one of another kind than PNG or JPEG before any work is done.

    Raises:
        BadRequest: The name ends otherwise.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise BadRequest(f"a sheet ends in {', '.join(SUFFIXES)}, got {str(path)!r}")
    return path.expanduser()


def write_sheet(layout: Layout, near: Sequence[Near], path: Path, *, limit: float, title: str) -> None:
    """Write a sheet: on the left what would be rejected, on the right what would be kept, the nearest on top.

    Args:
        layout: Of the run.
        near: The samples, in any order.
        path: PNG or JPEG by its suffix.
        limit: The border.
        title: Stands above.

    Raises:
        BadRequest: There is nothing to show, or the path's suffix is another.
        OSError: The disk is full or not writable.
    """
    suffix = check_sheet(path).suffix.lower()
    if not near:
        raise BadRequest("no sample is decided by this gate: there is nothing to show")
    sides = [
        sorted(
            (each for each in near if each.passes == passes),
            key=lambda each: (abs(each.value - limit), each.row["key"]),
        )
        for passes in (False, True)
    ]
    height = 2 * CAPTION + GAP + max(map(len, sides)) * (STRIP[1] + CAPTION + GAP)
    sheet = np.full((height, 2 * STRIP[0] + 3 * GAP, 3), PAPER, np.uint8)
    _write(sheet, title, x=GAP, y=CAPTION - 6, colour=INK)
    for number, side in enumerate(sides):
        left = GAP + number * (STRIP[0] + GAP)
        _write(sheet, ("rejected", "kept")[number], x=left, y=2 * CAPTION - 6, colour=INK)
        for place, each in enumerate(side):
            _draw(sheet, layout, each, x=left, y=2 * CAPTION + place * (STRIP[1] + CAPTION + GAP))
    done, encoded = cv2.imencode(suffix, sheet)
    if not done:
        raise ValueError(f"cannot encode a sheet of shape {sheet.shape} as {suffix}")
    write_bytes(path.expanduser(), encoded.tobytes())


def draw_triplets(layout: Layout, *, count: int = 6) -> bytes:
    """Return a JPEG of kept samples, one below the other, spread over the run; empty where it kept none.

    Args:
        layout: Of a finished run.
        count: At most so many samples.
    """
    columns = ["key", "tar", "offset", "size"]
    tables = [
        read_index(path, columns=columns, filters=[("status", "=", "kept")])
        for path in sorted(layout.index("any").parent.glob("*.parquet"))
    ]
    kept = pa.concat_tables(tables) if tables else pa.table({name: [] for name in columns})
    rows = kept.take(
        np.unique(np.linspace(0, max(kept.num_rows - 1, 0), min(count, kept.num_rows), dtype=int))
    ).to_pylist()
    if not rows:
        return b""
    sheet = np.full((len(rows) * (STRIP[1] + GAP) - GAP, STRIP[0], 3), PAPER, np.uint8)
    for place, row in enumerate(rows):
        top = place * (STRIP[1] + GAP)
        sheet[top : top + STRIP[1]] = _strip(layout, row)
    return cv2.imencode(".jpg", sheet, params=(cv2.IMWRITE_JPEG_QUALITY, 85))[1].tobytes()


def _strip(layout: Layout, row: Mapping[str, Any]) -> Pixels:
    """Return before, mask and composite of one sample; a grey bar where they cannot be read."""
    pictures = make_pictures(read_members(layout.run / str(row["tar"]), offset=row["offset"], size=row["size"]))
    strip: Pixels = np.full((TILE, 3 * TILE, 3), GREY, np.uint8)
    if pictures is not None:
        strip = np.asarray(cv2.imdecode(np.frombuffer(pictures.strip, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.resize(strip, dsize=STRIP, interpolation=cv2.INTER_AREA), np.uint8)


def _draw(sheet: Pixels, layout: Layout, near: Near, *, x: int, y: int) -> None:
    """Draw one sample into its place."""
    row = near.row
    sheet[y : y + STRIP[1], x : x + STRIP[0]] = _strip(layout, row)
    now = "" if (row["status"] == "kept") == near.passes else f", now {row['status']}"
    caption = f"{near.value:.4g}  {row['key']}  {row['family']}{now}"
    _write(sheet, caption, x=x, y=y + STRIP[1] + CAPTION - 7, colour=INK)


def _write(sheet: Pixels, text: str, *, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Write into the sheet; the drawing functions of OpenCV work in place."""
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, thickness=1, lineType=cv2.LINE_AA)
