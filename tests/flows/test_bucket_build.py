"""Builds into an S3 server on loopback, by the command line and real workers: the bytes of a local build."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds

from flows import objects
from flows.cli import main
from flows.store import remote
from tests.flows.bucket import Faults, Storage, proxy
from tests.flows.coco.test_fetch import put
from tests.flows.make.fusing import save_untrained

TROUBLE = Faults(drop_every=17, forget_every=29, cut_every=13, busy_every=19)


def options(source: object, output: object, **more: object) -> list[str]:
    """Return the command line of a build of edits without a gate, in shards of 6."""
    given = {"source": source, "output": output, "run": "run", "gate": "off", "stages": "harmonization"}
    given |= {"shard_size": 6, "workers": 2, "seed": 4, **more}
    return ["build", *(word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value)))]


def samples_at(address: str) -> dict[str, bytes | None]:
    """Return the tars and indices of a run in object storage."""
    kinds = ("shards/", "fusion/", "rejected/", "index/")
    return {path: objects.read(f"{address}/{path}") for path in objects.list_entries(address) if path.startswith(kinds)}


def samples_in(run: Path) -> dict[str, bytes]:
    """Return the tars and indices of a run on the disk."""
    folders = [run / name for name in ("shards", "fusion", "rejected", "index")]
    return {
        path.relative_to(run).as_posix(): path.read_bytes() for folder in folders for path in sorted(folder.glob("*"))
    }


def counts_at(address: str) -> dict[str, Any]:
    """Return the counts of a finished run, which add up."""
    counts: dict[str, Any] = json.loads(objects.read(f"{address}/manifest.json") or b"")["counts"]
    assert counts["planned"] == counts["kept"] + counts["rejected"] > 0
    return counts


def test_a_bucket_that_is_missing_is_one_line(s3: Storage, tiny_coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A build into no bucket ends with code 2 and a line, before anything is made."""
    assert main(options(tiny_coco, f"{s3.address}-none")) == 2
    line = capsys.readouterr().err.strip()
    assert "there is no such bucket" in line
    assert len(line.splitlines()) == 1


def test_shards_are_read_from_a_bucket(s3: Storage, tiny_coco: Path, tmp_path: Path) -> None:
    """WebDataset streams the shards of a bucket through fsspec, as docs/storage.md shows."""
    assert main(options(tiny_coco, tmp_path, samples=8, workers=1)) == 0
    remote.copy_run(str(tmp_path / "run"), f"{s3.address}/run", watch=lambda *_: None)
    import fsspec
    from webdataset.gopen import gopen_schemes

    manifest = json.loads((tmp_path / "run" / "manifest.json").read_bytes())
    paths = [entry["path"] for entry in manifest["shards"] if entry["path"].startswith("shards/")]
    shards = [f"{s3.address}/run/{path}" for path in paths]
    gopen_schemes["s3"] = lambda url, mode="rb", _bufsize=8192: fsspec.open(url, mode).open()
    try:
        data = wds.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("composite.jpg", "mask.png", "json")
        keys = [record["key"] for _, _, record in data]
    finally:
        del gopen_schemes["s3"]
    assert len(keys) == len(set(keys)) == manifest["counts"]["kept"] > 0


@pytest.mark.parametrize(
    "stages",
    [
        pytest.param(["harmonization"], marks=pytest.mark.slow),
        pytest.param(["harmonization", "fusion"], marks=pytest.mark.by_hand),
    ],
    ids="+".join,
)
def test_a_build_through_a_bad_network(s3: Storage, many_coco: Path, tmp_path: Path, stages: list[str]) -> None:
    """Source and run on S3, through resets, lost answers, cut bodies and 503s: the tars of the local build."""
    given: dict[str, object] = {"stages": ",".join(stages), "samples": 12}
    if "fusion" in stages:
        given |= {"fusion_checkpoint": save_untrained(tmp_path / "network"), "fusion_side": 160}
    put(many_coco, f"{s3.address}/coco")
    with proxy(s3.base, TROUBLE) as bad:
        s3.go_through(bad.base)
        assert main(options(f"{s3.address}/coco", f"{s3.address}/runs", **given)) == 0
    s3.go_through(s3.base)
    assert {"drop", "forget", "cut", "busy"} <= bad.done.keys()
    assert counts_at(f"{s3.address}/runs/run")["planned"] == 12 * len(stages)
    assert main(options(many_coco, tmp_path / "local", **given)) == 0
    assert samples_at(f"{s3.address}/runs/run") == samples_in(tmp_path / "local" / "run")
    assert main(["verify", f"{s3.address}/runs/run"]) == 0


@pytest.mark.slow
def test_a_build_that_is_killed_is_ended_by_another_machine(
    s3: Storage, many_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in mid-build: with an empty cache the rest is made, what was finished stays, and all is as local."""
    address = f"{s3.address}/runs/run"
    command = [sys.executable, "-m", "flows.cli", *options(many_coco, f"{s3.address}/runs", samples=60, workers=1)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as build:
        while build.poll() is None and not any("done/" in path for path in objects.list_entries(address)):
            time.sleep(0.1)
        os.kill(build.pid, signal.SIGKILL)
    before = {path: entry for path, entry in objects.list_entries(address).items() if path.startswith("done/")}
    assert 0 < len(before) < 10
    assert objects.look_up(f"{address}/manifest.json") is None
    monkeypatch.setenv("HCOCO_CACHE", str(tmp_path / "another-machine"))
    lease = json.loads(objects.read(f"{address}/.lease") or b"")
    assert main(options(many_coco, f"{s3.address}/runs", samples=60)) == 2  # the dead one's lease still holds
    objects.write(f"{address}/.lease", json.dumps({**lease, "until": 0.0}).encode())  # two minutes pass
    assert main(options(many_coco, f"{s3.address}/runs", samples=60)) == 0
    after = objects.list_entries(address)
    assert {path: after[path] for path in before} == before
    assert counts_at(address)["planned"] == 60
    assert main(options(many_coco, tmp_path / "local", samples=60)) == 0
    assert samples_at(address) == samples_in(tmp_path / "local" / "run")
