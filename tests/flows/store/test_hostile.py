"""Files of a run that somebody else made on purpose: they are refused, and nothing outside the run is touched."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.errors import BadRequest
from flows.make.plan import read_plan
from flows.make.shard import read_marker
from flows.store.cells import harmless_cell
from flows.store.index import MOST_ROWS, read_bounded, read_index
from flows.store.layout import Layout, is_inside, read_json
from flows.store.manifest import read_manifest, read_places
from flows.store.read import Damaged, read_sample, read_tar
from flows.store.record import INDEX
from flows.store.write import END

OUTSIDE = (
    "../x",
    "/etc/passwd",
    "shards/../../x.tar",
    "a\0b",
    "",
    ".",
    "..",
    "./x",
    "shards//x.tar",
    "x/",
    "~/x",
    "C:\\x",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leaves_the_run_is_none(path: str, tmp_path: Path) -> None:
    """Whatever a table, a marker or a manifest names lies below the run."""
    assert not is_inside(path)
    with pytest.raises(ValueError, match="no path below the run"):
        Layout(tmp_path).inside(path)


@pytest.mark.parametrize(
    "path", ["shards/train-00000.tar", "rejected/fusion-val-00001.tar", "index/test-00000.parquet"]
)
def test_paths_as_they_are_written_are_inside(path: str, tmp_path: Path) -> None:
    """The paths of every run are taken."""
    assert Layout(tmp_path).inside(path) == tmp_path / path


def test_json_that_is_nested_without_end_is_one_line(tmp_path: Path) -> None:
    """A hundred thousand brackets are no reason for a traceback, and a pipe is not waited for."""
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "deep.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match="no plain file"):
        read_json(tmp_path / "pipe.json")
    (tmp_path / "long.json").write_text("[" + "1," * 100 + "1]")
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        read_json(tmp_path / "long.json", most=100)


def test_a_sparse_member_is_not_unpacked(tmp_path: Path) -> None:
    """Of a tar of 2 kB that claims eight gigabytes of zeros, as GNU tar may write it, nothing is read."""
    member = tarfile.TarInfo("a.json")
    member.mode, member.type = 0o644, tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" * 2
    header[483:495] = b"77777777777\0"  # the size once unpacked
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(header) + END)
    with pytest.raises(Damaged):
        list(read_tar(path))
    with pytest.raises(Damaged):
        read_sample(path, offset=0, size=512)


def test_a_pipe_for_a_tar_is_not_waited_for(tmp_path: Path) -> None:
    """A run from a stranger may hold one."""
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(Damaged):
        read_sample(tmp_path / "x.tar", offset=0, size=512)
    with pytest.raises(Damaged):
        list(read_tar(tmp_path / "x.tar"))


def test_an_extent_larger_than_the_tar_takes_no_memory(tmp_path: Path) -> None:
    """A forged index that claims a petabyte is damage."""
    (tmp_path / "x.tar").write_bytes(bytes(1024))
    with pytest.raises(Damaged):
        read_sample(tmp_path / "x.tar", offset=0, size=10**15)


def _row(**changes: Any) -> dict[str, Any]:
    return {"key": "k", "split": "train", "status": "kept", "tar": "shards/x.tar", "offset": 0, "size": 512, **changes}


@pytest.mark.parametrize(
    "row",
    [
        *(_row(tar=path) for path in ("../x.tar", "/dev/zero", "shards/../../x.tar")),
        *(_row(key=None), _row(offset=None), _row(tar=None), _row(status=None)),
        *(_row(key=1), _row(offset="0")),
    ],
)
def test_a_forged_row_of_the_index_is_damage(tmp_path: Path, row: dict[str, Any]) -> None:
    """No row leads out of the run, lacks its key or its place, or holds another type."""
    try:
        table = pa.Table.from_pylist([row], schema=pa.schema([INDEX.field(name) for name in row]))
    except (pa.ArrowException, TypeError):  # of another type than the index has
        table = pa.Table.from_pylist([row])
    pq.write_table(table, tmp_path / "i.parquet")
    with pytest.raises(pa.ArrowException):
        read_index(tmp_path / "i.parquet")


def test_a_text_that_stands_in_every_row_is_not_multiplied(tmp_path: Path) -> None:
    """A file of a few kilobytes can stand for ten gigabytes: it is refused before they are taken."""
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["x" * 100_000]))
    pq.write_table(pa.table({"key": long}), tmp_path / "i.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "i.parquet").stat().st_size < 100_000
    with pytest.raises(pa.ArrowException, match="too large"):
        read_bounded(tmp_path / "i.parquet")


def test_a_table_of_too_many_rows_or_columns_is_refused(tmp_path: Path) -> None:
    """Rows of nothing take no place in a file, and much in memory."""
    pq.write_table(pa.table({"key": pa.nulls(MOST_ROWS + 1, pa.string())}), tmp_path / "rows.parquet")
    pq.write_table(pa.table({f"c{number}": [0] for number in range(1001)}), tmp_path / "columns.parquet")
    for name in ("rows", "columns"):
        with pytest.raises(pa.ArrowException, match="claims"):
            read_bounded(tmp_path / f"{name}.parquet")


@pytest.mark.parametrize("name", ["../../victim", "/victim", "a/b", "..", "a\0", ""])
def test_a_shard_whose_name_leads_out_of_the_run_is_refused(
    whole_plan: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """A plan from a stranger names no file outside the run, so that building and repairing write none."""
    whole_plan["shards"][0]["name"] = name
    (tmp_path / "plan.json").write_text(json.dumps(whole_plan))
    with pytest.raises(BadRequest, match="is damaged"):
        read_plan(Layout(tmp_path))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("shards", 0, "planned"), "8"),
        (("shards", 0, "part"), 7),
        (("shards", 0, "row_group"), -1),
        (("shards", 0, "stage"), "other"),
        (("parts", 0, "path"), "../../etc/passwd"),
        (("parts", 0, "sha256"), None),
        (("roots",), []),
        (("code",), {"hcoco": 1}),
        (("selection", "people"), "many"),
        (("selection", "curve"), [1]),
        (("selection",), {"people": 1}),
        (("identity", "seed"), "x"),
        (("identity", "stages"), None),
        (("settings",), None),
        (("gate",), {"checkpoint": 1}),
    ],
)
def test_a_plan_with_a_value_of_another_kind_is_one_line(
    whole_plan: dict[str, Any], tmp_path: Path, path: tuple[Any, ...], value: object
) -> None:
    """Whatever is wrong in it is told when it is read, not by a traceback later."""
    place: Any = whole_plan
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    (tmp_path / "plan.json").write_text(json.dumps(whole_plan))
    with pytest.raises(BadRequest, match="is damaged"):
        read_plan(Layout(tmp_path))


@pytest.fixture
def whole_plan() -> dict[str, Any]:
    """Return a plan of one shard that is read."""
    shard = {"name": "train-00000", "split": "train", "part": 0, "row_group": 0, "planned": 8, "pixels": 1}
    return {
        "version": 1,
        "settings": {"stages": ["harmonization"], "samples": None, "variants": 1},
        "identity": {"seed": 0, "max_side": None, "families": {"mkl": 1.0}, "stages": ["harmonization"]},
        "code": {"hcoco": "0.1.0"},
        "roots": {"tiny": "/photographs"},
        "licenses": {},
        "selection": {
            "images": 1,
            "people": 2,
            "subjects": 2,
            "unpaired": 0,
            "curve": [[0.0, 2]],
            "dropped_by_reason": {},
        },
        "parts": [{"path": "plan/part-00000.parquet", "sha256": "0"}],
        "shards": [{**shard, "stage": "harmonization"}],
    }


def test_the_plan_of_these_tests_is_read(whole_plan: dict[str, Any], tmp_path: Path) -> None:
    """What is refused above is refused for what was changed."""
    (tmp_path / "plan.json").write_text(json.dumps(whole_plan))
    assert read_plan(Layout(tmp_path)).planned == 8


@pytest.mark.parametrize(
    "change",
    [
        {"planned": "8"},
        {"files": {"/etc/passwd": {"size": 1}}},
        {"files": {"../x": {"size": 1}}},
        {"files": []},
        {"kept": None},
    ],
)
def test_a_forged_marker_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    """A marker with other kinds of values, or files outside the run, counts as missing."""
    counts = {"planned": 8, "kept": 8, "rejected": 0, "by_reason": {}, "by_family": {}}
    marker = {
        "version": 1,
        "shard": "x",
        **counts,
        "files": {"shards/x.tar": {"size": 1}},
        "seconds": 1.0,
        "finished": 1.0,
    }
    layout = Layout(tmp_path)
    layout.done("x").parent.mkdir()
    layout.done("x").write_text(json.dumps(marker))
    assert read_marker(layout, "x") is not None
    layout.done("x").write_text(json.dumps({**marker, **change}))
    assert read_marker(layout, "x") is None


def test_a_manifest_that_points_elsewhere_opens_nothing(tmp_path: Path) -> None:
    """Who is going to open the files of a manifest is told that one lies outside the run."""
    counts = {"planned": 0, "kept": 0, "rejected": 0, "by_reason": {}, "by_family": {}}
    entry = {"path": "shards/../../../etc/passwd", "sha256": "0", "samples": 1}
    manifest = {"counts": counts, "selection": {}, "settings": {}, "code": {}, "shards": [entry]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadRequest, match="not in the run"):
        read_places(Layout(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"counts": {"\ud800": 1}},
        {"selection": {"\ud800": 1}},
        {"counts": {"by_family": {"mkl": {"kept": 1}}}},
        {"counts": {"by_family": {"mkl": {"kept": 1, "rejected": None}}}},
        {"counts": {"by_stage": {"fusion": {}}}},
    ],
)
def test_a_manifest_of_other_values_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    """Lone surrogates and families without counts: no manifest, and no traceback."""
    counts = {"planned": 0, "kept": 0, "rejected": 0, "by_reason": {}, "by_family": {"mkl": {"kept": 0, "rejected": 0}}}
    manifest: dict[str, Any] = {"counts": counts, "selection": {}, "settings": {}, "code": {}, "shards": []}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(Layout(tmp_path))["counts"] == counts
    change = {name: {**manifest[name], **value} for name, value in change.items()}
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(BadRequest, match="no manifest of hcoco") as told:
        read_manifest(Layout(tmp_path))
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    "selection", [{"curve": [[1]]}, {"curve": "x"}, {"people": "many"}, {"dropped_by_reason": {"a": None}}]
)
def test_a_manifest_whose_counts_are_none_is_one_line(tmp_path: Path, selection: dict[str, Any]) -> None:
    """The report draws what stands there: it is looked at before."""
    counts = {"planned": 0, "kept": 0, "rejected": 0, "by_reason": {}, "by_family": {}}
    manifest = {"counts": counts, "selection": selection, "settings": {}, "code": {}, "shards": []}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadRequest, match="no manifest of hcoco"):
        read_manifest(Layout(tmp_path))


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)", " =1", "\t=1"])
def test_text_from_outside_is_no_formula(text: str) -> None:
    """A spreadsheet that opens a table of ours runs nothing."""
    assert harmless_cell(text) == f"'{text}"
    assert harmless_cell("Attribution License") == "Attribution License"
    assert harmless_cell(-1.5) == -1.5
