"""The one exception that means: the user asked for something that cannot be done."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_STORAGE: Final = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again: what is done stays",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again: what is done stays",
    errno.EROFS: "the file system is read-only; choose another --output",
    errno.EACCES: "permission denied; mend the folder's rights or choose another --output",
    errno.EPERM: "permission denied; mend the folder's rights or choose another --output",
    errno.ENOTDIR: "a file stands where a folder is needed; move it or choose another --output",
    errno.EEXIST: "something else stands where hcoco writes; move it or choose another --output",
    errno.EISDIR: "a folder stands where a file is needed; move it or choose another --output",
    errno.ENAMETOOLONG: "the path is too long for the file system; choose another --output or --run",
    errno.ELOOP: "the path runs in a circle of links; choose another --output",
    errno.EFBIG: "the file would be larger than the system allows (ulimit -f); raise the limit and run the same command",
    errno.ESTALE: "the network file system lost the folder; mount it again and run the same command again",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n) or use fewer --workers",
    errno.EIO: "the disk reports an input/output error; check it, then run the same command again",
}

_LONGEST: Final = 2000
"""Characters of a line that tells what is wrong; what is to be done stands at its end."""


class BadRequest(Exception):  # noqa: N818 - read aloud it says what happened; "Error" would say less
    """Say in one line what is wrong with a request and how to mend it.

    The command line prints the message without a traceback and ends with exit code 2; a Prefect run
    fails with the message as its state. A bad *sample* is never a `BadRequest`: it gets a reason code.
    """

    def __str__(self) -> str:
        """Return the message as one line that can be read: what is quoted in it may hold line breaks, or a megabyte."""
        line = " ".join(super().__str__().splitlines())
        return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 500]} ... {line[-400:]}"


@contextmanager
def storage_errors_told() -> Iterator[None]:
    """Turn what a disk can answer (full, read-only, forbidden) into a `BadRequest`; let other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise BadRequest(f"{where}{_STORAGE[error.errno]}") from None
