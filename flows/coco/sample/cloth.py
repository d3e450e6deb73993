"""Weave, knit and print cloth: paints in surface coordinates measured in heads."""

from collections.abc import Callable

import numpy as np

from flows.coco.sample.canvas import Material, Paint
from flows.coco.sample.light import srgb_to_linear
from flows.coco.sample.noise import Array, noise_tile, sample_tile

DYES = {
    "white": "e8e6df", "cream": "ddd0b0", "grey": "8b8d90", "charcoal": "3a3d42", "black": "1d1d20",
    "red": "b3262b", "rust": "a8522c", "orange": "d9752b", "mustard": "c99a2e", "yellow": "e0c04a",
    "olive": "6a6b3a", "green": "2f7145", "mint": "8cc5a8", "teal": "1f6f74", "sky": "7fb0d6",
    "blue": "2a58a5", "navy": "1f2c4d", "violet": "5f4694", "plum": "6b2c52", "pink": "d98ba0",
    "magenta": "b02f78", "brown": "5c3d2a", "tan": "b08a5e", "khaki": "9a8a62", "denim": "3d5678",
}  # fmt: skip


def dye(name: str) -> Array:
    """Return the linear RGB albedo, float32 (3,), of a named dye."""
    return srgb_to_linear(DYES[name])


def smooth_step(low: float | Array, high: float | Array, value: Array) -> Array:
    """Return 0 below `low`, 1 above `high`, and a smooth passage between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(first: Array, second: Array, share: Array) -> Array:
    """Return `first` where `share` (h, w) is 0 and `second` where it is 1, (h, w, 3)."""
    mixed: Array = first + (second - first) * share[..., None]
    return mixed


def fibre(u: Array, v: Array, *, strength: float, scale: float = 110.0) -> Array:
    """Return a factor about 1, (h, w, 1), of fine irregularity."""
    grain = sample_tile(noise_tile(3, slope=0.7), u * scale, v * scale)
    return (1 + strength * grain)[..., None]


def woven(base: Array, accent: Array) -> Paint:
    """Dye in one colour."""
    del accent
    return lambda u, v: base * fibre(u, v, strength=0.06)


def striped(base: Array, accent: Array) -> Paint:
    """Stripe across the body."""

    def paint(u: Array, v: Array) -> Array:
        wave = np.sin(v * (2 * np.pi / 0.24) + 0.25 * u)
        return mix(base, accent, smooth_step(-0.1, 0.25, wave)) * fibre(u, v, strength=0.06)

    return paint


def pinstriped(base: Array, accent: Array) -> Paint:
    """Stripe thinly along the body."""

    def paint(u: Array, v: Array) -> Array:
        wave = np.cos(u * (2 * np.pi / 0.15))
        return mix(base, accent, 0.7 * smooth_step(0.75, 0.95, wave)) * fibre(u, v, strength=0.06)

    return paint


def plaid(base: Array, accent: Array) -> Paint:
    """Cross wide bands with thin light lines."""

    def paint(u: Array, v: Array) -> Array:
        period = 2 * np.pi / 0.46
        bands = smooth_step(0.0, 0.15, np.sin(u * period)) + smooth_step(0.0, 0.15, np.sin(v * period))
        lines = np.maximum(np.cos(u * period + 0.9), np.cos(v * period + 0.9))
        cloth = mix(base, accent, 0.42 * bands)
        return mix(cloth, np.float32(0.6) + 0.3 * accent, 0.5 * smooth_step(0.96, 0.985, lines)) * fibre(
            u, v, strength=0.06
        )

    return paint


def knitted(base: Array, accent: Array) -> Paint:
    """Knit in thick stitches, with bands of the second wool."""

    def paint(u: Array, v: Array) -> Array:
        stitch = np.sin(u * 75 + 1.2 * np.sin(v * 60)) * np.sin(v * 60)
        band = smooth_step(0.86, 0.93, np.cos(v * (2 * np.pi / 0.8)))
        wool: Array = mix(base, accent, band) * (0.92 + 0.22 * stitch)[..., None]
        return wool * fibre(u, v, strength=0.12, scale=30)

    return paint


def denim(base: Array, accent: Array) -> Paint:
    """Weave a twill that is worn pale in places."""
    del accent

    def paint(u: Array, v: Array) -> Array:
        twill = np.sin((u + v) * 95)
        worn = smooth_step(-0.5, 1.8, sample_tile(noise_tile(5), u * 22, v * 14))
        blue: Array = mix(base, base * 0.4 + 0.34, 0.55 * worn) * (1 + 0.10 * twill)[..., None]
        return blue * fibre(u, v, strength=0.14)

    return paint


def scattered(u: Array, v: Array, *, period: float, radius: float) -> tuple[Array, Array]:
    """Return how far inside a scattered disc each point lies (0 outside, 1 in the middle), and its angle."""
    row = np.floor(v / period)
    shifted = u + 0.5 * period * (row % 2)
    column = np.floor(shifted / period)
    spin = np.sin(row * 12.9898 + column * 78.233) * 43.7585
    dx = shifted / period - column - 0.5 + 0.16 * np.sin(spin * 5)
    dy = v / period - row - 0.5 + 0.16 * np.cos(spin * 7)
    return np.clip(1 - np.hypot(dx, dy) / radius, 0, 1), np.arctan2(dy, dx) + spin


def dotted(base: Array, accent: Array) -> Paint:
    """Print dots."""

    def paint(u: Array, v: Array) -> Array:
        inside, _ = scattered(u, v, period=0.2, radius=0.26)
        return mix(base, accent, smooth_step(0.0, 0.25, inside)) * fibre(u, v, strength=0.06)

    return paint


def floral(base: Array, accent: Array) -> Paint:
    """Print five-petalled flowers with a yellow heart, and leaves."""

    def paint(u: Array, v: Array) -> Array:
        inside, angle = scattered(u, v, period=0.36, radius=0.42)
        petals = smooth_step(0.0, 0.15, inside - 0.22 + 0.18 * np.cos(5 * angle))
        leaves, _ = scattered(u + 0.17, v + 0.1, period=0.36, radius=0.2)
        cloth = mix(base, dye("green") * 0.8, smooth_step(0.1, 0.4, leaves))
        cloth = mix(cloth, accent, petals)
        return mix(cloth, dye("yellow"), smooth_step(0.72, 0.85, inside)) * fibre(u, v, strength=0.06)

    return paint


def blocked(base: Array, accent: Array) -> Paint:
    """Sew two colours together, with a pale band between."""

    def paint(u: Array, v: Array) -> Array:
        cloth = mix(accent, base, smooth_step(0.78, 0.8, v))
        band = smooth_step(0.66, 0.68, v) * (1 - smooth_step(0.8, 0.82, v))
        return mix(cloth, dye("white"), band) * fibre(u, v, strength=0.06)

    return paint


def buttoned(base: Array, accent: Array) -> Paint:
    """Close a plain shirt or coat by a row of buttons down the middle."""

    def paint(u: Array, v: Array) -> Array:
        seam = np.exp(-((u / 0.018) ** 2)) * 0.5
        button = np.hypot(u - 0.05, (v / 0.34 - np.round(v / 0.34)) * 0.34)
        cloth = base * (1 - seam)[..., None] * fibre(u, v, strength=0.06)
        return mix(cloth, accent, 1 - smooth_step(0.025, 0.045, button))

    return paint


WEAVES: dict[str, Callable[[Array, Array], Paint]] = {
    "woven": woven, "striped": striped, "pinstriped": pinstriped, "plaid": plaid, "knitted": knitted,
    "denim": denim, "dotted": dotted, "floral": floral, "blocked": blocked, "buttoned": buttoned,
}  # fmt: skip


def cloth(weave: str, base: str, accent: str, *, seed: int, folds: float = 0.34, gloss: float = 0.02) -> Material:
    """Return cloth of a weave in two dyes, creased with a given strength."""
    return Material(paint=WEAVES[weave](dye(base), dye(accent)), gloss=gloss, folds=folds, seed=seed)
