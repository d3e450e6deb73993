"""Prove the pictures of a copy-paste pair: sizes, the region that plan and seed give, both untouched sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from augment.checks import foreground_mse
from flows.coco.masks import decode_mask, scale_mask
from flows.coco.pictures import scaled_size
from flows.decoding import decode_member
from flows.make.compose import person_of
from flows.make.paste import draw_paste, read_paste, region_of
from flows.make.plan import Plan
from flows.make.verify import background_identical


def check_paste(
    members: Mapping[str, bytes], planned: Mapping[str, Any], record: Mapping[str, Any], plan: Plan
) -> Iterator[str]:
    """Yield what is wrong with the pictures of one copy-paste pair; no photograph is opened."""
    names = ("real.jpg", "source.jpg", "composite.jpg")
    real, source, composite = (decode_member(members[name], cv2.IMREAD_COLOR_RGB) for name in names)
    region = decode_member(members["mask.png"], cv2.IMREAD_UNCHANGED)
    if real is None or source is None or composite is None or region is None:
        yield "a picture cannot be decoded"
        return
    target = person_of(planned, "target")
    size = {"width": target["width"], "height": target["height"]}
    width, height = scaled_size(**size, max_side=plan.max_side)
    if not real.shape == source.shape == composite.shape == (height, width, 3) or region.shape != (height, width):
        yield f"pictures are not all {width} x {height}"
        return
    try:
        paste = read_paste(record)
    except (KeyError, TypeError, ValueError) as error:
        yield f"the recipe cannot be read: {error}"
        return
    if paste != draw_paste(planned["key"], seed=plan.seed, families=plan.families):
        yield "the recipe is not what plan and seed give"
        return
    mask = scale_mask(decode_mask(target["segmentation"], **size), height=height, width=width)
    if not np.array_equal(region, region_of(mask, paste)):
        yield "mask.png is not the region that plan and recipe give"
    if not background_identical(real, composite, region):
        yield "the background differs outside the touched 8x8 blocks"
    if not background_identical(source, composite, 255 - region):
        yield "what was pasted differs from source.jpg inside the region's whole 8x8 blocks"
    if round(foreground_mse(real, composite, region > 127), 4) != record.get("foreground_mse"):
        yield "foreground_mse is not that of the decoded pictures"
