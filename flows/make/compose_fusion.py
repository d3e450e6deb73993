"""Make one fusion sample: a person with its matte, brought into another photograph; a pure function of its row.

An easy sample's foreground is the person in its own photograph; a hard one's is the person as the run's fusion network
laid it into a busy scene before. Either way the composite is made with the matte, so the network's faults are not
taught.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from augment import Placement, put
from augment.blend import composite
from augment.composition import measure_composition, near_mask
from flows.coco.pictures import BadPicture, Picture
from flows.make.compose import Look, Photographs, decode_jpeg, encode_jpeg, encode_png, person_of
from flows.make.fuser import load_fuser
from flows.make.fusion_data import cover
from flows.make.mattes import matte_of
from flows.make.plan import Plan
from flows.make.plan_fusion import generator, subject_side
from flows.make.spoil import spoil
from flows.store.layout import Layout
from realism.fusion import FusionNet, fuse, reach_of

Alpha = NDArray[np.uint8]

SPOILT: Final = 0.6
"""How often the polygon is spoilt before it is given to a network; the rest stay as annotated."""
SEEDS: Final = 2**53
"""Seeds are drawn below it: every reader of JSON holds them exactly."""


@dataclass(frozen=True)
class Composition:
    """Every drawn number of a fusion sample.

    Attributes:
        family: `easy` or `hard`.
        place: Of the person in the background.
        spoil_seed: Of the mask's faults; None where it has none.
        cover_seed: Of which part of the first background the frame shows; None for an easy one.
    """

    family: str
    place: Placement
    spoil_seed: int | None
    cover_seed: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the recipe."""
        return {
            "family": self.family,
            **{f"place_{name}": value for name, value in self.place.to_json().items()},
            "spoil_seed": self.spoil_seed,
            "cover_seed": self.cover_seed,
        }


def composition_from(values: Mapping[str, Any]) -> Composition:
    """Restore a composition from a recipe that may hold other fields, too.

    Raises:
        KeyError, TypeError, ValueError: A field is missing, or of another kind.
    """
    place = Placement(
        scale=float(values["place_scale"]),
        left=int(values["place_left"]),
        top=int(values["place_top"]),
        mirrored=bool(values["place_mirrored"]),
    )
    family, spoil_seed, cover_seed = str(values["family"]), values["spoil_seed"], values["cover_seed"]
    if (family == "hard") != (cover_seed is not None):
        raise ValueError("a hard sample has a cover_seed, an easy one has none")
    return Composition(family, place, spoil_seed, cover_seed)


def draw_composition(row: Mapping[str, Any], *, seed: int) -> Composition:
    """Draw what the plan left open, from the run's seed and the sample's key."""
    rng = generator(seed, row["key"], "composition")
    spoilt = rng.random() < SPOILT
    spoil_seed, cover_seed = (int(number) for number in rng.integers(SEEDS, size=2))
    hard = row["family"] == "hard"
    drawn = {"spoil_seed": spoil_seed if spoilt else None, "cover_seed": cover_seed if hard else None}
    return composition_from({**row, **drawn})


@dataclass(frozen=True)
class MadeFusion:
    """A fusion sample before judgement; named as those of `flows.make.compose.Made`.

    Attributes:
        members: `foreground.jpg`, `background.jpg`, `composite.jpg`, `mask.png`, `alpha.png`; empty on a failure.
        model: sha256 of the network that made the foreground; None for an easy one.
        crop: What `look` kept of the picture that the realism gate judges: the composite, or a hard one's foreground.
    """

    key: str
    members: Mapping[str, bytes]
    recipe: Composition
    gates: Mapping[str, float | None]
    model: str | None
    failure: str | None = None
    crop: NDArray[np.uint8] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Stock:
    """What a shard's fusion samples are made from: its photographs, scaled for either use, and the network."""

    subjects: Photographs
    scenes: Photographs
    model: FusionNet
    model_sha256: str


def open_stock(layout: Layout, plan: Plan) -> Stock:
    """Open what the samples of a run are made from.

    Raises:
        BadRequest: The run's fusion network is missing or damaged.
    """
    if plan.fuser is None:
        raise ValueError(f"plan must have a fusion network, {layout.run} has none")
    side, max_side = plan.fusion_side, plan.max_side
    frame = side if max_side is None else min(side, max_side)
    return Stock(
        subjects=Photographs(plan.folders, max_side=subject_side(side, max_side), keep=2),
        scenes=Photographs(plan.folders, max_side=frame, keep=8),
        model=load_fuser(layout, plan.fuser).model,
        model_sha256=plan.fuser.weights_sha256,
    )


def compose_fusion_rows(
    layout: Layout, plan: Plan, rows: Sequence[Mapping[str, Any]], *, look: Look | None = None
) -> Iterable[tuple[Mapping[str, Any], MadeFusion]]:
    """Make the fusion samples of some rows of the plan, one after the other."""
    stock = open_stock(layout, plan)
    for row in rows:
        yield row, compose_fusion(row, stock, recipe=draw_composition(row, seed=plan.seed), look=look)


def compose_fusion(
    row: Mapping[str, Any], stock: Stock, *, recipe: Composition, look: Look | None = None
) -> MadeFusion:
    """Make the fusion sample of one row of the plan; let `look` see what the realism gate is to judge."""
    hard, person = recipe.family == "hard", person_of(row, "foreground")
    model = stock.model_sha256 if hard else None
    try:
        background = stock.scenes.get(person_of(row, "background")).picture
        first = stock.scenes.get(person_of(row, "first_background")).picture if hard else None
        layers = _layers(stock.subjects, person, recipe.place, size=background.shape[:2])
    except BadPicture:
        return MadeFusion(row["key"], {}, recipe, {}, model, failure="unreadable")
    wanted = composite(background, layers.colours, layers.alpha)
    if first is None:
        foreground = layers.picture
        gates = _measure(wanted, layers.picture, background, layers.polygon)
    else:
        foreground, gates = _harden(stock.model, layers, first, seed=recipe.cover_seed)
    members = {
        "alpha.png": encode_png(layers.alpha),
        "background.jpg": encode_jpeg(background),
        "composite.jpg": encode_jpeg(wanted),
        "foreground.jpg": encode_jpeg(foreground),
        "mask.png": encode_png(mask_of(layers.polygon, recipe)),
    }
    judged = decode_jpeg(members["foreground.jpg" if hard else "composite.jpg"])
    crop = look(judged, layers.alpha) if look else None
    return MadeFusion(row["key"], members, recipe, gates, model, crop=crop)


def mask_of(polygon: Alpha, recipe: Composition) -> Alpha:
    """Return the mask that a network is given: the polygon in the frame, spoilt where the recipe says so."""
    return polygon if recipe.spoil_seed is None else spoil(polygon, np.random.default_rng(recipe.spoil_seed))


def polygon_in(subjects: Photographs, person: Mapping[str, Any], place: Placement, *, size: tuple[int, int]) -> Alpha:
    """Return a person's polygon at its place in the frame, soft where it was scaled: uint8 of `size`."""
    return put(subjects.mask(person).view(np.uint8) * np.uint8(255), place, size=size)


@dataclass(frozen=True)
class _Layers:
    """A person in the background's frame: its photograph, its own colours, its polygon and its matte."""

    picture: Picture
    colours: Picture
    polygon: Alpha
    alpha: Alpha


def _layers(subjects: Photographs, person: Mapping[str, Any], place: Placement, *, size: tuple[int, ...]) -> _Layers:
    frame = (size[0], size[1])
    picture = subjects.get(person).picture
    matte = matte_of(picture, subjects.mask(person))
    polygon = polygon_in(subjects, person, place, size=frame)
    alpha = put(matte.alpha, place, size=frame)
    alpha[~near_mask(polygon, reach_of(polygon))] = 0
    return _Layers(put(picture, place, size=frame), put(matte.foreground, place, size=frame), polygon, alpha)


def _harden(
    model: FusionNet, layers: _Layers, first: Picture, *, seed: int | None
) -> tuple[Picture, dict[str, float | None]]:
    """Lay the person into another scene by the network; return the picture and what its gates say."""
    height, width = layers.polygon.shape
    scene = cover(first, width=width, height=height, rng=np.random.default_rng(seed))
    try:
        fused = fuse(model, layers.picture, scene, layers.polygon)
    except ArithmeticError:  # the network answers something that is no number: nothing of the subject is there
        return scene, {"background_changed": None, "subject_lost": 1.0, "halo": None}
    return fused.picture, _measure(fused.raw, layers.picture, scene, layers.polygon)


def _measure(made: Picture, foreground: Picture, background: Picture, polygon: Alpha) -> dict[str, float | None]:
    measured = measure_composition(made, foreground, background, polygon, reach_px=reach_of(polygon))
    return {name: round(value, 6) for name, value in measured.items()}
