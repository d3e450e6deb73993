"""The manifest: what a finished run holds, with counts that agree and a hash of every file. It knows no time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct, convert

from flows.errors import BadRequest
from flows.store.layout import Layout, is_inside, read_json, stage_of


def make_manifest(
    *,
    markers: Iterable[Mapping[str, Any]],
    selection: Mapping[str, Any],
    settings: Mapping[str, Any],
    code: Mapping[str, str],
    gate: Mapping[str, Any] | None = None,
    fuser: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Add up the markers of all shards.

    Args:
        markers: One a shard, in the order of the plan.
        selection: Counts of the selection, from the plan.
        settings: Of the run, from the plan.
        code: Version and digest of the code, from the plan.
        gate: The realism gate, from the plan; None without one.
        fuser: The network that makes hard fusion samples, from the plan; None without one.
    """
    planned = kept = rejected = 0
    by_reason: Counter[str] = Counter()
    by_family: dict[str, Counter[str]] = {}
    by_decision: Counter[str] = Counter()
    by_stage: dict[str, Counter[str]] = {}
    files: dict[str, Mapping[str, Any]] = {}
    for marker in markers:
        planned += marker["planned"]
        kept += marker["kept"]
        rejected += marker["rejected"]
        here = by_stage.setdefault(stage_of(marker["shard"]), Counter())
        here.update({name: marker[name] for name in ("planned", "kept", "rejected")})
        by_reason.update(marker["by_reason"])
        for family, counts in marker["by_family"].items():
            by_family.setdefault(family, Counter()).update(counts)
        by_decision.update(marker.get("by_decision", {}))
        files |= marker["files"]
    entries = [
        {"path": path, "sha256": file["sha256"], "samples": file["samples"]} for path, file in sorted(files.items())
    ]
    return {
        "counts": {
            "planned": planned,
            "kept": kept,
            "rejected": rejected,
            "by_reason": dict(sorted(by_reason.items(), key=_name_of)),
            "by_family": {family: dict(sorted(counts.items())) for family, counts in sorted(by_family.items())},
            "by_stage": {stage: dict(counts) for stage, counts in sorted(by_stage.items())},
        },
        "decisions": dict(sorted(by_decision.items())),
        "selection": dict(selection),
        "shards": [entry for entry in entries if entry["path"].endswith(".tar")],
        "index": [entry for entry in entries if entry["path"].endswith(".parquet")],
        "settings": dict(settings),
        "code": dict(code),
        "gate": gate and dict(gate),
        "fuser": fuser and dict(fuser),
    }


def count_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Count the samples of a shard as its marker does.

    Args:
        rows: Of the index, or records, flattened.
    """
    status: Counter[str] = Counter()
    by_reason: Counter[str] = Counter()
    by_decision: Counter[str] = Counter()
    by_family: dict[str, dict[str, int]] = {}
    for row in rows:
        status[row["status"]] += 1
        by_family.setdefault(row["family"], {"kept": 0, "rejected": 0})[row["status"]] += 1
        if row["reason"]:
            by_reason[row["reason"]] += 1
        if row["decision_by"]:
            by_decision[row["decision_by"]] += 1
    return {
        "planned": status.total(),
        "kept": status["kept"],
        "rejected": status["rejected"],
        "by_reason": dict(sorted(by_reason.items())),
        "by_family": dict(sorted(by_family.items(), key=_name_of)),
        "by_decision": dict(sorted(by_decision.items(), key=_name_of)),
    }


def _name_of(item: tuple[object, object]) -> str:
    """Return what counts are sorted by: a forged row may have no family."""
    return str(item[0])


def read_manifest(layout: Layout) -> dict[str, Any]:
    """Read the manifest of a finished run.

    Raises:
        BadRequest: The run is unfinished, or the manifest is damaged.
    """
    try:
        value = read_json(layout.manifest)
    except FileNotFoundError:
        raise BadRequest(
            f"{layout.run} is not finished: it has no manifest.json yet; run the same build again"
        ) from None
    except (OSError, ValueError) as error:
        raise BadRequest(f"{layout.manifest} is damaged ({error}); run the same build again to make it anew") from None
    if not _is_manifest(value):
        raise BadRequest(f"{layout.manifest} is no manifest of hcoco; run the same build again to make it anew")
    manifest: dict[str, Any] = value
    return manifest


def read_places(layout: Layout) -> dict[str, Any]:
    """Read the manifest of a finished run, for who is going to open the files that it names.

    Raises:
        BadRequest: As `read_manifest`; or a file does not lie in the run.
    """
    manifest = read_manifest(layout)
    for entry in (*manifest["shards"], *manifest.get("index", ())):
        if not is_inside(entry["path"]):
            raise BadRequest(
                f"{layout.manifest} names {entry['path'][:100]!r}, which is not in the run; run hcoco verify"
            )
    return manifest


class _Outcomes(Struct):
    kept: int
    rejected: int


class _Counts(Struct):
    planned: int
    kept: int
    rejected: int
    by_reason: dict[str, int]
    by_family: dict[str, _Outcomes]
    by_stage: dict[str, _Outcomes] = {}


class _Selection(Struct):
    images: int | None = None
    people: int | None = None
    subjects: int | None = None
    used_images: int | None = None
    unvisited: int | None = None
    unpaired: int | None = None
    dropped_by_reason: dict[str, int] = {}
    dropped_images_by_reason: dict[str, int] = {}
    curve: list[tuple[float, int]] = []


class _Entry(Struct):
    path: str
    sha256: str
    samples: Annotated[int, Meta(ge=0)]


class _Manifest(Struct):
    """What readers of a manifest look at; what else is in it is nobody's business yet."""

    counts: _Counts
    selection: _Selection
    settings: dict[str, Any]
    code: dict[str, Any]
    shards: list[_Entry]
    index: list[_Entry] = []
    decisions: dict[str, int] = {}
    gate: Any = None
    fuser: Any = None


def check_selection(value: object) -> None:
    """Raise `msgspec.ValidationError`, a ValueError, where the counts of a selection are not such counts."""
    convert(value, _Selection)


def _is_manifest(value: object) -> bool:
    """Say whether everything that readers of a manifest look at is there, and of its kind."""
    try:
        convert(value, _Manifest)
    except (ValueError, OverflowError):  # a lone surrogate in a key is a ValueError too
        return False
    return True
