"""Make the irregularities that keep a drawing from looking like a diagram: clouds, grain, foliage, folds, fibres."""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TILE_PX = 256  # side of a noise tile; a power of two keeps its Fourier transform fast


@lru_cache(maxsize=32)
def noise_tile(seed: int, *, slope: float = 1.3) -> Array:
    """Return a tile of noise that continues over its own borders.

    White noise is filtered to an amplitude of 1 / frequency**slope, which is how most natural textures fall off.

    Parameters
    ----------
    seed
        Which noise.
    slope
        0 is white; larger is smoother; 1.3 looks like clouds, 0.6 like stone.

    Returns:
    -------
    float32 (256, 256), mean 0, standard deviation 1, read-only.
    """
    white = np.random.default_rng([seed, 7919]).standard_normal((TILE_PX, TILE_PX))
    rows = np.fft.fftfreq(TILE_PX)[:, None]
    columns = np.fft.rfftfreq(TILE_PX)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(white) * frequency**-slope
    wide = np.fft.irfft2(spectrum, s=white.shape)
    tile: Array = (wide / wide.std()).astype(np.float32)
    tile.setflags(write=False)
    return tile


@lru_cache(maxsize=32)
def noise_slopes(seed: int, *, slope: float = 1.6) -> tuple[Array, Array]:
    """Return the derivatives of a noise tile to the right and downwards, each of standard deviation 1."""
    tile = noise_tile(seed, slope=slope)
    right = (np.roll(tile, -1, axis=1) - np.roll(tile, 1, axis=1)).astype(np.float32)
    down = (np.roll(tile, -1, axis=0) - np.roll(tile, 1, axis=0)).astype(np.float32)
    return right / right.std(), down / down.std()


def sample_tile(tile: Array, u: Array, v: Array) -> Array:
    """Look a tile up, repeated endlessly, at the coordinates `u` (to the right) and `v` (down), both in tile pixels."""
    across, down = np.broadcast_arrays(folded(u), folded(v))
    return cv2.remap(
        tile,
        np.ascontiguousarray(across),
        np.ascontiguousarray(down),
        interpolation=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )


def folded(coordinate: Array) -> Array:
    """Return tile coordinates folded into one period, float32: `cv2.remap` holds coordinates in 16 bits."""
    values = np.asarray(coordinate, np.float32)
    within: Array = values - TILE_PX * np.floor(values * np.float32(1 / TILE_PX))
    return within


def clouds(rng: np.random.Generator, height: int, width: int, *, cell_px: float, octaves: int = 4) -> Array:
    """Return smooth noise of several scales over a picture.

    Parameters
    ----------
    rng
        Where the noise comes from.
    height, width
        Of the picture, in pixels.
    cell_px
        Size of the largest blotches.
    octaves
        How many scales, each half as large and half as strong as the one before.

    Returns:
    -------
    float32 (height, width), mean about 0, mostly within -1..1.
    """
    total = np.zeros((height, width), np.float32)
    weight = 1.0
    for _ in range(octaves):
        grid_shape = (max(2, round(height / cell_px) + 2), max(2, round(width / cell_px) + 2))
        grid = rng.uniform(-1.0, 1.0, grid_shape).astype(np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        weight *= 0.5
        cell_px = max(cell_px / 2, 1.0)
    return total
