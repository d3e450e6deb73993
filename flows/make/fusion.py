"""Train the fusion networks: the first stage on easy people, the next on these and on people made hard by the first.

`gather` -> `train_fusion` -> checkpoint is the whole way, `evaluate_blends` the measure of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from augment.blend import BLENDS
from flows.coco.pictures import Picture
from flows.coco.select import Split
from flows.coco.sources import Source
from flows.errors import BadRequest
from flows.make.ahead import computing_threads, drawing_ahead
from flows.make.fusion_data import Case, Cutout, Drawing, Truth, backgrounds, cases, cutouts, easiest, harden
from realism.checkpoint import load_checkpoint
from realism.fusion import FusionNet, fuse
from realism.fusion_checkpoint import FusionCheckpoint, save_fusion
from realism.losses import Features, convolution_features, vgg_features
from realism.metrics import measure_composite
from realism.train import Progress
from realism.train_fusion import FusionSettings, train_network
from realism.vgg import load_vgg16
from realism.weights import shipped

Blender = Callable[[Case], Picture]
Report = Callable[[str], None]

PHOTOGRAPHS: Final = 4000
"""Most annotated photographs that are searched for easy people; a matte takes 0.1 to 0.4 s, once."""
SCENES: Final = 2500
"""Most backgrounds that are kept in memory, half a gigabyte."""
HARD_EACH: Final = 6
"""Busy scenes that every easy person is laid into for the next stage."""
VALIDATION_CASES: Final = 16


@dataclass(frozen=True)
class Gathered:
    """People and scenes of one split."""

    people: Sequence[Cutout]
    """The easiest."""
    scenes: Sequence[Picture]
    found: int
    """People that the easiest were chosen from."""


@dataclass(frozen=True)
class Trained:
    """What a training ended with."""

    checkpoint: FusionCheckpoint
    digest: str
    history: Sequence[Mapping[str, float]]


def gather(source: Source, photos: Path | None, *, split: Split) -> Gathered:
    """Gather the easiest people of a split, and the scenes they may be laid into.

    Args:
        source: Photographs with annotations.
        photos: Folder of further photographs, for scenes only, or None.
        split: Nothing else is opened.

    Raises:
        BadRequest: There is no whole person in the split, or fewer than three scenes.
    """
    people = list(cutouts(source, split=split, most=PHOTOGRAPHS))
    if not people:
        raise BadRequest(
            f"no photograph of the {split} split has a whole person (not cut by the frame, not small) to learn from; "
            "give a source with more photographs of people"
        )
    scenes = list(backgrounds(source, photos, split=split, most=SCENES))
    if len(scenes) < 3:
        raise BadRequest(f"the {split} split has {len(scenes)} scenes to lay people into; give at least three")
    return Gathered(easiest(people), scenes, len(people))


def train_fusion(
    learnt: Gathered,
    settings: FusionSettings,
    *,
    output: Path,
    features: Features | None,
    first: FusionCheckpoint | None = None,
    held_out: Gathered | None = None,
    truth: Truth = "matte",
    device: str = "cpu",
    threads: int = 1,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a stage and write its checkpoint; go on where a training into the same file was interrupted.

    Args:
        learnt: Of the split `train`.
        settings: Of the training.
        output: Of the checkpoint; the state of the training lies beside it, with the suffix `.state`.
        features: For the perceptual loss, see `realism.losses`; None where `settings.perceptual` is 0.
        first: The stage before. It lays the easy people into busy scenes, and the training begins with its weights;
            None trains the first stage.
        held_out: Of another split; measured after each saved stretch, for the record, against the mattes' composites.
        truth: What the composites that are learnt are made with.
        device: `cpu` or `cuda`.
        threads: Of the network on the CPU.
        report: Told of each stretch.

    Raises:
        ValueError: The state belongs to another training, or no picture of `first` passed the gates.
        NotANumberLossError: The loss stopped being finite.
    """
    hard: list[Cutout] = []
    if first:
        hard += harden(first.model, learnt.people, learnt.scenes, each=HARD_EACH, seed=settings.seed, device=device)
        if not hard:
            raise ValueError("no picture of the stage before passed the gates: it has learnt nothing; train it longer")
    drawing = Drawing(learnt.people, learnt.scenes, seed=settings.seed, hard=hard, truth=truth)
    measured = _validation(held_out, first, device=device) if held_out else None
    digest, parent = digest_of(learnt), first.digest if first else ""
    with computing_threads(threads), drawing_ahead(drawing.batch, steps=settings.steps) as draw:
        model, history = train_network(
            draw,
            settings,
            features=features,
            state=output.with_suffix(".state"),
            start=first.model if first else None,
            origin=" ".join(filter(None, (digest, parent, "" if truth == "matte" else truth))),
            device=device,
            validate=measured,
            report=report,
        )
    checkpoint = FusionCheckpoint(
        model=model,
        stage=first.stage + 1 if first else 1,
        image_ids=frozenset(person.image_id for person in learnt.people),
        data_digest=digest,
        settings={**asdict(settings), "truth": truth},
        parent=parent,
        metrics={"history": history, "people": len(learnt.people), "scenes": len(learnt.scenes)},
    )
    return Trained(checkpoint, save_fusion(checkpoint, output), history)


def perceptual_features(*, vgg: Path | None = None, realism: Path | None = None, device: str = "cpu") -> Features:
    """Return what the perceptual loss compares: VGG-16 where its weights are given, else the realism network.

    Args:
        vgg: ImageNet weights in torchvision's format.
        realism: A realism checkpoint with a convolution; None takes the one that comes with the package.
        device: `cpu` or `cuda`.

    Raises:
        BadRequest: The file cannot be used.
    """
    try:
        if vgg is not None:
            return vgg_features(load_vgg16(vgg).to(device))
        model = load_checkpoint(realism or shipped("photographs")).model
        return convolution_features(model.to(device))
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _validation(
    held_out: Gathered, first: FusionCheckpoint | None, *, device: str
) -> Callable[[FusionNet], Mapping[str, float]]:
    """Return the measure of a network on easy cases, and on hard ones where there is a network to make them."""
    sets = {"easy": cases(held_out.people, held_out.scenes, count=VALIDATION_CASES, seed=0)}
    if first:
        sets["hard"] = hard_cases(first.model, held_out, count=VALIDATION_CASES, seed=0, device=device)

    def measure(model: FusionNet) -> Mapping[str, float]:
        return {
            f"{name}_{key}": value
            for name, chosen in sets.items()
            if chosen
            for key, value in mean_measures(chosen, blend_by(model, device=device)).items()
        }

    return measure


def hard_cases(model: FusionNet, held_out: Gathered, *, count: int, seed: int, device: str = "cpu") -> list[Case]:
    """Draw compositions of people that a network laid into one scene, over another."""
    each = -(-count // len(held_out.people))
    hard = list(harden(model, held_out.people, held_out.scenes, each=each, seed=seed, device=device))
    return cases(hard, held_out.scenes, count=count, seed=seed + 1)


def closed_blends() -> dict[str, Blender]:
    """Return every closed-form blend, with the polygon as alpha; `copy_paste` is the plain one."""

    def closed(name: str) -> Blender:
        return lambda case: BLENDS[name](case.foreground, case.background, case.mask)

    return {"copy_paste" if name == "alpha" else name: closed(name) for name in BLENDS}


def evaluate_blends(chosen: Sequence[Case], methods: Mapping[str, Blender]) -> list[dict[str, float | str]]:
    """Measure ways of composing on the same cases, at least one.

    Returns:
        A row for each: `method`, and the means over the cases of what `measure_composite` measures.
    """
    return [{"method": name, **mean_measures(chosen, blend)} for name, blend in methods.items()]


def blend_by(model: FusionNet, *, device: str = "cpu") -> Blender:
    """Return a network as a way of composing a case."""
    return lambda case: fuse(model, case.foreground, case.background, case.mask, device=device).picture


def mean_measures(chosen: Sequence[Case], blend: Blender) -> dict[str, float]:
    """Return the means of the measures over cases, rounded to 4 decimals."""
    rows = [measure_composite(blend(case), case.wanted, case.alpha) for case in chosen]
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}


def digest_of(learnt: Gathered) -> str:
    """Return a sha256 of what was learnt from."""
    digest = hashlib.sha256()
    for person in learnt.people:
        for layer in (person.picture, person.mask, person.alpha, person.subject):
            digest.update(layer.tobytes())
    for scene in learnt.scenes:
        digest.update(scene.tobytes())
    return digest.hexdigest()
