"""Keep mattes on disk, each named by the pixels it was made of: estimating one takes a third of a second."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from augment import Matte, estimate_matte
from flows.coco.masks import Mask
from flows.coco.pictures import Picture
from flows.objects import cache_folder
from flows.store.layout import writing

_ROOM: Final = 8
"""Pixels around the alpha whose colours are kept with it."""


def matte_of(picture: Picture, mask: Mask) -> Matte:
    """Return the matte of a subject, from the cache where it is there; either way the same bytes.

    Args:
        picture: uint8 sRGB (H, W, 3).
        mask: bool (H, W), neither empty nor full.

    Returns:
        As `augment.estimate_matte`, with the picture's own colours farther than `_ROOM` from the alpha's box.
    """
    path = _path(picture, mask)
    try:
        with np.load(path, allow_pickle=False) as kept:
            alpha, colours, left, top = kept["alpha"], kept["colours"], int(kept["left"]), int(kept["top"])
            confidence, reason = float(kept["confidence"]), str(kept["reason"]) or None
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error):
        matte = estimate_matte(picture, mask)
        x, y, width, height = cv2.boundingRect(matte.alpha)
        left, top = max(x - _ROOM, 0), max(y - _ROOM, 0)
        alpha = matte.alpha
        colours = matte.foreground[top : y + height + _ROOM, left : x + width + _ROOM]
        confidence, reason = matte.confidence, matte.reason
        with writing(path) as file:
            np.savez_compressed(
                file, alpha=alpha, colours=colours, left=left, top=top, confidence=confidence, reason=reason or ""
            )
    whole = picture.copy()
    whole[top : top + colours.shape[0], left : left + colours.shape[1]] = colours
    return Matte(alpha, whole, confidence, reason)  # type: ignore[arg-type] # the reason is one that was written


def _path(picture: Picture, mask: Mask) -> Path:
    digest = hashlib.sha256(f"{_method()} {picture.shape}".encode())
    digest.update(picture.tobytes())
    digest.update(np.packbits(mask).tobytes())
    name = digest.hexdigest()
    return cache_folder() / "mattes" / name[:2] / f"{name[2:32]}.npz"


@cache
def _method() -> str:
    """Name what decides a matte's bytes besides the pixels: the code and the libraries."""
    spec = util.find_spec("augment.matte")
    text = Path(spec.origin).read_bytes() if spec and spec.origin else b""
    versions = [metadata.version(name) for name in ("pymatting", "numpy", "scipy", "opencv-python-headless")]
    return " ".join([hashlib.sha256(text).hexdigest(), *versions])
