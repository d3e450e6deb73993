"""Audit a checkpoint on photographs that it did not learn from: draw the cases, score them, tell what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from flows.coco.select import Split
from flows.coco.sources import Source, Watch, unwatched
from flows.errors import BadRequest
from flows.make.severity import Cases, Scene, audit_cases, draw_cases, hide_masks, join_cases, people_of
from flows.make.subjects import unlabelled_photographs
from realism import Checkpoint, score_crops
from realism.audit import MIN_SUBJECTS, NULL_TOLERANCE, SHIFT_TOLERANCE, find_failures
from realism.score import SIDE

SUBJECTS: Final = 340
"""That are drawn where there are so many; an audit needs 300."""
PHOTOGRAPHS: Final = 250
"""With people that are read of a split, at most: three subjects of each are drawn, and they are held in memory."""
HELD_OUT: Final[tuple[Split, ...]] = ("val", "test")
_PART: Final = 10  # photographs that are drawn at a time, for the progress; references come from the same part
_SEED: Final = 7


def draw_audit(
    source: Source,
    photos: Path | None,
    *,
    learnt: frozenset[int] = frozenset(),
    subjects: int = SUBJECTS,
    side: int = SIDE,
    watch: Watch = unwatched,
) -> Cases:
    """Draw the cases of an audit from the splits `val` and `test`.

    Args:
        source: Of photographs with annotated people.
        photos: Folder of photographs without annotations, which are drawn from where people are too few.
        learnt: Ids of photographs that the network learnt from; they are left out, whatever their split.
        subjects: Wanted number.
        side: Pixels of the crops that the network takes.
        watch: Told how many photographs are drawn from.

    Raises:
        BadRequest: Fewer than two photographs with subjects are left.
    """
    people = [
        scene
        for split in HELD_OUT
        for scene in people_of(source, split=split, most=PHOTOGRAPHS)
        if scene[0] not in learnt
    ]
    cases = list(_draw(people, per_photograph=3, subjects=subjects, side=side, watch=watch))
    left = subjects - sum(map(_count, cases))
    if photos is not None and left > 0 and people:
        shapes = [mask.view("uint8") * 255 for _, _, masks in people for mask in masks]
        known = learnt | {image_id for image_id, _, _ in people}
        scenes = (
            scene
            for split in HELD_OUT
            for scene in unlabelled_photographs(photos, split=split, shapes=shapes, seed=_SEED)
            if scene[0] not in known
        )
        cases += _draw(list(islice(scenes, left)), per_photograph=1, subjects=left, side=side, watch=watch)
    if not cases:
        raise BadRequest(
            f"source {source.label!r} leaves fewer than two photographs of the splits val and test that the "
            "checkpoint did not learn from; give another one"
        )
    return join_cases(*cases)


def _draw(scenes: list[Scene], *, per_photograph: int, subjects: int, side: int, watch: Watch) -> Iterator[Cases]:
    """Draw part by part until there are enough subjects; a last photograph that would stand alone is left out."""
    found = 0
    for first in range(0, len(scenes) - 1, _PART):
        if found >= subjects:
            return
        part = scenes[first : first + _PART]
        cases = draw_cases(part, seed=_SEED, per_photograph=per_photograph, most=subjects - found, side=side)
        found += _count(cases)
        watch("photographs", first + len(part), len(scenes))
        yield cases


def _count(cases: Cases) -> int:
    return int(cases.subject.max()) + 1


def audit_checkpoint(checkpoint: Checkpoint, cases: Cases, *, device: str = "cpu") -> dict[str, Any]:
    """Score the cases and make the audit's table; see `realism.audit.audit_scores`."""
    hidden = score_crops(checkpoint, hide_masks(cases.crops), device=device)
    return audit_cases(score_crops(checkpoint, cases.crops, device=device), cases, maskless=hidden)


def tell_audit(audit: Mapping[str, Any]) -> list[str]:
    """Return an audit's tables, its limits and its outcome as lines."""
    low, high = 0.5 - NULL_TOLERANCE, 0.5 + NULL_TOLERANCE
    null = {**audit["null"], "all together": audit["null_auroc"]}
    names = sorted({name.partition(":")[2] for name in audit["shift"]})
    width = max(map(len, [*null, *names]), default=0)
    failures = find_failures(audit)
    return [
        f"subjects: {audit['subjects']} (at least {MIN_SUBJECTS})",
        f"null edits, AUROC against naturals ({low:.2f} to {high:.2f}):",
        *(f"  {name:{width}}  {value:.3f}" for name, value in null.items()),
        f"shift of the mean score of naturals and edits (at most {SHIFT_TOLERANCE:.2f}):",
        *(
            f"  {name:{width}}  {_signed(audit, 'natural', name):>7}  {_signed(audit, 'edit', name):>7}"
            for name in names
        ),
        f"naturals against edits, mask hidden, AUROC (no limit): {_shown(audit['maskless_auroc'])}",
        "passed" if audit["passed"] else f"failed: {'; '.join(failures)}",
    ]


def _signed(audit: Mapping[str, Any], what: str, name: str) -> str:
    value = audit["shift"].get(f"{what}:{name}")
    return "-" if value is None else f"{value:+.4f}"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
