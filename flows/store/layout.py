"""Every path of a run, in one place."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from flows.errors import BadRequest
from flows.objects import BUILT, READ, address_of

FUSION: Final = "fusion"
"""Name of the stage, and beginning of the names of its shards: `fusion-train-00000`."""
COPYPASTE: Final = "copypaste"
HARMONIZATION: Final = "harmonization"
OWN_FOLDER: Final = (FUSION, COPYPASTE)
"""Stages whose kept samples have a folder of their own; those of the first stage lie in `shards`."""


@dataclass(frozen=True)
class Layout:
    """The paths of one run below its folder.

    A run in object storage has a folder, too: the one of the cache in which it is built, or read.
    """

    run: Path

    @property
    def address(self) -> str | None:
        """Return where in object storage the run lies; None for a run that lies in its folder."""
        folder = self.run.parent
        output = address_of(folder, kind=BUILT) or address_of(folder, kind=READ)
        return output and f"{output}/{self.run.name}"

    @property
    def place(self) -> Path | str:
        """Return where the run lies, for people: its folder or its address."""
        return self.address or self.run

    def link(self, path: Path) -> str:
        """Return where a file of the run is opened: its address, or the path as one."""
        return f"{self.address}/{self.relative(path)}" if self.address else path.as_uri()

    @property
    def plan(self) -> Path:
        """Return the plan: settings, seed, code, digests of the inputs, list of shards."""
        return self.run / "plan.json"

    def plan_part(self, number: int) -> Path:
        """Return the planned samples of the first planning (0) or of a later extension."""
        return self.run / "plan" / f"part-{number:05d}.parquet"

    @property
    def gate(self) -> Path:
        """Return the weights of the realism gate's checkpoint; its JSON stands beside them."""
        return self.run / "gate" / "checkpoint.pt"

    @property
    def fuser(self) -> Path:
        """Return the weights of the network that makes hard fusion samples; its JSON stands beside them."""
        return self.run / "fuser" / "checkpoint.pt"

    @property
    def manifest(self) -> Path:
        """Return the manifest: counts, shards, sha256."""
        return self.run / "manifest.json"

    @property
    def report(self) -> Path:
        """Return the page that people open first."""
        return self.run / "report" / "index.html"

    @property
    def gallery(self) -> Path:
        """Return the page of all samples; missing where nobody asked for it."""
        return self.run / "gallery" / "index.html"

    @property
    def statistics(self) -> Path:
        """Return the page of distributions; missing where nobody asked for it."""
        return self.run / "statistics" / "index.html"

    def measures(self, name: str) -> Path:
        """Return what was measured of a shard's pictures for the page of distributions."""
        return self.run / "statistics" / "measures" / f"{name}.parquet"

    @property
    def decisions(self) -> Path:
        """Return what people decided about finished samples; missing where they decided nothing."""
        return self.run / "decisions.json"

    @property
    def history(self) -> Path:
        """Return a line for each decision that was taken or undone, with its time."""
        return self.run / "done" / "decisions.jsonl"

    @property
    def beside(self) -> Path:
        """Return the folder in which files are made that replace others of the run all at once."""
        return self.run / ".beside"

    @property
    def lock(self) -> Path:
        """Return the file that one build at a time holds locked."""
        return self.run / ".lock"

    def shard(self, name: str) -> Path:
        """Return the tar of a shard's kept samples; those of the later stages have a folder of their own."""
        stage, dash, rest = name.partition("-")
        return self.run / (f"{stage}/{rest}.tar" if stage in OWN_FOLDER and dash else f"shards/{name}.tar")

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

    def inside(self, path: str) -> Path:
        """Return the file of the run that the index, the manifest or a marker names.

        Raises:
            ValueError: It is no path below the run.
        """
        if not is_inside(path):
            raise ValueError(f"{path[:100]!r} is no path below the run")
        return self.run / path


@dataclass(frozen=True)
class TrainingLayout:
    """The paths of one training of the realism network below its folder, which has the training's name."""

    folder: Path

    @property
    def begun(self) -> Path:
        """Return what the training is: settings, digest of what is learnt from, digest of the code that draws."""
        return self.folder / "training.json"

    @property
    def state(self) -> Path:
        """Return what a killed training goes on from."""
        return self.folder / "training.state"

    @property
    def checkpoint(self) -> Path:
        """Return the name that the weights (`.pt`) and what they are (`.json`) share."""
        return self.folder / self.folder.name

    @property
    def scores(self) -> Path:
        """Return the scores of the held-out cases, by split and group."""
        return self.folder / "scores.json"

    @property
    def report(self) -> Path:
        """Return the page that people open first."""
        return self.folder / "report" / "index.html"

    @property
    def lock(self) -> Path:
        """Return the file that one process at a time holds locked."""
        return self.folder / ".lock"

    def cases(self, digest: str, name: str) -> Path:
        """Return held-out cases; trainings that are measured on the same ones share them."""
        return self.folder.parent / "cases" / digest / f"{name}.npz"


SHARD_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")
"""Of a shard; it is a part of the names of files."""
_INSIDE: Final = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}/){0,4}[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")


def is_inside(path: object) -> bool:
    """Say whether this is a path as hcoco writes it: relative, of plain names, so that it cannot leave its folder."""
    return isinstance(path, str) and _INSIDE.fullmatch(path) is not None


def read_json(path: Path, *, most: int = 64_000_000) -> Any:
    """Read a JSON file of a run, which somebody else may have written.

    Args:
        path: Of the file.
        most: Bytes of a file that is read at all: its values may take 25 times as much memory.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no plain file, too large, no JSON, or nested too deeply.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError("it is no plain file")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most} bytes")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def stage_of(name: str) -> str:
    """Return the stage of a shard, by its name: `train-00000`, `fusion-train-00000`, `copypaste-train-00000`."""
    stage = name.partition("-")[0]
    return stage if stage in OWN_FOLDER else HARMONIZATION


def open_run(run: Path) -> Layout:
    """Return the layout of an existing run.

    Raises:
        BadRequest: The folder is missing or holds no plan.
    """
    layout = Layout(run.expanduser().resolve())
    if layout.address is not None:
        from flows.store.remote import bring  # noqa: PLC0415 - it stands on this module

        bring(layout)
    if not layout.plan.is_file():
        if layout.address is not None:
            raise BadRequest(f"{layout.address} holds no run of hcoco; give the address of a run, with its name")
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
