"""Plan the fusion stage: who is easy to cut out, and where each of them stands in another photograph.

Photographs are walked in the seeded order of the selection. Whole people are gathered, split by split, into groups of
`GROUP` and each group's easiest are taken, so a plan that asks for more keeps what it has. A person is placed in one of
the photographs of its split that were walked last. Mattes and placements are made in worker processes.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from augment import Difficulty, draw_placement, measure_difficulty, put, touches_frame
from augment.place import Box
from flows.coco.masks import Mask, decode_mask, scale_mask
from flows.coco.pictures import BadPicture, Picture, decode, read_bytes, scale_down, scaled_size
from flows.coco.select import SPLITS, Candidate, Candidates, Screened, Split, screen_candidates, split_of
from flows.make.compose import Photographs
from flows.make.mattes import matte_of

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]

FIRST_VARIANT: Final = 50
"""Variant 0 of a fusion sample has this number in its key, so the keys of both stages differ."""
MOST_VARIANTS: Final = 50
KINDS: Final = ("easy", "hard")

GROUP: Final = 24
"""Whole people of a split among whom the easiest are chosen; with the default share these are 8."""
SCENES: Final = 64
"""Photographs of a split, the last walked, in which a person may be placed."""
TRIES: Final = 8
"""Photographs in which a place is looked for before a person is given up."""

SUBJECT_SHARE: Final = 4 / 3
"""Longer side of a subject's photograph, in longer sides of a fusion picture: people are shrunk rather than enlarged."""
FRAME_SHARE: Final = 0.012
"""A mask that comes so near to the frame (of the photograph's longer side) is cut by it."""
LEAST_AREA_SHARE: Final = 0.0095
"""Least mask, in squares of the photograph's longer side: 2,500 pixels at 512. A smaller person has too little edge."""

PLACE_FIELDS: Final = (
    ("place_scale", pa.float64()),
    ("place_left", pa.int64()),
    ("place_top", pa.int64()),
    ("place_mirrored", pa.bool_()),
)
DIFFICULTY_FIELDS: Final = tuple(
    (f"difficulty_{name}", pa.float64()) for name in ("gradient", "spread", "neighbours", "confidence", "total")
)
ROLES: Final = ("foreground", "background", "first_background")


def subject_side(fusion_side: int, max_side: int | None) -> int:
    """Return the longer side of the photographs that subjects are cut out of."""
    side = round(fusion_side * SUBJECT_SHARE)
    return side if max_side is None else min(side, max_side)


@dataclass(frozen=True)
class Surveyed:
    """A photograph after the look at it and its people.

    Attributes:
        fit: Row and difficulty of the people that can be subjects.
        dropped: Why the others of its subjects cannot, and how many.
    """

    screened: Screened
    fit: tuple[tuple[int, Difficulty], ...] = ()
    dropped: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Chosen:
    """An easy person.

    Attributes:
        number: Among the chosen, in the order of the walk.
        scenes: Photographs of its split in which it may be placed, its own among them.
    """

    number: int
    split: Split
    photograph: Screened
    row: int
    difficulty: Difficulty
    scenes: tuple[Screened, ...]


@dataclass
class FusionSelection:
    """Counts of the selection for fusion: people = dropped + harder + easy + waiting.

    `waiting` are whole people whose group was not full when the plan had enough.
    """

    people: int = 0
    easy: int = 0
    harder: int = 0
    waiting: int = 0
    unplaced: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, object]:
        """Return the counts as the manifest holds them."""
        return {
            "people": self.people,
            "easy": self.easy,
            "harder": self.harder,
            "waiting": self.waiting,
            "unplaced": self.unplaced,
            "dropped_by_reason": dict(sorted(self.dropped.items())),
        }

    def tell(self) -> str:
        """Say in a few words who was looked at and what became of them."""
        dropped = "".join(f", {reason} {count}" for reason, count in sorted(self.dropped.items()))
        return (
            f"of {self.people} people {self.easy} are among the easiest, {self.harder} are harder{dropped}; "
            f"{self.unplaced} found no place"
        )


def survey(batch: Sequence[Candidate], *, min_person_share: float, max_side: int | None, side: int) -> list[Surveyed]:
    """Look at some photographs, matte the whole people in them and measure how hard they are; in a worker.

    Args:
        batch: Candidates, their files at hand.
        min_person_share: As in the selection.
        max_side: As in the selection.
        side: Longer side of the photographs that subjects are cut out of.
    """
    looked = screen_candidates(batch, min_person_share=min_person_share, max_side=max_side)
    return [
        Surveyed(screened) if screened.reason or not screened.subjects else _measure(candidate, screened, side=side)
        for candidate, screened in zip(batch, looked, strict=True)
    ]


def _measure(candidate: Candidate, screened: Screened, *, side: int) -> Surveyed:
    size = {"width": candidate.width, "height": candidate.height}
    width, height = scaled_size(**size, max_side=side)
    try:
        if candidate.path is None:
            raise BadPicture("unreadable", "the file name leaves the folder")  # noqa: TRY301 - one way out
        picture = scale_down(decode(read_bytes(candidate.path), **size), width=width, height=height)
    except BadPicture as bad:
        return Surveyed(screened, dropped=((bad.reason, len(screened.subjects)),))
    masks = {
        row: mask
        for row, text in zip(candidate.people_rows, candidate.segmentations, strict=True)
        if (mask := _mask(text, **size, scaled=(height, width))) is not None
    }
    fit: list[tuple[int, Difficulty]] = []
    dropped: Counter[str] = Counter()
    for row in screened.subjects:
        others = [mask for other, mask in masks.items() if other != row]
        found = measure_person(picture, masks[row], others=others)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            fit.append((row, found))
    return Surveyed(screened, tuple(fit), tuple(sorted(dropped.items())))


def measure_person(picture: Picture, mask: Mask, *, others: Sequence[Mask]) -> Difficulty | str:
    """Return how hard a person is to cut out, or why it is no subject of a fusion.

    Returns:
        A difficulty; or `border` (cut by the frame), `pixels` (too small), `matte` (nothing to start a matte from).
    """
    longer = max(mask.shape)
    if touches_frame(mask, margin_px=max(1, round(FRAME_SHARE * longer))):
        return "border"
    if np.count_nonzero(mask) < LEAST_AREA_SHARE * longer**2:
        return "pixels"
    matte = matte_of(picture, mask)
    if matte.reason is not None or not (matte.alpha > 127).any():
        return "matte"
    around = np.any(others, axis=0) if others else np.zeros(mask.shape, np.bool_)
    return measure_difficulty(picture, mask, others=around, confidence=matte.confidence)


def _mask(text: bytes, *, width: int, height: int, scaled: tuple[int, int]) -> Mask | None:
    try:
        return scale_mask(decode_mask(text, height=height, width=width), height=scaled[0], width=scaled[1])
    except ValueError:
        return None


def choose_easy(surveyed: Iterable[Surveyed], *, share: float, selection: FusionSelection) -> Iterator[Chosen]:
    """Yield the easiest people, group by group; count everybody."""
    groups: dict[Split, list[tuple[Screened, int, Difficulty]]] = {split: [] for split in SPLITS}
    scenes: dict[Split, deque[Screened]] = {split: deque(maxlen=SCENES) for split in SPLITS}
    number = 0

    def close(split: Split) -> Iterator[Chosen]:
        nonlocal number
        group, groups[split] = groups[split], []
        ranked = sorted(range(len(group)), key=lambda place: (group[place][2].total, place))
        easiest = sorted(ranked[: math.ceil(share * len(group))])
        selection.waiting -= len(group)
        selection.easy += len(easiest)
        selection.harder += len(group) - len(easiest)
        for place in easiest:
            yield Chosen(number, split, *group[place], tuple(scenes[split]))
            number += 1

    for each in surveyed:
        selection.people += len(each.screened.subjects) if each.screened.reason is None else 0
        if each.screened.reason is not None:
            continue
        split = split_of(each.screened.image_id)
        scenes[split].append(each.screened)
        selection.dropped.update(dict(each.dropped))
        groups[split] += [(each.screened, row, difficulty) for row, difficulty in each.fit]
        selection.waiting += len(each.fit)
        if len(groups[split]) >= GROUP:
            yield from close(split)
    for split in SPLITS:
        if groups[split]:
            yield from close(split)


@dataclass(frozen=True)
class Placing:
    """What a worker needs to place one person.

    Attributes:
        key: Of the sample.
        foreground: The person as the plan holds it.
        scenes: Photographs as the plan holds them, in the order in which they are tried, each with `people` and
            `crowds`: segmentations.
        roots: Folder of the photographs of each subset.
        side: Longer side of a fusion picture.
        max_side: Longer side of the subject's photograph.
    """

    key: str
    seed: int
    foreground: Mapping[str, Any]
    scenes: tuple[Mapping[str, Any], ...]
    roots: Mapping[str, Any]
    side: int
    max_side: int


@dataclass(frozen=True)
class Placed:
    """Where a person stands: the number of the scene, and the placement's fields."""

    scene: int
    place: Mapping[str, Any]


def place_person(work: Placing) -> Placed | None:
    """Find a place for a person in the first of the scenes that has one; in a worker."""
    photographs = Photographs(work.roots, max_side=work.max_side, keep=1)
    try:
        picture = photographs.get(work.foreground).picture
    except BadPicture:
        return None
    mask = photographs.mask(work.foreground)
    subject = (matte_of(picture, mask).alpha > 0) | mask
    rng = generator(work.seed, work.key, "place")
    for number, scene in enumerate(work.scenes):
        placement = _place_in(scene, subject, rng, side=work.side)
        if placement is not None:
            return Placed(number, {f"place_{name}": value for name, value in placement.items()})
    return None


def _place_in(
    scene: Mapping[str, Any], subject: Mask, rng: np.random.Generator, *, side: int
) -> dict[str, float | int | bool] | None:
    size = {"width": scene["width"], "height": scene["height"]}
    width, height = scaled_size(**size, max_side=side)
    masks = [_mask(text, **size, scaled=(height, width)) for text in scene["people"]]
    people = [mask for mask in masks if mask is not None and mask.any()]
    crowds = [mask for text in scene["crowds"] if (mask := _mask(text, **size, scaled=(height, width))) is not None]
    boxes: list[Box] = [_box(mask) for mask in people]
    around = np.any([*people, *crowds], axis=0) if people or crowds else np.zeros((height, width), np.bool_)
    placement = draw_placement(rng, subject=subject, size=(height, width), boxes=boxes, people=around)
    if (
        placement is None
        or not (put(subject.view(np.uint8) * np.uint8(255), placement, size=(height, width)) > 127).any()
    ):
        return None
    return placement.to_json()


def _box(mask: Mask) -> Box:
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return x, y, width, height


def generator(seed: int, key: str, what: str) -> np.random.Generator:
    """Return the generator of one purpose of one sample, from the run's seed and the sample's key alone."""
    digest = hashlib.sha256(f"{seed}:{key}:{what}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


class _People:
    """Spell out people and photographs of the selection as the plan holds them."""

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates
        people = candidates.source.people()
        crowds = np.flatnonzero(people["iscrowd"].to_numpy(zero_copy_only=False))
        self._crowds: dict[int, list[int]] = {}
        for row in crowds.tolist():
            self._crowds.setdefault(people["image_id"][row].as_py(), []).append(people["place"][row].as_py())
        self._texts = candidates.source.segmentations() if len(crowds) else None

    def photograph(self, screened: Screened) -> dict[str, Any]:
        image = self._candidates.images.slice(screened.image_row, 1).to_pylist()[0]
        names = ("file_name", "width", "height", "license", "coco_url", "flickr_url")
        return {
            "image_id": image["id"],
            "annotation_id": None,
            "subset": self._candidates.source.subsets[image["subset"]].name,
            "crc32": screened.crc32,
            "segmentation": None,
            **{name: image[name] for name in names},
        }

    def person(self, screened: Screened, row: int) -> dict[str, Any]:
        return {
            **self.photograph(screened),
            "annotation_id": self._candidates.people["id"][row].as_py(),
            "segmentation": self._candidates.segmentation(row),
        }

    def scene(self, screened: Screened) -> dict[str, Any]:
        places = self._crowds.get(screened.image_id, [])
        return {
            **self.photograph(screened),
            "people": [self._candidates.segmentation(row) for row in screened.people_rows],
            "crowds": [self._texts[place].as_py() for place in places] if self._texts is not None else [],
        }


def compositions(
    candidates: Candidates,
    *,
    share: float,
    variants: int,
    seed: int,
    side: int,
    max_side: int | None,
    min_person_share: float,
    over: Map,
    selection: FusionSelection,
    count: Callable[[Screened], None],
    watch: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """Yield the planned fusion samples in their order, as rows of the plan; look at no more than those taken need.

    All of variant 0 come first, then those of variant 1, and so on. Every other sample is hard, and a person's next
    variant is of the other kind. In a split of two photographs all are easy: a hard one needs three.

    Args:
        candidates: In the seeded order.
        share: Of the easiest in each group.
        variants: Samples a person, each in another place.
        seed: Of the order of the scenes and of the places.
        side: Longer side of a fusion picture.
        max_side: Bound of the build on photographs.
        min_person_share: As in the selection.
        over: Maps the work over worker processes.
        selection: Counts are added up in it.
        count: Told of every photograph that was looked at.
        watch: Told how many photographs were looked at.
    """
    cut_from = subject_side(side, max_side)
    frame = side if max_side is None else min(side, max_side)
    people = _People(candidates)
    roots = {subset.name: subset.images for subset in candidates.source.subsets}

    def surveyed() -> Iterator[Surveyed]:
        look = partial(survey, min_person_share=min_person_share, max_side=max_side, side=cut_from)
        looked_at = 0
        for batch in over(look, candidates.batches()):
            for each in batch:
                count(each.screened)
                yield each
            looked_at += len(batch)
            watch(looked_at)

    def place_all(chosen: Iterable[Chosen], variant: int) -> Iterator[dict[str, Any]]:
        waiting: deque[tuple[Chosen, Placing, tuple[Screened, ...]]] = deque()

        def work() -> Iterator[Placing]:
            for each in chosen:
                person = people.person(each.photograph, each.row)
                key = f"{person['image_id']:012d}-{person['annotation_id']:012d}-{FIRST_VARIANT + variant:02d}"
                tried = _scenes_of(each, generator(seed, key, "scenes"))
                scenes = tuple(people.scene(scene) for scene in tried[:TRIES])
                placing = Placing(key, seed, person, scenes, roots, frame, cut_from)
                waiting.append((each, placing, tried))
                yield placing

        for placed in over(place_person, work()):
            each, placing, tried = waiting.popleft()
            if placed is None:
                selection.unplaced += 1
                continue
            yield _row(each, placing, placed, tried=tried, people=people, variant=variant)

    kept: list[Chosen] = []
    first = choose_easy(surveyed(), share=share, selection=selection)
    yield from place_all((_keep(each, kept) if variants > 1 else each for each in first), 0)
    for variant in range(1, variants):
        yield from place_all(kept, variant)


def _keep(chosen: Chosen, kept: list[Chosen]) -> Chosen:
    kept.append(chosen)
    return chosen


def _scenes_of(chosen: Chosen, rng: np.random.Generator) -> tuple[Screened, ...]:
    """Return the scenes of a person other than its own photograph, in a drawn order."""
    others = [scene for scene in chosen.scenes if scene.image_id != chosen.photograph.image_id]
    order: NDArray[np.int64] = rng.permutation(len(others))
    return tuple(others[place] for place in order.tolist())


def _row(
    chosen: Chosen, placing: Placing, placed: Placed, *, tried: Sequence[Screened], people: _People, variant: int
) -> dict[str, Any]:
    hard = (chosen.number + variant) % 2 == 1 and len(tried) > 1
    roles = {
        "foreground": placing.foreground,
        "background": people.photograph(tried[placed.scene]),
        "first_background": people.photograph(tried[(placed.scene + 1) % len(tried)]) if hard else {},
    }
    return {
        "key": placing.key,
        "split": chosen.split,
        "variant": variant,
        "family": "hard" if hard else "easy",
        **{f"{role}_{name}": value for role, values in roles.items() for name, value in values.items()},
        **placed.place,
        **{f"difficulty_{name}": value for name, value in chosen.difficulty.to_json().items()},
    }
