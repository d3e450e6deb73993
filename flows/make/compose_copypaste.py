"""Make one copy-paste pair: a photograph, the same in another light, and a region of that pasted hard into it.

The composite shows a seam of light and of a rough cut; what is wanted is the photograph itself, the only picture of
that scene which is known to be right (docs/decisions/0016). A pure function of its row of the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from augment import edit_subject, measure_gates
from augment.checks import foreground_mse
from augment.color import Pixels
from flows.coco.pictures import BadPicture
from flows.make.compose import Look, Made, Photographs, decode_jpeg, encode_jpeg, encode_png, person_of, psnr
from flows.make.paste import Paste, draw_paste, region_of
from flows.make.plan import Plan
from flows.store.layout import COPYPASTE


def compose_paste_rows(
    plan: Plan, rows: Sequence[Mapping[str, Any]], *, look: Look | None = None
) -> Iterable[tuple[Mapping[str, Any], Made]]:
    """Make the copy-paste pairs of some rows of the plan, one after the other."""
    photographs = Photographs(plan.folders, max_side=plan.max_side)
    for row in rows:
        paste = draw_paste(row["key"], seed=plan.seed, families=plan.families)
        yield row, compose_paste(row, photographs, paste=paste, look=look)


def compose_paste(row: Mapping[str, Any], photographs: Photographs, *, paste: Paste, look: Look | None = None) -> Made:
    """Make the copy-paste pair of one row of the plan; let `look` see the composite, where given."""
    target = person_of(row, "target")
    try:
        photograph = photographs.get(target)
        reference = photographs.get(person_of(row, "reference")).picture
    except BadPicture:
        return Made(row["key"], {}, paste, {}, {}, None, None, failure="unreadable", stage=COPYPASTE)
    picture, real = photograph.picture, photograph.decoded
    region = region_of(photographs.mask(target), paste)
    lit = edit_subject(picture, np.full(region.shape, 255, np.uint8), reference.reshape(-1, 3), paste.light)
    composite = paste_hard(picture, lit.picture, region)
    jpeg = encode_jpeg(composite)
    decoded = decode_jpeg(jpeg)
    effect = round(foreground_mse(real, decoded, region > 127), 4)
    gates = {name: round(value, 6) for name, value in measure_gates(picture, composite, region).items()}
    return Made(
        key=row["key"],
        members={
            "composite.jpg": jpeg,
            "mask.png": encode_png(region),
            "real.jpg": photograph.jpeg,
            "source.jpg": encode_jpeg(lit.picture),
        },
        recipe=paste,
        notes=lit.notes,
        gates={**gates, "effect_small": effect, "effect_large": effect},
        foreground_mse=effect,
        psnr=psnr(real, decoded, pixels=region.size),
        stage=COPYPASTE,
        crop=look(decoded, region) if look else None,
    )


def paste_hard(destination: Pixels, source: Pixels, region: NDArray[np.uint8]) -> Pixels:
    """Return the destination with the pixels of the source where the region is over 127; a new array."""
    return np.asarray(np.where(region[..., None] > 127, source, destination), np.uint8)
