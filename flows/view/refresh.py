"""Write what shows a run: when it is finished, and anew after its samples were moved or mended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flows.store.layout import Layout
from flows.store.remote import send_views
from flows.view.data_card import write_card
from flows.view.gallery import Map, write_gallery
from flows.view.report import write_report

GALLERY_UP_TO: Final = 1000
"""Attempted samples up to which a build writes a gallery unasked, in about ten seconds of one core at most."""


@dataclass(frozen=True)
class Views:
    """The pages of a run; no gallery where none was written."""

    report: Path
    gallery: Path | None


def write_views(layout: Layout, *, planned: int, over: Map = map) -> Views:
    """Write report and data card of a run that was just finished, and a gallery where it is small or has one.

    The caller holds the run's lock.

    Args:
        layout: Of the run.
        planned: Attempted samples.
        over: Maps the gallery's work; in this process where not given.

    Raises:
        BadRequest: The run is unfinished, or its manifest or index is damaged.
        OSError: The disk is full or not writable.
    """
    report = write_report(layout)
    write_card(layout)
    send_views(layout)
    wanted = layout.address is None and (planned <= GALLERY_UP_TO or _has_gallery(layout))  # it reads every tar
    return Views(report, write_gallery(layout, over=over).page if wanted else None)


def refresh_views(layout: Layout) -> Path:
    """Write the report anew, and the gallery and the data card where there are any; return the report's path.

    The caller holds the run's lock.

    Raises:
        BadRequest: The run is unfinished, or its manifest or index is damaged.
        OSError: The disk is full or not writable.
    """
    report = write_report(layout)
    if _has_gallery(layout):
        write_gallery(layout)
    if (layout.run / "README.md").is_file():
        write_card(layout)
    return report


def _has_gallery(layout: Layout) -> bool:
    return (layout.run / "gallery" / "index.html").is_file()
