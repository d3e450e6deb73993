"""What all tests share: a tiny COCO folder, a place of its own for caches, and the real photographs where present."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# One thread each, before they are loaded: on a busy machine OpenMP's threads wait for each other by spinning.
for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep caches of the tests out of the user's cache folder."""
    before = os.environ.get("HCOCO_CACHE")
    os.environ["HCOCO_CACHE"] = before or str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["HCOCO_CACHE"]


@pytest.fixture(scope="session")
def real_coco() -> Path:
    """Return the folder of real COCO photographs, or skip where there is none."""
    folder = Path(os.environ.get("HCOCO_TEST_COCO", ROOT.parent / "shared" / "coco"))
    if not (folder / "annotations").is_dir():
        pytest.skip("no COCO folder; set HCOCO_TEST_COCO to one")
    return folder


def draw_photograph(image_id: int, *, width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draw a coloured, textured picture of its own for each id: uint8 (height, width, 3) RGB."""
    rng = np.random.default_rng(image_id)
    low, high = np.sort(rng.integers(20, 230, (2, 3)), axis=0)
    ramp = (
        np.linspace(0, 1, width)[None, :, None] * rng.uniform(0.3, 1) + np.linspace(0, 1, height)[:, None, None] * 0.4
    )
    picture = low + (high - low + 40) * ramp + rng.normal(0, 12, (height, width, 3))
    return np.asarray(np.clip(picture, 3, 252), dtype=np.uint8)


def ellipse(*, x: float, y: float, rx: float, ry: float, points: int = 24) -> list[float]:
    """Return an ellipse as a COCO polygon."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return [
        round(float(v), 2) for pair in zip(x + rx * np.cos(angles), y + ry * np.sin(angles), strict=True) for v in pair
    ]


def write_coco(
    folder: Path, *, images: int = 24, subset: str = "tiny", first_id: int = 1, people: int = 2
) -> dict[str, Any]:
    """Write a COCO folder of small pictures with elliptic people; return what stands in its annotation file."""
    (folder / subset).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    instances: dict[str, Any] = {
        "info": {},
        "licenses": [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}],
        "categories": [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}],
        "images": [],
        "annotations": [],
    }
    for image_id in range(first_id, first_id + images):
        width, height = (160, 120) if image_id % 2 else (112, 150)
        picture = draw_photograph(image_id, width=width, height=height)
        for number in range(people):
            x, y = width * (0.28 + 0.44 * number), height * 0.55
            polygon = ellipse(x=x, y=y, rx=width * 0.17, ry=height * 0.3)
            shirt = np.random.default_rng(100 * image_id + number).integers(30, 220, 3).tolist()
            cv2.ellipse(picture, (int(x), int(y)), (int(width * 0.17), int(height * 0.3)), 0, 0, 360, shirt, 7)
            instances["annotations"].append(
                {
                    "id": 10 * image_id + number,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": np.pi * width * 0.17 * height * 0.3,
                    "bbox": [x - width * 0.17, y - height * 0.3, width * 0.34, height * 0.6],
                    "segmentation": [polygon],
                }
            )
        name = f"{image_id:012d}.jpg"
        cv2.imwrite(str(folder / subset / name), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        instances["images"].append(
            {
                "id": image_id,
                "file_name": name,
                "width": width,
                "height": height,
                "license": 4,
                "coco_url": f"http://images.cocodataset.org/{subset}/{name}",
                "flickr_url": None,
                "date_captured": "2026-01-01 00:00:00",
            }
        )
    save_instances(folder, instances, subset=subset)
    return instances


def save_instances(folder: Path, instances: dict[str, Any], *, subset: str = "tiny") -> Path:
    """Write an annotation file into a COCO folder."""
    path = folder / "annotations" / f"instances_{subset}.json"
    path.write_text(json.dumps(instances))
    return path


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a COCO folder of 24 small pictures with two people each; do not write into it."""
    folder = tmp_path_factory.mktemp("tiny") / "coco"
    write_coco(folder)
    return folder


@pytest.fixture(scope="session")
def many_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a COCO folder of 80 small pictures with a person each, in a subset `val2017`; do not write into it."""
    folder = tmp_path_factory.mktemp("many") / "coco"
    write_coco(folder, images=80, subset="val2017", people=1)
    return folder
