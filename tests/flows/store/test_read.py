from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.errors import BadRequest
from flows.store.layout import Layout
from flows.store.read import Damaged, find_sample, read_sample, read_tar
from flows.store.write import END, pack, write_tar
from tests.flows.make.building import build_in, rows_of


def members_of(key: str) -> dict[str, bytes]:
    """Return the members of a sample, of sizes of their own."""
    return {
        "composite.jpg": key.encode() * 700,
        "json": b'{"key":"%s"}' % key.encode(),
        "mask.png": b"",
        "real.jpg": b"r" * 512,
    }


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    """Return a tar of three samples."""
    path = tmp_path / "x.tar"
    write_tar(path, (pack(key, members_of(key)) for key in ("aa", "b", "ccc")))
    return path


def places(keys: tuple[str, ...] = ("aa", "b", "ccc")) -> dict[str, tuple[int, int]]:
    """Return offset and size of each sample."""
    found, offset = {}, 0
    for key in keys:
        size = len(pack(key, members_of(key)))
        found[key] = (offset, size)
        offset += size
    return found


def test_a_sample_is_read_by_its_place(tar: Path) -> None:
    """Offset and size give the sample, whole and alone."""
    for key, (offset, size) in places().items():
        stored = read_sample(tar, offset=offset, size=size)
        assert (stored.key, stored.members, stored.offset, stored.size) == (key, members_of(key), offset, size)
        assert stored.record == {"key": key}


def test_a_tar_is_read_in_order_with_the_places_of_its_samples(tar: Path) -> None:
    """Reading through gives every sample with the place by which it can be read alone."""
    assert {stored.key: (stored.offset, stored.size) for stored in read_tar(tar)} == places()
    assert [stored.members for stored in read_tar(tar)] == [members_of(key) for key in places()]


@pytest.mark.parametrize("shift", [-512, 512, 1, 1536])
def test_a_wrong_offset_is_damage(tar: Path, shift: int) -> None:
    """An offset that is off, by blocks or bytes, never gives another sample's content."""
    offset, size = places()["b"]
    with pytest.raises(Damaged):
        read_sample(tar, offset=offset + shift, size=size)


@pytest.mark.parametrize("shift", [-2048, -512, -1, 512, 5120])
def test_a_wrong_size_is_damage(tar: Path, shift: int) -> None:
    """A size that is off never gives part of a sample, or two."""
    offset, size = places()["b"]
    with pytest.raises(Damaged):
        read_sample(tar, offset=offset, size=size + shift)


def test_a_place_behind_the_end_is_damage(tar: Path) -> None:
    """A place where nothing lies is damage, not an empty sample."""
    with pytest.raises(Damaged):
        read_sample(tar, offset=10**6, size=2048)


def test_a_missing_tar_is_damage(tmp_path: Path) -> None:
    """A tar that is gone is told by its name."""
    with pytest.raises(Damaged, match=r"gone\.tar: No such file"):
        read_sample(tmp_path / "gone.tar", offset=0, size=512)
    with pytest.raises(Damaged, match=r"gone\.tar: No such file"):
        list(read_tar(tmp_path / "gone.tar"))


@pytest.mark.parametrize("left", [300, 512, 700, 2000, 3000])
def test_a_tar_that_is_cut_short_is_damage_or_lacks_the_sample(tar: Path, left: int) -> None:
    """However a tar is cut inside its first sample, that sample is never taken for whole."""
    tar.write_bytes(tar.read_bytes()[:left])
    offset, size = places()["aa"]
    with pytest.raises(Damaged):
        read_sample(tar, offset=offset, size=size)
    try:
        found = [stored.members for stored in read_tar(tar)]
    except Damaged:
        return
    assert members_of("aa") not in found


@pytest.mark.parametrize("place", [0, 100, 148, 257])
def test_a_flipped_byte_in_a_header_is_damage(tar: Path, place: int) -> None:
    """A header whose checksum does not fit its bytes is no sample."""
    data = bytearray(tar.read_bytes())
    data[place] ^= 1
    tar.write_bytes(data)
    offset, size = places()["aa"]
    with pytest.raises(Damaged):
        read_sample(tar, offset=offset, size=size)
    with pytest.raises(Damaged):
        list(read_tar(tar))


@pytest.mark.parametrize(
    "change",
    [
        lambda member: setattr(member, "mtime", 1),
        lambda member: setattr(member, "uid", 1000),
        lambda member: setattr(member, "mode", 0o755),
        lambda member: setattr(member, "uname", "me"),
        lambda member: setattr(member, "name", "a/b.json"),
        lambda member: setattr(member, "name", "nodot"),
        lambda member: setattr(member, "type", tarfile.SYMTYPE),
    ],
    ids=["mtime", "uid", "mode", "uname", "slash", "nodot", "symlink"],
)
def test_a_member_that_no_writer_here_makes_is_damage(
    tmp_path: Path, change: Callable[[tarfile.TarInfo], None]
) -> None:
    """Times, owners, links and names that would differ between two makings are found."""
    header = tarfile.TarInfo("a.json")
    change(header)
    path = tmp_path / "x.tar"
    path.write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + END)
    with pytest.raises(Damaged):
        list(read_tar(path))


def test_a_json_member_that_is_none_is_damage(tmp_path: Path) -> None:
    """A record that is missing, no JSON or no object is damage when it is asked for."""
    path = tmp_path / "x.tar"
    write_tar(path, [pack("a", {"mask.png": b""}), pack("b", {"json": b"{"}), pack("c", {"json": b"[]"})])
    for stored in read_tar(path):
        with pytest.raises(Damaged, match=f"{stored.key}: the json member is"):
            _ = stored.record


def test_every_sample_of_a_run_is_found_by_its_key_and_read_by_its_row(tiny_coco: Path, tmp_path: Path) -> None:
    """The index leads to every sample, kept or rejected, without a scan."""
    layout = build_in(tiny_coco, tmp_path, samples=16)
    rows = rows_of(layout)
    assert len(rows) == 16
    for row in rows:
        found = find_sample(layout, row["key"])
        shard = found.pop("shard")
        assert found == row
        assert layout.index(shard).is_file()
        stored = read_sample(layout.run / row["tar"], offset=row["offset"], size=row["size"])
        assert stored.key == stored.record["key"] == row["key"]


def test_a_key_that_does_not_exist_is_a_bad_request(tmp_path: Path) -> None:
    """An unknown key is answered with what a key looks like."""
    with pytest.raises(BadRequest, match="has no sample 'x'; keys look like 0"):
        find_sample(Layout(tmp_path), "x")


@pytest.mark.parametrize(("offset", "size"), [(-5, 10), (0, -1), (2**70, 10), (0, 2**70)])
def test_an_extent_that_no_file_can_have_is_damage(tmp_path: Path, offset: int, size: int) -> None:
    """A forged index leads to the same word as a cut tar, never to an error of the system."""
    (tmp_path / "x.tar").write_bytes(bytes(1024))
    with pytest.raises(Damaged, match="no sample"):
        read_sample(tmp_path / "x.tar", offset=offset, size=size)
