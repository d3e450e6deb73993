from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.errors import BadRequest
from flows.store.layout import Layout
from flows.store.manifest import make_manifest, read_manifest


def marker(name: str, *, kept: int, reasons: dict[str, int], families: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Return a shard's marker."""
    rejected = sum(reasons.values())
    return {
        "shard": name,
        "planned": kept + rejected,
        "kept": kept,
        "rejected": rejected,
        "by_reason": reasons,
        "by_family": {family: {"kept": k, "rejected": r} for family, (k, r) in families.items()},
        "files": {
            f"shards/{name}.tar": {"sha256": f"k{name}", "size": 1, "samples": kept},
            f"index/{name}.parquet": {"sha256": f"i{name}", "size": 1, "samples": kept + rejected},
        },
        "seconds": 1.5,
        "finished": 1e9,
    }


MARKERS = [
    marker("val-00000", kept=3, reasons={"hue_flip": 1}, families={"mkl": (1, 1), "reinhard": (2, 0)}),
    marker("train-00000", kept=5, reasons={"clipping": 2, "hue_flip": 1}, families={"mkl": (5, 3)}),
]
FUSED = marker("fusion-val-00000", kept=2, reasons={"halo": 1}, families={"hard": (2, 1)})


def made(markers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the manifest of some markers."""
    return make_manifest(markers=markers, selection={"images": 9}, settings={"seed": 0}, code={"hcoco": "1"})


def test_counts_are_the_sums_of_the_markers() -> None:
    """Planned, kept, rejected, reasons and families add up over the shards; checked by hand."""
    assert made(MARKERS)["counts"] == {
        "planned": 12,
        "kept": 8,
        "rejected": 4,
        "by_reason": {"clipping": 2, "hue_flip": 2},
        "by_family": {"mkl": {"kept": 6, "rejected": 4}, "reinhard": {"kept": 2, "rejected": 0}},
        "by_stage": {"harmonization": {"planned": 12, "kept": 8, "rejected": 4}},
    }


def test_stages_are_counted_apart() -> None:
    """The name of a shard says its stage; the stages add up to the whole."""
    counts = made([*MARKERS, FUSED])["counts"]
    assert counts["by_stage"] == {
        "fusion": {"planned": 3, "kept": 2, "rejected": 1},
        "harmonization": {"planned": 12, "kept": 8, "rejected": 4},
    }
    assert (counts["planned"], counts["kept"], counts["rejected"]) == (15, 10, 5)


def test_tars_and_indices_are_listed_apart_sorted_and_without_times() -> None:
    """`shards` holds the tars, each with path, hash and samples; nothing in the manifest knows a time."""
    manifest = made(MARKERS)
    assert manifest["shards"] == [
        {"path": "shards/train-00000.tar", "sha256": "ktrain-00000", "samples": 5},
        {"path": "shards/val-00000.tar", "sha256": "kval-00000", "samples": 3},
    ]
    assert [entry["path"] for entry in manifest["index"]] == ["index/train-00000.parquet", "index/val-00000.parquet"]
    assert "finished" not in json.dumps(manifest)
    assert (manifest["selection"], manifest["settings"], manifest["code"]) == (
        {"images": 9},
        {"seed": 0},
        {"hcoco": "1"},
    )


def test_the_order_of_the_markers_does_not_matter() -> None:
    """The manifest is the same text whichever shard was finished first."""
    assert json.dumps(made(MARKERS)) == json.dumps(made(MARKERS[::-1]))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "is not finished"),
        (b"{", "is damaged"),
        (b"", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[]", "is no manifest"),
        (b"{}", "is no manifest"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_a_bad_request(tmp_path: Path, content: bytes | None, what: str) -> None:
    """A missing or damaged manifest is one line that says how to make it anew."""
    layout = Layout(tmp_path)
    if content is not None:
        layout.manifest.write_bytes(content)
    with pytest.raises(BadRequest, match=rf"{what}.*run the same build again"):
        read_manifest(layout)


WHOLE = {"sha256": "a", "samples": 1, "path": "shards/x.tar"}


@pytest.mark.parametrize(
    "change",
    [
        {"counts": None},
        {"counts": {"planned": 1}},
        {"counts": {"planned": "1", "kept": 1, "rejected": 0, "by_reason": {}, "by_family": {}}},
        {"counts": {"planned": 1, "kept": 1, "rejected": 0, "by_reason": [], "by_family": {}}},
        {"settings": None},
        {"code": []},
        {"shards": None},
        {"shards": [1]},
        {"shards": [{**WHOLE, "path": 1}]},
        {"shards": [{**WHOLE, "samples": None}]},
        {"index": {}},
    ],
    ids=str,
)
def test_a_manifest_of_another_shape_is_a_bad_request(tmp_path: Path, change: dict[str, Any]) -> None:
    """What readers look at is checked once, here, so none of them meets something else."""
    layout = Layout(tmp_path)
    layout.manifest.write_text(json.dumps(made(MARKERS)))
    assert read_manifest(layout) == made(MARKERS)
    layout.manifest.write_text(json.dumps({**made(MARKERS), **change}))
    with pytest.raises(BadRequest, match="is no manifest of hcoco"):
        read_manifest(layout)
