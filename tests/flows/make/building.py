"""Make small runs in a test: in this process, without the command line."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flows.make.plan import Planned, plan_run
from flows.make.run import Finished, finish_run, left_to_make
from flows.make.shard import make_shard
from flows.settings import BuildSettings, parse_settings
from flows.store.layout import Layout
from flows.store.lock import only_build

FOLDERS = ("shards", "fusion", "rejected", "index")

WHOLE: Mapping[str, Any] = {"samples": 22, "seed": 4}
"""Settings of the run that the tests of `flows/make` share: over the tiny folder it has `train` and `val` samples."""


def settings_for(source: Path, output: Path, **more: Any) -> BuildSettings:
    """Return settings of a run named `run` of edits, of 8 a shard, without a gate, where not said otherwise."""
    fixed = {"run": "run", "shard_size": 8, "gate": "off", "stages": "harmonization"}
    given = {"source": str(source), "output": str(output), **fixed, **more}
    return parse_settings(given)


def plan_in(source: Path, output: Path, **more: Any) -> Planned:
    """Plan a run below `output`."""
    return plan_run(settings_for(source, output, **more))


def make_left(planned: Planned) -> Finished:
    """Make the shards that are not done, and finish the run."""
    with only_build(planned.layout):
        for shard in left_to_make(planned.layout, planned.plan):
            make_shard(planned.layout.run, shard.name)
        return finish_run(planned.layout, planned.plan)


def build_in(source: Path, output: Path, **more: Any) -> Layout:
    """Plan and make a run below `output`, whole."""
    return make_left(plan_in(source, output, **more)).layout


def hashes(layout: Layout) -> dict[str, str]:
    """Return the sha256 of every shard, index and the manifest, by path below the run: all that must be the same."""
    paths = [path for folder in FOLDERS for path in sorted((layout.run / folder).glob("*"))]
    if layout.manifest.exists():
        paths.append(layout.manifest)
    return {layout.relative(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def rows_of(layout: Layout) -> list[dict[str, Any]]:
    """Return all rows of the index, sorted by key."""
    rows = [row for path in (layout.run / "index").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: str(row["key"]))


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the paths that are not the same in both."""
    return sorted(path for path in {*one, *other} if one.get(path) != other.get(path))
