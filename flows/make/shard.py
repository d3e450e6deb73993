"""Make one shard: compose its samples, ask the gate about all of them, write kept and rejected, mark it done.

A shard is a pure function of the plan and the photographs. It is made anew from the start after a crash, and
counts only once its marker is there. `make_shard` goes through its three phases in one process; where an accelerator
scores, `flows/make/run.py` has a worker compose, the scorer score, and a worker write.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec import convert

from flows.make.compose import Look, Made, Photographs, bring_rows, compose, person_of, recipe_of
from flows.make.gate import Gate, ask_gate, look_through
from flows.make.judge import Opinion, Verdict, judge
from flows.make.plan import Plan, ShardPlan, read_plan, read_planned
from flows.make.plan_fusion import ROLES
from flows.store.decisions import as_decided, read_decisions
from flows.store.layout import COPYPASTE, FUSION, Layout, is_inside, read_json, write_bytes
from flows.store.manifest import count_rows
from flows.store.record import DIFFICULTY, PERSON, encode_record, flatten, make_record
from flows.store.remote import send_shard
from flows.store.write import Place, Spill, Written, pack, read_piece, write_samples

if TYPE_CHECKING:  # it brings torch along, which a build of the other stage without a gate does not need
    from flows.make.compose_fusion import MadeFusion

MARKER_VERSION: Final = 1


@dataclass(frozen=True)
class Done:
    """What a finished shard's marker says.

    Attributes:
        files: sha256, size and samples by path below the run.
        seconds: Wall time of the making.
        finished: When that was, seconds since 1970; this and `seconds` are all that differs between two makings.
        device: Where the gate scored the samples, `cpu` or `cuda`; None where no gate looked.
        by_decision: Samples that a decision moved or judged otherwise than the gates did, by kind of decision.
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
    device: str | None = None
    by_decision: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Waiting:
    """A sample that is made and not yet judged.

    Attributes:
        row: Of the plan, without the outlines.
        made: Without members and crop.
        places: Of its members in the spill, by extension.
        seen: Whether it has a crop for the gate to look at.
    """

    row: Mapping[str, Any]
    made: Made | MadeFusion
    places: Mapping[str, Place]
    seen: bool


@dataclass(frozen=True)
class Composed:
    """A shard between its phases; any process on this machine can go on with it.

    Attributes:
        shard: Its name.
        began: When its making began, seconds since 1970.
        samples: In the order of the plan.
        members: File with the pictures of all samples.
        crops: File with what the gate looks at, uint8 (samples, side, side, 4); None without a gate.
    """

    shard: str
    began: float
    samples: tuple[Waiting, ...]
    members: Path
    crops: Path | None

    def discard(self) -> None:
        """Give the disk space back."""
        for path in (self.members, self.crops):
            if path is not None:
                path.unlink(missing_ok=True)


def make_shard(run: Path, name: str, *, seen: Callable[[], None] | None = None) -> Done:
    """Make the shard `name` of the plan in `run`, or return its marker where it is done.

    Args:
        run: Folder of the run.
        name: Of the shard.
        seen: Called when all photographs were read and nothing is written yet; raises where what was read is not to
            be believed.

    Raises:
        BadRequest: The plan or the run's checkpoint is damaged.
        OSError: The disk is full or not writable; nothing half written stays.
    """
    if (done := read_done(Layout(run), name)) is not None:
        return done
    composed = compose_shard(run, name)
    opinions = score_shard(run, composed, device="cpu")
    if seen is not None:
        try:
            seen()
        except BaseException:
            composed.discard()
            raise
    return write_shard(run, composed, opinions, "cpu")


def compose_shard(run: Path, name: str) -> Composed:
    """Make the samples of a shard and put them aside.

    Raises:
        BadRequest: The plan is damaged, or a photograph that lies elsewhere cannot be fetched.
        OSError: The disk is full or not writable; nothing stays.
    """
    began, layout = time.time(), Layout(run)
    plan = read_plan(layout)
    shard = plan.shard(name)
    rows = read_planned(layout, shard)
    bring_rows(plan.roots, rows)
    folder = layout.index(name).parent
    folder.mkdir(parents=True, exist_ok=True)
    look = None if plan.gate is None else look_through(plan.gate)
    with Spill(folder) as members, nullcontext() if plan.gate is None else Spill(folder) as crops:
        made = compose_stage(layout, plan, shard, rows, look=look)
        samples = tuple(_set_aside(*each, gate=plan.gate, members=members, crops=crops) for each in made)
    return Composed(name, began, samples, members.path, None if crops is None else crops.path)


def score_shard(run: Path, composed: Composed, *, device: str) -> list[Opinion | None]:
    """Ask the run's gate about every sample of a shard; None for those without pictures, and for all without a gate.

    Raises:
        BadRequest: The run's checkpoint is damaged, or the accelerator's memory is full. The shard is discarded.
    """
    layout = Layout(run)
    gate = read_plan(layout).gate
    if gate is None or composed.crops is None:
        return [None] * len(composed.samples)
    try:
        crops = np.memmap(composed.crops, np.uint8, mode="r", shape=(len(composed.samples), gate.side, gate.side, 4))
        image_ids = [subject_of(each.row) for each in composed.samples]
        unseen = [not each.seen for each in composed.samples]
        opinions = ask_gate(layout, gate, crops, image_ids, device=device, unseen=unseen)
    except BaseException:
        composed.discard()
        raise
    return [None if each.made.failure else said for each, said in zip(composed.samples, opinions, strict=True)]


def write_shard(run: Path, composed: Composed, opinions: Sequence[Opinion | None], device: str) -> Done:
    """Judge the samples of a shard, write them and their marker, and discard what was put aside.

    Raises:
        OSError: The disk is full or not writable; nothing half written stays.
    """
    layout = Layout(run)
    try:
        # begun again where a worker died: the one before may have come as far as the marker
        return read_done(layout, composed.shard) or _write_all(layout, composed, opinions, device=device)
    finally:
        composed.discard()


def _write_all(layout: Layout, composed: Composed, opinions: Sequence[Opinion | None], *, device: str) -> Done:
    name = composed.shard
    verdicts = [judge_made(each.made, said) for each, said in zip(composed.samples, opinions, strict=True)]
    files, rows = _write(layout, composed, verdicts)
    finished = time.time()
    done = Done(
        shard=name,
        **count_rows(rows),
        files={path: vars(written) for path, written in files.items()},
        seconds=round(finished - composed.began, 3),
        finished=round(finished, 3),
        device=device if composed.crops else None,
    )
    marker = encode_done(done)
    send_shard(layout, name, files, marker)
    write_bytes(layout.done(name), marker)
    return done


def encode_done(done: Done) -> bytes:
    """Encode a marker as its file."""
    return json.dumps({"version": MARKER_VERSION, **vars(done)}, indent=1).encode()


def read_done(layout: Layout, name: str) -> Done | None:
    """Read a shard's marker; None where it is missing, unreadable, or names files that are not there in full.

    Of a run in object storage only markers whose files are whole there are brought here.
    """
    done = read_marker(layout, name)
    if layout.address is not None:
        return done
    try:
        whole = done and all((layout.run / path).stat().st_size == file["size"] for path, file in done.files.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return done if whole else None


def read_marker(layout: Layout, name: str) -> Done | None:
    """Read a shard's marker, whatever has become of its files; None where it is missing or unreadable."""
    try:
        value = read_json(layout.done(name))
        done = convert(value, Done) if value.pop("version") == MARKER_VERSION else None
        return done if done is None or all(map(is_inside, done.files)) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def compose_stage(
    layout: Layout,
    plan: Plan,
    shard: ShardPlan,
    rows: Sequence[Mapping[str, Any]],
    *,
    look: Look | None = None,
) -> Iterable[tuple[Mapping[str, Any], Made | MadeFusion]]:
    """Make the samples of some rows of a shard's plan as its stage makes them."""
    if shard.stage == COPYPASTE:
        from flows.make.compose_copypaste import compose_paste_rows  # noqa: PLC0415 - only where there are such

        return compose_paste_rows(plan, rows, look=look)
    if shard.stage != FUSION:
        return compose_rows(plan, rows, look=look)
    from flows.make.compose_fusion import compose_fusion_rows  # noqa: PLC0415 - see the top

    return compose_fusion_rows(layout, plan, rows, look=look)


def subject_of(row: Mapping[str, Any]) -> int:
    """Return the id of the photograph whose person a row of the plan is about."""
    return int(row["target_image_id"] if "target_image_id" in row else row["foreground_image_id"])


def compose_rows(
    plan: Plan, rows: Sequence[Mapping[str, Any]], *, look: Look | None = None
) -> Iterable[tuple[Mapping[str, Any], Made]]:
    """Make the samples of some rows of the plan, one after the other; decode each photograph once where they meet."""
    furthest = max((row["variant"] for row in rows), default=0) + 1
    photographs = Photographs(plan.folders, max_side=plan.max_side, keep=min(furthest, 14) + 2)
    for row in rows:
        recipe = recipe_of(row["key"], seed=plan.seed, families=plan.families)
        yield row, compose(row, photographs, recipe=recipe, look=look)


def judge_made(made: Made | MadeFusion, opinion: Opinion | None = None) -> Verdict:
    """Judge one sample: not at all readable, or by its gates."""
    return Verdict(reason=made.failure) if made.failure else judge(made.gates, opinion)


def record_of(row: Mapping[str, Any], made: Made | MadeFusion, verdict: Verdict) -> dict[str, Any]:
    """Return the record of a sample as its `json` member holds it."""
    opinion = verdict.opinion
    return make_record(
        {
            "key": made.key,
            "split": row["split"],
            "status": "kept" if verdict.kept else "rejected",
            "reason": verdict.reason,
            "value": verdict.value,
            "limit": verdict.limit,
            "gates": {**made.gates, "unnatural": opinion and opinion.score},
            "family": made.recipe.family,
            "score": opinion and opinion.score,
            "threshold": opinion and opinion.threshold,
            "seen_by_gate": opinion and opinion.seen_by_gate,
            "recipe": made.recipe.to_json(),
            **(_of_edit(row, made) if isinstance(made, Made) else _of_fusion(row, made)),
        }
    )


def _of_edit(row: Mapping[str, Any], made: Made) -> dict[str, Any]:
    return {
        "stage": made.stage,
        "strength": made.recipe.strength,
        "foreground_mse": made.foreground_mse,
        "psnr": made.psnr,
        "notes": made.notes,
        **{role: _told(row, role) for role in ("target", "reference")},
    }


def _of_fusion(row: Mapping[str, Any], made: MadeFusion) -> dict[str, Any]:
    return {
        "stage": FUSION,
        "model": made.model,
        "difficulty": {name: row[f"difficulty_{name}"] for name in DIFFICULTY},
        **{role: _told(row, role) for role in ROLES},
    }


def _told(row: Mapping[str, Any], role: str) -> dict[str, Any]:
    """Return what a record says of a photograph or a person of the plan."""
    return {name: value for name, value in person_of(row, role).items() if name in PERSON}


def _set_aside(
    row: Mapping[str, Any], made: Made | MadeFusion, *, gate: Gate | None, members: Spill, crops: Spill | None
) -> Waiting:
    """Put a sample's pictures and crop on disk, so that a shard of any size is made in the same memory."""
    places = {name: members.put(content) for name, content in made.members.items()}
    if gate is not None and crops is not None:
        crops.put(bytes(4 * gate.side**2) if made.crop is None else made.crop.tobytes())
    return Waiting(
        row={name: value for name, value in row.items() if not name.endswith("_segmentation")},
        made=replace(made, members={}, crop=None),
        places=places,
        seen=made.crop is not None,
    )


def _write(
    layout: Layout, composed: Composed, verdicts: Sequence[Verdict]
) -> tuple[dict[str, Written], list[dict[str, Any]]]:
    """Write the two tars and the index of a shard, each sample where its gates and the run's decisions put it."""
    decisions = read_decisions(layout)
    rows: list[dict[str, Any]] = []
    encoded: dict[str, bytes] = {}
    for each, verdict in zip(composed.samples, verdicts, strict=True):
        record = as_decided(record_of(each.row, each.made, verdict), decisions)
        rows.append(flatten(record))
        encoded[each.made.key] = encode_record(record)
    places = {each.made.key: each.places for each in composed.samples}
    with composed.members.open("rb") as spill:

        def pack_sample(key: str) -> bytes:
            members = {extension: read_piece(spill, place) for extension, place in places[key].items()}
            return pack(key, {**members, "json": encoded[key]})

        return write_samples(layout, composed.shard, rows, pack_sample)
