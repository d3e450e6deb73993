"""Draw what the fusion network learns from, and what it is measured on: easy people, new scenes, faulty masks.

A `Cutout` is a person with the photograph around it and its matte. A batch lays crops of cutouts over crops of
backgrounds: the network is given the photograph, old surroundings and all, and a spoilt polygon, and is asked for the
alpha composite of the matte. A hard cutout is the same person laid into a busy scene by a network: only its picture
differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from augment import judge_gates, measure_difficulty, touches_frame
from augment.composition import measure_composition
from flows.coco.masks import Mask
from flows.coco.pictures import BadPicture, Picture, decode, locate, read_bytes, scale_down, scaled_size
from flows.coco.select import Split, split_of
from flows.coco.sources import Source
from flows.make.mattes import matte_of
from flows.make.spoil import spoil
from flows.make.subjects import annotated_photographs, id_of, read_picture
from realism.fusion import FusionNet, fuse, reach_of
from realism.train_fusion import FusionBatch

Alpha = NDArray[np.uint8]

SIDE: Final = 512
"""Longer side of the photographs that people are cut out of, in pixels, at most."""
ROOM: Final = 96
"""Pixels around the person's box that are kept with it."""
BACKGROUND_SIDE: Final = 512
LEAST_PIXELS: Final = 2500
"""Of the mask at that size; there is too little edge to learn from on a smaller person."""
FRAME_PX: Final = 6
"""A mask that comes so near to the frame is cut by it: polygons of people who are often end some pixels before."""
CASE_SIDE: Final = 384
"""Longer side of the cases that are measured."""
EASY_SHARE: Final = 1 / 3
Truth = Literal["matte", "polygon"]
"""What wanted composites are made with."""


@dataclass(frozen=True)
class Cutout:
    """A person, the photograph around it, and its matte; all of one size."""

    image_id: int
    picture: Picture
    """uint8 (h, w, 3) sRGB: what the network gets."""
    mask: Alpha
    """uint8 (h, w): the polygon, soft where it was scaled down."""
    alpha: Alpha
    """uint8 (h, w): the matte."""
    subject: Picture
    """uint8 (h, w, 3) sRGB: the person's own colours, free of its old surroundings."""
    confidence: float
    """Of the matte, 0..1."""
    difficulty: float
    """0 easy .. 1 hard, see `augment.difficulty`."""

    @cached_property
    def edge(self) -> NDArray[np.int64]:
        """Return (x, y) of the pixels on the matte's edge, (N, 2)."""
        solid = (self.alpha > 127).view(np.uint8)
        ring = cv2.morphologyEx(solid, op=cv2.MORPH_GRADIENT, kernel=np.ones((3, 3), np.uint8))
        rows, columns = np.nonzero((ring > 0) | ((self.alpha > 12) & (self.alpha < 243)))
        return np.stack([columns, rows], axis=1)


@dataclass(frozen=True)
class Case:
    """One composition with its wanted result; all of one size."""

    foreground: Picture
    background: Picture
    mask: Alpha
    alpha: Alpha
    wanted: Picture


def cutouts(source: Source, *, split: Split, most: int | None = None) -> Iterator[Cutout]:
    """Yield the people of a split that are not cut by the frame and have enough edge, with their mattes.

    Args:
        source: Photographs that do not lie here yet are fetched first.
        split: Only photographs of it are opened.
        most: At most so many photographs are looked at, those of the smallest ids.
    """
    for image_id, picture, masks in annotated_photographs(source, split=split, most=most):
        height, width = picture.shape[:2]
        wide, high = scaled_size(width=width, height=height, max_side=SIDE)
        small = scale_down(picture, width=wide, height=high)
        people = [_scaled(mask, width=wide, height=high) for _, mask in masks]
        for mask in people:
            if touches_frame(mask > 0, margin_px=FRAME_PX) or np.count_nonzero(mask > 127) < LEAST_PIXELS:
                continue
            others = np.any([other > 127 for other in people if other is not mask] or [mask < 0], axis=0)
            person = cut_person(image_id, small, mask, others=others)
            if len(person.edge):  # a matte may have lost its subject
                yield person


def cut_person(image_id: int, picture: Picture, mask: Alpha, *, others: Mask) -> Cutout:
    """Cut a person out of a photograph, with room around it, with its matte.

    Args:
        image_id: Of the photograph.
        picture: uint8 (H, W, 3) sRGB.
        mask: uint8 (H, W), some of it over 127 and some not.
        others: bool (H, W), the other people.
    """
    x, y, wide, high = cv2.boundingRect(mask)
    window = np.s_[max(y - ROOM, 0) : y + high + ROOM, max(x - ROOM, 0) : x + wide + ROOM]
    picture, mask, others = picture[window].copy(), mask[window].copy(), others[window].copy()
    matte = matte_of(picture, mask > 127)
    difficulty = measure_difficulty(picture, mask > 127, others=others, confidence=matte.confidence)
    return Cutout(image_id, picture, mask, matte.alpha, matte.foreground, matte.confidence, difficulty.total)


def _scaled(mask: Mask, *, width: int, height: int) -> Alpha:
    levels = mask.view(np.uint8) * np.uint8(255)
    return np.asarray(cv2.resize(levels, dsize=(width, height), interpolation=cv2.INTER_AREA), np.uint8)


def easiest(people: Sequence[Cutout], *, share: float = EASY_SHARE) -> list[Cutout]:
    """Return the easiest share of the people, at least one where there is any, in the order given."""
    order = sorted(range(len(people)), key=lambda row: (people[row].difficulty, row))
    return [people[row] for row in sorted(order[: max(1, math.ceil(share * len(people)))])]


def backgrounds(source: Source, photos: Path | None, *, split: Split, most: int) -> Iterator[Picture]:
    """Yield photographs of a split, annotated or not, scaled down; first those of the source, by id.

    Args:
        source: Photographs that do not lie here yet are fetched first.
        photos: Folder of further photographs, or None.
        split: Only photographs of it are opened.
        most: Yield at most so many.
    """
    images = [image for image in source.images().to_pylist() if split_of(image["id"]) == split][:most]
    names: dict[str, list[str]] = {subset.name: [] for subset in source.subsets}
    for image in images:
        names[source.subsets[image["subset"]].name].append(image["file_name"])
    source.fetch(names)
    for image in images:
        try:
            path = locate(source.subsets[image["subset"]].images, image["file_name"])
            picture = decode(read_bytes(path), width=image["width"], height=image["height"])
        except BadPicture:
            continue
        yield _background(picture)
    more = sorted(photos.iterdir()) if photos is not None else []
    for path in [path for path in more if split_of(id_of(path)) == split][: most - len(images)]:
        found = read_picture(path)
        if found is not None:
            yield _background(found)


def _background(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    wide, high = scaled_size(width=width, height=height, max_side=BACKGROUND_SIDE)
    return scale_down(picture, width=wide, height=high)


@dataclass(frozen=True)
class Drawing:
    """What batches are drawn from, and how.

    Attributes:
        easy: People in their own photographs, of one split.
        hard: The same people laid into busy scenes; may be empty.
        scenes: uint8 (h, w, 3) each, of the same split.
        hard_share: How often a hard one is drawn where there are any.
        crops: Examples a batch.
        side: Of the crops, in pixels. Published are 384; around the edge 128 show all that counts, at a ninth of the time.
        plain: How often the polygon is left as it is.
        truth: What the wanted composite is made with; `polygon` is for comparison, it teaches copy and paste.
    """

    easy: Sequence[Cutout]
    scenes: Sequence[Picture]
    seed: int
    hard: Sequence[Cutout] = ()
    crops: int = 8
    side: int = 128
    hard_share: float = 0.5
    plain: float = 0.4
    truth: Truth = "matte"

    def batch(self, step: int) -> FusionBatch:
        """Draw the batch of a step, from the seed and the step alone."""
        rng = np.random.default_rng([self.seed, step])
        drawn = [self._crop(rng) for _ in range(self.crops)]
        return FusionBatch(*(np.stack(layers) for layers in zip(*drawn, strict=True)))

    def _crop(self, rng: np.random.Generator) -> tuple[Picture, Picture, Alpha, Alpha, Picture]:
        people = self.hard if self.hard and rng.random() < self.hard_share else self.easy
        person = people[int(rng.integers(len(people)))]
        matrix = _window_on(person, side=self.side, rng=rng)
        picture, subject = (
            _warped(layer, matrix, side=self.side, border=cv2.BORDER_REPLICATE)
            for layer in (person.picture, person.subject)
        )
        mask, alpha = (
            _warped(layer, matrix, side=self.side, border=cv2.BORDER_CONSTANT) for layer in (person.mask, person.alpha)
        )
        if self.truth == "polygon":
            alpha, subject = mask, picture
        if rng.random() >= self.plain:
            mask = spoil(mask, rng)
        if rng.random() < 0.5:  # masks come soft, from scaling, and hard
            mask = (mask > 127).view(np.uint8) * np.uint8(255)
        scene = _part_of(self.scenes[int(rng.integers(len(self.scenes)))], side=self.side, rng=rng)
        light = _light(rng)
        return np.asarray(cv2.LUT(picture, light)), scene, mask, alpha, np.asarray(cv2.LUT(subject, light))


def _window_on(person: Cutout, *, side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the map from a cutout to a crop around some place of its edge: scale 0.55 to 1.2, perhaps mirrored."""
    scale = float(np.exp(rng.uniform(math.log(0.55), math.log(1.2))))
    across = -scale if rng.random() < 0.5 else scale
    place = person.edge[int(rng.integers(len(person.edge)))]
    target = side * rng.uniform(0.25, 0.75, 2)
    return np.array([[across, 0, target[0] - across * place[0]], [0, scale, target[1] - scale * place[1]]])


def _light(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a table of other light, for the whole foreground: there are few easy people, and an edge is not a colour.

    Returns:
        uint8 (1, 256, 3): gain 0.7 to 1.2, of each channel 0.85 to 1.15 more, gamma 0.8 to 1.25.
    """
    gain = rng.uniform(0.7, 1.2) * rng.uniform(0.85, 1.15, 3)
    gamma = np.exp(rng.uniform(math.log(0.8), math.log(1.25)))
    levels = (np.arange(256) / 255)[:, None] ** gamma * gain
    return np.asarray(np.rint(255 * np.clip(levels, 0, 1)), np.uint8)[None]


def _warped(layer: NDArray[np.uint8], matrix: NDArray[np.float64], *, side: int, border: int) -> NDArray[np.uint8]:
    warped = cv2.warpAffine(layer, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(warped, np.uint8)


def _part_of(scene: Picture, *, side: int, rng: np.random.Generator) -> Picture:
    """Draw a square of a picture, scaled by 0.6 to 1.6 as far as it is large enough, perhaps mirrored."""
    least = min(scene.shape[:2])
    size = min(least, round(side / float(np.exp(rng.uniform(math.log(0.6), math.log(1.6))))))
    top, left = (int(rng.integers(length - size + 1)) for length in scene.shape[:2])
    part = scene[top : top + size, left : left + size]
    part = part[:, ::-1] if rng.random() < 0.5 else part
    how = cv2.INTER_AREA if size > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(part), dsize=(side, side), interpolation=how), np.uint8)


def cases(people: Sequence[Cutout], scenes: Sequence[Picture], *, count: int, seed: int) -> list[Case]:
    """Draw compositions to measure: people in turn, each over a scene that is drawn and cut to the person's picture."""
    found = []
    for number in range(count if people else 0):
        rng = np.random.default_rng([seed, number])
        found.append(case_of(people[number % len(people)], scenes[int(rng.integers(len(scenes)))], rng))
    return found


def case_of(person: Cutout, scene: Picture, rng: np.random.Generator) -> Case:
    """Lay one person over one scene, at the person's own place, scaled down to `CASE_SIDE`."""
    height, width = person.mask.shape
    wide, high = scaled_size(width=width, height=height, max_side=CASE_SIDE)
    picture, mask, alpha, subject = (
        np.asarray(cv2.resize(layer, dsize=(wide, high), interpolation=cv2.INTER_AREA), np.uint8)
        for layer in (person.picture, person.mask, person.alpha, person.subject)
    )
    background = cover(scene, width=wide, height=high, rng=rng)
    return Case(picture, background, mask, alpha, compose(subject, background, alpha))


def compose(subject: Picture, background: Picture, alpha: Alpha) -> Picture:
    """Composite with a matte, rounded to the nearest level; uint8 (h, w, 3)."""
    share = alpha[..., None].astype(np.float32) / 255
    return np.rint(share * subject + (1 - share) * background).astype(np.uint8)


def cover(scene: Picture, *, width: int, height: int, rng: np.random.Generator) -> Picture:
    """Scale a scene until it covers a frame, and cut the frame out of it at a drawn place."""
    scale = max(width / scene.shape[1], height / scene.shape[0])
    size = (max(width, round(scale * scene.shape[1])), max(height, round(scale * scene.shape[0])))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = np.asarray(cv2.resize(scene, dsize=size, interpolation=how), np.uint8)
    left, top = int(rng.integers(size[0] - width + 1)), int(rng.integers(size[1] - height + 1))
    return np.ascontiguousarray(scaled[top : top + height, left : left + width])


def harden(
    model: FusionNet, people: Sequence[Cutout], scenes: Sequence[Picture], *, each: int, seed: int, device: str = "cpu"
) -> Iterator[Cutout]:
    """Yield people laid into busy scenes by a network: only their picture differs, mask, matte and colours stay.

    A picture that fails a closed-form gate, or that the network answers with no numbers, is left out.

    Args:
        model: Of the stage before.
        people: Easy ones.
        scenes: uint8 (h, w, 3) each, of the same split.
        each: Scenes a person.
        seed: Of the scenes.
        device: `cpu` or `cuda`.
    """
    for number, person in ((number, person) for number in range(each) for person in people):
        rng = np.random.default_rng([seed, person.image_id, number])
        height, width = person.mask.shape
        scene = cover(scenes[int(rng.integers(len(scenes)))], width=width, height=height, rng=rng)
        try:
            fused = fuse(model, person.picture, scene, person.mask, device=device)
        except ArithmeticError:
            continue
        reach = reach_of(person.mask)
        if judge_gates(measure_composition(fused.raw, person.picture, scene, person.mask, reach_px=reach)) is None:
            yield replace(person, picture=fused.picture)
