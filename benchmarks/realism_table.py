"""Measure the realism network as its model card tells it: several seeds, each family left out once, and its speed.

    python benchmarks/realism_table.py table --coco FOLDER [--photos FOLDER] [--seeds 0,1,2] [--leave-one-out]
    python benchmarks/realism_table.py speed NAME|FILE --coco FOLDER

`table` trains what `hcoco train-realism` would train, once for each seed and, where asked for, once without each family
of edits, into folders `seed-N` and `without-FAMILY`; trainings that are finished there are read, killed ones go on. It
prints mean and spread on the photographs of the split `test`, which decided nothing, beside what is wanted.
`speed` compares cropping and scoring with making samples, on one core of a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import cv2
import numpy as np
import torch
from machine import Table, describe

from flows.errors import BadRequest
from flows.make.realism import gather, layout_of, measure, only_training, train_network
from flows.settings import DEFAULT_FAMILIES, parse
from flows.train_settings import TrainRealismSettings, identity
from flows.view.training import FIGURES, write_training_report
from realism.checkpoint import load_checkpoint
from realism.score import prepare, score_crops
from realism.weights import NAMES, shipped

AIMS = {
    "band_auroc": "0.95",
    "mild_gross_auroc": "0.98",
    "mild_passing_gross_auroc": "0.97",
    "spearman": "0.90",
    "calibration_error": "0.03",
    "recall_at_95": "0.80",
}
LEFT_OUT = (0.62, "0.90")
"""Floor and aim of the AUROC of naturals against the worst family that was left out of training."""
MADE = 60
"""Samples that are made to time them."""


def train_once(settings: TrainRealismSettings) -> dict[str, Any]:
    """Return a training's JSON; train where it is not finished.

    Raises:
        BadRequest: The folder holds a training with other settings.
    """
    layout = layout_of(settings)
    about = layout.folder / f"{layout.checkpoint.name}.json"
    with only_training(layout):
        if not about.exists():
            gathered = gather(settings)
            print(f"{layout.folder.name}: {gathered.summary}", file=sys.stderr, flush=True)
            network, history = train_network(gathered, tell=_print_saved)
            measure(gathered, network, history)
            write_training_report(layout)
        found: dict[str, Any] = json.loads(about.read_bytes())
    different = [name for name, value in identity(settings).items() if found["settings"].get(name) != value]
    if different:
        raise BadRequest(f"{layout.folder} holds a training with other {different[0]}; choose another --output")
    return found


def _print_saved(told: Any) -> None:
    if told.saved:
        print(told.line, file=sys.stderr, flush=True)


def run_table(arguments: argparse.Namespace) -> None:
    """Train what is missing; print the table."""
    common = {"source": arguments.coco, "photos": arguments.photos, "output": arguments.output}
    common |= {"steps": arguments.steps, "device": arguments.device, "threads": arguments.threads}
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    found = [
        train_once(parse(TrainRealismSettings, {**common, "seed": seed, "name": f"seed-{seed}"})) for seed in seeds
    ]
    left_out = {}
    for family in DEFAULT_FAMILIES if arguments.leave_one_out else ():
        settings = {**common, "seed": seeds[0], "without": family, "name": f"without-{family}"}
        left_out[family] = train_once(parse(TrainRealismSettings, settings))
    print(f"{describe(libraries=('torch', 'numpy', 'opencv-python-headless'))}\n")
    print(f"{len(seeds)} seeds, {found[0]['settings']['steps']} steps, {len(found[0]['image_ids'])} photographs.\n")
    print(table_of(found, left_out).markdown())
    print(f"\n{families_of(found, left_out).markdown()}")


def table_of(found: Sequence[dict[str, Any]], left_out: dict[str, dict[str, Any]]) -> Table:
    """Make the table of figures, mean and spread over the seeds."""
    table = Table(("measure", "wanted", "aim", "val", "test"))
    for figure in FIGURES:
        values = [
            _spread([one["metrics"].get(split, {}).get(figure.key) for one in found]) for split in ("val", "test")
        ]
        table.add(figure.name, figure.wanted, AIMS.get(figure.key, ""), *values)
    if left_out:
        worst = min(left_out, key=lambda family: _family(left_out[family], family))
        value = f"{_family(left_out[worst], worst):.3f} ({worst})"
        table.add("worst family left out of training", f"at least {LEFT_OUT[0]}", LEFT_OUT[1], "", value)
    audits = [one["audit"] for one in found]
    farthest = [max((audit["null_auroc"], *audit["null"].values()), key=lambda v: abs(v - 0.5)) for audit in audits]
    table.add("audit: null edits, the AUROC farthest from .5", "0.47 to 0.53", "", "", _spread(farthest))
    table.add(
        "audit: worst shift of the mean score", "at most 0.02", "", "", _spread([a["worst_shift"] for a in audits])
    )
    passed = f"{sum(audit['passed'] for audit in audits)} of {len(audits)}"
    table.add(f"audits passed ({audits[0]['subjects']} subjects)", "all", "", "", passed)
    return table


def families_of(found: Sequence[dict[str, Any]], left_out: dict[str, dict[str, Any]]) -> Table:
    """Make the table of naturals against each family's edits on `test`."""
    table = Table(("family", "all families seen", "this one left out"))
    for family in DEFAULT_FAMILIES:
        alone = f"{_family(left_out[family], family):.3f}" if family in left_out else "not measured"
        table.add(f"`{family}`", _spread([_family(one, family) for one in found]), alone)
    return table


def _family(about: dict[str, Any], family: str) -> float:
    value = about["metrics"].get("test", about["metrics"]["val"])["family_auroc"][family]
    return float("nan") if value is None else float(value)


def _spread(values: Sequence[float | None]) -> str:
    """Return mean and sample standard deviation in words."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "not measured"
    return f"{np.mean(known):.3f}" + (f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else "")


def run_speed(arguments: argparse.Namespace) -> None:
    """Time cropping and scoring on one core, on pictures of COCO's size, and the making of samples."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    named = arguments.name in NAMES
    checkpoint = load_checkpoint(shipped(arguments.name) if named else Path(arguments.name))
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    mask = np.zeros((480, 640), np.uint8)
    mask[100:400, 250:380] = 255
    times = []
    for _ in range(7):
        started = time.process_time()
        crops = np.stack([prepare(picture, mask, side=checkpoint.model.shape.side) for _ in range(64)])
        middle = time.process_time()
        score_crops(checkpoint, crops)
        times.append(((middle - started) / 64, (time.process_time() - middle) / 64))
    crop, score = (1000 * min(column) for column in zip(*times, strict=True))
    print(describe(libraries=("torch", "numpy", "opencv-python-headless")))
    print(f"\none core, a sample: crop {crop:.2f} ms, score {score:.2f} ms, making {making(arguments.coco):.2f} ms")


def making(coco: str) -> float:
    """Return the milliseconds that one worker takes to make a sample without a gate."""
    with tempfile.TemporaryDirectory() as output:
        build = (sys.executable, "-m", "flows.cli", "build", "--source", coco, "--output", output, "--json")
        options = ("--samples", str(MADE), "--workers", "1", "--gate", "off", "--run", "timed")
        subprocess.run([*build, *options], check=True, stdout=subprocess.DEVNULL)
        done = [json.loads(path.read_bytes()) for path in Path(output).glob("timed/done/*.json")]
    return float(1000 * sum(one["seconds"] for one in done) / sum(one["planned"] for one in done))


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    table = commands.add_parser("table", help="several seeds, mean and spread")
    table.add_argument("--photos")
    table.add_argument("--output", default="build/realism")
    table.add_argument("--seeds", default="0,1,2")
    table.add_argument("--leave-one-out", action="store_true", help="train once without each family, too")
    table.add_argument("--steps", type=int)
    table.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    table.add_argument("--threads", type=int, default=1)
    table.set_defaults(work=run_table)
    speed = commands.add_parser("speed", help="milliseconds a sample")
    speed.add_argument("name", metavar="NAME|FILE", help="photographs, sample, or a checkpoint's file")
    speed.set_defaults(work=run_speed)
    for command in (table, speed):
        command.add_argument("--coco", default="sample", help="folder in COCO's layout. Default: the embedded sample.")
    arguments = parser.parse_args()
    try:
        arguments.work(arguments)
    except BadRequest as request:
        sys.exit(f"realism_table: {request}")


if __name__ == "__main__":
    main()
