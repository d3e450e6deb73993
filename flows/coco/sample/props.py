"""Draw things that stand among people: they are annotated, lit and shaded like them, and hide parts of them."""

import numpy as np

from flows.coco.sample.canvas import Canvas, Material, plain
from flows.coco.sample.cloth import cloth, dye
from flows.coco.sample.light import Light, srgb_to_linear
from flows.coco.sample.noise import Array, noise_tile, sample_tile


def open_prop(
    light: Light, *, box: tuple[float, float, float, float], frame: tuple[int, int], head_px: float, enlarge: float
) -> Canvas:
    """Return a canvas for a thing inside `box` (left, top, right, bottom in pixels of the frame (width, height))."""
    left, top = max(int(box[0] * enlarge), 0), max(int(box[1] * enlarge), 0)
    right = min(int(box[2] * enlarge), round(frame[0] * enlarge))
    bottom = min(int(box[3] * enlarge), round(frame[1] * enlarge))
    return Canvas(
        left=left, top=top, width=max(right - left, 3), height=max(bottom - top, 3), head_px=head_px * enlarge,
        light_side=light.direction[0],
    )  # fmt: skip


def wood(colour: str) -> Material:
    """Return planed wood whose grain runs across the picture."""
    base = srgb_to_linear(colour)

    def paint(u: Array, v: Array) -> Array:
        grain = sample_tile(noise_tile(14, slope=1.0), u * 14, v * 120)
        return base * (1 + 0.16 * grain)[..., None]

    return Material(paint=paint, gloss=0.06)


METAL = Material(paint=plain(np.array([0.03, 0.035, 0.035], np.float32)), gloss=0.35)


def paint_bench(
    light: Light, *, x: float, y: float, head_px: float, half: float, frame: tuple[int, int], enlarge: float
) -> Canvas:
    """Paint a bench of planks on iron feet, its front feet on row `y`, `half` heads to each side of `x`."""
    h = head_px
    canvas = open_prop(
        light,
        box=(x - (half + 0.6) * h, y - 4.2 * h, x + (half + 0.6) * h, y + 0.4 * h),
        frame=frame,
        head_px=h,
        enlarge=enlarge,
    )

    def at(dx: float, dy: float) -> tuple[float, float]:
        return ((x + dx * h) * enlarge, (y + dy * h) * enlarge)

    size = h * enlarge
    for side in (-half + 0.35, half - 0.35):
        canvas.paint(canvas.chain([at(side, -3.7), at(side, -2.0), at(side, -0.35)], [0.07 * size] * 3), METAL)
        canvas.paint(canvas.chain([at(side, -1.75), at(side * 1.02, 0)], [0.07 * size] * 2), METAL)
    planks = wood("8a5a35")
    for row in range(3):
        top = -3.65 + 0.46 * row
        corners = [at(-half, top), at(half, top), at(half, top + 0.36), at(-half, top + 0.36)]
        canvas.paint(canvas.panel(corners, (0, -0.15, 1)), planks, shade=0.4)
    for row in range(4):
        top, wide = -2.1 + 0.13 * row, half + 0.02 * row
        corners = [at(-wide, top), at(wide, top), at(wide + 0.02, top + 0.11), at(-wide - 0.02, top + 0.11)]
        canvas.paint(canvas.panel(corners, (0, -1, 0.3)), planks, shade=0.3)
    corners = [at(-half - 0.06, -1.58), at(half + 0.06, -1.58), at(half + 0.06, -1.44), at(-half - 0.06, -1.44)]
    canvas.paint(canvas.panel(corners, (0, 0, 1)), planks, shade=0.3)
    return canvas


def paint_table(
    light: Light, rng: np.random.Generator, *, top: float, head_px: float, frame: tuple[int, int], enlarge: float
) -> Canvas:
    """Paint a table that runs across the foreground: the top from row `top`, below it the cloth that hangs over."""
    width, height = frame
    canvas = open_prop(light, box=(0, top - 4, width, height), frame=frame, head_px=head_px, enlarge=enlarge)
    inset, deep = 0.07 * width, 0.10 * height
    left, right = inset, width - inset
    low = [(left - 0.05 * width, top + deep), (right + 0.05 * width, top + deep)]
    name = str(rng.choice(["white", "red", "sky", "cream"]))
    front = cloth("plaid" if rng.random() < 0.6 else "woven", name, "white", seed=int(rng.integers(99)), folds=0.12)
    corners = [low[0], low[1], (low[1][0], height + 4), (low[0][0], height + 4)]
    canvas.paint(canvas.panel([(x * enlarge, y * enlarge) for x, y in corners], (0, 0.15, 1)), front)
    corners = [(left, top), (right, top), low[1], low[0]]
    canvas.paint(
        canvas.panel([(x * enlarge, y * enlarge) for x, y in corners], (0, -1, 0.25)), wood("a5744a"), shade=0.5
    )
    corners = [low[0], low[1], (low[1][0], low[1][1] + 6), (low[0][0], low[0][1] + 6)]
    canvas.paint(canvas.panel([(x * enlarge, y * enlarge) for x, y in corners], (0, 0, 1)), wood("7c5230"), shade=0.6)
    return canvas


def paint_cup(
    light: Light, *, x: float, y: float, size: float, colour: str, frame: tuple[int, int], enlarge: float
) -> Canvas:
    """Paint a cup of coffee on its saucer, the saucer's middle at (`x`, `y`), the cup `size` pixels wide."""
    canvas = open_prop(
        light, box=(x - 2 * size, y - 2 * size, x + 2 * size, y + size), frame=frame, head_px=size, enlarge=enlarge
    )
    s = size * enlarge
    cx, cy = x * enlarge, y * enlarge
    china = Material(paint=plain(dye(colour)), gloss=0.3)
    saucer = np.array([(cx - 0.95 * s, cy), (cx, cy - 0.24 * s), (cx + 0.95 * s, cy), (cx, cy + 0.24 * s)], np.float32)
    canvas.paint(canvas.blob(saucer, round_px=0.3 * s, axis=((cx, cy), (cx, cy + s))), china)
    canvas.paint(
        canvas.chain(
            [(cx + 0.45 * s, cy - 0.62 * s), (cx + 0.8 * s, cy - 0.5 * s), (cx + 0.42 * s, cy - 0.22 * s)],
            [0.08 * s] * 3,
        ),
        china,
    )
    canvas.paint(canvas.chain([(cx, cy - 0.05 * s), (cx, cy - 0.75 * s)], [0.36 * s, 0.5 * s], hemmed=True), china)
    coffee = np.array(
        [(cx - 0.46 * s, cy - 0.76 * s), (cx, cy - 0.88 * s), (cx + 0.46 * s, cy - 0.76 * s), (cx, cy - 0.63 * s)],
        np.float32,
    )
    canvas.paint(
        canvas.blob(coffee, round_px=5 * s, axis=((cx, cy), (cx, cy + s))),
        Material(paint=plain(srgb_to_linear("4a2c18")), gloss=0.1),
    )
    return canvas


def paint_lamp_post(
    light: Light, *, x: float, y: float, head_px: float, frame: tuple[int, int], enlarge: float
) -> Canvas:
    """Paint a lamp post that stands on row `y` and leaves the picture at the top."""
    canvas = open_prop(
        light, box=(x - head_px, 0, x + head_px, y + 0.4 * head_px), frame=frame, head_px=head_px, enlarge=enlarge
    )
    h, px, py = head_px * enlarge, x * enlarge, y * enlarge
    iron = Material(paint=plain(srgb_to_linear("2f4a3f")), gloss=0.3)
    canvas.paint(canvas.chain([(px, -h), (px, py - 2 * h)], [0.14 * h, 0.17 * h]), iron)
    canvas.paint(canvas.chain([(px, py - 2.1 * h), (px, py - 0.1 * h)], [0.2 * h, 0.3 * h], hemmed=True), iron)
    for level in (2.0, 3.6):
        canvas.paint(
            canvas.chain([(px - 0.12 * h, py - level * h), (px + 0.12 * h, py - level * h)], [0.12 * h] * 2), iron
        )
    canvas.paint(canvas.chain([(px - 0.28 * h, py), (px + 0.28 * h, py)], [0.13 * h] * 2), iron)
    return canvas


def paint_plant(
    light: Light,
    rng: np.random.Generator,
    *,
    x: float,
    y: float,
    head_px: float,
    frame: tuple[int, int],
    enlarge: float,
) -> Canvas:
    """Paint a plant with long leaves in a clay pot that stands on row `y`."""
    canvas = open_prop(
        light,
        box=(x - 2.2 * head_px, y - 4.6 * head_px, x + 2.2 * head_px, y + 0.5 * head_px),
        frame=frame,
        head_px=head_px,
        enlarge=enlarge,
    )
    h, px, py = head_px * enlarge, x * enlarge, y * enlarge
    for _ in range(22):
        angle, length = float(rng.uniform(-1.15, 1.15)), float(rng.uniform(1.3, 2.7)) * h
        droop = abs(angle) * 0.45 * length
        bend = (px + 0.55 * np.sin(angle) * length, py - 1.1 * h - 0.62 * np.cos(angle) * length)
        tip = (px + np.sin(angle) * length, py - 1.1 * h - np.cos(angle) * length + droop)
        green = srgb_to_linear(str(rng.choice(["3f6b3a", "54803f", "2f5a3c", "6a8f45"])))
        leaf = Material(paint=plain(green), gloss=0.12)
        canvas.paint(canvas.chain([(px, py - 1.0 * h), bend, tip], [0.05 * h, 0.13 * h, 0.02 * h]), leaf, shade=0.35)
    pot = Material(paint=plain(srgb_to_linear("a65a3a")), gloss=0.05)
    canvas.paint(canvas.chain([(px, py - 1.05 * h), (px, py - 0.1 * h)], [0.62 * h, 0.45 * h], hemmed=True), pot)
    canvas.paint(canvas.chain([(px - 0.55 * h, py - 1.15 * h), (px + 0.55 * h, py - 1.15 * h)], [0.14 * h] * 2), pot)
    return canvas


def paint_ball(
    light: Light, *, x: float, y: float, radius: float, colour: str, frame: tuple[int, int], enlarge: float
) -> Canvas:
    """Paint a striped ball that touches the ground at (`x`, `y`)."""
    canvas = open_prop(
        light,
        box=(x - 2 * radius, y - 3 * radius, x + 2 * radius, y + radius),
        frame=frame,
        head_px=radius,
        enlarge=enlarge,
    )
    r, first, second = radius * enlarge, dye(colour), dye("white")

    def paint(u: Array, v: Array) -> Array:
        del v
        return np.where((np.sin(u * 6 + 0.6) > 0)[..., None], first, second)

    points = [
        ((x - 0.01 * radius) * enlarge, (y - radius) * enlarge),
        ((x + 0.01 * radius) * enlarge, (y - radius) * enlarge),
    ]
    canvas.paint(canvas.chain(points, [r, r]), Material(paint=paint, gloss=0.25))
    return canvas
