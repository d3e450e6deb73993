from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment import DEFAULT_FAMILIES, Recipe, draw_recipe, edit_subject, judge_gates
from augment.checks import LIMITS
from augment.edit import NOTE_KEYS
from flows.store.record import (
    COMPOSITION,
    DIFFICULTY,
    EDIT,
    FIELDS,
    GATES,
    INDEX,
    NOTES,
    encode_record,
    flatten,
    index_table,
    make_record,
)

FORMAT_FIELDS = [
    *("key", "stage", "split", "status", "reason", "value", "limit", "gates", "family", "strength", "foreground_mse"),
    *("psnr", "score", "threshold", "seen_by_gate", "recipe", "target", "reference"),
    *("foreground", "background"),
]
PERSON_FIELDS = ["image_id", "annotation_id", "license", "coco_url", "flickr_url"]


def drawn(family: str, seed: int = 0) -> Recipe:
    """Draw a recipe of one family."""
    return draw_recipe(np.random.default_rng(seed), families={family: 1.0})


def full_values(family: str = "mkl", seed: int = 0) -> dict[str, Any]:
    """Return values for every field of either stage, the recipe a drawn one and the notes those of a real edit."""
    recipe = drawn(family, seed)
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    alpha = np.zeros((40, 30), np.uint8)
    alpha[10:30, 5:20] = 255
    edited = edit_subject(target, alpha, rng.integers(0, 256, (500, 3), dtype=np.uint8), recipe)
    numbers = {"place_scale": 0.5, "place_left": -3, "place_top": 4, "spoil_seed": 2**53 - 1, "cover_seed": 0}
    placed = {**numbers, "place_mirrored": True}
    person = {"image_id": 7, "annotation_id": 10**11, "license": 4, "coco_url": "http://a/é", "flickr_url": None}
    return {
        "key": "a",
        "stage": "harmonization",
        "split": "train",
        "status": "rejected",
        "reason": "hue_flip",
        "value": 0.25,
        "limit": 0.2,
        "gates": dict.fromkeys(GATES, 0.5),
        "family": family,
        "strength": recipe.strength,
        "foreground_mse": 123.4567,
        "psnr": 30.0,
        "score": 0.5,
        "threshold": 0.25,
        "seen_by_gate": False,
        "recipe": {**recipe.to_json(), **placed},
        "notes": edited.notes,
        "target": person,
        "reference": {**person, "license": None},
        "foreground": person,
        "background": {**person, "annotation_id": None},
        "first_background": person,
        "model": "ab12",
        "difficulty": dict.fromkeys(DIFFICULTY, 0.25),
    }


def test_the_format_asks_for_these_fields() -> None:
    """Every field of the format stands in the record, in its order; these were added."""
    added = {"notes", "first_background", "model", "difficulty", "decision"}
    assert [name for name in make_record({}) if name not in added] == FORMAT_FIELDS
    assert list(make_record({})["target"]) == list(make_record({})["reference"]) == PERSON_FIELDS


def test_the_fields_are_the_same_whatever_is_known() -> None:
    """An empty record has the fields of a full one, all null, so a reader may infer the schema from any sample."""

    def names(value: Any) -> Any:
        return {name: names(inner) for name, inner in value.items()} if isinstance(value, dict) else None

    empty, full = make_record({}), make_record(full_values())
    assert names(empty) == names(full)
    assert set(flatten(empty).values()) == {None}


def test_an_unknown_field_is_refused() -> None:
    """A field that the format does not know cannot slip in, at the top or below it."""
    with pytest.raises(ValueError, match="record must have known fields only, got colour"):
        make_record({"colour": 1})
    with pytest.raises(ValueError, match="target must have known fields only, got name"):
        make_record({"target": {"name": "x"}})


def test_gates_are_those_that_are_asked_and_the_learned_one_last() -> None:
    """The record holds every gate: the closed-form ones in their order, then the realism score."""
    assert (*LIMITS, "unnatural") == GATES
    assert judge_gates(dict.fromkeys(GATES, 200.0)) is not None


@pytest.mark.parametrize("family", DEFAULT_FAMILIES)
def test_recipe_fields_are_those_of_augment(family: str) -> None:
    """The columns of an edit's recipe are the fields of `augment.Recipe` as it writes itself."""
    assert set(EDIT) == set(drawn(family).to_json())


def test_note_fields_are_those_of_augment() -> None:
    """The columns of the notes are `augment.edit.NOTE_KEYS`."""
    assert set(NOTES) == set(NOTE_KEYS)


@pytest.mark.parametrize("family", DEFAULT_FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_a_record_survives_json_and_the_index_exactly(family: str, seed: int) -> None:
    """What is written as JSON and as a row of the index is read back equal, numbers to the last bit, and is the same."""
    record = make_record(full_values(family, seed))
    assert json.loads(encode_record(record)) == record
    place = {"tar": "shards/x.tar", "offset": 512, "size": 4096}
    stored = io.BytesIO()
    pq.write_table(index_table([{**flatten(record), **place}]), stored)
    assert pq.read_table(stored).to_pylist() == [{**flatten(record), **place}]
    recipe = json.loads(encode_record(record))["recipe"]
    assert Recipe.from_json({name: recipe[name] for name in EDIT}) == drawn(family, seed)
    assert None not in [recipe[name] for name in COMPOSITION]


@pytest.mark.parametrize("family", DEFAULT_FAMILIES)
def test_columns_have_the_type_of_their_values(family: str) -> None:
    """A whole number is stored as one, a claim as a boolean, a word as text: no column widens what stands in it."""
    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
    for name, value in flatten(make_record(full_values(family))).items():
        assert value is None or INDEX.field(name).type == kinds[type(value)], name


def test_the_index_has_the_flat_fields_and_the_place_of_the_sample() -> None:
    """Columns of the index are the record's fields flattened with `_`, then `tar`, `offset` and `size`."""
    assert INDEX.names == [*flatten(make_record({})), "tar", "offset", "size"]
    assert len(set(INDEX.names)) == len(INDEX.names)
    assert {"target_image_id", "reference_annotation_id", "gates_clipping", "recipe_family"} <= set(INDEX.names)
    assert len(FIELDS) == len(make_record({}))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_never_holds_what_json_does_not_know(number: float) -> None:
    """NaN and infinity are refused instead of written as words that other readers reject."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_record(make_record({"psnr": number}))


def test_json_is_compact_utf8() -> None:
    """The member is UTF-8 without spaces, so equal records are equal bytes."""
    encoded = encode_record(make_record(full_values()))
    assert b": " not in encoded
    assert "http://a/é".encode() in encoded


def test_the_index_is_sorted_by_key() -> None:
    """Rows come in the order of their keys, whatever the order of their making."""
    rows = [{**flatten(make_record({"key": key})), "tar": "t", "offset": 0, "size": 0} for key in "cab"]
    assert index_table(rows)["key"].to_pylist() == ["a", "b", "c"]
