from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from flows.coco.masks import MAX_PIXELS, MAX_POLYGON_PATH, decode_mask, scale_mask

HEIGHT, WIDTH = 48, 64
QUICK_SECONDS = 3.0
"""Far more than a refusal takes, far less than a bomb."""


def decode(segmentation: object, *, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Decode a segmentation given as a value."""
    return decode_mask(json.dumps(segmentation).encode(), height=height, width=width)


def rasterise(polygons: list[list[float]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Rasterise polygons by pycocotools alone."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        runs = coco_mask.frPyObjects(polygons, HEIGHT, WIDTH)
        return np.asarray(coco_mask.decode(coco_mask.merge(runs)), dtype=np.bool_)


def compress(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    """Encode a mask as COCO's compressed run lengths, by pycocotools."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def count_runs(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    """Encode a mask as plain run lengths, the slow and obvious way."""
    counts, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


masks = hnp.arrays(
    np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 31)), elements=st.booleans(), fill=st.booleans()
)


def test_a_rectangle_by_hand() -> None:
    """The corners of a rectangle on pixel borders give exactly the pixels between them."""
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    expected[5:15, 10:30] = True
    mask = decode([[10, 5, 30, 5, 30, 15, 10, 15]])
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, expected)


def test_several_parts_are_one_mask() -> None:
    """Parts are united, overlapping or not."""
    parts = [[2, 2, 20, 2, 20, 20, 2, 20], [10, 10, 30, 10, 30, 30, 10, 30], [50, 40, 60, 40, 60, 46, 50, 46]]
    together = decode(parts)
    np.testing.assert_array_equal(together, np.logical_or.reduce([decode([part]) for part in parts]))
    assert together.sum() == 18 * 18 + 20 * 20 - 10 * 10 + 10 * 6


def test_a_part_that_is_no_polygon_is_left_out() -> None:
    """Parts of two points, or with half a point, do not spoil the others."""
    good = [2.0, 2, 20, 2, 20, 20, 2, 20]
    np.testing.assert_array_equal(decode([[1, 1, 40, 40], good, [1, 1, 40, 1, 40, 40, 7], "x", None]), decode([good]))


@given(
    st.lists(st.floats(-200, 200).map(lambda v: round(v, 2)), min_size=6, max_size=16).filter(lambda p: not len(p) % 2)
)
@settings(max_examples=150, deadline=None)
def test_polygons_are_rasterised_by_cocos_rule(polygon: list[float]) -> None:
    """Polygons inside, across and outside the frame come out as pycocotools has them."""
    inside = [min(max(v, -width), 2 * width) for v, width in zip(polygon, [WIDTH, HEIGHT] * len(polygon), strict=False)]
    np.testing.assert_array_equal(decode([inside]), rasterise([inside]))


def test_a_polygon_across_the_frame_is_cut_not_bent() -> None:
    """An edge that leaves the frame keeps its slope inside."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    mask = decode([[-64, 0, 128, 0, 128, 48, -64, 48]])
    assert mask.all()
    below_diagonal = decode([[-32, -24, 96, 72, -32, 72]])  # below y = 3/4 x
    away = np.abs(rows - 0.75 * columns) > 1
    np.testing.assert_array_equal(below_diagonal[away], (rows > 0.75 * columns)[away])


@pytest.mark.parametrize(
    "polygon",
    [
        [-30, 10, -20, 30, -5, 10],
        [10, -30, 30, -20, 20, -3],
        [70, 10, 90, 30, 80, 10],
        [10, 60, 20, 90, 30, 70],
        [5000, 5000, 6000, 5000, 6000, 6000],
        [10, 10, 20, 20, 30, 30],
        [10, 10, 10, 10, 10, 10],
    ],
)
def test_a_polygon_without_a_pixel_in_the_frame_is_an_empty_mask(polygon: list[float]) -> None:
    """Polygons outside the frame, and those without an area, cover nothing."""
    assert not decode([polygon]).any()


@given(masks)
@settings(max_examples=200, deadline=None)
def test_compressed_runs_agree_with_pycocotools(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    """What pycocotools compresses comes back, whatever the mask."""
    np.testing.assert_array_equal(decode(compress(mask), height=mask.shape[0], width=mask.shape[1]), mask)


@given(masks)
@settings(max_examples=60, deadline=None)
def test_plain_runs_agree_with_a_naive_count(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    """Plain run lengths go down the columns, outside first."""
    np.testing.assert_array_equal(decode(count_runs(mask), height=mask.shape[0], width=mask.shape[1]), mask)


def test_long_runs_are_read() -> None:
    """Runs that need several characters, and differences of both signs, are read as pycocotools writes them."""
    height, width = 480, 640
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[3:470, 100:101] = mask[0:2, 300:301] = mask[:, 600:640] = True
    np.testing.assert_array_equal(decode(compress(mask), height=height, width=width), mask)


HUGE = 10**400
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00\xd8",
    "null": b"null",
    "a number": b"7",
    "a text": b'"PPYo0"',
    "nothing in it": b"[]",
    "an empty polygon": b"[[]]",
    "two points": b"[[1,1,5,5]]",
    "half a point": b"[[1,1,5,5,9,1,7]]",
    "a flat list": b"[1,1,5,5,9,1]",
    "NaN": b"[[NaN,1,5,5,9,1]]",
    "Infinity": b"[[1,1,Infinity,5,9,1]]",
    "null inside": b"[[1,1,null,5,9,1]]",
    "texts": b'[["1","1","20","20","1","20"]]',
    "booleans": b"[[true,true,false,true,true,true]]",
    "nested": b"[[[1,1],[5,5],[9,1],[1,1],[5,5],[9,1]]]",
    "a number that overflows": f"[[{HUGE},1,5,5,9,1]]".encode(),
    "a number too long to read": b"[[" + b"9" * 10_000 + b",1,5,5,9,1]]",
    "depth of lists": b"[" * 200_000 + b"]" * 200_000,
    "depth of objects": b'{"size":' * 50_000,
    "to and fro": json.dumps([[0, 0, WIDTH, HEIGHT] * 10_000]).encode(),
    "too many numbers": json.dumps([[1, 1, 2, 1, 2, 2] * 40_000]).encode(),
    "no size": b'{"counts": [3072]}',
    "no counts": b'{"size": [48, 64]}',
    "the size turned": b'{"size": [64, 48], "counts": [3072]}',
    "another size": b'{"size": [96, 128], "counts": [12288]}',
    "a text for the size": b'{"size": "48x64", "counts": [3072]}',
    "too few pixels": b'{"size": [48, 64], "counts": [3000, 71]}',
    "too many pixels": b'{"size": [48, 64], "counts": [3000, 73]}',
    "a negative run": b'{"size": [48, 64], "counts": [4000, -928]}',
    "a fraction of a run": b'{"size": [48, 64], "counts": [3071.5, 0.5]}',
    "a run that overflows": f'{{"size": [48, 64], "counts": [{HUGE}]}}'.encode(),
    "runs that wrap around": f'{{"size": [48, 64], "counts": [{2**63}, {2**63}, 3072]}}'.encode(),
    "booleans for runs": b'{"size": [48, 64], "counts": [true, true]}',
    "NaN for a run": b'{"size": [48, 64], "counts": [NaN]}',
    "no runs": b'{"size": [48, 64], "counts": []}',
    "an empty string": b'{"size": [48, 64], "counts": ""}',
    "a foreign character": '{"size": [48, 64], "counts": "PP\u00e9o0"}'.encode(),
    "half a character": b'{"size": [48, 64], "counts": "\\ud800"}',
    "a NUL": b'{"size": [48, 64], "counts": "\\u0000"}',
    "a number without an end": b'{"size": [48, 64], "counts": "' + b"o" * 100_000 + b'"}',
    "a number cut in the middle": b'{"size": [48, 64], "counts": "PPo"}',
    "a claim of billions": b'{"size": [48, 64], "counts": "oooooo1"}',
    "an object in an object": b'{"size": [48, 64], "counts": {"size": [48, 64], "counts": [3072]}}',
}


@pytest.mark.parametrize("segmentation", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_cannot_be_a_mask_is_refused_quickly(segmentation: bytes) -> None:
    """Hostile text of any kind is a ValueError of one line, and soon."""
    began = time.perf_counter()
    with pytest.raises(ValueError, match=r"\A.{5,200}\Z"):
        decode_mask(segmentation, height=HEIGHT, width=WIDTH)
    assert time.perf_counter() - began < QUICK_SECONDS


@pytest.mark.parametrize("cut", range(1, 30, 3))
def test_a_truncated_string_is_refused(cut: int) -> None:
    """A compressed string that lost its end never passes for a mask."""
    mask = np.random.default_rng(3).random((HEIGHT, WIDTH)) < 0.3
    whole = compress(mask)
    with pytest.raises(ValueError, match=r"counts|run lengths"):
        decode({**whole, "counts": whole["counts"][:-cut]})


@given(
    st.binary(max_size=60)
    | st.text(max_size=40).map(lambda text: json.dumps({"size": [5, 7], "counts": text}).encode())
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_mask_or_a_value_error(data: bytes) -> None:
    """Nothing but a mask of the right size, or ValueError, comes out."""
    try:
        mask = decode_mask(data, height=5, width=7)
    except ValueError:
        return
    assert mask.shape == (5, 7)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner),
    max_leaves=20,
)


@given(json_values)
@settings(max_examples=200, deadline=None)
def test_any_json_gives_a_mask_or_a_value_error(value: Any) -> None:
    """No JSON value raises anything but ValueError."""
    try:
        mask = decode(value, height=5, width=7)
    except ValueError:
        return
    assert mask.shape == (5, 7)


def test_far_points_cost_nothing() -> None:
    """Points a light year away are brought nearer before any edge is walked."""
    began = time.perf_counter()
    mask = decode([[-1e15, -1e15, 1e15, -1e15, 1e15, 1e15, -1e15, 1e15]])
    assert mask.all()
    assert time.perf_counter() - began < QUICK_SECONDS


def test_a_long_outline_within_bounds_is_fine() -> None:
    """An outline a hundred times longer than any in COCO still passes."""
    comb = [coordinate for x in range(2, 62, 2) for coordinate in (x, 2, x, 46, x + 1, 46, x + 1, 2)]
    assert decode([comb] * 100).any()
    assert MAX_POLYGON_PATH >= 100 * 30 * 90


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0), (-1, -1), (MAX_PIXELS, 2)])
def test_sizes_out_of_bounds_are_refused(height: int, width: int) -> None:
    """A size without pixels, or with too many, is refused before any memory is taken."""
    with pytest.raises(ValueError, match="size must be"):
        decode_mask(b'{"size": [1, 1], "counts": [1]}', height=height, width=width)


def test_scaling_takes_the_majority() -> None:
    """A scaled pixel is inside where more than half of its area was."""
    mask = np.zeros((4, 6), dtype=np.bool_)
    mask[0, :3] = mask[1, :2] = True  # 4 of 4 pixels, 1 of 4, none
    mask[2:, 4:] = True
    np.testing.assert_array_equal(scale_mask(mask, height=2, width=3), [[True, False, False], [False, False, True]])


def test_scaling_to_the_same_size_changes_nothing() -> None:
    """The same size gives the same mask, and the argument stays as it was."""
    mask = np.random.default_rng(0).random((7, 9)) < 0.5
    before = mask.copy()
    np.testing.assert_array_equal(scale_mask(mask, height=7, width=9), before)
    scale_mask(mask, height=3, width=4)
    np.testing.assert_array_equal(mask, before)


def test_real_segmentations_come_out_as_pycocotools_has_them(real_coco: Path) -> None:
    """Polygons, crowd regions and all of real annotations, pixel for pixel."""
    file = min((real_coco / "annotations").glob("instances_*.json"), key=lambda path: path.stat().st_size)
    instances = json.loads(file.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in instances["images"]}
    annotations = instances["annotations"]
    crowds = [annotation for annotation in annotations if annotation["iscrowd"]]
    for annotation in [*annotations[:: max(1, len(annotations) // 200)], *crowds[:20]]:
        height, width = sizes[annotation["image_id"]]
        segmentation = annotation["segmentation"]
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            runs = coco_mask.frPyObjects(segmentation, height, width)
            expected = coco_mask.decode(coco_mask.merge(runs) if isinstance(segmentation, list) else runs)
        np.testing.assert_array_equal(decode(segmentation, height=height, width=width), expected.astype(bool))
