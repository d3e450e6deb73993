"""Train the realism network and measure it: the table of the model card, by one command.

    python benchmarks/realism_table.py train NAME --coco FOLDER [--photos FOLDER] [--steps N] [--seed N]
        [--without FAMILY] [--branches A,B] [--kinds person,other] [--vigour V]
    python benchmarks/realism_table.py measure NAME --coco FOLDER [--photos FOLDER]
    python benchmarks/realism_table.py speed NAME

`train` learns from the photographs of the split `train`, calibrates on `val`, measures on `val` and `test`, audits on
both, and writes `build/realism/NAME.pt` and `.json`; killed and started again it goes on. What is measured on is drawn
once and kept beside them. Every photograph's split is a hash of its id, so none that was learnt from is measured on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import cv2
import numpy as np
import torch
from machine import describe

from augment import DEFAULT_FAMILIES
from flows.coco.sources import Source, cache_folder, open_source
from flows.make.severity import Cases, Drawing, draw_cases, join_cases, make_checkpoint, measure_cases, people_of
from flows.make.subjects import (
    Subject,
    annotated_subjects,
    check_splits,
    unlabelled_photographs,
    unlabelled_subjects,
)
from realism.checkpoint import load_checkpoint, save_checkpoint
from realism.discriminator import BRANCHES, Discriminator, Shape
from realism.score import prepare, score_crops, score_logits
from realism.train import Progress, TrainSettings, train

SHARES = {"person": 0.75, "other": 0.15, "borrowed": 0.05, "segment": 0.05}
AUDITED = 340


def gather(source: Source, photos: Path | None) -> list[Subject]:
    """Gather what is learnt from: annotated subjects, and those of photographs without annotations."""
    subjects = list(annotated_subjects(source, split="train"))
    shapes = [subject.mask for subject in subjects if subject.kind == "person"]
    if photos:
        subjects += unlabelled_subjects(photos, split="train", shapes=shapes, each=2, seed=0)
    check_splits(subjects, split="train")
    return subjects


def cases_of(source: Source, photos: Path | None, folder: Path) -> dict[str, Cases]:
    """Return the cases of `val`, `test` and the audit; drawn where they do not lie in `folder` yet."""
    paths = {name: folder / f"cases-{source.label}-{name}.npz" for name in ("val", "test", "audit")}
    if not all(path.exists() for path in paths.values()):
        people = {split: people_of(source, split=split) for split in ("val", "test")}
        cases = {split: draw_cases(scenes, seed=7) for split, scenes in people.items()}
        parts = list(cases.values())
        count = sum(int(part.subject.max()) + 1 for part in parts)
        if photos and count < AUDITED:
            shapes = [mask.astype(np.uint8) * 255 for _, _, masks in people["val"] for mask in masks]
            scenes = [
                scene
                for split in ("val", "test")
                for scene in unlabelled_photographs(photos, split=split, shapes=shapes, seed=3)
            ]
            parts.append(draw_cases(scenes, seed=8, per_photograph=1, most=AUDITED - count))
        folder.mkdir(parents=True, exist_ok=True)
        for name, one in {**cases, "audit": join_cases(*parts)}.items():
            one.save(paths[name])
    return {name: Cases.load(path) for name, path in paths.items()}


def run_training(arguments: argparse.Namespace) -> None:
    """Train, calibrate, measure, audit, save, print."""
    source = open_source(arguments.coco, cache=cache_folder())
    cases = cases_of(source, arguments.photos, arguments.output)
    subjects = gather(source, arguments.photos)
    references = [subject.colours for subject in subjects if subject.kind in {"person", "other"}]
    plain = Drawing(subjects, references, seed=arguments.seed)
    families = {name: weight for name, weight in plain.families.items() if name != arguments.without}
    share = {kind: weight for kind, weight in SHARES.items() if kind in arguments.kinds.split(",")}
    drawing = dataclasses.replace(plain, families=families, vigour=arguments.vigour, share=share)
    shape = Shape(branches=tuple(arguments.branches.split(",")))
    settings = TrainSettings(steps=arguments.steps, seed=arguments.seed, shape=shape)
    described = {
        **vars(settings),
        "shape": vars(shape),
        "families": families,
        "vigour": arguments.vigour,
        "share": share,
    }
    kept = [subject for subject in subjects if subject.kind in share]

    def validate(model: Discriminator) -> dict[str, float]:
        probability = 1 / (1 + np.exp(-score_logits(model, cases["val"].crops)))
        measured = measure_cases(probability, cases["val"])
        return {name: measured[name] for name in ("band_auroc", "mild_gross_auroc", "spearman")}

    def report(progress: Progress) -> None:
        measured = ", ".join(f"{name} {value:.3f}" for name, value in progress.validation.items())
        print(f"{progress.step} loss {progress.loss:.4f} {measured} {progress.seconds:.0f} s", flush=True)

    state = arguments.output / f"{arguments.name}.state"
    model, history = train(
        drawing.batch, settings, state=state, device=arguments.device, validate=validate, report=report
    )
    described["history"] = history
    checkpoint = make_checkpoint(
        model, subjects=kept, val=cases["val"], test=cases["test"], audit=cases["audit"], settings=described
    )
    save_checkpoint(checkpoint, arguments.output / arguments.name)
    print(json.dumps({"metrics": checkpoint.metrics, "audit": checkpoint.audit}, indent=1))


def run_measuring(arguments: argparse.Namespace) -> None:
    """Measure a checkpoint on the people of `test`."""
    checkpoint = load_checkpoint(arguments.output / arguments.name)
    cases = cases_of(open_source(arguments.coco, cache=cache_folder()), arguments.photos, arguments.output)
    print(json.dumps(measure_cases(score_crops(checkpoint, cases["test"].crops), cases["test"]), indent=1))


def run_timing(arguments: argparse.Namespace) -> None:
    """Time crop and score on one core, on pictures of COCO's size."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    checkpoint = load_checkpoint(arguments.output / arguments.name)
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    mask = np.zeros((480, 640), np.uint8)
    mask[100:400, 250:380] = 255
    times = []
    for _ in range(arguments.rounds):
        started = time.process_time()
        crops = np.stack([prepare(picture, mask) for _ in range(64)])
        middle = time.process_time()
        score_crops(checkpoint, crops)
        times.append(((middle - started) / 64, (time.process_time() - middle) / 64))
    crop, score = (1000 * min(column) for column in zip(*times, strict=True))
    print(f"{describe()}\n\ncrop {crop:.2f} ms, score {score:.2f} ms a sample, one core")


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "measure", "speed"))
    parser.add_argument("name")
    parser.add_argument("--coco", default="sample")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--output", type=Path, default=Path("build/realism"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", choices=tuple(DEFAULT_FAMILIES))
    parser.add_argument("--branches", default=",".join(BRANCHES))
    parser.add_argument("--kinds", default=",".join(SHARES))
    parser.add_argument("--vigour", type=float, default=0.35)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    {"train": run_training, "measure": run_measuring, "speed": run_timing}[arguments.what](arguments)


if __name__ == "__main__":
    main()
