"""The manifest: what a finished run holds, with counts that agree and a hash of every file. It knows no time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from flows.errors import BadRequest
from flows.store.layout import Layout

_OBJECTS: Final = ("counts", "selection", "settings", "code")


def make_manifest(
    *,
    markers: Iterable[Mapping[str, Any]],
    selection: Mapping[str, Any],
    settings: Mapping[str, Any],
    code: Mapping[str, str],
) -> dict[str, Any]:
    """Add up the markers of all shards.

    Args:
        markers: One a shard, in the order of the plan.
        selection: Counts of the selection, from the plan.
        settings: Of the run, from the plan.
        code: Version and digest of the code, from the plan.
    """
    planned = kept = rejected = 0
    by_reason: Counter[str] = Counter()
    by_family: dict[str, Counter[str]] = {}
    files: dict[str, Mapping[str, Any]] = {}
    for marker in markers:
        planned += marker["planned"]
        kept += marker["kept"]
        rejected += marker["rejected"]
        by_reason.update(marker["by_reason"])
        for family, counts in marker["by_family"].items():
            by_family.setdefault(family, Counter()).update(counts)
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
        },
        "selection": dict(selection),
        "shards": [entry for entry in entries if entry["path"].endswith(".tar")],
        "index": [entry for entry in entries if entry["path"].endswith(".parquet")],
        "settings": dict(settings),
        "code": dict(code),
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
