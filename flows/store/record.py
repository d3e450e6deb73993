"""The record of a sample: its `json` member, and the same as a row of the index.

Every sample has the same fields, unknown ones null, so that readers which infer a schema from the first sample
(Hugging Face `datasets`) read all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

_NUMBER, _COUNT, _WORD, _CLAIM = pa.float64(), pa.int64(), pa.string(), pa.bool_()

STAGE_GATES: Final[Mapping[str, tuple[str, ...]]] = {
    "harmonization": ("clipping", "hue_flip", "effect_small", "effect_large"),
    "fusion": ("background_changed", "subject_lost", "halo"),
    "copypaste": ("clipping", "hue_flip", "effect_small", "effect_large"),
}
"""Closed-form gates that a stage asks."""
GATES: Final = (*STAGE_GATES["harmonization"], *STAGE_GATES["fusion"], "unnatural")
"""All gates; the learned one looks at every stage."""

EDIT: Final[Mapping[str, pa.DataType]] = {
    "family": _WORD,
    **dict.fromkeys(("strength", "feather_px", "local_angle", "local_center", "local_width", "local_low"), _NUMBER),
    **dict.fromkeys(("idt_rotation", "idt_iterations"), _COUNT),
    **{f"perturb_{name}_{number}": _NUMBER for number in range(8) for name in ("contrast", "brightness")},
}

COMPOSITION: Final[Mapping[str, pa.DataType]] = {
    "place_scale": _NUMBER,
    **dict.fromkeys(("place_left", "place_top"), _COUNT),
    "place_mirrored": _CLAIM,
    **dict.fromkeys(("spoil_seed", "cover_seed"), _COUNT),
}
"""What a fusion sample draws; a copy-paste pair draws an edit and a `spoil_seed`."""

RECIPE: Final = {**EDIT, **COMPOSITION}

NOTES: Final[Mapping[str, pa.DataType]] = {
    **dict.fromkeys(("subject_pixels", "reference_pixels", "perturb_index", "perturb_redraws"), _COUNT),
    **dict.fromkeys(("kelvin_subject", "kelvin_reference", "duv_subject", "duv_reference"), _NUMBER),
    **dict.fromkeys(("mired_shift", "perturb_clipped"), _NUMBER),
    **dict.fromkeys(("mired_limited", "gain_limited"), _CLAIM),
    "cct_skipped": _WORD,
}

PERSON: Final[Mapping[str, pa.DataType]] = {
    **dict.fromkeys(("image_id", "annotation_id", "license"), _COUNT),
    **dict.fromkeys(("coco_url", "flickr_url"), _WORD),
}

DIFFICULTY: Final[Mapping[str, pa.DataType]] = dict.fromkeys(
    ("gradient", "spread", "neighbours", "confidence", "total"), _NUMBER
)
"""How hard the subject of a fusion is to cut out, see `augment.difficulty`."""

DECISION: Final[Mapping[str, pa.DataType]] = {"by": _WORD, "reason": _WORD, "value": _NUMBER, "limit": _NUMBER}
"""Who overruled the gates (`readmit`, `ban`, `regate`), and what they had said; null where nobody did."""

FIELDS: Final[Mapping[str, pa.DataType | Mapping[str, pa.DataType]]] = {
    **dict.fromkeys(("key", "stage", "split", "status", "reason"), _WORD),
    **dict.fromkeys(("value", "limit"), _NUMBER),
    "gates": dict.fromkeys(GATES, _NUMBER),
    "family": _WORD,
    **dict.fromkeys(("strength", "foreground_mse", "psnr", "score", "threshold"), _NUMBER),
    "seen_by_gate": _CLAIM,
    "recipe": RECIPE,
    "notes": NOTES,
    "target": PERSON,
    "reference": PERSON,
    "foreground": PERSON,
    "background": PERSON,
    "first_background": PERSON,
    "model": _WORD,
    "difficulty": DIFFICULTY,
    "decision": DECISION,
}
"""Fields of a sample's JSON, in their order, with the types of the index."""


def _flat_fields() -> list[tuple[str, pa.DataType]]:
    flat: list[tuple[str, pa.DataType]] = []
    for name, kind in FIELDS.items():
        flat += (
            [(f"{name}_{key}", inner) for key, inner in kind.items()] if isinstance(kind, Mapping) else [(name, kind)]
        )
    return flat


INDEX: Final = pa.schema([*_flat_fields(), ("tar", _WORD), ("offset", _COUNT), ("size", _COUNT)])
"""Columns of the index: the JSON's fields flattened with `_`, and where the sample lies."""


def make_record(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with all fields in their order, those that `values` lacks as null.

    Raises:
        ValueError: `values` has a field that the format does not know.
    """
    return _filled(values, FIELDS, where="record")


def _filled(values: Mapping[str, Any], fields: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"{where} must have known fields only, got {', '.join(unknown)}")
    return {
        name: _filled(values.get(name) or {}, kind, where=name) if isinstance(kind, Mapping) else values.get(name)
        for name, kind in fields.items()
    }


def encode_record(record: Mapping[str, Any]) -> bytes:
    """Encode a record as the `json` member: UTF-8, no spaces, never NaN."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as a row of the index, without `tar`, `offset` and `size`."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= (
            {f"{name}_{key}": inner for key, inner in value.items()} if isinstance(value, Mapping) else {name: value}
        )
    return flat


def index_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows of the index as a table, sorted by key."""
    return pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["key"])), schema=INDEX)
