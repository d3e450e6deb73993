"""Read samples back: one by its key through the index, without scanning a tar; or all of them, for training.

`load_samples`, the loader for training, stands in `flows.store.loader` and is imported only where it is used: it
brings torch and webdataset along.
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from flows import objects
from flows.errors import BadRequest
from flows.store.index import read_index
from flows.store.layout import Layout

if TYPE_CHECKING:
    from flows.store.loader import Loader, load_samples

__all__ = ["Damaged", "Loader", "Stored", "find_sample", "load_samples", "read_sample", "read_tar"]


def __getattr__(name: str) -> Any:
    """Import the loader when it is asked for."""
    if name not in {"Loader", "load_samples"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flows.store import loader  # noqa: PLC0415 - see the module's docstring

    return getattr(loader, name)


class Damaged(Exception):  # noqa: N818 - it is what was found, and `verify` reports it as such
    """A file of a run is not what its writer left there."""


@dataclass(frozen=True)
class Stored:
    """A sample as it lies in a tar.

    Attributes:
        key: The sample's key.
        members: Content by extension (`composite.jpg`, `json`, ...), in the tar's order.
        offset: Of the first member's header in the tar, in bytes.
        size: From there to the end of the last member's padding.
    """

    key: str
    members: dict[str, bytes]
    offset: int
    size: int

    @property
    def record(self) -> dict[str, Any]:
        """Return the `json` member, parsed."""
        try:
            value = json.loads(self.members["json"])
        except (KeyError, ValueError, RecursionError):
            raise Damaged(f"{self.key}: the json member is missing or is not JSON") from None
        if not isinstance(value, dict):
            raise Damaged(f"{self.key}: the json member is no object")
        return value


def read_sample(tar: Path, *, offset: int, size: int) -> Stored:
    """Read one sample by the offset and size that the index gives.

    Raises:
        Damaged: There is no whole sample at this place.
    """
    try:
        data = _read_extent(tar, offset=offset, size=size)
    except FileNotFoundError as error:
        found = _read_object(tar, offset=offset, size=size)
        if found is None:
            raise Damaged(f"{tar.name}: {error.strerror}") from None
        data = found
    key, members = "", dict[str, bytes]()
    for member, content in _members(data, name=tar.name):
        this, extension = _check_member(member, name=tar.name)
        if (members and this != key) or extension in members:
            raise Damaged(f"{tar.name}: no sample of {size} bytes at {offset}")
        key = this
        members[extension] = content
    if len(data) != size or not members:
        raise Damaged(f"{tar.name}: no sample of {size} bytes at {offset}")
    return Stored(key, members, offset, size)


def _read_extent(tar: Path, *, offset: int, size: int) -> bytes:
    """Read a piece of a plain file; an index that lies about its size costs no memory."""
    try:
        descriptor = os.open(tar, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise Damaged(f"{tar.name}: {getattr(error, 'strerror', error)}") from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or not 0 <= offset <= offset + size <= about.st_size:
            raise Damaged(f"{tar.name}: no sample of {size} bytes at {offset}")
        return os.pread(descriptor, size, offset)
    except OSError as error:
        raise Damaged(f"{tar.name}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _read_object(tar: Path, *, offset: int, size: int) -> bytes | None:
    """Read a piece of a tar of a run in object storage, whose folder here holds no tars; None of any other."""
    layout = Layout(tar.parent.parent)
    if layout.address is None or offset < 0 or size <= 0:
        return None
    return objects.read(f"{layout.address}/{layout.relative(tar)}", offset=offset, size=size)


def _members(data: bytes, *, name: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Cut the bytes of some members; several times as fast as `tarfile`, which copies blocks through a stream."""
    begin = 0
    while begin < len(data):
        try:
            member = tarfile.TarInfo.frombuf(data[begin : begin + tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise Damaged(f"{name}: no member of a sample at byte {begin} of it ({error})") from None
        content = begin + tarfile.BLOCKSIZE
        begin = content + _padded(member.size)
        if member.size < 0 or begin > len(data):
            raise Damaged(f"{name}: {member.name!r} is cut short")
        yield member, data[content : content + member.size]


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def read_tar(tar: Path) -> Iterator[Stored]:
    """Read the samples of a tar one after the other.

    Raises:
        Damaged: It is cut short, or holds what no writer of hcoco puts there.
    """
    try:
        if tar.exists() and not tar.is_file():  # a pipe would be waited for
            raise Damaged(f"{tar.name}: no plain file")
        with tar.open("rb") as file:
            yield from _samples(file, size=os.fstat(file.fileno()).st_size, name=tar.name)
    except OSError as error:
        raise Damaged(f"{tar.name}: {error.strerror}") from None


def file_sizes(layout: Layout, paths: Iterable[str]) -> dict[str, int]:
    """Return the sizes of files of a run in bytes, by path below it.

    Raises:
        Damaged: One is missing.
    """
    if layout.address is not None:
        there = objects.list_entries(layout.address)
        sizes = {path: there[path].size if path in there else -1 for path in paths}
    else:
        sizes = {path: _size(layout.run / path) for path in paths}
    if missing := next((path for path, size in sizes.items() if size < 0), None):
        raise Damaged(f"{missing} is missing; run hcoco verify")
    return sizes


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def find_sample(layout: Layout, key: str) -> dict[str, Any]:
    """Return the index row of a sample, and its shard's name as `shard`.

    Raises:
        BadRequest: The run has no such sample.
    """
    for path in sorted(layout.index("x").parent.glob("*.parquet")):
        try:
            table = read_index(path, filters=pc.field("key") == key)
        except (OSError, pa.ArrowException):
            continue  # `verify` names damaged files; the key may stand in another one
        if table.num_rows:
            row: dict[str, Any] = table.to_pylist()[0]
            return {**row, "shard": path.stem}
    raise BadRequest(f"{layout.run} has no sample {key!r}; keys look like 000000000139-000000230831-00")


def _samples(file: IO[bytes], *, size: int, name: str) -> Iterator[Stored]:
    """Read the samples of an open tar: plain ustar as hcoco writes it, without the extensions that `tarfile` follows.

    Those are long names, extended headers and sparse members, of which some bytes may claim any number of zeros.
    """
    members: dict[str, bytes] = {}
    key, offset, place = "", 0, 0
    while (header := file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
        member = _read_header(header, name=name, place=place)
        this, extension = _check_member(member, name=name)
        end = place + tarfile.BLOCKSIZE + _padded(member.size)
        if member.size < 0 or end > size:
            raise Damaged(f"{name}: not a whole tar ({member.name!r} is cut short)")
        if this != key and members:
            yield Stored(key, members, offset, place - offset)
            members = {}
        if extension in members:
            raise Damaged(f"{name}: {member.name!r} stands there twice")
        if not members:
            key, offset = this, place
        content = file.read(_padded(member.size))
        if len(content) != _padded(member.size):
            raise Damaged(f"{name}: not a whole tar ({member.name!r} is cut short)")
        members[extension] = content[: member.size]
        place = end
    if len(header) != tarfile.BLOCKSIZE:
        raise Damaged(f"{name}: not a whole tar (it has no end)")
    if members:
        yield Stored(key, members, offset, place - offset)


def _read_header(header: bytes, *, name: str, place: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise Damaged(f"{name}: not a whole tar ({error} at byte {place})") from None


def _check_member(member: tarfile.TarInfo, *, name: str) -> tuple[str, str]:
    """Return key and extension of a member that hcoco can have written."""
    constant = (member.mtime, member.uid, member.gid, member.mode, member.uname, member.gname)
    if (
        member.type != tarfile.REGTYPE
        or "/" in member.name
        or "\0" in member.name
        or constant != (0, 0, 0, 0o644, "", "")
    ):
        raise Damaged(f"{name}: {member.name!r} is no plain file with time and owners 0 and mode 644")
    key, _, extension = member.name.partition(".")
    if not extension:
        raise Damaged(f"{name}: {member.name!r} is no member of a sample")
    return key, extension
