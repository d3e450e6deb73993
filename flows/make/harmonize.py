"""Harmonize a composite by name: with a trained network, or by a baseline that learns nothing.

The baselines need closed forms, the networks need torch, and neither package knows the other; here both have one form.
torch is imported in the functions that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.blend import check_layers, composite
from augment.blend.gaussian_poisson import blend_towards
from augment.transfer import TRANSFERS
from flows.coco.pictures import BadPicture
from flows.errors import BadRequest
from flows.harmonizer_settings import NETWORKS
from flows.make.pairs import read_pair
from flows.store.layout import write_bytes

if TYPE_CHECKING:
    from realism.harmonizers.apply import Working

Pixels = NDArray[np.uint8]
Harmonize: TypeAlias = Callable[[Pixels, Pixels], Pixels]
"""(composite uint8 (H, W, 3) sRGB, mask uint8 (H, W)) to the picture, uint8 (H, W, 3) sRGB, of the same size; where the
mask is 0 its pixels are those of the composite."""


def leave(picture: Pixels, mask: Pixels) -> Pixels:
    """Change nothing: what every harmonizer is measured against."""
    check_layers(original=picture, edited=picture, alpha=mask)
    return picture.copy()


def transfer_from_background(picture: Pixels, mask: Pixels, *, family: str) -> Pixels:
    """Give the subject the colour statistics of the rest of its picture.

    Statistics of the subject are taken where the mask is over 127, of the rest where it is 0; where either is empty
    nothing changes.

    Args:
        picture: uint8 (H, W, 3) sRGB.
        mask: uint8 (H, W), alpha of the subject.
        family: One of `augment.TRANSFERS`.
    """
    check_layers(original=picture, edited=picture, alpha=mask)
    inside, outside, touched = mask > 127, mask == 0, mask > 0
    if not inside.any() or not outside.any():
        return picture.copy()
    mapping = TRANSFERS[family](picture[inside], picture[outside])
    edited = picture.copy()
    edited[touched] = np.clip(np.rint(mapping.apply(picture[touched])), 0, 255).astype(np.uint8)
    return composite(picture, edited, mask)


BASELINES: Final[Mapping[str, Harmonize]] = {
    "none": leave,
    "reinhard": partial(transfer_from_background, family="reinhard"),
    "histogram": partial(transfer_from_background, family="histogram"),
}
"""No change, and two transfers of colour from the background (Reinhard et al. 2001; Fecker et al. 2008)."""
SUFFIXES: Final = (".png", ".jpg", ".jpeg")
"""Of the files that a harmonized picture is written to."""


def open_harmonizer(name: str, checkpoint: Path | None = None, *, device: str = "cpu") -> Harmonize:
    """Open a baseline, or a network from its checkpoint.

    Args:
        name: One of `BASELINES` or `NETWORKS`.
        checkpoint: Of a network; a baseline needs none.
        device: `cpu` or `cuda`, where a network runs.

    Raises:
        BadRequest: An unknown name, a checkpoint where none is needed or none where one is, or one that is missing,
            damaged or of another network.
    """
    if name in BASELINES:
        if checkpoint is not None:
            raise BadRequest(f"{name} learns nothing and takes no checkpoint; leave --checkpoint out")
        return BASELINES[name]
    if name not in NETWORKS:
        raise BadRequest(f"there is no harmonizer {name!r}; there are {', '.join((*BASELINES, *NETWORKS))}")
    if checkpoint is None:
        raise BadRequest(f"{name} is a network and needs --checkpoint; `hcoco train {name} RUN` makes one")
    from realism.harmonizers import HARMONIZERS, harmonize, load_harmonizer  # noqa: PLC0415

    try:
        loaded = load_harmonizer(checkpoint.expanduser(), name=name)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    return partial(_blend if HARMONIZERS[name].blender else harmonize, loaded, device=device)


def _blend(harmonizer: Working, picture: Pixels, mask: Pixels, *, device: str) -> Pixels:
    """Let a blender find the colours at its own size, and a closed form bring them to the picture's."""
    from realism.harmonizers.apply import answer_of, check_pair, shrink  # noqa: PLC0415

    check_pair(picture, mask)
    if not mask.any():
        return picture.copy()
    size = (harmonizer.side, harmonizer.side)
    colours = answer_of(harmonizer.model, shrink(picture, size), shrink(mask, size), device=device)
    return blend_towards(picture, mask, colours)


def harmonize_file(picture: Path, mask: Path, output: Path, *, harmonizer: Harmonize) -> None:
    """Harmonize a composite from a file into another: PNG, or JPEG of quality 95, as the name says.

    PNG keeps the background as it was; JPEG encodes it anew.

    Raises:
        BadRequest: A file cannot be read, their sizes differ, or the output's name has no such suffix.
    """
    suffix = output.suffix.lower()
    if suffix not in SUFFIXES:
        raise BadRequest(f"--output {output} must end with {' or '.join(SUFFIXES)}")
    try:
        pixels, level = read_pair(picture, mask)
    except BadPicture as bad:
        raise BadRequest(str(bad)) from None
    answer = harmonizer(pixels, level)
    options = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 95]
    write_bytes(output, cv2.imencode(suffix, cv2.cvtColor(answer, cv2.COLOR_RGB2BGR), options)[1].tobytes())
