"""Prove a run: every hash, member, offset and picture, the promise of the background, the split, the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from augment import Recipe, feather
from augment.checks import foreground_mse
from flows.coco.masks import decode_mask, scale_mask
from flows.coco.pictures import Picture, scaled_size
from flows.errors import BadRequest
from flows.make.compose import BLOCK, person_of
from flows.make.plan import Map, Plan, ShardPlan, read_plan, read_planned
from flows.make.run import find_split_leaks
from flows.store.layout import Layout
from flows.store.manifest import read_manifest
from flows.store.read import Damaged, Stored, read_tar
from flows.store.record import PERSON, flatten
from flows.store.write import hash_file

PICTURES: Final = ("composite.jpg", "json", "mask.png", "real.jpg")
PROBLEMS_PER_SHARD: Final = 50

_PLACE: Final = frozenset({"tar", "offset", "size"})
"""Columns that only the index has."""
_PLANNED: Final = ("key", "split", *(f"{role}_{name}" for role in ("target", "reference") for name in PERSON))
"""Fields of a record, flattened, that the plan decides."""


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
    yield from _verify_files(layout, manifest)
    check = partial(verify_shard, layout.run)
    names = [shard.name for shard in plan.shards]
    for problems in over(check, names):
        yield from problems
    yield from (Problem("manifest.json", None, what) for what in _manifest_problems(plan, manifest))
    try:
        counted, leaks = _count(layout, plan), find_split_leaks(layout, plan)
    except (OSError, pa.ArrowException, KeyError):
        return  # a damaged index has been named above
    for name, number in counted.items():
        if manifest["counts"][name] != number:
            yield Problem("manifest.json", None, f"counts {name} {manifest['counts'][name]}, the index holds {number}")
    yield from (Problem("index", None, leak) for leak in leaks)


def _verify_files(layout: Layout, manifest: Mapping[str, Any]) -> Iterator[Problem]:
    listed = {entry["path"]: entry for entry in (*manifest["shards"], *manifest.get("index", ()))}
    for path, entry in listed.items():
        file = (layout.run / path).resolve()
        if not file.is_relative_to(layout.run.resolve()) or not file.is_file():
            yield Problem(path, None, "is in the manifest but not on disk")
        elif hash_file(file)[0] != entry["sha256"]:
            yield Problem(path, None, "differs from its hash in the manifest")
    for folder in ("shards", "rejected", "index"):
        for file in sorted((layout.run / folder).rglob("*")):
            if file.is_file() and not file.name.startswith(".") and layout.relative(file) not in listed:
                yield Problem(layout.relative(file), None, "is on disk but not in the manifest")


def _manifest_problems(plan: Plan, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the manifest contradicts the plan or itself."""
    for name in ("selection", "settings", "code"):
        if manifest[name] != getattr(plan, name):
            yield f"{name} is not that of the plan"
    counts = manifest["counts"]
    if not counts["planned"] == counts["kept"] + counts["rejected"] == plan.planned:
        yield f"planned {plan.planned}, but counts {counts}"
    in_tars = {True: 0, False: 0}
    for entry in manifest["shards"]:
        in_tars[entry["path"].startswith("shards/")] += entry["samples"]
    if (in_tars[True], in_tars[False]) != (counts["kept"], counts["rejected"]):
        yield "the samples of the tars do not add up to the counts"


def _count(layout: Layout, plan: Plan) -> dict[str, Any]:
    """Count the samples of the index as the manifest does."""
    rows: Counter[tuple[str, str, str]] = Counter()
    for shard in plan.shards:
        table = pq.read_table(layout.index(shard.name), columns=["status", "reason", "family"])
        rows.update(zip(*(table[name].to_pylist() for name in ("status", "reason", "family")), strict=True))
    statuses, by_reason = Counter[str](), Counter[str]()
    by_family: dict[str, dict[str, int]] = {}
    for (status, reason, family), number in rows.items():
        statuses[status] += number
        if reason is not None:
            by_reason[reason] += number
        by_family.setdefault(family, {"kept": 0, "rejected": 0})[status] += number
    return {
        "planned": rows.total(),
        "kept": statuses["kept"],
        "rejected": statuses["rejected"],
        "by_reason": dict(by_reason),
        "by_family": by_family,
    }


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
        table = pq.read_table(layout.index(shard.name))
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
    for path in (layout.shard(shard.name), layout.rejected(shard.name)):
        if path.is_file():
            yield from _tar_problems(path, planned, index, seen, tar=layout.relative(path), max_side=plan.max_side)
    for key in sorted(index.keys() - seen):
        yield Problem(index[key]["tar"], key, "is in the index but in no tar")


def _tar_problems(
    path: Path,
    planned: Mapping[str, Any],
    index: Mapping[str, Any],
    seen: set[str],
    *,
    tar: str,
    max_side: int | None,
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
            for what in check_sample(stored, planned[stored.key], index[stored.key], tar=tar, max_side=max_side):
                yield Problem(tar, stored.key, what)
    except Damaged as damage:
        yield Problem(tar, None, str(damage))


def check_sample(
    stored: Stored, planned: Mapping[str, Any], index: Mapping[str, Any], *, tar: str, max_side: int | None
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
    if any(flat.get(name) != planned[name] for name in _PLANNED):
        yield "the json member differs from the plan"
    if (record.get("status") == "kept") != tar.startswith("shards/"):
        yield f"has status {record.get('status')!r} but lies in {tar}"
    if record.get("reason") == "unreadable":
        return
    if tuple(stored.members) != PICTURES:
        yield f"has members {', '.join(stored.members)}, not {', '.join(PICTURES)}"
        return
    yield from _check_pictures(stored, planned, record, max_side=max_side)


def _check_pictures(
    stored: Stored, planned: Mapping[str, Any], record: Mapping[str, Any], *, max_side: int | None
) -> Iterator[str]:
    real, composite = (_decode(stored.members[name], cv2.IMREAD_COLOR_RGB) for name in ("real.jpg", "composite.jpg"))
    alpha = _decode(stored.members["mask.png"], cv2.IMREAD_UNCHANGED)
    if real is None or composite is None or alpha is None:
        yield "a picture cannot be decoded"
        return
    target = person_of(planned, "target")
    width, height = scaled_size(width=target["width"], height=target["height"], max_side=max_side)
    if not real.shape == composite.shape == (height, width, 3) or alpha.shape != (height, width):
        yield f"pictures are not all {width} x {height}"
        return
    try:
        recipe = Recipe.from_json(record["recipe"])
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


def _decode(data: bytes, flags: int) -> NDArray[np.uint8] | None:
    try:
        picture: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)  # type: ignore[assignment]
    except cv2.error:
        return None
    return picture
