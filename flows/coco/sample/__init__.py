"""Draw the embedded sample: a small data set in COCO's layout that needs no download and no network.

Read in this order: `playbill` (the list of scenes), `scene` (how one is composed), `figure` and `head` (people),
`canvas` (how shapes are painted and lit), `light`, `backdrop`, `cloth`, `props`; then `photographs` and `annotate`.

The same versions of NumPy and OpenCV on the same kind of processor give the same bytes.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2

from flows.coco.sample.annotate import CATEGORIES, Record, annotation_records, image_record
from flows.coco.sample.noise import Array
from flows.coco.sample.photographs import CC0, NO_KNOWN_RESTRICTIONS, PHOTOGRAPHS, read_photograph
from flows.coco.sample.playbill import SCENES
from flows.coco.sample.scene import Drawing, draw_scene

__all__ = ["SAMPLE_VERSION", "write_sample"]

SAMPLE_VERSION = 1  # raised whenever a picture or an annotation changes

ANNOTATIONS = Path("annotations") / "instances_sample.json"
PICTURES = "sample"
LICENSES = (
    {"id": NO_KNOWN_RESTRICTIONS, "name": "No known copyright restrictions", "url": "http://flickr.com/commons/usage/"},
    {"id": CC0, "name": "CC0 1.0 Universal", "url": "https://creativecommons.org/publicdomain/zero/1.0/"},
)


def write_sample(folder: Path) -> None:
    """Write the sample into `folder`: `annotations/instances_sample.json` and `sample/*.jpg`.

    Everything is written beside `folder` first and renamed at the end, so that no half-made sample is ever found
    there. Where the sample exists already, nothing is done.

    Raises:
    ------
    FileExistsError
        Where `folder` holds something else.
    """
    if (folder / ANNOTATIONS).is_file():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is no sample: name an empty or a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(making, ignore_errors=True)
    try:
        fill_folder(making)
        publish(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def fill_folder(folder: Path) -> None:
    """Write all pictures, then the annotations, into a new folder."""
    (folder / PICTURES).mkdir(parents=True)
    (folder / ANNOTATIONS).parent.mkdir()
    images: list[Record] = []
    annotations: list[Record] = []
    for image, drawing in all_pictures():
        (folder / PICTURES / image["file_name"]).write_bytes(encode_jpeg(drawing.picture))
        images.append(image)
        annotations += annotation_records(image["id"], drawing, first_id=1 + len(annotations))
    content = {
        "info": {
            "description": "hcoco's embedded sample: drawn people, and photographs that scikit-image carries",
            "version": str(SAMPLE_VERSION), "year": 2026, "contributor": "hcoco", "url": "", "date_created": "2026-01-01",
        },
        "licenses": list(LICENSES),
        "categories": [{"id": i, "name": name, "supercategory": above} for i, name, above in CATEGORIES],
        "images": images,
        "annotations": annotations,
    }  # fmt: skip
    with (folder / ANNOTATIONS).open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())


def all_pictures() -> Iterator[tuple[Record, Drawing]]:
    """Yield the image record and the content of each picture, drawn ones first."""
    for scene in SCENES:
        drawing = draw_scene(scene)
        yield image_record(scene.image_id, drawing, license_id=CC0, flickr_url=None), drawing
    for photograph in PHOTOGRAPHS:
        drawing = read_photograph(photograph)
        record = image_record(
            photograph.image_id, drawing, license_id=photograph.license_id, flickr_url=photograph.flickr_url
        )
        yield record, drawing


def encode_jpeg(picture: Array) -> bytes:
    """Return a picture, uint8 (H, W, 3) RGB or (H, W), as a JPEG file of quality 95 without colour subsampling."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    ordered = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", ordered, params=settings)
    return content.tobytes()


def publish(made: Path, folder: Path) -> None:
    """Rename a finished folder to its final name; where another process was faster, its sample stays."""
    try:
        made.rename(folder)
    except OSError:
        if not (folder / ANNOTATIONS).is_file():
            raise
