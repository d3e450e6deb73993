"""Put a row of the index into words: what a card of the page shows, and what its enlarged view shows."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from augment import LIMITS
from flows.store.layout import Layout
from flows.store.record import STAGE_GATES
from flows.view.attempts import NO_FAMILY
from flows.view.pictures import Pictures, make_pictures, read_members

DASH: Final = "\N{EN DASH}"
"""Stands for an unknown value in tables."""

MEANINGS: Final[Mapping[str, str]] = {
    "unreadable": "the photograph cannot be read, or has changed since it was planned",
    "clipping": "too many of the subject's pixels became pure black or pure white",
    "hue_flip": "too many of the subject's colours turned into another hue",
    "effect_small": "the edit changes too little to be seen",
    "effect_large": "the edit changes too much to be plausible",
    "unnatural": "the realism score is below the threshold",
    "banned": "a person took it out, or a rule did",
    "background_changed": "the background outside the subject changed",
    "subject_lost": "the subject itself changed",
    "halo": "the edge of the subject does not fit",
    "not_person_heavy": "people cover too little of the photograph",
    "crowd": "a crowd region, not one person",
    "area": "the person covers under 1% or over 80% of the photograph",
    "pixels": "the person's mask has under 1,000 pixels",
    "greyscale": "the photograph has no colour",
    "degenerate": "the outline cannot be drawn",
    "size_mismatch": "the photograph's size is not the annotated one",
    "excluded": "the image id is on the list of exclusions",
    "license": "the licence is not among the chosen ones",
    "border": "the person is cut by the frame",
    "no_subject": "nobody in it can be a subject",
}
"""What a reason means, in a reader's words."""

_LABELS: Final[Mapping[str, str]] = {
    "foreground_mse": "foreground MSE",
    "psnr": "PSNR",
    "seen_by_gate": "seen by the gate",
}
_NO_PICTURES: Final[Mapping[str, str]] = {"unreadable": "no pictures: a photograph could not be read"}
_LOST_PICTURES: Final = "no pictures: they cannot be read from the shard, `hcoco verify` tells why"
_AT_LEAST: Final = frozenset({"effect_small", "unnatural"})
"""Gates that a value fails below its limit; all others fail above theirs."""


@dataclass(frozen=True)
class Card:
    """One sample of the page.

    Attributes:
        strip: Path of the strip below the report's folder; None where the sample has no pictures.
        verdict: Reason, value and limit in one phrase; empty where the sample is kept.
        enlarged: All that the enlarged view shows, ready for JSON; every string is text, every link is http or https.
    """

    key: str
    status: str
    reason: str
    family: str
    split: str
    strength: str
    effect: str
    score: str
    strip: str | None
    verdict: str
    before_name: str
    enlarged: Mapping[str, Any]


@dataclass(frozen=True)
class Drawn:
    """A card and the files that it shows, by path below the report's folder."""

    card: Card
    files: Mapping[str, bytes]


def draw_card(layout: Layout, row: Mapping[str, Any], *, licenses: Mapping[str, Any]) -> Drawn:
    """Make the card of one row of the index; reads the sample's members from its tar.

    Args:
        layout: Of the run.
        row: Of the index.
        licenses: Licence id to `{name, url}`, from the plan.
    """
    members = read_members(layout.run / str(row["tar"]), offset=row["offset"], size=row["size"])
    pictures = make_pictures(members)
    files, paths = _name_files(pictures)
    before_name = pictures.before_name if pictures else "real"
    enlarged = {
        "key": row["key"],
        "status": row["status"],
        "verdict": tell_verdict(row),
        "pictures": paths,
        "before": before_name,
        "nothing": _NO_PICTURES.get(str(row["reason"]), _LOST_PICTURES),
        "width": pictures.width if pictures else 0,
        "height": pictures.height if pictures else 0,
        "facts": _facts(row),
        "gates": _gates(row),
        "people": _people(row, licenses),
        "recipe": _known(row, "recipe_"),
        "notes": _known(row, "notes_"),
        "remake": f"hcoco remake {shlex.quote(layout.run.name)} {shlex.quote(str(row['key']))}",
    }
    card = Card(
        key=str(row["key"]),
        status=str(row["status"]),
        reason=str(row["reason"] or ""),
        family=str(row["family"] or NO_FAMILY),
        split=str(row["split"] or ""),
        strength=tell(row["strength"]),
        effect=tell(row["foreground_mse"]),
        score=tell_score(row["score"]),
        strip=paths.get("strip"),
        verdict=tell_verdict(row),
        before_name=before_name,
        enlarged=enlarged,
    )
    return Drawn(card, files)


def tell(value: object) -> str:
    """Return a value of a record as text: three digits of a number, a dash where it is unknown."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def tell_score(score: float | None) -> str:
    """Return a realism score as text: all four decimals, since thresholds may be small; empty where there is none."""
    return "" if score is None or not math.isfinite(score) else f"{score:.4f}"


def tell_verdict(row: Mapping[str, Any]) -> str:
    """Say in one phrase why a sample was rejected; empty where it was not."""
    reason = row["reason"]
    if not reason:
        return ""
    return str(reason) if row["value"] is None else f"{reason} {tell(row['value'])}, limit {tell(row['limit'])}"


def web_link(url: object) -> str | None:
    """Return a URL that a page may link to, or None: only http and https with a host."""
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in {"http", "https"} and parts.netloc else None


def label_of(field: str) -> str:
    """Return a field's name as words."""
    return _LABELS.get(field) or field.replace("_", " ")


def _name_files(pictures: Pictures | None) -> tuple[dict[str, bytes], dict[str, str]]:
    """Name each file by its content: an older page beside it keeps its own pictures until it is replaced."""
    files, paths = {}, {}
    if pictures is not None:
        for role, extension in (("strip", "jpg"), ("before", "jpg"), ("composite", "jpg"), ("mask", "png")):
            content = getattr(pictures, role)
            if content is not None:
                path = f"pictures/{hashlib.sha256(content).hexdigest()[:20]}.{extension}"
                files[path], paths[role] = content, path
    return files, paths


def _facts(row: Mapping[str, Any]) -> list[list[str]]:
    fields = ("stage", "split", "family", "strength", "foreground_mse", "psnr", "score", "threshold", "seen_by_gate")
    facts = [[label_of(field), tell(row.get(field))] for field in fields if field in row]
    return [*facts, ["stored in", f"{row['tar']}, offset {row['offset']:,}, {row['size']:,} bytes"]]


def _gates(row: Mapping[str, Any]) -> list[list[str]]:
    """Return name, value and limit of every gate; the limit of a failed one as it was stored."""
    gates = []
    mine = STAGE_GATES.get(str(row.get("stage")))
    foreign = () if mine is None else {name for names in STAGE_GATES.values() for name in names} - {*mine}
    for column, value in row.items():
        name = column.removeprefix("gates_")
        if name == column or (value is None and name in foreign):
            continue
        limit = row["limit"] if name == row["reason"] else LIMITS.get(name)
        if name == "unnatural" and limit is None:
            limit = row.get("threshold")
        bound = "" if limit is None else f"{'≥' if name in _AT_LEAST else '≤'} {tell(limit)}"
        gates.append([name, tell(value), bound, "failed" if name == row["reason"] else ""])
    return gates


def _people(row: Mapping[str, Any], licenses: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return who is in the sample: every `<role>_image_id` of the row, whatever the stage calls its roles."""
    people = []
    for column in row:
        role = column.removesuffix("_image_id")
        if role == column or row[column] is None:
            continue
        number = row.get(f"{role}_license")
        known = licenses.get(str(number))
        license_name, license_url = (
            (known.get("name"), known.get("url")) if isinstance(known, Mapping) else (None, None)
        )
        urls = (("COCO", row.get(f"{role}_coco_url")), ("Flickr", row.get(f"{role}_flickr_url")))
        people.append(
            {
                "role": role,
                "image": tell(row[column]),
                "annotation": tell(row.get(f"{role}_annotation_id")),
                "license": tell(license_name) if license_name else ("unknown" if number is None else f"id {number}"),
                "license_url": web_link(license_url),
                "links": [[label, link] for label, url in urls if (link := web_link(url))],
            }
        )
    return people


def _known(row: Mapping[str, Any], prefix: str) -> list[list[str]]:
    return [
        [column.removeprefix(prefix), value if isinstance(value, str) else json.dumps(value)]
        for column, value in row.items()
        if column.startswith(prefix) and value is not None
    ]
