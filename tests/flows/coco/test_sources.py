from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from flows.coco.sources import Source, open_source, read_ids
from flows.errors import BadRequest
from flows.objects import cache_folder

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes an annotation file of images without pixels, and perhaps their folder."""

    def write_file(
        path: str,
        *,
        ids: tuple[int, ...] = (1, 2),
        images: str | None = None,
        licenses: Mapping[int, str] = {4: "BY"},
        first_person: int = 100,
    ) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if images is not None:
            (tmp_path / images).mkdir(parents=True, exist_ok=True)
        value = {
            "licenses": [{"id": key, "name": name} for key, name in licenses.items()],
            "categories": [{"id": 1, "name": "person"}],
            "images": [{"id": i, "file_name": f"{file.stem}-{i}.jpg", "width": 64, "height": 48} for i in ids],
            "annotations": [
                {"id": first_person + i, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 9, "segmentation": []}
                for i in ids
            ],
        }
        file.write_text(json.dumps(value))
        return file

    return write_file


@pytest.fixture
def open_here(tmp_path: Path) -> Callable[..., Source]:
    """Return `open_source` with a cache of its own."""

    def opened(source: Path | str, **options: Any) -> Source:
        return open_source(str(source), cache=tmp_path / "cache", **options)

    return opened


@pytest.mark.parametrize(
    ("annotations", "images", "subset"),
    [
        ("annotations/instances_val2017.json", "val2017", "val2017"),
        ("annotations/instances_train2017.json", "images/train2017", "train2017"),
        ("annotations/instances_val2014.json", "val2014", "val2014"),
        ("annotations/instances_train2014.json", "images", "train2014"),
        ("instances_val2017.json", "val2017", "val2017"),
        ("annotations/instances_mine.json", "mine", "mine"),
    ],
)
def test_layouts_of_coco_are_found(  # noqa: PLR0917 - parameters and fixtures
    tmp_path: Path, write: Write, open_here: Callable[..., Source], annotations: str, images: str, subset: str
) -> None:
    """The names of 2014 and 2017 are found, with the photographs beside, below `images`, or loose in it."""
    write(f"My COCO/{annotations}", images=f"My COCO/{images}")
    source = open_here(tmp_path / "My COCO")
    assert source.label == "my-coco"
    (only,) = source.subsets
    assert (only.name, only.images) == (subset, tmp_path / "My COCO" / images)
    assert source.images()["id"].to_pylist() == [1, 2]


def test_subsets_without_photographs_are_left_out(
    tmp_path: Path, write: Write, open_here: Callable[..., Source]
) -> None:
    """Whoever fetched only val2017 has the annotations of both; that is enough."""
    write("coco/annotations/instances_train2017.json", ids=(7, 8))
    write("coco/annotations/instances_val2017.json", images="coco/val2017")
    assert [subset.name for subset in open_here(tmp_path / "coco").subsets] == ["val2017"]


def test_several_subsets_are_one_source(tmp_path: Path, write: Write, open_here: Callable[..., Source]) -> None:
    """Images of all stand sorted by id, each with its subset; digests and licences of all are there."""
    write("coco/annotations/instances_val2017.json", images="coco/val2017", ids=(5, 1), licenses={4: "val", 6: "six"})
    write("coco/annotations/instances_train2017.json", images="coco/train2017", ids=(9, 3), licenses={4: "train"})
    source = open_here(tmp_path / "coco")
    assert [(row["id"], row["subset"]) for row in source.images().to_pylist()] == [(1, 1), (3, 0), (5, 1), (9, 0)]
    assert source.people()["id"].to_pylist() == [101, 103, 105, 109]
    assert list(source.digests) == ["train2017", "val2017"]
    assert {key: value["name"] for key, value in source.licenses.items()} == {4: "train", 6: "six"}


def test_an_image_in_two_subsets_is_one(tmp_path: Path, write: Write, open_here: Callable[..., Source]) -> None:
    """It belongs to the first by name, and its people, too, count once."""
    write("coco/annotations/instances_a.json", images="coco/a", ids=(1, 2))
    write("coco/annotations/instances_b.json", images="coco/b", ids=(2, 3))
    source = open_here(tmp_path / "coco")
    assert [(row["id"], row["file_name"]) for row in source.images().to_pylist()] == [
        (1, "instances_a-1.jpg"),
        (2, "instances_a-2.jpg"),
        (3, "instances_b-3.jpg"),
    ]
    assert source.people()["id"].to_pylist() == [101, 102, 103]


def test_images_and_annotations_may_lie_anywhere(
    tmp_path: Path, write: Write, open_here: Callable[..., Source]
) -> None:
    """Both options together need no layout, and name the run by the annotation file."""
    file = write("labels/People of 2026.json", images="pictures")
    source = open_here("sample", images=tmp_path / "pictures", annotations=file)
    assert (source.label, source.subsets[0].images) == ("people-of-2026", tmp_path / "pictures")


def test_annotations_choose_one_of_several_subsets(
    tmp_path: Path, write: Write, open_here: Callable[..., Source]
) -> None:
    """With a source of several sets, `annotations` alone picks one, and its photographs are found."""
    write("coco/annotations/instances_a.json", images="coco/a")
    file = write("coco/annotations/instances_b.json", images="coco/b", ids=(7,))
    source = open_here(tmp_path / "coco", annotations=file)
    assert [(subset.name, subset.images) for subset in source.subsets] == [("b", tmp_path / "coco" / "b")]


def test_images_may_lie_apart_from_the_annotations(
    tmp_path: Path, write: Write, open_here: Callable[..., Source]
) -> None:
    """With a source in COCO's layout, `images` says where the photographs are."""
    write("coco/annotations/instances_val2017.json")
    (tmp_path / "elsewhere").mkdir()
    assert open_here(tmp_path / "coco", images=tmp_path / "elsewhere").subsets[0].images == tmp_path / "elsewhere"


def test_a_moved_folder_is_the_same_source(tmp_path: Path, write: Write, open_here: Callable[..., Source]) -> None:
    """Digests are of content, so a folder that moved has the same ones."""
    write("one/annotations/instances_x.json", images="one/x")
    before = open_here(tmp_path / "one").digests
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert open_here(tmp_path / "two").digests == before


def test_a_link_is_followed(tiny_coco: Path, open_here: Callable[..., Source], tmp_path: Path) -> None:
    """A link to a folder is as good as the folder."""
    (tmp_path / "link").symlink_to(tiny_coco)
    assert len(open_here(tmp_path / "link").images()) == 24


def refusal(open_here: Callable[..., Source], source: Path | str, **options: Any) -> str:
    """Return the line that a source is refused with."""
    with pytest.raises(BadRequest) as caught:
        open_here(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_pieces_are_named_with_the_way_to_mend_them(
    tmp_path: Path, write: Write, open_here: Callable[..., Source]
) -> None:
    """A missing folder, an empty one, one without photographs, and a file each get a line of their own."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    write("bare/annotations/instances_val2017.json")
    write("both/annotations/instances_a.json")
    write("both/annotations/instances_b.json")
    assert "does not exist; give `sample`, a folder" in refusal(open_here, tmp_path / "missing")
    assert "is a file, not a folder; give" in refusal(open_here, tmp_path / "file")
    assert "has no annotations/instances_*.json; give" in refusal(open_here, tmp_path / "empty")
    assert "no folder of photographs named val2017; mend it or give --images" in refusal(open_here, tmp_path / "bare")
    assert "named a or b" in refusal(open_here, tmp_path / "both")


def test_half_of_images_and_annotations_is_told_from_the_whole(
    tmp_path: Path, write: Write, open_here: Callable[..., Source]
) -> None:
    """One option without the other says which is missing; a folder that is none says which to mend."""
    file = write("x.json", images="pictures")
    assert "--images is given without --annotations" in refusal(open_here, "sample", images=tmp_path / "pictures")
    assert "--annotations is given without --images" in refusal(open_here, "sample", annotations=file)
    (tmp_path / "none").mkdir()
    assert "without --images" in refusal(open_here, tmp_path / "none", annotations=file)
    assert "mend --images" in refusal(open_here, "sample", images=tmp_path / "missing", annotations=file)
    assert "mend --images" in refusal(open_here, "sample", images=file, annotations=file)
    assert "cannot read the annotation file" in refusal(
        open_here, "sample", images=tmp_path / "pictures", annotations=tmp_path / "missing.json"
    )


def test_a_missing_folder_of_images_is_named(tmp_path: Path, write: Write, open_here: Callable[..., Source]) -> None:
    """With a source in COCO's layout, too, `images` must be a folder."""
    write("coco/annotations/instances_x.json", images="coco/x")
    assert "--images" in refusal(open_here, tmp_path / "coco", images=tmp_path / "missing")


def test_an_unknown_subset_of_coco_is_refused_without_a_network(open_here: Callable[..., Source]) -> None:
    """The line names those that exist."""
    message = refusal(open_here, "coco:val2099")
    assert "coco:val2017" in message
    assert "coco:train2017" in message


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`HCOCO_CACHE` first, then the XDG folder, then the home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HCOCO_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("HCOCO_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "hcoco"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "hcoco"


def ids_of(folder: Path, text: str | bytes) -> frozenset[int]:
    """Read a list of ids."""
    (folder / "ids.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_ids(folder / "ids.txt")


def test_no_list_excludes_nothing() -> None:
    """Without a file no id is excluded."""
    assert read_ids(None) == frozenset()


@pytest.mark.parametrize(
    ("line", "image_id"),
    [
        ("139", 139),
        ("  139  ", 139),
        ("000000000139", 139),
        ("139 # a dog", 139),
        ("000000000139.jpg", 139),
        ("val2017/000000000139.jpg", 139),
        ("COCO_val2014_000000000139.jpg", 139),
        ("c139_1640_1.jpg", 139),
        ("HCOCO/composite_images/c139_1640_1.jpg", 139),
        ("0", 0),
    ],
)
def test_a_line_holds_an_id(tmp_path: Path, line: str, image_id: int) -> None:
    """Bare ids, COCO's names of both years and those of iHarmony4 are read."""
    assert ids_of(tmp_path, f"{line}\n") == {image_id}


def test_blank_lines_comments_and_line_ends_of_all_systems_are_fine(tmp_path: Path) -> None:
    """Only ids count; an id twice counts once; a byte order mark is no letter."""
    assert ids_of(tmp_path, "\ufeff1\r\n\r\n# two\r\n  2\r\n2\n\n3") == {1, 2, 3}


@pytest.mark.parametrize("line", ["dog", "1234567890123", "12a", "{139}", "139,"])
def test_a_line_without_an_id_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    """The line names the file and the line of the list."""
    with pytest.raises(BadRequest, match=r"ids\.txt, line 2: .* holds no image id"):
        ids_of(tmp_path, f"1\n{line}\n")


@pytest.mark.parametrize("line", ["139, 285", "139 285", "139;285", "139\t285", "1.5", "-5", "139.5.x"])
def test_a_line_of_several_numbers_is_refused(tmp_path: Path, line: str) -> None:
    """A benchmark's id must never be lost unsaid: a line that is not one id is refused."""
    with pytest.raises(BadRequest, match="line 1"):
        ids_of(tmp_path, line)


@pytest.mark.parametrize("name", ["missing.txt", "folder"])
def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    """A missing list is no empty list."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadRequest, match="cannot read the list of excluded ids"):
        read_ids(tmp_path / name)


def test_a_list_of_too_many_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank lines count too: each takes its time."""
    monkeypatch.setattr("flows.coco.sources.MAX_LISTED", 3)
    assert ids_of(tmp_path, "1\n\n2\n") == {1, 2}
    with pytest.raises(BadRequest, match="has more than 3 lines"):
        ids_of(tmp_path, "1\n\n2\n\n")


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A binary file is refused in one line."""
    with pytest.raises(BadRequest, match="cannot read"):
        ids_of(tmp_path, b"\xff\xd8\xff\xe0")
