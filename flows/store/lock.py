"""One build at a time in a run, and none of the litter of those that were killed."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.errors import BadRequest
from flows.store.layout import OWN_FOLDER, Layout
from flows.store.remote import leased
from flows.store.swap import settle


@contextmanager
def only_build(layout: Layout) -> Iterator[None]:
    """Hold the run's lock, for planning and for building; the system gives it back when the process ends, however.

    Raises:
        BadRequest: Another build is at work in the same run.
    """
    busy = f"another build is at work in {layout.place}; wait for it, or choose another --run"
    with holding(layout.lock, busy=busy), leased(layout):
        settle(layout)
        _sweep(layout)
        try:
            yield
        except BaseException:
            with suppress(OSError):  # on a disk that failed, the failure is what counts; the next build sweeps
                _sweep(layout)
            raise
        _sweep(layout)  # workers that died on the way leave something too


@contextmanager
def holding(lock: Path, *, busy: str) -> Iterator[None]:
    """Hold a file's lock; its folder is made where it is missing.

    Raises:
        BadRequest: Another process holds it; the message is `busy`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadRequest(busy) from None
        yield


def is_held(lock: Path) -> bool | None:
    """Say whether some process holds a file's lock, without touching the lock; None where the system does not tell."""
    try:
        inode = lock.stat().st_ino
        held = Path("/proc/locks").read_text("ascii").splitlines()
    except FileNotFoundError:
        return None if lock.exists() else False
    except (OSError, ValueError):
        return None
    # 1: FLOCK  ADVISORY  WRITE 21462 fe:00:2163222 0 EOF
    return any(words[1] == "FLOCK" and words[5].endswith(f":{inode}") for words in map(str.split, held))


def _sweep(layout: Layout) -> None:
    """Remove what builds that were killed in the middle of a write left beside its place."""
    folders = [folder("x").parent for folder in (layout.shard, layout.rejected, layout.index, layout.done)]
    folders += [layout.shard(f"{stage}-x").parent for stage in OWN_FOLDER]
    folders += [layout.plan_part(0).parent, layout.gate.parent, layout.fuser.parent]
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
    for file in (layout.plan, layout.manifest, layout.report):
        for path in file.parent.glob(f".{file.name}-*.tmp"):
            path.unlink(missing_ok=True)
