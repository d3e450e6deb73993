"""Files in object storage: whole or not at all, and every trouble in one line."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import objects
from flows.errors import BadRequest
from flows.objects import Entry, address_of, check_address, twin
from tests.flows.bucket import Faults, Storage, free_port, proxy
from tests.flows.kills import say


@pytest.fixture
def memory() -> str:
    """Return an address of its own in this process's memory."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, memory: str, tmp_path: Path) -> str:
    """Return an address of either storage that needs no server."""
    return memory if request.param == "memory" else (tmp_path / "storage").as_uri()


@pytest.mark.parametrize("address", ["s3://bucket", "s3://bucket/a/b", "gs://b/x.y", "file:///mnt/runs", "memory://x"])
def test_addresses_are_taken_without_their_last_slash(address: str) -> None:
    """An address stays as it is, but for slashes at its end."""
    assert check_address(f"{address}/") == check_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        *("s3://", "s3:///", "://x", "S3 ://x", "s3://user:secret@bucket", "s3://b?x=1", "s3://b/#x", "s3://b/../x"),
        *("simplecache::s3://b", "bucket/x", f"s3://{'x' * 300}"),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    """Users, queries, chains, ways upwards, and what is too long for a file's name are no addresses."""
    with pytest.raises(ValueError, match="address"):
        check_address(address)


@given(st.from_regex(r"\A[a-z][a-z0-9]{0,4}://[A-Za-z0-9_. -]{1,20}(/[A-Za-z0-9_. %é-]{1,20}){0,3}\Z"))
def test_a_folder_of_the_cache_tells_its_address(address: str) -> None:
    """Folder and address name each other; a folder of another kind, or of another name, stands for none."""
    folder = twin(address, kind="things")
    assert address_of(folder, kind="things") == address
    assert address_of(folder, kind="others") is None
    assert address_of(folder.parent / "plain", kind="things") is None


def test_a_file_goes_and_comes(place: str, tmp_path: Path) -> None:
    """What was sent is listed, read whole and in pieces, and comes back; then it is known as the same."""
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    objects.send(file, f"{place}/a/file")
    assert {path: entry.size for path, entry in objects.list_entries(place).items()} == {"a/file": 10}
    assert objects.list_folder(place) == ({}, ["a"])
    assert objects.read(f"{place}/a/file") == b"0123456789"
    assert objects.read(f"{place}/a/file", offset=3, size=4) == b"3456"
    came = objects.fetch(f"{place}/a/file", tmp_path / "came")
    assert came.read_bytes() == file.read_bytes()
    entry = objects.look_up(f"{place}/a/file")
    assert entry is not None
    assert objects.is_same(came, entry)
    assert objects.is_same(file, entry)


def test_what_is_not_there(place: str, tmp_path: Path) -> None:
    """Nothing is listed, read or removed where nothing is; fetching says so."""
    assert objects.list_entries(f"{place}/none") == {}
    assert objects.look_up(f"{place}/none") is None
    assert objects.read(f"{place}/none") is None
    objects.remove(f"{place}/none")
    with pytest.raises(FileNotFoundError):
        objects.fetch(f"{place}/none", tmp_path / "came")
    assert not list(tmp_path.glob("*came*"))


def test_another_object_is_fetched_anew(place: str, tmp_path: Path) -> None:
    """A file that differs from the object by size or time is replaced."""
    objects.write(f"{place}/x", b"old")
    came = objects.fetch(f"{place}/x", tmp_path / "came")
    os.utime(came, (1, 1))
    objects.write(f"{place}/x", b"new")
    assert objects.fetch(f"{place}/x", came).read_bytes() == b"new"


def test_only_one_creates(place: str) -> None:
    """Of two that create the same object one is told that it was there."""
    assert objects.create(f"{place}/lock", b"one")
    assert not objects.create(f"{place}/lock", b"two")
    assert objects.read(f"{place}/lock") == b"one"


def test_a_file_that_does_not_come_whole_leaves_nothing(memory: str, tmp_path: Path) -> None:
    """Where fewer bytes come than the listing promised, again and again, there is a line and no file."""
    objects.write(f"{memory}/x", b"12345")
    with pytest.raises(BadRequest, match="5 of 6 bytes came"):
        objects.fetch(f"{memory}/x", tmp_path / "came", entry=Entry(6, 1.0))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line() -> None:
    """An address whose package is not installed says what to install."""
    with pytest.raises(BadRequest, match=r"needs another package .*; pip install gcsfs"):
        objects.read("gs://bucket/x")


def test_an_unknown_scheme_is_one_line() -> None:
    """An address of nothing that fsspec knows is refused in a line."""
    with pytest.raises(BadRequest, match=r"nowhere://bucket/x: .*nowhere"):
        objects.read("nowhere://bucket/x")


def line_of(error: pytest.ExceptionInfo[BadRequest]) -> str:
    """Return a message, which is one line."""
    line = str(error.value)
    assert len(line.splitlines()) == 1
    return line


def test_no_bucket_no_credentials_nobody_there(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in which S3 can be wrong is told by its own line that says how to mend it."""
    with pytest.raises(BadRequest) as missing:
        objects.create("s3://no-such-bucket/x", b"")
    assert "there is no such bucket or object" in line_of(missing)
    with proxy(s3.base, Faults(forbidden=True)) as forbidding:
        s3.go_through(forbidding.base)
        with pytest.raises(BadRequest) as forbidden:
            objects.create(f"{s3.address}/x", b"")
        assert "permission denied" in line_of(forbidden)
    s3.go_through(f"http://127.0.0.1:{free_port()}")
    once = {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 1}}}
    monkeypatch.setattr(objects, "_OPTIONS", {"s3": once})
    with pytest.raises(BadRequest) as nobody:
        objects.create(f"{s3.address}/x", b"")
    assert "cannot be reached" in line_of(nobody)
    s3.go_through(s3.base)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(BadRequest) as nameless:
        objects.create(f"{s3.address}/x", b"")
    assert "no credentials were found" in line_of(nameless)


@pytest.mark.slow
def test_large_files_go_in_parts_through_a_bad_network(s3: Storage, tmp_path: Path) -> None:
    """A file of three parts arrives, and comes back, through resets, lost answers, cut bodies and 503s."""
    file = tmp_path / "large"
    file.write_bytes(os.urandom(1 << 20) * 40)
    with proxy(s3.base, Faults(drop_every=7, forget_every=11, cut_every=5, busy_every=4)) as bad:
        s3.go_through(bad.base)
        began = time.monotonic()
        objects.send(file, f"{s3.address}/large")
        sent = time.monotonic()
        came = objects.fetch(f"{s3.address}/large", tmp_path / "came")
    say(f"40 MB up in {sent - began:.1f} s, down in {time.monotonic() - sent:.1f} s: {dict(bad.done)}")
    assert came.read_bytes() == file.read_bytes()
    assert {path.partition("partNumber=")[2].partition("&")[0] for _, path in bad.requests} >= {"1", "2", "3"}
    assert {"drop", "cut", "busy"} <= bad.done.keys()
