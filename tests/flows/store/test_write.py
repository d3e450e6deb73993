from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.store.write import BLOCK, END, Spill, hash_file, pack, read_piece, write_tar

MEMBERS = {"real.jpg": b"r" * 513, "composite.jpg": b"c" * 512, "json": b"{}", "mask.png": b""}


def test_a_packed_sample_is_the_same_bytes_in_any_order_of_its_members() -> None:
    """A sample's bytes depend on its content alone, not on the order in which members were made."""
    assert pack("a", MEMBERS) == pack("a", dict(reversed(MEMBERS.items())))


def test_a_packed_sample_is_these_bytes() -> None:
    """The bytes are those of POSIX ustar, spelt out here by hand, so they are constant over versions and machines."""
    header = bytearray(BLOCK)
    header[0:6] = b"a.json"
    for offset, text in ((100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"), (124, b"00000000002\0")):
        header[offset : offset + len(text)] = text
    header[136:148] = b"00000000000\0"
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert pack("a", {"json": b"{}"}) == bytes(header) + b"{}" + bytes(BLOCK - 2)


def test_members_are_sorted_plain_and_without_time_or_owner(tmp_path: Path) -> None:
    """`tarfile` reads what `write_tar` wrote: sorted members, mtime, uid and gid 0, mode 644, no names of owners."""
    write_tar(tmp_path / "x.tar", [pack("a", MEMBERS), pack("b", MEMBERS)])
    with tarfile.open(tmp_path / "x.tar") as archive:
        found = archive.getmembers()
        content = {member.name: archive.extractfile(member).read() for member in found}  # type: ignore[union-attr]
    assert [member.name for member in found] == [f"{key}.{name}" for key in "ab" for name in sorted(MEMBERS)]
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname, m.isreg()) for m in found} == {
        (0, 0, 0, 0o644, "", "", True)
    }
    assert content == {f"{key}.{name}": data for key in "ab" for name, data in MEMBERS.items()}


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024])
def test_every_member_is_padded_to_whole_blocks(size: int) -> None:
    """A sample's extent is whole blocks, whatever the size of its content, so extents can be put together."""
    packed = pack("a", {"json": b"x" * size})
    assert len(packed) == BLOCK + -(-size // BLOCK) * BLOCK
    assert packed[BLOCK : BLOCK + size] == b"x" * size


def test_extents_put_together_in_another_order_are_a_tar() -> None:
    """Packed samples can be copied in any order: the tar needs nothing else but its end."""
    one, other = pack("a", MEMBERS), pack("b", MEMBERS)
    with tarfile.open(fileobj=io.BytesIO(other + one + END)) as archive:
        assert [name.partition(".")[0] for name in archive.getnames()] == ["b"] * 4 + ["a"] * 4


@pytest.mark.parametrize("key", ["a.b", "a/b", "../a"])
def test_a_key_with_dot_or_slash_is_refused(key: str) -> None:
    """Readers cut names at the first dot, so a dotted key would merge two samples; a slash would make a folder."""
    with pytest.raises(ValueError, match="key must hold neither dot nor slash"):
        pack(key, {"json": b""})


def test_a_name_of_100_characters_fits_and_a_longer_one_is_refused() -> None:
    """A name that the tar cannot hold is an error, never cut short silently."""
    key = "k" * 95
    with tarfile.open(fileobj=io.BytesIO(pack(key, {"json": b"1"}) + END)) as archive:
        assert archive.getnames() == [f"{key}.json"]
    with pytest.raises(ValueError, match="name is too long"):
        pack(f"{key}k", {"json": b"1"})


def test_written_tells_hash_size_and_samples(tmp_path: Path) -> None:
    """What `write_tar` returns is what lies on disk."""
    path = tmp_path / "shards" / "x.tar"
    written = write_tar(path, (pack(key, MEMBERS) for key in "abc"))
    data = path.read_bytes()
    assert (written.sha256, written.size, written.samples) == (hashlib.sha256(data).hexdigest(), len(data), 3)
    assert hash_file(path) == (written.sha256, written.size)


def test_a_tar_whose_samples_break_off_leaves_the_old_one(tmp_path: Path) -> None:
    """An error in the middle of a shard leaves what was there, and nothing half written beside it."""
    path = tmp_path / "x.tar"
    write_tar(path, [pack("a", MEMBERS)])
    before = path.read_bytes()

    with pytest.raises(RuntimeError, match="broken off"):
        write_tar(path, _breaking_off())
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["x.tar"]


def _breaking_off() -> Iterator[bytes]:
    yield pack("b", MEMBERS)
    raise RuntimeError("broken off")


def test_spill_gives_back_what_was_put_in_any_order(tmp_path: Path) -> None:
    """Pieces of any size come back whole to whoever opens the file, and empty ones too."""
    pieces = [bytes([number]) * (number * 37 % 1000) for number in range(50)]
    with Spill(tmp_path) as spill:
        places = [spill.put(piece) for piece in pieces]
    with spill.path.open("rb") as file:
        assert [read_piece(file, place) for place in reversed(places)] == pieces[::-1]


def test_spill_of_a_shard_that_fails_does_not_stay(tmp_path: Path) -> None:
    """An error on the way takes the file along; a file that stays is named so that the next build sweeps it."""
    spill = Spill(tmp_path)
    assert spill.path.match(".*.tmp")
    with pytest.raises(RuntimeError, match="broken off"):
        _break_off_into(spill)
    assert not list(tmp_path.iterdir())


def _break_off_into(spill: Spill) -> None:
    with spill:
        spill.put(b"x" * 1_000_000)
        raise RuntimeError("broken off")
