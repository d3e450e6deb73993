"""Let the pages of a run lead to each other, whichever of them are there."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import Final

from flows.store.layout import Layout, write_bytes

_PLACE: Final = re.compile(rb"<!-- pages -->.*?<!-- /pages -->", re.DOTALL)
"""Stands once in each page; what is between the marks is replaced."""


def links_of(layout: Layout, page: Path) -> str:
    """Return the links from a page to the others of its run that are there, in their place in the page."""
    pages = (
        ("Report", layout.report),
        ("Gallery of all samples", layout.gallery),
        ("Statistics", layout.statistics),
    )
    links = [
        f'<a href="{html.escape(Path(os.path.relpath(path, page.parent)).as_posix())}">{name}</a>'
        for name, path in pages
        if path != page and path.is_file()
    ]
    return f"<!-- pages -->{' '.join(links)}<!-- /pages -->"


def link_pages(layout: Layout) -> None:
    """Write into each page of a run the links to its others; a page that is right already, or has no place, stays.

    The caller holds the run's lock, and calls this after it wrote a page: report, gallery or statistics.

    Raises:
        OSError: A page cannot be read or written.
    """
    for path in (layout.report, layout.gallery, layout.statistics):
        old = path.read_bytes() if path.is_file() else b""
        place = _PLACE.search(old)
        if place is None:  # no such page, or one that was written before there were links
            continue
        new = old[: place.start()] + links_of(layout, path).encode() + old[place.end() :]
        if new != old:
            write_bytes(path, new)
