"""Prove a run: every hash, member, offset and picture, the promise of the background, the split, the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from augment import feather
from augment.checks import foreground_mse
from flows.coco.masks import decode_mask, scale_mask
from flows.coco.pictures import Picture, scaled_size
from flows.decoding import decode_member
from flows.errors import BadRequest
from flows.make.compose import BLOCK, person_of, read_recipe
from flows.make.fuser import load_fuser
from flows.make.gate import Gate, ask_gate, is_near, load_gate, look_through
from flows.make.judge import Opinion, judge
from flows.make.plan import Map, Plan, ShardPlan, read_plan, read_planned
from flows.make.plan_fusion import DIFFICULTY_FIELDS, PLACE_FIELDS, ROLES
from flows.make.run import find_split_leaks
from flows.make.shard import subject_of
from flows.store.decisions import UNREADABLE, Decisions, as_decided, gates_said, read_decisions
from flows.store.index import read_index
from flows.store.layout import COPYPASTE, FUSION, HARMONIZATION, OWN_FOLDER, Layout, is_inside, stage_of
from flows.store.manifest import count_rows, read_manifest
from flows.store.read import Damaged, Stored, read_sample, read_tar
from flows.store.record import GATES, PERSON, flatten
from flows.store.remote import borrowed, list_run
from flows.store.swap import is_unsettled
from flows.store.write import hash_file

PICTURES: Final = {
    HARMONIZATION: ("composite.jpg", "json", "mask.png", "real.jpg"),
    FUSION: ("alpha.png", "background.jpg", "composite.jpg", "foreground.jpg", "json", "mask.png"),
    COPYPASTE: ("composite.jpg", "json", "mask.png", "real.jpg", "source.jpg"),
}
"""Members of a sample, by stage."""
PROBLEMS_PER_SHARD: Final = 50
RESCORED: Final = 16
"""Samples of a shard that are scored again, at most."""

_PLACE: Final = frozenset({"tar", "offset", "size"})
"""Columns that only the index has."""
_PLANNED: Final = {
    "key": "key",
    "split": "split",
    "family": "family",
    **{f"{role}_{name}": f"{role}_{name}" for role in ("target", "reference", *ROLES) for name in PERSON},
    **{f"recipe_{name}": name for name, _ in PLACE_FIELDS},
    **{name: name for name, _ in DIFFICULTY_FIELDS},
}
"""Fields of a record, flattened, that the plan decides, and the columns of the plan; a stage has some of them."""


@dataclass(frozen=True)
class Problem:
    """One thing that is not as promised.

    Attributes:
        path: File below the run.
        key: The sample, or None where the file as a whole is meant.
        what: For people.
    """

    path: str
    key: str | None
    what: str

    def __str__(self) -> str:
        """Return the line that `hcoco verify` prints."""
        return f"{self.path}: {f'{self.key}: ' if self.key else ''}{self.what}"


def verify_run(layout: Layout, *, over: Map = map) -> Iterator[Problem]:
    """Yield everything that is wrong with a finished run; nothing where it is whole.

    Args:
        layout: Of the run.
        over: Maps the check over the names of the shards; in this process where not given.

    Raises:
        BadRequest: The run is unfinished, or its plan or manifest cannot be read at all.
    """
    plan, manifest = read_plan(layout), read_manifest(layout)
    for part in plan.parts:
        if not (path := layout.run / str(part["path"])).is_file() or hash_file(path)[0] != part["sha256"]:
            yield Problem(str(part["path"]), None, "is missing or differs from the hash in plan.json")
            return
    if is_unsettled(layout):
        yield Problem(
            layout.relative(layout.beside), None, "a decision or repair was interrupted; hcoco repair ends it"
        )
        return
    try:
        read_decisions(layout)
    except BadRequest as error:
        yield Problem(layout.relative(layout.decisions), None, str(error))
        return
    yield from _verify_files(layout, manifest) if layout.address is None else _verify_objects(layout, manifest)
    for what in over(check_networks, [layout] if plan.gate or plan.fuser else []):
        yield from what
    check = partial(verify_shard if layout.address is None else verify_lent, layout.run)
    names = [shard.name for shard in plan.shards]
    for problems in over(check, names):
        yield from problems
    yield from (Problem("manifest.json", None, what) for what in _manifest_problems(plan, manifest))
    yield from _count_problems(layout, plan, manifest)


def _count_problems(layout: Layout, plan: Plan, manifest: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield where the manifest counts otherwise than the index, and photographs on two sides."""
    try:
        counted, leaks = _count(layout, plan), find_split_leaks(layout, plan)
    except (OSError, pa.ArrowException, KeyError):
        return  # a damaged index has been named above
    decided = counted.pop("by_decision")
    if manifest.get("decisions", {}) != decided:
        yield Problem("manifest.json", None, f"counts decisions {manifest.get('decisions')}, the index holds {decided}")
    for name, number in counted.items():
        if manifest["counts"][name] != number:
            yield Problem("manifest.json", None, f"counts {name} {manifest['counts'][name]}, the index holds {number}")
    yield from (Problem("index", None, leak) for leak in leaks)


def _verify_files(layout: Layout, manifest: Mapping[str, Any]) -> Iterator[Problem]:
    listed = {entry["path"]: entry for entry in (*manifest["shards"], *manifest.get("index", ()))}
    for path, entry in listed.items():
        if not is_inside(path):
            yield Problem(path[:100], None, "is in the manifest, and no path in the run")
            continue
        file = (layout.run / path).resolve()
        if not file.is_relative_to(layout.run.resolve()) or not file.is_file():
            yield Problem(path, None, "is in the manifest but not on disk")
        elif hash_file(file)[0] != entry["sha256"]:
            yield Problem(path, None, "differs from its hash in the manifest")
    for folder in ("shards", *OWN_FOLDER, "rejected", "index"):
        for file in sorted((layout.run / folder).rglob("*")):
            if file.is_file() and not file.name.startswith(".") and layout.relative(file) not in listed:
                yield Problem(layout.relative(file), None, "is on disk but not in the manifest")


def _verify_objects(layout: Layout, manifest: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield where manifest and bucket name other files; what is in them is looked at shard by shard."""
    there = list_run(layout)
    listed = {entry["path"] for entry in (*manifest["shards"], *manifest.get("index", ()))}
    yield from (Problem(path, None, "is in the manifest but not in the bucket") for path in sorted(listed - there))
    folders = {"shards", *OWN_FOLDER, "rejected", "index"}
    strays = {path for path in there - listed if path.partition("/")[0] in folders}
    yield from (Problem(path, None, "is in the bucket but not in the manifest") for path in sorted(strays))


def verify_lent(run: Path, name: str) -> list[Problem]:
    """Check one shard of a run in object storage: bring its files here, compare their hashes, go through the pictures."""
    layout = Layout(run)
    manifest = read_manifest(layout)
    paths = {layout.relative(path) for path in (layout.shard(name), layout.rejected(name), layout.index(name))}
    entries = (*manifest["shards"], *manifest.get("index", ()))
    files = {entry["path"]: entry["sha256"] for entry in entries if entry["path"] in paths}
    with borrowed(layout, name, files) as (lent, missing):
        damaged = [path for path in files if path not in missing and hash_file(lent.run / path)[0] != files[path]]
        problems = [Problem(path, None, "differs from its hash in the manifest") for path in damaged]
        return [*problems, *verify_shard(lent.run, name)]


def _manifest_problems(plan: Plan, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the manifest contradicts the plan or itself."""
    for name in ("selection", "settings", "code"):
        if manifest[name] != getattr(plan, name):
            yield f"{name} is not that of the plan"
    for name in ("gate", "fuser"):
        network = getattr(plan, name)
        if manifest.get(name) != (network and vars(network)):
            yield f"{name} is not that of the plan"
    counts = manifest["counts"]
    if not counts["planned"] == counts["kept"] + counts["rejected"] == plan.planned:
        yield f"planned {plan.planned}, but counts {counts}"
    in_tars = {stage: Counter(planned=plan.planned_of(stage)) for stage in {shard.stage for shard in plan.shards}}
    for entry in manifest["shards"]:
        folder, _, name = entry["path"].partition("/")
        stage = folder if folder in OWN_FOLDER else stage_of(name)
        in_tars.setdefault(stage, Counter())["rejected" if folder == "rejected" else "kept"] += entry["samples"]
    if {stage: Counter(here) for stage, here in counts.get("by_stage", {}).items()} != in_tars:
        yield "the samples of the tars do not add up to the counts of the stages"
    whole = sum(in_tars.values(), Counter())
    if (whole["kept"], whole["rejected"]) != (counts["kept"], counts["rejected"]):
        yield "the samples of the tars do not add up to the counts"


def _count(layout: Layout, plan: Plan) -> dict[str, Any]:
    """Count the samples of the index as the manifest does."""
    columns = ["status", "reason", "family", "decision_by"]
    tables = (read_index(layout.index(shard.name), columns=columns) for shard in plan.shards)
    return count_rows(row for table in tables for row in table.to_pylist())


def verify_shard(run: Path, name: str) -> list[Problem]:
    """Check one shard against the plan, member by member and pixel by pixel; return the first problems found."""
    layout = Layout(run)
    plan = read_plan(layout)
    shard = plan.shard(name)
    problems: list[Problem] = []
    for problem in _shard_problems(layout, plan, shard):
        problems.append(problem)
        if len(problems) >= PROBLEMS_PER_SHARD:
            problems.append(
                Problem(layout.relative(layout.index(name)), None, "more problems in this shard are not listed")
            )
            break
    return problems


def _shard_problems(layout: Layout, plan: Plan, shard: ShardPlan) -> Iterator[Problem]:
    index_path = layout.relative(layout.index(shard.name))
    try:
        planned = {row["key"]: row for row in read_planned(layout, shard)}
        table = read_index(layout.index(shard.name))
        index = {row["key"]: row for row in table.to_pylist()}
    except BadRequest as error:
        yield Problem(index_path, None, str(error))
        return
    except (OSError, pa.ArrowException, KeyError) as error:
        yield Problem(index_path, None, f"cannot be read: {error}")
        return
    if missing := _PLACE - {*table.column_names}:
        yield Problem(index_path, None, f"has no columns {', '.join(sorted(missing))}")
        return
    if planned.keys() != index.keys():
        yield Problem(index_path, None, f"{len(planned)} samples were planned, {len(index)} other keys are listed")
    seen: set[str] = set()
    check = partial(check_sample, plan=plan, decisions=read_decisions(layout), stage=shard.stage)
    for path in (layout.shard(shard.name), layout.rejected(shard.name)):
        if path.is_file():
            yield from _tar_problems(path, planned, index, seen, tar=layout.relative(path), check=check)
    for key in sorted(index.keys() - seen):
        yield Problem(index[key]["tar"], key, "is in the index but in no tar")
    yield from _gate_problems(layout, plan, index.values())


def check_networks(layout: Layout) -> list[Problem]:
    """Check the run's copies of its checkpoints; in a worker, since it loads torch."""
    plan = read_plan(layout)
    gate, fuser = plan.gate, plan.fuser
    problems = []
    try:
        if gate is not None:
            load_gate(layout, gate)
    except BadRequest as error:
        problems.append(Problem(layout.relative(layout.gate), None, str(error)))
    try:
        if fuser is not None:
            load_fuser(layout, fuser)
    except BadRequest as error:
        problems.append(Problem(layout.relative(layout.fuser), None, str(error)))
    return problems


def _gate_problems(layout: Layout, plan: Plan, rows: Iterable[Mapping[str, Any]]) -> Iterator[Problem]:
    """Yield where the index is not what the gates say of their values, and where a sample gets another score now."""
    scored = []
    for row in rows:
        try:
            if not _is_as_judged(row, plan.gate):
                yield Problem(row["tar"], row["key"], "reason, value and limit are not what its gates say")
        except (KeyError, TypeError):  # columns are missing, or of another kind: named above
            return
        if row["score"] is not None:
            scored.append(row)
    if plan.gate is None or not scored:
        return
    for row, what in _score_problems(layout, plan.gate, scored[:: -(-len(scored) // RESCORED)]):
        yield Problem(row["tar"], row["key"], what)


def _is_as_judged(row: Mapping[str, Any], gate: Gate | None) -> bool:
    said = gates_said(row)
    threshold, seen = row["threshold"], row["seen_by_gate"]
    if gate is None or said.reason == UNREADABLE:
        opinion = None
        as_planned = threshold is None and seen is None and row["score"] is None
    else:
        opinion = Opinion(row["score"], threshold, seen)
        as_planned = threshold == gate.threshold and seen is not None
    judged = judge({name: row[f"gates_{name}"] for name in GATES}, opinion)
    return (
        as_planned
        and row["gates_unnatural"] == row["score"]
        and (
            said.reason == UNREADABLE
            or (judged.reason, judged.value, judged.limit) == (said.reason, said.value, said.limit)
        )
    )


def _score_problems(
    layout: Layout, gate: Gate, rows: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Score stored samples anew, on the CPU, and yield those whose score or `seen_by_gate` is another."""
    look = look_through(gate)
    seen = []
    for row in rows:
        try:
            members = read_sample(layout.run / row["tar"], offset=row["offset"], size=row["size"]).members
        except Damaged:
            continue  # it has been named already, as has a picture that cannot be decoded
        picture, mask = _JUDGED[str(row["family"])] if row["stage"] == FUSION else _JUDGED["edit"]
        composite = decode_member(members.get(picture, b""), cv2.IMREAD_COLOR_RGB)
        alpha = decode_member(members.get(mask, b""), cv2.IMREAD_UNCHANGED)
        if composite is not None and alpha is not None and composite.shape[:2] == alpha.shape:
            crop = look(composite, alpha)
            seen.append((row, np.zeros((gate.side, gate.side, 4), np.uint8) if crop is None else crop))
    if not seen:
        return
    crops, image_ids = np.stack([crop for _, crop in seen]), [_subject(row) for row, _ in seen]
    try:
        opinions = ask_gate(layout, gate, crops, image_ids, device="cpu")
    except BadRequest:
        return  # the checkpoint has been named already
    for (row, _), opinion in zip(seen, opinions, strict=True):
        if not is_near(opinion.score, row["score"]):
            yield row, f"has score {row['score']}, the gate gives it {opinion.score}"
        if opinion.seen_by_gate != row["seen_by_gate"]:
            yield row, "seen_by_gate is not what the checkpoint says"


def _subject(row: Mapping[str, Any]) -> int:
    """Return the id of the photograph whose person a row of the index is about."""
    return subject_of({name: value for name, value in row.items() if value is not None})


_JUDGED: Final = {
    "edit": ("composite.jpg", "mask.png"),
    "easy": ("composite.jpg", "alpha.png"),
    "hard": ("foreground.jpg", "alpha.png"),
}
"""What the realism gate looks at: a picture and where its subject is."""


def _tar_problems(
    path: Path,
    planned: Mapping[str, Any],
    index: Mapping[str, Any],
    seen: set[str],
    *,
    tar: str,
    check: Callable[..., Iterable[str]],
) -> Iterator[Problem]:
    """Yield what is wrong with one tar; add the keys that it holds to `seen`."""
    last = ""
    try:
        for stored in read_tar(path):
            if stored.key <= last:
                yield Problem(tar, stored.key, "is out of order or stands there twice")
            last = stored.key
            seen.add(stored.key)
            if stored.key not in planned or stored.key not in index:
                yield Problem(tar, stored.key, "was never planned")
                continue
            for what in check(stored, planned[stored.key], index[stored.key], tar=tar):
                yield Problem(tar, stored.key, what)
    except Damaged as damage:
        yield Problem(tar, None, str(damage))


def check_sample(
    stored: Stored,
    planned: Mapping[str, Any],
    index: Mapping[str, Any],
    *,
    tar: str,
    plan: Plan,
    decisions: Decisions,
    stage: str,
) -> Iterator[str]:
    """Yield what is wrong with one sample of a tar: members, record, index row, pictures, mask, background."""
    if (index["tar"], index["offset"], index["size"]) != (tar, stored.offset, stored.size):
        yield "lies elsewhere than the index says"
    try:
        record = stored.record
    except Damaged as damage:
        yield str(damage)
        return
    flat = flatten(record)
    if flat != {name: value for name, value in index.items() if name not in _PLACE}:
        yield "the json member differs from the index"
    if any(flat.get(name) != planned[column] for name, column in _PLANNED.items() if column in planned):
        yield "the json member differs from the plan"
    if (record.get("status") == "kept") == tar.startswith("rejected/"):
        yield f"has status {record.get('status')!r} but lies in {tar}"
    elif not _is_as_decided(record, decisions):
        yield "is not what its gates and decisions.json make of it"
    if record.get("reason") != "unreadable":
        yield from _check_members(stored, planned, record, plan, stage=stage)


def _check_members(
    stored: Stored, planned: Mapping[str, Any], record: Mapping[str, Any], plan: Plan, *, stage: str
) -> Iterator[str]:
    if record.get("stage") != stage:
        yield f"has stage {record.get('stage')!r}, planned was {stage}"
        return
    if tuple(stored.members) != PICTURES[stage]:
        yield f"has members {', '.join(stored.members)}, not {', '.join(PICTURES[stage])}"
        return
    if stage == FUSION:
        from flows.make.verify_fusion import check_fusion  # noqa: PLC0415 - it brings torch along

        yield from check_fusion(stored.members, planned, record, plan)
    elif stage == COPYPASTE:
        from flows.make.verify_copypaste import check_paste  # noqa: PLC0415 - it imports this module

        yield from check_paste(stored.members, planned, record, plan)
    else:
        yield from _check_pictures(stored, planned, record, max_side=plan.max_side)


def _is_as_decided(record: Mapping[str, Any], decisions: Decisions) -> bool:
    try:
        return as_decided(record, decisions) == record
    except (KeyError, TypeError):  # a field is missing, or of another kind
        return False


def _check_pictures(
    stored: Stored, planned: Mapping[str, Any], record: Mapping[str, Any], *, max_side: int | None
) -> Iterator[str]:
    real, composite = (
        decode_member(stored.members[name], cv2.IMREAD_COLOR_RGB) for name in ("real.jpg", "composite.jpg")
    )
    alpha = decode_member(stored.members["mask.png"], cv2.IMREAD_UNCHANGED)
    if real is None or composite is None or alpha is None:
        yield "a picture cannot be decoded"
        return
    target = person_of(planned, "target")
    width, height = scaled_size(width=target["width"], height=target["height"], max_side=max_side)
    if not real.shape == composite.shape == (height, width, 3) or alpha.shape != (height, width):
        yield f"pictures are not all {width} x {height}"
        return
    try:
        recipe = read_recipe(record)
        mask = decode_mask(target["segmentation"], height=target["height"], width=target["width"])
        expected = feather(scale_mask(mask, height=height, width=width), recipe.feather_px)
    except (ValueError, KeyError, TypeError) as error:
        yield f"the recipe cannot be read: {error}"
        return
    if not np.array_equal(alpha, expected):
        yield "mask.png is not the mask that plan and recipe give"
    if not background_identical(real, composite, alpha):
        yield "the background differs outside the touched 8x8 blocks"
    if round(foreground_mse(real, composite, alpha > 127), 4) != record.get("foreground_mse"):
        yield "foreground_mse is not that of the decoded pictures"


def background_identical(real: Picture, composite: Picture, alpha: NDArray[np.uint8]) -> bool:
    """Say whether two pictures are equal in every 8x8 block of the grid in which alpha is 0 throughout."""
    touched = alpha > 0
    height, width = alpha.shape
    padded = np.pad(touched, ((0, -height % BLOCK), (0, -width % BLOCK)))
    blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK).any(axis=(1, 3))
    free = ~np.repeat(np.repeat(blocks, BLOCK, axis=0), BLOCK, axis=1)[:height, :width]
    return not bool((np.any(real != composite, axis=2) & free).any())
