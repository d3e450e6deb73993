"""Plan a run: which edits of which people, in which shards; written to disk before anything is made.

A relaunch reads the plan instead of making it again, so it cannot disagree with it. More samples or variants append
shards to a plan; everything planned before keeps its place and its bytes.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

import augment
from flows.coco.fetch import folder_of
from flows.coco.pair import Pair, pair_subjects
from flows.coco.pictures import scaled_size
from flows.coco.select import SPLITS, Candidates, Screened, Selection, Split, screen_candidates, select_by_annotation
from flows.coco.sources import Source, Watch, open_source, read_ids, unwatched
from flows.errors import BadRequest
from flows.make.fuser import FoundFuser, Fuser, find_fuser, keep_fuser, wanted_fuser
from flows.make.gate import Found, Gate, find_gate, keep_gate, wanted_of
from flows.make.paste import FIRST_VARIANT as FIRST_PASTE
from flows.make.plan_fusion import DIFFICULTY_FIELDS, PLACE_FIELDS, ROLES, FusionSelection, compositions
from flows.objects import is_address
from flows.settings import COPYPASTE, FUSION, STAGES, BuildSettings, fingerprint, identity
from flows.store.decisions import KEY
from flows.store.index import MOST_ROWS, read_bounded, read_index
from flows.store.layout import HARMONIZATION, OWN_FOLDER, SHARD_NAME, Layout, is_inside, read_json, write_bytes, writing
from flows.store.lock import only_build
from flows.store.manifest import check_selection
from flows.store.remote import send
from flows.store.write import hash_file

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Yields a function's results in the order of the items: the builtin `map`, or that of a pool of processes."""


PLAN_VERSION: Final = 1

BYTES_PER_PIXEL: Final = 1.27
"""Disk of a planned sample over the pixels of its photograph: both JPEGs, the mask and the JSON.

Measured on 1,936 samples of COCO photographs; real.jpg and composite.jpg take nearly all of it.
"""

_MAKES_NO_SAMPLE: Final = frozenset(
    {
        "decide.py",
        "decision_list.py",
        "evaluate_fusion.py",
        "evaluate_harmonization.py",
        "fusion.py",
        "harmonize.py",
        "realism.py",
        "regate.py",
        "remake.py",
        "remote.py",
        "repair.py",
        "status.py",
        "severity.py",
        "subjects.py",
        "train_harmonizer.py",
        "verify.py",
        "verify_copypaste.py",
        "verify_fusion.py",
        "worth.py",
    }
)
"""Modules whose changes leave the bytes of every sample as they were."""

_NETWORKS: Final = (
    *("checkpoint.py", "discriminator.py", "networks.py", "score.py", "tensors.py", "threads.py", "vgg.py"),
    *("fusion.py", "fusion_checkpoint.py"),
)
"""Modules of `realism` that decide scores, and what a fusion network makes."""

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
PLANNED_FUSION: Final = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("variant", pa.int32()),
        ("family", pa.string()),
        *((f"{role}_{name}", kind) for role in ROLES for name, kind in _PERSON_FIELDS),
        *PLACE_FIELDS,
        *DIFFICULTY_FIELDS,
    ]
)
_SCHEMAS: Final = {"harmonization": PLANNED, FUSION: PLANNED_FUSION, COPYPASTE: PLANNED}


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its name (`train-00000`, `fusion-train-00000`, ...), where its planned samples stand, how large they are."""

    name: str
    split: Split
    part: int
    row_group: int
    planned: int
    pixels: int
    stage: str = STAGES[0]


@dataclass(frozen=True)
class Plan:
    """A plan as read from disk.

    Attributes:
        settings: As the run was first asked for, with the source's absolute folder.
        identity: What may not differ when the run is continued.
        code: Version and digest of the code, and the libraries that decide bytes.
        roots: Where the photographs of each subset come from: a folder, or an address.
        selection: Counts as in the manifest.
        shards: In their order.
        gate: The realism gate; None where there is none.
        fuser: The network that makes hard fusion samples; None without the stage.
    """

    settings: dict[str, Any]
    identity: dict[str, Any]
    code: dict[str, str]
    roots: dict[str, str]
    licenses: dict[str, Any]
    selection: dict[str, Any]
    parts: tuple[dict[str, Any], ...]
    shards: tuple[ShardPlan, ...]
    gate: Gate | None = None
    fuser: Fuser | None = None

    @property
    def planned(self) -> int:
        """Return the number of planned samples."""
        return sum(shard.planned for shard in self.shards)

    def planned_of(self, stage: str) -> int:
        """Return the number of planned samples of a stage."""
        return sum(shard.planned for shard in self.shards if shard.stage == stage)

    def shard(self, name: str) -> ShardPlan:
        """Return the shard of this name, such as `train-00000`."""
        return next(shard for shard in self.shards if shard.name == name)

    @property
    def folders(self) -> dict[str, Path]:
        """Return the folder of the photographs of each subset."""
        return {subset: folder_of(root) for subset, root in self.roots.items()}

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
    def fusion_side(self) -> int:
        """Return the longer side of a fusion picture, in pixels."""
        return int(self.identity["fusion_side"])

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
        device: Where the gate scores, `cpu` or `cuda`; None without a gate.
    """

    layout: Layout
    plan: Plan
    bytes_expected: int
    extended: int
    note: str | None
    device: str | None = None

    @property
    def warning(self) -> str | None:
        """Return a line on a gate that is not to be trusted; None where there is nothing to say."""
        gate = self.plan.gate
        if gate is None or not gate.audit:
            return None
        return f"warning: the gate's checkpoint {gate.audit}: its scores may follow traces of editing, not looks"


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
        BadRequest: The source or the gate's checkpoint is unusable, there is no pair, or the run exists with other
            settings.
    """
    root = root or Path.cwd()
    settings = _absolute(settings, root)
    wanted = wanted_of(settings)
    found = None if wanted is None else next(iter(over(find_gate, [wanted])))
    source = _open(settings, watch)
    excluded = read_ids(settings.exclude_ids)
    fuser = None if (asked := wanted_fuser(settings)) is None else next(iter(over(find_fuser, [asked])))
    inputs = {"annotations": source.digests, "excluded": _digest_ids(excluded)}
    this = identity(
        settings,
        inputs=inputs,
        checkpoint=found and found.gate.checkpoint,
        threshold=found and found.gate.threshold,
        fuser=fuser and fuser.fuser.weights_sha256,
    )
    layout = Layout(settings.output / (settings.run or f"{source.label}-{fingerprint(this)}"))
    if layout.run.exists() and not layout.plan.is_file() and not is_begun(layout):
        raise BadRequest(f"{layout.place} exists and is no run of hcoco; choose another --run or --output")
    with only_build(layout):
        earlier = read_plan(layout) if layout.plan.is_file() else None
        if earlier is not None:
            _check_same(earlier, this, layout)
            earlier = _found_again(earlier, source, layout)
            if _covers(earlier, settings):
                return Planned(layout, earlier, _expected_bytes(earlier), 0, None, found and found.device)
            check_code(earlier, layout)
        walk = _walk(source, settings, excluded=excluded, over=over, watch=watch)
        plan = _write_plan(
            layout, settings=settings, this=this, source=source, walk=walk, earlier=earlier, found=found, fuser=fuser
        )
    note = _few(plan, settings)
    new = plan.planned - earlier.planned if earlier else 0
    return Planned(layout, plan, _expected_bytes(plan), new, note, found and found.device)


def _found_again(plan: Plan, source: Source, layout: Layout) -> Plan:
    """Write down where the photographs of a begun run lie now, where that is elsewhere: the source is the same."""
    roots = {subset.name: subset.root for subset in source.subsets}
    if plan.roots == roots:
        return plan
    value = json.loads(layout.plan.read_bytes())
    write_bytes(layout.plan, json.dumps({**value, "roots": roots}, indent=1).encode())
    send(layout, [layout.relative(layout.plan)])
    return read_plan(layout)


def _few(plan: Plan, settings: BuildSettings) -> str | None:
    """Say where a stage has fewer samples than were asked for; None where none has."""
    what = {
        "harmonization": "pairs exist",
        FUSION: "placements of easy people were found",
        COPYPASTE: "copy-paste pairs exist",
    }
    few = [
        f"{plan.planned_of(stage)} {what[stage]}"
        for stage in settings.stages
        if settings.samples is not None and plan.planned_of(stage) < settings.samples
    ]
    return (
        f"{settings.samples} samples were asked for, {' and '.join(few)}; "
        f"raise --variants (now {settings.variants}) or take a larger source for more"
        if few
        else None
    )


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
        f"{plan.planned} samples in {len(plan.shards)} shards ({splits}), {size}, into {planned.layout.place}",
    ]
    if FUSION in plan.settings["stages"]:
        fusion = selection["fusion"]
        left = "".join(f", {reason} {count}" for reason, count in fusion["dropped_by_reason"].items())
        lines.append(
            f"fusion: {plan.planned_of(FUSION)} of these samples, of {fusion['easy']} people; of {fusion['people']} the "
            f"others are harder to cut out ({fusion['harder']}), waiting ({fusion['waiting']}) or found no place ({fusion['unplaced']}){left}"
        )
    if COPYPASTE in plan.settings["stages"]:
        lines.append(f"copypaste: {plan.planned_of(COPYPASTE)} of these samples")
    if selection["unpaired"]:
        lines.append(f"{selection['unpaired']} subjects are alone in their split and find no reference")
    free = shutil.disk_usage(planned.layout.plan.parent).free
    if free < planned.bytes_expected and planned.layout.address is None:
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
        value = read_json(layout.plan)
        version = value["version"]
        plan = msgspec.convert(value, Plan)
        if version == PLAN_VERSION:
            _check_plan(plan)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise BadRequest(f"{layout.plan} is damaged ({error}); restore it, or build into another --run") from None
    if version != PLAN_VERSION:
        raise BadRequest(
            f"{layout.plan} has version {version}, this code reads {PLAN_VERSION}; build into another --run"
        )
    return plan


def _check_plan(plan: Plan) -> None:
    """Refuse values of the right kind that no planning writes: a name that leads out of the run, say.

    Raises:
        ValueError, KeyError, TypeError: There is one.
    """
    names = [shard.name for shard in plan.shards]
    if len(set(names)) < len(names) or not all(map(SHARD_NAME.fullmatch, names)):
        raise ValueError("the names of the shards are not those of files, or one stands there twice")
    for shard in plan.shards:
        if min(shard.row_group, shard.planned, shard.pixels) < 0 or shard.stage not in STAGES:
            raise ValueError(f"shard {shard.name} is none")
        if not 0 <= shard.part < len(plan.parts) or shard.planned > MOST_ROWS:
            raise ValueError(f"shard {shard.name} is in no part of the plan")
    for part in plan.parts:
        if not is_inside(part["path"]) or not isinstance(part["sha256"], str):
            raise ValueError("a part of the plan is no file of the run")
    check_selection(plan.selection)
    _ = plan.seed, plan.max_side, plan.families, plan.identity["stages"], plan.settings["stages"]
    _ = [plan.selection[name] for name in ("images", "people", "subjects", "unpaired", "dropped_by_reason")]
    if FUSION in plan.identity["stages"]:
        fusion = plan.selection["fusion"]
        _ = plan.fusion_side, {**fusion["dropped_by_reason"]}
        _ = [fusion[name] for name in ("easy", "people", "harder", "waiting", "unplaced")]


def read_planned(layout: Layout, shard: ShardPlan) -> list[dict[str, Any]]:
    """Read the planned samples of one shard, in the order of their making; nothing else of the plan is loaded."""
    try:
        part = layout.plan_part(shard.part)
        rows: list[dict[str, Any]] = read_bounded(
            part, row_group=shard.row_group, schema=_SCHEMAS[shard.stage]
        ).to_pylist()
        _check_planned(rows, shard)
    except (OSError, pa.ArrowException, ValueError) as error:
        message = str(error).splitlines()[0]
        raise BadRequest(f"{part} is damaged ({message}); restore it, or build into another --run") from None
    return rows


def _check_planned(rows: Sequence[Mapping[str, Any]], shard: ShardPlan) -> None:
    """Refuse planned samples that could not be made or written.

    Raises:
        ValueError: There is one.
    """
    if len(rows) != shard.planned or len({row["key"] for row in rows}) < len(rows):
        raise ValueError(f"shard {shard.name} has other samples than planned")
    photograph = ("image_id", "subset", "file_name", "width", "height", "crc32")
    person = (*photograph, "annotation_id", "segmentation")
    needed = {"target": person, "reference": person if shard.stage == HARMONIZATION else photograph}
    if shard.stage == FUSION:
        needed = {ROLES[0]: person, ROLES[1]: photograph}
    for row in rows:
        if not KEY.fullmatch(row["key"] or "") or row["split"] != shard.split or row["variant"] is None:
            raise ValueError(f"shard {shard.name} has a sample without a key of its own")
        for role, names in needed.items():
            if any(row[f"{role}_{name}"] is None for name in names):
                raise ValueError(f"{row['key']} has a {role} of whom something is missing")


@cache
def code_version() -> dict[str, str]:
    """Describe the code that makes samples: its version, a digest of its text, and the libraries that decide bytes."""
    here = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    paths = [here / "decoding.py"]
    for folder in (Path(augment.__file__).parent, here / "coco", here / "make", here / "store"):
        paths += sorted(path for path in folder.rglob("*.py") if path.name not in _MAKES_NO_SAMPLE)
    realism = find_spec("realism")  # where it lies, without importing torch
    if realism is not None and realism.origin is not None:
        paths += [Path(realism.origin).with_name(name) for name in _NETWORKS]
    for path in paths:
        digest.update(f"{path.parent.name}/{path.name}\0".encode())
        digest.update(path.read_bytes())
    libraries = ("numpy", "opencv-python-headless", "pycocotools", "pillow", "pyarrow", "torch", "pymatting")
    return {
        "hcoco": metadata.version("hcoco"),
        "digest": digest.hexdigest()[:16],
        "machine": platform.machine(),
        **{name: metadata.version(name) for name in libraries},
    }


def is_begun(layout: Layout) -> bool:
    """Say whether a folder without plan.json holds nothing but what an interrupted planning leaves."""
    return layout.run.is_dir() and all(
        path.name.startswith(".") or path.name in {"plan", "gate", "fuser"} for path in layout.run.iterdir()
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
        for name in ("images", "annotations", "output", "exclude_ids", "gate_checkpoint", "fusion_checkpoint")
        if (value := getattr(settings, name)) is not None
    }
    if settings.source != "sample" and not settings.source.startswith("coco:") and not is_address(settings.source):
        changes["source"] = str(absolute(settings.source))
    return settings.model_copy(update=changes)


def _digest_ids(ids: frozenset[int]) -> str | None:
    return hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest() if ids else None


def _check_same(earlier: Plan, this: dict[str, Any], layout: Layout) -> None:
    """Refuse to continue a run with other settings, or to mix the samples of two versions of the code."""
    for name in sorted(set(earlier.identity) | set(this), key=lambda name: (name != "stages", name)):
        before, now = earlier.identity.get(name), this.get(name)
        if before != now:
            raise BadRequest(
                f"{layout.place} was made with another {name} ({_short(before)}, now {_short(now)}); "
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
    most = max(earlier.planned_of(stage) for stage in STAGES)
    if settings.variants < before[1] or samples < min(float(before[0] or "inf"), most):
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
    walk = _walk(source, settings, excluded=excluded, over=over, watch=watch)
    return sum(1 for stage in settings.stages for _ in walk.rows[stage])


def _open(settings: BuildSettings, watch: Watch) -> Source:
    return open_source(
        settings.source,
        images=settings.images,
        annotations=settings.annotations,
        coco_base=settings.coco_base,
        watch=watch,
    )


@dataclass(frozen=True)
class _Walk:
    """What is planned, not yet walked: the rows of each stage in their order, and what counts while they are taken."""

    rows: Mapping[str, Iterator[dict[str, Any]]]
    selection: Selection
    fusion: FusionSelection | None

    def to_json(self) -> dict[str, Any]:
        """Return the counts of the selection; those of fusion alone hold who is cut by the frame or too small."""
        counts: dict[str, Any] = self.selection.to_json()
        if self.fusion is None:
            return counts
        if "harmonization" not in self.rows:
            counts["subjects"] -= self.fusion.dropped.total()
            reasons = Counter(counts["dropped_by_reason"]) + self.fusion.dropped
            counts["dropped_by_reason"] = dict(sorted(reasons.items()))
        return {**counts, "fusion": self.fusion.to_json()}


def _walk(source: Source, settings: BuildSettings, *, excluded: frozenset[int], over: Map, watch: Watch) -> _Walk:
    """Select; the photographs are looked at, and fetched, only as the rows are taken."""
    candidates, selection = select_by_annotation(
        source,
        min_person_share=settings.min_person_share,
        licenses=settings.licenses,
        exclude_ids=excluded,
        seed=settings.seed,
    )

    rows: dict[str, Iterator[dict[str, Any]]] = {}
    fusion = None
    if "harmonization" in settings.stages:
        pairs = _pairs(candidates, selection, settings, over=over, watch=watch)
        rows["harmonization"] = _rows(source, candidates, islice(pairs, settings.samples))
    if FUSION in settings.stages:
        fusion = FusionSelection()
        composed = compositions(
            candidates,
            share=settings.easy_share,
            variants=settings.variants,
            seed=settings.seed,
            side=settings.fusion_side,
            max_side=settings.max_side,
            min_person_share=settings.min_person_share,
            over=over,
            selection=fusion,
            count=_uncounted if rows else selection.count,
            watch=lambda looked_at: watch("people to fuse, photographs", looked_at, len(candidates)),
        )
        rows[FUSION] = islice(composed, settings.samples)
    if COPYPASTE in settings.stages:
        pairs = _pairs(candidates, None if rows else selection, settings, over=over, watch=watch)
        rows[COPYPASTE] = map(_as_paste, _rows(source, candidates, islice(pairs, settings.samples)))
    return _Walk(rows, selection, fusion)


def _as_paste(row: dict[str, Any]) -> dict[str, Any]:
    """Make a pair of people one of a person and a photograph: the light of a whole scene is borrowed, not a person's."""
    ids = f"{row['target_image_id']:012d}-{row['target_annotation_id']:012d}"
    key = f"{ids}-{FIRST_PASTE + row['variant']}"
    return {**row, "key": key, "reference_annotation_id": None, "reference_segmentation": None}


def _uncounted(_screened: Screened) -> None:
    """Count nothing: the walk of the other stage does."""


def _pairs(
    candidates: Candidates, selection: Selection | None, settings: BuildSettings, *, over: Map, watch: Watch
) -> Iterator[Pair]:
    """Yield the pairs of subject and reference; count the photographs that are looked at for them in `selection`, if any."""

    def screened() -> Iterator[Screened]:
        look = partial(screen_candidates, min_person_share=settings.min_person_share, max_side=settings.max_side)
        looked_at = 0
        for batch in over(look, candidates.batches()):
            for photograph in batch:
                if selection is not None:
                    selection.count(photograph)
                yield photograph
            looked_at += len(batch)
            watch("photographs", looked_at, len(candidates))

    first_variants = 0
    for pair in pair_subjects(screened(), variants=settings.variants, seed=settings.seed):
        first_variants += pair.variant == 0
        yield pair
    if selection is not None:
        selection.unpaired = selection.subjects - first_variants


def _write_plan(
    layout: Layout,
    *,
    settings: BuildSettings,
    this: dict[str, Any],
    source: Source,
    walk: _Walk,
    earlier: Plan | None,
    found: Found | None,
    fuser: FoundFuser | None,
) -> Plan:
    """Write the new samples of each stage as a part of their own and the checkpoints, then plan.json, which makes them count."""
    parts = list(earlier.parts) if earlier else []
    shards: list[ShardPlan] = []
    for stage, rows in walk.rows.items():
        before = [shard for shard in (earlier.shards if earlier else ()) if shard.stage == stage]
        known = _known_keys(layout, {shard.part for shard in before})
        path = layout.plan_part(len(parts))
        new = _write_part(
            path,
            rows=rows,
            stage=stage,
            known=known,
            part=len(parts),
            first={split: sum(shard.split == split for shard in before) for split in SPLITS},
            settings=settings,
        )
        if known:
            raise BadRequest(
                f"{layout.place} was planned from other photographs than the source holds now; choose another --run"
            )
        if not new:
            path.unlink(missing_ok=True)
            continue
        parts.append({"path": layout.relative(path), "sha256": hash_file(path)[0]})
        shards += new
    if not shards and earlier is None:
        raise BadRequest(_nothing_to_plan(walk))
    if not shards and earlier is not None:
        return earlier
    if found is not None:
        keep_gate(layout, found)
    if fuser is not None:
        keep_fuser(layout, fuser)
    plan = {
        "version": PLAN_VERSION,
        "seed": settings.seed,
        "inputs": this["inputs"],
        "settings": settings.model_dump(mode="json", exclude={"workers", "runner", "device", "output", "run"}),
        "identity": this,
        "code": code_version(),
        "roots": {subset.name: subset.root for subset in source.subsets},
        "licenses": {str(key): value for key, value in source.licenses.items()},
        "selection": walk.to_json(),
        "gate": found and vars(found.gate),
        "fuser": fuser and vars(fuser.fuser),
        "parts": parts,
        "shards": [vars(shard) for shard in (*(earlier.shards if earlier else ()), *shards)],
    }
    write_bytes(layout.plan, json.dumps(plan, indent=1).encode())
    _send_plan(layout, parts)
    return read_plan(layout)


def _send_plan(layout: Layout, parts: Sequence[Mapping[str, Any]]) -> None:
    """Send the plan of a run in object storage: all that it needs, then plan.json."""
    networks = [path for file in (layout.gate, layout.fuser) for path in (file, file.with_suffix(".json"))]
    files = [layout.relative(path) for path in networks if path.is_file()]
    send(layout, [*(str(part["path"]) for part in parts), *files, layout.relative(layout.plan)])


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
            f"{layout.place} was begun with {name} {plan.code.get(name)}, here it is {now.get(name)}: its samples would "
            "differ; build into another --run, or go back to that version"
        )


def _known_keys(layout: Layout, parts: Iterable[int]) -> set[str]:
    tables = (read_index(layout.plan_part(number), columns=["key"]) for number in parts)
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
    stage: str,
    known: set[str],
    part: int,
    first: dict[Split, int],
    settings: BuildSettings,
) -> list[ShardPlan]:
    """Write planned samples, a row group a shard; skip those that are known, and cross them off."""
    shards: list[ShardPlan] = []
    waiting: dict[Split, list[dict[str, Any]]] = {split: [] for split in first}
    numbers, schema = dict(first), _SCHEMAS[stage]
    begin = f"{stage}-" if stage in OWN_FOLDER else ""

    def flush(split: Split, writer: pq.ParquetWriter) -> None:
        group, waiting[split] = waiting[split], []
        writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=len(group))
        pixels = sum(_pixels(row, settings, stage) for row in group)
        name = f"{begin}{split}-{numbers[split]:05d}"
        shards.append(ShardPlan(name, split, part, len(shards), len(group), pixels, stage))
        numbers[split] += 1

    with writing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for row in rows:
            if row["key"] in known:
                known.remove(row["key"])
                continue
            waiting[row["split"]].append(row)
            if len(waiting[row["split"]]) == settings.planned_per_shard:
                flush(row["split"], writer)
        for split in (split for split, group in waiting.items() if group):
            flush(split, writer)
    return shards


def _pixels(row: dict[str, Any], settings: BuildSettings, stage: str) -> int:
    """Return the pixels of a sample's photograph; half as many again where a sample has three pictures."""
    if "target_width" in row:
        width, height = scaled_size(width=row["target_width"], height=row["target_height"], max_side=settings.max_side)
        return width * height * 3 // 2 if stage == COPYPASTE else width * height
    side = min(settings.fusion_side, settings.max_side or settings.fusion_side)
    width, height = scaled_size(width=row["background_width"], height=row["background_height"], max_side=side)
    return width * height * 3 // 2


def _expected_bytes(plan: Plan) -> int:
    return round(sum(shard.pixels for shard in plan.shards) * BYTES_PER_PIXEL)


def _nothing_to_plan(walk: _Walk) -> str:
    counts = walk.selection.to_json()
    dropped = counts["dropped_by_reason"]
    why = ", ".join(f"{reason} {count}" for reason, count in dropped.items()) if isinstance(dropped, dict) else ""
    if walk.fusion is not None and "harmonization" not in walk.rows:
        return (
            f"nobody could be brought into another photograph: {walk.fusion.tell()}; {counts['images']} images, "
            f"dropped before: {why or 'none'}; take a larger source, or raise --easy-share"
        )
    return (
        f"no pair of people in two photographs of one split was found: {counts['images']} images, {counts['people']} "
        f"people, {counts['subjects']} of them fit to be edited, dropped: {why or 'none'}; "
        "take a larger source, or loosen --min-person-share, --licenses or --exclude-ids"
    )
