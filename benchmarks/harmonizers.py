"""Train the harmonizers on a run, one after the other, or measure how long their training waits for data.

    python benchmarks/harmonizers.py train RUN [--preset paper] [--device cuda] [--networks dovenet,pix2pix]
    python benchmarks/harmonizers.py waiting RUN [--side 256] [--workers 2] [--steps 20]

`train` is `hcoco train` for each of them, resumable as that is, and ends with the command that compares them.
`waiting` takes the steps of a real training of the masked U-Net and of pix2pix, and times the waits for the next batch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import Table, describe

from flows.harmonizer_settings import NETWORKS, TrainHarmonizerSettings
from flows.make.train_harmonizer import Batches, describe_training, only_course, open_course, train_course
from flows.settings import parse
from flows.view.harmonizer_page import write_harmonizer_page
from realism.harmonizers.batch import Triplets
from realism.harmonizers.teach import train_harmonizer
from realism.threads import threads

WAITING = ("masked_unet", "pix2pix")
FIRST = 3
"""Steps at the beginning that are not counted: processes start, and so does the reading ahead."""


def train_all(given: argparse.Namespace) -> None:
    """Train every network that is asked for; say what each came to."""
    checkpoints = []
    for network in given.networks.split(","):
        values = {"network": network, "samples": given.run, "preset": given.preset, "device": given.device}
        settings = parse(TrainHarmonizerSettings, {**values, "output": given.output, "workers": given.workers})
        with only_course(settings):
            course, began = open_course(settings), time.perf_counter()
            print(course.summary, flush=True)
            checkpoint = train_course(course)
            write_harmonizer_page(course.layout)
        print(f"{describe_training(checkpoint)}; {time.perf_counter() - began:.0f} s", flush=True)
        checkpoints.append(f"--harmonizer {network}={course.layout.checkpoint}.pt")
    print(f"\nhcoco evaluate harmonization {given.run} {' '.join(checkpoints)}")


def measure_waiting(given: argparse.Namespace) -> None:
    """Print, for each network, how long a step takes and how much of it is a wait for its batch."""
    table = Table(("training", "step, s", "wait for its batch, ms", "share of the step"))
    for network in given.networks.split(","):
        values = {"network": network, "samples": given.run, "preset": "tiny", "device": given.device}
        more = {"side": given.side, "batch": given.batch, "steps": given.steps + FIRST, "workers": given.workers}
        settings = parse(TrainHarmonizerSettings, {**values, **more})
        course = open_course(settings)
        batches, asked, waits = Batches(course, workers=given.workers), [], []

        def draw(
            number: int, batches: Batches = batches, asked: list[float] = asked, waits: list[float] = waits
        ) -> Triplets:
            asked.append(time.perf_counter())
            batch = batches.draw(number)
            waits.append(time.perf_counter() - asked[-1])
            return batch

        with threads(settings.threads), tempfile.TemporaryDirectory() as folder:
            train_harmonizer(draw, course.numbers, state=Path(folder) / "state", device=course.device)
        batches.close()
        steps = np.diff(asked)[FIRST:]
        name = f"{network} tiny, {given.batch} x {given.side} px, {given.workers} workers, {course.device}"
        wait = float(np.mean(waits[FIRST:-1]))
        table.add(name, f"{steps.mean():.2f}", f"{1e3 * wait:.1f}", f"{wait / steps.mean():.1%}")
    print(describe(libraries=("numpy", "opencv-python-headless", "torch")))
    print(f"\n{table.markdown()}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    train, waiting = commands.add_parser("train"), commands.add_parser("waiting")
    for sub in (train, waiting):
        sub.add_argument("run", type=Path)
        sub.add_argument("--device", default="auto")
        sub.add_argument("--workers", type=int, default=2)
    train.add_argument("--networks", default=",".join(NETWORKS))
    waiting.add_argument("--networks", default=",".join(WAITING))
    train.add_argument("--preset", default="paper")
    train.add_argument("--output", default="output/harmonizers")
    waiting.add_argument("--side", type=int, default=256)
    waiting.add_argument("--batch", type=int, default=8)
    waiting.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    {"train": train_all, "waiting": measure_waiting}[given.command](given)


if __name__ == "__main__":
    main()
