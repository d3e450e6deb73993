"""Draw a head: a ball with a jaw, features placed on it by direction so that they turn with it, and hair."""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from flows.coco.sample.canvas import CHANNELS, GLOSS, SKIN, Canvas, Material, Point, Shape, plain
from flows.coco.sample.cloth import DYES, dye, mix, smooth_step
from flows.coco.sample.light import srgb_to_linear
from flows.coco.sample.noise import Array, noise_tile, sample_tile

HALF_WIDTH, HALF_HEIGHT = 0.375, 0.5  # of the head, in heads
SKINS = ("f2d2bd", "e9bd9f", "dca883", "c88f68", "ad7550", "8a5737", "653d27", "472a1b")
HAIRS = ("17120f", "2b1c14", "4a2f1d", "6e4526", "9a6a38", "c89b58", "8b3b1c", "9b9791", "d8d4cc")
IRISES = ("3b2415", "4d3a20", "3f6078", "4f6b45")


@dataclass(frozen=True)
class HairStyle:
    """Give a haircut in units of half a head."""

    volume: float  # how far hair stands off the skull
    side: float  # height, downwards, that it reaches beside the face
    brow: float  # height of the hairline above the face; higher numbers show less forehead
    curl: float = 0.0  # how ragged the outline is
    back: float = 0.0  # length that falls behind the shoulders, in heads
    bun: bool = False
    part: float = 0.0  # where the hairline is highest


HAIR_STYLES: dict[str, HairStyle] = {
    "short": HairStyle(volume=0.07, side=0.02, brow=-0.62, curl=0.015, part=0.25),
    "crop": HairStyle(volume=0.03, side=-0.12, brow=-0.66),
    "tousled": HairStyle(volume=0.15, side=0.05, brow=-0.52, curl=0.06, part=-0.3),
    "bob": HairStyle(volume=0.14, side=0.95, brow=-0.6, back=0.25, part=0.2),
    "fringe": HairStyle(volume=0.13, side=0.8, brow=-0.3, back=0.35),
    "long": HairStyle(volume=0.12, side=1.0, brow=-0.62, back=1.25, part=-0.2),
    "wavy": HairStyle(volume=0.18, side=1.0, brow=-0.58, back=0.95, curl=0.05, part=0.3),
    "bun": HairStyle(volume=0.06, side=-0.05, brow=-0.64, bun=True),
    "afro": HairStyle(volume=0.42, side=0.42, brow=-0.62, curl=0.06),
    "curly": HairStyle(volume=0.25, side=0.22, brow=-0.55, curl=0.08),
}

HATS: dict[str, HairStyle] = {
    "beanie": HairStyle(volume=0.16, side=-0.02, brow=-0.33),
    "cap": HairStyle(volume=0.13, side=-0.15, brow=-0.36),
    "scarf": HairStyle(volume=0.12, side=1.2, brow=-0.5),
}


@dataclass(frozen=True)
class Face:
    """Give the looks of one head. Colours are linear RGB, float32 (3,)."""

    skin: Array
    hair: Array
    iris: Array
    style: str = "short"
    smile: float = 0.6  # 0 earnest .. 1 broad
    jaw: float = 0.25  # how much the face narrows to the chin
    eye_gap: float = 0.37
    nose: float = 1.0
    lips: float = 0.3  # how red
    beard: float = 0.0
    glasses: bool = False
    hat: str = ""  # none, or a name in HATS
    hat_colour: Array | None = None
    seed: int = 0


@dataclass(frozen=True)
class HeadFrame:
    """Hold the coordinates of the pixels around a head."""

    top: int
    left: int
    x: Array  # (h, w), in half heads across, before the jaw narrows it
    y: Array  # (h, w), in half heads down
    half_px: float  # half a head, in pixels


def head_frame(canvas: Canvas, centre: Point, *, tilt: float, margin: float = 1.75) -> HeadFrame | None:
    """Measure the pixels around a head whose middle lies at `centre`, tilted by `tilt` radians."""
    half = canvas.head_px * HALF_HEIGHT
    middle = np.array(centre, np.float32) - np.array([canvas.left, canvas.top], np.float32)
    window = canvas.window(middle - margin * half, middle + margin * half)
    if window is None:
        return None
    y, x = np.mgrid[window].astype(np.float32)
    dx, dy = (x - middle[0]) / half, (y - middle[1]) / half
    across = (dx * math.cos(tilt) + dy * math.sin(tilt)) * (HALF_HEIGHT / HALF_WIDTH)
    return HeadFrame(window[0].start, window[1].start, across, dy * math.cos(tilt) - dx * math.sin(tilt), half)


def narrowed(frame: HeadFrame, jaw: float) -> Array:
    """Return the horizontal coordinate under which a face with a jaw becomes a circle."""
    low = np.clip(frame.y, 0, 1.1)
    high = np.clip(-frame.y, 0, 1.1)
    return frame.x / (1 - jaw * low**2.2 - 0.06 * high**2)


def facing(x: Array, y: Array, yaw: float) -> tuple[Array, Array, Array]:
    """Return the direction (right, down, ahead), as the face sees it, of the surface at (x, y) of a unit ball."""
    z = np.sqrt(np.clip(1 - x * x - y * y, 0.0, 1))
    return x * math.cos(yaw) - z * math.sin(yaw), y, x * math.sin(yaw) + z * math.cos(yaw)


def bump(fx: Array, fy: Array, at: Point, size: Point) -> Array:
    """Return a soft hill of height 1 on the face."""
    return np.exp(-(((fx - at[0]) / size[0]) ** 2) - ((fy - at[1]) / size[1]) ** 2)


def relief(fx: Array, fy: Array, face: Face) -> Array:
    """Return the height of the features over the ball, in half heads."""
    side = np.abs(fx)
    height = 0.10 * face.nose * bump(fx, fy, (0, 0.06), (0.09, 0.26))
    height += 0.13 * face.nose * bump(fx, fy, (0, 0.25), (0.13, 0.11))
    height += 0.05 * bump(side, fy, (0.13, 0.28), (0.07, 0.06))
    height -= 0.075 * bump(side, fy, (face.eye_gap, -0.05), (0.24, 0.13))
    height += 0.045 * bump(side, fy, (face.eye_gap, -0.24), (0.26, 0.09))
    height += 0.05 * bump(side, fy, (0.52, 0.24), (0.26, 0.2))
    height += 0.045 * bump(fx, fy, (0, 0.49), (0.26, 0.07)) + 0.05 * bump(fx, fy, (0, 0.60), (0.22, 0.06))
    height -= 0.03 * bump(fx, fy, (0, 0.69), (0.22, 0.05))
    return (height + 0.06 * bump(fx, fy, (0, 0.85), (0.2, 0.14))).astype(np.float32)


def complexion(fx: Array, fy: Array, face: Face, pixel: float) -> tuple[Array, Array]:
    """Return the colours of a face, (h, w, 3), and how glossy it is, (h, w).

    `pixel` is the size of one pixel in half heads: edges are never sharper than that.
    """
    side = np.abs(fx)
    edge = max(pixel, 0.02)
    blotch = sample_tile(noise_tile(11, slope=1.0), fx * 40 + face.seed, fy * 40)
    warm = np.array([1.0, 0.55, 0.5], np.float32)
    albedo = face.skin * (1 + 0.035 * blotch)[..., None]
    flush = 0.45 * bump(side, fy, (0.5, 0.3), (0.24, 0.18)) + 0.35 * bump(fx, fy, (0, 0.26), (0.14, 0.1))
    albedo = mix(albedo, albedo * warm, flush)
    albedo = mix(albedo, albedo * 0.62, 0.8 * bump(side, fy, (face.eye_gap, -0.03), (0.22, 0.12)))
    gloss = np.full_like(fx, 0.07)
    if face.beard:
        below = smooth_step(0.28, 0.55, fy + 0.32 * side - 0.10 * bump(fx, fy, (0, 0.5), (0.3, 0.1)))
        fine = sample_tile(noise_tile(13, slope=0.4), fx * 90, fy * 90)
        stubble = np.clip(0.85 + 0.2 * fine, 0, 1) * below
        albedo = mix(albedo, face.hair * 0.6, face.beard * stubble)
    albedo = mouth(albedo, fx, fy, face, edge=edge)
    nostril = bump(side, fy, (0.075, 0.325), (0.045, 0.03))
    albedo = mix(albedo, albedo * 0.25, np.clip(0.9 * nostril, 0, 1))
    albedo, gloss = eyes(albedo, gloss, fx, fy, face, edge=edge)
    arch = fy + 0.27 + 0.05 * face.smile - 0.9 * (side - face.eye_gap - 0.02) ** 2
    hairs = (1 - smooth_step(0.03, 0.03 + 2 * edge, np.abs(arch))) * (
        1 - smooth_step(0.2, 0.2 + 3 * edge, np.abs(side - face.eye_gap))
    )
    return mix(albedo, face.hair * 0.8, 0.85 * hairs), gloss


def mouth(albedo: Array, fx: Array, fy: Array, face: Face, *, edge: float) -> Array:
    """Paint lips, the line between them, and teeth where the smile is broad."""
    width = 0.24 + 0.07 * face.smile
    curve = fy - 0.545 + (1.1 * face.smile - 0.2) * fx * fx
    within = 1 - smooth_step(width, width + 0.06 + edge, np.abs(fx))
    taper = np.clip(1 - (fx / (width + 0.06)) ** 2, 0, 1)
    upper, lower = 0.055 * taper + 0.008, 0.085 * taper + 0.008
    lips = (
        within * smooth_step(-upper - edge, -upper + edge, curve) * (1 - smooth_step(lower - edge, lower + edge, curve))
    )
    red = face.skin * np.array([0.80, 0.42, 0.42], np.float32) + np.array([0.16, 0.0, 0.015], np.float32) * face.lips
    albedo = mix(albedo, red, 0.85 * lips)
    gap = np.clip((face.smile - 0.6) * 0.12, 0, 0.035) * taper**0.5
    teeth = within * (1 - smooth_step(gap, gap + edge, np.abs(curve)))
    line = within * (1 - smooth_step(0.006, 0.012 + 1.5 * edge, np.abs(curve)))
    albedo = mix(albedo, albedo * 0.3, 0.8 * line)
    return mix(albedo, np.float32(0.5) + np.zeros(3, np.float32), teeth) if face.smile > 0.65 else albedo


def eyes(albedo: Array, gloss: Array, fx: Array, fy: Array, face: Face, *, edge: float) -> tuple[Array, Array]:
    """Paint the white, the iris, the pupil with its glint, and the lashes; and glasses before them."""
    side = np.abs(fx) - face.eye_gap
    height = fy + 0.04
    openness = 0.082 - 0.018 * face.smile
    lens = (side / 0.165) ** 2 + np.abs(height / openness) ** 1.6
    white = 1 - smooth_step(1 - 6 * edge, 1 + 4 * edge, lens)
    albedo = mix(albedo, np.array([0.52, 0.50, 0.48], np.float32), white)
    # Both eyes look the same way: the signed side, not the mirrored one.
    gaze = np.sign(fx) * side - 0.015
    radius = np.hypot(gaze, height + 0.012)
    albedo = mix(albedo, face.iris, white * (1 - smooth_step(0.088 - edge, 0.088 + edge, radius)))
    albedo = mix(albedo, np.zeros(3, np.float32) + 0.01, white * (1 - smooth_step(0.04 - edge, 0.04 + edge, radius)))
    glint = bump(gaze, height, (-0.03, -0.04), (0.02 + edge / 2, 0.02 + edge / 2)) * white
    albedo = mix(albedo, np.ones(3, np.float32), np.clip(glint, 0, 1))
    lid = (1 - smooth_step(0.0, 0.35 + 5 * edge, np.abs(lens - 1.05))) * smooth_step(-0.03, 0.05, -height)
    albedo = mix(albedo, np.zeros(3, np.float32) + 0.025, 0.9 * np.clip(lid, 0, 1))
    if face.glasses:
        ring = np.hypot(side / 1.05, (fy + 0.0) / 0.85)
        frame = 1 - smooth_step(0.022, 0.022 + 1.6 * edge, np.abs(ring - 0.25))
        bridge = (1 - smooth_step(0.02, 0.02 + edge, np.abs(fy + 0.05))) * (np.abs(fx) < face.eye_gap - 0.24)
        albedo = mix(albedo, np.zeros(3, np.float32) + 0.03, np.clip(frame + bridge, 0, 1))
        gloss = gloss + 0.06 * (ring < 0.25)
    return albedo, gloss


def paint_head(canvas: Canvas, centre: Point, face: Face, *, yaw: float, tilt: float) -> None:
    """Paint a whole head: ears, the face with its relief, then the hair in front or a hat."""
    frame = head_frame(canvas, centre, tilt=tilt)
    if frame is None:
        return
    paint_hair(canvas, frame, face, yaw=yaw, closed=True)
    if face.hat != "scarf":
        paint_ears(canvas, centre, face, yaw=yaw, tilt=tilt)
    x = narrowed(frame, face.jaw)
    radius = np.hypot(x, frame.y)
    cover = np.clip((1 - radius) * frame.half_px * 0.85 + 0.5, 0, 1)
    bound = np.maximum(radius, 1.0)
    fx, fy, fz = facing(x / bound, frame.y / bound, yaw)
    albedo, gloss = complexion(fx, fy, face, 1.4 / frame.half_px)
    behind = (1 - smooth_step(-0.05, 0.1, fz))[..., None]
    layer = np.zeros((*cover.shape, CHANNELS), np.float32)
    layer[..., :3] = albedo + (face.skin - albedo) * behind
    height = relief(fx, fy, face) * np.clip(fz * 3, 0, 1) * frame.half_px
    layer[..., 3] = x / bound - cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    layer[..., 4] = 0.85 * frame.y / bound - cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    layer[..., 5] = np.sqrt(np.clip(1 - (radius / bound * np.minimum(radius, 1)) ** 2, 0.03, 1)) + 0.12
    layer[..., GLOSS] = gloss
    layer[..., SKIN] = 1.0
    shape = Shape(frame.top, frame.left, cover, layer[..., 3:6], x, frame.y)
    canvas.shade_under(shape, shade=0.55, reach_px=0.2 * canvas.head_px)
    canvas.lay(shape, layer)
    paint_hair(canvas, frame, face, yaw=yaw)


def paint_ears(canvas: Canvas, centre: Point, face: Face, *, yaw: float, tilt: float) -> None:
    """Paint the ears that are turned to the viewer."""
    head = canvas.head_px
    skin = Material(paint=plain(face.skin * np.array([0.95, 0.72, 0.68], np.float32)), skin=1.0, gloss=0.04)
    for side in (-1.0, 1.0):
        if side * yaw > 0.35:
            continue
        at = side * HALF_WIDTH * (0.98 - 0.5 * max(side * yaw, 0.0)) - 0.1 * math.sin(yaw)
        low = (at * math.cos(tilt) - 0.10 * math.sin(tilt), 0.10 * math.cos(tilt) + at * math.sin(tilt))
        high = (at * 1.05 * math.cos(tilt) + 0.03 * math.sin(tilt), -0.03 * math.cos(tilt) + at * 1.05 * math.sin(tilt))
        points = [(centre[0] + p[0] * head, centre[1] + p[1] * head) for p in (high, low)]
        canvas.paint(canvas.chain(points, [0.065 * head, 0.045 * head]), skin, shade=0.3)


def strands(x: Array, y: Array, face: Face) -> tuple[Array, Array]:
    """Return hair that runs from the crown outwards: a brightness about 1, and a tilt of the surface."""
    angle = np.arctan2(x, y + 1.25)
    distance = np.hypot(x, y + 1.25)
    fine = sample_tile(noise_tile(17, slope=0.6), angle * 95 + face.seed, distance * 9)
    broad = sample_tile(noise_tile(19, slope=1.1), angle * 40 + face.seed, distance * 5)
    return 1 + 0.30 * fine + 0.22 * broad, 0.22 * fine + 0.25 * broad


def paint_hair(canvas: Canvas, frame: HeadFrame, face: Face, *, yaw: float, closed: bool = False) -> None:
    """Paint the hair, or hat, over the skull; `closed` leaves no face free, for what is seen behind it."""
    if face.hat in {"beanie", "cap"}:
        paint_hair(canvas, frame, replace(face, hat="", style="crop"), yaw=yaw)
    angle = np.arctan2(frame.y, frame.x)
    x, y = on_shell(frame, face, angle)
    radius = np.hypot(x, y)
    bound = np.maximum(radius, 1)
    fx, fy, fz = facing(x / bound, y / bound, yaw)
    soft = 1.6 / frame.half_px
    side = HATS[face.hat].side if face.hat else HAIR_STYLES[face.style].side
    cover = np.clip((1 - radius) * frame.half_px * 0.9 + 0.5, 0, 1)
    cover = cover * (1 - smooth_step(side - soft, side + soft + 0.12, fy))
    if not closed:
        fringe = 0.05 * sample_tile(noise_tile(29, slope=0.6), angle * 60 + face.seed, radius * 3)
        cover = cover * smooth_step(-soft, soft, beyond_face(face, fx, fy, fz) + fringe * (not face.hat))
    bright, tilted = strands(x, y, face)
    layer = np.zeros((*cover.shape, CHANNELS), np.float32)
    layer[..., :3] = hat_cloth(face, fx, fy) if face.hat else face.hair * np.clip(bright, 0.3, 2)[..., None]
    layer[..., 3] = x / bound + tilted * (0.15 if face.hat else 1)
    layer[..., 4] = y / bound * 0.9
    layer[..., 5] = np.sqrt(np.clip(1 - np.minimum(radius, 1) ** 2, 0.03, 1))
    layer[..., GLOSS] = 0.03 if face.hat else 0.07
    shape = Shape(frame.top, frame.left, cover, layer[..., 3:6], x, y)
    canvas.shade_under(shape, shade=0.35, reach_px=0.10 * canvas.head_px)
    canvas.lay(shape, layer)
    if face.hat == "cap" and not closed:
        paint_peak(canvas, frame, face, yaw=yaw)


def on_shell(frame: HeadFrame, face: Face, angle: Array) -> tuple[Array, Array]:
    """Return the coordinates under which the outside of the hair or hat becomes a unit circle."""
    if face.hat:
        size = 1 + HATS[face.hat].volume
        return frame.x / size, (frame.y + 0.03) / (1 + (size - 1) * 1.35)
    style = HAIR_STYLES[face.style]
    ragged = style.curl * sample_tile(noise_tile(23, slope=1.2), angle * 26 + face.seed, np.zeros_like(angle) + 9)
    wide = 1 + style.volume + ragged
    return frame.x / wide, (frame.y + 0.35 * style.volume) / (1 + (wide - 1) * 0.85)


def beyond_face(face: Face, fx: Array, fy: Array, fz: Array) -> Array:
    """Return how far a direction, as the face sees it, lies outside the part that hair or hat leave free."""
    style = HATS[face.hat] if face.hat else HAIR_STYLES[face.style]
    if face.hat in {"beanie", "cap"}:
        return style.brow - 0.08 * fx * fx - fy
    lower = style.brow + 0.25 * (fx - style.part) ** 2
    wide = 0.80 if face.hat else 0.86
    outside: Array = ((fx / wide) ** 2 + ((fy - 0.42) / np.maximum(0.42 - lower, 0.3)) ** 2 - 1) * 0.5
    return np.where(fz < -0.05, 1.0, outside)


def hat_cloth(face: Face, fx: Array, fy: Array) -> Array:
    """Return the colours, (h, w, 3), of a beanie, a cap or a head scarf."""
    colour = face.hat_colour if face.hat_colour is not None else face.hair
    if face.hat == "beanie":
        ribs = 1 + 0.22 * np.sin(np.arctan2(fx, 1.3 + fy) * 70)
        turned_up = 1 + 0.25 * smooth_step(-0.58, -0.55, fy)
        return np.asarray(colour * (ribs * turned_up)[..., None])
    waves = sample_tile(noise_tile(31), fx * 18 + face.seed, fy * 26)
    return colour * (1 + 0.10 * waves)[..., None]


def paint_peak(canvas: Canvas, frame: HeadFrame, face: Face, *, yaw: float) -> None:
    """Paint the peak of a cap."""
    across, down = frame.x - 0.8 * math.sin(yaw), frame.y + 0.40
    inside = 1 - np.hypot(across / 0.86, (down - 0.04 - 0.05 * across**2) / 0.13)
    cover = np.clip(inside * 0.13 * frame.half_px + 0.5, 0, 1)
    normal = np.dstack([0.5 * across, -0.5 + 3 * down, np.full_like(across, 0.7)]).astype(np.float32)
    colour = face.hat_colour if face.hat_colour is not None else face.hair
    shape = Shape(frame.top, frame.left, cover, normal, across, down)
    canvas.paint(shape, Material(paint=plain(colour * 0.8)), shade=0.55, reach=0.14)


def paint_hair_behind(canvas: Canvas, centre: Point, face: Face, *, yaw: float) -> None:
    """Paint what hangs or sits behind the head; to be called before the body is painted."""
    style = HAIR_STYLES[face.style]
    head = canvas.head_px
    x, y = centre[0] - 0.12 * head * math.sin(yaw), centre[1]
    hair = Material(
        paint=lambda u, v: face.hair * (0.75 + 0.22 * sample_tile(noise_tile(17, slope=0.6), u * 130, v * 12))[..., None],
        gloss=0.1, folds=0.3, fold_size=0.25, seed=face.seed,
    )  # fmt: skip
    if face.hat == "scarf" and face.hat_colour is not None:
        drape = Material(paint=plain(face.hat_colour), folds=0.3, seed=face.seed)
        outline = [
            (-0.3, -0.3),
            (0.3, -0.3),
            (0.46, 0.3),
            (0.66, 0.78),
            (0.3, 0.98),
            (-0.3, 0.98),
            (-0.66, 0.78),
            (-0.46, 0.3),
        ]
        points = np.array([(x + a * head, y + b * head) for a, b in outline], np.float32)
        canvas.paint(canvas.blob(points, round_px=0.3 * head, axis=((x, y), (x, y + head))), drape)
    elif style.bun and not face.hat:
        canvas.paint(canvas.chain([(x, y - 0.56 * head), (x, y - 0.50 * head)], [0.17 * head, 0.2 * head]), hair)
    elif style.back and not face.hat:
        wide = HALF_WIDTH * (1 + style.volume) + 0.02
        low = 0.25 + style.back
        outline = [(-0.25, -0.35), (0.25, -0.35), (wide, 0.0), (wide + 0.06, 0.5 * low), (wide * 0.85, low)]
        outline += [(0.0, low + 0.05), (-wide * 0.85, low), (-wide - 0.06, 0.5 * low), (-wide, 0.0)]
        points = np.array([(x + a * head, y + b * head) for a, b in outline], np.float32)
        canvas.paint(canvas.blob(points, round_px=0.22 * head, axis=((x, y), (x, y + head))), hair)


def random_face(rng: np.random.Generator, *, long_hair: bool, child: bool = False) -> Face:
    """Draw the looks of a person from a generator."""
    tone = int(rng.integers(len(SKINS)))
    dark = tone >= 4
    short = ("short", "crop", "tousled", "afro" if dark else "short", "curly")
    long = ("bob", "fringe", "long", "wavy", "bun", "afro" if dark else "long", "curly")
    shade = int(rng.integers(3)) if dark else int(rng.integers(len(HAIRS)))
    if child and shade >= 7:
        shade = 3
    hat = str(rng.choice(["", "", "", "", "", "", "beanie", "cap"]))
    if long_hair and rng.random() < 0.12:
        hat = "scarf"
    return Face(
        skin=srgb_to_linear(SKINS[tone]), hair=srgb_to_linear(HAIRS[shade]),
        iris=srgb_to_linear(IRISES[int(rng.integers(2)) if dark else int(rng.integers(4))]),
        style=str(rng.choice(long if long_hair else short)), smile=float(rng.uniform(0.2, 1.0)),
        jaw=float(rng.uniform(0.2, 0.33) if long_hair else rng.uniform(0.12, 0.26)),
        eye_gap=float(rng.uniform(0.35, 0.39)), nose=float(rng.uniform(0.75, 1.2)),
        lips=float(rng.uniform(0.4, 1.2) if long_hair else rng.uniform(0.0, 0.25)),
        beard=0.0 if long_hair or child else float(rng.choice([0.0, 0.0, 0.35, 0.85])),
        glasses=bool(rng.random() < 0.2), hat=hat, hat_colour=dye(str(rng.choice(sorted(DYES)))),
        seed=int(rng.integers(1000)),
    )  # fmt: skip
