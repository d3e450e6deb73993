"""Describe finished pictures in COCO's JSON, in each of the forms that real COCO files hold."""

import itertools
import json
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from flows.coco.masks import decode_mask
from flows.coco.sample.noise import Array
from flows.coco.sample.scene import Drawing, Instance

Record = dict[str, Any]

CATEGORIES = (
    (1, "person", "person"), (15, "bench", "outdoor"), (17, "cat", "animal"), (37, "sports ball", "sports"),
    (47, "cup", "kitchen"), (64, "potted plant", "furniture"), (67, "dining table", "furniture"),
)  # fmt: skip
SMALLEST_PART_PX = 12  # a speck of a mask that is smaller is no polygon of its own
LIKENESS = 0.99  # a polygon must agree with the drawn mask at least so well (intersection over union)


def image_record(image_id: int, drawing: Drawing, *, license_id: int, flickr_url: str | None) -> Record:
    """Return the image record of a picture."""
    height, width = drawing.picture.shape[:2]
    return {
        "id": image_id, "file_name": f"{image_id:012d}.jpg", "width": width, "height": height, "license": license_id,
        "coco_url": None, "flickr_url": flickr_url, "date_captured": "2026-01-01 00:00:00",
    }  # fmt: skip


def annotation_records(image_id: int, drawing: Drawing, *, first_id: int) -> list[Record]:
    """Return an annotation record for each instance that can be seen, numbered from `first_id`."""
    records: list[Record] = []
    for instance in drawing.instances:
        if int(instance.mask.sum()) < SMALLEST_PART_PX:
            continue
        annotation_id = first_id + len(records)
        segmentation = segmentation_of(instance, annotation_id)
        encoded = encoded_mask(segmentation, instance.mask.shape)
        records.append({
            "id": annotation_id, "image_id": image_id, "category_id": instance.category_id,
            "iscrowd": int(instance.is_crowd), "area": float(coco_mask.area(encoded)),
            "bbox": [float(value) for value in coco_mask.toBbox(encoded)], "segmentation": segmentation,
        })  # fmt: skip
    return records


def segmentation_of(instance: Instance, annotation_id: int) -> Any:
    """Return a mask in one of COCO's forms: polygons mostly, now and then run lengths, always those for a crowd."""
    if instance.is_crowd or annotation_id % 11 == 0:
        return {"size": list(instance.mask.shape), "counts": run_lengths(instance.mask)}
    if annotation_id % 7 != 0:
        parts = polygons(instance.mask)
        if parts and likeness(parts, instance.mask) >= LIKENESS:
            return parts
    encoded = coco_mask.encode(np.asfortranarray(instance.mask.astype(np.uint8)))
    return {"size": list(instance.mask.shape), "counts": encoded["counts"].decode("ascii")}


def run_lengths(mask: Array) -> list[int]:
    """Return the lengths of the runs of a mask (H, W), column by column, beginning with the run of zeros."""
    flat = mask.astype(np.uint8).ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    runs = np.diff(edges).tolist()
    return [0, *runs] if flat[0] else runs


def polygons(mask: Array) -> list[list[float]]:
    """Trace the parts of a mask (H, W) as polygons [x0, y0, x1, y1, ...].

    COCO's polygons know no holes, so the mask is cut in two at each hole, and the pieces are traced.
    """
    cuts = [0, *hole_columns(mask), mask.shape[1]]
    parts: list[list[float]] = []
    for begin, end in itertools.pairwise(cuts):
        piece = np.zeros_like(mask)
        piece[:, begin:end] = mask[:, begin:end]
        parts += traced(piece)
    return parts


def hole_columns(mask: Array) -> list[int]:
    """Return the columns, rising, through the middles of the holes of a mask that are no mere specks."""
    contours, tree = cv2.findContours(mask.astype(np.uint8), mode=cv2.RETR_CCOMP, method=cv2.CHAIN_APPROX_SIMPLE)
    columns = set()
    for contour, (_, _, _, parent) in zip(contours, [] if tree is None else tree[0], strict=True):
        left, _, width, height = cv2.boundingRect(contour)
        if parent >= 0 and width * height > 3 * SMALLEST_PART_PX:
            columns.add(left + width // 2)
    return sorted(columns)


def traced(mask: Array) -> list[list[float]]:
    """Trace the outer borders of a mask (H, W) as polygons.

    Each contour runs through the middle of the outermost pixels of a picture enlarged four times, which puts it an
    eighth of a pixel inside the true border.
    """
    big = cv2.resize(mask.astype(np.uint8), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(big, mode=cv2.RETR_EXTERNAL, method=cv2.CHAIN_APPROX_NONE)
    parts = []
    for contour in contours:
        if cv2.contourArea(contour) < SMALLEST_PART_PX * 16:
            continue
        simple = cv2.approxPolyDP(contour, epsilon=2.2, closed=True)[:, 0]
        if len(simple) >= 3:
            parts.append([round(float(value), 2) for value in ((simple + 0.5) / 4).ravel()])
    return parts


def encoded_mask(segmentation: Any, shape: tuple[int, ...]) -> Any:
    """Return pycocotools' compressed run lengths of a segmentation in any form."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, shape[0], shape[1]))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, shape[0], shape[1])
    return {"size": segmentation["size"], "counts": segmentation["counts"].encode("ascii")}


def likeness(segmentation: Any, mask: Array) -> float:
    """Return the intersection over union of a segmentation with the mask it stands for."""
    height, width = mask.shape
    described = decode_mask(json.dumps(segmentation).encode(), height=height, width=width)
    return float((described & mask).sum() / max((described | mask).sum(), 1))
