from __future__ import annotations

import collections
import dataclasses
import json

import numpy as np
import pytest

from augment.draw import CANDIDATES, DEFAULT_FAMILIES, Recipe, draw_recipe


def _draw(seed: int, **families: float) -> Recipe:
    return draw_recipe(np.random.default_rng(seed), families=families or DEFAULT_FAMILIES)


RECIPES = [_draw(seed) for seed in range(3000)]


def test_same_seed_same_recipe() -> None:
    """A recipe depends on the generator's state and the weights alone."""
    assert _draw(5) == _draw(5) != _draw(6)


def test_every_draw_takes_the_same_quantity_of_numbers() -> None:
    """The generator is left in one state whatever was drawn."""
    states = set()
    for name in DEFAULT_FAMILIES:
        rng = np.random.default_rng(8)
        draw_recipe(rng, families={name: 1.0})
        states.add(rng.random())
    assert len(states) == 1


def test_recipes_of_other_weights_agree_in_the_rest() -> None:
    """Changing weights changes the family, not strength, feather or light."""
    one, other = _draw(11, mkl=1.0), _draw(11, reinhard=1.0)
    assert dataclasses.replace(one, family="reinhard") == other


def test_the_order_of_the_weights_does_not_count() -> None:
    """Weights are a mapping; two orders of it draw alike."""
    assert _draw(4, mkl=2.0, histogram=1.0) == _draw(4, histogram=1.0, mkl=2.0)


def test_recipes_survive_json_exactly() -> None:
    """Through text and back, every recipe is equal to itself."""
    assert all(Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe for recipe in RECIPES[:300])


def test_json_is_flat_with_fixed_keys() -> None:
    """Every recipe has the same keys, and only scalars under them."""
    flats = [recipe.to_json() for recipe in RECIPES[:300]]
    assert len({tuple(flat) for flat in flats}) == 1
    assert all(value is None or isinstance(value, str | int | float) for flat in flats for value in flat.values())


def test_drawn_floats_have_six_decimals() -> None:
    """What is stored is what is used."""
    assert all(round(recipe.strength, 6) == recipe.strength for recipe in RECIPES)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_other_keys_are_refused(change: str) -> None:
    """A recipe of another version is not read as if it were this one's."""
    flat: dict[str, object] = {**_draw(0).to_json()}
    if change == "missing":
        del flat["strength"]
    else:
        flat["weather"] = "rain"
    with pytest.raises(ValueError, match="strength" if change == "missing" else "weather"):
        Recipe.from_json(flat)


def test_families_come_as_often_as_weighted() -> None:
    """3,000 draws agree with the weights to within four standard deviations."""
    counts = collections.Counter(recipe.family for recipe in RECIPES)
    for name, weight in DEFAULT_FAMILIES.items():
        spread = (3000 * weight * (1 - weight)) ** 0.5
        assert abs(counts[name] - 3000 * weight) < 4 * spread


def test_numbers_lie_where_the_method_puts_them() -> None:
    """Strength, feather, contrast and brightness fill their intervals and do not leave them."""
    pairs = [pair for recipe in RECIPES if recipe.perturb for pair in recipe.perturb]
    drawn = {
        (0.3, 1.0): [recipe.strength for recipe in RECIPES],
        (1.0, 2.0): [recipe.feather_px for recipe in RECIPES],
        (0.6, 1.5): [contrast for contrast, _ in pairs],
        (-0.2, 0.2): [brightness for _, brightness in pairs],
    }
    for (low, high), values in drawn.items():
        assert low <= min(values) < low + 0.05 < high - 0.05 < max(values) <= high


def test_half_of_the_transfers_are_perturbed_and_perturb_always() -> None:
    """Family perturb always has its candidates, the others in half of all draws."""
    transfers = [recipe.perturb is not None for recipe in RECIPES if recipe.family != "perturb"]
    assert 0.45 < np.mean(transfers) < 0.55
    assert all(len(recipe.perturb or ()) == CANDIDATES for recipe in RECIPES if recipe.family == "perturb")


def test_a_fifth_has_local_light() -> None:
    """The numbers of local light come all together, on about 20 % of the recipes."""
    light = [(r.local_angle, r.local_center, r.local_width, r.local_low) for r in RECIPES]
    assert all((None in numbers) == (numbers == (None,) * 4) for numbers in light)
    assert 0.17 < np.mean([None not in numbers for numbers in light]) < 0.23


def test_idt_numbers_come_with_idt_only() -> None:
    """Rotation and iterations are None for every other family."""
    for recipe in RECIPES:
        assert (recipe.idt_rotation is not None) == (recipe.idt_iterations is not None) == (recipe.family == "idt")


def test_a_family_of_weight_zero_never_comes() -> None:
    """Zero is a weight like any other."""
    assert {_draw(seed, mkl=0.0, idt=3.0).family for seed in range(200)} == {"idt"}


@pytest.mark.parametrize(
    "families",
    [{"sepia": 1.0}, {}, {"mkl": 0.0}, {"mkl": -1.0, "idt": 2.0}, {"mkl": float("nan")}, {"mkl": float("inf")}],
)
def test_impossible_weights_are_refused(families: dict[str, float]) -> None:
    """The message lists the known families."""
    with pytest.raises(ValueError, match="known are luminance_cct, histogram, mkl, reinhard, perturb, idt"):
        draw_recipe(np.random.default_rng(0), families=families)
