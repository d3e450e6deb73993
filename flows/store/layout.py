"""Every path of a run, in one place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flows.errors import BadRequest


@dataclass(frozen=True)
class Layout:
    """The paths of one run below its folder."""

    run: Path

    @property
    def plan(self) -> Path:
        """Return the plan: settings, seed, code, digests of the inputs, list of shards."""
        return self.run / "plan.json"

    def plan_part(self, number: int) -> Path:
        """Return the planned samples of the first planning (0) or of a later extension."""
        return self.run / "plan" / f"part-{number:05d}.parquet"

    @property
    def manifest(self) -> Path:
        """Return the manifest: counts, shards, sha256."""
        return self.run / "manifest.json"

    @property
    def report(self) -> Path:
        """Return the page that people open first."""
        return self.run / "report" / "index.html"

    @property
    def lock(self) -> Path:
        """Return the file that one build at a time holds locked."""
        return self.run / ".lock"

    def shard(self, name: str) -> Path:
        """Return the tar of a shard's kept samples."""
        return self.run / "shards" / f"{name}.tar"

    def rejected(self, name: str) -> Path:
        """Return the tar of a shard's rejected samples."""
        return self.run / "rejected" / f"{name}.tar"

    def index(self, name: str) -> Path:
        """Return the table of a shard's attempted samples."""
        return self.run / "index" / f"{name}.parquet"

    def done(self, name: str) -> Path:
        """Return the marker of a finished shard, written last."""
        return self.run / "done" / f"{name}.json"

    def relative(self, path: Path) -> str:
        """Return a path below the run as the index and the manifest write it."""
        return path.relative_to(self.run).as_posix()


def open_run(run: Path) -> Layout:
    """Return the layout of an existing run.

    Raises:
        BadRequest: The folder is missing or holds no plan.
    """
    layout = Layout(run.expanduser().resolve())
    if not layout.plan.is_file():
        what = "has no plan.json, so it is no run of hcoco" if run.is_dir() else "does not exist"
        raise BadRequest(f"{run} {what}; give the folder of a run, such as output/sample-1a2b3c4d")
    return layout


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file beside its place, flush it to the disk, and rename it; leave nothing behind on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole, or not at all."""
    with writing(path) as file:
        file.write(data)
