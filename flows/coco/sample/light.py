"""Light a scene: what shines, from where and in which colour, and how the film answers to it.

Everything drawn is albedo and shape first and is lit by the one `Light` of its scene, people and background alike.
So people match their own scene and differ from those of every other scene, as in photographs.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from flows.coco.sample.noise import Array

Rgb = tuple[float, float, float]

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear sRGB (IEC 61966-2-1)


@dataclass(frozen=True)
class Light:
    """Say how a scene is lit. Colours are linear RGB; 1 is what lights white paper to white at exposure 1."""

    key: Rgb  # the main light
    direction: tuple[float, float, float]  # towards the main light: right, down, to the viewer
    sky: Rgb  # what comes from above, from everywhere
    ground: Rgb  # what the ground throws back
    rim: Rgb = (0.0, 0.0, 0.0)  # a light behind people that draws their outline
    rim_side: float = 1.0  # -1 the rim light stands left, 1 right
    exposure: float = 1.0
    shadow: float = 0.6  # how dark a cast shadow gets, 0..1
    shadow_blur: float = 0.1  # softness of cast shadows, in heads
    grain: float = 0.012  # standard deviation of the film's grain, of 0..1
    haze: float = 0.0  # how much of the distance is veiled, 0..1


def srgb_to_linear(colour: str) -> Array:
    """Read a colour written as six hexadecimal digits of sRGB into linear RGB, float32 (3,), 0..1."""
    encoded = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)], np.float32) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(np.float32)


def black_body(kelvin: float, luminance: float = 1.0) -> Rgb:
    """Return the linear RGB of a glowing body, as seen by a camera that half corrects for it.

    The cubic of Kim et al. (2002, US patent 7,024,034; printed in most books on colour temperature) gives its
    chromaticity between 1,667 and 25,000 K. Components that sRGB cannot show are cut to zero.
    """
    t = 1000.0 / kelvin
    if kelvin <= 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    if kelvin <= 2222:
        y = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    elif kelvin <= 4000:
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    big_x, big_z = x / y, (1 - x - y) / y
    red = 3.2406 * big_x - 1.5372 - 0.4986 * big_z
    green = -0.9689 * big_x + 1.8758 + 0.0415 * big_z
    blue = 0.0557 * big_x - 0.2040 + 1.0570 * big_z
    # A camera's white balance takes part of the cast away, never all of it.
    kept = [max(value, 0.0) ** 0.72 for value in (red, green, blue)]
    scale = luminance / float(LUMINANCE @ np.array(kept, np.float32))
    return (kept[0] * scale, kept[1] * scale, kept[2] * scale)


LIGHTS: dict[str, Light] = {
    "noon": Light(
        key=black_body(5600, 2.3), direction=(-0.4, -0.75, 0.55), sky=black_body(8500, 0.55),
        ground=black_body(5000, 0.3), exposure=0.62, shadow=0.7, shadow_blur=0.06,
    ),
    "morning": Light(
        key=black_body(4300, 1.9), direction=(0.65, -0.5, 0.55), sky=black_body(7500, 0.5),
        ground=black_body(4600, 0.25), exposure=0.68, haze=0.3,
    ),
    "golden": Light(
        key=black_body(2900, 1.9), direction=(0.8, -0.35, 0.45), sky=black_body(5200, 0.28),
        ground=black_body(3000, 0.2), rim=black_body(2600, 1.2), rim_side=1.0, exposure=0.72, haze=0.25,
    ),
    "sunset": Light(
        key=black_body(2250, 1.1), direction=(-0.9, -0.2, 0.15), sky=(0.24, 0.16, 0.26),
        ground=black_body(2600, 0.1), rim=black_body(2100, 1.8), rim_side=-1.0, exposure=0.85, haze=0.35,
    ),
    "overcast": Light(
        key=black_body(7400, 0.25), direction=(-0.2, -0.85, 0.5), sky=black_body(7600, 0.85),
        ground=black_body(6800, 0.22), exposure=0.72, shadow=0.35, shadow_blur=0.35, haze=0.25,
    ),
    "rain": Light(
        key=black_body(8500, 0.12), direction=(0.1, -0.9, 0.4), sky=black_body(9500, 0.42),
        ground=black_body(9000, 0.14), exposure=0.72, shadow=0.3, shadow_blur=0.4, grain=0.018, haze=0.5,
    ),
    "snow": Light(
        key=black_body(6000, 1.4), direction=(0.5, -0.55, 0.6), sky=black_body(11000, 0.7),
        ground=black_body(9500, 0.6), exposure=0.66, shadow=0.5,
    ),
    "shade": Light(
        key=black_body(9000, 0.35), direction=(-0.5, -0.7, 0.5), sky=black_body(11500, 0.62),
        ground=black_body(6500, 0.2), exposure=0.7, shadow=0.35, shadow_blur=0.25,
    ),
    "forest": Light(
        key=black_body(5200, 0.9), direction=(-0.45, -0.8, 0.35), sky=(0.30, 0.42, 0.24),
        ground=(0.10, 0.15, 0.06), rim=(0.8, 0.95, 0.5), rim_side=-1.0, exposure=0.72, grain=0.015,
    ),
    "side": Light(
        key=black_body(5000, 2.6), direction=(-0.96, -0.22, 0.16), sky=black_body(6500, 0.09),
        ground=black_body(5000, 0.08), exposure=0.6, shadow=0.85, shadow_blur=0.05,
    ),
    "window": Light(
        key=black_body(6800, 1.3), direction=(0.8, -0.3, 0.5), sky=black_body(5200, 0.22),
        ground=black_body(3600, 0.16), exposure=0.75, shadow_blur=0.2,
    ),
    "lamp": Light(
        key=black_body(2700, 0.85), direction=(0.5, -0.6, 0.6), sky=black_body(2800, 0.16),
        ground=black_body(2400, 0.1), exposure=0.72, shadow_blur=0.2, grain=0.022,
    ),
    "candle": Light(
        key=black_body(1950, 0.5), direction=(-0.35, 0.25, 0.9), sky=black_body(2600, 0.035),
        ground=black_body(1900, 0.12), exposure=0.78, shadow=0.4, shadow_blur=0.3, grain=0.022,
    ),
    "office": Light(
        key=(0.42, 0.52, 0.42), direction=(0.05, -0.95, 0.35), sky=(0.52, 0.62, 0.52),
        ground=(0.22, 0.24, 0.20), exposure=0.75, shadow=0.4, shadow_blur=0.3,
    ),
    "neon": Light(
        key=(1.0, 0.10, 0.62), direction=(-0.8, -0.2, 0.55), sky=(0.07, 0.07, 0.22),
        ground=(0.08, 0.03, 0.14), rim=(0.05, 1.1, 1.5), rim_side=1.0, exposure=0.8, grain=0.02,
    ),
    "arcade": Light(
        key=(0.08, 0.72, 0.85), direction=(0.75, -0.3, 0.6), sky=(0.16, 0.05, 0.22),
        ground=(0.14, 0.05, 0.10), rim=(1.6, 0.35, 0.1), rim_side=-1.0, exposure=0.8, grain=0.02,
    ),
    "street_night": Light(
        key=black_body(2100, 0.62), direction=(0.3, -0.85, 0.4), sky=(0.035, 0.045, 0.11),
        ground=black_body(2200, 0.05), rim=black_body(7000, 0.5), rim_side=-1.0, exposure=0.9, grain=0.022,
    ),
    "blue_hour": Light(
        key=black_body(3000, 0.2), direction=(0.7, -0.2, 0.65), sky=(0.11, 0.19, 0.42),
        ground=(0.06, 0.07, 0.13), rim=black_body(2600, 0.6), rim_side=1.0, exposure=0.9, grain=0.022, haze=0.3,
    ),
    "spot": Light(
        key=black_body(4200, 2.2), direction=(0.2, -0.8, 0.55), sky=(0.05, 0.04, 0.16),
        ground=(0.10, 0.06, 0.10), rim=(0.25, 0.3, 1.8), rim_side=-1.0, exposure=0.6, grain=0.02,
    ),
    "red_stage": Light(
        key=(1.25, 0.12, 0.07), direction=(-0.45, -0.65, 0.6), sky=(0.10, 0.02, 0.05),
        ground=(0.10, 0.02, 0.03), rim=black_body(6000, 1.6), rim_side=1.0, exposure=0.85, grain=0.018,
    ),
    "fog": Light(
        key=black_body(6300, 0.15), direction=(0.3, -0.8, 0.5), sky=black_body(6600, 0.75),
        ground=black_body(6400, 0.42), exposure=0.72, shadow=0.2, shadow_blur=0.5, haze=0.85,
    ),
    "flash": Light(
        key=black_body(5800, 1.7), direction=(0.08, -0.12, 0.99), sky=black_body(3000, 0.05),
        ground=black_body(3200, 0.04), exposure=0.66, shadow=0.7, shadow_blur=0.04, grain=0.022,
    ),
}  # fmt: skip


def unit(vector: tuple[float, float, float]) -> Array:
    """Return a vector at length 1, float32 (3,)."""
    values = np.array(vector, np.float32)
    return (values / np.linalg.norm(values)).astype(np.float32)


def irradiance(light: Light, normal: tuple[float, float, float]) -> Array:
    """Return the linear RGB, float32 (3,), that falls on a flat surface with the given normal (right, down, viewer)."""
    facing = unit(normal)
    direct = max(float(facing @ unit(light.direction)), 0.0)
    up = 0.5 - 0.5 * float(facing[1])
    sky, ground, key = (np.array(colour, np.float32) for colour in (light.sky, light.ground, light.key))
    total: Array = key * direct + sky * up + ground * (1 - up)
    return total.astype(np.float32)


def develop(radiance: Array, light: Light, rng: np.random.Generator, *, grey: bool = False) -> Array:
    """Turn linear light into a picture as a camera would: bloom, lens blur, vignette, tone curve and grain.

    The tone curve is the rational fit of Narkowicz, "ACES filmic tone mapping curve" (2015).

    Parameters
    ----------
    radiance
        float32 (H, W, 3), linear RGB, from 0 up.
    light
        Gives exposure and grain.
    rng
        Draws the grain.
    grey
        Whether the film is black and white.

    Returns:
    -------
    uint8 (H, W, 3) sRGB, or (H, W) where `grey`.
    """
    height, width = radiance.shape[:2]
    exposed: Array = radiance * np.float32(light.exposure)
    glow = cv2.resize(np.maximum(exposed - 0.9, 0), (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    glow = cv2.GaussianBlur(glow, (0, 0), sigmaX=width / 120)
    exposed += 0.35 * cv2.resize(glow, (width, height), interpolation=cv2.INTER_LINEAR)
    exposed = cv2.GaussianBlur(exposed, (0, 0), sigmaX=0.55)
    if grey:
        exposed = np.repeat((exposed @ LUMINANCE)[..., None], 3, axis=2)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    exposed *= (1 - 0.16 * (x * x + y * y)).astype(np.float32)[..., None]
    toned = exposed * (2.51 * exposed + 0.03) / (exposed * (2.43 * exposed + 0.59) + 0.14)
    encoded = cv2.pow(np.clip(toned, 0.0, 1.0), 1 / 2.2)
    grain = rng.standard_normal((height, width, 1), np.float32) * (1.0 - 0.5 * encoded)
    colour_grain: Array = rng.standard_normal((height // 2 + 1, width // 2 + 1, 3), np.float32)
    colour_grain = cv2.resize(colour_grain, (width, height), interpolation=cv2.INTER_LINEAR)
    encoded += light.grain * (grain + 0.6 * colour_grain * (not grey))
    picture: Array = np.clip(encoded * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(picture[..., 0]) if grey else picture
