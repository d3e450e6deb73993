"""Measure a harmonized picture as the field does: four conventions, whose numbers cannot be compared with each other.

Each takes what a harmonizer made, the photograph and the mask at native size. MSE is over all pixels, foreground MSE
over the mask, both of 8-bit levels squared over three channels; PSNR in dB; SSIM by Wang, Bovik, Sheikh and Simoncelli
(Image quality assessment: from error visibility to structural similarity, 2004), uniform windows of 7 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity

from realism.metrics import MOST_DECIBELS, Pixels

Floats = NDArray[np.float32]

MEASURES: Final = ("mse", "fmse", "psnr", "ssim")
LOWER_IS_BETTER: Final = frozenset({"mse", "fmse"})
SIDE: Final = 256
WINDOW: Final = 7
"""Pixels a side of a window of SSIM."""
EPSILON: Final = 1e-6
"""Added to the MSE before its logarithm by the convention `issam`."""


@dataclass(frozen=True)
class Convention:
    """One way of measuring.

    Attributes:
        title: In a few words.
        source: Where it comes from, and what it does.
        measure: (made, real, mask), uint8 (H, W, 3), (H, W, 3) and (H, W) with some of it over 127, to a value for
            each of `MEASURES`.
    """

    title: str
    source: str
    measure: Callable[[Pixels, Pixels, Pixels], dict[str, float]]


def measure_iharmony4(made: Pixels, real: Pixels, mask: Pixels) -> dict[str, float]:
    """Measure at 256 x 256, bicubic, with the range of the made picture as peak; see `CONVENTIONS`."""
    first, second = (_bicubic(picture) for picture in (made, real))
    inside = _nearest(mask) > 127
    peak = max(float(first.max() - first.min()), 1.0)  # a picture of one colour has no range
    squared = (first - second) ** 2
    mse = float(squared.mean(dtype=np.float64))
    return {
        "mse": mse,
        "fmse": _mean_where(squared, inside),
        "psnr": _decibels(peak**2, mse),
        "ssim": _similarity(first, second, peak=peak),
    }


def measure_issam(made: Pixels, real: Pixels, mask: Pixels) -> dict[str, float]:
    """Measure at 256 x 256, linear, with the largest value of the photograph as peak; see `CONVENTIONS`."""
    first, second = (_linear(picture.astype(np.float32)) for picture in (made, real))
    share = _linear(mask.astype(np.float32) / np.float32(255))
    squared = (first - second) ** 2
    mse = float(squared.mean(dtype=np.float64))
    weighted = float((squared * share[..., None]).sum(dtype=np.float64))
    peak = max(float(second.max()), 1.0)  # a black photograph has no peak
    return {
        "mse": mse,
        "fmse": weighted / (3 * float(share.sum(dtype=np.float64)) + EPSILON),
        "psnr": float(10 * np.log10(peak**2 / (mse + EPSILON))),
        "ssim": _similarity(first, second, peak=255),
    }


def measure_native(made: Pixels, real: Pixels, mask: Pixels) -> dict[str, float]:
    """Measure inside the mask only, as it is, with peak 255; see `CONVENTIONS`."""
    inside = mask > 127
    window = _window(inside)
    first, second, within = made[window].astype(np.float32), real[window].astype(np.float32), inside[window]
    fmse = _mean_where((first - second) ** 2, within)
    similar = _similarities(first, second, peak=255)
    return {
        "mse": fmse,
        "fmse": fmse,
        "psnr": _decibels(255**2, fmse),
        "ssim": float(similar[within].mean(dtype=np.float64)) if within.any() else 1.0,
    }


def measure_pasted(made: Pixels, real: Pixels, mask: Pixels) -> dict[str, float]:
    """Measure at 256 x 256, bicubic, what was made inside the mask and the photograph around it; see `CONVENTIONS`."""
    inside = _nearest(mask) > 127
    second = _bicubic(real)
    first = np.where(inside[..., None], _bicubic(made), second)
    squared = (first - second) ** 2
    mse = float(squared.mean(dtype=np.float64))
    return {
        "mse": mse,
        "fmse": _mean_where(squared, inside),
        "psnr": _decibels(255**2, mse),
        "ssim": _similarity(first, second, peak=255),
    }


CONVENTIONS: Final[Mapping[str, Convention]] = {
    "iharmony4": Convention(
        "256 x 256 bicubic, peak = range of the composite",
        "the evaluation published with iHarmony4 and DoveNet (Cong, Zhang, Niu, Liu, Ling, Li, Zhang, 2020): pictures scaled by "
        "Pillow's bicubic filter, the mask to its nearest pixel and binary; the peak of PSNR is the range of the composite that is "
        "judged. It has no SSIM; here it is taken with the same peak",
        measure_iharmony4,
    ),
    "issam": Convention(
        "256 x 256 linear, peak = largest value of the photograph",
        "the evaluation published with Foreground-aware Semantic Representations for Image Harmonization (Sofiiuk, Popenova, "
        "Konushin, 2021), which HDNet and others reuse: pictures and mask scaled linearly, the mask a weight 0 to 1, 1e-6 added "
        "to the MSE of PSNR. It has no SSIM; here it is taken with peak 255",
        measure_issam,
    ),
    "native": Convention(
        "native size, peak 255, mask only",
        "nothing is scaled and only pixels with mask over 127 count, in MSE, PSNR and SSIM alike (fMSE, fPSNR and fSSIM as in "
        "Guo, Zheng, Jiang, Gu, Zheng: Intrinsic Image Harmonization, 2021); a harmonizer's effect is not diluted by the background",
        measure_native,
    ),
    "pasted": Convention(
        "256 x 256 bicubic, ground-truth background pasted, peak 255",
        "as `iharmony4`, but the photograph is pasted around the mask before anything is measured, so that networks which redraw the "
        "background are not charged for it; common for such networks, and the kindest of the four",
        measure_pasted,
    ),
}
"""Every convention by its name."""


def measure_all(made: Pixels, real: Pixels, mask: Pixels) -> NDArray[np.float64]:
    """Measure by every convention: float64 (conventions, measures), in the order of `CONVENTIONS` and `MEASURES`.

    Args:
        made: uint8 (H, W, 3) sRGB, at least 7 pixels a side.
        real: The same.
        mask: uint8 (H, W), some of it over 127.

    Raises:
        ValueError: Shapes that do not belong together, or a picture too small for a window of SSIM.
    """
    if made.shape != real.shape or made.shape != (*mask.shape, 3) or min(mask.shape) < WINDOW:
        raise ValueError(
            f"made and real must be (H, W, 3) and mask (H, W) of one size, {WINDOW} pixels a side at least, "
            f"got {made.shape}, {real.shape}, {mask.shape}"
        )
    rows = (convention.measure(made, real, mask) for convention in CONVENTIONS.values())
    return np.array([[row[name] for name in MEASURES] for row in rows])


def _bicubic(picture: Pixels) -> Floats:
    if picture.shape[:2] == (SIDE, SIDE):
        return picture.astype(np.float32)
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)


def _nearest(mask: Pixels) -> Pixels:
    if mask.shape == (SIDE, SIDE):
        return mask
    return np.asarray(Image.fromarray(mask).resize((SIDE, SIDE), Image.Resampling.NEAREST), np.uint8)


def _linear(values: Floats) -> Floats:
    return np.asarray(cv2.resize(values, dsize=(SIDE, SIDE), interpolation=cv2.INTER_LINEAR), np.float32)


def _mean_where(squared: Floats, inside: NDArray[np.bool_]) -> float:
    """Return the mean over pixels and channels inside; 0 where scaling left no pixel inside."""
    return float(squared[inside].mean(dtype=np.float64)) if inside.any() else 0.0


def _decibels(peak_squared: float, mse: float) -> float:
    return MOST_DECIBELS if mse <= 0 else min(float(10 * np.log10(peak_squared / mse)), MOST_DECIBELS)


def _similarity(first: Floats, second: Floats, *, peak: float) -> float:
    return float(structural_similarity(first, second, channel_axis=2, data_range=peak, win_size=WINDOW))  # type: ignore[no-untyped-call]


def _similarities(first: Floats, second: Floats, *, peak: float) -> Floats:
    """Return SSIM around each pixel, (H, W, 3)."""
    _, similar = structural_similarity(  # type: ignore[no-untyped-call]
        first, second, channel_axis=2, data_range=peak, win_size=WINDOW, full=True
    )
    return np.asarray(similar, np.float32)


def _window(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the box of the mask with half a window of room, so that its inside has the SSIM of the whole picture."""
    x, y, width, height = cv2.boundingRect(inside.view(np.uint8))
    return tuple(
        slice(max(min(begin - WINDOW // 2, side - WINDOW), 0), max(begin + length + WINDOW // 2, WINDOW))
        for begin, length, side in ((y, height, inside.shape[0]), (x, width, inside.shape[1]))
    )  # type: ignore[return-value]
