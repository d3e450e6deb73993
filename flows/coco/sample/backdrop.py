"""Paint where a scene takes place: streets, shores, rooms, stages; lit by the same light as the people in it.

Functions that say "into `picture`" change it in place, unlike the rest of the code: a place is some hundred strokes on
one picture, and a copy for each would cost more than the strokes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from flows.coco.sample.cloth import dye, mix, smooth_step
from flows.coco.sample.light import Light, irradiance, srgb_to_linear
from flows.coco.sample.noise import Array, clouds, noise_tile, sample_tile

WALL = (0.0, 0.0, 1.0)
FLOOR = (0.0, -1.0, 0.15)


@dataclass(frozen=True)
class Backdrop:
    """Hold a painted place."""

    radiance: Array  # float32 (H, W, 3), linear RGB
    horizon: int  # row below which the ground lies


def blank(height: int, width: int, colour: Array) -> Array:
    """Return a picture of one colour, float32 (height, width, 3)."""
    return np.broadcast_to(np.asarray(colour, np.float32), (height, width, 3)).copy()


def vertical(height: int, width: int, stops: list[tuple[float, Array]]) -> Array:
    """Return a gradient from top to bottom through `stops`, pairs of (share of the height, colour)."""
    at = np.linspace(0, 1, height)
    places = [place for place, _ in stops]
    rows = np.stack([np.interp(at, places, [float(colour[i]) for _, colour in stops]) for i in range(3)], axis=1)
    return np.repeat(rows.astype(np.float32)[:, None], width, axis=1)


def ground_plane(height: int, width: int, horizon: int) -> tuple[Array, Array, Array]:
    """Return coordinates across and into a floor, (rows, width) each, and the rows' nearness in 0..1, (rows, 1)."""
    rows = np.arange(height - horizon, dtype=np.float32)[:, None] + 1
    nearness = rows / (height - horizon)
    across = (np.arange(width, dtype=np.float32)[None] - width / 2) / (height * nearness)
    return across, np.broadcast_to(1 / nearness, across.shape), nearness


def ground_grain(seed: int, across: Array, near: Array, *, slope: float) -> Array:
    """Return fine noise (rows, width) on a floor: grass, grit or carpet, coarser towards the viewer."""
    u = across * near * (420 / (0.45 + near))
    v = np.broadcast_to(170 * np.log(near + 0.12), across.shape)
    return sample_tile(noise_tile(seed, slope=slope), u, v)


def lay_ground(picture: Array, horizon: int, albedo: Array, light: Light) -> None:
    """Write the lit floor into the rows of `picture` below the horizon, veiled towards it by the haze."""
    lit = albedo * irradiance(light, FLOOR)
    rows = np.linspace(0, 1, len(lit), dtype=np.float32)[:, None, None]
    veil = light.haze * np.exp(-rows * 5)
    picture[horizon:] = lit + (picture[max(horizon - 1, 0)].mean(axis=0) - lit) * veil


def sky(height: int, width: int, horizon: int, light: Light, *, rng: np.random.Generator, cloudy: float) -> Array:
    """Return a sky that fits the light: its own colour above, that of the main light low down, with clouds."""
    above = np.array(light.sky, np.float32) * 1.5 + 0.02
    low = 0.55 * above + 0.35 * np.array(light.key, np.float32) + 0.3 * np.array(light.rim, np.float32)
    blue = above * np.array([0.72, 0.9, 1.15], np.float32)
    picture = vertical(height, width, [(0.0, blue), (horizon / height, low), (1.0, low)])
    y, x = np.ogrid[0:height, 0:width]
    drift = rng.uniform(0, 256, 2)
    # Clouds lie flatter the nearer they are to the horizon.
    flat = 60 * np.log(1.3 - np.minimum(y / (horizon + 1), 1.0))
    cover = sample_tile(noise_tile(21, slope=1.5), (x * (150 / width) + drift[0]), (flat + drift[1]))
    stretch = np.linspace(0.5, 0.9, height, dtype=np.float32)[:, None]
    white = above * 0.7 + 0.45 * np.array(light.key, np.float32)
    return mix(picture, np.broadcast_to(white, picture.shape), cloudy * smooth_step(0.05, 0.95, cover * stretch + 0.25))


def veil(picture: Array, light: Light, distance: float) -> Array:
    """Return a picture seen through the haze of a light at a `distance` in 0..1."""
    air = np.array(light.sky, np.float32) * 1.0 + 0.2 * np.array(light.key, np.float32)
    return picture + (air - picture) * (light.haze * distance)


def ridge(rng: np.random.Generator, width: int, *, base: float, rise: float, cell_px: float) -> Array:
    """Return the rows, (width,), of a skyline of hills."""
    rough: Array = clouds(rng, 2, width, cell_px=cell_px, octaves=5)[0]
    return base - rise * (0.5 + 0.6 * rough)


def hills(
    picture: Array, skyline: Array, albedo: Array, light: Light, *, rng: np.random.Generator, distance: float
) -> None:
    """Write hills below a skyline into `picture`; slopes that face the main light are brighter."""
    height, width = picture.shape[:2]
    y = np.arange(height, dtype=np.float32)[:, None]
    below = smooth_step(-0.7, 0.7, y - skyline[None])
    relief = clouds(rng, height, width, cell_px=width / 7, octaves=5)
    slope = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3) * (width / 160)
    shade = np.clip(0.75 - 0.55 * slope * light.direction[0], 0.15, 1.4)[..., None]
    lit = albedo * irradiance(light, (0.0, -0.7, 0.7)) * shade
    picture[:] = mix(picture, veil(lit, light, distance), below)


def foliage(
    picture: Array, rng: np.random.Generator, light: Light, *, centre: tuple[float, float], radius: tuple[float, float],
    colour: Array,
) -> None:  # fmt: skip
    """Write the crown of a tree or bush into `picture`: ragged, lit from above and from the light's side."""
    height, width = picture.shape[:2]
    left, right = max(int(centre[0] - 1.4 * radius[0]), 0), min(int(centre[0] + 1.4 * radius[0]), width)
    top, bottom = max(int(centre[1] - 1.4 * radius[1]), 0), min(int(centre[1] + 1.4 * radius[1]), height)
    if right - left < 4 or bottom - top < 4:
        return
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    dx, dy = (x - centre[0]) / radius[0], (y - centre[1]) / radius[1]
    lumps = clouds(rng, bottom - top, right - left, cell_px=max(radius[0] / 2.5, 6), octaves=4)
    leaves = sample_tile(noise_tile(int(rng.integers(16)) + 40, slope=0.5), x * 1.3, y * 1.3)
    inside = 1 - np.sqrt(dx * dx + dy * dy) + 0.22 * lumps + 0.05 * leaves
    cover = smooth_step(0.0, 0.06, inside)
    towards = 0.5 * (dx * np.sign(light.direction[0])) - 0.75 * dy + 0.55 * lumps
    shade = np.clip(0.62 + 0.42 * towards + 0.22 * leaves, 0.08, 1.7)
    lit = colour * shade[..., None] * irradiance(light, (0.0, -0.6, 0.8))
    picture[top:bottom, left:right] = mix(picture[top:bottom, left:right], lit, cover)


def quad(picture: Array, corners: list[tuple[float, float]], colour: Array, *, opacity: float = 1.0) -> None:
    """Fill a polygon of (x, y) corners in `picture` with a linear colour, with smooth edges."""
    points = np.array(corners, np.float32)
    left, top = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
    right, bottom = np.ceil(points.max(0)).astype(int) + 2
    part = picture[top:bottom, left:right]
    if part.size == 0:
        return
    mask = np.zeros(part.shape[:2], np.uint8)
    fixed = np.round((points - np.array([left, top], np.float32)) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], color=255, lineType=cv2.LINE_AA, shift=4)
    part += (np.asarray(colour, np.float32) - part) * (mask.astype(np.float32) * (opacity / 255))[..., None]


def box(  # noqa: PLR0917 - the four edges read best in a row
    picture: Array, left: float, top: float, right: float, bottom: float, colour: Array, *, opacity: float = 1.0
) -> None:
    """Fill an upright rectangle (see `quad`)."""
    quad(picture, [(left, top), (right, top), (right, bottom), (left, bottom)], colour, opacity=opacity)


def glow(picture: Array, x: float, y: float, radius: float, colour: Array) -> None:
    """Add a soft light around a point to `picture`."""
    height, width = picture.shape[:2]
    top, bottom = max(int(y - 3 * radius), 0), min(int(y + 3 * radius), height)
    left, right = max(int(x - 3 * radius), 0), min(int(x + 3 * radius), width)
    yy, xx = np.mgrid[top:bottom, left:right].astype(np.float32)
    fall = np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * (radius * 0.8) ** 2))
    picture[top:bottom, left:right] += fall[..., None] * np.asarray(colour, np.float32)


def bokeh(
    picture: Array, rng: np.random.Generator, *, count: int, top: float, bottom: float, colours: list[Array]
) -> None:
    """Add out-of-focus lights, discs with a bright rim, between two rows to `picture`."""
    height, width = picture.shape[:2]
    for _ in range(count):
        x, y = rng.uniform(0, width), rng.uniform(top, bottom)
        radius = rng.uniform(0.008, 0.032) * width
        left, right = max(int(x - radius - 2), 0), min(int(x + radius + 2), width)
        high, low = max(int(y - radius - 2), 0), min(int(y + radius + 2), height)
        yy, xx = np.mgrid[high:low, left:right].astype(np.float32)
        distance = np.hypot(xx - np.float32(x), yy - np.float32(y)) / np.float32(radius)
        disc = 1 - smooth_step(0.92, 1.05, distance)
        disc = disc * (0.7 + 0.5 * distance**4)
        picture[high:low, left:right] += (
            disc[..., None] * colours[int(rng.integers(len(colours)))] * np.float32(rng.uniform(0.2, 1.0))
        )


def facade(
    picture: Array, rng: np.random.Generator, light: Light, *, left: float, right: float, top: float, bottom: float
) -> None:
    """Write the front of a house with rows of windows into `picture`."""
    walls = ("b98b6a", "9c5b45", "c9b79c", "8f9aa3", "d8cfc0", "7a6a5d", "b5a08a", "a9b7b0")
    wall = srgb_to_linear(walls[int(rng.integers(len(walls)))])
    facing = irradiance(light, (float(rng.uniform(-0.35, 0.35)), 0.0, 1.0))
    night = float(np.mean(light.sky)) < 0.2
    box(picture, left, top, right, bottom, wall * facing)
    columns, rows = max(int((right - left) / rng.uniform(26, 40)), 1), max(int((bottom - top) / rng.uniform(38, 56)), 1)
    step_x, step_y = (right - left) / columns, (bottom - top) / rows
    for row in range(rows):
        y = top + (row + 0.25) * step_y
        box(picture, left, y + 0.66 * step_y, right, y + 0.70 * step_y, wall * facing * 0.75)
        for column in range(columns):
            x = left + (column + 0.28) * step_x
            lamp = night and rng.random() < 0.45
            glass = (
                np.array([1.5, 0.95, 0.42], np.float32) * np.float32(rng.uniform(0.3, 1.0))
                if lamp
                else (0.10 + 0.35 * rng.uniform() * np.array(light.sky, np.float32))
            )
            box(picture, x - 2, y - 2, x + 0.44 * step_x + 2, y + 0.54 * step_y + 2, wall * facing * 1.25)
            box(picture, x, y, x + 0.44 * step_x, y + 0.54 * step_y, glass)
            box(picture, x, y, x + 0.44 * step_x, y + 0.08 * step_y, glass * 0.5)
            box(picture, x + 0.21 * step_x, y, x + 0.23 * step_x, y + 0.54 * step_y, wall * facing)
    box(picture, left, top - 5, right, top + 3, wall * facing * 0.6)


def street(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build a street: houses, pavement of slabs, sky between the roofs."""
    horizon = int(height * rng.uniform(0.62, 0.7))
    picture = sky(height, width, horizon, light, rng=rng, cloudy=0.7)
    x = -float(rng.uniform(0, 60))
    while x < width:
        right = x + rng.uniform(0.16, 0.3) * width
        facade(picture, rng, light, left=x, right=right - 2, top=height * rng.uniform(-0.12, 0.2), bottom=horizon - 2)
        x = right
    for _ in range(int(rng.integers(1, 4))):
        shop = rng.uniform(0, width * 0.8)
        colour = dye(str(rng.choice(["red", "green", "navy", "mustard", "white"]))) * irradiance(light, (0, -0.6, 0.8))
        quad(picture, [(shop, horizon - 0.2 * height), (shop + 0.16 * width, horizon - 0.2 * height),
                       (shop + 0.18 * width, horizon - 0.15 * height), (shop - 0.02 * width, horizon - 0.15 * height)], colour)  # fmt: skip
    grain = sample_tile(
        noise_tile(1, slope=0.7), np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
    )
    picture[:horizon] *= (1 + 0.05 * grain[:horizon])[..., None]
    picture = veil(picture, light, 0.55)
    across, depth, near = ground_plane(height, width, horizon)
    slabs = np.minimum(np.abs(np.sin(across * 9)), np.abs(np.sin(depth * 6)))
    seams = 1 - 0.35 * np.exp(-slabs * 14 * near) * smooth_step(0.1, 0.5, near + 0 * across)
    rough = sample_tile(noise_tile(2, slope=0.7), across * 160, depth * 90)
    tone = sample_tile(noise_tile(4, slope=1.4), across * 40, depth * 30)
    lay_ground(
        picture, horizon, srgb_to_linear("8d8a86") * (seams * (1 + 0.10 * rough + 0.10 * tone))[..., None], light
    )
    return Backdrop(picture, horizon)


def beach(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build a shore: sky, a glittering sea, foam, sand."""
    horizon = int(height * rng.uniform(0.36, 0.46))
    shore = int(height * rng.uniform(0.60, 0.68))
    picture = sky(height, width, horizon, light, rng=rng, cloudy=0.55)
    if light.rim_side and max(light.rim) > 0.5:
        glow(
            picture,
            width * (0.5 + 0.38 * np.sign(light.direction[0])),
            horizon - 0.06 * height,
            0.05 * width,
            np.array(light.key) * 2,
        )
    across, depth, _near = ground_plane(height, width, horizon)
    waves = sample_tile(noise_tile(6, slope=1.0), across * 30, depth * 160 + 3 * across)
    water = srgb_to_linear("2f6f7d") * irradiance(light, FLOOR) * 0.7 + 0.35 * np.array(light.sky, np.float32)
    sea = water * (1 + 0.22 * waves)[..., None]
    glitter = smooth_step(1.0, 2.4, waves)[..., None] * (
        0.5 * np.array(light.key, np.float32) + 0.3 * np.array(light.sky, np.float32)
    )
    picture[horizon:] = sea + glitter
    edge = shore + 7 * clouds(rng, 2, width, cell_px=width / 5, octaves=4)[0]
    y = np.arange(height, dtype=np.float32)[:, None]
    rough = sample_tile(noise_tile(2, slope=0.6), np.arange(width, dtype=np.float32)[None] * 1.1, y * 1.7)
    dunes = clouds(rng, height, width, cell_px=width / 9, octaves=4)
    sand = srgb_to_linear("d9bf94") * irradiance(light, FLOOR) * (1 + 0.07 * rough + 0.10 * dunes)[..., None]
    wet = 1 - smooth_step(2, 34, y - edge[None])
    sand = sand * (1 - 0.45 * wet[..., None])
    picture = mix(picture, sand, smooth_step(-1, 1, y - edge[None]))
    foam = np.exp(-(((y - edge[None] + 2) / 4.0) ** 2)) * np.clip(0.7 + 0.5 * rough, 0, 1)
    picture = mix(picture, np.broadcast_to(0.85 * irradiance(light, FLOOR), picture.shape), foam)
    return Backdrop(picture, shore)


def park(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build a park: a wall of trees, trunks, a lawn with a path."""
    horizon = int(height * rng.uniform(0.55, 0.64))
    picture = sky(height, width, horizon, light, rng=rng, cloudy=0.6)
    greens = [srgb_to_linear(code) for code in ("4f6b2f", "3f5f2e", "6d7f36", "7b6a2a", "35512b")]
    for _ in range(9):
        foliage(picture, rng, light, centre=(rng.uniform(0, width), horizon - rng.uniform(0.05, 0.16) * height),
                radius=(rng.uniform(0.10, 0.2) * width, rng.uniform(0.12, 0.26) * height), colour=greens[int(rng.integers(5))])  # fmt: skip
    picture = veil(picture, light, 0.8)
    for _ in range(4):
        x, thick = rng.uniform(0, width), rng.uniform(0.010, 0.022) * width
        foot = horizon + rng.uniform(0, 0.06) * height
        quad(picture, [(x - thick * 0.7, 0.2 * height), (x + thick * 0.6, 0.2 * height), (x + thick * 1.3, foot), (x - thick * 1.3, foot)],
             srgb_to_linear("4a3a2c") * irradiance(light, WALL) * 0.8)  # fmt: skip
        side = np.sign(light.direction[0])
        quad(picture, [(x + side * thick * 0.2, 0.2 * height), (x + side * thick * 0.6, 0.2 * height),
                       (x + side * thick * 1.2, foot), (x + side * thick * 0.5, foot)],
             srgb_to_linear("5d4a38") * irradiance(light, (side * 0.9, 0, 0.3)))  # fmt: skip
        foliage(picture, rng, light, centre=(x, 0.14 * height), radius=(rng.uniform(0.14, 0.24) * width, rng.uniform(0.16, 0.28) * height),
                colour=greens[int(rng.integers(5))])  # fmt: skip
    across, depth, near = ground_plane(height, width, horizon)
    blades = ground_grain(8, across, near, slope=0.4)
    patches = sample_tile(noise_tile(9, slope=1.5), across * 26, depth * 30)
    lawn = srgb_to_linear("5c7434") * (1 + 0.20 * blades + 0.16 * patches)[..., None]
    middle = rng.uniform(-0.4, 0.4)
    way = (
        smooth_step(0.42, 0.36, np.abs(across - middle * depth))
        if False
        else 1 - smooth_step(0.36, 0.42, np.abs(across - middle))
    )
    lay_ground(picture, horizon, mix(lawn, srgb_to_linear("b09d80") * (1 + 0.1 * blades)[..., None], way), light)
    return Backdrop(picture, horizon)


def forest(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build the inside of a wood: many trunks behind each other, ferns, sun spots on the ground."""
    horizon = int(height * rng.uniform(0.6, 0.68))
    far = np.array(light.sky, np.float32) * 1.2 + 0.25 * np.array(light.key, np.float32)
    picture = vertical(height, width, [(0.0, far * 0.8), (0.5, far * 1.3), (1.0, far)])
    picture *= (1 + 0.35 * clouds(rng, height, width, cell_px=width / 8))[..., None]
    for layer in range(4):
        for _ in range(7):
            x, thick = rng.uniform(0, width), rng.uniform(0.006, 0.012) * width * (1 + 0.7 * layer)
            shade = srgb_to_linear("4b3b2d") * irradiance(light, WALL) * (0.9 - 0.1 * layer)
            colour = shade + (far - shade) * (0.65 - 0.2 * layer)
            lean = rng.uniform(-2, 2) * thick
            quad(
                picture,
                [
                    (x - thick + lean, -5),
                    (x + thick + lean, -5),
                    (x + 1.3 * thick, horizon + 6 * layer),
                    (x - 1.3 * thick, horizon + 6 * layer),
                ],
                colour,
            )
        for _ in range(5):
            foliage(picture, rng, light, centre=(rng.uniform(0, width), rng.uniform(0, 0.25) * height),
                    radius=(rng.uniform(0.1, 0.2) * width, rng.uniform(0.08, 0.16) * height), colour=srgb_to_linear("4c6a2c"))  # fmt: skip
    for _ in range(12):
        foliage(picture, rng, light, centre=(rng.uniform(0, width), horizon), radius=(rng.uniform(0.05, 0.12) * width, rng.uniform(0.03, 0.09) * height),
                colour=srgb_to_linear("3f6a35"))  # fmt: skip
    across, depth, near = ground_plane(height, width, horizon)
    litter = ground_grain(8, across, near, slope=0.5)
    spots = smooth_step(0.5, 1.3, sample_tile(noise_tile(12, slope=1.2), across * 45, depth * 40))
    earth = srgb_to_linear("5a4a30") * (0.6 + 0.2 * litter + 0.9 * spots)[..., None]
    lay_ground(picture, horizon, np.clip(earth, 0.01, 1), light)
    return Backdrop(picture, horizon)


def snow(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build snowy hills with firs."""
    horizon = int(height * rng.uniform(0.58, 0.66))
    picture = sky(height, width, horizon, light, rng=rng, cloudy=0.5)
    white, rock = srgb_to_linear("e9edf2"), srgb_to_linear("7f8894")
    hills(
        picture,
        ridge(rng, width, base=0.42 * height, rise=0.22 * height, cell_px=width / 3),
        rock,
        light,
        rng=rng,
        distance=0.8,
    )
    hills(
        picture,
        ridge(rng, width, base=0.50 * height, rise=0.10 * height, cell_px=width / 4),
        0.85 * white,
        light,
        rng=rng,
        distance=0.5,
    )
    for x in np.sort(rng.uniform(-20, width + 20, 26)):
        size, foot = rng.uniform(0.05, 0.16) * height, horizon - rng.uniform(-0.02, 0.10) * height
        for tier in range(5):
            low, wide = foot - size * tier * 0.2, size * (0.30 - 0.05 * tier)
            shade = irradiance(light, (np.sign(light.direction[0]) * 0.3, -0.4, 0.8))
            quad(picture, [(x, low - size * 0.36), (x + wide, low), (x - wide, low)], srgb_to_linear("2c4236") * shade)
            quad(
                picture,
                [
                    (x, low - size * 0.36),
                    (x + wide * 0.6, low - size * 0.1),
                    (x, low - size * 0.16),
                    (x - wide * 0.6, low - size * 0.1),
                ],
                0.8 * white * shade,
            )
    across, depth, near = ground_plane(height, width, horizon)
    drifts = sample_tile(noise_tile(9, slope=1.7), across * 24, depth * 34)
    sparkle = ground_grain(2, across, near, slope=0.3)
    lay_ground(picture, horizon, white * (0.92 + 0.10 * drifts + 0.03 * sparkle)[..., None], light)
    return Backdrop(picture, horizon)


def room(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build a room: papered wall, skirting, floor boards, pictures, a lamp."""
    horizon = int(height * rng.uniform(0.68, 0.76))
    papers = ("b8a58c", "8fa0a0", "a98f86", "6f7f76", "c4b69a", "7c6e80")
    wall = srgb_to_linear(papers[int(rng.integers(len(papers)))])
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    pattern = (
        0.05 * np.sign(np.sin(x * (2 * np.pi / 34))) if rng.random() < 0.5 else 0.05 * np.sin(x / 9) * np.sin(y / 9)
    )
    soft = clouds(rng, height, width, cell_px=width / 2, octaves=3)
    from_side = 1 + 0.35 * (x / width - 0.5) * np.sign(light.direction[0]) * 2
    picture = wall * irradiance(light, WALL) * ((1 + pattern + 0.06 * soft) * from_side)[..., None]
    frames = ("3b2a1e", "c9a24a", "1f1f22", "e5e0d5")
    for _ in range(3):
        left, top = rng.uniform(0.0, 0.85) * width, rng.uniform(0.06, 0.28) * height
        wide, high = rng.uniform(0.10, 0.2) * width, rng.uniform(0.14, 0.26) * height
        box(picture, left + 4, top + 5, left + wide + 5, top + high + 6, np.zeros(3), opacity=0.3)
        box(
            picture,
            left,
            top,
            left + wide,
            top + high,
            srgb_to_linear(frames[int(rng.integers(4))]) * irradiance(light, WALL),
        )
        art = [
            dye(str(name)) * irradiance(light, WALL)
            for name in rng.choice(["sky", "rust", "teal", "mustard", "plum", "olive", "cream"], 3)
        ]
        box(picture, left + 6, top + 6, left + wide - 6, top + high - 6, art[0])
        quad(picture, [(left + 6, top + 0.6 * high), (left + 0.5 * wide, top + 0.4 * high), (left + wide - 6, top + 0.7 * high),
                       (left + wide - 6, top + high - 6), (left + 6, top + high - 6)], art[1])  # fmt: skip
        glow(picture, left + 0.65 * wide, top + 0.3 * high, 4, art[2])
    lamp_x = width * (0.5 + 0.40 * np.sign(light.direction[0]))
    glow(picture, lamp_x, 0.32 * height, 0.16 * width, np.array(light.key, np.float32) * 0.35)
    quad(picture, [(lamp_x - 14, 0.24 * height), (lamp_x + 14, 0.24 * height), (lamp_x + 30, 0.38 * height), (lamp_x - 30, 0.38 * height)],
         np.array(light.key, np.float32) * 1.2 + 0.25)  # fmt: skip
    box(picture, lamp_x - 2, 0.38 * height, lamp_x + 2, horizon + 12, np.full(3, 0.03))
    box(picture, 0, horizon - 14, width, horizon, 0.6 * irradiance(light, WALL))
    lay_ground(picture, horizon, boards(height, width, horizon, "8a5f3c"), light)
    return Backdrop(picture, horizon)


def boards(height: int, width: int, horizon: int, colour: str) -> Array:
    """Return the albedo (rows, width, 3) of a floor of wooden boards that runs away from the viewer."""
    across, depth, near = ground_plane(height, width, horizon)
    board = np.floor(across * 7)
    tone = 0.16 * np.sin(board * 12.9898) + 0.08 * sample_tile(
        noise_tile(14, slope=1.0), across * 300, depth * 16 + board * 37
    )
    seam = np.abs(across * 7 - np.round(across * 7))
    dark = 1 - 0.55 * np.exp(-seam * 30 * near)
    return np.asarray(srgb_to_linear(colour) * ((1 + tone) * dark)[..., None])


def office(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build an office: ceiling with tubes, grey partition walls, shelves, carpet."""
    horizon = int(height * rng.uniform(0.66, 0.74))
    picture = blank(height, width, srgb_to_linear("c3c8c2") * irradiance(light, WALL))
    ceiling = int(0.14 * height)
    picture[:ceiling] = srgb_to_linear("e5e8e2") * np.array(light.ground, np.float32) * 2.2
    for i in range(4):
        x = width * (0.02 + 0.27 * i)
        quad(picture, [(x, 0.02 * height), (x + 0.16 * width, 0.02 * height), (x + 0.15 * width, 0.075 * height), (x + 0.02 * width, 0.075 * height)],
             np.array(light.key, np.float32) * 4)  # fmt: skip
    for i in range(int(rng.integers(2, 4))):
        left = width * (0.04 + 0.33 * i + rng.uniform(0, 0.06))
        for shelf in range(4):
            top = height * (0.22 + 0.115 * shelf)
            box(
                picture,
                left,
                top,
                left + 0.24 * width,
                top + 0.105 * height,
                srgb_to_linear("6c6f6b") * irradiance(light, WALL) * 0.5,
            )
            x = left + 4
            while x < left + 0.22 * width:
                wide, high = rng.uniform(5, 12), rng.uniform(0.055, 0.09) * height
                name = str(rng.choice(["navy", "red", "olive", "grey", "white", "mustard", "charcoal", "teal"]))
                box(
                    picture,
                    x,
                    top + 0.10 * height - high,
                    x + wide - 1,
                    top + 0.10 * height,
                    dye(name) * irradiance(light, WALL),
                )
                x += wide
            box(
                picture,
                left - 3,
                top + 0.10 * height,
                left + 0.24 * width + 3,
                top + 0.115 * height,
                srgb_to_linear("d8d6cf") * irradiance(light, WALL),
            )
    across, depth, near = ground_plane(height, width, horizon)
    fuzz = ground_grain(8, across, near, slope=0.3)
    tiles = np.sign(np.sin(across * 11) * np.sin(depth * 8))
    lay_ground(picture, horizon, srgb_to_linear("5f6a70") * (1 + 0.13 * fuzz + 0.05 * tiles)[..., None], light)
    return Backdrop(picture, horizon)


def stage(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build a stage: a curtain in folds, beams of light, a dark shining floor."""
    horizon = int(height * rng.uniform(0.72, 0.78))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    phase = x / width * 60 + 1.5 * clouds(rng, 2, width, cell_px=width / 6)[0][None] + 0.6 * np.sin(y / 90)
    folds = np.sin(phase)
    curtain = dye(str(rng.choice(["red", "plum", "navy", "violet"]))) * (0.55 + 0.45 * folds)[..., None]
    picture = curtain * irradiance(light, (0.3, -0.2, 0.9)) * (0.35 + 0.5 * y / height)[..., None]
    for source in (0.15, 0.5, 0.85):
        target = source + rng.uniform(-0.25, 0.25)
        beam_x = width * (source + (target - source) * y / horizon)
        beam = np.exp(-(((x - beam_x) / (10 + 0.10 * y)) ** 2)) * (1 - 0.5 * y / height)
        tint = np.array(light.key if rng.random() < 0.5 else light.rim, np.float32)
        picture += beam[..., None] * tint * 0.16
        glow(picture, width * source, 4, 10, tint * 3)
    floor = boards(height, width, horizon, "3a2c26")
    mirrored = (
        picture[horizon - 1 : max(2 * horizon - height - 1, 0) : -1]
        if 2 * horizon - height >= 1
        else picture[: height - horizon]
    )
    lay_ground(picture, horizon, floor, light)
    picture[horizon:] += 0.14 * mirrored[: height - horizon]
    return Backdrop(picture, horizon)


def night_city(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build a town at night, out of focus: lights as discs, signs, a wet road that mirrors them."""
    horizon = int(height * rng.uniform(0.64, 0.72))
    above = np.array(light.sky, np.float32)
    picture = vertical(height, width, [(0, above * 0.5), (horizon / height, above * 1.4 + 0.02), (1, above)])
    x = -20.0
    while x < width:
        right = x + rng.uniform(0.1, 0.24) * width
        facade(picture, rng, light, left=x, right=right, top=rng.uniform(-0.1, 0.35) * height, bottom=float(horizon))
        x = right
    tints = [
        np.array(c, np.float32)
        for c in ((1.6, 0.8, 0.25), (1.5, 1.2, 0.9), (1.4, 0.15, 0.12), (0.15, 0.7, 1.3), (1.2, 0.15, 0.9))
    ]
    tints = [*tints, np.array(light.key, np.float32), np.array(light.rim, np.float32) + 0.1]
    for _ in range(3):
        sign_x, sign_y = rng.uniform(0, 0.85) * width, rng.uniform(0.1, 0.4) * height
        colour = tints[int(rng.integers(len(tints)))]
        box(
            picture,
            sign_x,
            sign_y,
            sign_x + rng.uniform(0.04, 0.16) * width,
            sign_y + rng.uniform(0.04, 0.14) * height,
            colour * 1.2,
        )
        glow(picture, sign_x, sign_y, 0.06 * width, colour * 0.25)
    picture = cv2.GaussianBlur(picture, (0, 0), sigmaX=width / 130)
    bokeh(picture, rng, count=46, top=0.12 * height, bottom=horizon, colours=tints)
    rows = height - horizon
    mirror = cv2.resize(
        picture[max(horizon - 2 * rows, 0) : horizon][::-1], (width, rows), interpolation=cv2.INTER_AREA
    )
    mirror = cv2.GaussianBlur(mirror, (0, 0), sigmaX=4, sigmaY=14)
    across, depth, _ = ground_plane(height, width, horizon)
    rough = sample_tile(noise_tile(2, slope=0.9), across * 120, depth * 150)
    lay_ground(picture, horizon, srgb_to_linear("3a3a3d") * (1 + 0.15 * rough)[..., None], light)
    picture[horizon:] += mirror * (0.55 + 0.22 * rough)[..., None].clip(0.1, 1)
    return Backdrop(picture, horizon)


def studio(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build a photographer's paper backdrop with a round glow of light."""
    horizon = int(height * 0.8)
    names = ("grey", "teal", "rust", "olive", "tan", "navy", "plum", "sky", "cream")
    # A coloured light on coloured paper leaves nothing but that colour.
    coloured = max(light.key) > 4 * min(light.key)
    paper = dye("grey" if coloured else names[int(rng.integers(len(names)))])
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    middle = 0.5 + 0.22 * np.sign(light.direction[0])
    spot = np.exp(-(((x / width - middle) / 0.55) ** 2) - ((y / height - 0.4) / 0.6) ** 2)
    mottle = clouds(rng, height, width, cell_px=width / 4, octaves=5)
    picture = paper * irradiance(light, WALL) * (0.35 + 0.8 * spot + 0.07 * mottle)[..., None]
    return Backdrop(picture.astype(np.float32), horizon)


def brick(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build a brick wall in the open, lit at a grazing angle, with a pavement."""
    horizon = int(height * rng.uniform(0.74, 0.82))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    high, wide = height / 26, height / 10
    row = np.floor(y / high)
    column = np.floor(x / wide + 0.5 * (row % 2))
    dx = np.abs(x / wide + 0.5 * (row % 2) - column - 0.5) * wide
    dy = np.abs(y / high - row - 0.5) * high
    stone = smooth_step(0, 2.0, np.minimum(wide / 2 - dx, high / 2 - dy) - 0.8)
    tone = np.sin(row * 12.9898 + column * 78.233) * 43758.5453
    tone = tone - np.floor(tone)
    rough = sample_tile(noise_tile(2, slope=0.7), x, y)
    painted = rng.random() < 0.4
    clay = (
        srgb_to_linear("c8c2b4" if painted else "93503a")
        * (0.75 + (0.15 if painted else 0.5) * tone + 0.09 * rough)[..., None]
    )
    albedo = mix(np.broadcast_to(srgb_to_linear("a59c8e") * 0.7, clay.shape), clay, stone)
    edge = (
        cv2.Sobel(stone, cv2.CV_32F, 1, 0, ksize=3) * light.direction[0]
        + cv2.Sobel(stone, cv2.CV_32F, 0, 1, ksize=3) * light.direction[1]
    )
    picture = (albedo * (1 - 0.10 * edge)[..., None] * irradiance(light, WALL)).astype(np.float32)
    picture *= (1 + 0.3 * (x / width - 0.5) * 2 * np.sign(light.direction[0]))[..., None]
    across, _depth, near = ground_plane(height, width, horizon)
    grit = ground_grain(8, across, near, slope=0.5)
    lay_ground(picture, horizon, srgb_to_linear("77736e") * (1 + 0.16 * grit)[..., None], light)
    return Backdrop(picture, horizon)


def meadow(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build open country: hills behind each other, a field of flowers."""
    horizon = int(height * rng.uniform(0.54, 0.62))
    picture = sky(height, width, horizon, light, rng=rng, cloudy=0.75)
    for i, code in enumerate(("5d7388", "55704f", "7a8a45")):
        line = ridge(
            rng,
            width,
            base=horizon - (0.10 - 0.045 * i) * height,
            rise=(0.16 - 0.05 * i) * height,
            cell_px=width / (2 + i),
        )
        hills(picture, line, srgb_to_linear(code), light, rng=rng, distance=0.9 - 0.3 * i)
    across, depth, near = ground_plane(height, width, horizon)
    blades = ground_grain(8, across, near, slope=0.4)
    patches = sample_tile(noise_tile(9, slope=1.4), across * 30, depth * 30)
    field = srgb_to_linear("8a8a3c") * (1 + 0.22 * blades + 0.18 * patches)[..., None]
    bloom = smooth_step(1.9, 2.3, ground_grain(18, across, near, slope=0.25))
    petals = dye(str(rng.choice(["red", "white", "violet", "yellow"])))
    lay_ground(picture, horizon, mix(field, np.broadcast_to(petals, field.shape), bloom), light)
    return Backdrop(picture, horizon)


def cafe(height: int, width: int, light: Light, rng: np.random.Generator) -> Backdrop:
    """Build the inside of a café: panelled wall, a big window, hanging lamps."""
    horizon = int(height * 0.8)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    panel = np.abs(np.sin(x * (np.pi / 46)))
    wood = (
        srgb_to_linear("5f4331")
        * (0.8 + 0.25 * smooth_step(0.02, 0.12, panel) + 0.10 * sample_tile(noise_tile(14), x * 3, y * 0.4))[..., None]
    )
    plaster = srgb_to_linear("a89a84") * (1 + 0.08 * clouds(rng, height, width, cell_px=width / 3))[..., None]
    picture = (mix(plaster, wood, smooth_step(-1, 1, y - 0.5 * height)) * irradiance(light, WALL)).astype(np.float32)
    left = width * (0.05 if light.direction[0] < 0 else 0.58)
    outside = np.array(light.key, np.float32) * 0.55 + np.array(light.sky, np.float32) * 1.2
    box(picture, left - 8, 0.06 * height, left + 0.36 * width + 8, 0.62 * height, np.full(3, 0.05))
    for i in range(3):
        pane = left + 0.12 * width * i
        box(
            picture,
            pane + 2,
            0.08 * height,
            pane + 0.12 * width - 2,
            0.60 * height,
            outside * (0.9 + 0.2 * rng.random()),
        )
        box(
            picture,
            pane + 2,
            0.42 * height,
            pane + 0.12 * width - 2,
            0.60 * height,
            outside * np.array([0.4, 0.5, 0.35], np.float32),
        )
    for i in range(4):
        lamp = width * (0.12 + 0.26 * i)
        box(picture, lamp - 1, 0, lamp + 1, 0.12 * height, np.full(3, 0.02))
        quad(
            picture,
            [
                (lamp - 6, 0.12 * height),
                (lamp + 6, 0.12 * height),
                (lamp + 20, 0.18 * height),
                (lamp - 20, 0.18 * height),
            ],
            np.full(3, 0.03),
        )
        glow(picture, lamp, 0.19 * height, 0.025 * width, np.array([1.6, 1.0, 0.5]))
    lay_ground(picture, horizon, boards(height, width, horizon, "6b4a30"), light)
    return Backdrop(picture, horizon)


PLACES: dict[str, Callable[[int, int, Light, np.random.Generator], Backdrop]] = {
    "street": street, "beach": beach, "park": park, "forest": forest, "snow": snow, "room": room, "office": office,
    "stage": stage, "night_city": night_city, "studio": studio, "brick": brick, "meadow": meadow, "cafe": cafe,
}  # fmt: skip
