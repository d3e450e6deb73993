"""Damage a run on purpose, with or without forging all that stands above the damage."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flows.store.layout import Layout
from flows.store.read import read_tar
from flows.store.record import encode_record, flatten, index_table
from flows.store.write import pack, write_tar

Members = dict[str, bytes]
Sample = tuple[str, Members]


def flip(path: Path, place: int) -> None:
    """Flip a bit of the byte at `place`; from the end where negative."""
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def samples_of(tar: Path) -> list[Sample]:
    """Return the samples of a tar."""
    return [(stored.key, dict(stored.members)) for stored in read_tar(tar)] if tar.is_file() else []


def record_in(sample: Sample) -> dict[str, Any]:
    """Return the record of a sample."""
    record: dict[str, Any] = json.loads(sample[1]["json"])
    return record


def with_record(sample: Sample, **changes: Any) -> Sample:
    """Return a sample with other fields in its record; `target=dict(license=1)` changes a part of a field."""
    record = record_in(sample)
    for name, value in changes.items():
        record[name] = {**record[name], **value} if isinstance(value, dict) else value
    return sample[0], {**sample[1], "json": encode_record(record)}


def with_member(sample: Sample, name: str, content: bytes) -> Sample:
    """Return a sample with another member."""
    return sample[0], {**sample[1], name: content}


def forge(
    layout: Layout, name: str, *, kept: Callable[[list[Sample]], Sequence[Sample]], index: bool = True
) -> list[Sample]:
    """Change the kept samples of a shard, and forge index, counts and manifest so that all of it agrees.

    Args:
        layout: Of the run.
        name: Of the shard.
        kept: Gets the samples, returns those to be written, in their order.
        index: Forge the index too; else it stays that of the true samples.

    Returns:
        The samples as they were.
    """
    before = samples_of(layout.shard(name))
    after = list(kept(list(before)))
    write_tar(layout.shard(name), (pack(key, members) for key, members in after))
    if index:
        rows = []
        for path, samples in ((layout.shard(name), after), (layout.rejected(name), samples_of(layout.rejected(name)))):
            offset = 0
            for key, members in samples:
                size = len(pack(key, members))
                place = {"tar": layout.relative(path), "offset": offset, "size": size}
                rows.append({**flatten(json.loads(members["json"])), **place})
                offset += size
        pq.write_table(index_table(rows), layout.index(name))
    forge_manifest(layout)
    return before


def forge_manifest(layout: Layout) -> None:
    """Rewrite the manifest's hashes and counts so that they agree with the files."""
    manifest = json.loads(layout.manifest.read_text())
    for entry in (*manifest["shards"], *manifest["index"]):
        entry["sha256"] = hashlib.sha256((layout.run / entry["path"]).read_bytes()).hexdigest()
    for entry in manifest["shards"]:
        entry["samples"] = len(samples_of(layout.run / entry["path"]))
    rows = [row for path in sorted((layout.run / "index").iterdir()) for row in pq.read_table(path).to_pylist()]
    families: dict[str, Counter[str]] = {}
    stages: dict[str, Counter[str]] = {}
    for row in rows:
        stages.setdefault(row["stage"], Counter(planned=0, kept=0, rejected=0)).update(["planned", row["status"]])
        families.setdefault(row["family"], Counter(kept=0, rejected=0))[row["status"]] += 1
    manifest["counts"] = {
        "planned": len(rows),
        "kept": sum(row["status"] == "kept" for row in rows),
        "rejected": sum(row["status"] == "rejected" for row in rows),
        "by_reason": dict(sorted(Counter(row["reason"] for row in rows if row["reason"]).items())),
        "by_family": {family: dict(counts) for family, counts in sorted(families.items())},
        "by_stage": {stage: dict(counts) for stage, counts in sorted(stages.items())},
    }
    layout.manifest.write_text(json.dumps(manifest, indent=1))
