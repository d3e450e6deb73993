"""Make one sample again from its recipe, alone, and compare every byte with what the run holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from augment import Recipe
from flows.errors import BadRequest
from flows.make.compose import Photographs, compose
from flows.make.plan import read_plan, read_planned
from flows.make.shard import judge_made, record_of
from flows.store.layout import Layout
from flows.store.read import Damaged, find_sample, read_sample
from flows.store.record import encode_record


@dataclass(frozen=True)
class Remade:
    """One sample, made again.

    Attributes:
        key: Of the sample.
        members: Content by extension, as made now.
        differing: Extensions whose bytes are not those in the run; empty where all are the same.
    """

    key: str
    members: dict[str, bytes]
    differing: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Say whether every member is the same, byte by byte."""
        return not self.differing


def remake(run: Path, key: str) -> Remade:
    """Make the sample `key` of a run again. Call it in a worker: one thread sums as the run's workers did.

    Raises:
        BadRequest: There is no such sample, its tar is damaged, or a photograph of it is gone.
    """
    layout = Layout(run)
    plan = read_plan(layout)
    row = find_sample(layout, key)
    try:
        stored = read_sample(layout.run / row["tar"], offset=row["offset"], size=row["size"])
        recipe = Recipe.from_json(stored.record["recipe"])
    except (Damaged, KeyError, ValueError) as damage:
        raise BadRequest(f"{row['tar']} is damaged at {key} ({damage}); run hcoco verify") from None
    shard = plan.shard(row["shard"])
    planned = next(each for each in read_planned(layout, shard) if each["key"] == key)
    made = compose(planned, Photographs(plan.folders, max_side=plan.max_side), recipe=recipe)
    if made.failure and row["reason"] != made.failure:
        raise BadRequest(
            f"a photograph of {key} is gone or has changed since the plan; its folder was {', '.join(plan.roots.values())}"
        )
    record = record_of(planned, made, judge_made(made))
    members = {**made.members, "json": encode_record(record)}
    names = sorted({*members, *stored.members})
    return Remade(key, members, tuple(name for name in names if members.get(name) != stored.members.get(name)))
