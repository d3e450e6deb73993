"""Write shards: samples of a tar in the order of their keys, whatever the order they were made in.

A sample is packed as the bytes that it occupies in the tar, so shards are put together by copying extents, and the
same function serves writing, re-sorting and making one sample again.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from flows.store.layout import writing

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


class Spill:
    """Hold packed members of a shard's samples on disk while the shard is made, so that memory stays constant."""

    def __init__(self, folder: Path) -> None:
        """Open an unnamed file in `folder`; it vanishes with the process, whatever ends it."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self._end = 0

    def put(self, data: bytes) -> tuple[int, int]:
        """Append `data`; return where it lies, as offset and size."""
        self._file.seek(self._end)
        self._file.write(data)
        place = (self._end, len(data))
        self._end += len(data)
        return place

    def get(self, place: tuple[int, int]) -> bytes:
        """Return what `put` stored at `place`."""
        self._file.seek(place[0])
        return self._file.read(place[1])

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()


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
