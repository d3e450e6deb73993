"""An S3 server on loopback in a process of its own, and a proxy before it that drops, cuts and refuses."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import SplitResult, urlsplit

import pytest
from s3fs import S3FileSystem

START_SECONDS: Final = 90.0
BUSY: Final = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.'
    b"</Message></Error>"
)


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def serve_s3() -> Iterator[str]:
    """Run moto's server, which holds everything in its memory; yield its address."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"moto's server did not start (ended with {server.poll()})")


def settings_of(base: str) -> dict[str, str]:
    """Return the environment in which S3 is at `base`, with nothing of the user's own."""
    return {
        "AWS_ENDPOINT_URL": base,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }


@dataclass(frozen=True)
class Storage:
    """A bucket of a test's own: its address, and the server that it is on."""

    address: str
    base: str
    patch: pytest.MonkeyPatch

    def go_through(self, base: str) -> None:
        """Ask for S3 at another address from now on, in this process and those that it starts."""
        self.patch.setenv("AWS_ENDPOINT_URL", base)
        S3FileSystem.clear_instance_cache()


@dataclass
class Faults:
    """What goes wrong: every so-manieth request, never where 0.

    Attributes:
        drop_every: The connection is reset before the request is passed on.
        forget_every: The request is passed on and done, and the connection reset instead of an answer.
        cut_every: Half of the answer's body comes, then the connection ends.
        busy_every: The answer is 503 SlowDown.
        forbidden: All requests are answered with 403.
    """

    drop_every: int = 0
    forget_every: int = 0
    cut_every: int = 0
    busy_every: int = 0
    forbidden: bool = False


@dataclass
class Proxied:
    """A running proxy: its address, and what it saw and did."""

    base: str
    faults: Faults
    done: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, method: str, path: str) -> str:
        """Count a request and say what is to go wrong with it."""
        with self.lock:
            self.requests.append((method, path))
            number, faults = len(self.requests), self.faults
            every = {
                "drop": faults.drop_every,
                "forget": faults.forget_every,
                "cut": faults.cut_every,
                "busy": faults.busy_every,
            }
            fault = "forbidden" if faults.forbidden else ""
            fault = fault or next((name for name, n in every.items() if n and number % n == 0), "")
            self.done[fault or "passed"] += 1
            return fault


class _Server(ThreadingHTTPServer):
    """The proxy's server; a client that was cut off, on purpose, is no error."""

    daemon_threads = True
    proxied: Proxied
    upstream: SplitResult

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


class _Handler(BaseHTTPRequestHandler):
    """Pass a request on, or do to it what its turn brings."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        """Answer a request of whatever method."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = self.server.proxied.next_fault(self.command, self.path)
        if fault == "drop":
            self.reset()
            return
        if fault in {"busy", "forbidden"}:
            self.answer(*((503, BUSY) if fault == "busy" else (403, b"")), {}, whole=True)
            return
        status, content, headers = self.ask(body)
        if fault == "forget":
            self.reset()
            return
        self.answer(status, content, headers, whole=fault != "cut" or len(content) < 2)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 - http.server calls them so

    def ask(self, body: bytes) -> tuple[int, bytes, Mapping[str, str]]:
        """Return the server's own answer."""
        upstream = self.server.upstream
        connection = http.client.HTTPConnection(str(upstream.hostname), upstream.port, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request(self.command, self.path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()

    def answer(self, status: int, content: bytes, headers: Mapping[str, str], *, whole: bool) -> None:
        """Pass an answer on, or half of its body."""
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if whole else content[: len(content) // 2])
        if not whole:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """End the connection as a broken one ends."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


@contextmanager
def proxy(base: str, faults: Faults) -> Iterator[Proxied]:
    """Stand before the server at `base` and do to its requests what `faults` says."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.upstream = urlsplit(base)
        server.proxied = Proxied(f"http://127.0.0.1:{server.server_address[1]}", faults)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.proxied
        finally:
            server.shutdown()
            thread.join()
