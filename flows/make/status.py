"""Say how far a run is: what is done, what is left, how fast it goes. Reads markers only, and writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flows.errors import BadRequest
from flows.make.plan import Plan, is_begun, read_plan
from flows.make.shard import Done, read_done, read_marker
from flows.store.decisions import read_decisions
from flows.store.layout import Layout
from flows.store.lock import is_held
from flows.store.manifest import read_manifest
from flows.store.remote import bring, is_leased
from flows.store.swap import is_unsettled

State = Literal["planning", "building", "unfinished", "finished", "damaged"]


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        state: `planning` and `building` where somebody is at work, `unfinished` where nobody is and something is left,
            `damaged` where something was finished and is not whole any more.
        at_work: Whether some process holds the run's lock; None where the system does not tell.
        planned: Samples of the plan; None where the plan cannot be read.
        made: Samples in finished shards; `left` the others.
        shards_planned: As `planned`, counted in shards; `shards_done` as `made`.
        decided: Samples whose fate is not what the gates said, by kind of decision.
        decisions: Number of decisions in force.
        per_second: Samples made a second while any shard was being made, all workers together; None before the first.
        seconds_left: What is left at this speed; None where it is not known.
        last: When the last shard was finished, seconds since 1970.
        problems: What is wrong, one line each.
    """

    run: Path | str
    state: State
    at_work: bool | None
    planned: int | None
    made: int
    left: int | None
    kept: int
    rejected: int
    by_reason: dict[str, int]
    decided: dict[str, int]
    decisions: int
    shards_planned: int | None
    shards_done: int
    per_second: float | None
    seconds_left: float | None
    last: float | None
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return this for JSON."""
        return {**vars(self), "run": str(self.run), "problems": list(self.problems)}


def read_status(run: Path) -> Status:
    """Say how far a run is, also while it is planned or built, and where it is damaged.

    Raises:
        BadRequest: The folder is missing, or no run.
    """
    layout = Layout(run.expanduser().resolve())
    if layout.address is not None:
        bring(layout, index=False)
    at_work = is_held(layout.lock) if layout.address is None else is_leased(layout)
    begun = is_begun(layout) and (layout.lock.exists() or bool(layout.address and at_work))
    if not layout.plan.is_file() and not begun and not layout.done("x").parent.is_dir():
        what = "is no run of hcoco" if layout.run.is_dir() and not layout.address else "does not exist"
        raise BadRequest(f"{layout.address or run} {what}; give the folder of a run, such as output/sample-1a2b3c4d")
    problems: list[str] = []
    plan = _plan(layout, problems)
    names = [shard.name for shard in plan.shards] if plan else _marked(layout)
    markers = {name: done for name in names if (done := read_done(layout, name)) is not None}
    finished = _finished(layout, names, markers, problems)
    taken = _decisions(layout, problems)
    if is_unsettled(layout) and not at_work:
        problems.append("a decision or repair was interrupted; hcoco repair ends it")
    made = sum(done.planned for done in markers.values())
    left = None if plan is None else plan.planned - made
    speed = samples_per_second(markers.values())
    return Status(
        run=layout.place,
        state=_state(begun=plan is not None or bool(problems), at_work=at_work, finished=finished, problems=problems),
        at_work=at_work,
        planned=None if plan is None else plan.planned,
        made=made,
        left=left,
        kept=sum(done.kept for done in markers.values()),
        rejected=sum(done.rejected for done in markers.values()),
        by_reason=_added(done.by_reason for done in markers.values()),
        decided=_added(done.by_decision for done in markers.values()),
        decisions=taken,
        shards_planned=None if plan is None else len(plan.shards),
        shards_done=len(markers),
        per_second=speed,
        seconds_left=None if left is None or not speed else left / speed,
        last=max((done.finished for done in markers.values()), default=None),
        problems=tuple(problems),
    )


def tell_status(status: Status) -> list[str]:
    """Say it in a few lines."""
    planned = "an unknown number of" if status.planned is None else f"{status.planned}"
    shards = "?" if status.shards_planned is None else status.shards_planned
    lines = [
        f"{status.run}: {status.state}",
        f"{status.made} of {planned} samples made, {status.shards_done} of {shards} shards",
    ]
    if status.made:
        reasons = ", ".join(f"{reason} {count}" for reason, count in status.by_reason.items())
        lines.append(f"{status.kept} kept, {status.rejected} rejected{f' ({reasons})' if reasons else ''}")
    if status.decisions:
        moved = ", ".join(f"{kind} {count}" for kind, count in status.decided.items())
        lines.append(f"decisions: {status.decisions}{f' ({moved})' if moved else ''}")
    if status.per_second:
        lines.append(f"{status.per_second:.1f} samples a second{_left(status)}")
    return [*lines, *status.problems]


def samples_per_second(markers: Iterable[Done]) -> float | None:
    """Return the speed over the time in which any shard was being made: pauses between builds do not count.

    None where no marker knows how long its shard took.
    """
    timed = [done for done in markers if done.seconds > 0]
    busy, until = 0.0, float("-inf")
    for begin, end in sorted((done.finished - done.seconds, done.finished) for done in timed):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return sum(done.planned for done in timed) / busy if busy else None


def _plan(layout: Layout, problems: list[str]) -> Plan | None:
    if not layout.plan.is_file():
        if _marked(layout):
            problems.append("plan.json is gone; restore it, or build into another --run")
        return None
    try:
        return read_plan(layout)
    except BadRequest as error:
        problems.append(str(error))
        return None


def _marked(layout: Layout) -> list[str]:
    return sorted(path.stem for path in layout.done("x").parent.glob("*.json"))


def _finished(layout: Layout, names: Sequence[str], markers: dict[str, Done], problems: list[str]) -> bool:
    """Say whether the run is whole as far as markers tell; name what was finished once and is not whole any more."""
    promised: set[str] = set()
    manifest = False
    if layout.manifest.exists():
        try:
            value = read_manifest(layout)
        except BadRequest:
            problems.append("manifest.json is damaged; hcoco repair makes it anew")
        else:
            manifest = True
            promised = {Path(entry["path"]).stem for entry in value.get("index", ())}
    problems += [
        f"shard {name} was finished and is not whole any more; hcoco repair makes it anew"
        for name in names
        if name not in markers and (name in promised or read_marker(layout, name) is not None)
    ]
    return manifest and len(markers) == len(names)


def _decisions(layout: Layout, problems: list[str]) -> int:
    try:
        return len(read_decisions(layout).taken)
    except BadRequest as error:
        problems.append(str(error))
        return 0


def _state(*, begun: bool, at_work: bool | None, finished: bool, problems: Sequence[str]) -> State:
    if at_work:
        return "building" if begun else "planning"
    if problems:
        return "damaged"
    return "finished" if finished else "unfinished"


def _added(counts: Iterable[Any]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def _left(status: Status) -> str:
    if not status.left or status.seconds_left is None:
        return ""
    minutes, seconds = divmod(round(status.seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    return f", {status.left} left: about {hours}:{minutes:02d}:{seconds:02d}"
