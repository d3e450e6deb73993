"""Compare reading a run for training: the project's loader, plain `webdataset` on the same tars, and the decoders alone.

    python benchmarks/loading.py RUN [--rounds 3] [--workers 2]

Rounds alternate, so that a machine's moods hit all alike. CPU time is that of this process and its workers.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import cv2
import numpy as np
import torch
import webdataset as wds
from machine import Table, describe
from torch.utils.data import DataLoader

from flows.store.read import load_samples, read_tar

MEMBERS = ("composite.jpg", "mask.png", "real.jpg")


def decode_with_cv2(sample: dict[str, Any]) -> dict[str, Any]:
    """Decode the pictures of a sample of plain `webdataset` as the project's loader does."""
    pictures = {name: cv2.imdecode(np.frombuffer(sample[name], np.uint8), flags_of(name)) for name in MEMBERS}
    return {**sample, **pictures}


def flags_of(name: str) -> int:
    """Return how a member is decoded."""
    return cv2.IMREAD_GRAYSCALE if name.endswith("png") else cv2.IMREAD_COLOR_RGB


def same(samples: list[Any]) -> list[Any]:
    """Collate nothing: pictures differ in size."""
    return samples


def plain(shards: list[str], *, decoder: str, workers: int) -> Iterable[Any]:
    """Return a plain `webdataset` loader: Pillow as it comes with, OpenCV, or no decoder."""
    data = wds.WebDataset(shards, shardshuffle=len(shards), seed=1)
    if decoder != "none":
        data = data.decode("rgb8") if decoder == "pillow" else data.map(decode_with_cv2)
    if not workers:
        return data
    return DataLoader(
        data,
        batch_size=8,
        num_workers=workers,
        collate_fn=same,
        multiprocessing_context="forkserver",
        persistent_workers=True,
        worker_init_fn=one_thread,
    )


def one_thread(_worker: int) -> None:
    """Let OpenCV use one thread in a worker, as the project's loader does."""
    cv2.setNumThreads(1)


def decode_all(contents: list[Mapping[str, bytes]]) -> None:
    """Do what the decoders must do, on bytes in memory."""
    for members in contents:
        for name in MEMBERS:
            cv2.imdecode(np.frombuffer(members[name], np.uint8), flags_of(name))


def drain(loader: Iterable[Any]) -> None:
    """Read an epoch."""
    for _ in loader:
        pass


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return wall and CPU seconds of one call."""
    began, cpu = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - began, cpu_seconds() - cpu


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    shards = sorted(str(path) for path in (given.run / "shards").glob("train-*.tar"))
    contents = [stored.members for shard in shards for stored in read_tar(Path(shard))]
    batch, workers = 8, given.workers
    helped = {
        f"plain webdataset, OpenCV, {workers} workers": plain(shards, decoder="opencv", workers=workers),
        f"this loader, {workers} workers": load_samples(given.run, seed=1, batch_size=batch, workers=workers),
    }
    ways: dict[str, Callable[[], None]] = {
        "decoders alone (OpenCV)": lambda: decode_all(contents),
        "plain webdataset, undecoded": lambda: drain(plain(shards, decoder="none", workers=0)),
        "this loader, undecoded": lambda: drain(load_samples(given.run, seed=1, pictures=[])),
        "plain webdataset, Pillow": lambda: drain(plain(shards, decoder="pillow", workers=0)),
        "plain webdataset, OpenCV": lambda: drain(plain(shards, decoder="opencv", workers=0)),
        "this loader, arrays": lambda: drain(load_samples(given.run, seed=1, batch_size=batch)),
        "this loader, tensors of 256 x 256": lambda: drain(
            load_samples(given.run, seed=1, batch_size=batch, form="torch", size=(256, 256))
        ),
        **{name: (lambda loader=loader: drain(loader)) for name, loader in helped.items()},  # type: ignore[misc]
    }
    drain(helped[f"this loader, {workers} workers"])
    drain(helped[f"plain webdataset, OpenCV, {workers} workers"])
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, work in ways.items():
            seconds[name].append(timed(work))
    table = Table(("", "wall, ms a sample", "CPU, ms a sample", "speed, of plain webdataset with OpenCV, by CPU time"))
    middle = {name: [statistics.median(part) for part in zip(*rounds, strict=True)] for name, rounds in seconds.items()}
    for name, (wall, cpu) in middle.items():
        in_workers = name in helped
        base = (
            middle[f"plain webdataset, OpenCV, {workers} workers"][0]
            if in_workers
            else middle["plain webdataset, OpenCV"][1]
        )
        ratio = base / (wall if in_workers else cpu)
        cells = (f"{1e3 * wall / len(contents):.2f}", "" if in_workers else f"{1e3 * cpu / len(contents):.2f}")
        table.add(name, *cells, f"{ratio:.2f}{' (wall)' if in_workers else ''}")
    print(describe(libraries=("numpy", "opencv-python-headless", "pillow", "torch", "webdataset")))
    size = sum(len(content) for members in contents for content in members.values()) / len(contents)
    shape = cv2.imdecode(np.frombuffer(contents[0]["real.jpg"], np.uint8), cv2.IMREAD_COLOR).shape
    print(
        f"{len(contents)} samples of {size / 1e3:.0f} KB (the first {shape[1]} x {shape[0]}), {given.rounds} rounds\n"
    )
    print(table.markdown())


if __name__ == "__main__":
    main()
