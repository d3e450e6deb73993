"""Write what a comparison of fusions came to: one page with tables and pictures, which asks nobody for anything."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import jinja2

from flows.coco.pictures import Picture
from flows.store.layout import write_bytes

SIDE: Final = 200
"""Longer side of a picture on the page, in pixels."""
WORDS: Final = {"psnr": "PSNR, dB", "ssim": "SSIM", "boundary_psnr": "at the edge, dB", "boundary_error": "error there"}
"""Columns of a table, by the key of a row."""

_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #1d2433; }
table { border-collapse: collapse; margin: 0 0 1.5rem; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid #d8dde6; }
th:first-child, td:first-child { text-align: left; }
b { color: #0b6b3a; }
.case { display: flex; flex-wrap: wrap; gap: .5rem; margin: 0 0 1rem; }
figure { margin: 0; } figcaption { font-size: 12px; color: #5b6577; }
</style>
<h1>{{ title }}</h1>
<p>Means over held-out compositions; the best of a column is bold. The closed-form blends get the polygon that the
networks get. The band along the true edge is what the two last columns look at; an error is a mean difference in levels.</p>
{% for kind in kinds %}
<h2>{{ kind.name }}: {{ kind.count }} compositions</h2>
<table><tr><th>method{% for word in words %}<th>{{ word }}{% endfor %}
{% for row in kind.rows %}<tr><td>{{ row.method }}{% for cell in row.cells %}<td>
{%- if cell.best %}<b>{{ cell.text }}</b>{% else %}{{ cell.text }}{% endif %}{% endfor %}
{% endfor %}</table>
{% for case in kind.cases %}<div class="case">
{% for picture in case %}<figure><img src="data:image/jpeg;base64,{{ picture.data }}" alt="{{ picture.name }}">
<figcaption>{{ picture.name }}</figcaption></figure>{% endfor %}</div>
{% endfor %}{% endfor %}
</html>
"""


@dataclass(frozen=True)
class _Cell:
    text: str
    best: bool


@dataclass(frozen=True)
class _Row:
    method: str
    cells: Sequence[_Cell]


@dataclass(frozen=True)
class _Picture:
    name: str
    data: str


@dataclass(frozen=True)
class _Kind:
    name: str
    count: int
    rows: Sequence[_Row]
    cases: Sequence[Sequence[_Picture]]


def write_fusion_page(
    path: Path,
    *,
    title: str,
    tables: Mapping[str, Sequence[Mapping[str, float | str]]],
    counts: Mapping[str, int],
    pictures: Mapping[str, Sequence[Mapping[str, Picture]]],
) -> Path:
    """Write the page of a comparison; return its path.

    Args:
        path: Of the page.
        title: Of the page.
        tables: A row a method, by kind of composition: `method`, and the keys of `WORDS`.
        counts: Compositions of each kind.
        pictures: Of some compositions of each kind, uint8 (h, w, 3) sRGB by what they are.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    kinds = [
        _Kind(
            name=kind,
            count=counts[kind],
            rows=_rows(rows),
            cases=[[_Picture(name, _encoded(each)) for name, each in case.items()] for case in pictures[kind]],
        )
        for kind, rows in tables.items()
    ]
    page = environment.from_string(_PAGE).render(title=title, kinds=kinds, words=list(WORDS.values()))
    write_bytes(path, page.encode("utf-8", "backslashreplace"))
    return path


def _rows(rows: Sequence[Mapping[str, float | str]]) -> list[_Row]:
    best = {name: (min if name == "boundary_error" else max)(float(row[name]) for row in rows) for name in WORDS}
    return [
        _Row(
            str(row["method"]),
            [
                _Cell(f"{row[name]:.4f}" if name == "ssim" else f"{row[name]:.2f}", row[name] == best[name])
                for name in WORDS
            ],
        )
        for row in rows
    ]


def _encoded(picture: Picture) -> str:
    scale = SIDE / max(picture.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(picture, dsize=None, fx=scale, fy=scale, interpolation=how)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return base64.b64encode(data.tobytes()).decode()
