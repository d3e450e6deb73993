from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from flows.coco.select import (
    SPLITS,
    Candidates,
    Screened,
    Selection,
    screen_candidates,
    select_by_annotation,
    split_of,
)
from flows.coco.sources import open_source

WIDTH, HEIGHT = 100, 80


def box(*, x: float, y: float, width: float, height: float) -> list[list[float]]:
    """Return a rectangle as COCO polygons."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


BODY = box(x=10, y=10, width=40, height=40)  # 1,600 of 8,000 pixels: 20 %
COLOURED = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


class Folder:
    """A COCO folder that grows record by record: photographs are PNG, so masks and pixels are exact."""

    def __init__(self, path: Path) -> None:
        """Begin with nothing."""
        self.path = path
        self.instances: dict[str, list[dict[str, Any]]] = {
            "licenses": [],
            "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
            "images": [],
            "annotations": [],
        }
        (path / "set").mkdir(parents=True)
        (path / "annotations").mkdir()

    def add(
        self,
        image_id: int,
        *people: Mapping[str, Any],
        picture: np.ndarray[Any, np.dtype[np.uint8]] | bytes | None = COLOURED,
        **fields: Any,
    ) -> Folder:
        """Add a photograph and the annotations on it; `picture` None leaves the file out."""
        name = f"{image_id:012d}.png"
        if isinstance(picture, bytes):
            (self.path / "set" / name).write_bytes(picture)
        elif picture is not None:
            cv2.imwrite(str(self.path / "set" / name), picture)
        image = {"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 4}
        self.instances["images"].append(image | fields)
        for person in people:
            number = len(self.instances["annotations"]) + 1
            self.instances["annotations"].append(
                {"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": None, **person}
            )
        return self

    def select(
        self,
        *,
        min_person_share: float = 0.06,
        licenses: Iterable[int] | None = None,
        exclude_ids: Iterable[int] = (),
        seed: int = 0,
        max_side: int | None = None,
    ) -> tuple[list[Screened], Selection, Candidates]:
        """Select by annotations, look at every candidate, and count."""
        (self.path / "annotations" / "instances_set.json").write_text(json.dumps(self.instances))
        candidates, selection = select_by_annotation(
            open_source(str(self.path), cache=self.path / "cache"),
            min_person_share=min_person_share,
            licenses=None if licenses is None else list(licenses),
            exclude_ids=frozenset(exclude_ids),
            seed=seed,
        )
        looked_at = [
            screened
            for batch in candidates.batches()
            for screened in screen_candidates(batch, min_person_share=min_person_share, max_side=max_side)
        ]
        for screened in looked_at:
            selection.count(screened)
        return looked_at, selection, candidates


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Return an empty COCO folder."""
    return Folder(tmp_path / "coco")


def person(segmentation: object = None, **fields: Any) -> dict[str, Any]:
    """Return an annotation; by default a body of a fifth of the photograph."""
    return {"segmentation": BODY if segmentation is None else segmentation, **fields}


def counted(selection: Selection) -> dict[str, int]:
    """Return the people dropped by reason; the identity of the counts holds on the way."""
    counts: dict[str, Any] = selection.to_json()
    dropped: dict[str, int] = counts["dropped_by_reason"]
    assert counts["people"] == counts["subjects"] + sum(dropped.values()) + counts["unvisited"]
    return dropped


def test_a_plain_person_is_a_subject(folder: Folder) -> None:
    """A colour photograph with a body on a fifth of it passes."""
    (screened,), selection, candidates = folder.add(3, person()).select()
    assert screened.reason is None
    assert screened.subjects == (0,)
    assert counted(selection) == {}
    assert (selection.images, selection.people, selection.subjects, selection.used_images) == (1, 1, 1, 1)
    assert candidates.people["id"].to_pylist() == [1]


ALONE: dict[str, tuple[dict[str, Any], str]] = {
    "a crowd region": (person(iscrowd=1), "crowd"),
    "under three points": (person([[1, 1, 9, 9]]), "not_person_heavy"),
    "a speck": (person(box(x=1, y=1, width=9, height=9)), "not_person_heavy"),
}


@pytest.mark.parametrize(("annotation", "reason"), ALONE.values(), ids=ALONE.keys())
def test_a_photograph_with_nobody_large_enough_is_not_person_heavy(
    folder: Folder, annotation: dict[str, Any], reason: str
) -> None:
    """It is dropped by its annotations; crowd regions are counted apart and cover nothing."""
    _, selection, candidates = folder.add(3, annotation).select()
    assert len(candidates) == 0
    assert counted(selection) == {reason: 1}
    assert selection.dropped_images["not_person_heavy"] == 1


BESIDE: dict[str, tuple[dict[str, Any], str]] = {
    "under three points": (person([[1, 1, 9, 9]]), "degenerate"),
    "NaN": (person([[float("nan"), 1, 9, 9, 1, 9]]), "degenerate"),
    "out of the frame": (person([[200, 200, 300, 200, 300, 300]]), "degenerate"),
    "no area": (person([[5, 5, 50, 50, 5, 5]]), "degenerate"),
    "null": (person(None) | {"segmentation": None}, "degenerate"),
    "runs of another size": (person({"size": [WIDTH, HEIGHT], "counts": [8000]}), "degenerate"),
    "runs that are too short": (person({"size": [HEIGHT, WIDTH], "counts": [10, 20]}), "degenerate"),
    "a foreign string": (person({"size": [HEIGHT, WIDTH], "counts": "\u2603"}), "degenerate"),
    "under 1,000 pixels": (person(box(x=55, y=5, width=27, height=37)), "pixels"),
    "over 80 percent": (person(box(x=0, y=0, width=99, height=79)), "area"),
    "a crowd region": (person(iscrowd=1), "crowd"),
    "crowd as runs": (person({"size": [HEIGHT, WIDTH], "counts": [0, 8000]}, iscrowd=1), "crowd"),
    "an id twice": (person(id=1), "degenerate"),
    "a text for an id": (person(id="17"), "degenerate"),
}


@pytest.mark.parametrize(("annotation", "reason"), BESIDE.values(), ids=BESIDE.keys())
def test_who_cannot_be_a_subject_is_dropped_by_reason(folder: Folder, annotation: dict[str, Any], reason: str) -> None:
    """The other person of the photograph stays, and everybody is counted once."""
    (screened,), selection, _ = folder.add(3, person(), annotation).select()
    assert screened.reason is None
    assert len(screened.subjects) == 1
    assert counted(selection) == {reason: 1}
    assert selection.people == 2


@pytest.mark.parametrize(("height", "reason"), [(25, None), (24.0, "pixels")])
def test_a_thousand_pixels_are_enough(folder: Folder, height: float, reason: str | None) -> None:
    """1,000 pixels pass, 960 do not."""
    (screened,), _, _ = folder.add(3, person(), person(box(x=55, y=5, width=40, height=height))).select()
    assert screened.dropped[1] == reason


@pytest.mark.parametrize(("rows", "reason"), [(64, None), (65, "area")])
def test_a_subject_covers_at_most_80_percent(folder: Folder, rows: int, reason: str | None) -> None:
    """Just 80 % passes, a row more does not."""
    (screened,), _, _ = folder.add(3, person(box(x=0, y=0, width=100, height=rows))).select()
    assert screened.dropped == (reason,)


def test_a_subject_covers_at_least_one_percent(folder: Folder) -> None:
    """In a large photograph a thousand pixels are not enough."""
    large = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    people = (person(box(x=0, y=0, width=50, height=height)) for height in (40, 39))
    crew = person(box(x=100, y=100, width=300, height=200))
    (screened,), _, _ = folder.add(3, *people, crew, picture=large, width=500, height=400).select()
    assert screened.dropped == (None, "area", None)


def test_pixels_are_those_of_the_scaled_photograph(folder: Folder) -> None:
    """With `max_side` a subject must keep its thousand pixels after the scaling."""
    folder.add(3, person(), person(box(x=0, y=0, width=90, height=60)))
    (full,), _, _ = folder.select()
    (scaled,), _, _ = folder.select(max_side=64)
    assert full.dropped == (None, None)
    assert scaled.dropped == ("pixels", None)


def test_the_share_is_of_all_people_together(folder: Folder) -> None:
    """Two of 15 % each are 30 %, and where they overlap they count once."""
    apart = [person(box(x=x, y=10, width=30, height=40)) for x in (5, 50)]
    same = [person(box(x=x, y=10, width=30, height=40)) for x in (5, 5)]
    folder.add(3, *apart).add(4, *same)
    looked_at, selection, _ = folder.select(min_person_share=0.25)
    assert {screened.image_id: screened.reason for screened in looked_at} == {3: None, 4: "not_person_heavy"}
    assert counted(selection) == {"not_person_heavy": 2}


def test_an_annotated_area_that_lies_is_found_out_by_the_mask(folder: Folder) -> None:
    """The masks decide: an area that promises too much does not make a photograph heavy with people."""
    (screened,), selection, _ = folder.add(3, person(box(x=5, y=5, width=10, height=10), area=4000)).select()
    assert screened.reason == "not_person_heavy"
    assert counted(selection) == {"not_person_heavy": 1}


def test_a_missing_area_is_no_reason(folder: Folder) -> None:
    """Run lengths without an annotated area are looked at before anything is said."""
    runs = {"size": [HEIGHT, WIDTH], "counts": [800, 3200, 4000]}
    (screened,), selection, _ = folder.add(3, person(runs)).select()
    assert screened.subjects == (0,)
    assert counted(selection) == {}


GREY = np.repeat(np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 1), dtype=np.uint8), 3, axis=2)
TURNED = np.zeros((WIDTH, HEIGHT, 3), dtype=np.uint8)
WHOLE_PNG: bytes = cv2.imencode(".png", COLOURED)[1].tobytes()

FILES: dict[str, tuple[Any, str]] = {
    "missing": (None, "unreadable"),
    "empty": (b"", "unreadable"),
    "a text": (b"not found", "unreadable"),
    "half": (WHOLE_PNG[: len(WHOLE_PNG) // 2], "unreadable"),
    "grey": (GREY, "greyscale"),
    "of one channel": (GREY[..., 0], "greyscale"),
    "turned": (TURNED, "size_mismatch"),
}


@pytest.mark.parametrize(("picture", "reason"), FILES.values(), ids=FILES.keys())
def test_a_photograph_that_cannot_be_used_is_dropped_with_its_people(folder: Folder, picture: Any, reason: str) -> None:
    """Its reason counts for the photograph and for each person on it; others stay."""
    folder.add(3, person(), person(), picture=picture).add(4, person())
    _, selection, _ = folder.select()
    assert counted(selection) == {reason: 2}
    assert selection.dropped_images[reason] == 1
    assert selection.subjects == 1


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "..\\secret.png", "a/../../secret.png", "\0"])
def test_a_name_that_leaves_the_folder_is_never_opened(folder: Folder, name: str) -> None:
    """It is unreadable, though a whole photograph lies where it points."""
    (folder.path / "secret.png").write_bytes(WHOLE_PNG)
    (screened,), selection, _ = folder.add(3, person(), file_name=name).select()
    assert screened.reason == "unreadable"
    assert counted(selection) == {"unreadable": 1}


def test_excluded_ids_and_licences_are_not_looked_at(folder: Folder) -> None:
    """Both are decided by the annotations alone, exclusion before licence before share."""
    folder.add(1, person(), license=4).add(2, person(), license=5).add(3, person(), license=None)
    folder.add(4, person(box(x=1, y=1, width=5, height=5)), license=5).add(5, person(), license=4)
    looked_at, selection, _ = folder.select(licenses=[4], exclude_ids=[1, 2, 999, 10**30])
    assert [screened.image_id for screened in looked_at] == [5]
    assert counted(selection) == {"excluded": 2, "license": 2}
    assert selection.dropped_images == Counter(excluded=2, license=2, not_person_heavy=0, no_subject=0)


def test_a_photograph_whose_people_are_all_dropped_is_counted(folder: Folder) -> None:
    """It is no target and no reference, and stands as `no_subject` among the photographs."""
    _, selection, _ = folder.add(3, person(box(x=0, y=0, width=99, height=79))).select()
    assert counted(selection) == {"area": 1}
    assert (selection.used_images, selection.dropped_images["no_subject"]) == (0, 1)


def test_everybody_is_counted_once(folder: Folder) -> None:
    """People = subjects + dropped + unvisited at every step of the walk, and nobody is unvisited at its end."""
    kinds = [*BESIDE.values(), *ALONE.values()]
    for number, (annotation, _) in enumerate(kinds * 2):
        picture = FILES["grey" if number % 5 == 0 else "half"][0] if number % 3 == 0 else COLOURED
        folder.add(
            10 + number, person(), {**annotation, **({"id": 10**5 + number} if number % 2 else {})}, picture=picture
        )
    folder.add(500, {"category_id": 2, "segmentation": BODY}).add(501)
    looked_at, at_the_end, _ = folder.select(exclude_ids=[12, 15])
    people = sum(annotation["category_id"] == 1 for annotation in folder.instances["annotations"])
    assert at_the_end.people == people
    assert at_the_end.to_json()["unvisited"] == 0
    counted(at_the_end)
    again = Selection(images=at_the_end.images, people=people)
    for screened in looked_at:
        again.count(screened)
        counted(again)


def test_the_curve_counts_photographs_by_share(folder: Folder) -> None:
    """At each least share stand the photographs that would be kept; those without people never."""
    folder.add(1, person()).add(2, person(box(x=0, y=0, width=100, height=4))).add(3)
    _, selection, _ = folder.select()
    curve = dict(selection.curve)
    assert [curve[share] for share in (0.0, 0.05, 0.06, 0.2, 0.25)] == [2, 2, 1, 1, 0]
    assert list(curve.values()) == sorted(curve.values(), reverse=True)


def test_no_photographs_are_no_error(folder: Folder) -> None:
    """Nothing selected from nothing."""
    looked_at, selection, candidates = folder.select()
    assert (looked_at, len(candidates), counted(selection)) == ([], 0, {})


def order_of(folder: Folder, **options: Any) -> list[int]:
    """Return the image ids in the order of the walk."""
    return [screened.image_id for screened in folder.select(**options)[0]]


def test_the_order_does_not_depend_on_other_photographs(tmp_path: Path) -> None:
    """With photographs added, taken away and listed backwards, the others keep their order."""
    many, few = Folder(tmp_path / "many"), Folder(tmp_path / "few")
    for image_id in range(1, 41):
        many.add(image_id, person())
    for image_id in range(40, 0, -3):
        few.add(image_id, person())
    order = order_of(many)
    assert sorted(order) == list(range(1, 41))
    assert order != sorted(order)
    assert order_of(few) == [image_id for image_id in order if image_id in range(1, 41, 3)]
    assert order_of(many, exclude_ids=[5, 6]) == [image_id for image_id in order if image_id not in {5, 6}]


def test_another_seed_is_another_order_of_the_same_photographs(tmp_path: Path) -> None:
    """The order is the seed's, and the same for the same seed."""
    folder = Folder(tmp_path / "coco")
    for image_id in range(1, 21):
        folder.add(image_id, person())
    assert order_of(folder, seed=1) == order_of(folder, seed=1) != order_of(folder, seed=2)
    assert sorted(order_of(folder, seed=2)) == list(range(1, 21))


def test_people_of_a_photograph_stand_in_the_order_of_their_ids(folder: Folder) -> None:
    """The annotation file's order does not matter."""
    left, right = (box(x=x, y=5, width=40, height=40) for x in (5, 55))
    folder.add(3, person(left, id=9), person(right, id=4))
    (screened,), _, candidates = folder.select()
    assert [candidates.people["id"][row].as_py() for row in screened.people_rows] == [4, 9]


def test_splits_that_never_change() -> None:
    """These sides were dealt once; a photograph must not change sides between versions."""
    assert {image_id: split_of(image_id) for image_id in KNOWN_SPLITS} == KNOWN_SPLITS


KNOWN_SPLITS = {
    0: "train",
    1: "train",
    3: "val",
    9: "train",
    24: "test",
    25: "val",
    139: "train",
    285: "train",
    724: "train",
    397133: "train",
    581929: "train",
    999999999999: "train",
}


def test_splits_are_80_10_10() -> None:
    """Of 20,000 ids the shares lie within three standard deviations."""
    total = 20_000
    counts = Counter(split_of(image_id) for image_id in range(total))
    for split, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        assert abs(counts[split] / total - share) < 3 * (share * (1 - share) / total) ** 0.5


def test_real_photographs_pass(real_coco: Path, tmp_path: Path) -> None:
    """Photographs of COCO are read, of the size that their annotation says, and their people have masks."""
    candidates, selection = select_by_annotation(
        open_source(str(real_coco), cache=tmp_path),
        min_person_share=0.06,
        licenses=None,
        exclude_ids=frozenset(),
        seed=0,
    )
    for screened in screen_candidates(next(candidates.batches()), min_person_share=0.06, max_side=None):
        selection.count(screened)
    assert selection.subjects > 0
    assert selection.dropped_images["unreadable"] == selection.dropped_images["size_mismatch"] == 0
    assert not counted(selection).get("degenerate")
