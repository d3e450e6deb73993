"""The manifest: what a finished run holds, with counts that agree and a hash of every file. It knows no time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from flows.errors import BadRequest
from flows.store.layout import Layout, stage_of

_OBJECTS: Final = ("counts", "selection", "settings", "code")


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
            "by_reason": dict(sorted(by_reason.items())),
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
        "by_family": dict(sorted(by_family.items())),
        "by_decision": dict(sorted(by_decision.items())),
    }


def read_manifest(layout: Layout) -> dict[str, Any]:
    """Read the manifest of a finished run.

    Raises:
        BadRequest: The run is unfinished, or the manifest is damaged.
    """
    try:
        value = json.loads(layout.manifest.read_bytes())
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


def _is_manifest(value: object) -> bool:
    """Say whether everything that readers of a manifest look at is there, and of its kind."""
    if not isinstance(value, dict) or not all(isinstance(value.get(name), dict) for name in _OBJECTS):
        return False
    counts, files = value["counts"], [value.get("shards"), value.get("index", [])]
    return (
        all(type(counts.get(name)) is int for name in ("planned", "kept", "rejected"))
        and all(isinstance(counts.get(name), dict) for name in ("by_reason", "by_family"))
        and all(isinstance(entries, list) for entries in files)
        and all(_is_entry(entry) for entries in files for entry in entries)
    )


def _is_entry(entry: object) -> bool:
    """Say whether this describes a file: path, sha256, samples."""
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(name), str) for name in ("path", "sha256"))
        and type(entry.get("samples")) is int
    )
