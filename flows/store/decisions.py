"""What people decided about finished samples, in `decisions.json`, and what follows from it for one sample.

A sample's fate is a function of what its gates said and of the run's decisions alone, so deciding, undoing, extending
and repairing end in the same bytes, in whatever order they came. Three kinds of decision, each above the one before:

1. a gate's limit is another (`regate`); of two limits for one gate the later holds;
2. a rule keeps or bans every sample that fits it, also those that are made later; of two that fit the later holds;
3. a list names samples to keep or to ban; of two that name the same the later holds.

What the gates themselves had said stays in the record, so nothing has to be made again to take a decision back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Final, Literal

from augment.checks import LIMITS, judge_gates
from flows.errors import BadRequest
from flows.store.layout import Layout, read_json
from flows.store.record import flatten

DECISIONS_VERSION: Final = 1
REGATED: Final = (*LIMITS, "unnatural")
"""Gates whose limit can be another."""
BANNED: Final = "banned"
"""Reason of a sample that the gates kept and a decision took out."""
UNREADABLE: Final = "unreadable"
"""Reason of a sample without pictures: no decision can bring it back."""

Action = Literal["readmit", "ban"]
ACTIONS: Final[tuple[Action, ...]] = ("readmit", "ban")

KEY: Final = re.compile(r"[0-9]{12,19}-[0-9]{12,19}-[0-9]{2,3}")

COLUMNS: Final = (
    *("key", "split", "family", "strength", "foreground_mse", "score", "threshold", "status", "reason", "value"),
    *("limit", "decision_by", "decision_reason", "decision_value", "decision_limit"),
    *(f"gates_{name}" for name in REGATED),
)
"""Columns of the index from which a sample's fate follows."""


@dataclass(frozen=True)
class Rule:
    """Which samples a decision means: those that fit all that is given.

    Attributes:
        reason: Any of these reasons, as they stand after the limits in force, before other decisions.
        family: Any of these families.
        split: Any of these splits.
        min_score: Least realism score, and so on; each bound itself still fits. A sample without the value does not.
    """

    reason: tuple[str, ...] = ()
    family: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    min_score: float | None = None
    max_score: float | None = None
    min_effect: float | None = None
    max_effect: float | None = None
    min_strength: float | None = None
    max_strength: float | None = None

    def fits(self, row: Mapping[str, Any], *, reason: str | None) -> bool:
        """Say whether a sample is meant.

        Args:
            row: Of the index.
            reason: Of the sample after the limits in force.
        """
        return (
            (not self.reason or reason in self.reason)
            and (not self.family or row["family"] in self.family)
            and (not self.split or row["split"] in self.split)
            and _within(row["score"], self.min_score, self.max_score)
            and _within(row["foreground_mse"], self.min_effect, self.max_effect)
            and _within(row["strength"], self.min_strength, self.max_strength)
        )

    def to_json(self) -> dict[str, Any]:
        """Return what is given, without the rest."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in given.items() if v not in (None, ())}


@dataclass(frozen=True)
class Ruled:
    """Keep or ban every sample that fits a rule."""

    action: Action
    rule: Rule

    def to_json(self) -> dict[str, Any]:
        """Return this as `decisions.json` holds it."""
        return {"action": self.action, "rule": self.rule.to_json()}


@dataclass(frozen=True)
class Named:
    """Keep and ban samples by their keys."""

    readmit: frozenset[str] = frozenset()
    ban: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Return this as `decisions.json` holds it, sorted."""
        return {"action": "list", "readmit": sorted(self.readmit), "ban": sorted(self.ban)}


@dataclass(frozen=True)
class Regated:
    """Judge by another limit of one gate."""

    gate: str
    limit: float

    def to_json(self) -> dict[str, Any]:
        """Return this as `decisions.json` holds it."""
        return {"action": "regate", "gate": self.gate, "limit": self.limit}


Decision = Ruled | Named | Regated


@dataclass(frozen=True)
class Outcome:
    """What becomes of a sample: reason, value and limit, all None where it is kept.

    Attributes:
        by: `readmit`, `ban` or `regate` where a decision made it other than the gates said, else None.
    """

    reason: str | None = None
    value: float | None = None
    limit: float | None = None
    by: str | None = None

    @property
    def status(self) -> str:
        """Return `kept` or `rejected`."""
        return "kept" if self.reason is None else "rejected"


@dataclass(frozen=True)
class Decisions:
    """All decisions of a run, in the order in which they were taken."""

    taken: tuple[Decision, ...] = field(default=())

    def __bool__(self) -> bool:
        """Say whether there is any."""
        return bool(self.taken)

    @cached_property
    def limits(self) -> dict[str, float]:
        """Return the limits that are not those of the build, by gate."""
        return {each.gate: each.limit for each in self.taken if isinstance(each, Regated)}

    @cached_property
    def named(self) -> dict[str, Action]:
        """Return what is to become of the samples that lists name."""
        named: dict[str, Action] = {}
        for each in self.taken:
            if isinstance(each, Named):
                named |= dict.fromkeys(each.readmit, "readmit")
                named |= dict.fromkeys(each.ban, "ban")
        return named

    @cached_property
    def rules(self) -> tuple[Ruled, ...]:
        """Return the rules, the latest first."""
        return tuple(each for each in reversed(self.taken) if isinstance(each, Ruled))

    def outcome(self, row: Mapping[str, Any]) -> Outcome:
        """Return what becomes of a sample.

        Args:
            row: Of the index, or a record, flattened: as the gates left it or decided before.
        """
        said = gates_said(row)
        if said.reason == UNREADABLE:
            return said
        judged = judge_again(row, said, self.limits)
        action = self.named.get(row["key"])
        if action is None:
            fitting = (each.action for each in self.rules if each.rule.fits(row, reason=judged.reason))
            action = next(fitting, None)
        if action == "readmit" and judged.reason is not None:
            judged = Outcome(by="readmit")
        elif action == "ban" and judged.reason is None:
            judged = Outcome(BANNED, by="ban")
        unchanged = (judged.reason, judged.value, judged.limit) == (said.reason, said.value, said.limit)
        return said if unchanged else judged

    def to_json(self) -> dict[str, Any]:
        """Return this as `decisions.json` holds it."""
        return {"version": DECISIONS_VERSION, "decisions": [each.to_json() for each in self.taken]}


def gates_said(row: Mapping[str, Any]) -> Outcome:
    """Return what the gates of the build said of a sample, whatever was decided since."""
    if row["decision_by"] is None:
        return Outcome(row["reason"], row["value"], row["limit"])
    return Outcome(row["decision_reason"], row["decision_value"], row["decision_limit"])


def judge_again(row: Mapping[str, Any], said: Outcome, limits: Mapping[str, float]) -> Outcome:
    """Judge a sample by its stored gate values, with some limits other than the build's."""
    if not limits or said.reason not in {None, *REGATED}:
        return said
    gates = {name: row[f"gates_{name}"] for name in LIMITS}
    failed = judge_gates(gates, limits={**LIMITS, **limits})
    if failed is None and row["threshold"] is not None:  # null where no realism gate looked
        least = limits.get("unnatural", row["threshold"])
        if row["score"] is None or row["score"] < least:
            failed = ("unnatural", row["score"], least)
    return Outcome(by="regate") if failed is None else Outcome(*failed, by="regate")


def as_decided(record: Mapping[str, Any], decisions: Decisions) -> dict[str, Any]:
    """Return a record with what the decisions make of it; one that was decided before is decided anew."""
    row = flatten(record)
    said, outcome = gates_said(row), decisions.outcome(row)
    overruled = {"reason": said.reason, "value": said.value, "limit": said.limit}
    return {
        **record,
        "status": outcome.status,
        **{name: getattr(outcome, name) for name in ("reason", "value", "limit")},
        "decision": {"by": outcome.by, **(dict.fromkeys(overruled) if outcome.by is None else overruled)},
    }


def read_decisions(layout: Layout) -> Decisions:
    """Read the decisions of a run; none where there is no file.

    Raises:
        BadRequest: The file is damaged.
    """
    try:
        return _parse(read_json(layout.decisions))
    except FileNotFoundError:
        return Decisions()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(f"{layout.decisions} is damaged ({error}); hcoco repair restores it") from None


def _parse(value: Mapping[str, Any]) -> Decisions:
    if value["version"] != DECISIONS_VERSION:
        raise ValueError(f"version {value['version']!r}, this code reads {DECISIONS_VERSION}")
    return Decisions(tuple(parse_decision(each) for each in value["decisions"]))


def encode_decisions(decisions: Decisions) -> bytes:
    """Encode decisions as `decisions.json`."""
    return json.dumps(decisions.to_json(), indent=1).encode()


def parse_decision(value: Mapping[str, Any]) -> Decision:
    """Read one decision back.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is none.
    """
    action = value["action"]
    if action == "list":
        return Named(readmit=_keys(value["readmit"]), ban=_keys(value["ban"]))
    if action == "regate":
        gate = value["gate"]
        if gate not in REGATED:
            raise ValueError(f"no gate {gate!r}")
        return Regated(gate, _number(value["limit"]))
    if action not in ACTIONS:
        raise ValueError(f"no action {action!r}")
    return Ruled(action, _rule(value["rule"]))


def _rule(value: Mapping[str, Any]) -> Rule:
    given: dict[str, Any] = {
        name: _words(each) if name in ("reason", "family", "split") else _number(each) for name, each in value.items()
    }
    return Rule(**given)


def _keys(values: Iterable[Any]) -> frozenset[str]:
    if not isinstance(values, list) or not all(isinstance(each, str) and KEY.fullmatch(each) for each in values):
        raise ValueError("a list of keys is expected")
    return frozenset(values)


def _words(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise ValueError("a list of words is expected")
    return tuple(values)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a number is expected, not {value!r}")
    if not -1e300 < value < 1e300:  # NaN too
        raise ValueError("a finite number is expected")
    return float(value)


def _within(value: float | None, least: float | None, most: float | None) -> bool:
    if least is None and most is None:
        return True
    return value is not None and (least is None or value >= least) and (most is None or value <= most)
