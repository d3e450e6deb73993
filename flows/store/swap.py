"""Change many files of a run at once: the new ones are made beside the old, then all are moved into place.

Until the list of moves is written, the run is the old one and a crash changes nothing. From then on it is the new one:
whoever next holds the run's lock ends the moves (`settle`). There is no other state.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from flows.errors import BadRequest
from flows.store.layout import Layout, read_json, write_bytes

_LIKELY: Final = re.compile(r"[ -.0-~][ -~]{0,199}")
"""A path that any file system takes, and not from the root."""
_MOST_FOLDERS: Final = 1_000
"""Of a run; it has about ten."""


@contextmanager
def beside(layout: Layout) -> Iterator[Layout]:
    """Yield the layout of an empty folder in the run, for the new files; take it away at the end. Needs the lock."""
    settle(layout)
    layout.beside.mkdir()
    try:
        yield Layout(layout.beside)
    finally:
        if layout.beside.is_dir() and not is_unsettled(layout):
            shutil.rmtree(layout.beside)


def swap(layout: Layout, *, files: Iterable[str], removed: Iterable[str]) -> None:
    """Move files that were made beside into their places.

    Args:
        layout: Of the run.
        files: Paths below the run, and below the folder beside; moved in this order.
        removed: Paths below the run that the new state does not have.
    """
    moves = {"files": list(files), "removed": list(removed)}
    write_bytes(_moves(layout), json.dumps(moves).encode())
    settle(layout)


def settle(layout: Layout) -> None:
    """End what an interrupted change has begun to move; drop what it has not. Needs the lock.

    Raises:
        BadRequest: The list of moves is damaged.
    """
    if not layout.beside.is_dir():
        return
    if is_unsettled(layout):
        files, removed = _read_moves(layout)
        for path in files:
            made, place = layout.beside / path, layout.run / path
            if made.is_file():
                place.parent.mkdir(parents=True, exist_ok=True)
                made.replace(place)
        for path in removed:
            (layout.run / path).unlink(missing_ok=True)
        _moves(layout).unlink()
    shutil.rmtree(layout.beside)


def is_unsettled(layout: Layout) -> bool:
    """Say whether a change was interrupted while its files were moved."""
    return _moves(layout).is_file()


def _moves(layout: Layout) -> Path:
    return layout.beside / "moves.json"


def _read_moves(layout: Layout) -> tuple[list[str], list[str]]:
    try:
        value = read_json(_moves(layout))
        files, removed = value["files"], value["removed"]
        inside = _are_inside(layout, files, removed)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{_moves(layout)} is damaged ({error}); delete it and run hcoco repair") from None
    if not inside:
        raise BadRequest(f"{_moves(layout)} leads out of the run; delete it and run hcoco repair")
    return files, removed


def _are_inside(layout: Layout, *lists: object) -> bool:
    """Say whether these are lists of paths below the run; a folder of it may be a link that a stranger made."""
    if not all(isinstance(each, list) for each in lists):
        return False
    paths = [path for each in lists for path in each]  # type: ignore[attr-defined]
    if not all(isinstance(path, str) and _LIKELY.fullmatch(path) and ".." not in path.split("/") for path in paths):
        return False
    folders = {path.rpartition("/")[0] for path in paths if "/" in path}
    run = layout.run.resolve()
    return len(folders) <= _MOST_FOLDERS and all((run / folder).resolve().is_relative_to(run) for folder in folders)
