"""The four conventions, one pixel and one window at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Values = NDArray[np.float64]


def mse(made: Values, real: Values) -> float:
    """Return the mean squared difference over pixels and channels."""
    total = 0.0
    for y in range(real.shape[0]):
        for x in range(real.shape[1]):
            total += sum((float(made[y, x, c]) - float(real[y, x, c])) ** 2 for c in range(3))
    return total / (3 * real.shape[0] * real.shape[1])


def foreground_mse(made: Values, real: Values, weight: Values) -> float:
    """Return the weighted squared difference over three times the weights."""
    total = area = 0.0
    for y in range(real.shape[0]):
        for x in range(real.shape[1]):
            area += float(weight[y, x])
            squares = sum((float(made[y, x, c]) - float(real[y, x, c])) ** 2 for c in range(3))
            total += float(weight[y, x]) * squares
    return total / (3 * area)


def psnr(error: float, peak: float) -> float:
    """Return decibels."""
    return 20 * math.log10(peak) - 10 * math.log10(error)


def linear(layer: Values, side: int) -> Values:
    """Scale to side x side: each new pixel's middle lies between four old ones, with weights that fall linearly."""
    height, width = layer.shape[:2]
    scaled = np.zeros((side, side, *layer.shape[2:]))
    for y in range(side):
        v = min(max((y + 0.5) * height / side - 0.5, 0), height - 1)
        for x in range(side):
            u = min(max((x + 0.5) * width / side - 0.5, 0), width - 1)
            top, left = int(v), int(u)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            down, across = v - top, u - left
            scaled[y, x] = (1 - down) * ((1 - across) * layer[top, left] + across * layer[top, right]) + down * (
                (1 - across) * layer[below, left] + across * layer[below, right]
            )
    return scaled


def bicubic(layer: Values, side: int) -> Values:
    """Scale to side x side by Keys's cubic (a = -0.5), widened where it shrinks, columns then rows, each rounded."""
    return _along(_along(layer, side, axis=1), side, axis=0)


def _along(layer: Values, side: int, *, axis: int) -> Values:
    length = layer.shape[axis]
    scale = max(length / side, 1.0)
    lines = np.moveaxis(layer, axis, 0)
    scaled = np.zeros((side, *lines.shape[1:]))
    for place in range(side):
        middle = (place + 0.5) * length / side
        first, last = max(int(middle - 2 * scale + 0.5), 0), min(int(middle + 2 * scale + 0.5), length)
        weights = [_cubic((each + 0.5 - middle) / scale) for each in range(first, last)]
        for each, weight in zip(range(first, last), weights, strict=True):
            scaled[place] += weight / sum(weights) * lines[each]
    return np.moveaxis(np.clip(np.floor(scaled + 0.5), 0, 255), 0, axis)


def _cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def ssim(made: Values, real: Values, peak: float, inside: NDArray[np.bool_] | None = None) -> float:
    """Return the mean of SSIM over the windows of 7 pixels that lie in the picture, or of those around pixels inside."""
    values = []
    for y in range(3, real.shape[0] - 3):
        for x in range(3, real.shape[1] - 3):
            if inside is None or inside[y, x]:
                window = np.s_[y - 3 : y + 4, x - 3 : x + 4]
                values += [_ssim(made[window][..., c], real[window][..., c], peak) for c in range(3)]
    return float(np.mean(values))


def _ssim(a: Values, b: Values, peak: float) -> float:
    one, two = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b = a.mean(), b.mean()
    both = ((a - mean_a) * (b - mean_b)).sum() / (a.size - 1)
    numerator = (2 * mean_a * mean_b + one) * (2 * both + two)
    return float(numerator / ((mean_a**2 + mean_b**2 + one) * (a.var(ddof=1) + b.var(ddof=1) + two)))
