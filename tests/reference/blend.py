"""Feathering by distances, blending by fractions, dense linear systems: slow and obvious."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm
from scipy.ndimage import distance_transform_edt


def feather(mask: NDArray[np.bool_], feather_px: float) -> NDArray[np.float64]:
    """Return the alpha, 0..255 not rounded, of a mask that has pixels of both kinds."""
    distance = np.where(mask, distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask))
    return 255 * np.clip(0.5 + distance / (feather_px + 1), 0, 1)


def composite(original: NDArray[np.uint8], edited: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the blend, 0..255 not rounded."""
    share = alpha[..., None] / 255
    return share * edited + (1 - share) * original


def negative_laplacian(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the matrix of a grid with free edges: neighbours on the diagonal, -1 for each of them."""
    height, width = shape
    matrix = np.zeros((height * width,) * 2)
    for y in range(height):
        for x in range(width):
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < height and 0 <= u < width:
                    matrix[y * width + x, y * width + x] += 1
                    matrix[y * width + x, v * width + u] -= 1
    return matrix


def wanted_differences(
    foreground: NDArray[np.uint8], background: NDArray[np.uint8], alpha: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Sum, at each pixel, the wanted differences to its neighbours, (H, W, 3): pixel by pixel, pair by pair."""
    height, width = alpha.shape
    over, under, share = foreground.astype(float), background.astype(float), alpha / 255
    total = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < height and 0 <= u < width:
                    part = max(share[y, x], share[v, u])
                    total[y, x] += part * (over[y, x] - over[v, u]) + (1 - part) * (under[y, x] - under[v, u])
    return total


def poisson(
    foreground: NDArray[np.uint8], background: NDArray[np.uint8], alpha: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Return the solution of the dense system, not rounded or clipped; the background where alpha is 0."""
    matrix, right = negative_laplacian(alpha.shape), wanted_differences(foreground, background, alpha).reshape(-1, 3)
    result = background.reshape(-1, 3).astype(float)
    inside = alpha.ravel() > 0
    around = right[inside] - matrix[inside][:, ~inside] @ result[~inside]
    result[inside] = np.linalg.solve(matrix[inside][:, inside], around)
    return result.reshape(background.shape)


def gaussian_poisson(
    foreground: NDArray[np.uint8],
    background: NDArray[np.uint8],
    alpha: NDArray[np.uint8],
    *,
    low_pass_px: float,
    colour_weight: float,
) -> NDArray[np.float64]:
    """Return the minimum over the whole frame by the normal equations, not faded, rounded or clipped."""
    matrix, wanted = negative_laplacian(alpha.shape), wanted_differences(foreground, background, alpha).reshape(-1, 3)
    low = expm(-(low_pass_px**2) / 2 * matrix)
    plain = composite(background, foreground, alpha).reshape(-1, 3)
    normal = matrix @ matrix + colour_weight * low @ low
    return np.linalg.solve(normal, matrix @ wanted + colour_weight * low @ low @ plain).reshape(background.shape)
