"""Open files of named tensors that others made: no code runs, and no more memory is taken than the file may have."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor

_ZIP: Final = b"PK"
"""How every file begins that `torch.save` wrote in this decade; bare pickles do not."""
_LOADING_ERRORS: Final = (
    *(RuntimeError, EOFError, OSError, KeyError, ValueError, AttributeError, IndexError, TypeError, OverflowError),
    *(MemoryError, AssertionError, NotImplementedError, struct.error),
)
"""What `torch.load` is known to raise on files that are cut short or damaged."""


PICKLE_BYTES: Final = 500_000
"""Of the pickle that says what tensors a file has, 150 bytes each: it is read at 1 MB/s."""


class _Counted:
    """A file that ends a reader who takes it byte by byte, as pickles of millions of commands are."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, PICKLE_BYTES
        self.readinto, self.seek, self.tell = file.readinto, file.seek, file.tell  # type: ignore[attr-defined]

    def read(self, size: int = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise pickle.UnpicklingError("it has too many commands")
        return self._file.read(size)

    def readline(self, size: int = -1) -> bytes:
        return self._file.readline(min(size, PICKLE_BYTES) if size >= 0 else PICKLE_BYTES)


def load_tensors(file: BinaryIO, *, name: str, max_bytes: int, legacy: bool = False) -> dict[str, Tensor]:
    """Load a mapping of names to tensors, on the CPU.

    Args:
        file: Open at its beginning.
        name: What an error calls it, such as `checkpoint mine.pt`.
        max_bytes: Neither the unpacked file nor its tensors may be larger.
        legacy: Whether a file as `torch.save` wrote before its zip format is opened, too.

    Raises:
        ValueError: One line: cut short, damaged, with something other than dense tensors in it, or larger than it may
            be, unpacked.
    """
    foreign = f"{name} holds something other than tensors and is not opened"
    begin = file.read(len(_ZIP))
    file.seek(0)
    if begin and begin != _ZIP and not legacy:
        raise ValueError(foreign)
    try:
        bulky = begin == _ZIP and is_bulky(file, max_bytes=max_bytes)
        with warnings.catch_warnings(action="ignore"):  # of pickles that are about to be refused
            opened: Any = file if begin == _ZIP else _Counted(file)
            tensors = None if bulky else torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(foreign) from None
    except (*_LOADING_ERRORS, zipfile.BadZipFile):
        raise ValueError(f"{name} is truncated or damaged; copy it again") from None
    if not isinstance(tensors, dict) or not all(_is_plain(key, value) for key, value in tensors.items()):
        raise ValueError(foreign)
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > max_bytes:
        raise ValueError(foreign)  # a view of few numbers may claim any size
    return dict(tensors)


def check_finite(tensors: dict[str, Tensor], *, name: str) -> None:
    """Raise ValueError where a tensor holds a number that is not finite."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ValueError(f"{name} is damaged: some weights are not finite")


def open_plain(path: Path, *, name: str, max_bytes: int) -> BinaryIO:
    """Open a plain file of at most so many bytes.

    Raises:
        ValueError: One line: missing, forbidden, a folder or a pipe, or too large.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError(f"{name} is no plain file")
        if path.stat().st_size > max_bytes:
            raise ValueError(f"{name} is larger than {max_bytes} bytes; it cannot be what it is taken for")
        return path.open("rb")
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None


def is_bulky(file: BinaryIO, *, max_bytes: int, pickle_bytes: int = PICKLE_BYTES) -> bool:
    """Say whether a zip archive, unpacked, is larger than it may be, or the pickles in it are; rewind it.

    Raises:
        zipfile.BadZipFile: It is none.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    file.seek(0)
    pickles = sum(member.file_size for member in members if member.filename.endswith(".pkl"))
    return pickles > pickle_bytes or sum(member.file_size for member in members) > max_bytes


def _is_plain(key: object, value: object) -> bool:
    return (
        isinstance(key, str)
        and isinstance(value, Tensor)
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and not value.is_quantized
        and not value.is_complex()
    )
