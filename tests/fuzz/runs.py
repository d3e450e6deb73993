"""Targets in a run that somebody else hands over: plan, index, markers, manifest, decisions, tars, an export begun."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import flows.runners
from flows import cli
from flows.cli import main
from flows.errors import BadRequest
from flows.store.layout import Layout
from flows.store.read import Damaged, load_samples, read_sample, read_tar
from flows.store.write import END
from tests.conftest import write_coco
from tests.flows.here import Here
from tests.flows.make.building import build_in
from tests.fuzz.mutate import EVIL, mutate_bytes, mutate_json, mutate_lines, mutate_value, write_json
from tests.fuzz.sources import scratch
from tests.fuzz.target import Refused, Target

SHARD = "train-00000"


@cache
def _whole() -> Layout:
    """Return a run of four edits, two of them in one shard; made once."""
    cli._parser = cache(cli._parser)  # it takes longer to make than most files to refuse
    flows.runners.open_runner = lambda _: Here()  # type: ignore[assignment,return-value]
    flows.runners.LocalRunner = lambda _: Here()  # type: ignore[assignment,misc,return-value]
    folder = Path(tempfile.mkdtemp())
    write_coco(folder / "coco", images=8)
    layout = build_in(folder / "coco", folder, samples=4)
    assert main(["ban", str(layout.run), "--max-effect", "1000"]) == 0
    layout.beside.mkdir()
    (layout.beside / "moves.json").write_text(json.dumps({"files": ["index/x.parquet"], "removed": ["shards/old.tar"]}))
    return layout


COMMANDS: dict[str, Sequence[str]] = {
    "status": (),
    "verify": (),
    "card": (),
    "gallery": (),
    "repair": (),
    "undo": (),
    "ban": ("--max-effect", "100"),
    "regate": ("--threshold", "300", "--gate", "effect_small"),
    "export": (),
    "remake": (),
    "statistics": (),
    "load": (),
    "build": (),
}


SLOW = frozenset({"repair", "undo", "ban", "build", "statistics"})
"""They draw plots, which takes a second: they are run in one case of 50."""


def _commands(layout: Layout, commands: Sequence[str], *, key: str) -> None:
    """Run commands on the run as a user would: exit code 0, 1, or 2 with one line; nothing else may come."""
    codes = set()
    for command in commands:
        words = {
            "export": [str(layout.run), str(layout.run.parent / "export"), "--format", "folder"],
            "remake": [str(layout.run), key],
            "build": [
                *("--source", str(_whole().run.parent / "coco"), "--output", str(layout.run.parent), "--run", "run"),
                *("--gate", "off", "--stages", "harmonization", "--shard-size", "8", "--samples", "4"),
            ],
        }.get(command, [str(layout.run), *COMMANDS[command]])
        if command == "load":
            codes.add(_load(layout))
            continue
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = main([command, *words])
        codes.add(code)
        assert code in {0, 1, 2}
        if code == 2:
            assert error.getvalue().count("\n") == 1, f"not one line: {error.getvalue()[:300]!r}"
            assert len(error.getvalue()) < 3000, f"a line of {len(error.getvalue())} characters"
    if codes == {2}:
        raise Refused


def _load(layout: Layout) -> int:
    """Load the samples as a training does: 0, or 2 where it is told what is wrong."""
    try:
        for split in ("train", "test"):
            for _ in load_samples(layout.run, split=split, batch_size=1):
                pass
    except (BadRequest, Damaged) as error:
        assert "\n" not in str(error), f"not one line: {str(error)[:300]!r}"
        return 2
    return 0


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_relative_to(folder / "run") and not path.is_relative_to(folder / "export")
    }


def _run_in(
    place: str, commands: Sequence[str], data: bytes, *, how: Callable[[Path, bytes], None] | None = None
) -> None:
    """Put a file into a copy of the run, run commands on it, and see that nothing beside the run was written."""
    rng = random.Random(hashlib.sha256(data).digest())
    quick, slow = ([name for name in commands if (name in SLOW) == is_slow] for is_slow in (False, True))
    chosen = rng.sample(quick, k=min(2, len(quick))) + (rng.sample(slow, k=1) if slow and rng.random() < 0.02 else [])
    with scratch() as folder:
        layout = Layout(folder / "run")
        shutil.copytree(_whole().run, layout.run, copy_function=shutil.copyfile)
        if not place.startswith(".beside"):
            shutil.rmtree(layout.beside)
        (folder / "victim.tar").write_bytes(b"victim")
        (folder / "victim.json").write_bytes(b"victim")
        rows = pq.read_table(layout.index(SHARD), columns=["key"])["key"].to_pylist()
        (how or Path.write_bytes)(layout.run / place, data)
        before = _snapshot(folder)
        try:
            _commands(layout, chosen, key=rows[0])
        finally:
            after = {path: about for path, about in _snapshot(folder).items() if not path.startswith("export")}
            assert after == before, f"written beside the run: {sorted(set(after) ^ set(before))[:3]}"


def _file(place: str, *more: bytes) -> Callable[[], Sequence[bytes]]:
    return lambda: [(_whole().run / place).read_bytes(), *more]


_DEEP = b"[" * 100_000 + b"]" * 100_000
_WORDS = (
    "../victim",
    "../../victim",
    "shards/../../victim.tar",
    SHARD,
    "fusion-train-00000",
    "/dev/zero",
    "harmonization",
    4,
    2,
)


# tables


def _table(place: str) -> Callable[[], Sequence[bytes]]:
    """Return a table's rows as JSON, and what pyarrow can be asked to write that is larger in memory than on disk."""

    def seeds() -> Sequence[bytes]:
        rows = pq.read_table(_whole().run / place).to_pylist()
        for row in rows:
            for name, value in row.items():
                if isinstance(value, bytes):
                    row[name] = value.decode()
        valid = json.dumps(rows).encode()
        return [valid, valid, b'"same"', b'"rows"', b'"columns"', b'"names"']

    return seeds


def _write_table(path: Path, data: bytes) -> None:  # noqa: C901 - a bomb a line
    """Write rows as the table that they are, with the types of the true one where they fit; bombs by their names."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    schema = pq.read_schema(path)
    if value == "same":  # one long text for a million rows
        long = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["x" * 100_000]))
        pq.write_table(pa.table({"key": long}), path, compression="zstd", store_schema=False)
        return
    if value == "rows":
        pq.write_table(pa.table({"key": pa.nulls(50_000_000, pa.string())}), path)
        return
    if value == "columns":
        pq.write_table(pa.table({f"c{n}": [0] for n in range(20_000)}), path)
        return
    if value == "names":
        pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["key", "key"]), path)
        return
    if not isinstance(value, list):
        path.write_bytes(data)
        return
    rows = [row for row in value if isinstance(row, dict)]
    names = list(dict.fromkeys(name for row in rows for name in row if isinstance(name, str)))
    arrays = []
    for name in names:
        cells = [row.get(name) for row in rows]
        kind = schema.field(name).type if name in schema.names else None
        if kind == pa.binary():
            cells = [cell.encode("utf-8", "surrogatepass") if isinstance(cell, str) else cell for cell in cells]
        try:
            arrays.append(pa.array(cells, kind))
        except (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError):
            arrays.append(pa.array([repr(cell)[:100_000].encode("utf-8", "replace").decode() for cell in cells]))
    try:
        safe = [name.encode("utf-8", "replace").decode() for name in names]
        pq.write_table(pa.Table.from_arrays(arrays, names=safe), path)
    except (pa.ArrowException, UnicodeError, ValueError):
        path.write_bytes(data)


def _change_table(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.15:
        return data[:1] + mutate_bytes(data[1:], rng)
    return write_json(mutate_value(json.loads(data), rng, words=_WORDS))


def _raw_table(path: Path, data: bytes) -> None:
    path.write_bytes(data)


# tars


def _tars() -> Sequence[bytes]:
    valid = (_whole().run / f"shards/{SHARD}.tar").read_bytes()
    sparse = tarfile.TarInfo("000000000001-000000000010-00.json")
    sparse.mode = 0o644
    sparse.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" + b"00000000000\0"
    header[483:495] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.json")
        member.mode = 0o644
        member.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.size": "8000000000000",
            "GNU.sparse.map": "0,0",
        }
        archive.addfile(member, io.BytesIO())
    deep = tarfile.TarInfo("000000000001-000000000010-00.json")
    deep.mode, deep.size = 0o644, len(_DEEP)
    nested = deep.tobuf(tarfile.USTAR_FORMAT) + _DEEP + bytes(-len(_DEEP) % 512) + END
    return [valid, bytes(header) + END, out.getvalue(), nested, valid[:-1024], valid + valid]


def _change_tar(data: bytes, rng: random.Random) -> bytes:
    """Change a header and mend its checksum, or change bytes."""
    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    places = [at for at in range(0, len(data) - 512, 512) if data[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(places)
    header = bytearray(data[at : at + 512])
    field = rng.choice(
        ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155), (482, 30))
    )
    text = rng.choice([each for each in EVIL if isinstance(each, str) and each[:1] != "@"]).encode(
        "utf-8", "surrogatepass"
    )
    new = rng.choice(
        (text, b"77777777777\0", b"\x80" + b"\xff" * 11, b"-1", rng.randbytes(4), b"S", b"L", b"x", b"g", b"2")
    )
    header[field[0] : field[0] + min(len(new), field[1])] = new[: field[1]]
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return data[:at] + bytes(header) + data[at + 512 :]


def _run_tar(data: bytes) -> None:
    """Read a tar whole and by pieces, as `verify`, the pages and the loader do."""
    with scratch() as folder:
        (folder / "x.tar").write_bytes(data)
        refused = 0
        try:
            for stored in read_tar(folder / "x.tar"):
                try:
                    _ = stored.record
                except Damaged:
                    refused += 1
        except Damaged:
            refused += 1
        for offset, size in ((0, len(data)), (0, 512 * 40), (512, 2048), (0, 10**15), (-1, 5)):
            with contextlib.suppress(Damaged):
                read_sample(folder / "x.tar", offset=offset, size=size)
        if refused:
            raise Refused


def _write_forged(path: Path, data: bytes) -> None:
    """Write a tar whose hash the manifest agrees with."""
    path.write_bytes(data)
    manifest_path = path.parents[1] / "manifest.json"
    manifest = json.loads(manifest_path.read_bytes())
    for entry in manifest["shards"]:
        if entry["path"] == f"shards/{path.name}":
            entry["sha256"] = hashlib.sha256(data).hexdigest()
    manifest_path.write_text(json.dumps(manifest))


def _run_export_state(data: bytes) -> None:
    with scratch() as folder:
        (folder / "run").mkdir()
        layout = Layout(folder / "run")
        shutil.copytree(_whole().run, layout.run, copy_function=shutil.copyfile, dirs_exist_ok=True)
        for name in ("export", "export.unfinished"):
            (folder / name).mkdir()
            (folder / name / ".hcoco-export.json").write_bytes(data)
        _commands(layout, ("export",), key="x")


_PAGES = ("card", "gallery", "export", "verify", "remake", "regate", "load", "statistics", "ban")
_ALL = tuple(COMMANDS)
_json = partial(mutate_json, words=_WORDS)
INDEX, PART, TAR = f"index/{SHARD}.parquet", "plan/part-00000.parquet", f"shards/{SHARD}.tar"

TARGETS = (
    Target("plan", _file("plan.json", _DEEP), _json, partial(_run_in, "plan.json", _ALL), mutable=1),
    Target(
        "plan-part",
        _table(PART),
        _change_table,
        partial(_run_in, PART, ("verify", "remake", "build", "repair"), how=_write_table),
        share=0.75,
        mutable=2,
    ),
    Target("manifest", _file("manifest.json", _DEEP), _json, partial(_run_in, "manifest.json", _ALL), mutable=1),
    Target(
        "marker", _file(f"done/{SHARD}.json", _DEEP), _json, partial(_run_in, f"done/{SHARD}.json", _ALL), mutable=1
    ),
    Target(
        "decisions",
        _file("decisions.json", _DEEP),
        _json,
        partial(_run_in, "decisions.json", _ALL),
        share=0.75,
        mutable=1,
    ),
    Target(
        "history",
        _file("done/decisions.jsonl", _DEEP),
        mutate_lines,
        partial(_run_in, "done/decisions.jsonl", ("repair", "status", "undo")),
        share=0.75,
        mutable=1,
    ),
    Target(
        "moves",
        _file(".beside/moves.json", _DEEP),
        _json,
        partial(_run_in, ".beside/moves.json", ("status", "repair", "ban", "gallery")),
        share=0.75,
        mutable=1,
    ),
    Target(
        "index", _table(INDEX), _change_table, partial(_run_in, INDEX, (*_PAGES, "repair"), how=_write_table), mutable=2
    ),
    Target(
        "index-bytes",
        _file(INDEX),
        mutate_bytes,
        partial(_run_in, INDEX, (*_PAGES, "repair"), how=_raw_table),
        share=0.75,
        mutable=1,
    ),
    Target("tar", _tars, _change_tar, _run_tar, share=8, mutable=1),
    Target(
        "tar-in-run",
        _tars,
        _change_tar,
        partial(_run_in, TAR, (*_PAGES, "repair"), how=_write_forged),
        share=0.75,
        mutable=1,
    ),
    Target(
        "export-begun",
        lambda: [json.dumps({"version": 1, "format": "folder"}).encode(), _DEEP],
        _json,
        _run_export_state,
        share=0.75,
        mutable=1,
    ),
)
