"""Runs in object storage: the same bytes, from any machine, whatever died on the way."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pytest

from flows import objects
from flows.cli import main
from flows.errors import BadRequest
from flows.make.plan import Planned, plan_run
from flows.make.remake import remake
from flows.make.run import left_to_make
from flows.make.shard import make_shard
from flows.make.status import read_status
from flows.make.verify import verify_run
from flows.settings import parse_settings
from flows.store import remote
from flows.store.layout import Layout, open_run
from flows.store.lock import only_build
from flows.store.read import Damaged, find_sample, read_sample
from flows.store.remote import copy_run, run_folder
from flows.view.refresh import write_views
from tests.flows.make.building import build_in, make_left

TIMES = ("seconds", "finished")
SMALL: Mapping[str, Any] = {"samples": 10, "shard_size": 4, "seed": 4}
"""Settings of the run that these tests make: of three shards."""


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Return an address for runs in this process's memory, with a cache of this test's own."""
    monkeypatch.setenv("HCOCO_CACHE", str(tmp_path / "cache"))
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Return a function after which everything is as on another machine: nothing is cached."""

    def move() -> None:
        monkeypatch.setenv("HCOCO_CACHE", str(tmp_path / f"cache-{uuid.uuid4().hex[:8]}"))

    return move


def plan_at(source: Path | str, output: str, **more: Any) -> Planned:
    """Plan a run named `run` of edits at an address, of 8 a shard, without a gate, where not said otherwise."""
    fixed = {"run": "run", "gate": "off", "stages": "harmonization", **SMALL}
    return plan_run(parse_settings({"source": str(source), "output": output, **fixed, **more}))


def build_at(source: Path | str, output: str, **more: Any) -> Layout:
    """Plan and make a run at an address, whole, without its pages."""
    return make_left(plan_at(source, output, **more)).layout


def write_pages(layout: Layout) -> None:
    """Write report and data card of a finished run; of so many samples that no gallery is written."""
    with only_build(layout):
        write_views(layout, planned=10**9)


def content_of(files: dict[str, bytes]) -> dict[str, bytes | dict[str, Any]]:
    """Return files by path, markers without the times that differ between two makings."""
    return {
        path: {name: value for name, value in json.loads(data).items() if name not in TIMES}
        if path.startswith("done/")
        else data
        for path, data in files.items()
    }


def files_at(address: str) -> dict[str, Any]:
    """Return all objects of a run."""
    return content_of({path: objects.read(f"{address}/{path}") or b"" for path in objects.list_entries(address)})


def files_in(folder: Path) -> dict[str, Any]:
    """Return all files of a run on the disk."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return content_of({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_run_at_an_address_is_the_run_on_the_disk(scheme: str, tiny_coco: Path, output: str, tmp_path: Path) -> None:
    """Every object, the pages among them, holds what the file of a local run holds; no lease and no tar stays."""
    output = output if scheme == "memory" else (tmp_path / "storage").as_uri()
    layout, local = build_at(tiny_coco, output), build_in(tiny_coco, tmp_path / "local", **SMALL)
    if scheme == "memory":
        write_pages(layout)
        write_pages(local)
    assert files_at(f"{output}/run") == files_in(local.run)
    assert not list(layout.run.rglob("*.tar"))
    manifest = json.loads(files_at(f"{output}/run")["manifest.json"])
    assert manifest["counts"]["planned"] == manifest["counts"]["kept"] + manifest["counts"]["rejected"] == 10


def test_twice_is_once(tiny_coco: Path, output: str, elsewhere: Callable[[], None]) -> None:
    """A second build, on another machine, finds nothing to do."""
    build_at(tiny_coco, output)
    before = {path: entry.time for path, entry in objects.list_entries(f"{output}/run/shards").items()}
    elsewhere()
    planned = plan_at(tiny_coco, output)
    with only_build(planned.layout):
        assert left_to_make(planned.layout, planned.plan) == []
    assert {path: entry.time for path, entry in objects.list_entries(f"{output}/run/shards").items()} == before


class Died(BaseException):
    """Stands for a process that is gone: nothing catches it."""


def dying_after(point: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all that is sent from the `point`-th time on fail as if the process had died before it."""
    left = [point]
    lock = threading.Lock()

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def sent(*arguments: Any) -> Any:
            with lock:
                left[0] -= 1
                if left[0] < 0:
                    raise Died
            return work(*arguments)

        return sent

    for name in ("send", "write", "remove"):
        monkeypatch.setattr(objects, name, counted(getattr(objects, name)))


def test_a_build_that_dies_anywhere_goes_on_elsewhere(
    tiny_coco: Path, output: str, tmp_path: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead before any of its transfers, a build is ended by another machine, to the same bytes."""
    expected = files_in(build_in(tiny_coco, tmp_path / "local", **SMALL).run)
    point, died = 0, True
    while died:
        with monkeypatch.context() as patch:
            dying_after(point, patch)
            try:
                build_at(tiny_coco, f"{output}/{point}")
                died = False
            except Died:
                pass
        if died:
            leave_lease(f"{output}/{point}", until=0.0, token="the dead one's")  # noqa: S106 - nobody waits here
        elsewhere()
        build_at(tiny_coco, f"{output}/{point}")
        assert files_at(f"{output}/{point}/run") == expected, point
        point += 1
    assert point > 12  # the plan, up to three files and a marker a shard, the manifest, the leases


def test_a_marker_never_comes_before_its_files(tiny_coco: Path, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a marker is written, all files that it names lie there in their size."""
    write, seen = objects.write, []

    def checking(address: str, data: bytes) -> None:
        if "/done/" in address:
            there = objects.list_entries(f"{output}/run")
            files = json.loads(data)["files"]
            seen.append({path: there[path].size for path in files} == {p: f["size"] for p, f in files.items()})
        write(address, data)

    monkeypatch.setattr(objects, "write", checking)
    make_left(plan_at(tiny_coco, output))
    assert len(seen) == 3
    assert all(seen)


@pytest.mark.parametrize("how", ["gone", "shorter"])
def test_a_shard_that_is_not_whole_there_is_made_again(tiny_coco: Path, output: str, how: str) -> None:
    """A tar that is missing in the bucket, or of another size, makes its marker void."""
    build_at(tiny_coco, output)
    before = files_at(f"{output}/run")
    address = f"{output}/run/shards/train-00000.tar"
    objects.remove(address) if how == "gone" else objects.write(address, b"short")
    assert read_status(run_folder(f"{output}/run")).shards_done == 2
    build_at(tiny_coco, output)
    assert files_at(f"{output}/run") == before


def test_a_finished_run_is_extended(tiny_coco: Path, output: str, elsewhere: Callable[[], None]) -> None:
    """More samples are added from another machine; what was there keeps its bytes."""
    build_at(tiny_coco, output, samples=6)
    before = files_at(f"{output}/run")
    elsewhere()
    build_at(tiny_coco, output)
    after = files_at(f"{output}/run")
    same = [path for path in before if path.startswith(("shards/", "rejected/", "index/", "plan/"))]
    assert {path: after[path] for path in same} == {path: before[path] for path in same}
    assert json.loads(after["manifest.json"])["counts"]["planned"] == 10


def test_verify_and_remake_and_status(tiny_coco: Path, output: str, elsewhere: Callable[[], None]) -> None:
    """Another machine finds the run whole, makes a sample of it again, and says how far it is."""
    build_at(tiny_coco, output)
    elsewhere()
    layout = open_run(run_folder(f"{output}/run"))
    assert list(verify_run(layout)) == []
    assert not list(layout.run.glob(".borrowed-*"))
    key = json.loads(json.dumps(find_sample(layout, first_key(layout))["key"]))
    assert remake(layout.run, key).same
    status = read_status(layout.run)
    assert (status.state, status.made, status.left, status.at_work) == ("finished", 10, 0, False)
    assert status.run == f"{output}/run"


def first_key(layout: Layout) -> str:
    """Return a key of the first file of the index."""
    import pyarrow.parquet as pq

    key: str = pq.read_table(layout.index("train-00000"), columns=["key"])["key"][0].as_py()
    return key


def test_verify_finds_what_is_wrong_in_the_bucket(tiny_coco: Path, output: str) -> None:
    """A bit that flipped, a tar that is gone and a stray one are each named."""
    build_at(tiny_coco, output)
    tar = f"{output}/run/shards/train-00000.tar"
    data = bytearray(objects.read(tar) or b"")
    data[len(data) // 2] ^= 1
    objects.write(tar, bytes(data))
    objects.remove(f"{output}/run/shards/train-00001.tar")
    objects.write(f"{output}/run/shards/train-00009.tar", b"stray")
    found = [str(problem) for problem in verify_run(open_run(run_folder(f"{output}/run")))]
    for line in (
        "shards/train-00000.tar: differs from its hash in the manifest",
        "shards/train-00001.tar: is in the manifest but not in the bucket",
        "shards/train-00009.tar: is in the bucket but not in the manifest",
    ):
        assert line in found


def test_a_sample_is_read_alone(tiny_coco: Path, output: str) -> None:
    """A sample is read by its place in a tar that lies in the bucket only; a tar that is nowhere is damage."""
    layout = build_at(tiny_coco, output)
    row = find_sample(layout, first_key(layout))
    sample = read_sample(layout.run / row["tar"], offset=row["offset"], size=row["size"])
    assert sample.key == row["key"]
    with pytest.raises(Damaged):
        read_sample(layout.run / "shards/train-00099.tar", offset=0, size=512)


# ------------------------------------------------------------------------------------------------------- the lease


def test_one_build_at_a_time(tiny_coco: Path, output: str, elsewhere: Callable[[], None]) -> None:
    """While one machine builds, another is told which one does, and status says so."""
    layout = plan_at(tiny_coco, output).layout
    with only_build(layout):
        elsewhere()
        assert read_status(run_folder(f"{output}/run")).state == "building"
        with pytest.raises(BadRequest, match=r"another build is at work in memory://.*, on .*lease ends in"):
            plan_at(tiny_coco, output)
    assert plan_at(tiny_coco, output).extended == 0


def leave_lease(output: str, *, until: float, token: str) -> None:
    """Leave a lease behind, as a build does whose machine dies."""
    lease = {"token": token, "host": "elsewhere", "until": until}
    objects.write(f"{output}/run/.lease", json.dumps(lease).encode())


def test_a_lease_that_ran_out_is_taken_over(tiny_coco: Path, output: str) -> None:
    """A build whose machine died keeps nobody away for longer than its lease says."""
    leave_lease(output, until=time.time() - 1, token="another")  # noqa: S106 - it guards nothing
    build_at(tiny_coco, output)
    assert objects.look_up(f"{output}/run/.lease") is None


def test_a_build_that_was_killed_here_is_not_waited_for(tiny_coco: Path, output: str) -> None:
    """The lease that a build left whose folder this is is taken over at once."""
    layout = plan_at(tiny_coco, output).layout
    token = (layout.run / ".lease").read_text()
    leave_lease(output, until=time.time() + 1000, token=token)
    make_left(plan_at(tiny_coco, output))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"until": "soon"}', b'{"until": null}', b"[" * 100_000])
def test_a_lease_that_cannot_be_read_holds_nothing(tiny_coco: Path, output: str, content: bytes) -> None:
    """Garbage in the place of a lease keeps nobody away."""
    objects.write(f"{output}/run/.lease", content)
    assert plan_at(tiny_coco, output).plan.planned == 10


def test_a_build_that_lost_its_lease_stops(tiny_coco: Path, output: str) -> None:
    """A build that slept while another took over writes no marker any more."""
    planned = plan_at(tiny_coco, output)
    with only_build(planned.layout):
        leave_lease(output, until=time.time() + 1000, token="another")  # noqa: S106 - it guards nothing
        with pytest.raises(BadRequest, match="another build has taken"):
            make_shard(planned.layout.run, "train-00000")
    assert not any("done/" in path for path in objects.list_entries(f"{output}/run"))
    assert objects.look_up(f"{output}/run/.lease") is not None  # it is the other one's


def test_a_lease_is_renewed(tiny_coco: Path, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that lasts longer than a lease keeps it."""
    layout = plan_at(tiny_coco, output).layout
    monkeypatch.setattr(remote, "LEASE_SECONDS", 0.6)
    with only_build(layout):
        time.sleep(1.0)
        lease = json.loads(objects.read(f"{output}/run/.lease") or b"")
        assert lease["until"] > time.time()


def test_an_answer_that_was_lost_is_no_other_build(
    tiny_coco: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that was created though the storage says that it existed is this build's."""
    create = objects.create
    monkeypatch.setattr(objects, "create", lambda address, data: create(address, data) and False)
    assert plan_at(tiny_coco, output).plan.planned == 10


# ------------------------------------------------------------------------------------------------- what is refused


def test_what_is_no_run_is_not_built_into(tiny_coco: Path, output: str) -> None:
    """A name under which other files lie is refused, and they stay."""
    objects.write(f"{output}/run/thesis.doc", b"mine")
    with pytest.raises(BadRequest, match="holds files and is no run of hcoco"):
        plan_at(tiny_coco, output)
    assert objects.read(f"{output}/run/thesis.doc") == b"mine"


def test_names_that_lead_out_of_the_folder_are_refused(tiny_coco: Path, output: str) -> None:
    """A bucket in which somebody left `..` as a part of a name is not copied from."""
    layout = plan_at(tiny_coco, output).layout
    fsspec.filesystem("memory").pipe_file(f"/{output.partition('://')[2]}/run/done/..\\evil.json", b"{}")
    with pytest.raises(BadRequest, match="which no run of hcoco has"), only_build(layout):
        pass


def test_no_run_there(output: str) -> None:
    """The address of nothing is named, and so is one without a run's name."""
    with pytest.raises(BadRequest, match=rf"{output}/run holds no run of hcoco"):
        open_run(run_folder(f"{output}/run"))
    with pytest.raises(BadRequest, match=rf"{output}/run does not exist"):
        read_status(run_folder(f"{output}/run"))


@pytest.mark.parametrize(
    "command",
    [
        *("gallery RUN", "card RUN", "repair RUN", "undo RUN", "readmit RUN --reason clipping"),
        *("ban RUN --max-score 1", "regate RUN --threshold 0.1", "export RUN folder --format folder"),
        "evaluate fusion RUN",
    ],
)
def test_commands_that_need_a_disk_say_so(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What reads or moves whole tars tells how to copy the run down."""
    assert main(command.replace("RUN", "s3://bucket/run").split()) == 2
    line = capsys.readouterr().err
    assert "hcoco copy s3://bucket/run FOLDER" in line
    assert len(line.splitlines()) == 1


def test_memory_is_not_for_workers(tiny_coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What worker processes would write into a memory of their own is refused before anything is made."""
    assert main(["build", "--source", str(tiny_coco), "--output", "memory://x"]) == 2
    assert "memory:// belongs to one process" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- copying


def quiet(_what: str, _done: int, _total: int) -> None:
    """Watch nothing."""


def test_a_run_is_copied_down_and_back(tiny_coco: Path, output: str, tmp_path: Path) -> None:
    """Down it is a run like any other; back at another address, it is the run again."""
    build_at(tiny_coco, output)
    there = files_at(f"{output}/run")
    assert copy_run(f"{output}/run", str(tmp_path / "down"), watch=quiet) == len(there)
    assert files_in(tmp_path / "down") == there
    assert list(verify_run(open_run(tmp_path / "down"))) == []
    copy_run(str(tmp_path / "down"), f"{output}/back", watch=quiet)
    assert files_at(f"{output}/back") == there


def test_a_copy_back_takes_away_what_is_gone(tiny_coco: Path, output: str, tmp_path: Path) -> None:
    """What a run has no more on the disk, it has no more at its address."""
    build_at(tiny_coco, output)
    objects.write(f"{output}/run/README.md", b"a card")
    copy_run(f"{output}/run", str(tmp_path / "down"), watch=quiet)
    (tmp_path / "down" / "README.md").unlink()
    copy_run(str(tmp_path / "down"), f"{output}/run", watch=quiet)
    assert files_at(f"{output}/run") == files_in(tmp_path / "down")


def test_a_copy_that_was_stopped_is_continued(
    tiny_coco: Path, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the last file came a copy has no plan.json, and the same command ends it."""
    build_at(tiny_coco, output)
    fetch, left = objects.fetch, [9]

    def failing(*arguments: Any, **options: Any) -> Path:
        left[0] -= 1
        if not left[0]:
            raise BadRequest("the network is gone")
        return fetch(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(objects, "fetch", failing)
        with pytest.raises(BadRequest, match="the network is gone"):
            copy_run(f"{output}/run", str(tmp_path / "down"), watch=quiet)
    assert not (tmp_path / "down" / "plan.json").exists()
    copy_run(f"{output}/run", str(tmp_path / "down"), watch=quiet)
    assert files_in(tmp_path / "down") == files_at(f"{output}/run")


def test_a_copy_goes_nowhere_else(tiny_coco: Path, output: str, tmp_path: Path) -> None:
    """Two folders, two addresses, a full folder, no run: each is refused in a line."""
    build_at(tiny_coco, output)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for source, to, why in (
        ("here", "there", "give an address and a folder"),
        (f"{output}/run", f"{output}/other", "give an address and a folder"),
        (f"{output}/run", str(tmp_path / "full"), "is not empty"),
        (f"{output}/none", str(tmp_path / "new"), "holds no run"),
        (str(tmp_path / "full"), f"{output}/new", "is no run"),
        ("memory://a/../b", str(tmp_path / "new"), "an address looks like"),
    ):
        with pytest.raises(BadRequest, match=why):
            copy_run(source, to, watch=quiet)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
