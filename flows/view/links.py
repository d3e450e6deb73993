"""Let the pages of a run lead to each other, whichever of them are there."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flows.store.layout import Layout, write_bytes

_PLACE: Final = re.compile(rb"<!-- pages -->.*?<!-- /pages -->", re.DOTALL)
"""Stands once in each page; what is between the marks is replaced."""


def link_pages(layout: Layout) -> None:
    """Write into each page of a run the links to its others; a page that is right already, or has no place, stays.

    The caller holds the run's lock, and calls this after it wrote a page: report, gallery or statistics.

    Raises:
        OSError: A page cannot be read or written.
    """
    pages = {
        name: path
        for name, path in (
            ("Report", layout.report),
            ("Gallery of all samples", layout.gallery),
            ("Statistics", layout.statistics),
        )
        if path.is_file()
    }
    for path in pages.values():
        old = path.read_bytes()
        place = _PLACE.search(old)
        if place is None:  # written before there were links
            continue
        new = old[: place.start()] + _links(path, pages).encode() + old[place.end() :]
        if new != old:
            write_bytes(path, new)


def _links(page: Path, pages: Mapping[str, Path]) -> str:
    others = {name: os.path.relpath(path, page.parent) for name, path in pages.items() if path != page}
    links = (f'<a href="{html.escape(Path(to).as_posix())}">{name}</a>' for name, to in others.items())
    return f"<!-- pages -->{' '.join(links)}<!-- /pages -->"
