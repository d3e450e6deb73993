from __future__ import annotations

import copy
import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest

import flows.coco.catalog as catalog_module
from flows.coco.catalog import MAX_ID, Catalog, open_catalog
from flows.errors import BadRequest

SQUARE = [10.0, 10, 30, 10, 30, 30, 10, 30]

BASE: dict[str, Any] = {
    "info": {"year": 2026},
    "licenses": [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}],
    "categories": [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}],
    "images": [
        {"id": 5, "file_name": "five.jpg", "width": 64, "height": 48, "license": 4, "coco_url": "http://c/5"},
        {"id": 2, "file_name": "two.jpg", "width": 48, "height": 64},
    ],
    "annotations": [
        {"id": 9, "image_id": 5, "category_id": 1, "iscrowd": 0, "area": 399.5, "segmentation": [SQUARE]},
        {"id": 7, "image_id": 2, "category_id": 1, "iscrowd": 1, "area": 10, "segmentation": {"size": [64, 48], "counts": [3072]}},
        {"id": 8, "image_id": 2, "category_id": 17, "iscrowd": 0, "area": 10, "segmentation": [SQUARE]},
    ],
}  # fmt: skip


def changed(part: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    """Return the base with some fields of one record changed."""
    instances = copy.deepcopy(BASE)
    instances[part][index].update(fields)
    return instances


def catalogue(folder: Path, instances: Any) -> Catalog:
    """Write an annotation file (bytes as they are, others as JSON) and open its catalogue."""
    file = folder / "instances.json"
    file.write_bytes(instances if isinstance(instances, bytes) else json.dumps(instances).encode())
    return open_catalog(file, cache=folder / "cache")


def test_every_record_is_kept(tmp_path: Path) -> None:
    """Images stand in the file's order with unknown fields null; people are those of category `person`."""
    made = catalogue(tmp_path, BASE)
    assert made.images().to_pylist() == [
        {"id": 5, "file_name": "five.jpg", "width": 64, "height": 48, "license": 4, "coco_url": "http://c/5", "flickr_url": None},
        {"id": 2, "file_name": "two.jpg", "width": 48, "height": 64, "license": None, "coco_url": None, "flickr_url": None},
    ]  # fmt: skip
    people = made.people(columns=["id", "image_id", "iscrowd", "area"]).to_pylist()
    assert people == [
        {"id": 9, "image_id": 5, "iscrowd": False, "area": 399.5},
        {"id": 7, "image_id": 2, "iscrowd": True, "area": 10.0},
    ]
    assert (made.person_ids, made.categories) == ((1,), {1: "person", 17: "cat"})
    assert made.licenses[4]["name"] == "Attribution License"
    assert made.malformed == {"images": 0, "annotations": 0, "people": 0}


def test_segmentations_stay_the_text_they_are(tmp_path: Path) -> None:
    """The catalogue parses no segmentation: its bytes come back as the file has them."""
    text = json.dumps(BASE).replace(json.dumps([SQUARE]), "[ [1.50, 2e1,3,4 ,5,6] ]", 1)
    people = catalogue(tmp_path, text.encode()).people(columns=["segmentation"])
    assert people["segmentation"][0].as_py() == b"[ [1.50, 2e1,3,4 ,5,6] ]"


def test_several_categories_named_person_all_count(tmp_path: Path) -> None:
    """Merged data sets may name the category twice."""
    instances = changed("categories", 1, name="person")
    assert len(catalogue(tmp_path, instances).people(columns=["id"])) == 3


def test_the_same_content_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second opening, and one of a copy under another name, finds the catalogue by the file's hash."""
    first = catalogue(tmp_path, BASE)
    monkeypatch.setattr(catalog_module, "_read_instances", lambda _: pytest.fail("parsed again"))
    shutil.copy(tmp_path / "instances.json", tmp_path / "copy.json")
    again = open_catalog(tmp_path / "copy.json", cache=tmp_path / "cache")
    assert again == first


def test_changed_content_is_another_catalogue(tmp_path: Path) -> None:
    """The same file name with other content is read anew, and the older catalogue stays."""
    first = catalogue(tmp_path, BASE)
    second = catalogue(tmp_path, changed("images", 0, file_name="other.jpg"))
    assert first.folder != second.folder
    assert first.digest != second.digest
    assert [r["file_name"] for r in second.images().to_pylist()] == ["other.jpg", "two.jpg"]
    assert [r["file_name"] for r in first.images().to_pylist()] == ["five.jpg", "two.jpg"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]"])
def test_a_damaged_catalogue_is_made_again(tmp_path: Path, damage: bytes) -> None:
    """What a crash of the machine left in the cache is replaced, not stumbled over."""
    first = catalogue(tmp_path, BASE)
    (first.folder / "about.json").write_bytes(damage)
    assert catalogue(tmp_path, BASE) == first


def test_an_interrupted_catalogue_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails, no folder of its own stays, and the next opening starts afresh."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.write_table", full)
        with pytest.raises(OSError, match="No space"):
            catalogue(tmp_path, BASE)
    assert list((tmp_path / "cache" / "catalog").iterdir()) == []
    assert len(catalogue(tmp_path, BASE).images()) == 2


def _open_once_all_are_there(file: Path, cache: Path, barrier: Any, answers: Any) -> None:
    barrier.wait(20)
    answers.put((open_catalog(file, cache=cache).folder, len(open_catalog(file, cache=cache).images())))


def test_processes_at_once_make_one_catalogue(tmp_path: Path) -> None:
    """Four processes that open the same new file at the same moment all get the one catalogue."""
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(BASE))
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=_open_once_all_are_there, args=(file, tmp_path / "cache", barrier, answers))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    got = {answers.get(timeout=30) for _ in processes}
    for process in processes:
        process.join(20)
    assert len(got) == 1
    assert [path.name for path in (tmp_path / "cache" / "catalog").iterdir()] == [next(iter(got))[0].name]


BAD_IMAGES: dict[str, dict[str, Any]] = {
    "no id": {"id": None},
    "a text for an id": {"id": "5"},
    "a fraction for an id": {"id": 5.5},
    "a boolean for an id": {"id": True},
    "a negative id": {"id": -5},
    "an id of 13 digits": {"id": MAX_ID},
    "an id that overflows": {"id": 10**400},
    "the id of another": {"id": 2},
    "no width": {"width": None},
    "width zero": {"width": 0},
    "negative height": {"height": -48},
    "a fraction for a width": {"width": 64.5},
    "a width that overflows": {"width": 2**40},
    "NaN for a height": {"height": float("nan")},
    "no name": {"file_name": None},
    "an empty name": {"file_name": ""},
    "a number for a name": {"file_name": 5},
    "half a character in the name": {"file_name": "a\ud800.jpg"},
}


@pytest.mark.parametrize("fields", BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_a_malformed_image_is_counted(tmp_path: Path, fields: dict[str, Any]) -> None:
    """It is left out and counted, and so are the people on it; the others stay."""
    made = catalogue(tmp_path, changed("images", 0, **fields))
    left = made.images()["id"].to_pylist()
    assert made.malformed["images"] == 1
    assert len(left) == 1
    lost = 1 if left == [2] else 2  # where an id stands twice the first record counts, and the second's people with it
    assert made.malformed == {"images": 1, "annotations": lost, "people": 1}


BAD_ANNOTATIONS: dict[str, dict[str, Any]] = {
    "no id": {"id": None},
    "a text for an id": {"id": "9"},
    "a negative id": {"id": -9},
    "an id of 13 digits": {"id": MAX_ID},
    "no image": {"image_id": None},
    "an image that is not there": {"image_id": 77},
    "a text for the image": {"image_id": "5"},
    "a list for the image": {"image_id": [5]},
}


@pytest.mark.parametrize("fields", BAD_ANNOTATIONS.values(), ids=BAD_ANNOTATIONS.keys())
def test_a_malformed_person_is_counted(tmp_path: Path, fields: dict[str, Any]) -> None:
    """A person record that cannot be used is left out and counted as a person."""
    made = catalogue(tmp_path, changed("annotations", 0, **fields))
    assert made.malformed == {"images": 0, "annotations": 1, "people": 1}
    assert made.people(columns=["id"])["id"].to_pylist() == [7]


@pytest.mark.parametrize("category", [None, "1", 1.5, -1, 2**31, 10**400, [1]])
def test_an_annotation_of_no_category_is_counted_but_no_person(tmp_path: Path, category: object) -> None:
    """Who is no person by category is not counted among the people."""
    made = catalogue(tmp_path, changed("annotations", 0, category_id=category))
    assert made.malformed == {"images": 0, "annotations": 1, "people": 0}


def test_of_duplicate_ids_the_first_record_stays(tmp_path: Path) -> None:
    """Duplicates of images and of annotations are counted, and never mix."""
    instances = copy.deepcopy(BASE)
    instances["images"].append({**BASE["images"][0], "file_name": "again.jpg"})
    instances["annotations"].append({**BASE["annotations"][0], "area": 1.0})
    made = catalogue(tmp_path, instances)
    assert made.malformed == {"images": 1, "annotations": 1, "people": 1}
    assert made.images()["file_name"].to_pylist() == ["five.jpg", "two.jpg"]
    assert made.people(columns=["area"])["area"].to_pylist() == [399.5, 10.0]


@pytest.mark.parametrize("license_id", ["4", -4, 2**40, 4.5, float("nan"), [4], None])
def test_a_licence_that_is_no_id_is_unknown(tmp_path: Path, license_id: object) -> None:
    """The photograph stays, its licence is null."""
    made = catalogue(tmp_path, changed("images", 0, license=license_id))
    assert made.images()["license"].to_pylist() == [None, None]


def test_an_address_that_cannot_be_written_is_unknown(tmp_path: Path) -> None:
    """Half a character in an address does not cost the photograph."""
    made = catalogue(tmp_path, changed("images", 0, coco_url="http://\udc80", flickr_url=7))
    assert made.images().to_pylist()[0]["coco_url"] is None
    assert made.malformed["images"] == 0


HALF = float(20 * 20)  # the square's own area
AREAS: dict[str, tuple[object, float]] = {
    "as annotated": (123, 123.0),
    "missing": (None, HALF),
    "NaN": (float("nan"), HALF),
    "Infinity": (float("inf"), HALF),
    "negative": (-3, HALF),
    "zero": (0, HALF),
    "more than the photograph": (64 * 48 + 1, HALF),
    "a text": ("123", HALF),
    "a number that overflows": (10**400, HALF),
}


@pytest.mark.parametrize(("area", "expected"), AREAS.values(), ids=AREAS.keys())
def test_an_area_that_cannot_be_is_computed(tmp_path: Path, area: object, expected: float) -> None:
    """Missing and unbelievable areas are those of the polygons."""
    made = catalogue(tmp_path, changed("annotations", 0, area=area))
    assert made.people(columns=["area"])["area"][0].as_py() == expected


STRANGE: dict[str, tuple[object, float]] = {
    "null": (None, 64.0 * 48),
    "runs": ({"size": [48, 64], "counts": [3072]}, 64.0 * 48),
    "nothing": ([], 0.0),
    "two points": ([[1, 1, 5, 5]], 0.0),
    "half a point": ([[*SQUARE, 1]], 0.0),
    "texts": ([["1"] * 6], 0.0),
    "no lists": (["x", None, 3], 0.0),
    "NaN": ([[float("nan"), 1, 5, 5, 9, 1]], 0.0),
    "numbers that overflow": ([[10**400, 1, 5, 5, 9, 1]], 0.0),
    "numbers whose product overflows": ([[1e308, 1e308, -1e308, 5, 9, -1e308]], 0.0),
    "outside the photograph": ([[-1e4, -1e4, 1e4, -1e4, 1e4, 1e4, -1e4, 1e4]], 64.0 * 48),
}


@pytest.mark.parametrize(("segmentation", "expected"), STRANGE.values(), ids=STRANGE.keys())
def test_a_strange_segmentation_without_area_does_no_harm(
    tmp_path: Path, segmentation: object, expected: float
) -> None:
    """Its area is nothing where no polygon is one, and everything where only the mask can tell; never a failure."""
    made = catalogue(tmp_path, changed("annotations", 0, area=None, segmentation=segmentation))
    assert made.people(columns=["area"])["area"][0].as_py() == expected


def test_a_deep_segmentation_without_area_does_no_harm(tmp_path: Path) -> None:
    """Nesting within what the JSON reader takes is no polygon."""
    text = json.dumps(changed("annotations", 0, area=None, segmentation="X")).replace('"X"', "[" * 900 + "]" * 900)
    assert catalogue(tmp_path, text.encode()).people(columns=["area"])["area"][0].as_py() == 0.0


def test_nan_in_the_file_is_read_the_slow_way(tmp_path: Path) -> None:
    """`NaN`, which is no JSON but which Python writes, costs the record that it stands in and no other."""
    instances = changed("annotations", 0, segmentation=[[float("nan"), 1, 5, 5, 9, 1]])
    instances["annotations"][1]["id"] = float("nan")
    made = catalogue(tmp_path, instances)
    assert made.malformed == {"images": 0, "annotations": 1, "people": 1}
    people = made.people(columns=["id", "segmentation"]).to_pylist()
    assert people == [{"id": 9, "segmentation": b"[[NaN, 1, 5, 5, 9, 1]]"}]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_of_json_are_read(tmp_path: Path, encoding: str) -> None:
    """A byte order mark is no reason to refuse a file."""
    assert len(catalogue(tmp_path, json.dumps(BASE).encode(encoding)).images()) == 2


def test_an_image_list_without_images_is_no_error(tmp_path: Path) -> None:
    """The catalogue of nothing is empty; whether that is enough is decided later."""
    made = catalogue(tmp_path, {**BASE, "images": [], "annotations": []})
    assert len(made.images()) == len(made.people(columns=["id", "segmentation"])) == 0


TEXT = json.dumps(BASE).encode()
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "blank": (b"  \n ", "is not JSON"),
    "a picture": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "is not JSON"),
    "zeros": (bytes(1000), "is not JSON"),
    "cut short": (TEXT[:-30], r"is not JSON \(line 1\)"),
    "a trailing comma": (b'{"images": [],}', "is not JSON"),
    "deeper than any reader goes": (b'{"images":' * 100_000, "not"),
    "lists without end": (b"[" * 300_000, "not"),
    "deep in a record": (TEXT.replace(b"{", b'{"x": ' + b"[" * 20_000 + b"]" * 20_000 + b",", 1), "not"),
    "a list": (b"[]", "not a COCO instances file"),
    "null": (b"null", "not a COCO instances file"),
    "a text": (b'"COCO"', "not a COCO instances file"),
    "NaN": (b"NaN", "not a COCO instances file"),
    "nothing in it": (b"{}", "not a COCO instances file"),
    "captions": (b'{"images": [], "annotations": []}', "not a COCO instances file"),
    "an object of images": (b'{"images": {}, "annotations": [], "categories": []}', "not a COCO instances file"),
    "null for annotations": (b'{"images": [], "annotations": null, "categories": []}', "not a COCO instances file"),
    "NaN and no images": (b'{"annotations": [], "categories": [], "x": NaN}', "not a COCO instances file"),
    "NaN and a text for annotations": (b'{"images": [], "annotations": "x", "categories": [NaN]}', "not a COCO"),
    "no category": (b'{"images": [], "annotations": [], "categories": []}', "has no category named 'person'"),
    "cats alone": (json.dumps(changed("categories", 0, name="dog")).encode(), "has no category named 'person'"),
    "categories that are none": (
        b'{"images": [], "annotations": [], "categories": [null, 3, {"id": "1", "name": "person"}]}',
        "has no category named 'person'",
    ),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_coco_file_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    """The line names the file and says what is wrong; nothing is left in the cache."""
    with pytest.raises(BadRequest, match=message) as caught:
        catalogue(tmp_path, content)
    assert "instances.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.parquet"))


@pytest.mark.parametrize("name", ["missing.json", "folder", "file.txt/instances.json", "n" * 300])
def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    """Missing files, folders and impossible names are told apart by the system's own words."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(BadRequest, match="cannot read the annotation file"):
        open_catalog(tmp_path / name, cache=tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The line says which setting mends it."""
    (tmp_path / "cache").touch()
    with pytest.raises(BadRequest, match="HCOCO_CACHE"):
        catalogue(tmp_path, BASE)
