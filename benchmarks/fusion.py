"""Measure mattes, placement and blends on real people, and draw the pictures of docs/fusion from the embedded sample.

    python benchmarks/fusion.py time --coco FOLDER [--subjects 24] [--rounds 3]
    python benchmarks/fusion.py pictures docs/fusion

`time`: the largest person of a photograph that its frame does not cut, matted in the photograph's own size, then
composed with the next photograph, scaled and cut to 384 x 384. Blends get the matte's colours and alpha; OpenCV's
`seamlessClone`, which knows no alpha, gets alpha > 0 as its mask. `composition` is what a fusion sample costs when
the matte is there: placement, four layers brought into the frame, the alpha blend, three JPEGs and two PNGs. A time is
the process's own (CPU time) on one thread, the least of the rounds, then the median and the largest over the subjects.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import cv2
import numpy as np
from machine import LIBRARIES, Table, describe
from numpy.typing import NDArray

from augment import BLENDS, Matte, Placement, draw_placement, estimate_matte, make_trimap, put, put_mask, touches_frame
from augment.matte import UNKNOWN, band_widths
from augment.place import Box
from flows.coco.masks import decode_mask
from flows.coco.pictures import decode
from flows.coco.sample import write_sample
from flows.coco.sources import open_source
from flows.make.evaluate_fusion import cases_of_source, compare, open_methods
from realism.weights import shipped_fusion

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SIDE = 384
LEAST_SHARE, MOST_SHARE = 0.03, 0.6
"""Of the photograph that a subject covers."""
SHOWN = (6587, 970)
"""Images of the embedded sample whose person is in the pictures: dark hair before snow; curls."""
BACKDROP = 4258
"""Image of the embedded sample that the first of them is brought into."""
SHOWN_CASES = 3
GREEN = (60, 170, 90)


@dataclass(frozen=True)
class Person:
    """A photograph, and its largest person that is whole."""

    picture: Pixels
    mask: Mask
    boxes: list[Box]
    people: Mask


@dataclass(frozen=True)
class Scene:
    """What stands ready to be composed at 384 px."""

    person: Person
    matte: Matte
    background: Pixels
    placement: Placement


def read_people(folder: Path) -> Iterator[tuple[int, Person]]:
    """Yield each photograph with a whole person, and its id; COCO's layout, first subset by name."""
    annotations = min((folder / "annotations").glob("instances_*.json"))
    subset = annotations.stem.removeprefix("instances_")
    instances = json.loads(annotations.read_text())
    found: dict[int, list[dict[str, Any]]] = {}
    for annotation in instances["annotations"]:
        if annotation["category_id"] == 1:
            found.setdefault(annotation["image_id"], []).append(annotation)
    for image in instances["images"]:
        path = folder / subset / image["file_name"]
        if image["id"] not in found or not path.is_file():
            continue
        size = {"width": image["width"], "height": image["height"]}
        masks = {
            annotation["id"]: decode_mask(json.dumps(annotation["segmentation"]).encode(), **size)
            for annotation in found[image["id"]]
        }
        whole = {
            annotation["id"]: masks[annotation["id"]]
            for annotation in found[image["id"]]
            if not annotation["iscrowd"] and not touches_frame(masks[annotation["id"]])
        }
        if not whole:
            continue
        name = max(whole, key=lambda key: np.count_nonzero(whole[key]))
        if LEAST_SHARE <= whole[name].mean() <= MOST_SHARE:
            boxes = [cv2.boundingRect(mask.view(np.uint8)) for mask in masks.values()]
            people = np.logical_or.reduce(list(masks.values()))
            yield image["id"], Person(decode(path.read_bytes(), **size), whole[name], boxes, people)


def cut_square(picture: Pixels) -> Pixels:
    """Scale a picture's shorter side to 384 px and cut out the middle."""
    scale = SIDE / min(picture.shape[:2])
    width, height = (max(SIDE, round(side * scale)) for side in picture.shape[1::-1])
    small = cv2.resize(picture, dsize=(width, height), interpolation=cv2.INTER_AREA)
    x, y = (width - SIDE) // 2, (height - SIDE) // 2
    return np.ascontiguousarray(small[y : y + SIDE, x : x + SIDE])


def place(matte: Matte) -> Placement | None:
    """Draw a placement in an empty frame of 384 px, from a fixed seed."""
    nobody = np.zeros((SIDE, SIDE), bool)
    rng = np.random.default_rng(0)
    return draw_placement(rng, subject=matte.alpha > 0, size=(SIDE, SIDE), boxes=(), people=nobody)


def compose(scene: Scene) -> int:
    """Make the members of a fusion sample; return their bytes."""
    placement = place(scene.matte)
    if placement is None:
        return 0
    bring = partial(put, placement=placement, size=(SIDE, SIDE))
    alpha = bring(scene.matte.alpha)
    composed = BLENDS["alpha"](bring(scene.matte.foreground), scene.background, alpha)
    mask = put_mask(scene.person.mask, placement, size=(SIDE, SIDE)).astype(np.uint8) * 255
    pictures = (bring(scene.person.picture), scene.background, composed)
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    files = [cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), params=jpeg)[1] for picture in pictures]
    return sum(len(file) for file in (*files, *(cv2.imencode(".png", part)[1] for part in (mask, alpha))))


def clone(foreground: Pixels, background: Pixels, alpha: Pixels) -> Pixels:
    """Blend by OpenCV's own solver."""
    x, y, width, height = cv2.boundingRect(alpha)
    mask = (alpha > 0).astype(np.uint8) * 255
    middle = (x + width // 2, y + height // 2)
    return np.asarray(
        cv2.seamlessClone(src=foreground, dst=background, mask=mask, p=middle, flags=cv2.NORMAL_CLONE), np.uint8
    )


def timed(work: Callable[[], object], *, rounds: int) -> float:
    """Return the least CPU time of some rounds, in ms."""
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return 1000 * min(spent)


def measure(people: list[Person], *, rounds: int) -> Table:
    """Time everything on every person that finds a place."""
    times: dict[str, list[float]] = {}
    for number, person in enumerate(people):
        matte = estimate_matte(person.picture, person.mask)
        placement = place(matte)
        if placement is None:
            continue
        scene = Scene(person, matte, cut_square(people[number - 1].picture), placement)
        foreground, alpha = (put(layer, placement, size=(SIDE, SIDE)) for layer in (matte.foreground, matte.alpha))
        works: dict[str, Callable[[], object]] = {
            "matte": partial(estimate_matte, person.picture, person.mask),
            "composition, matte cached": partial(compose, scene),
        }
        works |= {
            f"blend `{name}`": partial(blend, foreground, scene.background, alpha)
            for name, blend in (*BLENDS.items(), ("seamlessClone", clone))
        }
        for name, work in works.items():
            times.setdefault(name, []).append(timed(work, rounds=rounds))
    table = Table(["", "ms, median", "ms, largest", "a second"])
    for name, spent in times.items():
        middle = statistics.median(spent)
        table.add(
            name.replace("blend `seamlessClone`", "OpenCV's `seamlessClone`"),
            f"{middle:.1f}",
            f"{max(spent):.1f}",
            f"{1000 / middle:.1f}",
        )
    return table


def draw_pictures(folder: Path) -> None:
    """Draw before and after for two people of the embedded sample, and the blends side by side."""
    with tempfile.TemporaryDirectory(prefix="hcoco-benchmark-") as made:
        write_sample(Path(made) / "sample")
        found = dict(read_people(Path(made) / "sample"))
    shown = [found[image] for image in SHOWN]
    mattes = [estimate_matte(person.picture, person.mask) for person in shown]
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "mattes.png", np.hstack([before_after(*pair) for pair in zip(shown, mattes, strict=True)]))
    save(folder / "blends.png", side_by_side(shown[0], mattes[0], found[BACKDROP]))
    save(folder / "networks.png", rows_of_methods())


def rows_of_methods() -> Pixels:
    """Return held-out people of the embedded sample in other scenes: given, wanted, every blend, the shipped network."""
    network = shipped_fusion("photographs")
    sets = cases_of_source(open_source("sample"), None, first=network, count=SHOWN_CASES, seed=1, device="cpu")
    compared = compare({"easy": sets["easy"]}, open_methods({"network": network}, device="cpu"))
    rows = [[views[name] for name in compared.pictures["easy"][0]] for views in compared.pictures["easy"]]
    return np.asarray(np.vstack([np.hstack([_in_cell(view) for view in row]) for row in rows]), np.uint8)


def _in_cell(view: Pixels, *, width: int = 104, height: int = 260) -> Pixels:
    """Scale a picture into a white cell."""
    scale = min(width / view.shape[1], height / view.shape[0])
    small = cv2.resize(view, dsize=None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cell = np.full((height, width, 3), 255, np.uint8)
    cell[: small.shape[0], : small.shape[1]] = small[:height, :width]
    return cell


def before_after(person: Person, matte: Matte) -> Pixels:
    """Return head and shoulders: the unknown band; cut out by the mask; cut out by the matte. (330, 3 x 250, 3)."""
    x, y, width, _ = cv2.boundingRect(person.mask.view(np.uint8))
    wide = round(0.9 * width)
    middle, top = x + width // 2, y - 12
    window = np.s_[top : top + round(wide * 1.32), middle - wide // 2 : middle - wide // 2 + wide]
    inner_px, outer_px = band_widths(person.mask)
    band = make_trimap(person.mask, inner_px=inner_px, outer_px=outer_px) == UNKNOWN
    tinted = person.picture.copy()
    tinted[band] = tinted[band] // 2 + np.array([127, 0, 127], np.uint8)
    green = np.full_like(person.picture, GREEN)
    views = (
        tinted,
        BLENDS["alpha"](person.picture, green, person.mask.astype(np.uint8) * 255),
        BLENDS["alpha"](matte.foreground, green, matte.alpha),
    )
    enlarged = [cv2.resize(view[window], dsize=(250, 330), interpolation=cv2.INTER_CUBIC) for view in views]
    return np.asarray(np.hstack(enlarged), np.uint8)


def side_by_side(person: Person, matte: Matte, backdrop: Person) -> Pixels:
    """Return a person beside the people of another picture, by the mask as it is and by every blend of the matte."""
    size = backdrop.mask.shape
    placement = draw_placement(
        np.random.default_rng(1), subject=matte.alpha > 0, size=size, boxes=backdrop.boxes, people=backdrop.people
    )
    if placement is None:
        raise RuntimeError("the embedded sample has changed: name another BACKDROP")
    picture, foreground, alpha = (
        put(layer, placement, size=size) for layer in (person.picture, matte.foreground, matte.alpha)
    )
    mask = put_mask(person.mask, placement, size=size).astype(np.uint8) * 255
    x, y, width, height = cv2.boundingRect(alpha)
    window = np.s_[max(y - 20, 0) : y + height + 20, max(x - 50, 0) : x + width + 50]
    views = [BLENDS["alpha"](picture, backdrop.picture, mask)]
    views += [blend(foreground, backdrop.picture, alpha) for blend in BLENDS.values()]
    return np.hstack([view[window] for view in views])


def save(path: Path, picture: Pixels) -> None:
    """Write a PNG."""
    cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def main() -> None:
    """Measure and print a table, or draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    timing = commands.add_parser("time")
    timing.add_argument("--coco", type=Path, default=Path(os.environ.get("HCOCO_TEST_COCO", "../shared/coco")))
    timing.add_argument("--subjects", type=int, default=24)
    timing.add_argument("--rounds", type=int, default=3)
    commands.add_parser("pictures").add_argument("folder", type=Path)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    if given.command == "pictures":
        draw_pictures(given.folder)
        return
    people = [person for (_, person), _ in zip(read_people(given.coco), range(given.subjects), strict=False)]
    print(f"{describe(libraries=(*LIBRARIES, 'scipy', 'pymatting', 'numba'))}\n")
    print(f"{measure(people, rounds=given.rounds).markdown()}")


if __name__ == "__main__":
    main()
