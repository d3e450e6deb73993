"""Make one sample again from its recipe, alone, and compare every byte with what the run holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.errors import BadRequest
from flows.make.compose import Look, Made, Photographs, bring_rows, compose, read_recipe
from flows.make.compose_copypaste import compose_paste
from flows.make.gate import ask_again, look_through
from flows.make.paste import read_paste
from flows.make.plan import Plan, ShardPlan, read_plan, read_planned
from flows.make.shard import judge_made, read_done, record_of, subject_of
from flows.store.decisions import as_decided, read_decisions
from flows.store.layout import COPYPASTE, FUSION, Layout
from flows.store.read import Damaged, find_sample, read_sample
from flows.store.record import encode_record

if TYPE_CHECKING:
    from flows.make.compose_fusion import MadeFusion


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
        record = stored.record
        made_from = _maker(layout, plan, row["stage"], record)
    except (Damaged, KeyError, ValueError, TypeError) as damage:
        raise BadRequest(f"{row['tar']} is damaged at {key} ({damage}); run hcoco verify") from None
    shard, place, planned = _find_planned(layout, plan, key, name=row.get("shard"))
    bring_rows(plan.roots, [planned])
    look = None if plan.gate is None else look_through(plan.gate)
    made = made_from(planned, look)
    if made.failure and row["reason"] != made.failure:
        raise BadRequest(
            f"a photograph of {key} is gone or has changed since the plan; its folder was {', '.join(plan.roots.values())}"
        )
    opinion = None
    if plan.gate is not None and not made.failure:
        done = read_done(layout, shard.name)
        opinion = ask_again(
            layout,
            plan.gate,
            made.crop,
            place=place,
            image_id=subject_of(planned),
            device=(done and done.device) or "cpu",
            before=row["score"],
        )
    decided = as_decided(record_of(planned, made, judge_made(made, opinion)), read_decisions(layout))
    members = {**made.members, "json": encode_record(decided)}
    names = sorted({*members, *stored.members})
    return Remade(key, members, tuple(name for name in names if members.get(name) != stored.members.get(name)))


def _find_planned(layout: Layout, plan: Plan, key: str, *, name: object) -> tuple[ShardPlan, int, dict[str, Any]]:
    """Return the shard of this name, and place and row of the key in its plan.

    Raises:
        BadRequest: They are not there: plan and index are not of one run.
    """
    for shard in plan.shards:
        if shard.name == name:
            for place, planned in enumerate(read_planned(layout, shard)):
                if planned["key"] == key:
                    return shard, place, planned
    raise BadRequest(f"the plan of {layout.run} has no {key} where the index says that it is; run hcoco verify")


def _maker(
    layout: Layout, plan: Plan, stage: str, record: Mapping[str, Any]
) -> Callable[[Mapping[str, Any], Look | None], Made | MadeFusion]:
    """Return what makes a sample of a stage from its row of the plan, by the recipe in its record.

    Raises:
        KeyError, TypeError, ValueError: The recipe is damaged.
        BadRequest: The run's fusion network is.
    """
    photographs = Photographs(plan.folders, max_side=plan.max_side)
    if stage == COPYPASTE:
        paste = read_paste(record)
        return lambda row, look: compose_paste(row, photographs, paste=paste, look=look)
    if stage != FUSION:
        recipe = read_recipe(record)
        return lambda row, look: compose(row, photographs, recipe=recipe, look=look)
    from flows.make.compose_fusion import compose_fusion, composition_from, open_stock  # noqa: PLC0415 - torch

    composition, stock = composition_from(record["recipe"]), open_stock(layout, plan)
    return lambda row, look: compose_fusion(row, stock, recipe=composition, look=look)
