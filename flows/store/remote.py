"""Runs in object storage. The bucket holds the run, and its markers are the truth; a folder of the cache stands in.

A build works in the folder as in any run, and sends what is finished: of a shard the tars and the index, then the
marker; of a plan its parts, then plan.json. Small files stay in the folder, tars do not. Whoever begins makes the small
files those of the bucket (`bring`), so a killed build goes on anywhere, and what was half sent does not exist.

A lease in the bucket is the lock: an object that only one can create, that says until when it holds, and is renewed
while its build lives. Clocks must agree within a minute. Before a marker is sent the lease is read again, so a build
that slept through its own stops. Two that both believed to hold it would send the same bytes: a shard follows from the
plan alone.
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from flows import objects
from flows.errors import BadRequest
from flows.objects import BUILT, READ, Entry
from flows.store.layout import OWN_FOLDER, Layout, read_json, write_bytes

LEASE_SECONDS: Final = 120.0
"""How long a lease holds that is not renewed: so long a run waits for another machine after its own died."""
AT_ONCE: Final = 16
"""Small files that are fetched, or sent, at once."""

_LEASE: Final = ".lease"
_FORGOTTEN_SECONDS: Final = 86_400.0
_SMALL: Final = ("plan.json", "plan/", "gate/", "fuser/", "decisions.json", "done/", "manifest.json")
_INDEX: Final = "index/"
_TARS: Final = ("shards", *OWN_FOLDER, "rejected")
_BEGUN: Final = ("plan/", "gate/", "fuser/", _LEASE)
"""What an interrupted planning leaves before there is a plan."""
_LAST: Final = ("done/", "plan.json", "manifest.json")
"""What makes the rest of a copied run count, in the order of sending."""

Watch = Callable[[str, int, int], None]


def run_folder(address: str) -> Path:
    """Return the folder of the cache in which the run at an address is read.

    Raises:
        ValueError: It is no address of a run.
    """
    output, _, name = objects.check_address(address).rpartition("/")
    return objects.twin(objects.check_address(output), kind=READ) / name


def send(layout: Layout, paths: Iterable[str]) -> None:
    """Send files of a run in their order; those of a local run are where they belong.

    Raises:
        BadRequest: The storage refuses, or another build has taken the run over.
    """
    if (address := layout.address) is None:
        return
    _check_lease(layout, address)
    for path in paths:
        objects.send(layout.run / path, f"{address}/{path}")


def send_shard(layout: Layout, name: str, files: Iterable[str], marker: bytes) -> None:
    """Send the tars and the index of a shard, and then its marker, which must not be here before; the tars go from here.

    Raises:
        BadRequest: As `send`.
    """
    if (address := layout.address) is None:
        return
    for path in files:
        objects.send(layout.run / path, f"{address}/{path}")
        if not path.startswith(_INDEX):
            (layout.run / path).unlink()
    _check_lease(layout, address)
    objects.write(f"{address}/{layout.relative(layout.done(name))}", marker)


def send_views(layout: Layout) -> None:
    """Send the report and the data card, the page last, and remove pictures that it does not show any more."""
    if (address := layout.address) is None:
        return
    report = layout.report.parent
    pages = [layout.relative(path) for path in sorted(report.rglob("*")) if path.is_file() and path != layout.report]
    cards = [name for name in ("README.md", "croissant.json", "ATTRIBUTION.csv") if (layout.run / name).is_file()]
    _each(lambda path: objects.send(layout.run / path, f"{address}/{path}"), [*pages, *cards])
    send(layout, [layout.relative(layout.report)])
    known = {*pages, layout.relative(layout.report)}
    for path in objects.list_entries(f"{address}/report"):
        if f"report/{path}" not in known:
            objects.remove(f"{address}/report/{path}")


def bring(layout: Layout, *, index: bool = True) -> None:
    """Make the small files in the folder those of the bucket; a marker comes only where its files are whole there.

    Args:
        layout: Of the run; a local one is left.
        index: Whether the index is wanted, too.

    Raises:
        BadRequest: The storage does not answer, or something other than a run lies there.
    """
    if (address := layout.address) is None:
        return
    there = objects.list_entries(address)
    if there and "plan.json" not in there and not all(path.startswith(_BEGUN) for path in there):
        raise BadRequest(f"{address} holds files and is no run of hcoco; choose another --run or --output")
    wanted = {path: entry for path, entry in there.items() if path.startswith((*_SMALL, _INDEX) if index else _SMALL)}
    _check_names(address, wanted)
    for path in [path for path in layout.run.rglob("*") if path.is_file()]:
        name = layout.relative(path)
        if name.startswith((*_SMALL, _INDEX)) and not path.name.startswith(".") and name not in there:
            path.unlink()
    _each(lambda path: objects.fetch(f"{address}/{path}", layout.run / path, entry=wanted[path]), wanted)
    for marker in layout.done("x").parent.glob("*.json"):
        if not _is_whole(marker, there):
            marker.unlink()


@contextmanager
def leased(layout: Layout) -> Iterator[None]:
    """Hold the lease of a run, and begin with the bucket's small files and no tars. Needs the folder's lock.

    Raises:
        BadRequest: Another build holds it.
    """
    address = layout.address
    if address is None:
        yield
        return
    token = _take(layout, address)
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(address, token, over), daemon=True)
    renewing.start()
    try:
        for folder in _TARS:
            shutil.rmtree(layout.run / folder, ignore_errors=True)
        bring(layout)
        yield
    finally:
        over.set()
        renewing.join()
        with suppress(BadRequest):  # then it runs out by itself
            if _token(_read_lease(address)) == token:
                objects.remove(f"{address}/{_LEASE}")


def is_leased(layout: Layout) -> bool:
    """Say whether a build is at work in a run."""
    lease = _read_lease(str(layout.address))
    return lease is not None and lease["until"] > time.time()


def list_run(layout: Layout) -> set[str]:
    """Return the paths of all files of a run in object storage, and take away what killed readers borrowed here."""
    for place in layout.run.glob(".borrowed-*"):
        if time.time() - place.stat().st_mtime > _FORGOTTEN_SECONDS:
            shutil.rmtree(place, ignore_errors=True)
    return set(objects.list_entries(str(layout.address)))


@contextmanager
def borrowed(layout: Layout, name: str, files: Iterable[str]) -> Iterator[tuple[Layout, list[str]]]:
    """Yield a local run that holds one shard of this one, and those of its files that are missing in the bucket.

    Args:
        layout: Of the run, with its small files and its index.
        name: Of the shard.
        files: Of the shard, paths below the run.
    """
    place = layout.run / f".borrowed-{name}-{uuid.uuid4().hex[:8]}"
    missing: list[str] = []
    try:
        place.mkdir(parents=True)
        for small in layout.run.iterdir():
            if not small.name.startswith(".") and small.name not in {*_TARS, "index"}:
                (place / small.name).symlink_to(small)
        for path in files:
            try:
                objects.fetch(f"{layout.address}/{path}", place / path)
            except FileNotFoundError:
                missing.append(path)
        yield Layout(place), missing
    finally:
        shutil.rmtree(place, ignore_errors=True)


def copy_run(source: str, to: str, *, watch: Watch) -> int:
    """Copy a run between an address and a folder, one of each; what makes it count comes last. Return its files.

    Raises:
        BadRequest: Both are on one side, the source is no run, or the goal is something else.
    """
    if objects.is_address(source) == objects.is_address(to):
        raise BadRequest("give an address and a folder, such as: hcoco copy s3://bucket/runs/coco-1a2b3c4d output/mine")
    try:
        return _copy_down(source, Path(to), watch) if objects.is_address(source) else _copy_up(Path(source), to, watch)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _copy_down(source: str, to: Path, watch: Watch) -> int:
    address = objects.check_address(source)
    there = {path: entry for path, entry in objects.list_entries(address).items() if path != _LEASE}
    if "plan.json" not in there:
        raise BadRequest(f"{address} holds no run of hcoco; give the address of a run, with its name")
    _check_names(address, there)
    unfinished = to / ".copying"
    if to.exists() and any(to.iterdir()) and not unfinished.is_file():
        raise BadRequest(f"{to} exists and is not empty; choose another folder")
    write_bytes(unfinished, address.encode())
    _in_order(there, lambda path: objects.fetch(f"{address}/{path}", to / path, entry=there[path]), watch)
    unfinished.unlink()
    return len(there)


def _copy_up(source: Path, to: str, watch: Watch) -> int:
    output, _, name = objects.check_address(to).rpartition("/")
    if not (source / "plan.json").is_file():
        raise BadRequest(f"{source} is no run of hcoco; give the folder of a run, such as output/sample-1a2b3c4d")
    goal = Layout(objects.twin(objects.check_address(output), kind=BUILT) / name)
    address = str(goal.address)
    files = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if path.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.split("/"))]
    goal.run.mkdir(parents=True, exist_ok=True)
    with leased(goal):
        known = objects.list_entries(address)
        for path in sorted(known.keys() - {*files, _LEASE}):
            objects.remove(f"{address}/{path}")
        _in_order(files, lambda path: objects.send(source / path, f"{address}/{path}"), watch)
    return len(files)


def _in_order(paths: Iterable[str], work: Callable[[str], object], watch: Watch) -> None:
    waiting = sorted(paths, key=lambda path: (_rank(path), path))
    for rank in sorted({_rank(path) for path in waiting}):
        _each(work, [path for path in waiting if _rank(path) == rank])
        watch("files", sum(_rank(path) <= rank for path in waiting), len(waiting))


def _rank(path: str) -> int:
    return next((number for number, name in enumerate(_LAST, start=1) if path.startswith(name)), 0)


def _each(work: Callable[[str], object], paths: Iterable[str]) -> None:
    """Do the work for all paths, some at once; the first error ends it."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="objects") as pool:
        try:
            for _ in pool.map(work, list(paths)):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _check_names(address: str, paths: Iterable[str]) -> None:
    """Refuse a bucket whose names would lead out of the folder."""
    for path in paths:
        if ".." in path.split("/") or path.startswith("/") or "\0" in path or "\\" in path:
            raise BadRequest(f"{address} holds {path!r}, which no run of hcoco has; remove it")


def _is_whole(marker: Path, there: Mapping[str, Entry]) -> bool:
    """Say whether the bucket has the files that a marker names, in their size."""
    try:
        files = read_json(marker)["files"]
        return all(there[path].size == file["size"] for path, file in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _take(layout: Layout, address: str) -> str:
    """Create the lease; take over one that has run out, or that a build killed in this very folder left."""
    token = uuid.uuid4().hex
    mine = layout.run / _LEASE
    lease = _read_lease(address)
    if lease is not None:
        before = mine.read_text("ascii") if mine.is_file() else ""
        left = lease["until"] - time.time()
        if left > 0 and _token(lease) != before:
            raise BadRequest(
                f"another build is at work in {address}, on {lease.get('host')}; wait for it, or choose another --run. "
                f"If it died, its lease ends in {left:.0f} s by itself"
            )
        objects.remove(f"{address}/{_LEASE}")
    write_bytes(mine, token.encode())
    created = objects.create(f"{address}/{_LEASE}", _lease(token))
    if not created and _token(_read_lease(address)) != token:  # ours where only the answer was lost
        raise BadRequest(f"another build has just begun in {address}; wait for it, or choose another --run")
    return token


def _lease(token: str) -> bytes:
    return json.dumps({"token": token, "host": socket.gethostname(), "until": time.time() + LEASE_SECONDS}).encode()


def _renew(address: str, token: str, over: threading.Event) -> None:
    """Renew a lease until the build is over or another has it; what fails is tried again a moment later."""
    while not over.wait(LEASE_SECONDS / 6):
        try:
            if _token(_read_lease(address)) != token:
                return
            objects.write(f"{address}/{_LEASE}", _lease(token))
        except BadRequest:
            continue


def _read_lease(address: str) -> dict[str, Any] | None:
    """Return the lease of a run; one that holds nothing where it cannot be read, None where there is none."""
    data = objects.read(f"{address}/{_LEASE}")
    if data is None:
        return None
    try:
        lease = json.loads(data)
        return {**lease, "until": float(lease["until"])}
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return {"until": 0.0}


def _token(lease: Mapping[str, Any] | None) -> str:
    return str(lease.get("token")) if lease else ""


def _check_lease(layout: Layout, address: str) -> None:
    """Stop a build whose lease another has taken over."""
    mine = (layout.run / _LEASE).read_text("ascii")
    if _token(_read_lease(address)) != mine:
        raise BadRequest(f"another build has taken {address} over, since this one was not heard of; run it again later")
