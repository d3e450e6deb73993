"""Fetch COCO 2017 on demand: one annotation file out of the remote archive, and the pictures that are asked for.

The cache has COCO's own layout (`annotations/instances_val2017.json`, `val2017/000000000139.jpg`), so it can be
named as `source` itself. Several runs and processes may share it: a file appears under its name only when it is whole.

What comes from the network is not trusted: names stay inside the cache, redirects stay on the mirror, sizes have
limits, and a body that trickles is dropped and asked for again.
"""

import fcntl
import io
import itertools
import logging
import os
import random
import re
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from flows.errors import BadRequest

SUBSETS = ("val2017", "train2017")
ARCHIVE = "annotations_trainval2017.zip"
ADVICE = (
    "check the network connection and the proxy, name another mirror with --coco-base, "
    "or give a folder in COCO's layout as source"
)

IMAGE_LIMIT = 50_000_000  # bytes; the largest picture of COCO 2017 has well below 1 MB
ANNOTATIONS_LIMIT = 4_000_000_000  # bytes; instances_train2017.json has about 450 MB
ARCHIVE_LIMIT = 4_000_000_000  # bytes; the official archive has 241 MB
READ_AHEAD = 1 << 21  # bytes a range request asks for while a member is read from end to end
BLOCK = 1 << 20  # bytes unpacked at once
ONE_READ_LIMIT = 1 << 26  # bytes; only a forged central directory makes zipfile ask for more at once
REDIRECTS = 3
LONGEST_WAIT_S = 30.0  # of one back-off or `Retry-After`
PEER_PATIENCE_S = 60.0  # how long another process's part file may stand still before it is given up
GONE = re.compile(
    r"the mirror answers (403|404|410)\b|not a plain file name"
)  # reasons that say: this picture is not to be had
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may be different in a second

Progress = Callable[[int, int, int], None]
Check = Callable[[BinaryIO, int | None], None]  # of a whole file and its announced length in bytes
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """Say where COCO is served and how patiently to ask.

    Below `base` the official layout is expected: `/annotations/annotations_trainval2017.zip` and
    `/{subset}/{file_name}`.

    Attributes:
        base: address with scheme `http` or `https`; a path is allowed.
        parallel: connections, and pictures fetched at once.
        retries: how often one transfer is tried again after a failure that may pass and brought nothing new.
        backoff_s: seconds before the first retry; doubled each time, times a random 0.5..1.5.
        timeout_s: seconds for connecting, and for each wait for more bytes.
        slow_s: seconds over which the throughput of a body is judged.
        slow_bytes_per_s: a body slower than this over `slow_s` is dropped and asked for again.

    Raises:
        BadRequest: `base` is no such address.
        ValueError: a number is out of range.
    """

    base: str = "http://images.cocodataset.org"
    parallel: int = 8
    retries: int = 4
    backoff_s: float = 0.5
    timeout_s: float = 20.0
    slow_s: float = 15.0
    slow_bytes_per_s: float = 1000.0

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        try:
            parts = urlsplit(self.base)
            wrong = parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment
            httpx.URL(self.base)
        except (ValueError, httpx.InvalidURL):
            wrong = True
        if wrong:
            raise BadRequest(f"{self.base!r} is no address of a COCO mirror; it should look like {Mirror.base}")
        for name, least in (("parallel", 1), ("retries", 0), ("backoff_s", 0), ("slow_bytes_per_s", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted at least {least}")
        for name in ("timeout_s", "slow_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted more than 0 seconds")

    @property
    def host(self) -> str:
        """Name the server as messages do, without user name and password."""
        return urlsplit(self.base).hostname or self.base

    def address(self, *path: str) -> str:
        """Join `base` and the quoted parts of `path`."""
        return "/".join((self.base.rstrip("/"), *(quote(part) for part in path)))


def annotations_path(cache: Path, subset: str) -> Path:
    """Return where `fetch_annotations` stores the instances of `subset`."""
    return cache / "annotations" / f"instances_{_checked_subset(subset)}.json"


def image_path(cache: Path, subset: str, name: str) -> Path:
    """Return where `fetch_images` stores the picture `name` of `subset`.

    Raises:
        BadRequest: COCO 2017 has no such subset.
        ValueError: `name` is not a plain file name, so that it could lead out of the cache.
    """
    if not _is_plain(name):
        raise ValueError(f"name is {name!r}, wanted a plain file name without separators")
    return cache / _checked_subset(subset) / name


def fetch_annotations(subset: str, *, cache: Path, mirror: Mirror, progress: Progress | None = None) -> Path:
    """Store `instances_{subset}.json` in the cache and return its path; a stored one is not fetched again.

    Only this member is read out of the remote archive, by range requests. Where the server offers no ranges, the
    whole archive is fetched once into `cache/annotations/` and kept there; an archive found there is read instead
    of the remote one. zipfile checks the member's CRC.

    Args:
        subset: one of `SUBSETS`.
        cache: root folder of the cache; made where missing.
        mirror: where to fetch from.
        progress: called with (bytes done, bytes in all, bytes fetched from the network); done and in all count the
            unpacked annotations, or, while the whole archive is fetched, the archive.

    Raises:
        BadRequest: the mirror cannot be reached, lacks the file or serves a damaged one; the cache cannot be written.
    """
    destination = annotations_path(cache, subset)
    with _explained(mirror, cache), _session(mirror) as session:
        if _is_stored(destination):
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _open_part(destination) as part:
            if part is not None:
                with _open_archive(session, destination.parent / ARCHIVE, progress) as archive:
                    _unpack(archive, f"annotations/{destination.name}", part, session, progress)
                part.publish()
    return destination


def fetch_images(
    names: Sequence[str], *, subset: str, cache: Path, mirror: Mirror, progress: Progress | None = None
) -> dict[str, str]:
    """Store the named pictures of `subset` in the cache and return those that could not be had, with the reason.

    A stored picture is not fetched again; a part that an earlier run left is continued. A single picture never raises.

    Args:
        names: file names as in the annotations; doubles count once.
        subset: one of `SUBSETS`.
        cache: root folder of the cache; made where missing.
        mirror: where to fetch from, and how many at once.
        progress: called in the caller's thread with (pictures done, pictures in all, bytes fetched from the network);
            stored and failed ones count as done.

    Returns:
        Failed name to a short reason, in the order of `names`; empty where all is well.

    Raises:
        BadRequest: the mirror as a whole cannot be reached or keeps failing; the cache cannot be written.
    """
    wanted = list(dict.fromkeys(names))
    failures = {name: "not a plain file name" for name in wanted if not _is_plain(name)}
    folder = cache / _checked_subset(subset)
    with _explained(mirror, cache):
        missing = [name for name in wanted if name not in failures and not _is_stored(folder / name)]
    if progress is not None:
        progress(len(wanted) - len(missing), len(wanted), 0)
    if not missing:
        return failures
    with _explained(mirror, cache), _session(mirror) as session:
        folder.mkdir(parents=True, exist_ok=True)
        lost = _Lost(limit=2 * mirror.parallel, asked=len(missing))
        with closing(_fetch_each(session, missing, folder)) as finished:
            for done, (name, error) in enumerate(finished, start=len(wanted) - len(missing) + 1):
                if error is not None:
                    failures[name] = str(error)
                lost.check(error)
                if progress is not None:
                    progress(done, len(wanted), session.fetched)
    return {name: failures[name] for name in wanted if name in failures}


def _fetch_each(
    session: "_Session", names: Sequence[str], folder: Path
) -> Generator[tuple[str, "_TransferError | None"]]:
    """Yield each name with its error or None, as they finish; stop the rest when the caller leaves."""

    def fetch(name: str) -> _TransferError | None:
        try:
            address = session.mirror.address(folder.name, name)
            _fetch_file(session, address, folder / name, limit=IMAGE_LIMIT, check=_check_jpeg)
        except _TransferError as error:
            return error
        return None

    pool = ThreadPoolExecutor(session.mirror.parallel, thread_name_prefix="coco-download")
    try:
        asked: dict[Future[_TransferError | None], str] = {pool.submit(fetch, name): name for name in names}
        for future in as_completed(asked):
            yield asked[future], future.result()
    finally:
        session.stop.set()
        pool.shutdown(cancel_futures=True)


# --- one file --------------------------------------------------------------------------------------------------------


def _fetch_file(
    session: "_Session",
    address: str,
    destination: Path,
    *,
    limit: int,
    check: Check | None = None,
    progress: Progress | None = None,
) -> None:
    """Store the file at `address` as `destination`, continuing a part that is there; do nothing if it is stored."""
    with _open_part(destination, stop=session.stop) as part:
        if part is None:
            return

        def attempt() -> None:
            _transfer(session, address, part, limit=limit, check=check, progress=progress)

        try:
            _persist(session, attempt, kept=part.size)
        except _TransferError as error:
            if not error.passing:
                part.empty()
            raise
        # No fsync: there are tens of thousands of pictures, and after a power cut a file of no bytes counts as missing.
        part.publish()


def _transfer(
    session: "_Session",
    address: str,
    part: "_Part",
    *,
    limit: int,
    check: Check | None,
    progress: Progress | None,
) -> None:
    """Bring `part` to its full length in one request, or raise a `_TransferError`."""
    offset, tag = part.size(), part.tag()
    total: int | None
    resumes = bool(offset and tag)
    with _ask(session, address, {"Range": f"bytes={offset}-", "If-Range": tag} if resumes else {}) as response:
        if response.status_code == httpx.codes.PARTIAL_CONTENT and resumes:
            start, _, total = _answered_range(response)
            if start != offset:
                raise _TransferError("the mirror continued at the wrong place")
        else:
            part.empty()
            if response.status_code != httpx.codes.OK:  # mostly 416: the part is no beginning of what is there now
                raise _TransferError("the mirror did not continue the part", passing=resumes)
            part.keep_tag(_validator(response))
            offset, total = 0, _content_length(response)
        if total is not None and total > limit:
            raise _TransferError(f"{total} bytes, more than the limit of {limit}")
        part.file.seek(offset)
        for chunk in _chunks(session, response, limit=limit - offset):
            part.file.write(chunk)
            if progress is not None:
                progress(part.file.tell(), total or part.file.tell(), session.fetched)
    size = part.size()
    if total is not None and size != total:
        raise _TransferError(f"{size} of {total} bytes came", passing=True)
    try:
        if check is not None:
            check(part.file, total)
    except _TransferError:
        part.empty()
        raise


def _check_jpeg(file: BinaryIO, announced: int | None) -> None:
    """Raise unless `file` starts like a JPEG and, where no length was `announced`, ends like one."""
    file.seek(0)
    start = file.read(2)
    file.seek(-min(2, file.seek(0, os.SEEK_END)), os.SEEK_END)
    if start != b"\xff\xd8":
        raise _TransferError("what came is no JPEG", passing=True)
    if announced is None and file.read(2) != b"\xff\xd9":
        raise _TransferError("the JPEG is cut off", passing=True)


# --- part files ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Hold an unfinished file that this thread alone writes, and beside it the validator that lets it be continued."""

    path: Path
    destination: Path
    file: BinaryIO

    @property
    def tag_path(self) -> Path:
        return self.path.with_name(self.path.name + ".tag")

    def size(self) -> int:
        self.file.flush()
        return os.fstat(self.file.fileno()).st_size

    def empty(self) -> None:
        self.file.seek(0)
        self.file.truncate()

    def tag(self) -> str:
        try:
            return self.tag_path.read_text("ascii")
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def keep_tag(self, tag: str) -> None:
        self.tag_path.unlink(missing_ok=True)
        if tag:
            self.tag_path.write_text(tag, "ascii")

    def is_named(self) -> bool:
        """Tell whether the open file still bears its name: another process may have published or removed it."""
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), self.path.lstat())
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.tag_path.unlink(missing_ok=True)

    def publish(self) -> None:
        self.file.flush()
        self.path.replace(self.destination)
        self.tag_path.unlink(missing_ok=True)


@contextmanager
def _open_part(destination: Path, *, stop: threading.Event | None = None) -> Iterator[_Part | None]:
    """Yield the locked part file of `destination`, or None as soon as another process has stored it.

    The lock is on the part file itself and ends with its process. A holder whose part does not grow for a minute, or
    a file system without locks, is side-stepped with a part of this thread's own, which is not kept for later.
    """
    shared = destination.with_name(destination.name + ".part")
    seen, deadline = -1, time.monotonic() + PEER_PATIENCE_S
    while not _is_stored(destination):
        if stop is not None and stop.is_set():
            raise _TransferError("stopped", passing=True)
        with _open_plain(shared) as file:
            part = _Part(shared, destination, file)
            held = _lock(file)
            if held and part.is_named():
                # Stored between the two looks: then this part is a fresh and empty one, and goes again.
                try:
                    yield None if _is_stored(destination) else part
                finally:
                    if part.is_named() and part.size() == 0:
                        part.remove()
                return
            size = part.size()
        if held is None or time.monotonic() > deadline:
            with _open_own_part(destination) as own:
                yield own
            return
        if size != seen:
            seen, deadline = size, time.monotonic() + PEER_PATIENCE_S
        time.sleep(0.02)
    yield None


@contextmanager
def _open_own_part(destination: Path) -> Iterator[_Part]:
    """Yield a part file that no other thread or process knows; it is gone afterwards unless it was published."""
    path = destination.with_name(f"{destination.name}.{os.getpid()}-{threading.get_ident()}.part")
    with _open_plain(path) as file:
        part = _Part(path, destination, file)
        part.empty()
        try:
            yield part
        finally:
            part.remove()


def _open_plain(path: Path) -> BinaryIO:
    """Open `path` for reading and writing, made where missing, never through a symbolic link."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+b")


def _lock(file: BinaryIO) -> bool | None:
    """Lock `file` without waiting; False where another holds it, None where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


# --- requests --------------------------------------------------------------------------------------------------------


@dataclass
class _Session:
    """Hold what the threads of one call share: the connections, the wish to stop, the count of bytes."""

    mirror: Mirror
    client: httpx.Client
    stop: threading.Event = field(default_factory=threading.Event)
    fetched: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, size: int) -> None:
        with self._lock:
            self.fetched += size


@contextmanager
def _session(mirror: Mirror) -> Iterator[_Session]:
    """Open the connections of one call and close them afterwards."""
    with httpx.Client(
        timeout=httpx.Timeout(mirror.timeout_s, pool=None),
        limits=httpx.Limits(max_connections=mirror.parallel, max_keepalive_connections=mirror.parallel),
        headers={"Accept-Encoding": "identity", "User-Agent": "hcoco"},  # identity: lengths are those of the files
        follow_redirects=False,
    ) as client:
        yield _Session(mirror, client)


@contextmanager
def _ask(session: _Session, address: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
    """Yield the answer (200, 206 or 416) to a GET; whatever else happens, inside the block too, is a `_TransferError`.

    Redirects are followed on the same scheme, host and port only.
    """
    url = httpx.URL(address)
    try:
        for _ in range(REDIRECTS + 1):
            with session.client.stream("GET", url, headers=dict(headers)) as response:
                if not response.has_redirect_location:
                    _check_answer(response)
                    yield response
                    return
                url = _same_place(url, url.join(response.headers["location"]))
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise _TransferError(f"no connection: {_brief(error)}", passing=True, unreachable=True) from error
    except httpx.TransportError as error:
        raise _TransferError(f"connection lost: {_brief(error)}", passing=True) from error
    except httpx.InvalidURL as error:
        raise _TransferError(f"redirected to no address: {_brief(error)}") from error
    raise _TransferError(f"redirected more than {REDIRECTS} times")


def _same_place(old: httpx.URL, new: httpx.URL) -> httpx.URL:
    """Return `new` if it is on the same server as `old`."""
    if (new.scheme, new.host, new.port) != (old.scheme, old.host, old.port):
        raise _TransferError(f"redirected to another server ({new.scheme}://{new.host}), which is not followed")
    return new


def _check_answer(response: httpx.Response) -> None:
    """Raise unless the answer is 200, 206 or 416 with a plain body."""
    status = response.status_code
    if status not in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT, httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE}:
        after = response.headers.get("retry-after", "")
        wait_s = min(float(after), LONGEST_WAIT_S) if re.fullmatch(r"[0-9]{1,9}", after) else 0.0
        reason = f"the mirror answers {status} {response.reason_phrase}".rstrip()
        raise _TransferError(reason, passing=status in PASSING, wait_s=wait_s)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _TransferError("the mirror sends a packed body, unasked")


def _chunks(session: _Session, response: httpx.Response, *, limit: int) -> Iterator[bytes]:
    """Yield the body as it comes; raise where it trickles or exceeds `limit` bytes."""
    mirror = session.mirror
    taken, window, since = 0, 0, time.monotonic()
    for chunk in response.iter_raw():
        taken, window = taken + len(chunk), window + len(chunk)
        session.count(len(chunk))
        if taken > limit:
            raise _TransferError(f"more than the limit of {limit} bytes came")
        yield chunk
        if session.stop.is_set():
            raise _TransferError("stopped", passing=True)
        seconds = time.monotonic() - since
        if seconds > mirror.slow_s:
            if window < seconds * mirror.slow_bytes_per_s:
                raise _TransferError(f"too slow: {window} bytes in {seconds:.0f} s", passing=True)
            window, since = 0, time.monotonic()


def _persist(session: _Session, attempt: Callable[[], T], *, kept: Callable[[], int] = lambda: 0) -> T:
    """Call `attempt` until it succeeds, fails for good, or was tried again `retries` times.

    A failure after which more bytes are `kept` than ever before is free, up to three times `retries`: on a network
    that drops every connection a file still comes, bit by bit.
    """
    mirror = session.mirror
    left, most = mirror.retries, 0
    for number in itertools.count():
        try:
            return attempt()
        except _TransferError as error:
            if kept() <= most or number >= 3 * mirror.retries:
                left -= 1
            most = max(most, kept())
            if not error.passing or left < 0:
                raise
            backoff_s = mirror.backoff_s * 2 ** max(mirror.retries - left - 1, 0) * random.uniform(0.5, 1.5)
            wait_s = max(error.wait_s, min(backoff_s, LONGEST_WAIT_S))
        if session.stop.wait(wait_s):
            break
    raise _TransferError("stopped", passing=True)


def _answered_range(response: httpx.Response) -> tuple[int, int, int]:
    """Return first byte, byte after the last, and full length from `Content-Range`."""
    match = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", response.headers.get("content-range", ""))
    if match is None:
        raise _TransferError("the mirror answers a range without saying which")
    first, last, total = (int(number) for number in match.groups())
    return first, last + 1, total


def _content_length(response: httpx.Response) -> int | None:
    """Return the announced length of the body in bytes, None where none is announced."""
    text = response.headers.get("content-length", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _validator(response: httpx.Response) -> str:
    """Return what `If-Range` may carry: a strong ETag, else the date of change, else nothing."""
    tag: str = response.headers.get("etag", "")
    chosen: str = tag if tag.startswith('"') else response.headers.get("last-modified", "")
    return chosen if chosen.isascii() else ""


# --- the archive -----------------------------------------------------------------------------------------------------


@contextmanager
def _open_archive(session: _Session, kept: Path, progress: Progress | None) -> Iterator[BinaryIO]:
    """Yield the archive of annotations, seekable: the one on the disk, else the remote one, else fetch it first."""
    if not _is_stored(kept):
        address = session.mirror.address("annotations", ARCHIVE)
        remote = _persist(session, lambda: _find_ranges(session, address))
        if remote is not None:
            with io.BufferedReader(remote, READ_AHEAD) as archive:
                yield archive
            return
        _log.warning("%s serves no ranges: fetching the whole %s once", session.mirror.host, ARCHIVE)
        _fetch_file(session, address, kept, limit=ARCHIVE_LIMIT, check=_check_zip, progress=progress)
    with kept.open("rb") as archive:
        try:
            yield archive
        except _DamagedError as error:
            raise _DamagedError(f"{error}; delete {kept} and try again") from error


def _find_ranges(session: _Session, address: str) -> "_RemoteFile | None":
    """Return the remote file for reading, or None where the server does not serve ranges."""
    with _ask(session, address, {"Range": "bytes=0-0"}) as response:
        if response.status_code == httpx.codes.OK:
            return None
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            raise _DamagedError(f"{ARCHIVE} of the mirror is empty")
        start, stop, total = _answered_range(response)
        if (start, stop) != (0, 1):
            raise _TransferError("the mirror answered another range than was asked for")
        for _ in _chunks(session, response, limit=1):  # a body read to its end keeps the connection for what follows
            pass
        if total > ARCHIVE_LIMIT:
            raise _TransferError(f"{ARCHIVE} has {total} bytes, more than the limit of {ARCHIVE_LIMIT}")
        return _RemoteFile(session, address, size=total, validator=_validator(response))


def _check_zip(file: BinaryIO, _announced: int | None) -> None:
    """Raise unless `file` ends like a zip archive: a page of a login portal, for instance, must not be kept."""
    if not zipfile.is_zipfile(file):
        raise _DamagedError("what came is no zip archive")


def _unpack(archive: BinaryIO, member: str, part: _Part, session: _Session, progress: Progress | None) -> None:
    """Inflate `member` into `part` and bring it to the disk; zipfile compares the CRC."""
    part.empty()
    for block, size in _read_member(archive, member):
        part.file.write(block)
        if progress is not None:
            progress(part.file.tell(), size, session.fetched)
    part.file.flush()
    os.fsync(part.file.fileno())


def _read_member(archive: BinaryIO, member: str) -> Iterator[tuple[bytes, int]]:
    """Yield the unpacked blocks of `member`, each with the size of the whole; all damage is a `_DamagedError`."""
    try:
        with zipfile.ZipFile(archive) as opened:
            if member not in opened.namelist():
                raise _DamagedError(f"{ARCHIVE} holds no {member}")
            info = opened.getinfo(member)
            if info.file_size > ANNOTATIONS_LIMIT:
                raise _DamagedError(f"{member} has {info.file_size} bytes, more than the limit of {ANNOTATIONS_LIMIT}")
            if info.flag_bits & 1 or info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise _DamagedError(f"{member} is packed in a way that COCO's is not")
            taken = 0
            with opened.open(info) as source:
                while block := source.read(BLOCK):
                    taken += len(block)
                    yield block, info.file_size
            if taken != info.file_size:
                raise _DamagedError(f"{member} is cut off")
    # What zipfile raises on forged numbers, found by flipping bytes; OSError is a seek to before the beginning.
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ValueError, OSError) as error:
        raise _DamagedError(f"{ARCHIVE} is damaged: {_brief(error)}") from error


class _RemoteFile(io.RawIOBase):
    """Read a remote file by range requests; one request a read, so wrap it in a `BufferedReader` for read-ahead."""

    def __init__(self, session: _Session, address: str, *, size: int, validator: str) -> None:
        super().__init__()
        self._session = session
        self._address = address
        self._size = size
        self._validator = validator
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise OSError("a place before the beginning of the file")  # zipfile expects this of a short file
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        if stop - self._position > ONE_READ_LIMIT:
            raise zipfile.BadZipFile("the directory is larger than any")
        data = _persist(self._session, lambda: self._fetch(self._position, stop))
        buffer[: len(data)] = data
        self._position = stop
        return len(data)

    def _fetch(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` up to `stop`; the file must still be the one that was opened."""
        with _ask(self._session, self._address, {"Range": f"bytes={start}-{stop - 1}"}) as response:
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                raise _TransferError("the mirror stopped serving ranges", passing=True)
            if (_answered_range(response), _validator(response)) != ((start, stop, self._size), self._validator):
                raise _TransferError(f"{ARCHIVE} changed while it was read; try again")
            data = b"".join(_chunks(self._session, response, limit=stop - start))
        if len(data) != stop - start:
            raise _TransferError(f"{len(data)} of {stop - start} bytes came", passing=True)
        return data


# --- names and errors ------------------------------------------------------------------------------------------------


def _is_plain(name: str) -> bool:
    """Tell whether `name` is a file name that cannot lead out of its folder or be mistaken for a part file."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,150}", name)) and not name.endswith((".part", ".tag"))


def _is_stored(path: Path) -> bool:
    """Tell whether `path` is a file of at least one byte."""
    try:
        return path.stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def _checked_subset(subset: str) -> str:
    """Return `subset` if COCO 2017 has it with annotations."""
    if subset not in SUBSETS:
        raise BadRequest(f"COCO has no subset {subset!r} here; use one of coco:{', coco:'.join(SUBSETS)}")
    return subset


def _brief(error: Exception) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class _TransferError(Exception):
    """Say why a file did not come, and whether asking again may help."""

    def __init__(self, reason: str, *, passing: bool = False, unreachable: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.passing = passing
        self.unreachable = unreachable
        self.wait_s = wait_s


class _DamagedError(_TransferError):
    """Say that what the mirror serves is not what COCO is."""


@dataclass
class _Lost:
    """Tell a mirror that is gone from pictures that are: `limit` passing failures in a row, or no connection ever."""

    limit: int
    asked: int
    in_a_row: int = 0
    unreachable: int = 0

    def check(self, error: _TransferError | None) -> None:
        self.in_a_row = self.in_a_row + 1 if error is not None and error.passing else 0
        self.unreachable += error is not None and error.unreachable
        if error is not None and (self.in_a_row >= self.limit or self.unreachable == self.asked):
            raise error


@contextmanager
def _explained(mirror: Mirror, cache: Path) -> Iterator[None]:
    """Turn what ends a whole call into one line for the user."""
    try:
        yield
    except _DamagedError as error:
        raise BadRequest(f"{mirror.host} does not serve COCO 2017 as expected: {error}; {ADVICE}") from error
    except _TransferError as error:
        raise BadRequest(f"cannot fetch COCO from {mirror.host}: {error}; {ADVICE}") from error
    except OSError as error:
        raise BadRequest(f"cannot use the cache {cache}: {_brief(error)}; check the folder and the disk") from error
