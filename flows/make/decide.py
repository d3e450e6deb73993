"""Apply people's decisions to a finished run: move samples between kept and rejected, making none of them again.

Only shards in which something changes are written anew, from the bytes on disk: of a sample whose fate changes, the
`json` member; of all others, nothing. The new files are made and proved beside the old ones and then take their places
all at once (`flows/store/swap.py`), so a crash leaves the old run or ends in the new one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from flows.errors import BadRequest
from flows.make.plan import Plan, read_plan
from flows.make.run import add_up, encode_manifest
from flows.make.shard import Done, encode_done, read_done
from flows.store.decisions import (
    ACTIONS,
    COLUMNS,
    UNREADABLE,
    Action,
    Decision,
    Decisions,
    Named,
    Outcome,
    Regated,
    Ruled,
    as_decided,
    encode_decisions,
    read_decisions,
)
from flows.store.index import read_index
from flows.store.layout import Layout, write_bytes
from flows.store.manifest import count_rows, read_manifest
from flows.store.read import Damaged, Stored, read_sample, read_tar
from flows.store.record import encode_record, flatten
from flows.store.swap import beside, swap
from flows.store.write import hash_file, pack, write_samples


@dataclass(frozen=True)
class Change:
    """What a decision, or taking one back, did to a run.

    Attributes:
        readmitted: Samples that were rejected and are kept now.
        dropped: Samples that were kept and are rejected now.
        spared: Samples that the rule fits and that stay as they are, since a list or a later rule says otherwise.
        shards: Names of the shards that were written anew.
        manifest: Of the run as it is now.
    """

    readmitted: int
    dropped: int
    spared: int
    shards: tuple[str, ...]
    manifest: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return this for JSON, of the manifest the counts."""
        counts = {"counts": self.manifest["counts"], "decisions": self.manifest.get("decisions", {})}
        return {**{name: value for name, value in vars(self).items() if name != "manifest"}, **counts}


def decide(layout: Layout, decision: Decision) -> Change:
    """Take a decision and apply it to a finished run. Needs the run's lock.

    A decision that says nothing new is not recorded.

    Raises:
        BadRequest: The run is unfinished or damaged, or the decision does not fit it; nothing is changed then.
    """
    run = _open(layout)
    says_nothing_new = False
    if isinstance(decision, Named):
        decision = _check_named(run, decision)
        says_nothing_new = not decision.readmit and not decision.ban
    else:
        _check_values(run, decision)
    after = Decisions((*run.decisions.taken, decision))
    moved = _moved(run, after)
    spared = _check_rule(run, decision, after) if isinstance(decision, Ruled) else 0
    if says_nothing_new or not (moved or isinstance(decision, Named)):
        return Change(0, 0, spared, (), run.manifest)
    return _change(run, after, moved, log={"decision": decision.to_json()}, spared=spared)


def undo(layout: Layout, *, every: bool = False) -> Change:
    """Take the last decision back, or every one of them. Needs the run's lock.

    Raises:
        BadRequest: The run is unfinished or damaged, or there is no decision; nothing is changed then.
    """
    run = _open(layout)
    if not run.decisions:
        raise BadRequest(f"{layout.run} has no decisions to take back")
    count = len(run.decisions.taken) if every else 1
    after = Decisions(run.decisions.taken[: len(run.decisions.taken) - count])
    return _change(run, after, _moved(run, after), log={"undone": count}, spared=0)


@dataclass(frozen=True)
class _Run:
    """A finished run, as far as deciding looks at it.

    Attributes:
        rows: Of the index by shard, with the columns from which a sample's fate follows.
        markers: By shard, in the order of the plan.
    """

    layout: Layout
    plan: Plan
    manifest: dict[str, Any]
    decisions: Decisions
    markers: dict[str, Done]
    rows: dict[str, list[dict[str, Any]]]

    def all_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of all shards."""
        for rows in self.rows.values():
            yield from rows


def _open(layout: Layout) -> _Run:
    plan, manifest = read_plan(layout), read_manifest(layout)
    markers = {shard.name: read_done(layout, shard.name) for shard in plan.shards}
    whole = {name: done for name, done in markers.items() if done is not None}
    if len(whole) < len(markers):
        name = next(name for name, done in markers.items() if done is None)
        raise BadRequest(f"{layout.run}: shard {name} is not done; build on, or run hcoco repair")
    rows = {name: read_fates(layout, name) for name in markers}
    return _Run(layout, plan, manifest, read_decisions(layout), whole, rows)


def read_fates(layout: Layout, name: str, *, more: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read the columns of a shard's index from which the fate of its samples follows, and more.

    Raises:
        BadRequest: The index is damaged, or of a version without decisions.
    """
    path = layout.index(name)
    try:
        table = read_index(path)
        if missing := set(COLUMNS) - set(table.column_names):
            raise BadRequest(f"{path} lacks {min(missing)}: an earlier version made it; build the run anew")
        rows: list[dict[str, Any]] = table.select([*COLUMNS, *more]).to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise BadRequest(f"{path} is damaged ({str(error).splitlines()[0]}); run hcoco repair") from None
    return rows


def _check_named(run: _Run, decision: Named) -> Named:
    """Return what a list says anew; refuse it where a key is unknown or is as the list wants it without a decision."""
    wanted: dict[str, Action] = {
        **dict.fromkeys(decision.readmit, ACTIONS[0]),
        **dict.fromkeys(decision.ban, ACTIONS[1]),
    }
    rows = {row["key"]: row for row in run.all_rows() if row["key"] in wanted}
    if unknown := sorted(wanted.keys() - rows.keys()):
        others = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
        whose = "; is it another run's list?" if len(unknown) == len(wanted) else ""
        raise BadRequest(f"{run.layout.run} has no sample {unknown[0]}{others}{whose}")
    named, new = run.decisions.named, {key for key in wanted if run.decisions.named.get(key) != wanted[key]}
    for key in sorted(new):
        outcome, untouched = run.decisions.outcome(rows[key]), key not in named
        if wanted[key] == "readmit" and outcome.reason == UNREADABLE:
            raise BadRequest(f"{key} has no pictures (unreadable) and cannot be re-admitted")
        if wanted[key] == "readmit" and untouched and outcome.reason is None and outcome.by is None:
            raise BadRequest(f"{key} is kept already: there is nothing to re-admit")
        if wanted[key] == "ban" and untouched and outcome.reason is not None and outcome.by is None:
            raise BadRequest(f"{key} is rejected already ({outcome.reason}): there is nothing to ban")
    return Named(readmit=decision.readmit & new, ban=decision.ban & new)


def _check_values(run: _Run, decision: Ruled | Regated) -> None:
    """Refuse a decision by scores where no sample has one: it would silently do nothing."""
    by_score = (
        decision.gate == "unnatural"
        if isinstance(decision, Regated)
        else (decision.rule.min_score, decision.rule.max_score) != (None, None)
    )
    if by_score and all(row["score"] is None for row in run.all_rows()):
        raise BadRequest(f"{run.layout.run} has no realism scores: it was built without the gate")


def _moved(run: _Run, after: Decisions) -> dict[str, dict[str, Outcome]]:
    """Return the samples whose record changes with what becomes of them, by shard and key."""
    moved: dict[str, dict[str, Outcome]] = {}
    for name, rows in run.rows.items():
        outcomes = ((row, after.outcome(row)) for row in rows)
        if changed := {row["key"]: outcome for row, outcome in outcomes if outcome != _now(row)}:
            moved[name] = changed
    return moved


def _now(row: Mapping[str, Any]) -> Outcome:
    return Outcome(row["reason"], row["value"], row["limit"], row["decision_by"])


def _check_rule(run: _Run, decision: Ruled, after: Decisions) -> int:
    """Refuse a rule that no sample fits; count those that fit and stay on the other side."""
    limits = Decisions(tuple(each for each in after.taken if isinstance(each, Regated)))
    fitting = [row for row in run.all_rows() if decision.rule.fits(row, reason=limits.outcome(row).reason)]
    if not fitting:
        raise BadRequest(f"no sample of {run.layout.run} fits the rule {json.dumps(decision.rule.to_json())}")
    wanted = "kept" if decision.action == "readmit" else "rejected"
    return sum(after.outcome(row).status != wanted for row in fitting)


def _change(
    run: _Run, after: Decisions, moved: Mapping[str, Mapping[str, Outcome]], *, log: Mapping[str, Any], spared: int
) -> Change:
    """Write everything that changes beside its place, prove it, and swap it in."""
    layout, statuses = run.layout, Counter[tuple[str, str]]()
    for name, changed in moved.items():
        before = {row["key"]: row["status"] for row in run.rows[name]}
        statuses.update((before[key], outcome.status) for key, outcome in changed.items())
    files: list[str] = []
    removed: list[str] = []
    with beside(layout) as new:
        markers = dict(run.markers)
        for name in moved:
            markers[name] = _rewrite(layout, new, markers[name], after)
            files += markers[name].files.keys()
            removed += run.markers[name].files.keys() - markers[name].files.keys()
        for name in moved:
            write_bytes(new.done(name), encode_done(markers[name]))
            files.append(layout.relative(layout.done(name)))
        manifest = add_up(run.plan, markers.values())
        write_bytes(new.manifest, encode_manifest(manifest))
        line = _line(log, readmitted=statuses["rejected", "kept"], dropped=statuses["kept", "rejected"])
        write_bytes(new.history, _history(layout) + line)
        files += [layout.relative(path) for path in (layout.history, layout.manifest)]
        if after:
            write_bytes(new.decisions, encode_decisions(after))
            files.append(layout.relative(layout.decisions))
        else:
            removed.append(layout.relative(layout.decisions))
        swap(layout, files=files, removed=removed)
    return Change(statuses["rejected", "kept"], statuses["kept", "rejected"], spared, tuple(moved), manifest)


def _rewrite(layout: Layout, new: Layout, done: Done, decisions: Decisions) -> Done:
    """Write one shard beside its place, as decided; return its marker.

    Raises:
        BadRequest: A file of the shard is damaged.
    """
    for path, known in done.files.items():
        if hash_file(layout.run / path) != (known["sha256"], known["size"]):
            raise BadRequest(f"{layout.run / path} is damaged; run hcoco repair, then decide again")
    old = {row["key"]: row for row in read_index(layout.index(done.shard)).to_pylist()}
    rows: dict[str, dict[str, Any]] = {}
    packed: dict[str, bytes] = {}
    for key, row in old.items():
        outcome = decisions.outcome(row)
        rows[key] = row
        if outcome != _now(row):
            stored = _stored(layout, row)
            record = as_decided(stored.record, decisions)
            rows[key] = flatten(record)
            packed[key] = encode_record(record)

    def pack_sample(key: str) -> bytes:
        if key not in packed:
            return _extent(layout, old[key])
        return pack(key, {**_stored(layout, old[key]).members, "json": packed[key]})

    files, placed = write_samples(new, done.shard, rows.values(), pack_sample)
    for path, file in files.items():
        if hash_file(new.run / path) != (file.sha256, file.size):
            raise BadRequest(f"{new.run / path} was not written as it should be; check the disk, nothing was changed")
    _prove(layout, new, old, {row["key"]: row for row in placed}, name=done.shard)
    return replace(done, **count_rows(placed), files={path: vars(file) for path, file in files.items()})


def _stored(layout: Layout, row: Mapping[str, Any]) -> Stored:
    try:
        return read_sample(layout.run / row["tar"], offset=row["offset"], size=row["size"])
    except Damaged as damage:
        raise BadRequest(f"{layout.run}: {damage}; run hcoco repair, then decide again") from None


def _extent(layout: Layout, row: Mapping[str, Any]) -> bytes:
    """Return a sample as it stands in its tar."""
    with (layout.run / row["tar"]).open("rb") as file:
        file.seek(row["offset"])
        data: bytes = file.read(row["size"])
    return data


def _prove(layout: Layout, new: Layout, old: Mapping[str, Any], placed: Mapping[str, Any], *, name: str) -> None:
    """Read a new shard back: every sample once, where the index says, with its record and the pictures that it had.

    Raises:
        BadRequest: It is not so.
    """
    left = dict(placed)
    for path in (new.shard(name), new.rejected(name)):
        for stored in read_tar(path) if path.is_file() else ():
            row = left.pop(stored.key)
            place = {"tar": new.relative(path), "offset": stored.offset, "size": stored.size}
            before = _stored(layout, old[stored.key]).members
            same = before.keys() == stored.members.keys() and all(
                before[extension] == content for extension, content in stored.members.items() if extension != "json"
            )
            if not same or {**flatten(stored.record), **place} != row:
                raise BadRequest(f"{path}: {stored.key} was not written as it should be; nothing was changed")
    if left or placed.keys() != old.keys():
        raise BadRequest(f"{new.shard(name)} lacks samples; nothing was changed")


def _history(layout: Layout) -> bytes:
    """Return the lines so far, each whole."""
    try:
        lines = layout.history.read_bytes()
    except FileNotFoundError:
        return b""
    return lines if lines.endswith(b"\n") else lines + b"\n"


def _line(log: Mapping[str, Any], **counts: int) -> bytes:
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"time": time, **log, **counts}).encode() + b"\n"
