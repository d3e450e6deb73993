"""Draw every number that an edit or a placement takes, from one generator."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from augment.place import PLACEMENT_NUMBERS, Box, Mask, Placement, choose_placement
from augment.transfer.idt import ROTATION_COUNT

DEFAULT_FAMILIES: Final[Mapping[str, float]] = {
    "luminance_cct": 0.35,
    "histogram": 0.20,
    "mkl": 0.15,
    "reinhard": 0.15,
    "perturb": 0.10,
    "idt": 0.05,
}
"""Every family, with its default weight."""

CANDIDATES: Final = 8
PERTURB_PROBABILITY, LOCAL_PROBABILITY = 0.5, 0.2
STRENGTH, FEATHER_PX = (0.3, 1.0), (1.0, 2.0)
CONTRAST, BRIGHTNESS = (0.6, 1.5), (-0.2, 0.2)
LOCAL_CENTER, LOCAL_WIDTH, LOCAL_LOW = (-0.4, 0.4), (0.5, 1.5), (0.0, 0.6)
IDT_ITERATIONS = (10, 20)
_NUMBERS = 11 + 2 * CANDIDATES


@dataclass(frozen=True)
class Recipe:
    """Every drawn number of one edit, rounded to 6 decimals where not whole."""

    family: str
    strength: float
    """0.3..1: how far from the original (0) to the mapped colours (1)."""
    feather_px: float
    """1..2: width of the blend's ramp."""
    perturb: tuple[tuple[float, float], ...] | None
    """Candidates (contrast, brightness), tried in order until one does not clip; None: no perturbation."""
    local_angle: float | None
    """Degrees from the x axis towards the y axis: where the lit side is. None, as all `local_*`: no local light."""
    local_center: float | None
    """Middle of the transition along that direction; -1 and 1 are the sides of the subject's box."""
    local_width: float | None
    """Width of the transition, in the same unit."""
    local_low: float | None
    """Share of the strength that is left on the far side."""
    idt_rotation: int | None
    """Entry of the table of rotations to start at; None where the family is not `idt`."""
    idt_iterations: int | None

    def to_json(self) -> dict[str, str | float | int | None]:
        """Flatten to scalars under a fixed set of keys; `perturb` becomes `perturb_contrast_0` and so on."""
        flat = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "perturb"}
        pairs = self.perturb or ((None, None),) * CANDIDATES
        for k, (contrast, brightness) in enumerate(pairs):
            flat |= {f"perturb_contrast_{k}": contrast, f"perturb_brightness_{k}": brightness}
        return flat

    @classmethod
    def from_json(cls, flat: Mapping[str, object]) -> Recipe:
        """Restore what `to_json` gave, exactly; a missing or unknown key raises ValueError."""
        values = dict(flat)
        names = [field.name for field in dataclasses.fields(cls) if field.name != "perturb"]
        pair_names = [(f"perturb_contrast_{k}", f"perturb_brightness_{k}") for k in range(CANDIDATES)]
        known = {*names, *(name for pair in pair_names for name in pair)}
        if values.keys() != known:
            raise ValueError(
                f"flat must have exactly the keys of a recipe, these differ: {sorted(values.keys() ^ known)}"
            )
        pairs = tuple((values.pop(contrast), values.pop(brightness)) for contrast, brightness in pair_names)
        return cls(perturb=None if pairs[0][0] is None else pairs, **values)  # type: ignore[arg-type]


def draw_recipe(rng: np.random.Generator, *, families: Mapping[str, float]) -> Recipe:
    """Draw a recipe.

    The same quantity of numbers is taken from the generator whatever they come to, so two runs that differ in the
    weights alone still agree in strength, perturbation and light.

    Args:
        rng: Taken forward by a fixed number of draws.
        families: Name to weight; weights need not sum to 1, and a family left out has weight 0.

    Raises:
        ValueError: Unknown family, a weight that is negative or not finite, or none above zero.

    """
    weights = _weights(families)
    u = rng.random(_NUMBERS)
    family = tuple(DEFAULT_FAMILIES)[int(np.searchsorted(np.cumsum(weights), u[0] * weights.sum(), side="right"))]
    pairs = u[11:].reshape(CANDIDATES, 2)
    perturb = tuple((_between(c, CONTRAST), _between(b, BRIGHTNESS)) for c, b in pairs)
    local, idt = u[4] < LOCAL_PROBABILITY, family == "idt"
    return Recipe(
        family=family,
        strength=_between(u[1], STRENGTH),
        feather_px=_between(u[2], FEATHER_PX),
        perturb=perturb if family == "perturb" or u[3] < PERTURB_PROBABILITY else None,
        local_angle=_between(u[5], (0.0, 360.0)) if local else None,
        local_center=_between(u[6], LOCAL_CENTER) if local else None,
        local_width=_between(u[7], LOCAL_WIDTH) if local else None,
        local_low=_between(u[8], LOCAL_LOW) if local else None,
        idt_rotation=int(u[9] * ROTATION_COUNT) if idt else None,
        idt_iterations=IDT_ITERATIONS[0] + int(u[10] * (IDT_ITERATIONS[1] - IDT_ITERATIONS[0] + 1)) if idt else None,
    )


def draw_placement(
    rng: np.random.Generator, *, subject: Mask, size: tuple[int, int], boxes: Sequence[Box], people: Mask
) -> Placement | None:
    """Draw where a subject stands in a background, or None where it fits nowhere; see `choose_placement`.

    The generator is taken forward by a fixed number of draws. The placement itself belongs into the recipe: it is
    all that is needed to make the same picture again.
    """
    return choose_placement(rng.random(PLACEMENT_NUMBERS), subject=subject, size=size, boxes=boxes, people=people)


def _weights(families: Mapping[str, float]) -> NDArray[np.float64]:
    known = ", ".join(DEFAULT_FAMILIES)
    unknown = sorted(set(families) - set(DEFAULT_FAMILIES))
    if unknown:
        raise ValueError(f"families has unknown {', '.join(unknown)}; known are {known}")
    wrong = {name: weight for name, weight in families.items() if not (math.isfinite(weight) and weight >= 0)}
    if wrong or not any(families.values()):
        raise ValueError(
            f"families must have weights >= 0, one of them above, got {wrong or dict(families)}; known are {known}"
        )
    return np.array([float(families.get(name, 0.0)) for name in DEFAULT_FAMILIES])


def _between(share: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return round(low + (high - low) * float(share), 6)
