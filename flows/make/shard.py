"""Make one shard: compose its samples, judge them together, write kept and rejected, mark it done.

A shard is a pure function of the plan and the photographs. It is made anew from the start after a crash, and
counts only once its marker is there.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from flows.make.compose import Made, Photographs, compose, person_of, recipe_of
from flows.make.judge import Verdict, judge
from flows.make.plan import Plan, read_plan, read_planned
from flows.store.layout import Layout, write_bytes, writing
from flows.store.record import PERSON, encode_record, flatten, index_table, make_record
from flows.store.write import Spill, Written, hash_file, pack, write_tar

MARKER_VERSION: Final = 1


@dataclass(frozen=True)
class Done:
    """What a finished shard's marker says.

    Attributes:
        files: sha256, size and samples by path below the run.
        seconds: Wall time of the making, the only field that differs between two makings.
    """

    shard: str
    planned: int
    kept: int
    rejected: int
    by_reason: Mapping[str, int]
    by_family: Mapping[str, Mapping[str, int]]
    files: Mapping[str, Mapping[str, Any]]
    seconds: float
    finished: float


@dataclass(frozen=True)
class _Waiting:
    """A sample that is made but not yet written: its judgement may still change, its pictures are on disk."""

    row: Mapping[str, Any]
    made: Made
    places: Mapping[str, tuple[int, int]]


def make_shard(run: Path, name: str) -> Done:
    """Make the shard `name` of the plan in `run`, or return its marker where it is done.

    Raises:
        BadRequest: The plan is damaged.
        OSError: The disk is full or not writable; nothing half written stays.
    """
    layout = Layout(run)
    if (done := read_done(layout, name)) is not None:
        return done
    started = time.perf_counter()
    plan = read_plan(layout)
    shard = plan.shard(name)
    layout.index(name).parent.mkdir(parents=True, exist_ok=True)
    spill = Spill(layout.index(name).parent)
    try:
        waiting = [_set_aside(row, made, spill) for row, made in compose_rows(plan, read_planned(layout, shard))]
        verdicts = [judge_made(each.made) for each in waiting]
        files, rows = _write(layout, name, waiting, verdicts, spill)
    finally:
        spill.close()
    done = Done(
        shard=name,
        planned=len(rows),
        kept=sum(verdict.kept for verdict in verdicts),
        rejected=sum(not verdict.kept for verdict in verdicts),
        by_reason=dict(sorted(Counter(verdict.reason for verdict in verdicts if verdict.reason).items())),
        by_family=_by_family(rows),
        files={path: vars(written) for path, written in files.items()},
        seconds=round(time.perf_counter() - started, 3),
        finished=round(time.time(), 3),
    )
    write_bytes(layout.done(name), json.dumps({"version": MARKER_VERSION, **vars(done)}, indent=1).encode())
    return done


def read_done(layout: Layout, name: str) -> Done | None:
    """Read a shard's marker; None where it is missing, unreadable, or names files that are not there in full."""
    try:
        value = json.loads(layout.done(name).read_bytes())
        if value.pop("version") != MARKER_VERSION:
            return None
        done = Done(**value)
        whole = all((layout.run / path).stat().st_size == file["size"] for path, file in done.files.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return done if whole else None


def compose_rows(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], Made]]:
    """Make the samples of some rows of the plan, one after the other; decode each photograph once where they meet."""
    furthest = max((row["variant"] for row in rows), default=0) + 1
    photographs = Photographs(plan.folders, max_side=plan.max_side, keep=min(furthest, 14) + 2)
    for row in rows:
        yield row, compose(row, photographs, recipe=recipe_of(row["key"], seed=plan.seed, families=plan.families))


def judge_made(made: Made) -> Verdict:
    """Judge one sample: not at all readable, or by its gates."""
    return Verdict(reason=made.failure) if made.failure else judge(made.gates)


def record_of(row: Mapping[str, Any], made: Made, verdict: Verdict) -> dict[str, Any]:
    """Return the record of a sample as its `json` member holds it."""
    people = {
        role: {name: value for name, value in person_of(row, role).items() if name in PERSON}
        for role in ("target", "reference")
    }
    return make_record(
        {
            "key": made.key,
            "stage": "harmonization",
            "split": row["split"],
            "status": "kept" if verdict.kept else "rejected",
            "reason": verdict.reason,
            "value": verdict.value,
            "limit": verdict.limit,
            "gates": {**made.gates, "unnatural": verdict.score},
            "family": made.recipe.family,
            "strength": made.recipe.strength,
            "foreground_mse": made.foreground_mse,
            "psnr": made.psnr,
            "score": verdict.score,
            "threshold": verdict.threshold,
            "seen_by_gate": verdict.seen_by_gate,
            "recipe": made.recipe.to_json(),
            "notes": made.notes,
            **people,
        }
    )


def _set_aside(row: Mapping[str, Any], made: Made, spill: Spill) -> _Waiting:
    """Put a sample's pictures on disk, so that a shard of any size is made in the same memory."""
    places = {name: spill.put(content) for name, content in made.members.items()}
    return _Waiting(row, Made(**{**vars(made), "members": {}}), places)


def _write(
    layout: Layout, name: str, waiting: Sequence[_Waiting], verdicts: Sequence[Verdict], spill: Spill
) -> tuple[dict[str, Written], list[dict[str, Any]]]:
    """Write the two tars and the index of a shard; a tar without samples is not written."""
    files: dict[str, Written] = {}
    rows: list[dict[str, Any]] = []
    ordered = sorted(zip(waiting, verdicts, strict=True), key=lambda pair: pair[0].made.key)
    for path, kept in ((layout.shard(name), True), (layout.rejected(name), False)):
        chosen = [(each, verdict) for each, verdict in ordered if verdict.kept == kept]
        relative = layout.relative(path)
        if not chosen:
            path.unlink(missing_ok=True)
            continue

        def packed(chosen: Sequence[tuple[_Waiting, Verdict]] = chosen, tar: str = relative) -> Iterable[bytes]:
            offset = 0
            for each, verdict in chosen:
                record = record_of(each.row, each.made, verdict)
                members = {extension: spill.get(place) for extension, place in each.places.items()}
                data = pack(each.made.key, {**members, "json": encode_record(record)})
                rows.append({**flatten(record), "tar": tar, "offset": offset, "size": len(data)})
                offset += len(data)
                yield data

        files[relative] = write_tar(path, packed())
    with writing(layout.index(name)) as file:
        pq.write_table(index_table(rows), file, compression="zstd")
    digest, size = hash_file(layout.index(name))
    files[layout.relative(layout.index(name))] = Written(digest, size, len(rows))
    return files, rows


def _by_family(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        counts.setdefault(row["family"], {"kept": 0, "rejected": 0})[row["status"]] += 1
    return dict(sorted(counts.items()))
