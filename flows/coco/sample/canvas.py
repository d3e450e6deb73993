"""Paint rounded shapes, part by part from back to front, as colour and surface; light them at the end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from flows.coco.sample.light import Light, unit
from flows.coco.sample.noise import Array, noise_slopes, sample_tile

Paint = Callable[[Array, Array], Array]  # (u, v) in heads along a surface -> linear RGB albedo (..., 3)
Point = tuple[float, float]

GLOSS, SKIN = 6, 7  # after albedo 0..2 and normal 3..5
CHANNELS = 8


@dataclass(frozen=True)
class Material:
    """Say what a part is made of."""

    paint: Paint
    gloss: float = 0.02  # strength of its highlight
    skin: float = 0.0  # 1 lets light bleed into the shadow, reddish, as skin does
    folds: float = 0.0  # how strongly cloth creases
    fold_size: float = 0.7  # in heads
    seed: int = 0


@dataclass(frozen=True)
class Shape:
    """Hold one rounded part on its own little window of a canvas."""

    top: int
    left: int
    cover: Array  # (h, w) 0..1
    normal: Array  # (h, w, 3), to the right, down, to the viewer
    u: Array  # (h, w) heads across
    v: Array  # (h, w) heads along


def plain(colour: Array) -> Paint:
    """Return the paint that is one colour everywhere."""

    def paint(u: Array, v: Array) -> Array:
        return np.broadcast_to(colour, (*np.broadcast_shapes(u.shape, v.shape), 3))

    return paint


class Canvas:
    """Collect painted parts of one figure or thing. The only object of the drawing code that changes in place."""

    def __init__(self, *, left: int, top: int, width: int, height: int, head_px: float, light_side: float) -> None:
        """Open an empty canvas whose corner lies at (`left`, `top`), all in pixels of the enlarged frame.

        `head_px` is the size of one head; `light_side` in -1..1 says from which side parts shade each other.
        """
        self.left, self.top, self.width, self.height = left, top, width, height
        self.head_px = head_px
        self.light_side = light_side
        self.surface = np.zeros((height, width, CHANNELS), np.float32)
        self.alpha = np.zeros((height, width), np.float32)
        self.open = np.ones((height, width), np.float32)  # 1 lit freely, less where a nearer part keeps light away

    def window(self, low: Array, high: Array) -> tuple[slice, slice] | None:
        """Return the rows and columns of the canvas between two corners (x, y), or None where they lie outside."""
        left, top = max(int(low[0]), 0), max(int(low[1]), 0)
        right, bottom = min(int(np.ceil(high[0])) + 1, self.width), min(int(np.ceil(high[1])) + 1, self.height)
        return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None

    def chain(self, points: Sequence[Point], radii: Sequence[float], *, hemmed: bool = False) -> Shape | None:
        """Shape a limb: a row of balls, radius given at each point, with the skin stretched between them.

        Points and radii are in pixels. A `hemmed` limb ends like a sleeve instead of in half a ball.
        """
        nodes = np.array(points, np.float32) - np.array([self.left, self.top], np.float32)
        reach = np.array(radii, np.float32)
        window = self.window((nodes - reach[:, None]).min(0) - 2, (nodes + reach[:, None]).max(0) + 2)
        if window is None:
            return None
        y, x = np.mgrid[window].astype(np.float32)
        best: tuple[Array, ...] | None = None
        along = 0.0
        hem = np.float32(np.inf)
        for i in range(len(nodes) - 1):
            step = nodes[i + 1] - nodes[i]
            length = max(float(np.hypot(*step)), 1e-3)
            free = ((x - nodes[i, 0]) * step[0] + (y - nodes[i, 1]) * step[1]) / length**2
            t = np.clip(free, 0, 1)
            r = reach[i] + (reach[i + 1] - reach[i]) * t
            dx, dy = x - nodes[i, 0] - t * step[0], y - nodes[i, 1] - t * step[1]
            distance = np.sqrt(dx * dx + dy * dy)
            side = (dx * -step[1] + dy * step[0]) / length
            now = (r - distance, dx / r, dy / r, side / r, along + t * length, r)
            if best is None:
                best = now
            else:
                nearer = now[0] > best[0]
                best = tuple(np.where(nearer, a, b) for a, b in zip(now, best, strict=True))
            along += length
            if hemmed and i == len(nodes) - 2:
                # The opening is a circle seen from a little above: its near half hangs lower.
                hem = (1 - free) * length + 0.3 * r * np.sqrt(np.clip(1 - (side / r) ** 2, 0, 1))
        if best is None:
            return None
        inside, nx, ny, across, down, r = best
        nz = np.sqrt(np.clip(1 - nx * nx - ny * ny, 0.02, 1))
        u = np.arcsin(np.clip(across, -1, 1)) * r / self.head_px
        cover = np.clip(np.minimum(inside, hem) + 0.5, 0, 1)
        return Shape(window[0].start, window[1].start, cover, np.dstack([nx, ny, nz]), u, down / self.head_px)

    def blob(
        self, outline: Array, *, round_px: float, axis: tuple[Point, Point], hem: float | None = None
    ) -> Shape | None:
        """Shape a closed outline as if blown up from behind, to a roundness of `round_px`.

        `axis` are two points, for instance neck and hip: the surface coordinates run along and across it. A `hem`
        cuts the shape off that many heads along the axis, in a line that sags a little in the middle.
        """
        points = smooth_outline(np.asarray(outline, np.float32)) - np.array([self.left, self.top], np.float32)
        window = self.window(points.min(0) - 3, points.max(0) + 3)
        if window is None:
            return None
        top, left = window[0].start, window[1].start
        shape = (window[0].stop - top, window[1].stop - left)
        mask = np.zeros(shape, np.uint8)
        fixed = np.round((points - np.array([left, top], np.float32)) * 16).astype(np.int32)
        cv2.fillPoly(mask, [fixed], color=255, lineType=cv2.LINE_AA, shift=4)
        y, x = np.mgrid[window].astype(np.float32)
        begin = np.array(axis[0], np.float32) - np.array([self.left, self.top], np.float32)
        step = np.array(axis[1], np.float32) - np.array(axis[0], np.float32)
        step /= max(float(np.hypot(*step)), 1e-3)
        dx, dy = x - begin[0], y - begin[1]
        u = (dx * step[1] - dy * step[0]) / self.head_px
        v = (dx * step[0] + dy * step[1]) / self.head_px
        cover = mask.astype(np.float32) / 255
        if hem is not None:
            cover *= np.clip((hem - 0.10 * np.minimum((u / 0.6) ** 2, 1) + 0.05 - v) * self.head_px + 0.5, 0, 1)
        return Shape(top, left, cover, inflate(mask, round_px), u, v)

    def panel(self, corners: Sequence[Point], normal: tuple[float, float, float]) -> Shape | None:
        """Shape a flat polygon that faces one way; its surface coordinates are heads across and down the picture."""
        points = np.array(corners, np.float32) - np.array([self.left, self.top], np.float32)
        window = self.window(points.min(0) - 2, points.max(0) + 2)
        if window is None:
            return None
        top, left = window[0].start, window[1].start
        mask = np.zeros((window[0].stop - top, window[1].stop - left), np.uint8)
        fixed = np.round((points - np.array([left, top], np.float32)) * 16).astype(np.int32)
        cv2.fillPoly(mask, [fixed], color=255, lineType=cv2.LINE_AA, shift=4)
        y, x = np.mgrid[window].astype(np.float32)
        facing = np.broadcast_to(unit(normal), (*mask.shape, 3))
        return Shape(top, left, mask.astype(np.float32) / 255, facing, x / self.head_px, y / self.head_px)

    def paint(self, shape: Shape | None, material: Material, *, shade: float = 0.45, reach: float = 0.16) -> None:
        """Lay a part over what is there already, and let it shade what lies under and beside it.

        `shade` is how much light it keeps away close by, `reach` how far, in heads.
        """
        if shape is None:
            return
        layer = np.empty((*shape.cover.shape, CHANNELS), np.float32)
        layer[..., :3] = material.paint(shape.u, shape.v)
        layer[..., 3:6] = crease(shape, material) if material.folds else shape.normal
        layer[..., GLOSS] = material.gloss
        layer[..., SKIN] = material.skin
        if shade:
            self.shade_under(shape, shade=shade, reach_px=max(reach * self.head_px, 1.0))
        self.lay(shape, layer)

    def merged(self, shape: Shape | None, *, over: float) -> Shape | None:
        """Let the first `over` heads of a limb fade into what it lies on, so that a sleeve grows out of a shirt."""
        if shape is None:
            return None
        rows = slice(shape.top, shape.top + shape.cover.shape[0])
        columns = slice(shape.left, shape.left + shape.cover.shape[1])
        fade = np.clip(shape.v / over, 0, 1)
        fade = fade * fade * (3 - 2 * fade)
        return replace(shape, cover=shape.cover * np.maximum(fade, np.minimum(4 - 4 * self.alpha[rows, columns], 1)))

    def lay(self, shape: Shape, layer: Array) -> None:
        """Blend a finished layer (h, w, 8) into the canvas."""
        rows = slice(shape.top, shape.top + shape.cover.shape[0])
        columns = slice(shape.left, shape.left + shape.cover.shape[1])
        under, cover = self.alpha[rows, columns], shape.cover
        together = cover + under * (1 - cover)
        # Where nothing lies beneath, a half-covered pixel takes the whole colour: no dark seams.
        weight = cover / np.maximum(together, 1e-4)
        self.surface[rows, columns] += (layer - self.surface[rows, columns]) * weight[..., None]
        self.open[rows, columns] += (1 - self.open[rows, columns]) * cover
        self.alpha[rows, columns] = together

    def shade_under(self, shape: Shape, *, shade: float, reach_px: float) -> None:
        """Darken the surroundings of a part that is about to be laid, on the side away from the light."""
        pad = int(np.ceil(reach_px * 2))
        rows = (max(shape.top - pad, 0), min(shape.top + shape.cover.shape[0] + pad, self.height))
        columns = (max(shape.left - pad, 0), min(shape.left + shape.cover.shape[1] + pad, self.width))
        cast = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), np.float32)
        top = shape.top - rows[0] + round(reach_px * 0.45)
        left = shape.left - columns[0] - round(reach_px * 0.45 * self.light_side)
        height = min(shape.cover.shape[0], cast.shape[0] - top)
        clip = max(-left, 0)
        width = min(shape.cover.shape[1] - clip, cast.shape[1] - max(left, 0))
        if height <= 0 or width <= 0:
            return
        cast[top : top + height, max(left, 0) : max(left, 0) + width] = shape.cover[:height, clip : clip + width]
        size = 2 * round(reach_px * 0.5) + 1
        cast = cv2.blur(cv2.blur(cast, (size, size)), (size, size))
        self.open[slice(*rows), slice(*columns)] *= 1 - shade * cast

    def lit(self, light: Light) -> Array:
        """Return the linear RGB light, float32 (height, width, 3), that the painted surface sends to the viewer."""
        picture = np.zeros((self.height, self.width, 3), np.float32)
        seen = self.alpha > 0
        picture[seen] = reflected(self.surface[seen], self.open[seen, None], light)
        return picture


def reflected(surface: Array, unshaded: Array, light: Light) -> Array:
    """Return the light, float32 (N, 3), that N points of painted surface, (N, 8), send to the viewer.

    Lambert's law, softened where skin lets light bleed into its shadow; light from all around, by the share of sky a
    point faces; a bright edge towards the light behind; and a highlight (Blinn 1977). `unshaded`, (N, 1), is the share
    of light that neighbouring parts leave over.
    """
    albedo, normal = surface[:, :3], surface[:, 3:6]
    normal = normal / np.sqrt(np.maximum((normal * normal).sum(1, keepdims=True), 1e-6))
    key, sky, ground, rim = (np.array(c, np.float32) for c in (light.key, light.sky, light.ground, light.rim))
    toward = unit(light.direction)
    bleed = 0.12 + surface[:, SKIN, None] * np.array([0.34, 0.16, 0.10], np.float32)
    direct = np.clip(((normal @ toward)[:, None] + bleed) / (1 + bleed), 0, 1) * unshaded
    around = (ground + (sky - ground) * (0.5 - 0.5 * normal[:, 1:2])) * (0.35 + 0.65 * unshaded)
    edge = np.clip(normal[:, :1] * (0.9 * light.rim_side) - normal[:, 1:2] * 0.35, 0, 1)
    edge = edge * np.clip(1.15 - normal[:, 2:3], 0, 1) ** 3
    half = unit((float(toward[0]), float(toward[1]), float(toward[2]) + 1.0))
    shine = np.clip(normal @ half, 0, 1)[:, None] ** 2
    shine = shine**2
    shine = shine**2
    shine = shine * shine**2 * surface[:, GLOSS, None] * unshaded  # the 24th power
    total: Array = albedo * (key * direct + around + 1.3 * rim * edge) + shine * (key + 0.3 * sky)
    return total.astype(np.float32)


def smooth_outline(points: Array, *, steps: int = 8) -> Array:
    """Run a closed curve through points (N, 2): a uniform Catmull-Rom spline (Catmull and Rom 1974)."""
    before, here = np.roll(points, 1, axis=0)[:, None], points[:, None]
    after, beyond = np.roll(points, -1, axis=0)[:, None], np.roll(points, -2, axis=0)[:, None]
    t = np.linspace(0, 1, steps, endpoint=False, dtype=np.float32)[None, :, None]
    curve: Array = 2 * here + (after - before) * t
    curve = curve + (2 * before - 5 * here + 4 * after - beyond) * t**2
    curve = curve + (3 * here - before - 3 * after + beyond) * t**3
    return (curve / 2).reshape(-1, 2).astype(np.float32)


def inflate(mask: Array, round_px: float) -> Array:
    """Return normals (H, W, 3) of a mask (H, W uint8) blown up like a cushion, curved over `round_px` from its edge."""
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, borderType=cv2.BORDER_REPLICATE)
    depth = cv2.distanceTransform((padded > 127).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    slope = 1 - np.minimum(depth / round_px, 1)
    height = round_px * np.sqrt(np.maximum(1 - slope * slope, 0)).astype(np.float32)
    height = cv2.GaussianBlur(height, (0, 0), sigmaX=max(round_px * 0.16, 0.8))
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)[1:-1, 1:-1]
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)[1:-1, 1:-1]
    normal: Array = np.dstack([-dx, -dy, np.ones_like(dx)])
    return np.asarray(normal / np.sqrt((normal * normal).sum(2, keepdims=True)), np.float32)


def crease(shape: Shape, material: Material) -> Array:
    """Return a shape's normals, tilted to and fro by the folds of its cloth."""
    scale = 26 / material.fold_size  # tile pixels a head: one large fold a `fold_size`
    right, down = noise_slopes(material.seed % 16, slope=3.0)
    # Folds run along the body more than across it: stretched coordinates.
    u = shape.u * scale + material.seed % 251
    v = shape.v * scale * 0.55 + material.seed % 239
    normal = shape.normal.copy()
    normal[..., 0] += material.folds * sample_tile(right, u, v)
    normal[..., 1] += material.folds * sample_tile(down, u, v)
    return normal
