"""Photographs that lie elsewhere: brought into the cache when they are needed, from COCO's server or object storage.

A plan names where the photographs of a subset come from, its root: a folder, or an address. So a run goes on, and a
sample is made again, on a machine that never saw them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from flows.coco.download import GONE, Mirror, fetch_images
from flows.coco.pictures import MAX_BYTES, BadPicture, locate
from flows.errors import BadRequest
from flows.objects import cache_folder, fetch, is_address, look_up, scheme_of, twin

AT_ONCE: Final = 8
"""Photographs that are fetched at once."""


def folder_of(root: str) -> Path:
    """Return the folder in which the photographs of a root lie, or will lie, on this machine."""
    if not is_address(root):
        return Path(root)
    if _is_mirror(root):
        return cache_folder() / "coco" / root.rpartition("/")[2]
    return twin(root, kind="photographs")


def bring_photographs(root: str, names: Sequence[str], *, folder: Path, mirror: Mirror | None = None) -> None:
    """See to it that photographs of a root lie in their folder; nothing to do where the root is a folder.

    A photograph that does not exist there stays missing, and is dropped as `unreadable` later.

    Args:
        root: From the plan.
        names: Of files.
        folder: As `folder_of` says.
        mirror: How to ask a COCO server; with its defaults where not given.

    Raises:
        BadRequest: One could not be fetched though it may exist. Going on without it would make the plan, or the
            samples, depend on the weather; what has come stays in the cache.
    """
    if not is_address(root):
        return
    if not _is_mirror(root):
        _bring_objects(root, names, folder=folder)
        return
    base, _, subset = root.rpartition("/")
    mirror = mirror or Mirror(base=base)
    failures = fetch_images(names, subset=subset, cache=folder.parent, mirror=mirror)
    lost = {name: reason for name, reason in failures.items() if not GONE.match(reason)}
    if lost:
        name, reason = next(iter(lost.items()))
        raise BadRequest(
            f"{len(lost)} photographs could not be fetched from {mirror.host} ({name}: {reason}); "
            "run the same command again, what has come stays in the cache"
        )


def _is_mirror(root: str) -> bool:
    return scheme_of(root) in {"http", "https"}


def _bring_objects(root: str, names: Sequence[str], *, folder: Path) -> None:
    missing = [name for name in dict.fromkeys(names) if _place(folder, name) is not None]
    if not missing:
        return
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="photographs") as pool:
        try:
            for _ in pool.map(lambda name: _bring_object(f"{root}/{name}", folder / name), missing):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _place(folder: Path, name: str) -> Path | None:
    """Return where a photograph is to be put; None where it lies there, or its name would leave the folder."""
    try:
        path = locate(folder, name)
    except BadPicture:
        return None
    return None if path.is_file() else path


def _bring_object(address: str, path: Path) -> None:
    entry = look_up(address)
    if entry is not None and entry.size <= MAX_BYTES:  # a larger one counts as unreadable in a folder, too
        fetch(address, path, entry=entry)
