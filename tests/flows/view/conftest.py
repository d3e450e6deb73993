"""A tiny run, written through the functions that real runs are written with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.store.layout import Layout, write_bytes, writing
from flows.store.record import encode_record, flatten, index_table, make_record
from flows.store.write import pack, write_tar

MakeRun = Callable[..., Layout]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a Chromium of the system; skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """Return the members of a sample: 96 x 64, a subject at the right that the composite darkens."""
    rng = np.random.default_rng(5)
    real = cv2.resize(rng.integers(60, 220, (8, 12, 3), dtype=np.uint8), dsize=(96, 64))
    mask = np.zeros((64, 96), dtype=np.uint8)
    mask[10:60, 70:90] = 255
    composite = np.where(mask[..., None] > 127, real // 2, real).astype(np.uint8)
    quality = (cv2.IMWRITE_JPEG_QUALITY, 95)
    return {
        "real.jpg": cv2.imencode(".jpg", real, quality)[1].tobytes(),
        "composite.jpg": cv2.imencode(".jpg", composite, quality)[1].tobytes(),
        "mask.png": cv2.imencode(".png", mask)[1].tobytes(),
    }


@pytest.fixture(scope="session")
def sample() -> Callable[..., dict[str, Any]]:
    """Return a function that makes the record of sample number `number`, with changes."""

    def make(number: int, **changes: Any) -> dict[str, Any]:
        person = {
            "image_id": number,
            "annotation_id": 7,
            "license": 4,
            "coco_url": f"http://images.cocodataset.org/val2017/{number:012d}.jpg",
            "flickr_url": f"https://farm1.staticflickr.com/{number}_z.jpg",
        }
        return make_record(
            {
                "key": f"{number:012d}-000000000007-00",
                "stage": "harmonization",
                "split": "train",
                "status": "kept",
                "family": "mkl",
                "strength": 0.5,
                "foreground_mse": 812.5,
                "psnr": 27.25,
                "gates": {"clipping": 0.01, "hue_flip": 0.0, "effect_small": 812.5, "effect_large": 812.5},
                "recipe": {"family": "mkl", "strength": 0.5},
                "target": person,
                "reference": {**person, "image_id": number + 1000},
                **changes,
            }
        )

    return make


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory, pictures: Mapping[str, bytes]) -> MakeRun:
    """Return a function that writes a run of some records, each in a folder of its own."""

    def make(records: Sequence[Mapping[str, Any]], *, name: str = "sample-0a1b2c3d", **changes: Any) -> Layout:
        layout = Layout(tmp_path_factory.mktemp("output") / name)
        rows = []
        for status, path in (("kept", layout.shard("train-00000")), ("rejected", layout.rejected("train-00000"))):
            packed, offset = [], 0
            for record in records:
                if record["status"] == status:
                    members = {} if record["reason"] == "unreadable" else pictures
                    data = pack("sample", {**members, "json": encode_record(record)})
                    packed.append(data)
                    place = {"tar": layout.relative(path), "offset": offset, "size": len(data)}
                    rows.append({**flatten(record), **place})
                    offset += len(data)
            write_tar(path, packed)
        with writing(layout.index("train-00000")) as file:
            pq.write_table(index_table(rows), file)
        write_bytes(layout.plan, json.dumps({"licenses": LICENSES, **changes.pop("plan", {})}).encode())
        write_bytes(layout.manifest, json.dumps(_manifest(records) | changes).encode())
        return layout

    return make


LICENSES = {"4": {"name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}}


def _manifest(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kept = [record for record in records if record["status"] == "kept"]
    rejected = [record for record in records if record["status"] != "kept"]
    by_family: dict[str, dict[str, int]] = {}
    for record in records:
        by_family.setdefault(record["family"], {"kept": 0, "rejected": 0})[record["status"]] += 1
    reasons = [record["reason"] for record in rejected]
    return {
        "counts": {
            "planned": len(records),
            "kept": len(kept),
            "rejected": len(rejected),
            "by_reason": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
            "by_family": by_family,
        },
        "selection": {
            "images": 40,
            "people": 90,
            "subjects": 50,
            "used_images": 30,
            "unvisited": 0,
            "dropped_by_reason": {"crowd": 10, "pixels": 30},
            "dropped_images_by_reason": {"greyscale": 10},
            "curve": [[0.0, 40], [0.1, 30], [0.5, 4]],
        },
        "shards": [],
        "settings": {"source": "sample", "min_person_share": 0.06, "families": {"mkl": 1.0}},
        "code": {"hcoco": "0.1.0", "digest": "0123456789abcdef"},
    }
