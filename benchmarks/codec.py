"""Compare a build with the codec limit, in one run: what the decoders and encoders alone would take.

    python benchmarks/codec.py [COCO FOLDER] [--samples 400] [--rounds 3]

The limit of a sample: decode target and reference, draw both masks' polygon of the subject, encode real, composite and
mask; nothing else, and nothing shared between samples. Rounds alternate, so that a machine's moods hit both alike.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import cv2

from flows.coco.masks import decode_mask
from flows.coco.pictures import decode, locate, read_bytes
from flows.make.compose import encode_jpeg, encode_png, person_of
from flows.make.plan import Planned, plan_run, read_planned
from flows.make.shard import make_shard
from flows.runners import LocalRunner
from flows.settings import parse_settings

Rows = Sequence[Mapping[str, Any]]


def codec_limit(rows: Rows, roots: Mapping[str, str]) -> None:
    """Do what the codecs must do for these samples."""
    for row in rows:
        target, reference = person_of(row, "target"), person_of(row, "reference")
        pictures = []
        for person in (target, reference):
            data = read_bytes(locate(Path(roots[person["subset"]]), person["file_name"]))
            pictures.append(decode(data, width=person["width"], height=person["height"]))
        mask = decode_mask(target["segmentation"], height=target["height"], width=target["width"])
        encode_jpeg(pictures[0])
        encode_jpeg(pictures[0])
        encode_png(mask.view("u1") * 255)


def make_all(planned: Planned) -> None:
    """Make every shard of a plan anew, in this process."""
    shutil.rmtree(planned.layout.run / "done", ignore_errors=True)
    for shard in planned.plan.shards:
        make_shard(planned.layout.run, shard.name)


def make_with(runner: LocalRunner, planned: Planned) -> None:
    """Make every shard of a plan anew, in worker processes."""
    shutil.rmtree(planned.layout.run / "done", ignore_errors=True)
    names = [shard.name for shard in sorted(planned.plan.shards, key=lambda shard: -shard.pixels)]
    for _ in runner.each((make_shard, planned.layout.run, name) for name in names):
        pass


def seconds(work: Callable[[], None]) -> float:
    """Return the wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coco", nargs="?", default=os.environ.get("HCOCO_TEST_COCO", "../shared/coco"))
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        values = {"source": given.coco, "samples": given.samples, "variants": 3, "output": folder, "shard_size": 50}
        planned = plan_run(parse_settings(values))
        rows = [row for shard in planned.plan.shards for row in read_planned(planned.layout, shard)]
        limit, made, one, two = [], [], [], []
        with LocalRunner(1) as single, LocalRunner(2) as double:
            make_with(single, planned)
            make_with(double, planned)
            for _ in range(given.rounds):
                limit.append(seconds(lambda: codec_limit(rows, planned.plan.roots)))
                made.append(seconds(lambda: make_all(planned)))
                one.append(seconds(lambda: make_with(single, planned)))
                two.append(seconds(lambda: make_with(double, planned)))
    count = len(rows)
    print(f"| {count} samples, median of {given.rounds} rounds | ms a sample | of the codec limit |")
    print("|---|---|---|")
    best = statistics.median(limit)
    for name, values_s in (
        ("codecs alone", limit),
        ("whole samples, one process", made),
        ("one worker", one),
        ("two workers", two),
    ):
        middle = statistics.median(values_s)
        print(f"| {name} | {1e3 * middle / count:.2f} | {best / middle:.2f} |")
    print(f"\ntwo workers are {statistics.median(one) / statistics.median(two):.2f} times as fast as one")


if __name__ == "__main__":
    main()
