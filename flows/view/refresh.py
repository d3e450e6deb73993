"""Write what shows a run: when it is finished, and anew after its samples were moved or mended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flows.store.layout import Layout
from flows.store.remote import send_views
from flows.view.data_card import write_card
from flows.view.gallery import Map, write_gallery
from flows.view.links import link_pages
from flows.view.report import write_report
from flows.view.statistics import write_statistics

GALLERY_UP_TO: Final = 1000
"""Attempted samples up to which a build writes gallery and statistics unasked, in about 15 seconds of one core at most."""


@dataclass(frozen=True)
class Views:
    """The pages of a run; no gallery and no statistics where none were written."""

    report: Path
    gallery: Path | None
    statistics: Path | None


def write_views(layout: Layout, *, planned: int, over: Map = map) -> Views:
    """Write report and data card of a run that was just finished; gallery and statistics where it is small or has them.

    The caller holds the run's lock.

    Args:
        layout: Of the run.
        planned: Attempted samples.
        over: Maps the work of both; in this process where not given.

    Raises:
        BadRequest: The run is unfinished, or its manifest or index is damaged.
        OSError: The disk is full or not writable.
    """
    report = write_report(layout)
    write_card(layout)
    small = planned <= GALLERY_UP_TO and layout.address is None  # the others read every tar
    gallery = write_gallery(layout, over=over).page if small or layout.gallery.is_file() else None
    statistics = write_statistics(layout, over=over).page if small or layout.statistics.is_file() else None
    link_pages(layout)
    send_views(layout)
    return Views(report, gallery, statistics)


def refresh_views(layout: Layout) -> Path:
    """Write the report anew, and gallery, statistics and data card where there are any; return the report's path.

    The caller holds the run's lock.

    Raises:
        BadRequest: The run is unfinished, or its manifest or index is damaged.
        OSError: The disk is full or not writable.
    """
    report = write_report(layout)
    if layout.gallery.is_file():
        write_gallery(layout)
    if layout.statistics.is_file():
        write_statistics(layout)
    link_pages(layout)
    if (layout.run / "README.md").is_file():
        write_card(layout)
    return report
