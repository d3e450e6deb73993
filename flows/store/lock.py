"""One build at a time in a run, and none of the litter of those that were killed."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from flows.errors import BadRequest
from flows.store.layout import Layout


@contextmanager
def only_build(layout: Layout) -> Iterator[None]:
    """Hold the run's lock, for planning and for building; the system gives it back when the process ends, however.

    Raises:
        BadRequest: Another build is at work in the same run.
    """
    layout.run.mkdir(parents=True, exist_ok=True)
    with layout.lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadRequest(
                f"another build is at work in {layout.run}; wait for it, or choose another --run"
            ) from None
        _sweep(layout)
        yield
        _sweep(layout)  # workers that died on the way leave something too


def _sweep(layout: Layout) -> None:
    """Remove what builds that were killed in the middle of a write left beside its place."""
    folders = [folder("x").parent for folder in (layout.shard, layout.rejected, layout.index, layout.done)]
    for folder in (*folders, layout.plan_part(0).parent):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
    for file in (layout.plan, layout.manifest, layout.report):
        for path in file.parent.glob(f".{file.name}-*.tmp"):
            path.unlink(missing_ok=True)
