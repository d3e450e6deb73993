"""Draw a person: a small skeleton in space, posed and turned, dressed part by part from back to front."""

import math
from dataclasses import dataclass

import numpy as np

from flows.coco.sample.canvas import Canvas, Material, Point, plain
from flows.coco.sample.cloth import cloth, dye
from flows.coco.sample.head import Face, paint_hair_behind, paint_head, random_face
from flows.coco.sample.light import Light
from flows.coco.sample.noise import Array

Bone = tuple[float, float, float]  # sideways (outwards), down, forwards; a direction, any length

UPPER_ARM, FOREARM, HAND, THIGH, SHIN = 1.28, 1.12, 0.34, 1.78, 1.72  # lengths in heads
SPINE, NECK = 2.2, 0.27
OBLIQUE = 0.14  # what lies nearer is drawn lower by this share of its nearness: the camera looks down a little


@dataclass(frozen=True)
class Pose:
    """Give the direction of each bone; left and right as the viewer sees them before the body is turned."""

    left_arm: tuple[Bone, Bone] = ((0.16, 1, 0.0), (0.04, 1, 0.16))
    right_arm: tuple[Bone, Bone] = ((0.16, 1, 0.0), (0.04, 1, 0.16))
    left_leg: tuple[Bone, Bone] = ((0.07, 1, 0.0), (0.03, 1, -0.03))
    right_leg: tuple[Bone, Bone] = ((0.07, 1, 0.0), (0.03, 1, -0.03))
    lean: tuple[float, float] = (0.0, 0.0)  # of the spine: to the right, forwards
    nod: float = 0.0  # of the head, radians to the right
    seated: bool = False


POSES: dict[str, Pose] = {
    "stand": Pose(),
    "relaxed": Pose(
        left_leg=((0.02, 1, 0.02), (0.02, 1, 0.0)), right_leg=((0.2, 1, 0.15), (0.04, 1, -0.1)),
        left_arm=((0.14, 1, -0.1), (0.0, 1, 0.25)), lean=(-0.03, 0.0), nod=0.06,
    ),
    "hip": Pose(
        right_arm=((0.62, 0.85, -0.15), (-0.72, 0.5, 0.35)), left_leg=((0.12, 1, 0.1), (0.05, 1, -0.05)),
        lean=(0.05, 0.0), nod=-0.08,
    ),
    "both_hips": Pose(
        left_arm=((0.62, 0.85, -0.15), (-0.72, 0.5, 0.35)), right_arm=((0.62, 0.85, -0.15), (-0.72, 0.5, 0.35)),
        left_leg=((0.2, 1, 0), (0.08, 1, 0)), right_leg=((0.2, 1, 0), (0.08, 1, 0)),
    ),
    "wave": Pose(
        right_arm=((0.8, -0.25, 0.1), (0.28, -1, 0.2)), left_arm=((0.2, 1, 0), (0.08, 1, 0.2)),
        lean=(-0.04, 0.0), nod=-0.1,
    ),
    "cheer": Pose(
        left_arm=((0.6, -0.75, 0.0), (0.2, -1, 0.1)), right_arm=((0.6, -0.75, 0.0), (0.25, -1, 0.1)),
        left_leg=((0.2, 1, 0.1), (0.1, 1, -0.1)), right_leg=((0.2, 1, 0), (0.1, 1, 0)),
    ),
    "walk": Pose(
        left_leg=((0.03, 1, 0.48), (0.0, 1, 0.1)), right_leg=((0.03, 1, -0.25), (0.0, 1, -0.62)),
        left_arm=((0.12, 1, -0.38), (0.05, 1, -0.05)), right_arm=((0.12, 1, 0.42), (0.0, 1, 0.7)),
        lean=(0.0, 0.06),
    ),
    "stride": Pose(
        left_leg=((0.03, 1, -0.3), (0.0, 1, -0.75)), right_leg=((0.03, 1, 0.55), (0.0, 1, 0.05)),
        left_arm=((0.12, 1, 0.5), (0.0, 0.75, 0.8)), right_arm=((0.12, 1, -0.5), (0.05, 1, 0.0)),
        lean=(0.0, 0.09),
    ),
    "crossed": Pose(
        left_arm=((0.2, 1, 0.28), (-0.95, -0.04, 0.5)), right_arm=((0.2, 1, 0.18), (-1.0, 0.16, 0.5)),
    ),
    "at_ease": Pose(
        left_arm=((0.34, 1, -0.2), (-0.2, 1, 0.25)), right_arm=((0.34, 1, -0.2), (-0.2, 1, 0.25)),
        left_leg=((0.14, 1, 0), (0.06, 1, 0)), nod=0.05,
    ),
    "point": Pose(right_arm=((1.0, 0.0, 0.25), (1.0, -0.12, 0.25)), lean=(-0.03, 0), nod=-0.05),
    "phone": Pose(
        right_arm=((0.22, 1, 0.1), (-0.1, -0.55, 0.8)), left_arm=((0.16, 1, 0.0), (-0.1, 1, 0.3)), nod=0.1,
    ),
    "chat": Pose(
        right_arm=((0.25, 1, 0.1), (0.3, 0.05, 0.8)), left_arm=((0.2, 1, 0.1), (0.1, 0.4, 0.8)), nod=0.05,
    ),
    "sit": Pose(
        left_leg=((0.16, 0.12, 1), (0.02, 1, 0.06)), right_leg=((0.16, 0.12, 1), (0.02, 1, 0.06)),
        left_arm=((0.14, 1, 0.28), (-0.05, 0.42, 0.9)), right_arm=((0.14, 1, 0.28), (-0.05, 0.42, 0.9)), seated=True,
    ),
    "sit_open": Pose(
        left_leg=((0.4, 0.15, 1), (0.06, 1, 0.0)), right_leg=((0.22, 0.12, 1), (-0.05, 1, 0.25)),
        left_arm=((0.32, 1, 0.2), (-0.2, 0.5, 0.8)), right_arm=((0.5, 0.85, 0.0), (0.1, 0.7, 0.5)),
        lean=(0.03, -0.05), nod=0.08, seated=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Outfit:
    """Give a person's clothes."""

    top: Material
    bottom: Material
    sleeves: str  # "long", "short", "none"
    lower: str  # "trousers", "shorts", "skirt", "dress"
    coat: Material | None
    shoes: Array
    scarf: Material | None = None


@dataclass(frozen=True)
class Person:
    """Say who stands where and how. Lengths in pixels of the picture."""

    x: float  # of the middle of the hips
    y: float  # of the ground under the feet
    head_px: float
    pose: str
    yaw: float  # radians; positive turns the body to the viewer's right
    look: float  # radians; where the face is turned to
    face: Face
    outfit: Outfit
    width: float = 1.0  # of the trunk and limbs
    shoulders: float = 0.84  # half the breadth, in heads
    hips: float = 0.52
    legs: float = 1.0  # length of the legs and arms; a child's are shorter
    mirrored: bool = False


@dataclass(frozen=True)
class Joints:
    """Hold the joints in space, in heads: right, down (0 is the ground), to the viewer."""

    hip: Array
    chest: Array  # where the neck begins
    head: Array
    left_arm: Array  # (3, 3): shoulder, elbow, wrist
    right_arm: Array
    left_leg: Array  # (3, 3): hip, knee, ankle
    right_leg: Array


def turned(vector: Array, yaw: float) -> Array:
    """Turn (..., 3) body coordinates (right, down, forwards) into the viewer's."""
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    return np.stack([x * math.cos(yaw) + z * math.sin(yaw), y, -x * math.sin(yaw) + z * math.cos(yaw)], axis=-1)


def reach(start: Array, bones: tuple[Bone, Bone], lengths: tuple[float, float], side: float) -> Array:
    """Return start, middle and end (3, 3) of a limb on one side (-1 left, 1 right)."""
    joints = [start]
    for bone, length in zip(bones, lengths, strict=True):
        step = np.array([bone[0] * side, bone[1], bone[2]])
        joints.append(joints[-1] + step / np.linalg.norm(step) * length)
    return np.stack(joints)


def skeleton(person: Person) -> Joints:
    """Return the posed joints of a person, feet on the ground, hips over x = 0."""
    pose = POSES[person.pose]
    hip = np.zeros(3)
    spine = np.array([pose.lean[0], -1.0, pose.lean[1]])
    chest = hip + spine / np.linalg.norm(spine) * SPINE * (0.55 + 0.45 * person.legs)
    head = chest + np.array([0.18 * pose.nod + pose.lean[0] * 0.3, -NECK - 0.30, 0.10 + pose.lean[1]])
    arm = (UPPER_ARM * person.legs, FOREARM * person.legs)
    leg = (THIGH * person.legs, SHIN * person.legs)
    shoulder = np.array([(person.shoulders - 0.205) * person.width, 0.36, 0.0])
    mirror = np.array([-1.0, 1.0, 1.0])
    limbs = [
        reach(chest + shoulder * mirror, pose.left_arm, arm, -1),
        reach(chest + shoulder, pose.right_arm, arm, 1),
        reach(hip + np.array([-person.hips * 0.5, 0.05, 0]), pose.left_leg, leg, -1),
        reach(hip + np.array([person.hips * 0.5, 0.05, 0]), pose.right_leg, leg, 1),
    ]
    parts = [hip, chest, head, *limbs]
    if person.mirrored:
        parts = [part * mirror for part in parts]
        parts[3], parts[4], parts[5], parts[6] = parts[4], parts[3], parts[6], parts[5]
    parts = [turned(part, person.yaw) for part in parts]
    ground = max(parts[5][2, 1] + OBLIQUE * parts[5][2, 2], parts[6][2, 1] + OBLIQUE * parts[6][2, 2]) + 0.22
    return Joints(*[part - np.array([0.0, ground, 0.0]) for part in parts])


@dataclass(frozen=True)
class Sketch:
    """Hold what the painting functions of one person share."""

    canvas: Canvas
    person: Person
    joints: Joints
    origin: Point  # of the ground under the hips, in enlarged pixels

    def at(self, joint: Array) -> Point:
        """Return where a joint is seen, in enlarged pixels."""
        head = self.canvas.head_px
        return (
            self.origin[0] + float(joint[0]) * head,
            self.origin[1] + float(joint[1] + OBLIQUE * joint[2]) * head,
        )

    def size(self, heads: float) -> float:
        """Return a thickness in pixels, fattened by the person's build."""
        return heads * self.canvas.head_px * self.person.width


def open_canvas(
    person: Person, joints: Joints, light: Light, *, frame: tuple[int, int], enlarge: float
) -> Canvas | None:
    """Return a canvas just large enough for the part of a person that a frame (width, height) shows, or None."""
    head = person.head_px * enlarge
    points = np.vstack([np.atleast_2d(part) for part in vars(joints).values()])
    x = person.x * enlarge + points[:, 0] * head
    y = person.y * enlarge + (points[:, 1] + OBLIQUE * points[:, 2]) * head
    left, top = max(int(x.min() - 1.1 * head), 0), max(int(y.min() - 1.1 * head), 0)
    right = min(int(x.max() + 1.1 * head), round(frame[0] * enlarge))
    bottom = min(int(y.max() + 0.7 * head), round(frame[1] * enlarge))
    if right - left < 2 or bottom - top < 2:
        return None
    return Canvas(
        left=left, top=top, width=right - left, height=bottom - top, head_px=head, light_side=light.direction[0]
    )


def paint_person(person: Person, light: Light, *, frame: tuple[int, int], enlarge: float) -> Canvas | None:
    """Paint a person, back to front.

    Parameters
    ----------
    person
        Who, where and how.
    light
        Of the scene; says on which side the parts shade each other.
    frame
        Width and height of the picture in pixels.
    enlarge
        How much larger than the picture the canvas is, so that edges come out smooth.

    Returns:
    -------
    The canvas, or None where the frame shows nothing of the person.
    """
    joints = skeleton(person)
    canvas = open_canvas(person, joints, light, frame=frame, enlarge=enlarge)
    if canvas is None:
        return None
    sketch = Sketch(canvas, person, joints, (person.x * enlarge, person.y * enlarge))
    head = sketch.at(joints.head)
    nod = POSES[person.pose].nod * (-1 if person.mirrored else 1)
    far_first = sorted([(joints.left_arm, -1.0), (joints.right_arm, 1.0)], key=lambda arm: float(arm[0][0, 2]))
    far = [arm for arm in far_first if arm[0][0, 2] < -0.22 and arm[0][2, 2] < 0.35]
    near = [arm for arm in far_first if not any(arm is other for other in far)]
    paint_hair_behind(canvas, head, person.face, yaw=person.look)
    for arm, side in far:
        paint_arm(sketch, arm, side)
    seated = POSES[person.pose].seated
    if seated:
        paint_trunk(sketch)
        paint_legs(sketch)
    else:
        paint_legs(sketch)
        paint_trunk(sketch)
    paint_neck(sketch, head)
    paint_head(canvas, head, person.face, yaw=person.look, tilt=nod)
    for arm, side in near:
        paint_arm(sketch, arm, side)
    return canvas


def paint_legs(sketch: Sketch) -> None:
    """Paint legs, shoes, and what is worn over them."""
    joints, outfit = sketch.joints, sketch.person.outfit
    for leg in sorted([joints.left_leg, joints.right_leg], key=lambda part: float(part[1, 2] + part[2, 2])):
        paint_leg(sketch, leg)
    if outfit.lower in {"skirt", "dress"}:
        paint_skirt(sketch)
    elif not POSES[sketch.person.pose].seated:
        paint_pelvis(sketch)


def paint_leg(sketch: Sketch, leg: Array) -> None:
    """Paint one leg and its shoe."""
    canvas, outfit = sketch.canvas, sketch.person.outfit
    hip, knee, ankle = (sketch.at(joint) for joint in leg)
    bare = Material(paint=plain(sketch.person.face.skin), skin=1.0, gloss=0.05)
    paint_shoe(sketch, leg)
    calf = (0.55 * knee[0] + 0.45 * ankle[0], 0.55 * knee[1] + 0.45 * ankle[1])
    if outfit.lower == "trousers":
        radii = [sketch.size(r) for r in (0.37, 0.255, 0.235, 0.18)]
        canvas.paint(canvas.chain([hip, knee, calf, ankle], radii, hemmed=True), outfit.bottom, shade=0.4)
        return
    radii = [sketch.size(r) for r in (0.32, 0.215, 0.205, 0.105)]
    canvas.paint(canvas.chain([hip, knee, calf, ankle], radii), bare, shade=0.3)
    if outfit.lower == "shorts":
        low = (0.22 * hip[0] + 0.78 * knee[0], 0.22 * hip[1] + 0.78 * knee[1])
        shorts = canvas.chain([hip, low], [sketch.size(0.36), sketch.size(0.32)], hemmed=True)
        canvas.paint(shorts, outfit.bottom, shade=0.4)


def paint_shoe(sketch: Sketch, leg: Array) -> None:
    """Paint the shoe of a leg; it points where the body is turned to."""
    ahead = turned(np.array([0.0, 0.0, 1.0]), sketch.person.yaw * 0.9)
    outward = np.sign(leg[2, 0]) * 0.12 * math.cos(sketch.person.yaw)
    heel = leg[2] + np.array([0.0, 0.09, 0.0]) - 0.10 * ahead
    ball = leg[2] + np.array([outward, 0.10, 0.0]) + 0.34 * ahead
    toe = ball + 0.16 * ahead + np.array([0.0, 0.03, 0.0])
    points = [sketch.at(point) for point in (heel, ball, toe)]
    radii = [sketch.size(r) for r in (0.125, 0.125, 0.10)]
    sole = [(x, y + 0.045 * sketch.canvas.head_px) for x, y in points]
    shoes = sketch.person.outfit.shoes
    sketch.canvas.paint(sketch.canvas.chain(sole, radii), Material(paint=plain(0.35 * shoes + 0.02)))
    sketch.canvas.paint(sketch.canvas.chain(points, radii), Material(paint=plain(shoes), gloss=0.14), shade=0.2)


def breadth(sketch: Sketch, half_width: float, half_depth: float) -> float:
    """Return the half breadth in pixels that a turned trunk shows."""
    yaw = sketch.person.yaw
    return sketch.size(float(np.hypot(half_width * math.cos(yaw), half_depth * math.sin(yaw))))


def outline_along(start: Point, end: Point, levels: list[tuple[float, float]]) -> Array:
    """Return a closed outline (N, 2) around the line from `start` to `end`: pairs of (share of the way, half breadth)."""
    a, b = np.array(start), np.array(end)
    step = (b - a) / max(float(np.hypot(*(b - a))), 1e-3)
    across = np.array([-step[1], step[0]])
    right = [a + (b - a) * t - across * w for t, w in levels]
    left = [a + (b - a) * t + across * w for t, w in reversed(levels)]
    return np.array(right + left, np.float32)


def paint_pelvis(sketch: Sketch) -> None:
    """Paint the seat of trousers or shorts."""
    joints, person = sketch.joints, sketch.person
    hip = sketch.at(joints.hip)
    low = (hip[0], hip[1] + 0.42 * sketch.canvas.head_px * person.legs)
    levels = [(-0.7, breadth(sketch, person.hips * 0.9, 0.36)), (0.0, breadth(sketch, person.hips + 0.06, 0.42))]
    levels += [(0.55, breadth(sketch, person.hips + 0.06, 0.42)), (1.0, breadth(sketch, 0.2, 0.2))]
    outline = outline_along(hip, low, levels)
    shape = sketch.canvas.blob(outline, round_px=sketch.size(0.42), axis=(hip, low))
    sketch.canvas.paint(shape, person.outfit.bottom, shade=0.15)


def paint_skirt(sketch: Sketch) -> None:
    """Paint a skirt from the waist to below the knees, or over the thighs of someone who sits."""
    joints, person = sketch.joints, sketch.person
    waist = joints.hip + 0.18 * (joints.chest - joints.hip)
    knees = (joints.left_leg[1] + joints.right_leg[1]) / 2
    ankles = (joints.left_leg[2] + joints.right_leg[2]) / 2
    hem = knees + (0.22 if POSES[person.pose].seated else 0.35) * (ankles - knees)
    start, end = sketch.at(waist), sketch.at(hem)
    spread = abs(sketch.at(joints.left_leg[1])[0] - sketch.at(joints.right_leg[1])[0]) / 2
    wide = spread + sketch.size(0.42)
    levels = [(0.0, breadth(sketch, person.hips * 0.8, 0.34)), (0.25, breadth(sketch, person.hips + 0.08, 0.46))]
    levels += [
        (0.6, max(0.85 * wide, breadth(sketch, person.hips + 0.12, 0.5))),
        (1.0, wide * 1.04),
        (1.5, wide),
    ]
    material = person.outfit.bottom if person.outfit.lower == "skirt" else person.outfit.top
    hem = float(np.hypot(end[0] - start[0], end[1] - start[1])) / sketch.canvas.head_px
    outline = outline_along(start, end, levels)
    shape = sketch.canvas.blob(outline, round_px=sketch.size(0.5), axis=(start, end), hem=hem)
    sketch.canvas.paint(shape, material, shade=0.55, reach=0.22)


def paint_trunk(sketch: Sketch) -> None:
    """Paint shirt, pullover or the upper half of a dress, and a coat over it."""
    joints, person, outfit = sketch.joints, sketch.person, sketch.person.outfit
    chest, hip = sketch.at(joints.chest), sketch.at(joints.hip)
    shoulder = person.shoulders
    levels = [
        (-0.03, breadth(sketch, 0.19, 0.2)), (0.05, breadth(sketch, shoulder * 0.58, 0.27)),
        (0.10, breadth(sketch, shoulder * 0.86, 0.31)), (0.17, breadth(sketch, shoulder * 0.955, 0.36)),
        (0.36, breadth(sketch, shoulder * 0.80, 0.42)),
        (0.68, breadth(sketch, 0.5 * person.hips + 0.29 * shoulder, 0.36)),
        (0.95, breadth(sketch, person.hips + 0.03, 0.41)), (1.12, breadth(sketch, person.hips + 0.06, 0.42)),
        (1.4, breadth(sketch, person.hips, 0.4)),
    ]  # fmt: skip
    hem = 1.13 * float(np.hypot(hip[0] - chest[0], hip[1] - chest[1])) / sketch.canvas.head_px
    outline = outline_along(chest, hip, levels)
    shape = sketch.canvas.blob(outline, round_px=sketch.size(0.55), axis=(chest, hip), hem=hem)
    sketch.canvas.paint(shape, outfit.top, shade=0.5, reach=0.2)
    if outfit.coat is None:
        return
    open_by = sketch.size(0.16) + 0.0
    drop = 1.12 if POSES[person.pose].seated else 1.55
    lapel = (chest[0] + math.sin(person.yaw) * sketch.size(0.32), chest[1])
    tail = (hip[0] + math.sin(person.yaw) * sketch.size(0.34), hip[1])
    edge = outline_along(lapel, tail, [(0.0, open_by * 0.8), (0.25, open_by * 1.5), (drop, open_by * 2.2)])
    for side in (-1, 1):
        outer = outline_along(
            chest, hip, [(t, w * 1.06) for t, w in levels[:7]] + [(drop, breadth(sketch, person.hips + 0.16, 0.5))]
        )
        half = len(outer) // 2
        flank = outer[:half] if side > 0 else outer[half:][::-1]
        seam = edge[:3] if side > 0 else edge[3:][::-1]
        shape = sketch.canvas.blob(np.vstack([flank, seam[::-1]]), round_px=sketch.size(0.4), axis=(chest, hip))
        sketch.canvas.paint(shape, outfit.coat, shade=0.5)


def paint_neck(sketch: Sketch, head: Point) -> None:
    """Paint neck and collar, or a scarf."""
    person, canvas = sketch.person, sketch.canvas
    chest = sketch.at(sketch.joints.chest)
    skin = Material(paint=plain(person.face.skin * np.array([0.95, 0.88, 0.86], np.float32)), skin=1.0, gloss=0.03)
    top = (head[0] - 0.06 * canvas.head_px * math.sin(person.look), head[1] + 0.25 * canvas.head_px)
    pit = (chest[0] + 0.05 * canvas.head_px * math.sin(person.yaw), chest[1] - 0.04 * canvas.head_px)
    canvas.paint(canvas.chain([top, pit], [sketch.size(0.19), sketch.size(0.215)]), skin, shade=0.3)
    if person.outfit.scarf is not None:
        low = chest[1] + 0.02 * canvas.head_px
        wrap = [(chest[0] - sketch.size(0.2), low - sketch.size(0.06)), (chest[0], low + sketch.size(0.08))]
        wrap.append((chest[0] + sketch.size(0.2), low - sketch.size(0.06)))
        tail = [(chest[0] + sketch.size(0.12), low), (chest[0] + sketch.size(0.2), low + sketch.size(1.0))]
        canvas.paint(canvas.chain(tail, [sketch.size(0.12), sketch.size(0.15)]), person.outfit.scarf)
        canvas.paint(canvas.chain(wrap, [sketch.size(r) for r in (0.15, 0.18, 0.15)]), person.outfit.scarf)


def paint_arm(sketch: Sketch, arm: Array, side: float) -> None:
    """Paint one arm: skin, sleeve, hand."""
    skin = Material(paint=plain(sketch.person.face.skin), skin=1.0, gloss=0.05)
    # A hand that is stretched out to the viewer hides its sleeve; any other is hidden by it.
    ahead = float(arm[2, 2] - arm[1, 2]) > 0.75 * FOREARM * sketch.person.legs
    if not ahead:
        paint_hand(sketch, arm, side, skin)
    paint_sleeve(sketch, arm, skin)
    if ahead:
        paint_hand(sketch, arm, side, skin)


def paint_sleeve(sketch: Sketch, arm: Array, skin: Material) -> None:
    """Paint an arm without its hand: bare, half bare, or sleeved."""
    canvas, outfit = sketch.canvas, sketch.person.outfit
    shoulder, elbow, wrist = (sketch.at(joint) for joint in arm)
    nearer = 1 + 0.05 * float(arm[2, 2])
    if outfit.sleeves != "long" and outfit.coat is None:
        radii = [sketch.size(r) for r in (0.19, 0.155, 0.15, 0.095 * nearer)]
        bulge = (0.72 * elbow[0] + 0.28 * wrist[0], 0.72 * elbow[1] + 0.28 * wrist[1])
        if outfit.sleeves == "none":
            bare = canvas.merged(canvas.chain([shoulder, elbow, bulge, wrist], radii), over=0.16)
            canvas.paint(bare, skin, shade=0.5)
            return
        begin = (0.5 * shoulder[0] + 0.5 * elbow[0], 0.5 * shoulder[1] + 0.5 * elbow[1])
        canvas.paint(canvas.chain([begin, elbow, bulge, wrist], radii), skin, shade=0.12)
        cuff = (0.36 * shoulder[0] + 0.64 * elbow[0], 0.36 * shoulder[1] + 0.64 * elbow[1])
        sleeve = canvas.chain([shoulder, cuff], [sketch.size(0.205), sketch.size(0.235)], hemmed=True)
        canvas.paint(canvas.merged(sleeve, over=0.36), outfit.top, shade=0.4)
        return
    material = outfit.coat or outfit.top
    cuff = (0.06 * elbow[0] + 0.94 * wrist[0], 0.06 * elbow[1] + 0.94 * wrist[1])
    radii = [sketch.size(r) for r in (0.205, 0.19, 0.145 * nearer)]
    sleeve = canvas.chain([shoulder, elbow, cuff], radii, hemmed=True)
    canvas.paint(canvas.merged(sleeve, over=0.55), material, shade=0.5)


def paint_hand(sketch: Sketch, arm: Array, side: float, skin: Material) -> None:
    """Paint a hand with four fingers and a thumb."""
    canvas = sketch.canvas
    wrist, elbow = np.array(sketch.at(arm[2])), np.array(sketch.at(arm[1]))
    ahead = wrist - elbow
    length = float(np.hypot(*ahead)) / canvas.head_px
    ahead = ahead / max(float(np.hypot(*ahead)), 1e-3) * canvas.head_px
    across = np.array([-ahead[1], ahead[0]])
    short = float(np.clip(length / FOREARM, 0.45, 1.0))
    palm = wrist + 0.2 * short * ahead
    scale = 0.85 + 0.15 * sketch.person.width
    spread = 0.6 if ahead[1] > 0 else 1.0
    for i, finger in enumerate((-0.11, -0.04, 0.035, 0.10)):
        reach_out = (0.44, 0.50, 0.49, 0.41)[i] * short
        root, tip = palm + finger * across * 0.85, wrist + reach_out * ahead + finger * across * (0.7 + 0.7 * spread)
        points = [(float(p[0]), float(p[1])) for p in (root, tip)]
        canvas.paint(canvas.chain(points, [0.042 * scale * canvas.head_px] * 2), skin, shade=0.25, reach=0.05)
    inner = -side * (1 if ahead[1] > 0 else -1)
    thumb = [wrist + 0.08 * ahead - inner * 0.08 * across, wrist + 0.32 * short * ahead - inner * 0.19 * across]
    canvas.paint(
        canvas.chain([(float(p[0]), float(p[1])) for p in thumb], [0.05 * scale * canvas.head_px, 0.04 * scale * canvas.head_px]),
        skin, shade=0.2, reach=0.06,
    )  # fmt: skip
    points = [(float(p[0]), float(p[1])) for p in (wrist, palm)]
    canvas.paint(
        canvas.chain(points, [0.095 * scale * canvas.head_px, 0.125 * scale * canvas.head_px]), skin, shade=0.2
    )


TOPS = (
    ("woven", "white", "white"), ("woven", "black", "black"), ("striped", "white", "navy"), ("striped", "cream", "red"),
    ("plaid", "red", "black"), ("plaid", "green", "navy"), ("plaid", "sky", "white"), ("knitted", "cream", "rust"),
    ("knitted", "mustard", "brown"), ("knitted", "teal", "white"), ("knitted", "plum", "pink"), ("denim", "denim", "white"),
    ("dotted", "navy", "white"), ("dotted", "yellow", "charcoal"), ("floral", "pink", "white"), ("floral", "navy", "pink"),
    ("floral", "mint", "magenta"), ("blocked", "navy", "orange"), ("blocked", "white", "blue"), ("buttoned", "sky", "white"),
    ("buttoned", "olive", "tan"), ("buttoned", "white", "charcoal"), ("woven", "magenta", "white"), ("woven", "yellow", "white"),
    ("woven", "green", "white"), ("woven", "red", "white"), ("woven", "orange", "white"), ("pinstriped", "blue", "white"),
)  # fmt: skip
BOTTOMS = (
    ("denim", "denim", "white"), ("denim", "navy", "white"), ("woven", "khaki", "tan"), ("woven", "black", "black"),
    ("woven", "charcoal", "grey"), ("woven", "brown", "tan"), ("pinstriped", "charcoal", "grey"), ("woven", "cream", "tan"),
    ("plaid", "grey", "charcoal"), ("woven", "olive", "khaki"),
)  # fmt: skip
COATS = ("tan", "navy", "charcoal", "olive", "red", "mustard", "brown", "teal", "cream", "plum")
SHOES = ("black", "brown", "white", "navy", "red", "tan", "charcoal")


def random_outfit(rng: np.random.Generator, *, warmth: float, skirts: bool) -> Outfit:
    """Draw clothes; `warmth` 0 is dressed for the beach and 1 for snow."""
    top = TOPS[int(rng.integers(len(TOPS)))]
    bottom = BOTTOMS[int(rng.integers(len(BOTTOMS)))]
    if skirts and rng.random() < 0.5:
        lower = "dress" if rng.random() < 0.5 else "skirt"
    else:
        lower = "shorts" if rng.random() > warmth + 0.3 else "trousers"
    if lower == "skirt" and rng.random() < 0.6:
        bottom = TOPS[int(rng.integers(len(TOPS)))]
    sleeves = "long" if rng.random() < 0.25 + warmth else ("none" if skirts and rng.random() < 0.4 else "short")
    coat = None
    if rng.random() < warmth * 0.9 - 0.15:
        colour = str(rng.choice(COATS))
        coat = cloth("woven", colour, "black", seed=int(rng.integers(1000)), folds=0.26)
    scarf = None
    if rng.random() < warmth * 0.8 - 0.25:
        scarf = cloth(
            "knitted", str(rng.choice(["red", "mustard", "white", "teal", "grey"])), "navy", seed=int(rng.integers(99))
        )
    return Outfit(
        top=cloth(*top, seed=int(rng.integers(1000))), bottom=cloth(*bottom, seed=int(rng.integers(1000)), folds=0.28),
        sleeves=sleeves, lower=lower, coat=coat, shoes=dye(str(rng.choice(SHOES))), scarf=scarf,
    )  # fmt: skip


def random_person(
    rng: np.random.Generator, *, x: float, y: float, head_px: float, pose: str, yaw: float, look: float, warmth: float,
    child: bool = False,
) -> Person:  # fmt: skip
    """Draw who a person is; where and how they stand is given (see `Person`)."""
    woman = bool(rng.random() < 0.5)
    return Person(
        x=x, y=y, head_px=head_px * (0.86 if child else 1.0), pose=pose, yaw=yaw, look=look,
        face=random_face(rng, long_hair=woman, child=child),
        outfit=random_outfit(rng, warmth=warmth, skirts=woman),
        width=float(rng.uniform(0.86, 1.0) if woman else rng.uniform(0.95, 1.18)) * (0.9 if child else 1.0),
        shoulders=float(rng.uniform(0.66, 0.74) if woman else rng.uniform(0.78, 0.88)) * (0.82 if child else 1.0),
        hips=float(rng.uniform(0.50, 0.58) if woman else rng.uniform(0.46, 0.52)) * (0.85 if child else 1.0),
        legs=0.70 if child else float(rng.uniform(0.96, 1.04)), mirrored=bool(rng.random() < 0.5),
    )  # fmt: skip
