"""Mend a run: what is damaged is made anew, only that, from what is whole, else from the plan and the photographs.

The unit is the shard. One whose tars are whole is written again from them, without a photograph; any other is made
again as the build made it. New files are made and checked beside the old ones, which stay until then; where a shard
cannot be made again, its files stay as they are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa

from flows.errors import BadRequest
from flows.make.fuser import find_fuser, keep_fuser, wanted_fuser
from flows.make.gate import find_gate, keep_gate, wanted_of
from flows.make.plan import Map, Plan, check_code, read_plan
from flows.make.run import finish_run
from flows.make.shard import Done, compose_shard, encode_done, read_done, read_marker, score_shard, write_shard
from flows.make.verify import check_networks, verify_shard
from flows.settings import parse_settings
from flows.store.decisions import (
    UNREADABLE,
    Decisions,
    as_decided,
    encode_decisions,
    parse_decision,
    read_decisions,
)
from flows.store.index import read_index
from flows.store.layout import OWN_FOLDER, Layout, write_bytes
from flows.store.manifest import count_rows, read_manifest
from flows.store.read import Damaged, read_sample, read_tar
from flows.store.record import encode_record, flatten
from flows.store.swap import beside, swap
from flows.store.write import hash_file, pack, write_samples

AT_ONCE: Final = 16
"""Shards that are mended beside their places before they are swapped in: so much work a crash can lose."""

How = Literal["rewritten", "remade", "moved", "lost"]


@dataclass(frozen=True)
class Mended:
    """What became of a file or a shard.

    Attributes:
        what: Name of the shard, or path of the file below the run.
        how: `rewritten` from what was whole; `remade` from the photographs; `moved` where nothing of the run knows it;
            `lost` where it cannot be made again.
        why: What was wrong; for a lost one, why it cannot be made again.
    """

    what: str
    how: How
    why: str

    def __str__(self) -> str:
        """Return the line that `hcoco repair` prints."""
        return f"{self.what}: {'cannot be made again' if self.how == 'lost' else self.how}: {self.why}"


def repair_run(layout: Layout, *, over: Map = map) -> Iterator[Mended]:
    """Mend a run and yield what was done, file by file; nothing where it is whole. Needs the run's lock.

    Afterwards the run is what its plan and decisions make it, byte by byte, also where it was never finished; unless a
    shard is lost, which is yielded too.

    Args:
        layout: Of the run; the caller holds its lock.
        over: Maps the work over the shards; in this process where not given.

    Raises:
        BadRequest: The plan cannot be read, or the decisions neither from their file nor from their history.
    """
    plan = _read_plan(layout)
    yield from _mend_decisions(layout)
    if plan.gate or plan.fuser:
        for mended_networks in over(_mend_networks, [layout.run]):
            yield from mended_networks
    promised = _promised(layout)
    names = [shard.name for shard in plan.shards]
    reasons = over(_examine, [(layout.run, name) for name in names])
    wrong = {name: why for name, why in zip(names, reasons, strict=True) if why}
    lost = False
    for batch in _batches(sorted(wrong), AT_ONCE):
        for mended in _mend(layout, batch, promised, over=over):
            lost = lost or mended.how == "lost"
            yield replace(mended, why=mended.why or wrong[mended.what])
    if lost:
        return
    yield from _set_strays_aside(layout, names)
    yield from _mend_manifest(layout, plan)


def _read_plan(layout: Layout) -> Plan:
    plan = read_plan(layout)
    for part in plan.parts:
        path = layout.run / str(part["path"])
        if not path.is_file() or hash_file(path)[0] != part["sha256"]:
            raise BadRequest(f"{path} is missing or damaged, and nothing else knows what was planned; restore it")
    return plan


def _mend_decisions(layout: Layout) -> Iterator[Mended]:
    """Restore `decisions.json` from its history where it is damaged or gone."""
    why = "was damaged"
    try:
        if layout.decisions.exists():
            read_decisions(layout)
            return
        why = "was gone"
    except BadRequest:
        pass
    try:
        decisions = replay(layout)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(
            f"{layout.decisions} {why}, and {layout.history} is damaged too ({error}); restore one, or delete both to "
            "mend the run as its gates judged"
        ) from None
    if decisions:
        write_bytes(layout.decisions, encode_decisions(decisions))
    elif layout.decisions.exists():
        layout.decisions.unlink()
    else:
        return
    yield Mended(layout.relative(layout.decisions), "rewritten", f"{why}; restored from its history")


def replay(layout: Layout) -> Decisions:
    """Return the decisions that a run's history adds up to; none where it has no history.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: The history is damaged.
    """
    taken: list[Any] = []
    lines = layout.history.read_bytes().splitlines() if layout.history.exists() else []
    for line in lines:
        try:
            entry = json.loads(line)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if "decision" in entry:
            taken.append(parse_decision(entry["decision"]))
        else:
            del taken[len(taken) - int(entry["undone"]) :]
    return Decisions(tuple(taken))


def _promised(layout: Layout) -> dict[str, str]:
    """Return the sha256 of every file as the manifest has it; nothing where there is no whole manifest."""
    try:
        manifest = read_manifest(layout)
    except BadRequest:
        return {}
    return {entry["path"]: entry["sha256"] for entry in (*manifest["shards"], *manifest.get("index", ()))}


def _mend_networks(run: Path) -> list[Mended]:
    """Restore the run's copies of its checkpoints from where they came, if they are still there. In a worker: torch."""
    layout = Layout(run)
    plan, outcomes = read_plan(layout), list[Mended]()
    for problem in check_networks(layout):
        why = f"{problem.path}: what it came from is gone or another; put the checkpoint there again"
        try:
            settings = parse_settings(plan.settings)
            if problem.path == layout.relative(layout.gate) and (wanted := wanted_of(settings)):
                found = find_gate(replace(wanted, device="cpu"))
                if plan.gate and found.gate.checkpoint == plan.gate.checkpoint:
                    keep_gate(layout, found)
                    why = ""
            elif fuser := wanted_fuser(settings):
                made_by = find_fuser(fuser)
                if plan.fuser and made_by.fuser.weights_sha256 == plan.fuser.weights_sha256:
                    keep_fuser(layout, made_by)
                    why = ""
        except BadRequest as error:
            why = str(error)
        outcomes.append(Mended(problem.path, "lost" if why else "rewritten", why or problem.what))
    return outcomes


def _examine(work: tuple[Path, str]) -> str:
    """Say in a few words what is wrong with a shard; nothing where it is whole. Runs in a worker."""
    run, name = work
    layout = Layout(run)
    done = read_marker(layout, name)
    paths = (layout.shard(name), layout.rejected(name), layout.index(name))
    if done is None:
        return "its marker is missing or damaged" if any(path.exists() for path in paths) else "it is missing"
    if read_done(layout, name) is None:
        return "a file is missing or of another size"
    for path, file in done.files.items():
        if hash_file(layout.run / path)[0] != file["sha256"]:
            return f"{path} differs from its hash"
    if any(path.exists() and layout.relative(path) not in done.files for path in paths):
        return "a file of it is left over"
    if problems := verify_shard(run, name):
        return str(problems[0])
    counted = count_rows(
        read_index(layout.index(name), columns=["status", "reason", "family", "decision_by"]).to_pylist()
    )
    return "" if all(getattr(done, field) == value for field, value in counted.items()) else "its marker miscounts"


def _mend(layout: Layout, names: Sequence[str], promised: Mapping[str, str], *, over: Map) -> list[Mended]:
    """Mend some shards beside their places, and swap in those that are whole again."""
    outcomes: list[Mended] = []
    files: list[str] = []
    removed: list[str] = []
    with beside(layout) as new:
        _lend(layout, new)
        for outcome in over(_mend_shard, [(layout.run, name, promised) for name in names]):
            outcomes.append(outcome)
            if outcome.how == "lost":
                continue
            done = read_done(new, outcome.what)
            made = list(done.files) if done else []
            files += [*made, layout.relative(layout.done(outcome.what))]
            both = (layout.shard(outcome.what), layout.rejected(outcome.what))
            removed += [layout.relative(path) for path in both if layout.relative(path) not in made]
        if files:
            swap(layout, files=files, removed=removed)
    return outcomes


def _lend(layout: Layout, new: Layout) -> None:
    """Let what is made beside find the plan, the gate and the decisions of the run."""
    for path in (layout.plan, layout.plan_part(0).parent, layout.gate.parent, layout.fuser.parent, layout.decisions):
        if path.exists():
            (new.run / path.name).symlink_to(path)


def _mend_shard(work: tuple[Path, str, Mapping[str, str]]) -> Mended:
    """Write a shard anew beside its place, from its tars where they are whole, else from the photographs. In a worker."""
    run, name, promised = work
    layout = Layout(run)
    new = Layout(layout.beside)
    if _tars_are_whole(layout, name, promised):
        try:
            _rewrite(layout, new, name)
            if not verify_shard(new.run, name):
                return Mended(name, "rewritten", "")
        except (Damaged, KeyError, TypeError, ValueError):
            pass  # whole, but not what this code writes: made again below
        new.done(name).unlink(missing_ok=True)
    try:
        return _remake(layout, new, name)
    except BadRequest as error:
        return Mended(name, "lost", str(error))


def _tars_are_whole(layout: Layout, name: str, promised: Mapping[str, str]) -> bool:
    """Say whether marker or manifest vouch for both tars of a shard as they lie there."""
    paths = [layout.relative(path) for path in (layout.shard(name), layout.rejected(name))]
    marker = read_marker(layout, name)
    try:
        known = {path: str(file["sha256"]) for path, file in marker.files.items()} if marker else {}
    except (AttributeError, KeyError, TypeError):
        known = {}
    found = {path: hash_file(layout.run / path)[0] for path in paths if (layout.run / path).is_file()}
    wanted = [{path: voucher[path] for path in paths if path in voucher} for voucher in (known, promised)]
    return bool(found) and found in wanted


def _rewrite(layout: Layout, new: Layout, name: str) -> None:
    """Write a shard beside its place from its own tars, as the decisions want it."""
    decisions, rows = read_decisions(layout), list[dict[str, Any]]()
    places: dict[str, tuple[Path, int, int]] = {}
    encoded: dict[str, bytes] = {}
    for path in (layout.shard(name), layout.rejected(name)):
        for stored in read_tar(path) if path.is_file() else ():
            record = as_decided(stored.record, decisions)
            rows.append(flatten(record))
            places[stored.key] = (path, stored.offset, stored.size)
            encoded[stored.key] = encode_record(record)

    def pack_sample(key: str) -> bytes:
        path, offset, size = places[key]
        return pack(key, {**read_sample(path, offset=offset, size=size).members, "json": encoded[key]})

    files, placed = write_samples(new, name, rows, pack_sample)
    marker = read_marker(layout, name)
    done = Done(
        shard=name,
        **count_rows(placed),
        files={path: vars(file) for path, file in files.items()},
        seconds=marker.seconds if marker else 0.0,  # how long the making took is lost with the marker
        finished=marker.finished if marker else round(time.time(), 3),
        device=marker.device if marker else _device(layout, read_plan(layout), name),
    )
    write_bytes(new.done(name), encode_done(done))


def _remake(layout: Layout, new: Layout, name: str) -> Mended:
    """Make a shard again beside its place, as the build made it.

    Raises:
        BadRequest: A photograph is gone, the code or the device is another, or the gate's checkpoint is damaged.
    """
    plan = read_plan(layout)
    check_code(plan, layout)
    device = _device(layout, plan, name) or "cpu"
    composed = compose_shard(new.run, name)
    unread = {each.made.key for each in composed.samples if each.made.failure} - _unreadable(layout, name)
    if unread:
        composed.discard()
        folders = ", ".join(plan.roots.values())
        raise BadRequest(
            f"a photograph of {min(unread)} is gone or has changed since the plan; put it back ({folders}) and run "
            "hcoco repair again; what is left of the shard stays"
        )
    write_shard(new.run, composed, score_shard(new.run, composed, device=device), device)
    return Mended(name, "remade", "")


def _device(layout: Layout, plan: Plan, name: str) -> str | None:
    """Return where the gate scored a shard, the CPU where its marker is lost; None without a gate.

    Raises:
        BadRequest: It was an accelerator, and there is none here: other scores would be other bytes.
    """
    if plan.gate is None:
        return None
    marker = read_marker(layout, name)
    device = (marker and marker.device) or "cpu"
    if device != "cpu":
        import torch  # noqa: PLC0415 - only where the gate used one

        if not torch.cuda.is_available():
            raise BadRequest(f"the gate scored it on {device}, which is not at hand here; repair it where it is")
    return device


def _unreadable(layout: Layout, name: str) -> set[str]:
    """Return the samples of a shard that had no pictures when it was built, as far as its index tells."""
    try:
        rows = read_index(layout.index(name), columns=["key", "reason"]).to_pylist()
    except (OSError, pa.ArrowException, KeyError):
        return set()
    return {row["key"] for row in rows if row["reason"] == UNREADABLE}


def _set_strays_aside(layout: Layout, names: Sequence[str]) -> Iterator[Mended]:
    """Move files that belong to no shard out of the folders of shards; they may be somebody's."""
    known = {path for name in names if (done := read_done(layout, name)) for path in done.files}
    folders = {path(name).parent for path in (layout.shard, layout.rejected, layout.index) for name in ("x", *names)}
    folders |= {layout.shard(f"{stage}-x").parent for stage in OWN_FOLDER}
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        relative = layout.relative(path)
        if relative not in known and not path.name.startswith("."):
            place = layout.run / "set-aside" / relative
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
            yield Mended(relative, "moved", f"belongs to no shard; it is {layout.relative(place)} now")


def _mend_manifest(layout: Layout, plan: Plan) -> Iterator[Mended]:
    before = layout.manifest.read_bytes() if layout.manifest.is_file() else None
    finish_run(layout, plan)
    if layout.manifest.read_bytes() != before:
        yield Mended(
            layout.relative(layout.manifest), "rewritten", "was missing" if before is None else "was not right"
        )


def _batches(names: Iterable[str], size: int) -> Iterator[list[str]]:
    waiting = iter(names)
    while batch := list(islice(waiting, size)):
        yield batch
