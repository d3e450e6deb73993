"""Files in object storage, by address: `s3://bucket/prefix`, `gs://`, `file://`, `memory://`, and what else fsspec opens.

Retries, parts of large files and credentials are fsspec's and its clients' business; here is what they leave open. A
file appears under its local name only when it is whole; what was sent is measured again at the other end; and
whatever goes wrong is told in one line.

Only the standard library is imported at the top, so that `hcoco --help` stays quick.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from flows.errors import BadRequest

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_ADDRESS: Final = re.compile(r"([a-z][a-z0-9+.-]*)://[^@?#]+")
_LONGEST_NAME: Final = 255
"""Bytes of a file's name, on Linux's file systems; an address is one in the cache."""

BUILT: Final = "runs-built"
READ: Final = "runs-read"
"""Folders of the cache that stand for runs in object storage: two, since builders sweep theirs and readers do not."""

PART: Final = 16 << 20
"""Bytes of a part of a large upload: a worker holds 4 of them at once."""
TRIES: Final = 3
"""Times that a file is asked for, or sent, that came with another length than it has."""

_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "file": {"auto_mkdir": True},
    "s3": {
        "max_concurrency": 4,
        # `standard` also repeats what a cut connection or a 503 ended; the defaults wait a minute for each answer
        "config_kwargs": {
            "retries": {"mode": "standard", "max_attempts": 5},
            "connect_timeout": 10,
            "read_timeout": 30,
        },
    },
}
_SENDING: Final[Mapping[str, Mapping[str, Any]]] = {"s3": {"chunksize": PART}}
_EXTRAS: Final = {"s3": "pip install 'hcoco[s3]'", "s3a": "pip install 'hcoco[s3]'", "gs": "pip install gcsfs"}

_NO_CREDENTIALS: Final = frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"})
_UNREACHABLE: Final = frozenset(
    {"EndpointConnectionError", "ConnectTimeoutError", "ConnectionError", "ClientConnectorError", "InvalidURL"}
)


@dataclass(frozen=True)
class Entry:
    """What a listing says of an object.

    Attributes:
        size: Bytes.
        time: When it was written, seconds since 1970; with `size` it tells one content from the next.
    """

    size: int
    time: float


def is_address(text: str) -> bool:
    """Say whether a text names a place in object storage, as against a path."""
    return "://" in text


def check_address(address: str) -> str:
    """Return an address without a slash at its end.

    Raises:
        ValueError: It is none, or holds what has no place in one.
    """
    found = _ADDRESS.fullmatch(address)
    clean = address.rstrip("/")
    if not found or "::" in address or ".." in address.split("/") or clean.endswith(":"):
        raise ValueError("an address looks like s3://bucket/prefix, without user, query or `..`")
    if len(quote(clean, safe="")) > _LONGEST_NAME:
        raise ValueError(f"the address is too long: {_LONGEST_NAME} characters at most, some count threefold")
    return clean


def cache_folder() -> Path:
    """Return the folder for what several runs share: `HCOCO_CACHE`, else `~/.cache/hcoco` (XDG)."""
    if named := os.environ.get("HCOCO_CACHE"):
        return Path(named).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hcoco"


def twin(address: str, *, kind: str) -> Path:
    """Return the folder on this machine that stands for an address; its name is the address itself.

    Args:
        address: As `check_address` returns it.
        kind: What lies there; each has a folder of the cache.
    """
    return cache_folder() / kind / quote(address, safe="")


def address_of(folder: Path, *, kind: str) -> str | None:
    """Return the address that a folder of the cache stands for; None where it stands for none."""
    if folder.parent.name != kind or quote("://", safe="") not in folder.name:
        return None
    return unquote(folder.name)


def scheme_of(address: str) -> str:
    """Return what stands before `://`."""
    return address.partition("://")[0]


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turn whatever a storage answers into one line for the user; errors of this machine's own disk pass."""
    try:
        yield
    except ImportError as error:
        scheme = scheme_of(address)
        how = _EXTRAS.get(scheme, "install the package that fsspec needs for it")
        raise BadRequest(f"{address}: {scheme}:// needs another package ({_brief(error)}); {how}") from None
    except _told_errors() as error:
        if isinstance(error, OSError) and error.errno and error.filename:
            raise
        raise BadRequest(f"{address}: {_why(error)}") from error


def list_entries(address: str) -> dict[str, Entry]:
    """Return all objects below an address, by path below it; nothing where there are none."""
    with explained(address):
        storage, place = _open(address)
        storage.invalidate_cache()
        try:
            found = storage.find(place, detail=True)
        except FileNotFoundError:
            return {}
        begin = len(place.rstrip("/")) + 1
        return {path[begin:]: _entry(info) for path, info in found.items()}


def list_folder(address: str) -> tuple[dict[str, Entry], list[str]]:
    """Return the objects directly below an address by name, and the names of what looks like folders there.

    Raises:
        BadRequest: There is nothing.
    """
    with explained(address):
        storage, place = _open(address)
        storage.invalidate_cache()
        infos = [info for info in storage.ls(place, detail=True) if info["name"].rstrip("/") != place.rstrip("/")]
    names = [(info["name"].rstrip("/").rpartition("/")[2], info) for info in infos]
    files = {name: _entry(info) for name, info in names if info["type"] == "file"}
    return files, [name for name, info in names if info["type"] == "directory"]


def look_up(address: str) -> Entry | None:
    """Return what there is of an object; None where there is none."""
    with explained(address):
        storage, place = _open(address)
        try:
            return _entry(storage.info(place, refresh=True) if scheme_of(address) == "s3" else storage.info(place))
        except FileNotFoundError:
            return None


def read(address: str, *, offset: int = 0, size: int | None = None) -> bytes | None:
    """Return an object's bytes, or `size` of them from `offset` on; None where there is no such object."""
    with explained(address):
        storage, place = _open(address)
        try:
            data: bytes = (
                storage.cat_file(place) if size is None else storage.cat_file(place, start=offset, end=offset + size)
            )
        except FileNotFoundError:
            return None
        return data


def write(address: str, data: bytes) -> None:
    """Write a small object, in place of one that is there."""
    with explained(address):
        storage, place = _open(address)
        storage.pipe_file(place, data)


def create(address: str, data: bytes) -> bool:
    """Write a small object where there is none; say whether it was this call that wrote it."""
    with explained(address):
        storage, place = _open(address)
        try:
            storage.pipe_file(place, data, mode="create")
        except FileExistsError:
            return False
        except _told_errors():
            if look_up(address) is None:
                raise
            return False
        return True


def remove(address: str) -> None:
    """Remove an object; nothing where there is none."""
    with explained(address):
        storage, place = _open(address)
        try:
            storage.rm_file(place)
        except FileNotFoundError:
            return


def fetch(address: str, path: Path, *, entry: Entry | None = None) -> Path:
    """Bring an object into a file; one that is there already, by size and time, is left.

    Args:
        address: Of the object.
        path: Of the file.
        entry: What a listing says of the object; asked for where not given.

    Raises:
        FileNotFoundError: There is no such object.
        BadRequest: It could not be had whole.
    """
    entry = entry or look_up(address)
    if entry is None:
        raise FileNotFoundError(address)
    if is_same(path, entry):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(TRIES):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
        os.close(descriptor)
        try:
            with explained(address):
                storage, place = _open(address)
                storage.get_file(place, name)
            if (size := Path(name).stat().st_size) == entry.size:
                os.utime(name, (entry.time, entry.time))
                Path(name).chmod(0o644)
                Path(name).replace(path)
                return path
        finally:
            Path(name).unlink(missing_ok=True)
    raise BadRequest(f"{address}: {size} of {entry.size} bytes came; run the same command again")


def send(path: Path, address: str) -> None:
    """Bring a file to an address, large ones in parts; measure it there; give the file the object's time.

    Raises:
        BadRequest: It could not be sent whole.
    """
    size = path.stat().st_size
    for _ in range(TRIES):
        with explained(address):
            storage, place = _open(address)
            storage.put_file(str(path), place, **_SENDING.get(scheme_of(address), {}))
        sent = look_up(address)
        if sent is not None and sent.size == size:
            os.utime(path, (sent.time, sent.time))
            return
    raise BadRequest(f"{address}: {sent.size if sent else 0} of {size} bytes arrived; run the same command again")


def is_same(path: Path, entry: Entry) -> bool:
    """Say whether a file has the size and the time of an object, as `fetch` and `send` leave it."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_size == entry.size and abs(status.st_mtime - entry.time) < 0.001  # a double's last digits


def _open(address: str) -> tuple[AbstractFileSystem, str]:
    import fsspec  # noqa: PLC0415 - see the top

    scheme = scheme_of(address)
    storage = fsspec.filesystem(scheme, use_listings_cache=False, **_OPTIONS.get(scheme, {}))
    return storage, str(storage._strip_protocol(address))  # noqa: SLF001 - every fsspec class has it, by contract


def _entry(info: Mapping[str, Any]) -> Entry:
    names = ("LastModified", "mtime", "updated", "last_modified", "created")
    time = next((info[name] for name in names if info.get(name) is not None), 0.0)
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return Entry(int(info["size"] or 0), time.timestamp() if isinstance(time, datetime) else float(time))


def _told_errors() -> tuple[type[Exception], ...]:
    """Return what storages raise: errors of the system, and of those clients that were loaded."""
    found: list[type[Exception]] = [OSError, ValueError]
    for module, names in (
        ("botocore.exceptions", ("BotoCoreError", "ClientError")),
        ("aiohttp", ("ClientError",)),
        ("gcsfs.retry", ("HttpError",)),
        ("google.auth.exceptions", ("GoogleAuthError",)),
    ):
        found += [getattr(sys.modules[module], name) for name in names if module in sys.modules]
    return tuple(found)


def _why(error: Exception) -> str:
    """Say what is wrong and how to mend it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & _NO_CREDENTIALS:
        return "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if kinds & _UNREACHABLE:
        return f"it cannot be reached ({_brief(error)}); check the network and AWS_ENDPOINT_URL"
    if isinstance(error, FileNotFoundError):
        return f"there is no such bucket or object ({_brief(error)}); make the bucket first, or mend the address"
    if isinstance(error, PermissionError):
        return f"permission denied ({_brief(error)}); mend the rights of the credentials"
    return f"{_brief(error)}; check it, then run the same command again: what is done stays"


def _brief(error: Exception) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
