"""Serve a folder like the COCO mirror does, on the loopback, with the faults of real networks on demand."""

import threading
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR
from urllib.parse import unquote

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Name what goes wrong; paths and names are those of requests, `/val2017/x.jpg` and `x.jpg`.

    Attributes:
        drop_every: every n-th answer with a body breaks off half way, its length announced; 0 is never.
        drop_over: only bodies longer than so many bytes are dropped.
        silent_every: every n-th request is hung up on without an answer; 0 is never.
        truncate_first: so many answers of each name in `truncated` end half way, their length not announced.
        truncated: file names that `truncate_first` is about.
        missing: file names that are answered with 404.
        busy_first: so many answers of each path are 503.
        slow: file names whose body comes byte by byte, `slow_first` times each.
        slow_first: see `slow`.
        delay_s: seconds before each answer.
        ranges: False serves whole files only.
        redirects: path to the `Location` it is redirected to.
    """

    drop_every: int = 0
    drop_over: int = 0
    silent_every: int = 0
    truncate_first: int = 1
    truncated: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    busy_first: int = 0
    slow: frozenset[str] = frozenset()
    slow_first: int = 1
    delay_s: float = 0.0
    ranges: bool = True
    redirects: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """Record one answered request: its path, `Range` header, status (0: none was sent) and bytes of body sent."""

    path: str
    range: str
    status: int
    sent: int


@dataclass
class Serving:
    """Hold what a test may look at: the address for `Mirror.base`, and the requests so far, as they ended."""

    base: str
    requests: list[Request] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """Count the bytes of all bodies."""
        return sum(request.sent for request in self.requests)

    def asked(self, name: str) -> list[Request]:
        """List the requests for the file `name`."""
        return [request for request in self.requests if request.path.endswith("/" + name)]


@contextmanager
def serve(folder: Path, *, faults: Faults | None = None) -> Iterator[Serving]:
    """Serve the files under `folder` at a free port of the loopback until the block is left."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.folder, server.faults = folder, faults or Faults()
    server.serving = Serving(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.serving
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.hang_up()
        server.server_close()


def lay_out(
    folder: Path, *, images: Mapping[str, bytes], instances: bytes, subset: str = "val2017", padding_bytes: int = 0
) -> None:
    """Write the official layout under `folder`: an archive of annotations and the pictures of one subset.

    Before the instances the archive gets a stored member of `padding_bytes` random bytes, as big as others are in the
    real archive, so that a test can tell the whole archive from one member.
    """
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / subset).mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "annotations" / "annotations_trainval2017.zip", "w") as archive:
        if padding_bytes:
            archive.writestr("annotations/padding.json", np.random.default_rng(0).bytes(padding_bytes))
        archive.writestr(f"annotations/instances_{subset}.json", instances, zipfile.ZIP_DEFLATED)
    for name, data in images.items():
        (folder / subset / name).write_bytes(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for the handlers
    request_queue_size = 64
    folder: Path
    faults: Faults
    serving: Serving

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.seen: Counter[str] = Counter()
        self.open: set[object] = set()

    def count(self, key: str) -> int:
        """Return how often `key` was counted, this time included."""
        with self.lock:
            self.seen[key] += 1
            return self.seen[key]

    def hang_up(self) -> None:
        """Close the connections that clients left open, so that their handlers end."""
        with self.lock:
            for connection in self.open:
                _shut(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet: a client that hangs up is what half of the tests are about."""


def _shut(connection: object) -> None:
    try:
        connection.shutdown(SHUT_RDWR)  # type: ignore[attr-defined]
    except OSError:
        return


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 20
    server: _Server

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.open.add(self.connection)

    def finish(self) -> None:
        with self.server.lock:
            self.server.open.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        pass

    def do_GET(self) -> None:
        self.status, self.sent = 0, 0
        try:
            self.answer()
        except ConnectionError:
            self.close_connection = True
        finally:
            self.server.serving.requests.append(
                Request(unquote(self.path), self.headers.get("Range", ""), self.status, self.sent)
            )

    def answer(self) -> None:
        """Play the faults that come before a body, then send the body."""
        faults, path = self.server.faults, unquote(self.path)
        name = path.rsplit("/", 1)[-1]
        file = self.server.folder / path.lstrip("/")
        self.server.closing.wait(faults.delay_s)
        if faults.silent_every and self.server.count("silent") % faults.silent_every == 0:
            self.close_connection = True
        elif path in faults.redirects:
            self.send_head(302, 0, {"Location": faults.redirects[path]})
        elif self.server.count("busy " + path) <= faults.busy_first:
            self.send_head(503, 0, {})
        elif name in faults.missing or not file.is_file():
            self.send_head(404, 0, {})
        else:
            self.send_file(name, file)

    def send_file(self, name: str, file: Path) -> None:
        """Send the file or the range of it that was asked for, whole or as the faults want it."""
        faults, size, start = self.server.faults, file.stat().st_size, 0
        stop, status = size, 200
        headers = {"ETag": f'"{file.stat().st_mtime_ns:x}-{size:x}"'}
        asked = self.headers.get("Range", "") if faults.ranges else ""
        if asked and self.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
            first, last = asked.removeprefix("bytes=").split("-")
            start, stop, status = int(first), min(int(last or size - 1) + 1, size), 206
            if start >= size:
                self.send_head(416, 0, {"Content-Range": f"bytes */{size}"})
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        with file.open("rb") as opened:
            opened.seek(start)
            body = opened.read(stop - start)
        if name in faults.truncated and self.server.count("truncate " + name) <= faults.truncate_first:
            self.send_head(status, None, headers)
            self.send_body(body[: len(body) // 2])
            self.close_connection = True
            return
        self.send_head(status, len(body), headers)
        if name in faults.slow and self.server.count("slow " + name) <= faults.slow_first:
            self.trickle(body)
        elif faults.drop_every and len(body) > faults.drop_over and self.server.count("drop") % faults.drop_every == 0:
            self.send_body(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.send_body(body)

    def send_head(self, status: int, length: int | None, headers: Mapping[str, str]) -> None:
        self.status = status
        self.send_response(status)
        self.send_header(
            "Connection" if length is None else "Content-Length", "close" if length is None else str(length)
        )
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def send_body(self, body: bytes) -> None:
        for begin in range(0, len(body), 1 << 16):
            block = body[begin : begin + (1 << 16)]
            self.wfile.write(block)
            self.sent += len(block)

    def trickle(self, body: bytes) -> None:
        for begin in range(len(body)):
            if self.server.closing.wait(0.02):
                break
            self.send_body(body[begin : begin + 1])
        self.close_connection = True
