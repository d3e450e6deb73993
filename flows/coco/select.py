"""Select photographs full of people: first by their annotations alone, then by a look at the files.

The order of the photographs is a hash of the seed and the image id, so it does not change when others come or go,
and a plan of few samples looks at few files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.coco.masks import Runs, area_of, decode_runs, encode_mask, scale_mask, union_of
from flows.coco.pictures import BadPicture, locate, read_bytes, scaled_size, screen
from flows.coco.sources import Source

Split = Literal["train", "val", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "val", "test")

SPLIT_SALT: Final = "hcoco-split-v1"
"""Fixed for ever: with another salt a photograph would change sides between versions."""

MIN_SUBJECT_SHARE: Final = 0.01
MAX_SUBJECT_SHARE: Final = 0.80
MIN_SUBJECT_PIXELS: Final = 1000
_AREA_SLACK: Final = 0.8
"""Annotated areas may differ from the masks; only well below the limit is a photograph dropped without a look."""

BATCH: Final = 8
"""Photographs that one call of a worker looks at."""


def split_of(image_id: int) -> Split:
    """Return the split of an image: 80/10/10 by a hash of the id and a fixed salt, whatever the seed."""
    digest = hashlib.sha256(f"{SPLIT_SALT}:{image_id}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if position < 0.8 else "val" if position < 0.9 else "test"


@dataclass(frozen=True)
class Candidate:
    """A photograph that passed by its annotations, and its people.

    Attributes:
        image_row: Row of the image in `Candidates.images`.
        people_rows: Rows of its non-crowd people in `Candidates.people`.
        path: The file, or None where its name would leave the folder.
        segmentations: Of the people, as JSON text.
    """

    image_id: int
    image_row: int
    people_rows: tuple[int, ...]
    path: Path | None
    width: int
    height: int
    segmentations: tuple[bytes, ...]


@dataclass(frozen=True)
class Screened:
    """A candidate after the look at its file.

    Attributes:
        reason: Why the whole photograph is dropped, or None.
        dropped: Why each of its people is dropped, or None where the person can be a subject.
        crc32: Of the file's bytes.
    """

    image_id: int
    image_row: int
    people_rows: tuple[int, ...]
    reason: str | None
    dropped: tuple[str | None, ...]
    crc32: int

    @property
    def subjects(self) -> tuple[int, ...]:
        """Return the rows of the people that can be subjects."""
        return tuple(row for row, reason in zip(self.people_rows, self.dropped, strict=True) if reason is None)


@dataclass
class Selection:
    """Counts of the selection, added up while it goes on.

    Every person of the annotations is counted once: people = subjects + dropped + unvisited (where a bound on the
    samples stopped the walk before the person's photograph was looked at). Subjects whose photograph is the only one
    of its split find no reference: they are `unpaired`, and among the subjects.
    """

    images: int = 0
    people: int = 0
    subjects: int = 0
    used_images: int = 0
    unpaired: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_images: Counter[str] = field(default_factory=Counter)
    curve: tuple[tuple[float, int], ...] = ()

    def count(self, screened: Screened) -> None:
        """Count one photograph that was looked at."""
        if screened.reason is not None:
            self.dropped_images[screened.reason] += 1
            self.dropped[screened.reason] += len(screened.people_rows)
            return
        self.used_images += bool(screened.subjects)
        self.dropped_images["no_subject"] += not screened.subjects
        self.subjects += len(screened.subjects)
        self.dropped.update(reason for reason in screened.dropped if reason is not None)

    def to_json(self) -> dict[str, object]:
        """Return the counts as the manifest holds them."""
        dropped = {reason: count for reason, count in sorted(self.dropped.items()) if count}
        return {
            "images": self.images,
            "people": self.people,
            "subjects": self.subjects,
            "dropped_by_reason": dropped,
            "unvisited": self.people - self.subjects - sum(dropped.values()),
            "unpaired": self.unpaired,
            "used_images": self.used_images,
            "dropped_images_by_reason": {key: count for key, count in sorted(self.dropped_images.items()) if count},
            "curve": [list(point) for point in self.curve],
        }


@dataclass(frozen=True)
class Candidates:
    """All photographs that passed by their annotations, in the seeded order.

    Attributes:
        images: One row an image record, columns of the catalogue and `subset`, the index in the source.
        people: One row a person annotation that is no crowd region, sorted by image.
        order: Rows of `images` in the order of the walk.
        starts: First row in `people` of each row of `images`; `stops` one past the last.
    """

    source: Source
    images: pa.Table
    people: pa.Table
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self.order)

    def batches(self) -> Iterator[list[Candidate]]:
        """Yield the photographs in order, some at a time, with what a worker needs to look at them.

        Those of a remote source are fetched first.
        """
        for first in range(0, len(self.order), BATCH):
            rows = self.order[first : first + BATCH]
            names: dict[str, list[str]] = {}
            for image in self.images.select(["subset", "file_name"]).take(rows).to_pylist():
                names.setdefault(self.source.subsets[image["subset"]].name, []).append(image["file_name"])
            self.source.fetch(names)
            yield [self._candidate(int(row)) for row in rows]

    def _candidate(self, row: int) -> Candidate:
        image = self.images.slice(row, 1).to_pylist()[0]
        people = tuple(range(int(self.starts[row]), int(self.stops[row])))
        try:
            path: Path | None = locate(self.source.subsets[image["subset"]].images, image["file_name"])
        except BadPicture:
            path = None
        return Candidate(
            image_id=image["id"],
            image_row=row,
            people_rows=people,
            path=path,
            width=image["width"],
            height=image["height"],
            segmentations=tuple(self.segmentation(person) for person in people),
        )

    def segmentation(self, row: int) -> bytes:
        """Return the segmentation, as JSON text, of a row of `people`."""
        segmentations, places = self._segmentations
        text: bytes = segmentations[int(places[row])].as_py()
        return text

    @cached_property
    def _segmentations(self) -> tuple[pa.ChunkedArray, NDArray[np.int64]]:
        """Read when the first is asked for: sorting and filtering them with the other columns would copy them all."""
        return self.source.segmentations(), self.people["place"].to_numpy()


def select_by_annotation(
    source: Source,
    *,
    min_person_share: float,
    licenses: Sequence[int] | None,
    exclude_ids: frozenset[int],
    seed: int,
) -> tuple[Candidates, Selection]:
    """Select by what the annotations say: excluded ids, licences, crowd regions, share of the photograph.

    Shares are sums of annotated areas here (overlaps count twice); `screen_candidates` decides by the masks.
    """
    images, people = source.images(), source.people()
    selection = Selection(images=images.num_rows, people=people.num_rows + source.malformed_people)
    selection.dropped["degenerate"] += source.malformed_people

    crowd = people["iscrowd"].to_numpy(zero_copy_only=False)
    selection.dropped["crowd"] += int(crowd.sum())
    people = people.filter(pa.array(~crowd))
    people = people.sort_by([("image_id", "ascending"), ("id", "ascending")])

    ids = images["id"].to_numpy()
    owners = people["image_id"].to_numpy()
    starts, stops = np.searchsorted(owners, ids, side="left"), np.searchsorted(owners, ids, side="right")
    areas = np.concatenate([[0.0], np.cumsum(people["area"].to_numpy())])
    pixels = images["width"].to_numpy().astype(np.float64) * images["height"].to_numpy()
    share = np.minimum((areas[stops] - areas[starts]) / pixels, 1.0)
    selection.curve = _curve(share)

    license_ids = images["license"].fill_null(-1).to_numpy()
    reasons = np.full(len(ids), None, dtype=object)
    reasons[(share < min_person_share * _AREA_SLACK) | (stops == starts)] = "not_person_heavy"
    if licenses is not None:
        reasons[~np.isin(license_ids, list(licenses))] = "license"
    if exclude_ids:
        reasons[np.isin(ids, list(exclude_ids))] = "excluded"
    for reason in ("not_person_heavy", "license", "excluded"):
        hit = reasons == reason
        selection.dropped_images[reason] += int(hit.sum())
        selection.dropped[reason] += int((stops - starts)[hit].sum())

    rows = np.flatnonzero(reasons == None)  # noqa: E711 - elementwise
    order = rows[np.argsort([_rank(seed, int(ids[row])) for row in rows], kind="stable")] if len(rows) else rows
    return Candidates(source, images, people, order, starts, stops), selection


def _rank(seed: int, image_id: int) -> int:
    digest = hashlib.blake2b(f"{seed}:order:{image_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # 63 bits: numpy sorts these as integers


def _curve(share: NDArray[np.float64]) -> tuple[tuple[float, int], ...]:
    """Count the images that would be kept at each least share of people, from 0 to 1."""
    limits = [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    return tuple((limit, int(((share >= limit) & (share > 0)).sum())) for limit in limits)


def screen_candidates(batch: Sequence[Candidate], *, min_person_share: float, max_side: int | None) -> list[Screened]:
    """Look at the files and masks of some candidates; runs in worker processes."""
    return [_screen(candidate, min_person_share=min_person_share, max_side=max_side) for candidate in batch]


def _screen(candidate: Candidate, *, min_person_share: float, max_side: int | None) -> Screened:
    reason: str | None = None
    crc32 = 0
    dropped: tuple[str | None, ...] = tuple(None for _ in candidate.people_rows)
    try:
        if candidate.path is None:
            raise BadPicture("unreadable", "the file name leaves the folder")  # noqa: TRY301 - one way out
        looked = screen(read_bytes(candidate.path), width=candidate.width, height=candidate.height)
        crc32 = looked.crc32
        share, dropped = _judge_people(candidate, max_side=max_side)
        if share < min_person_share:
            reason = "not_person_heavy"
        elif looked.greyscale:
            reason = "greyscale"
    except BadPicture as bad:
        reason = bad.reason
    return Screened(candidate.image_id, candidate.image_row, candidate.people_rows, reason, dropped, crc32)


def _judge_people(candidate: Candidate, *, max_side: int | None) -> tuple[float, tuple[str | None, ...]]:
    """Return the share that all people cover together, and why each of them cannot be a subject."""
    width, height = scaled_size(width=candidate.width, height=candidate.height, max_side=max_side)
    pixels = candidate.width * candidate.height
    masks: list[Runs] = []
    reasons: list[str | None] = []
    for segmentation in candidate.segmentations:
        try:
            mask = encode_mask(segmentation, height=candidate.height, width=candidate.width)
        except ValueError:
            reasons.append("degenerate")
            continue
        masks.append(mask)
        share = area_of(mask) / pixels
        if share == 0:
            reasons.append("degenerate")
        elif _scaled_area(mask, height=height, width=width) < MIN_SUBJECT_PIXELS:
            reasons.append("pixels")
        else:
            reasons.append(None if MIN_SUBJECT_SHARE <= share <= MAX_SUBJECT_SHARE else "area")
    return area_of(union_of(masks)) / pixels if masks else 0.0, tuple(reasons)


def _scaled_area(mask: Runs, *, height: int, width: int) -> float:
    """Count the pixels that a mask has in the size of the build; only a scaled one must be drawn for it."""
    if mask["size"] == [height, width]:
        return area_of(mask)
    return float(np.count_nonzero(scale_mask(decode_runs(mask), height=height, width=width)))
