"""The embedded sample: what it holds, that its masks are true, and that it is the same bytes each time."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from flows.coco.masks import decode_mask
from flows.coco.sample import SAMPLE_VERSION, encode_jpeg, write_sample
from flows.coco.sample.annotate import (
    annotation_records,
    hole_columns,
    likeness,
    polygons,
    run_lengths,
    segmentation_of,
)
from flows.coco.sample.canvas import Canvas, inflate
from flows.coco.sample.light import LIGHTS, Light, black_body, develop, irradiance
from flows.coco.sample.noise import TILE_PX, noise_tile, sample_tile
from flows.coco.sample.photographs import PHOTOGRAPHS, read_photograph
from flows.coco.sample.playbill import SCENES
from flows.coco.sample.scene import CASTS, PERSON, Drawing, Instance, draw_scene

Record = dict[str, Any]


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sample, drawn once for all tests."""
    folder = tmp_path_factory.mktemp("data") / "sample"
    write_sample(folder)
    return folder


@pytest.fixture(scope="session")
def content(sample: Path) -> Record:
    """Return the sample's annotations as they stand in the file."""
    read: Record = json.loads((sample / "annotations" / "instances_sample.json").read_text(encoding="utf-8"))
    return read


def side_of(image_id: int) -> str:
    """Return the split of an image by the rule of the method, written out again."""
    digest = hashlib.sha256(f"hcoco-split-v1:{image_id}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"


def person_share(content: Record, image: Record) -> float:
    """Return the share of an image that its people, crowds left out, cover together."""
    areas = [a["area"] for a in people(content) if a["image_id"] == image["id"]]
    return float(sum(areas) / (image["width"] * image["height"]))


def people(content: Record) -> list[Record]:
    """Return the annotations of single people."""
    return [a for a in content["annotations"] if a["category_id"] == PERSON and not a["iscrowd"]]


def test_every_record_has_its_picture(sample: Path, content: Record) -> None:
    """Every image record names a JPEG of the stated size, and no other file lies beside them."""
    names = {image["file_name"] for image in content["images"]}
    assert names == {path.name for path in (sample / "sample").iterdir()}
    for image in content["images"]:
        picture = loaded(sample, image["id"])
        assert image["file_name"] == f"{image['id']:012d}.jpg"
        assert picture.shape[:2] == (image["height"], image["width"])
        assert image["height"] != image["width"]


def test_pycocotools_reads_all_of_it(sample: Path, content: Record) -> None:
    """The official reader decodes every annotation, to the stated area and box."""
    with contextlib.redirect_stdout(io.StringIO()):
        reader = COCO(str(sample / "annotations" / "instances_sample.json"))
    for annotation in content["annotations"]:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # pycocotools 2.0.11 with numpy 2
            mask = reader.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        left, top, width, height = annotation["bbox"]
        assert mask.sum() == annotation["area"] > 0
        assert (columns.min(), rows.min()) == (left, top)
        assert (columns.max() + 1, rows.max() + 1) == (left + width, top + height)


def test_records_have_every_field_of_coco(content: Record) -> None:
    """Images, annotations, licences and categories carry the fields of the official files, with known ids."""
    image_fields = {"id", "file_name", "width", "height", "license", "coco_url", "flickr_url", "date_captured"}
    annotation_fields = {"id", "image_id", "category_id", "iscrowd", "area", "bbox", "segmentation"}
    assert all(set(image) == image_fields for image in content["images"])
    assert all(set(annotation) == annotation_fields for annotation in content["annotations"])
    licenses = {entry["id"] for entry in content["licenses"]}
    categories = {entry["id"] for entry in content["categories"]}
    images = {image["id"] for image in content["images"]}
    assert {image["license"] for image in content["images"]} == licenses
    assert {annotation["category_id"] for annotation in content["annotations"]} == categories
    assert {annotation["image_id"] for annotation in content["annotations"]} <= images
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(content["annotations"])
    assert content["info"]["version"] == str(SAMPLE_VERSION)


def test_there_are_enough_subjects(content: Record) -> None:
    """At least 90 people are large enough to be edited, in at least 45 pictures full enough of people."""
    heavy = {image["id"] for image in content["images"] if person_share(content, image) >= 0.06}
    sizes = {image["id"]: image["width"] * image["height"] for image in content["images"]}
    subjects = [
        a
        for a in people(content)
        if a["image_id"] in heavy and a["area"] >= 1000 and 0.01 <= a["area"] / sizes[a["image_id"]] <= 0.8
    ]
    assert len(heavy) >= 45
    assert len(subjects) >= 90


def test_every_side_of_the_split_gets_pictures(content: Record) -> None:
    """At least five pictures full of people, none of them grey, fall to each of train, val and test."""
    grey = {scene.image_id for scene in SCENES if scene.grey} | {p.image_id for p in PHOTOGRAPHS if p.grey}
    heavy = [image for image in content["images"] if person_share(content, image) >= 0.06 and image["id"] not in grey]
    count = Counter(side_of(image["id"]) for image in heavy)
    assert min(count[side] for side in ("train", "val", "test")) >= 5


def test_every_form_of_segmentation_occurs(content: Record) -> None:
    """Polygons of one part and of several, compressed and uncompressed run lengths, and a crowd are all there."""
    forms: Counter[str] = Counter()
    for annotation in content["annotations"]:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            forms["one part" if len(segmentation) == 1 else "several parts"] += 1
        else:
            forms["uncompressed" if isinstance(segmentation["counts"], list) else "compressed"] += 1
        if annotation["iscrowd"]:
            forms["crowd"] += 1
            assert annotation["category_id"] == PERSON
            assert isinstance(segmentation["counts"], list)
    assert set(forms) == {"one part", "several parts", "compressed", "uncompressed", "crowd"}
    assert forms["one part"] + forms["several parts"] > forms["compressed"] + forms["uncompressed"]


def test_grey_and_empty_pictures_occur(sample: Path, content: Record) -> None:
    """A picture of one channel shows a person, and at least two pictures show nobody."""
    seen = {annotation["image_id"] for annotation in people(content)}
    channels = {image["id"]: loaded(sample, image["id"]).ndim for image in content["images"]}
    assert any(ndim == 2 and image_id in seen for image_id, ndim in channels.items())
    assert len(channels.keys() - seen) >= 2
    assert any(image_id not in {a["image_id"] for a in content["annotations"]} for image_id in channels)


def test_people_hide_each_other(content: Record) -> None:
    """No pixel belongs to two people of one picture: what is hidden is not in a mask."""
    for image in content["images"]:
        masks = [
            decoded(a["segmentation"], (image["height"], image["width"]))
            for a in people(content)
            if a["image_id"] == image["id"]
        ]
        if len(masks) > 1:
            # Traced outlines may touch within a pixel.
            assert (np.sum(masks, axis=0) > 1).sum() < 0.002 * image["width"] * image["height"]


def decoded(segmentation: Any, shape: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return a segmentation's mask, bool (H, W)."""
    return decode_mask(json.dumps(segmentation).encode(), height=shape[0], width=shape[1])


def loaded(folder: Path, image_id: int) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a picture of the sample as it is stored: (H, W, 3) RGB or (H, W)."""
    content = np.fromfile(folder / "sample" / f"{image_id:012d}.jpg", np.uint8)
    picture = cv2.imdecode(content, flags=cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def test_annotations_agree_with_what_was_drawn() -> None:
    """In every form, the annotation of a drawn scene covers its silhouette with an overlap of more than 0.99."""
    for scene in SCENES[:6]:
        drawing = draw_scene(scene)
        records = annotation_records(scene.image_id, drawing, first_id=5)
        for instance, record in zip(drawing.instances, records, strict=True):
            assert likeness(record["segmentation"], instance.mask) >= 0.99


def test_a_mask_is_where_the_person_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same place drawn without people, the picture changes strongly inside the mask and not outside."""
    scene = next(scene for scene in SCENES if scene.cast == "portrait" and scene.place == "studio")
    drawing = draw_scene(scene)
    monkeypatch.setitem(CASTS, scene.cast, lambda _: [])
    empty = draw_scene(scene)
    assert empty.instances == ()
    change = cv2.absdiff(*(cv2.GaussianBlur(drawn.picture, (0, 0), sigmaX=3) for drawn in (drawing, empty))).max(axis=2)
    mask = drawing.instances[0].mask.astype(np.uint8)
    inner = cv2.erode(mask, np.ones((21, 21), np.uint8)) > 0
    outer = cv2.dilate(mask, np.ones((21, 21), np.uint8)) == 0
    assert (change[inner] > 12).mean() > 0.9
    assert (change[outer] > 12).mean() < 0.01


def test_a_scene_is_the_same_bytes_each_time() -> None:
    """Drawing one scene twice, with another between, gives the same JPEG and the same annotations."""
    first = draw_scene(SCENES[2])
    draw_scene(SCENES[5])
    again = draw_scene(SCENES[2])
    assert encode_jpeg(first.picture) == encode_jpeg(again.picture)
    assert annotation_records(1, first, first_id=1) == annotation_records(1, again, first_id=1)


def test_the_files_are_what_the_scenes_say(sample: Path) -> None:
    """A scene drawn alone gives the very file that the whole sample holds."""
    scene = SCENES[7]
    written = (sample / "sample" / f"{scene.image_id:012d}.jpg").read_bytes()
    assert encode_jpeg(draw_scene(scene).picture) == written


def test_a_second_call_does_nothing(sample: Path) -> None:
    """Writing the sample again leaves every file as it was, times included."""
    before = {path: path.stat().st_mtime_ns for path in sorted(sample.rglob("*"))}
    write_sample(sample)
    assert {path: path.stat().st_mtime_ns for path in sorted(sample.rglob("*"))} == before


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    """A folder that holds something else is refused and stays as it is."""
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="no sample"):
        write_sample(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_crash_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where drawing fails half-way, neither the folder nor a half-made one remains."""
    calls = []

    def fail_later(drawing: Any) -> bytes:
        calls.append(drawing)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return b"jpeg"

    monkeypatch.setattr("flows.coco.sample.encode_jpeg", fail_later)
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []


def test_scenes_differ_in_their_light(sample: Path, content: Record) -> None:
    """Colour casts and brightness range widely over the people: that is what harmonization is about."""
    means = []
    for annotation in people(content):
        picture = np.atleast_3d(loaded(sample, annotation["image_id"]))
        mask = decoded(annotation["segmentation"], picture.shape[:2])
        means.append(picture[mask].mean(axis=0))
    brightness = np.array([mean.mean() for mean in means])
    red_over_blue = np.array([mean[0] / mean[-1] for mean in means])
    assert np.percentile(brightness, 90) > 1.8 * np.percentile(brightness, 10)
    assert np.percentile(red_over_blue, 90) > 1.8 * np.percentile(red_over_blue, 10)


def test_all_casts_and_lights_are_used() -> None:
    """Nothing that can be drawn is left out of the list of scenes, and ids are unique."""
    assert {scene.cast for scene in SCENES} == set(CASTS)
    assert {scene.light for scene in SCENES} == set(LIGHTS)
    ids = [scene.image_id for scene in SCENES] + [photograph.image_id for photograph in PHOTOGRAPHS]
    assert len(set(ids)) == len(ids)


def test_photographs_are_read_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The photographs come out of the installed package even where every connection fails."""

    def refuse(*args: object, **options: object) -> None:
        raise OSError(f"no network here: {args} {options}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    for photograph in PHOTOGRAPHS:
        drawing = read_photograph(photograph)
        assert drawing.picture.shape[:2] == (photograph.rows, photograph.columns)
        assert all(instance.mask.any() for instance in drawing.instances)


def test_the_astronaut_is_in_her_outline() -> None:
    """The suit's orange, nearly absent elsewhere, lies almost wholly inside the hand-made outline."""
    drawing = read_photograph(PHOTOGRAPHS[0])
    red, green, blue = np.moveaxis(drawing.picture.astype(int), 2, 0)
    orange = (red > 170) & (green > 50) & (green < 130) & (blue < 90)
    assert (orange & drawing.instances[0].mask).sum() > 0.98 * orange.sum()


def test_run_lengths_by_hand() -> None:
    """Runs go down the columns and begin with zeros, be there none."""
    assert run_lengths(np.array([[0, 1, 1], [0, 0, 1]], bool)) == [2, 1, 1, 2]
    assert run_lengths(np.array([[1, 1, 0], [1, 0, 0]], bool)) == [0, 3, 3]
    assert run_lengths(np.zeros((2, 3), bool)) == [6]


def test_a_hole_is_cut_not_filled() -> None:
    """A ring becomes several polygons that leave its hole open."""
    y, x = np.mgrid[:60, :80]
    distance = np.hypot(x - 40, y - 30)
    ring = (distance < 25) & (distance > 12)
    assert hole_columns(ring) == [40]
    parts = polygons(ring)
    assert len(parts) >= 2
    assert likeness(parts, ring) > 0.98


def test_a_crowd_is_uncompressed_run_lengths() -> None:
    """A crowd region is written as a list of counts, whatever its number."""
    mask = np.zeros((20, 30), bool)
    mask[4:9, 5:20] = True
    for number in range(1, 23):
        segmentation = segmentation_of(Instance(PERSON, mask, is_crowd=True), number)
        assert isinstance(segmentation["counts"], list)
        assert segmentation["size"] == [20, 30]


def test_what_cannot_be_seen_is_not_annotated() -> None:
    """An instance that is wholly hidden gets no annotation."""
    mask = np.zeros((20, 30), bool)
    hidden = Instance(PERSON, mask)
    seen = Instance(PERSON, ~mask)
    drawing = Drawing(np.zeros((20, 30, 3), np.uint8), (hidden, seen))
    records = annotation_records(3, drawing, first_id=8)
    assert [(record["id"], record["area"]) for record in records] == [(8, 600.0)]


def test_noise_repeats_without_a_seam() -> None:
    """A tile looked up one period away gives the same values, and jumps nowhere at its border."""
    tile = noise_tile(1)
    u, v = np.mgrid[0:40:0.7, 230:280:0.9].astype(np.float32)
    assert np.allclose(sample_tile(tile, u, v), sample_tile(tile, u + TILE_PX, v - TILE_PX), atol=1e-4)
    step = np.abs(np.diff(sample_tile(tile, np.arange(250, 262, dtype=np.float32), np.zeros(1, np.float32))))
    assert step.max() < 1.0


@pytest.mark.parametrize(("warm", "cold"), [(2000, 3000), (3000, 5500), (5500, 9000)])
def test_a_hotter_body_is_bluer(warm: int, cold: int) -> None:
    """The blue share of a black body's light rises with its temperature, and its luminance stays as asked."""
    low, high = black_body(warm, 0.7), black_body(cold, 0.7)
    assert low[2] / low[0] < high[2] / high[0]
    assert np.dot(low, (0.2126, 0.7152, 0.0722)) == pytest.approx(0.7)


def test_light_falls_on_what_faces_it() -> None:
    """A surface turned to the main light gets all of it, one turned away only what comes from around."""
    light = Light(key=(1.0, 0.5, 0.25), direction=(0, 0, 1), sky=(0.2, 0.2, 0.2), ground=(0.2, 0.2, 0.2))
    assert irradiance(light, (0, 0, 1)) == pytest.approx([1.2, 0.7, 0.45])
    assert irradiance(light, (0, 0, -1)) == pytest.approx([0.2, 0.2, 0.2])


def test_developing_leaves_the_light_alone() -> None:
    """The film never writes into the light that it is given, and a grey film has one channel."""
    radiance = np.full((30, 41, 3), 0.4, np.float32)
    light = LIGHTS["noon"]
    picture = develop(radiance, light, np.random.default_rng(0))
    assert picture.shape == (30, 41, 3)
    assert picture.dtype == np.uint8
    assert develop(radiance, light, np.random.default_rng(0), grey=True).shape == (30, 41)
    assert (radiance == np.float32(0.4)).all()


def test_a_ball_is_round() -> None:
    """A limb of no length is a disc of its radius whose surface faces outwards all around."""
    canvas = Canvas(left=0, top=0, width=60, height=50, head_px=20, light_side=0)
    shape = canvas.chain([(30, 25), (30.001, 25)], [10, 10])
    assert shape is not None
    assert shape.cover.sum() == pytest.approx(np.pi * 100, rel=0.02)
    assert shape.normal[25 - shape.top, 38 - shape.left, 0] == pytest.approx(0.8, abs=0.02)
    assert shape.normal[17 - shape.top, 30 - shape.left, 1] == pytest.approx(-0.8, abs=0.02)


def test_a_cushion_slopes_to_its_edges() -> None:
    """A mask blown up faces left at its left edge, right at its right edge, and the viewer in the middle."""
    mask = np.zeros((40, 70), np.uint8)
    mask[5:35, 10:60] = 255
    normal = inflate(mask, 10.0)
    assert normal[20, 12, 0] < -0.4
    assert normal[20, 57, 0] > 0.4
    assert normal[20, 35, 2] > 0.99
