"""Write shards: samples of a tar in the order of their keys, whatever the order they were made in.

A sample is packed as the bytes that it occupies in the tar, so shards are put together by copying extents, and the
same function serves writing, re-sorting and making one sample again.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import pyarrow.parquet as pq

from flows.store.layout import Layout, writing
from flows.store.record import index_table

BLOCK: Final = tarfile.BLOCKSIZE
END: Final = bytes(2 * BLOCK)
"""Two empty blocks end a tar. No padding to 10,240 bytes follows: readers do not ask for it."""


@dataclass(frozen=True)
class Written:
    """A file as its marker describes it."""

    sha256: str
    size: int
    samples: int


def pack(key: str, members: Mapping[str, bytes]) -> bytes:
    """Return a sample as it stands in a tar: header, content and padding of each member, sorted by name.

    Times, owners and modes are constants, so the same content is the same bytes.

    Args:
        key: The sample's key; no dot in it, since readers cut names at the first one.
        members: Content by extension, such as `composite.jpg`.
    """
    if "." in key or "/" in key:
        raise ValueError(f"key must hold neither dot nor slash, got {key!r}")
    parts = []
    for extension in sorted(members):
        content = members[extension]
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size, header.mode = len(content), 0o644
        parts += [header.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % BLOCK)]
    return b"".join(parts)


Place = tuple[int, int]
"""Where a piece lies in a spill: offset and size in bytes."""


class Spill:
    """Put pieces of a shard aside on disk while the shard is made, so that memory stays constant.

    Any process may read the file after the `with`. Who goes on with the shard removes it; the next build sweeps what
    is left of one that was killed.
    """

    def __init__(self, folder: Path) -> None:
        """Open a file of a new name in `folder`."""
        descriptor, name = tempfile.mkstemp(prefix=".spill-", suffix=".tmp", dir=folder)
        self.path = Path(name)
        self._file = os.fdopen(descriptor, "wb")
        self._end = 0

    def __enter__(self) -> Self:
        """Return the spill."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the writing; the file stays, unless an error passes."""
        try:
            self._file.close()
        except OSError:
            self.path.unlink(missing_ok=True)
            raise
        if kind is not None:
            self.path.unlink(missing_ok=True)

    def put(self, data: bytes) -> Place:
        """Append `data`; return where it lies."""
        self._file.write(data)
        place = (self._end, len(data))
        self._end += len(data)
        return place


def read_piece(spill: IO[bytes], place: Place) -> bytes:
    """Return what `Spill.put` stored at `place` of a spill that is open for reading."""
    spill.seek(place[0])
    return spill.read(place[1])


def write_samples(
    layout: Layout, name: str, rows: Iterable[Mapping[str, Any]], pack_sample: Callable[[str], bytes]
) -> tuple[dict[str, Written], list[dict[str, Any]]]:
    """Write the two tars and the index of a shard; a tar without samples is not written, and an old one removed.

    Args:
        layout: Of the run.
        name: Of the shard.
        rows: Records, flattened; in any order, each with its final status.
        pack_sample: Returns a sample by its key as it stands in a tar, see `pack`.

    Returns:
        What was written by path below the run, and the rows with the place of each sample.
    """
    files: dict[str, Written] = {}
    placed: list[dict[str, Any]] = []
    ordered = sorted(rows, key=lambda row: str(row["key"]))
    for path, status in ((layout.shard(name), "kept"), (layout.rejected(name), "rejected")):
        chosen, tar = [row for row in ordered if row["status"] == status], layout.relative(path)
        if not chosen:
            path.unlink(missing_ok=True)
            continue

        def packed(chosen: Sequence[Mapping[str, Any]] = chosen, tar: str = tar) -> Iterator[bytes]:
            offset = 0
            for row in chosen:
                data = pack_sample(row["key"])
                placed.append({**row, "tar": tar, "offset": offset, "size": len(data)})
                offset += len(data)
                yield data

        files[tar] = write_tar(path, packed())
    with writing(layout.index(name)) as file:
        pq.write_table(index_table(placed), file, compression="zstd")
    digest, size = hash_file(layout.index(name))
    files[layout.relative(layout.index(name))] = Written(digest, size, len(placed))
    return files, placed


def write_tar(path: Path, samples: Iterable[bytes]) -> Written:
    """Write packed samples as a tar, atomically; hash while writing."""
    digest, size, count = hashlib.sha256(), 0, 0
    with writing(path) as file:
        for packed in samples:
            _write(file, packed, digest)
            size += len(packed)
            count += 1
        _write(file, END, digest)
    return Written(digest.hexdigest(), size + len(END), count)


def _write(file: IO[bytes], data: bytes, digest: hashlib._Hash) -> None:
    file.write(data)
    digest.update(data)


def hash_file(path: Path) -> tuple[str, int]:
    """Return a file's sha256 and size in bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
