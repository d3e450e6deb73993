"""Compare ways of composing on held-out compositions: closed-form blends with the polygon, and networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from flows.coco.pictures import Picture
from flows.coco.sources import Source
from flows.decoding import decode_member
from flows.errors import BadRequest
from flows.make.fusion import Blender, blend_by, closed_blends, evaluate_blends, gather, hard_cases
from flows.make.fusion_data import Case, cases
from flows.store.layout import Layout
from flows.store.manifest import read_manifest
from flows.store.read import Damaged, read_tar
from realism.fusion_checkpoint import load_fusion
from realism.weights import shipped_fusion

HELD_OUT: Final = ("val", "test")
MEASURES: Final = ("psnr", "ssim", "boundary_psnr", "boundary_error")
SHOWN: Final = 4
"""Compositions of a kind that are shown."""
ROOM: Final = 24
"""Pixels around the person that are shown with it."""


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        tables: A row a method, by kind of composition (`easy`, `hard`).
        counts: Compositions of each kind.
        pictures: Of some compositions of each kind, by what they are: foreground, mask, wanted, every method.
    """

    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    counts: Mapping[str, int]
    pictures: Mapping[str, Sequence[Mapping[str, Picture]]]

    def to_json(self) -> dict[str, Any]:
        """Return this for JSON, without the pictures."""
        return {"counts": dict(self.counts), "tables": {kind: list(rows) for kind, rows in self.tables.items()}}


def read_networks(given: Sequence[str]) -> dict[str, Path]:
    """Read `NAME=FILE` of networks to compare; the shipped one of photographs where none is given.

    Raises:
        BadRequest: It is no such pair, or a name stands there twice.
    """
    networks: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name or not path or name in networks:
            raise BadRequest(
                f"--network {text!r} is no NAME=FILE of its own name; write it as m1=output/fusion/a/m1.pt"
            )
        networks[name] = Path(path).expanduser()
    return networks or {"shipped": shipped_fusion("photographs")}


def open_methods(networks: Mapping[str, Path], *, device: str) -> dict[str, Blender]:
    """Return every way of composing: the closed-form blends, then the networks.

    Raises:
        BadRequest: A checkpoint is missing, damaged, or of another network.
    """
    methods = closed_blends()
    for name, path in networks.items():
        try:
            methods[name] = blend_by(load_fusion(path).model, device=device)
        except ValueError as error:
            raise BadRequest(f"--network {name}: {error}") from None
    return methods


def cases_of_run(layout: Layout, *, most: int) -> dict[str, list[Case]]:
    """Read held-out compositions out of a run: its kept fusion samples of `val` and `test`, at most `most` of a kind.

    Raises:
        BadRequest: The run is unfinished, damaged, or has none.
    """
    found: dict[str, list[Case]] = {"easy": [], "hard": []}
    for entry in read_manifest(layout)["shards"]:
        folder, _, name = entry["path"].partition("/")
        if folder != "fusion" or name.split("-")[0] not in HELD_OUT:
            continue
        for kind, case in _cases_in(layout.run / entry["path"]):
            if len(found[kind]) < most:
                found[kind].append(case)
    if not any(found.values()):
        raise BadRequest(
            f"{layout.run} has no kept fusion samples in {' or '.join(HELD_OUT)}: build more samples, or give --source"
        )
    return {kind: chosen for kind, chosen in found.items() if chosen}


def _cases_in(tar: Path) -> Iterator[tuple[str, Case]]:
    try:
        for stored in read_tar(tar):
            pictures = [decode_member(stored.members[f"{name}.jpg"], cv2.IMREAD_COLOR_RGB) for name in _PICTURES]
            masks = [decode_member(stored.members[f"{name}.png"], cv2.IMREAD_UNCHANGED) for name in ("mask", "alpha")]
            foreground, background, wanted, mask, alpha = (_whole(layer, tar) for layer in (*pictures, *masks))
            yield stored.record["family"], Case(foreground, background, mask, alpha, wanted)
    except (Damaged, KeyError) as damage:
        raise BadRequest(f"{tar} is damaged ({damage}); run hcoco verify") from None


_PICTURES: Final = ("foreground", "background", "composite")


def _whole(layer: np.ndarray[Any, np.dtype[np.uint8]] | None, tar: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if layer is None:
        raise Damaged(f"{tar.name}: a picture cannot be decoded")
    return layer


def cases_of_source(
    source: Source, photos: Path | None, *, first: Path, count: int, seed: int, device: str
) -> dict[str, list[Case]]:
    """Draw held-out compositions from the `test` photographs of a source, else from those of `val`.

    Args:
        source: Of the photographs.
        photos: Folder of more backgrounds, or None.
        first: Checkpoint that makes the hard ones.
        count: Of each kind.
        seed: Of the compositions.
        device: `cpu` or `cuda`.

    Raises:
        BadRequest: Neither split has somebody, or the checkpoint cannot be used.
    """
    try:
        held_out = gather(source, photos, split="test")
    except BadRequest:
        held_out = gather(source, photos, split="val")
    try:
        model = load_fusion(first).model
    except ValueError as error:
        raise BadRequest(str(error)) from None
    found = {
        "easy": cases(held_out.people, held_out.scenes, count=count, seed=seed),
        "hard": hard_cases(model, held_out, count=count, seed=seed, device=device),
    }
    return {kind: chosen for kind, chosen in found.items() if chosen}


def compare(sets: Mapping[str, Sequence[Case]], methods: Mapping[str, Blender]) -> Comparison:
    """Measure every method on every composition."""
    return Comparison(
        tables={kind: evaluate_blends(chosen, methods) for kind, chosen in sets.items()},
        counts={kind: len(chosen) for kind, chosen in sets.items()},
        pictures={kind: [_pictures(case, methods) for case in chosen[:SHOWN]] for kind, chosen in sets.items()},
    )


def _pictures(case: Case, methods: Mapping[str, Blender]) -> dict[str, Picture]:
    """Return the person with some room around it, in everything that is shown of a composition."""
    x, y, width, height = cv2.boundingRect(np.maximum(case.alpha, case.mask))
    window = np.s_[max(y - ROOM, 0) : y + height + ROOM, max(x - ROOM, 0) : x + width + ROOM]
    mask = np.asarray(cv2.cvtColor(case.mask, cv2.COLOR_GRAY2RGB), np.uint8)
    shown = {"foreground": case.foreground, "mask": mask, "wanted": case.wanted}
    shown |= {name: blend(case) for name, blend in methods.items()}
    return {name: picture[window] for name, picture in shown.items()}


def tell_comparison(comparison: Comparison) -> Iterable[str]:
    """Say it as a text table a kind."""
    for kind, rows in comparison.tables.items():
        yield f"{kind}: {comparison.counts[kind]} compositions"
        yield f"  {'method':<18}" + "".join(f"{name:>16}" for name in MEASURES)
        for row in rows:
            yield f"  {row['method']:<18}" + "".join(f"{row[name]:>16.3f}" for name in MEASURES)
