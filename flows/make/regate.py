"""Answer what another limit of a gate would do, from the values that the index holds; no picture is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from augment.checks import LIMITS
from flows.errors import BadRequest
from flows.make.decide import read_fates
from flows.make.plan import read_plan
from flows.store.decisions import REGATED, Decisions, Regated, read_decisions
from flows.store.layout import Layout
from flows.store.manifest import read_manifest

NEAREST: Final = 12
"""Samples on either side of the border that are worth a look."""
SHARES: Final = frozenset({"unnatural", "clipping", "hue_flip", "subject_lost"})
"""Gates whose limit is a share or a probability, 0..1."""
AT_LEAST: Final = frozenset({"unnatural", "effect_small"})
"""Gates that pass from their limit up; the others pass up to it."""


@dataclass(frozen=True)
class Near:
    """A sample near the border.

    Attributes:
        value: What is compared with the limit.
        passes: Whether it is on the good side of it.
        row: Of the index: key, family, split, status, and where it lies.
    """

    value: float
    passes: bool
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Outlook:
    """What another limit would do.

    Attributes:
        gate: Its name.
        limit: The one asked about.
        before: The limit in force.
        planned: Samples of the run.
        kept: Of these, kept now; `kept_then` with the other limit.
        by_split: Samples that would come and go, by split; all splits of the run are named.
        by_family: The same by family.
        nearest: Of the samples that this gate decides about, the nearest below and above the limit, by value.
    """

    gate: str
    limit: float
    before: float
    planned: int
    kept: int
    kept_then: int
    by_split: dict[str, dict[str, int]]
    by_family: dict[str, dict[str, int]]
    nearest: tuple[Near, ...]

    @property
    def come(self) -> int:
        """Return the number of samples that are rejected now and would be kept."""
        return sum(counts["come"] for counts in self.by_split.values())

    @property
    def go(self) -> int:
        """Return the number of samples that are kept now and would be rejected."""
        return sum(counts["go"] for counts in self.by_split.values())

    def to_json(self) -> dict[str, Any]:
        """Return this for JSON."""
        nearest = [{"key": near.row["key"], "value": near.value, "passes": near.passes} for near in self.nearest]
        return {**vars(self), "come": self.come, "go": self.go, "nearest": nearest}


def check_limit(gate: str, limit: float) -> Regated:
    """Return the decision that another limit is.

    Raises:
        BadRequest: There is no such gate, or the gate can have no such limit.
    """
    if gate not in REGATED:
        raise BadRequest(f"there is no gate {gate!r} to be moved; there are {', '.join(REGATED)}")
    if not 0 <= limit <= (1 if gate in SHARES else 255**2):
        raise BadRequest(f"the limit of {gate} must be 0 to {1 if gate in SHARES else 255**2}, got {limit:g}")
    return Regated(gate, limit)


def look_ahead(layout: Layout, other: Regated, *, nearest: int = NEAREST) -> Outlook:
    """Count what another limit would do to a finished run.

    Args:
        layout: Of the run.
        other: The gate and its other limit.
        nearest: So many samples on either side of the border are named at most.

    Raises:
        BadRequest: The run is unfinished or damaged, or no sample has a value of this gate.
    """
    read_manifest(layout)  # says in one line where the run is unfinished
    now = read_decisions(layout)
    then = Decisions((*now.taken, other))
    counts: Counter[tuple[str, str, str]] = Counter()
    near: list[Near] = []
    planned = kept = kept_then = valued = 0
    before = now.limits.get(other.gate)
    shards = (read_fates(layout, shard.name, more=("tar", "offset", "size")) for shard in read_plan(layout).shards)
    for row in (row for rows in shards for row in rows):
        after = then.outcome(row)
        planned, kept = planned + 1, kept + (row["status"] == "kept")
        kept_then += after.status == "kept"
        change = "come" if after.status == "kept" else "go"
        for column in ("split", "family"):
            counts[column, row[column], change] += after.status != row["status"]
        value = row[f"gates_{other.gate}"]
        if value is None:
            continue
        valued += 1
        if before is None:
            before = row["threshold"] if other.gate == "unnatural" else LIMITS[other.gate]
        if after.reason in {None, other.gate}:
            passes = value >= other.limit if other.gate in AT_LEAST else value <= other.limit
            near.append(Near(value, passes, row))
    if not valued or before is None:
        why = "it was built without the realism gate" if other.gate == "unnatural" else "nothing could be measured"
        raise BadRequest(f"{layout.run} has no values of the gate {other.gate}: {why}")
    return Outlook(
        gate=other.gate,
        limit=other.limit,
        before=before,
        planned=planned,
        kept=kept,
        kept_then=kept_then,
        by_split=_by(counts, "split"),
        by_family=_by(counts, "family"),
        nearest=tuple(_nearest(near, other.limit, count=nearest)),
    )


def tell_outlook(outlook: Outlook) -> list[str]:
    """Say it in a few lines."""
    lines = [
        f"{outlook.gate} at {outlook.limit:g} instead of {outlook.before:g}: {outlook.come} come, {outlook.go} go",
        f"kept {outlook.kept} -> {outlook.kept_then} of {outlook.planned}",
    ]
    for counts in (outlook.by_split, outlook.by_family):
        width = max(len(name) for name in (*outlook.by_split, *outlook.by_family))
        lines += [f"  {name:<{width}}  come {each['come']:>5}  go {each['go']:>5}" for name, each in counts.items()]
    return lines


def _by(counts: Mapping[tuple[str, str, str], int], column: str) -> dict[str, dict[str, int]]:
    names = sorted({name for what, name, _ in counts if what == column})
    return {name: {change: counts.get((column, name, change), 0) for change in ("come", "go")} for name in names}


def _nearest(near: Sequence[Near], limit: float, *, count: int) -> list[Near]:
    """Return the nearest on either side, sorted by value; ties by key."""
    chosen: list[Near] = []
    for side in (True, False):
        ranked = sorted(
            (each for each in near if each.passes == side), key=lambda each: (abs(each.value - limit), each.row["key"])
        )
        chosen += ranked[:count]
    return sorted(chosen, key=lambda each: (each.value, each.row["key"]))
