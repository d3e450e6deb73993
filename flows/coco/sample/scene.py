"""Compose scenes: a place, a light, people and things in it, drawn from back to front with exact masks."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from flows.coco.sample.backdrop import PLACES, Backdrop
from flows.coco.sample.canvas import Canvas, Material, plain
from flows.coco.sample.cloth import DYES, dye
from flows.coco.sample.figure import OBLIQUE, Person, paint_person, random_person, skeleton
from flows.coco.sample.head import HAIRS, SKINS
from flows.coco.sample.light import LIGHTS, Light, develop, srgb_to_linear
from flows.coco.sample.noise import Array
from flows.coco.sample.props import (
    open_prop,
    paint_ball,
    paint_bench,
    paint_cup,
    paint_lamp_post,
    paint_plant,
    paint_table,
)

PERSON, BENCH, BALL, CUP, PLANT, TABLE = 1, 15, 37, 47, 64, 67  # COCO's category ids
NOT_ANNOTATED = 0

BODY_HEADS = 7.05  # height of a person who stands
FINE = 1.5  # enlargement of the canvases of people; large ones are smooth enough without


@dataclass(frozen=True)
class Scene:
    """Specify one drawn picture."""

    image_id: int
    place: str
    light: str
    cast: str
    width: int = 640
    height: int = 427
    grey: bool = False


@dataclass(frozen=True)
class Actor:
    """Hold one person or thing before it is put into the picture."""

    canvas: Canvas
    category_id: int
    y: float  # row where it stands: who stands lower is nearer
    enlarge: float
    feet: tuple[tuple[float, float], ...] = ()  # where it touches the ground
    head_px: float = 0.0
    is_crowd: bool = False


@dataclass(frozen=True)
class Instance:
    """Hold one annotated person or thing of a finished picture."""

    category_id: int
    mask: Array  # bool (H, W), what is seen of it
    is_crowd: bool = False


@dataclass(frozen=True)
class Drawing:
    """Hold a finished picture and what is in it."""

    picture: Array  # uint8 (H, W, 3) sRGB, or (H, W) for a grey one
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Setting:
    """Hold what a cast needs to know of its scene."""

    scene: Scene
    light: Light
    horizon: int
    rng: np.random.Generator

    @property
    def frame(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.scene.width, self.scene.height

    @property
    def warmth(self) -> float:
        """How warmly people dress, 0..1."""
        places = {
            "beach": 0.0,
            "snow": 1.0,
            "stage": 0.3,
            "studio": 0.4,
            "room": 0.35,
            "cafe": 0.45,
            "office": 0.5,
            "meadow": 0.25,
        }
        cold = {"rain": 0.85, "fog": 0.85, "overcast": 0.7, "noon": 0.2, "blue_hour": 0.7}
        return places.get(self.scene.place, cold.get(self.scene.light, 0.5))


def place_person(
    setting: Setting, *, x: float, y: float, head_px: float, pose: str, yaw: float = 0.0, child: bool = False
) -> Actor | None:
    """Put a random person at a point (pixels) of a scene, looking roughly where the body is turned to."""
    rng = setting.rng
    look = float(np.clip(0.7 * yaw + rng.uniform(-0.3, 0.3), -0.7, 0.7))
    person = random_person(
        rng, x=x, y=y, head_px=head_px, pose=pose, yaw=yaw, look=look, warmth=setting.warmth, child=child
    )
    enlarge = FINE if head_px < 75 else 1.0
    canvas = paint_person(person, setting.light, frame=setting.frame, enlarge=enlarge)
    if canvas is None:
        return None
    return Actor(canvas, PERSON, y, enlarge, feet=feet_of(person), head_px=person.head_px)


def feet_of(person: Person) -> tuple[tuple[float, float], ...]:
    """Return where a person's feet meet the ground, in pixels."""
    joints = skeleton(person)
    return tuple(
        (
            person.x + float(leg[2, 0]) * person.head_px,
            person.y + (float(leg[2, 1] + OBLIQUE * leg[2, 2]) + 0.16) * person.head_px,
        )
        for leg in (joints.left_leg, joints.right_leg)
    )


STANDING = (
    "stand",
    "relaxed",
    "hip",
    "both_hips",
    "wave",
    "cheer",
    "crossed",
    "at_ease",
    "point",
    "phone",
    "chat",
    "relaxed",
)
IN_GROUPS = ("stand", "relaxed", "hip", "both_hips", "crossed", "at_ease", "phone", "chat", "cheer", "relaxed")
CLOSE_UP = ("stand", "relaxed", "crossed", "hip", "phone", "chat", "wave", "at_ease")


def any_of(setting: Setting, names: tuple[str, ...]) -> str:
    """Draw one of some names."""
    return names[int(setting.rng.integers(len(names)))]


def in_a_row(
    setting: Setting, *, count: int, share: float, gap: float, children: int = 0, poses: tuple[str, ...] | None = None
) -> list[Actor]:
    """Put people beside each other: `share` of the picture's height tall, `gap` heads apart, some of them children."""
    width, height = setting.frame
    rng = setting.rng
    head = share * height / BODY_HEADS
    middle = width * rng.uniform(0.46, 0.54)
    child_at = set(rng.choice(count, children, replace=False).tolist()) if children else set()
    actors = []
    for i in range(count):
        x = middle + (i - (count - 1) / 2) * gap * head + rng.uniform(-0.12, 0.12) * head
        y = height * (0.965 - 0.03 * ((i * 7 + setting.scene.image_id) % 3) / 2)
        pose = any_of(setting, poses or (STANDING if count == 1 else IN_GROUPS))
        inward = -0.35 * np.sign(i - (count - 1) / 2) if count > 1 else 0.0
        actor = place_person(
            setting, x=x, y=y, head_px=head * (1 + (y / height - 0.95)), pose=pose, yaw=float(inward + rng.uniform(-0.45, 0.45)),
            child=i in child_at,
        )  # fmt: skip
        actors += [actor] if actor else []
    return actors


def half_length(setting: Setting, *, places: tuple[float, ...], head_share: float, eyes: float = 0.36) -> list[Actor]:
    """Put people so near that the frame cuts them at the waist; `head_share` of the picture's height is one head."""
    width, height = setting.frame
    rng = setting.rng
    actors = []
    for i, place in enumerate(places):
        head = head_share * height * rng.uniform(0.94, 1.06)
        y = eyes * height + 6.5 * head + 4 * i + rng.uniform(-0.2, 0.2) * head
        yaw = float(rng.uniform(-0.5, 0.5) if len(places) == 1 else (0.5 - place) * 0.9 + rng.uniform(-0.2, 0.2))
        actor = place_person(setting, x=place * width, y=y, head_px=head, pose=any_of(setting, CLOSE_UP), yaw=yaw)
        actors += [actor] if actor else []
    return actors


def portrait(setting: Setting) -> list[Actor]:
    """Show one person from the waist up."""
    return half_length(
        setting,
        places=(float(setting.rng.uniform(0.42, 0.58)),),
        head_share=0.27 if setting.frame[0] > setting.frame[1] else 0.22,
    )


def duo(setting: Setting) -> list[Actor]:
    """Show two people from the waist up, one a little in front of the other."""
    wide = setting.frame[0] > setting.frame[1]
    return half_length(setting, places=(0.33, 0.66), head_share=0.215 if wide else 0.145, eyes=0.38)


def single(setting: Setting) -> list[Actor]:
    """Show one person from head to foot."""
    return in_a_row(setting, count=1, share=0.9, gap=0)


def pair(setting: Setting) -> list[Actor]:
    """Show two people from head to foot."""
    return in_a_row(setting, count=2, share=0.82, gap=2.2)


def trio(setting: Setting) -> list[Actor]:
    """Show three people who stand close."""
    return in_a_row(setting, count=3, share=0.8, gap=1.75)


def four(setting: Setting) -> list[Actor]:
    """Show four people, some half hidden by others."""
    return in_a_row(setting, count=4, share=0.78, gap=1.55)


def family(setting: Setting) -> list[Actor]:
    """Show two adults and a child."""
    return in_a_row(setting, count=3, share=0.82, gap=1.6, children=1)


def walkers(setting: Setting) -> list[Actor]:
    """Show two people on their way."""
    return in_a_row(setting, count=2, share=0.84, gap=2.5, poses=("walk", "stride"))


def on_bench(setting: Setting) -> list[Actor]:
    """Show two people on a bench, and the bench."""
    width, height = setting.frame
    head = 0.155 * height if width > height else 0.115 * height
    x, y = width * float(setting.rng.uniform(0.42, 0.58)), 0.93 * height
    bench = paint_bench(
        setting.light, x=x, y=y - 0.35 * head, head_px=head, half=2.2, frame=setting.frame, enlarge=FINE
    )
    actors = [
        Actor(
            bench,
            BENCH,
            y - 2,
            FINE,
            feet=((x - 1.85 * head, y - 0.35 * head), (x + 1.85 * head, y - 0.35 * head)),
            head_px=head,
        )
    ]
    for i, side in enumerate((-1.0, 1.0)):
        yaw = float(-side * setting.rng.uniform(0.15, 0.5))
        pose = ("sit", "sit_open")[(i + setting.scene.image_id) % 2]
        actor = place_person(setting, x=x + side * 0.95 * head, y=y, head_px=head, pose=pose, yaw=yaw)
        actors += [actor] if actor else []
    return actors


def at_table(setting: Setting) -> list[Actor]:
    """Show two people behind a table with cups."""
    width, height = setting.frame
    wide = width > height
    actors = half_length(setting, places=(0.32, 0.68), head_share=0.185 if wide else 0.135, eyes=0.33)
    top = (0.68 if wide else 0.62) * height
    table = paint_table(setting.light, setting.rng, top=top, head_px=0.185 * height, frame=setting.frame, enlarge=1.0)
    actors.append(Actor(table, TABLE, 10_000, 1.0))
    for place in (0.24, 0.52, 0.78):
        colour = any_of(setting, ("white", "sky", "mustard", "red", "cream"))
        y = top + 0.055 * height
        cup = paint_cup(
            setting.light,
            x=place * width,
            y=y,
            size=0.085 * min(width, height),
            colour=colour,
            frame=setting.frame,
            enlarge=FINE,
        )
        actors.append(Actor(cup, CUP, 10_001, FINE))
    return actors


def behind_post(setting: Setting) -> list[Actor]:
    """Show two people, one of them cut in two by a lamp post in front."""
    _width, height = setting.frame
    actors = in_a_row(setting, count=2, share=0.8, gap=2.4, poses=("hip", "both_hips", "relaxed", "cheer"))
    if not actors:
        return actors
    nearest = actors[int(setting.rng.integers(len(actors)))]
    x = float(np.mean([foot[0] for foot in nearest.feet]))
    post = paint_lamp_post(
        setting.light, x=x, y=0.985 * height, head_px=0.115 * height, frame=setting.frame, enlarge=FINE
    )
    return [
        *actors,
        Actor(post, NOT_ANNOTATED, 0.985 * height, FINE, feet=((x, 0.985 * height),), head_px=0.115 * height),
    ]


def with_plant(setting: Setting) -> list[Actor]:
    """Show a person beside, and partly behind, a plant."""
    width, height = setting.frame
    actors = in_a_row(setting, count=1, share=0.88, gap=0)
    head = 0.13 * height
    x = width * 0.5 + float(setting.rng.choice([-1.0, 1.0])) * 1.25 * head
    plant = paint_plant(
        setting.light, setting.rng, x=x, y=0.985 * height, head_px=head, frame=setting.frame, enlarge=FINE
    )
    return [*actors, Actor(plant, PLANT, 0.99 * height, FINE, feet=((x, 0.985 * height),), head_px=1.5 * head)]


def with_ball(setting: Setting) -> list[Actor]:
    """Show an adult and a child with a ball."""
    width, height = setting.frame
    actors = in_a_row(setting, count=2, share=0.84, gap=2.3, children=1, poses=("walk", "stride", "cheer", "chat"))
    radius = 0.05 * height
    x = width * float(setting.rng.uniform(0.42, 0.58))
    ball = paint_ball(
        setting.light,
        x=x,
        y=0.975 * height,
        radius=radius,
        colour=any_of(setting, ("red", "blue", "orange")),
        frame=setting.frame,
        enlarge=FINE,
    )
    return [*actors, Actor(ball, BALL, 0.978 * height, FINE, feet=((x, 0.975 * height),), head_px=1.6 * radius)]


def before_crowd(setting: Setting) -> list[Actor]:
    """Show one or two people before a crowd of many small ones."""
    width, height = setting.frame
    foot, size = setting.horizon + 0.03 * height, 0.021 * height
    canvas = open_prop(
        setting.light, box=(0, foot - 10 * size, width, foot + 3 * size), frame=setting.frame, head_px=size, enlarge=2.0
    )
    for row in range(2):
        for x in np.arange(0.02 * width, 0.98 * width, 2.1 * size):
            at = (x + setting.rng.uniform(-0.5, 0.5) * size, foot + (row * 1.1 + setting.rng.uniform(-0.3, 0.3)) * size)
            paint_far_person(canvas, setting.rng, x=at[0] * 2, y=at[1] * 2, size=size * 2)
    crowd = Actor(canvas, PERSON, foot, 2.0, is_crowd=True)
    return [crowd, *in_a_row(setting, count=2, share=0.86, gap=2.8)]


def paint_far_person(canvas: Canvas, rng: np.random.Generator, *, x: float, y: float, size: float) -> None:
    """Paint a person so far away that a few strokes will do."""
    names = sorted(DYES)
    shirt, legs = (Material(paint=plain(dye(names[int(rng.integers(len(names)))]))) for _ in range(2))
    skin = Material(paint=plain(srgb_to_linear(SKINS[int(rng.integers(len(SKINS)))])), skin=1.0)
    hair = Material(paint=plain(srgb_to_linear(HAIRS[int(rng.integers(len(HAIRS)))])))
    step = float(rng.uniform(0.1, 0.5)) * size
    for side in (-1, 1):
        canvas.paint(
            canvas.chain([(x + side * 0.2 * size, y - 3.6 * size), (x + side * step, y)], [0.36 * size, 0.2 * size]),
            legs,
            shade=0.2,
        )
        lift = float(rng.choice([1.6, 1.6, -1.0])) * size
        arm = [(x + side * 0.6 * size, y - 5.6 * size), (x + side * 0.95 * size, y - 5.6 * size + lift)]
        canvas.paint(canvas.chain(arm, [0.2 * size, 0.15 * size]), shirt, shade=0.2)
    canvas.paint(canvas.chain([(x, y - 5.5 * size), (x, y - 3.6 * size)], [0.66 * size, 0.52 * size]), shirt, shade=0.2)
    canvas.paint(canvas.chain([(x, y - 7.1 * size), (x, y - 6.9 * size)], [0.42 * size, 0.4 * size]), hair, shade=0.2)
    canvas.paint(canvas.chain([(x, y - 6.85 * size), (x, y - 6.6 * size)], [0.36 * size, 0.3 * size]), skin, shade=0.0)


def nobody(setting: Setting) -> list[Actor]:
    """Show the place alone, with an empty bench."""
    width, height = setting.frame
    head = 0.1 * height
    x, y = width * float(setting.rng.uniform(0.35, 0.65)), 0.9 * height
    bench = paint_bench(setting.light, x=x, y=y, head_px=head, half=2.2, frame=setting.frame, enlarge=FINE)
    return [Actor(bench, BENCH, y, FINE, feet=((x - 1.85 * head, y), (x + 1.85 * head, y)), head_px=head)]


CASTS: dict[str, Callable[[Setting], list[Actor]]] = {
    "portrait": portrait, "duo": duo, "single": single, "pair": pair, "trio": trio, "four": four, "family": family,
    "walkers": walkers, "on_bench": on_bench, "at_table": at_table, "behind_post": behind_post,
    "with_plant": with_plant, "with_ball": with_ball, "before_crowd": before_crowd, "nobody": nobody,
}  # fmt: skip
FOCUS_PX = {"portrait": 4.5, "duo": 3.2, "at_table": 2.2}  # blur of what lies behind close people; 0.8 for the others


def draw_scene(scene: Scene) -> Drawing:
    """Draw one scene from its specification alone: the image id seeds everything that is drawn by chance."""
    light = LIGHTS[scene.light]
    rng = np.random.default_rng([scene.image_id, 20_260_101])
    backdrop = PLACES[scene.place](scene.height, scene.width, light, rng)
    setting = Setting(scene, light, backdrop.horizon, rng)
    actors = sorted(CASTS[scene.cast](setting), key=lambda actor: actor.y)
    radiance = out_of_focus(backdrop, FOCUS_PX.get(scene.cast, 0.8))
    layers = [layer_of(actor, light, setting.frame) for actor in actors]
    floor = cast_shadows(actors, [alpha for _, alpha in layers], light, horizon=backdrop.horizon)
    radiance *= floor[..., None]
    visible: list[Array] = []
    for colour, alpha in layers:
        radiance = radiance * (1 - alpha[..., None]) + colour
        visible = [seen * (1 - alpha) for seen in visible]
        visible.append(alpha)
    instances = tuple(
        Instance(actor.category_id, seen > 0.5, is_crowd=actor.is_crowd)
        for actor, seen in zip(actors, visible, strict=True)
        if actor.category_id != NOT_ANNOTATED
    )
    return Drawing(develop(radiance, light, rng, grey=scene.grey), instances)


def out_of_focus(backdrop: Backdrop, blur_px: float) -> Array:
    """Return the backdrop's light, blurred above the horizon and less and less towards the viewer's feet."""
    soft = cv2.GaussianBlur(backdrop.radiance.astype(np.float32), (0, 0), sigmaX=blur_px)
    height = len(soft)
    rows = np.arange(height, dtype=np.float32)[:, None, None]
    near = np.clip((rows - backdrop.horizon) / max(height - backdrop.horizon, 1), 0, 1)
    sharp = near if blur_px < 1 else 0.0 * near
    return soft + (backdrop.radiance - soft) * sharp.astype(np.float32)


def layer_of(actor: Actor, light: Light, frame: tuple[int, int]) -> tuple[Array, Array]:
    """Return what an actor adds to the picture: its light times its cover (H, W, 3), and its cover (H, W), 0..1."""
    canvas, scale = actor.canvas, actor.enlarge
    layer: Array = np.dstack([canvas.lit(light) * canvas.alpha[..., None], canvas.alpha])
    shift = scale / 2 - 0.5  # from the middle of a pixel of the picture to those of the canvas
    if scale > 1:
        # The mean of two by two first, else pixels would be skipped; it lies half a pixel before its index.
        layer = cv2.blur(layer, (2, 2))
        shift += 0.5
    matrix = np.array([[scale, 0, shift - canvas.left], [0, scale, shift - canvas.top]], np.float64)
    layer = cv2.warpAffine(layer, matrix, frame, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return layer[..., :3], np.clip(layer[..., 3], 0, 1)


def cast_shadows(actors: list[Actor], alphas: list[Array], light: Light, *, horizon: int) -> Array:
    """Return how much light is left on the ground, (H, W), 0..1, by the shadows of all that stands on it."""
    height, width = alphas[0].shape if alphas else (1, 1)
    left_over = np.ones((height, width), np.float32)
    across = -light.direction[0] * 0.75
    back = 0.10 + 0.22 * max(light.direction[2], 0.0)
    for actor, alpha in zip(actors, alphas, strict=True):
        if not actor.feet:
            continue
        foot = float(np.mean([y for _, y in actor.feet]))
        # Shadow row y' = foot - back (foot - y); column x' = x + across (foot - y).
        matrix = np.array([[1, -across, across * foot], [0, back, foot * (1 - back)]], np.float64)
        shadow = cv2.warpAffine(alpha, matrix, (width, height), flags=cv2.INTER_LINEAR)
        shadow = cv2.GaussianBlur(shadow, (0, 0), sigmaX=max(light.shadow_blur * actor.head_px, 0.8))
        left_over *= 1 - light.shadow * np.clip(shadow, 0, 1)
        for x, y in actor.feet:
            left_over *= 1 - 0.6 * contact(height, width, x=x, y=y, size=0.33 * actor.head_px)
    rows = np.arange(height, dtype=np.float32)[:, None]
    ground = np.clip((rows - horizon) / 6, 0, 1)
    return 1 - (1 - left_over) * ground


def contact(height: int, width: int, *, x: float, y: float, size: float) -> Array:
    """Return the dark patch, (height, width) 0..1, right under something that touches the ground."""
    rows = np.exp(-(((np.arange(height, dtype=np.float32) - y) / (0.42 * size)) ** 2))
    columns = np.exp(-(((np.arange(width, dtype=np.float32) - x) / size) ** 2))
    return np.outer(rows, columns).astype(np.float32)
