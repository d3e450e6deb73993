"""Plan a run: which edits of which people, in which shards; written to disk before anything is made.

A relaunch reads the plan instead of making it again, so it cannot disagree with it. More samples or variants append
shards to a plan; everything planned before keeps its place and its bytes.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

import augment
from flows.coco.pair import Pair, pair_subjects
from flows.coco.pictures import scaled_size
from flows.coco.select import SPLITS, Candidates, Screened, Selection, Split, screen_candidates, select_by_annotation
from flows.coco.sources import Source, Watch, open_source, read_ids, unwatched
from flows.errors import BadRequest
from flows.settings import BuildSettings, fingerprint, identity
from flows.store.layout import Layout, write_bytes, writing
from flows.store.lock import only_build

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Yields a function's results in the order of the items: the builtin `map`, or that of a pool of processes."""


PLAN_VERSION: Final = 1

BYTES_PER_PIXEL: Final = 1.27
"""Disk of a planned sample over the pixels of its photograph: both JPEGs, the mask and the JSON.

Measured on 1,936 samples of COCO photographs; real.jpg and composite.jpg take nearly all of it.
"""

_MAKES_NO_SAMPLE: Final = frozenset({"remake.py", "severity.py", "subjects.py", "verify.py"})
"""Modules whose changes leave the bytes of every sample as they were."""

_PERSON_FIELDS: Final = (
    ("image_id", pa.int64()),
    ("annotation_id", pa.int64()),
    ("subset", pa.string()),
    ("file_name", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("crc32", pa.int64()),
    ("license", pa.int32()),
    ("coco_url", pa.string()),
    ("flickr_url", pa.string()),
    ("segmentation", pa.binary()),
)
PLANNED: Final = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("variant", pa.int32()),
        *((f"target_{name}", kind) for name, kind in _PERSON_FIELDS),
        *((f"reference_{name}", kind) for name, kind in _PERSON_FIELDS),
    ]
)


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its name (`train-00000`), where its planned samples stand, and how many pixels they have."""

    name: str
    split: Split
    part: int
    row_group: int
    planned: int
    pixels: int


@dataclass(frozen=True)
class Plan:
    """A plan as read from disk.

    Attributes:
        settings: As the run was first asked for, with the source's absolute folder.
        identity: What may not differ when the run is continued.
        code: Version and digest of the code, and the libraries that decide bytes.
        roots: Folder of the photographs of each subset.
        selection: Counts as in the manifest.
        shards: In their order.
    """

    settings: dict[str, Any]
    identity: dict[str, Any]
    code: dict[str, str]
    roots: dict[str, str]
    licenses: dict[str, Any]
    selection: dict[str, Any]
    parts: tuple[dict[str, Any], ...]
    shards: tuple[ShardPlan, ...]

    @property
    def planned(self) -> int:
        """Return the number of planned samples."""
        return sum(shard.planned for shard in self.shards)

    def shard(self, name: str) -> ShardPlan:
        """Return the shard of this name, such as `train-00000`."""
        return next(shard for shard in self.shards if shard.name == name)

    @property
    def folders(self) -> dict[str, Path]:
        """Return the folder of the photographs of each subset."""
        return {subset: Path(folder) for subset, folder in self.roots.items()}

    @property
    def seed(self) -> int:
        """Return the seed."""
        return int(self.identity["seed"])

    @property
    def max_side(self) -> int | None:
        """Return the bound on the longer side, in pixels."""
        side = self.identity["max_side"]
        return None if side is None else int(side)

    @property
    def families(self) -> dict[str, float]:
        """Return the weights of the families."""
        return dict(self.identity["families"])


@dataclass(frozen=True)
class Planned:
    """The outcome of planning: the run's folder, its plan, and a word for the user.

    Attributes:
        bytes_expected: About how much disk the whole run takes.
        extended: How many samples were added to an earlier plan; 0 for a new or an unchanged one.
        note: One line where fewer samples exist than were asked for, else None.
    """

    layout: Layout
    plan: Plan
    bytes_expected: int
    extended: int
    note: str | None


def plan_run(
    settings: BuildSettings, *, over: Map = map, watch: Watch = unwatched, root: Path | None = None
) -> Planned:
    """Make the plan of a run, or read and extend the one that is there.

    Args:
        settings: What is asked for.
        over: Maps the look at the photographs over batches of them; in this process where not given.
        watch: Told what is going on, how much of it is done, and how much there is at most.
        root: Folder that relative paths are taken from; the working folder where not given.

    Raises:
        BadRequest: The source is unusable, holds no pair, or the run exists with other settings.
    """
    root = root or Path.cwd()
    settings = _absolute(settings, root)
    source = _open(settings, watch)
    excluded = read_ids(settings.exclude_ids)
    inputs = {"annotations": source.digests, "excluded": _digest_ids(excluded)}
    this = identity(settings, inputs=inputs)
    layout = Layout(settings.output / (settings.run or f"{source.label}-{fingerprint(this)}"))
    if layout.run.exists() and not layout.plan.is_file() and not _is_begun(layout):
        raise BadRequest(f"{layout.run} exists and is no run of hcoco; choose another --run or --output")
    with only_build(layout):
        earlier = read_plan(layout) if layout.plan.is_file() else None
        if earlier is not None:
            _check_same(earlier, this, layout)
            if _covers(earlier, settings):
                return Planned(layout, earlier, _expected_bytes(earlier), 0, None)
            check_code(earlier, layout)
        candidates, selection, pairs = _pair(source, settings, excluded=excluded, over=over, watch=watch)
        plan = _write_plan(
            layout,
            settings=settings,
            this=this,
            source=source,
            candidates=candidates,
            pairs=pairs,
            selection=selection,
            earlier=earlier,
        )
    note = None
    if settings.samples is not None and plan.planned < settings.samples:
        note = (
            f"{settings.samples} samples were asked for, {plan.planned} pairs exist; "
            f"raise --variants (now {settings.variants}) or take a larger source for more"
        )
    before = earlier.planned if earlier else 0
    return Planned(layout, plan, _expected_bytes(plan), plan.planned - before if earlier else 0, note)


def describe_plan(planned: Planned) -> list[str]:
    """Say in a few lines what a plan will make, where, and about how much disk it takes."""
    plan, selection = planned.plan, planned.plan.selection
    splits = ", ".join(
        f"{sum(shard.planned for shard in plan.shards if shard.split == split)} {split}" for split in SPLITS
    )
    dropped = ", ".join(f"{reason} {count}" for reason, count in selection["dropped_by_reason"].items())
    people = f"{selection['people']} people in {selection['images']} images"
    size = f"about {planned.bytes_expected / 1e6:,.0f} MB"
    lines = [
        f"{people}, {selection['subjects']} fit to be edited (dropped: {dropped or 'none'})",
        f"{plan.planned} samples in {len(plan.shards)} shards ({splits}), {size}, into {planned.layout.run}",
    ]
    if selection["unpaired"]:
        lines.append(f"{selection['unpaired']} subjects are alone in their split and find no reference")
    free = shutil.disk_usage(planned.layout.plan.parent).free
    if free < planned.bytes_expected:
        lines.append(f"only {free / 1e6:,.0f} MB are free there, which may not be enough")
    if planned.extended:
        lines.append(f"{planned.extended} of them are new; the others stay as they are")
    return [*lines, planned.note] if planned.note else lines


def read_plan(layout: Layout) -> Plan:
    """Read a run's plan.

    Raises:
        BadRequest: It cannot be read, or was written by an incompatible version.
    """
    try:
        value = json.loads(layout.plan.read_bytes())
        version = value["version"]
        shards = tuple(ShardPlan(**shard) for shard in value["shards"])
        names = ("settings", "identity", "code", "roots", "licenses", "selection")
        plan = Plan(**{name: value[name] for name in names}, parts=tuple(value["parts"]), shards=shards)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{layout.plan} is damaged ({error}); restore it, or build into another --run") from None
    if version != PLAN_VERSION:
        raise BadRequest(
            f"{layout.plan} has version {version}, this code reads {PLAN_VERSION}; build into another --run"
        )
    return plan


def read_planned(layout: Layout, shard: ShardPlan) -> list[dict[str, Any]]:
    """Read the planned samples of one shard, in the order of their making; nothing else of the plan is loaded."""
    try:
        with pq.ParquetFile(layout.plan_part(shard.part)) as file:
            rows: list[dict[str, Any]] = file.read_row_group(shard.row_group).to_pylist()
    except (OSError, pa.ArrowInvalid, IndexError) as error:
        raise BadRequest(
            f"{layout.plan_part(shard.part)} is damaged ({error}); restore it, or build into another --run"
        ) from None
    return rows


@cache
def code_version() -> dict[str, str]:
    """Describe the code that makes samples: its version, a digest of its text, and the libraries that decide bytes."""
    here = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for folder in (Path(augment.__file__).parent, here / "coco", here / "make", here / "store"):
        for path in sorted(path for path in folder.rglob("*.py") if path.name not in _MAKES_NO_SAMPLE):
            digest.update(f"{path.relative_to(folder.parent).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    libraries = ("numpy", "opencv-python-headless", "pycocotools", "pillow", "pyarrow")
    return {
        "hcoco": metadata.version("hcoco"),
        "digest": digest.hexdigest()[:16],
        "machine": platform.machine(),
        **{name: metadata.version(name) for name in libraries},
    }


def _is_begun(layout: Layout) -> bool:
    """Say whether a folder without plan.json holds nothing but what an interrupted planning leaves."""
    return layout.run.is_dir() and all(
        path.name.startswith(".") or path.name == "plan" for path in layout.run.iterdir()
    )


def _absolute(settings: BuildSettings, root: Path) -> BuildSettings:
    """Take relative paths from `root`."""

    def absolute(value: str | Path) -> Path:
        try:
            return (root / Path(value).expanduser()).resolve()
        except (OSError, RuntimeError) as error:  # a circle of links, or no such user
            raise BadRequest(f"the path {str(value)!r} leads nowhere ({error}); mend it") from None

    changes: dict[str, Any] = {
        name: absolute(value)
        for name in ("images", "annotations", "output", "exclude_ids")
        if (value := getattr(settings, name)) is not None
    }
    if settings.source != "sample" and not settings.source.startswith("coco:"):
        changes["source"] = str(absolute(settings.source))
    return settings.model_copy(update=changes)


def _digest_ids(ids: frozenset[int]) -> str | None:
    return hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest() if ids else None


def _check_same(earlier: Plan, this: dict[str, Any], layout: Layout) -> None:
    """Refuse to continue a run with other settings, or to mix the samples of two versions of the code."""
    for name in sorted(set(earlier.identity) | set(this)):
        before, now = earlier.identity.get(name), this.get(name)
        if before != now:
            raise BadRequest(
                f"{layout.run} was made with another {name} ({_short(before)}, now {_short(now)}); "
                "choose another --run, or leave --run out"
            )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _covers(earlier: Plan, settings: BuildSettings) -> bool:
    """Say whether the earlier plan is what is asked for now; refuse to shrink it."""
    asked = (settings.samples, settings.variants)
    before = (earlier.settings["samples"], earlier.settings["variants"])
    if asked == before:
        return True
    samples = float("inf") if settings.samples is None else settings.samples
    if settings.variants < before[1] or samples < min(float(before[0] or "inf"), earlier.planned):
        raise BadRequest(
            f"the run holds {earlier.planned} planned samples (samples={before[0]}, variants={before[1]}); "
            "it can be extended, not made smaller; choose another --run"
        )
    return False


def fetch_photographs(settings: BuildSettings, *, over: Map = map, watch: Watch = unwatched) -> int:
    """Fetch the photographs that a build with these settings looks at; return how many samples it could plan.

    Raises:
        BadRequest: As `plan_run`.
    """
    source = _open(settings, watch)
    excluded = read_ids(settings.exclude_ids)
    _, _, pairs = _pair(source, settings, excluded=excluded, over=over, watch=watch)
    return sum(1 for _ in pairs)


def _open(settings: BuildSettings, watch: Watch) -> Source:
    return open_source(
        settings.source,
        images=settings.images,
        annotations=settings.annotations,
        coco_base=settings.coco_base,
        watch=watch,
    )


def _pair(
    source: Source, settings: BuildSettings, *, excluded: frozenset[int], over: Map, watch: Watch
) -> tuple[Candidates, Selection, Iterator[Pair]]:
    """Select and pair; the photographs are looked at, and fetched, only as the pairs are taken."""
    candidates, selection = select_by_annotation(
        source,
        min_person_share=settings.min_person_share,
        licenses=settings.licenses,
        exclude_ids=excluded,
        seed=settings.seed,
    )

    def screened() -> Iterator[Screened]:
        look = partial(screen_candidates, min_person_share=settings.min_person_share, max_side=settings.max_side)
        looked_at = 0
        for batch in over(look, candidates.batches()):
            for photograph in batch:
                selection.count(photograph)
                yield photograph
            looked_at += len(batch)
            watch("photographs", looked_at, len(candidates))

    def paired() -> Iterator[Pair]:
        first_variants = 0
        for pair in pair_subjects(screened(), variants=settings.variants, seed=settings.seed):
            first_variants += pair.variant == 0
            yield pair
        selection.unpaired = selection.subjects - first_variants

    return candidates, selection, islice(paired(), settings.samples)


def _write_plan(
    layout: Layout,
    *,
    settings: BuildSettings,
    this: dict[str, Any],
    source: Source,
    candidates: Candidates,
    pairs: Iterable[Pair],
    selection: Selection,
    earlier: Plan | None,
) -> Plan:
    """Write the new samples as a part of their own, then plan.json, which makes the part count."""
    parts = list(earlier.parts) if earlier else []
    known = _known_keys(layout, earlier) if earlier else set()
    number = len(parts)
    shards = _write_part(
        layout.plan_part(number),
        rows=_rows(source, candidates, pairs),
        known=known,
        part=number,
        first={
            split: sum(s.split == split for s in (earlier.shards if earlier else ()))
            for split in ("train", "val", "test")
        },
        per_shard=settings.planned_per_shard,
        max_side=settings.max_side,
    )
    if not shards:
        layout.plan_part(number).unlink(missing_ok=True)
    if not shards and earlier is None:
        raise BadRequest(_nothing_to_plan(selection))
    if known:
        raise BadRequest(
            f"{layout.run} was planned from other photographs than the source holds now; choose another --run"
        )
    if not shards and earlier is not None:
        return earlier
    if shards:
        digest = hashlib.sha256(layout.plan_part(number).read_bytes()).hexdigest()
        parts.append({"path": layout.relative(layout.plan_part(number)), "sha256": digest})
    plan = {
        "version": PLAN_VERSION,
        "seed": settings.seed,
        "inputs": this["inputs"],
        "settings": settings.model_dump(mode="json", exclude={"workers", "runner", "device", "output", "run"}),
        "identity": this,
        "code": code_version(),
        "roots": {subset.name: str(subset.images) for subset in source.subsets},
        "licenses": {str(key): value for key, value in source.licenses.items()},
        "selection": selection.to_json(),
        "parts": parts,
        "shards": [vars(shard) for shard in (*(earlier.shards if earlier else ()), *shards)],
    }
    write_bytes(layout.plan, json.dumps(plan, indent=1).encode())
    return read_plan(layout)


def check_code(plan: Plan, layout: Layout) -> None:
    """Refuse to add samples to a run that other code began: they would not be the same bytes.

    Raises:
        BadRequest: Something that decides bytes has changed since the plan was made.
    """
    now = code_version()
    changed = sorted(name for name in {*now, *plan.code} if now.get(name) != plan.code.get(name))
    if changed:
        name = changed[0]
        raise BadRequest(
            f"{layout.run} was begun with {name} {plan.code.get(name)}, here it is {now.get(name)}: its samples would "
            "differ; build into another --run, or go back to that version"
        )


def _known_keys(layout: Layout, earlier: Plan) -> set[str]:
    tables = (pq.read_table(layout.plan_part(number), columns=["key"]) for number in range(len(earlier.parts)))
    return {key for table in tables for key in table["key"].to_pylist()}


def _rows(source: Source, candidates: Candidates, pairs: Iterable[Pair]) -> Iterator[dict[str, Any]]:
    """Spell out each pair: all that a worker must know to make the sample, without the catalogue."""

    def person(prefix: str, screened: Screened, row: int) -> dict[str, Any]:
        image = candidates.images.slice(screened.image_row, 1).to_pylist()[0]
        values = {
            "image_id": image["id"],
            "annotation_id": candidates.people["id"][row].as_py(),
            "subset": source.subsets[image["subset"]].name,
            "crc32": screened.crc32,
            "segmentation": candidates.segmentation(row),
            **{name: image[name] for name in ("file_name", "width", "height", "license", "coco_url", "flickr_url")},
        }
        return {f"{prefix}_{name}": values[name] for name, _ in _PERSON_FIELDS}

    for pair in pairs:
        target = person("target", pair.target, pair.subject_row)
        key = f"{target['target_image_id']:012d}-{target['target_annotation_id']:012d}-{pair.variant:02d}"
        reference = person("reference", pair.reference, pair.reference_row)
        yield {"key": key, "split": pair.split, "variant": pair.variant, **target, **reference}


def _write_part(
    path: Path,
    *,
    rows: Iterable[dict[str, Any]],
    known: set[str],
    part: int,
    first: dict[Split, int],
    per_shard: int,
    max_side: int | None,
) -> list[ShardPlan]:
    """Write planned samples, a row group a shard; skip those that are known, and cross them off."""
    shards: list[ShardPlan] = []
    waiting: dict[Split, list[dict[str, Any]]] = {split: [] for split in first}
    numbers = dict(first)

    def flush(split: Split, writer: pq.ParquetWriter) -> None:
        group, waiting[split] = waiting[split], []
        writer.write_table(pa.Table.from_pylist(group, schema=PLANNED), row_group_size=len(group))
        pixels = sum(_pixels(row, max_side) for row in group)
        shards.append(ShardPlan(f"{split}-{numbers[split]:05d}", split, part, len(shards), len(group), pixels))
        numbers[split] += 1

    with writing(path) as file, pq.ParquetWriter(file, PLANNED, compression="zstd") as writer:
        for row in rows:
            if row["key"] in known:
                known.remove(row["key"])
                continue
            waiting[row["split"]].append(row)
            if len(waiting[row["split"]]) == per_shard:
                flush(row["split"], writer)
        for split in (split for split, group in waiting.items() if group):
            flush(split, writer)
    return shards


def _pixels(row: dict[str, Any], max_side: int | None) -> int:
    width, height = scaled_size(width=row["target_width"], height=row["target_height"], max_side=max_side)
    return width * height


def _expected_bytes(plan: Plan) -> int:
    return round(sum(shard.pixels for shard in plan.shards) * BYTES_PER_PIXEL)


def _nothing_to_plan(selection: Selection) -> str:
    counts = selection.to_json()
    dropped = counts["dropped_by_reason"]
    why = ", ".join(f"{reason} {count}" for reason, count in dropped.items()) if isinstance(dropped, dict) else ""
    return (
        f"no pair of people in two photographs of one split was found: {counts['images']} images, {counts['people']} "
        f"people, {counts['subjects']} of them fit to be edited, dropped: {why or 'none'}; "
        "take a larger source, or loosen --min-person-share, --licenses or --exclude-ids"
    )
