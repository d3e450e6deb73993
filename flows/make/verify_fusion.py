"""Prove the pictures of a fusion sample: sizes, the mask that the plan gives, the reach of the matte, the background."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from augment.composition import near_mask
from flows.coco.pictures import scaled_size
from flows.decoding import decode_member
from flows.make.compose import Photographs, person_of
from flows.make.compose_fusion import composition_from, draw_composition, mask_of, polygon_in
from flows.make.plan import Plan
from flows.make.plan_fusion import subject_side
from flows.make.verify import background_identical
from realism.fusion import reach_of


def check_fusion(
    members: Mapping[str, bytes], planned: Mapping[str, Any], record: Mapping[str, Any], plan: Plan
) -> Iterator[str]:
    """Yield what is wrong with the pictures and the provenance of one fusion sample; no photograph is opened."""
    names = ("foreground.jpg", "background.jpg", "composite.jpg")
    foreground, background, composite = (decode_member(members[name], cv2.IMREAD_COLOR_RGB) for name in names)
    mask, alpha = (decode_member(members[name], cv2.IMREAD_UNCHANGED) for name in ("mask.png", "alpha.png"))
    if foreground is None or background is None or composite is None or mask is None or alpha is None:
        yield "a picture cannot be decoded"
        return
    side = plan.fusion_side if plan.max_side is None else min(plan.fusion_side, plan.max_side)
    scene = person_of(planned, "background")
    width, height = scaled_size(width=scene["width"], height=scene["height"], max_side=side)
    pictures = {picture.shape for picture in (foreground, background, composite)}
    if pictures != {(height, width, 3)} or {mask.shape, alpha.shape} != {(height, width)}:
        yield f"pictures are not all {width} x {height}"
        return
    try:
        recipe = composition_from(record["recipe"])
    except (KeyError, TypeError, ValueError) as error:
        yield f"the recipe cannot be read: {error}"
        return
    if recipe != draw_composition(planned, seed=plan.seed):
        yield "the recipe is not what plan and seed give"
        return
    subjects = Photographs(plan.folders, max_side=subject_side(plan.fusion_side, plan.max_side))
    polygon = polygon_in(subjects, person_of(planned, "foreground"), recipe.place, size=(height, width))
    if not np.array_equal(mask, mask_of(polygon, recipe)):
        yield "mask.png is not the mask that plan and recipe give"
    if (alpha[~near_mask(polygon, reach_of(polygon))] > 0).any():
        yield "alpha.png reaches farther from the mask than a matte may"
    if not background_identical(background, composite, alpha):
        yield "the background differs outside the touched 8x8 blocks"
    model = plan.fuser.weights_sha256 if plan.fuser and recipe.family == "hard" else None
    if record.get("model") != model:
        yield "model is not the network that the plan names"
