"""Draw a copy-paste pair: another light for the whole photograph, and a hard, often spoilt region of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from augment import Recipe, draw_recipe
from flows.coco.masks import Mask
from flows.make.plan_fusion import generator
from flows.make.spoil import spoil
from flows.store.record import EDIT

FIRST_VARIANT: Final = 100
"""Variant 0 of a copy-paste pair has this number in its key, beyond those of the other stages."""
SPOILT: Final = 0.6
"""How often the region is not the polygon but one that takes some surroundings along or leaves some of the person."""
SEEDS: Final = 2**53
"""Seeds are drawn below it: every reader of JSON holds them exactly."""


@dataclass(frozen=True)
class Paste:
    """Every drawn number of a copy-paste pair.

    Attributes:
        light: The edit of the whole photograph; its `feather_px` is 0, since a paste is hard.
        spoil_seed: Of the region's faults; None where it is the polygon.
    """

    light: Recipe
    spoil_seed: int | None

    @property
    def family(self) -> str:
        """Return the family of the edit."""
        return self.light.family

    @property
    def strength(self) -> float:
        """Return how far the edit goes."""
        return self.light.strength

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the recipe."""
        return {**self.light.to_json(), "spoil_seed": self.spoil_seed}


def draw_paste(key: str, *, seed: int, families: Mapping[str, float]) -> Paste:
    """Draw a copy-paste pair from the run's seed and the sample's key, and from nothing else."""
    rng = generator(seed, key, "paste")
    light = replace(draw_recipe(rng, families=families), feather_px=0.0)
    spoilt, number = rng.random() < SPOILT, int(rng.integers(SEEDS))
    return Paste(light, number if spoilt else None)


def read_paste(record: Mapping[str, Any]) -> Paste:
    """Return what was drawn from a record, whose recipe has the fields of every stage.

    Raises:
        KeyError, ValueError, TypeError: A field is missing, or of another kind.
    """
    recipe = record["recipe"]
    return Paste(Recipe.from_json({name: recipe[name] for name in EDIT}), recipe["spoil_seed"])


def region_of(mask: Mask, paste: Paste) -> NDArray[np.uint8]:
    """Return what is pasted: 255 in the region, 0 elsewhere, nothing between; uint8 (H, W).

    Args:
        mask: bool (H, W), the polygon, some of it true.
        paste: As drawn. A region that its faults would leave without a pixel is the polygon.
    """
    polygon = mask.view(np.uint8) * np.uint8(255)
    if paste.spoil_seed is None:
        return polygon
    spoilt = spoil(polygon, np.random.default_rng(paste.spoil_seed)) > 127
    return spoilt.view(np.uint8) * np.uint8(255) if spoilt.any() else polygon
