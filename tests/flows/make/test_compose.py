from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from augment import DEFAULT_FAMILIES, Recipe, feather
from augment.checks import foreground_mse
from flows.coco.masks import decode_mask, scale_mask
from flows.coco.pictures import BadPicture, scale_down, scaled_size
from flows.make.compose import (
    JPEG,
    Made,
    Photographs,
    block_box,
    compose,
    crop,
    encode_jpeg,
    encode_png,
    inside_pixels,
    person_of,
    psnr,
    recipe_of,
    through_jpeg,
)
from flows.make.plan import Planned, read_planned
from flows.make.shard import compose_rows, make_shard
from flows.make.verify import background_identical, verify_run
from flows.store.layout import Layout
from tests.conftest import draw_photograph, write_coco
from tests.flows.make.building import make_left, plan_in, rows_of

Picture = NDArray[np.uint8]


def decoded(data: bytes) -> Picture:
    """Decode a JPEG as a reader would: uint8 (H, W, 3) RGB."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), np.uint8)


def decoded_mask(data: bytes) -> Picture:
    """Decode a PNG as it is: uint8 (H, W)."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)


@pytest.fixture(scope="module")
def planned(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Return a plan over the tiny folder; nothing is made."""
    return plan_in(tiny_coco, tmp_path_factory.mktemp("planned"))


@pytest.fixture(scope="module")
def rows(planned: Planned) -> list[dict[str, Any]]:
    """Return all planned samples."""
    return [row for shard in planned.plan.shards for row in read_planned(planned.layout, shard)]


@pytest.fixture(scope="module")
def made(planned: Planned, rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], Made]]:
    """Return all samples of the plan, made."""
    return [(dict(row), made) for row, made in compose_rows(planned.plan, rows)]


def photographs_of(planned: Planned, *, max_side: int | None = None) -> Photographs:
    """Open the photographs of a plan."""
    return Photographs({name: Path(folder) for name, folder in planned.plan.roots.items()}, max_side=max_side)


# The promise of the background, and what it rests on


def test_untouched_blocks_decode_to_identical_pixels(made: list[tuple[dict[str, Any], Made]]) -> None:
    """Every 8x8 block in which alpha is 0 throughout is the same in both decoded pictures; checked block by block."""
    untouched = 0
    for _, sample in made:
        real, composite = decoded(sample.members["real.jpg"]), decoded(sample.members["composite.jpg"])
        alpha = decoded_mask(sample.members["mask.png"])
        for y in range(0, alpha.shape[0], 8):
            for x in range(0, alpha.shape[1], 8):
                block = np.s_[y : y + 8, x : x + 8]
                if not alpha[block].any():
                    untouched += 1
                    assert np.array_equal(real[block], composite[block]), (sample.key, y, x)
    assert untouched > 20 * len(made)


def test_something_did_change_inside(made: list[tuple[dict[str, Any], Made]]) -> None:
    """The promise is not kept by doing nothing: most edits change the decoded subject."""
    changed = [sample.foreground_mse for _, sample in made if sample.foreground_mse and sample.foreground_mse > 1]
    assert len(changed) > 0.9 * len(made)


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    corners=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_box_of_whole_blocks_goes_through_jpeg_as_within_the_picture(
    height: int, width: int, corners: tuple[float, float, float, float], seed: int
) -> None:
    """A box of whole blocks comes out exactly as in the whole picture, whatever its sides and where it touches them."""
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    y0, y1 = sorted(int(share * height) for share in corners[:2])
    x0, x1 = sorted(int(share * width) for share in corners[2:])
    box = block_box((y0, y1 + 1, x0, x1 + 1), height=height, width=width)
    assert np.array_equal(through_jpeg(crop(picture, box)), crop(through_jpeg(picture), box))


@pytest.mark.parametrize(("height", "width"), [(37, 53), (40, 53), (37, 56), (8, 9), (9, 8), (1, 3)])
def test_a_box_at_the_right_and_lower_edge_goes_through_jpeg_as_within_the_picture(height: int, width: int) -> None:
    """The claim holds for blocks that the frame cuts, where the encoder invents the missing pixels."""
    picture = draw_photograph(height * width, width=width, height=height)
    for y0 in range(0, height, 8):
        for x0 in range(0, width, 8):
            box = (y0, height, x0, width)
            assert np.array_equal(through_jpeg(crop(picture, box)), crop(through_jpeg(picture), box))


@settings(max_examples=100, deadline=None)
@given(sides=st.tuples(st.integers(1, 99), st.integers(1, 99)), corners=st.tuples(*[st.integers(0, 98)] * 4))
def test_block_box_is_the_smallest_box_of_whole_blocks(
    sides: tuple[int, int], corners: tuple[int, int, int, int]
) -> None:
    """The grown box holds the box, begins on the grid, ends on it or at the frame, and has no block too many."""
    height, width = sides
    y0, y1 = sorted(min(c, height - 1) for c in corners[:2])
    x0, x1 = sorted(min(c, width - 1) for c in corners[2:])
    top, bottom, left, right = block_box((y0, y1 + 1, x0, x1 + 1), height=height, width=width)
    for low, high, first, last, side in ((top, bottom, y0, y1, height), (left, right, x0, x1, width)):
        assert low % 8 == 0
        assert low <= first < low + 8
        assert high == min(side, last // 8 * 8 + 8)


def test_pictures_are_jpeg_without_chroma_subsampling() -> None:
    """The encoder writes 4:4:4: red, green and blue edges of one pixel stay where they are, blocks independent."""
    data = encode_jpeg(draw_photograph(1, width=40, height=24))
    frame = data.index(b"\xff\xc0") + 4  # baseline start of frame: precision, height, width, components
    assert data[frame + 5] == 3
    assert [data[frame + 6 + 3 * component + 1] for component in range(3)] == [0x11] * 3
    assert JPEG[:2] == (cv2.IMWRITE_JPEG_QUALITY, 95)


def test_background_identical_agrees_with_a_look_at_every_block(made: list[tuple[dict[str, Any], Made]]) -> None:
    """The check of `verify` sees a change of one level of one pixel exactly where the pixel's block is untouched."""
    sample = next(sample for _, sample in made if decoded_mask(sample.members["mask.png"]).shape[0] % 8)
    real, composite = decoded(sample.members["real.jpg"]), decoded(sample.members["composite.jpg"])
    alpha = decoded_mask(sample.members["mask.png"])
    assert background_identical(real, composite, alpha)
    rng = np.random.default_rng(0)
    seen = set()
    for y, x in zip(rng.integers(0, alpha.shape[0], 200), rng.integers(0, alpha.shape[1], 200), strict=True):
        changed = composite.copy()
        changed[y, x, 1] = real[y, x, 1] ^ 1
        touched = bool(alpha[y // 8 * 8 : y // 8 * 8 + 8, x // 8 * 8 : x // 8 * 8 + 8].any())
        assert background_identical(real, changed, alpha) == touched
        seen.add(touched)
    assert seen == {True, False}


# What a sample is


def test_real_is_the_encoded_target(planned: Planned, made: list[tuple[dict[str, Any], Made]], tiny_coco: Path) -> None:
    """`real.jpg` is the decoded photograph through the encoder, and nothing else."""
    for row, sample in made:
        data = (tiny_coco / "tiny" / row["target_file_name"]).read_bytes()
        picture = np.asarray(
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION), np.uint8
        )
        assert sample.members["real.jpg"] == encode_jpeg(picture)
    assert planned.plan.planned == len(made)


def test_the_mask_is_the_feathered_polygon(made: list[tuple[dict[str, Any], Made]]) -> None:
    """`mask.png` is the polygon with the recipe's feather; above 127 it is the polygon itself."""
    for row, sample in made:
        alpha = decoded_mask(sample.members["mask.png"])
        mask = decode_mask(row["target_segmentation"], height=row["target_height"], width=row["target_width"])
        assert np.array_equal(alpha, feather(mask, sample.recipe.feather_px))
        assert np.array_equal(alpha > 127, mask)
        assert sample.members["mask.png"] == encode_png(alpha)


def test_measures_are_those_of_the_decoded_pictures(made: list[tuple[dict[str, Any], Made]]) -> None:
    """Foreground MSE and PSNR, measured in a box, are the naive formulas over the whole decoded pictures."""
    for _, sample in made:
        real, composite = (decoded(sample.members[name]).astype(np.float64) for name in ("real.jpg", "composite.jpg"))
        inside = decoded_mask(sample.members["mask.png"]) > 127
        squares = (real - composite) ** 2
        assert sample.foreground_mse == round(float(squares[inside].sum() / (3 * inside.sum())), 4)
        assert sample.psnr == pytest.approx(10 * np.log10(255**2 / squares.mean()), abs=1e-4)
        assert sample.gates["effect_small"] == sample.gates["effect_large"] == sample.foreground_mse


def test_psnr_of_equal_pictures_is_finite() -> None:
    """Equal pictures have no finite PSNR; 100 stands for it, since JSON knows no infinity."""
    picture = draw_photograph(1, width=16, height=8)
    assert psnr(picture, picture, pixels=128) == 100.0


def test_psnr_by_hand() -> None:
    """One channel of one of 200 pixels off by 255: a mean squared error of 255^2 / 600."""
    real = np.zeros((8, 5, 3), np.uint8)
    composite = real.copy()
    composite[3, 2, 1] = 255
    assert psnr(real, composite, pixels=200) == round(10 * np.log10(600), 4)


def test_foreground_mse_by_hand() -> None:
    """Differences 3, 4 and 0 in one of two pixels inside: 25 / 6; outside nothing counts."""
    real = np.full((2, 3, 3), 100, np.uint8)
    composite = real.copy()
    composite[0, 1] = 103, 96, 100
    composite[1, 2] = 0
    inside = np.zeros((2, 3), np.bool_)
    inside[0, :2] = True
    assert foreground_mse(real, composite, inside) == pytest.approx(25 / 6)


def test_inside_pixels_are_those_of_the_mask_in_order() -> None:
    """The reference's pixels are gathered row by row, exactly as boolean indexing does; an empty mask gives none."""
    picture = draw_photograph(3, width=21, height=13)
    mask = np.random.default_rng(0).random((13, 21)) > 0.8
    assert np.array_equal(inside_pixels(picture, mask), picture[mask])
    assert inside_pixels(picture, np.zeros((13, 21), np.bool_)).shape == (0, 3)


# Recipes


def test_a_recipe_depends_on_seed_and_key_alone() -> None:
    """The same seed and key give the same recipe; another seed, key or variant another one."""
    key = "000000000001-000000000010-00"
    recipe = recipe_of(key, seed=0, families=DEFAULT_FAMILIES)
    assert recipe == recipe_of(key, seed=0, families=dict(DEFAULT_FAMILIES))
    others = [recipe_of(key, seed=1, families=DEFAULT_FAMILIES)]
    others += [recipe_of(f"{key[:-2]}{variant:02d}", seed=0, families=DEFAULT_FAMILIES) for variant in range(1, 5)]
    assert recipe not in others
    assert len({other.strength for other in others}) == len(others)


def test_the_order_of_the_families_does_not_matter() -> None:
    """Weights written in another order, or with families of weight 0, draw the same recipes."""
    turned = dict(reversed(list(DEFAULT_FAMILIES.items())))
    for number in range(50):
        assert recipe_of(f"k{number}", seed=3, families=turned) == recipe_of(
            f"k{number}", seed=3, families=DEFAULT_FAMILIES
        )


def test_a_seed_and_a_key_are_not_confused() -> None:
    """Seed 1 with key `2x` draws something else than seed 12 with key `x`."""
    families = {"mkl": 1.0}
    assert recipe_of("2x", seed=1, families=families) != recipe_of("x", seed=12, families=families)


def test_a_sample_is_the_same_alone_and_among_others(planned: Planned, made: list[tuple[dict[str, Any], Made]]) -> None:
    """A sample made alone, with photographs opened anew, is the same as one made in the middle of a shard."""
    for row, sample in made[::5]:
        recipe = Recipe.from_json(sample.recipe.to_json())
        alone = compose(row, photographs_of(planned), recipe=recipe)
        assert alone == sample


def test_rows_are_not_written_to(planned: Planned, rows: list[dict[str, Any]]) -> None:
    """Making a sample leaves its row of the plan as it was."""
    row = dict(rows[0])
    compose(row, photographs_of(planned), recipe=recipe_of(row["key"], seed=0, families=DEFAULT_FAMILIES))
    assert row == rows[0]


def test_person_of_takes_one_role(rows: list[dict[str, Any]]) -> None:
    """The columns of a role come without its prefix, and no others."""
    target = person_of(rows[0], "target")
    assert target["image_id"] == rows[0]["target_image_id"]
    assert set(target) == set(person_of(rows[0], "reference"))
    assert "key" not in target


# Photographs


def test_photographs_are_decoded_once_while_they_are_recent(planned: Planned, rows: list[dict[str, Any]]) -> None:
    """A photograph is the same object while it is among the last few, is encoded once, and is forgotten after."""
    first = person_of(rows[0], "target")
    others = {row["target_file_name"]: person_of(row, "target") for row in rows}
    del others[first["file_name"]]
    photographs = photographs_of(planned)
    kept = photographs.get(first)
    assert photographs.get(first) is kept
    assert kept.jpeg is kept.jpeg
    for person in list(others.values())[:4]:
        photographs.get(person)
    again = photographs.get(first)
    assert again is not kept
    assert np.array_equal(again.picture, kept.picture)


def test_a_changed_photograph_is_refused(planned: Planned, rows: list[dict[str, Any]]) -> None:
    """A file whose checksum is not that of the plan is no longer the photograph that was planned."""
    person = person_of(rows[0], "target")
    with pytest.raises(BadPicture, match="has changed since it was planned"):
        photographs_of(planned).get({**person, "crc32": person["crc32"] ^ 1})


def test_a_name_that_leaves_the_folder_is_refused(planned: Planned, rows: list[dict[str, Any]]) -> None:
    """A plan cannot lead out of the source's folder either."""
    with pytest.raises(BadPicture, match="leaves the folder"):
        photographs_of(planned).get({**person_of(rows[0], "target"), "file_name": "../../etc/passwd"})


def _spoilt(tmp_path: Path, spoil: str) -> tuple[Layout, int]:
    """Plan a run, then spoil one photograph of it, and make it; return the run and the id of the photograph."""
    source = tmp_path / "coco"
    write_coco(source, images=12)
    planned = plan_in(source, tmp_path)
    rows = [row for shard in planned.plan.shards for row in read_planned(planned.layout, shard)]
    victim = rows[3]["target_image_id"]
    path = source / "tiny" / f"{victim:012d}.jpg"
    if spoil == "deleted":
        path.unlink()
    elif spoil == "changed":
        shutil.copy(source / "tiny" / f"{rows[-1]['target_image_id']:012d}.jpg", path)
    elif spoil == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(path.read_bytes()[:-900])
    make_left(planned)
    return planned.layout, victim


@pytest.mark.parametrize("spoil", ["deleted", "changed", "empty", "cut"])
def test_a_photograph_that_is_spoilt_after_planning_becomes_a_reason(tmp_path: Path, spoil: str) -> None:
    """Samples that touch a spoilt photograph are rejected as `unreadable`, counted, and the run still verifies."""
    layout, victim = _spoilt(tmp_path, spoil)
    rows = rows_of(layout)
    hit = [row for row in rows if victim in {row["target_image_id"], row["reference_image_id"]}]
    assert hit
    assert {row["key"] for row in rows if row["reason"] == "unreadable"} == {row["key"] for row in hit}
    for row in hit:
        assert row["status"] == "rejected"
        assert row["tar"].startswith("rejected/")
        assert row["foreground_mse"] is row["psnr"] is row["value"] is row["gates_clipping"] is None
    assert not list(verify_run(layout))


# Scaled builds


def test_a_scaled_build_has_scaled_pictures_of_the_same_promise(tiny_coco: Path, tmp_path: Path) -> None:
    """With `max_side` pictures and mask are scaled down together, and every check of `verify` holds."""
    planned = plan_in(tiny_coco, tmp_path, max_side=100, samples=16)
    make_left(planned)
    for shard in planned.plan.shards:
        rows = read_planned(planned.layout, shard)
        for row, sample in compose_rows(planned.plan, rows):
            width, height = scaled_size(width=row["target_width"], height=row["target_height"], max_side=100)
            assert max(width, height) == 100
            assert decoded(sample.members["real.jpg"]).shape == (height, width, 3)
            alpha = decoded_mask(sample.members["mask.png"])
            mask = decode_mask(row["target_segmentation"], height=row["target_height"], width=row["target_width"])
            assert np.array_equal(alpha > 127, scale_mask(mask, height=height, width=width))
    assert not list(verify_run(planned.layout))


def test_a_scaled_photograph_is_the_area_average(planned: Planned, rows: list[dict[str, Any]]) -> None:
    """Photographs are scaled by area averaging before anything else is done with them."""
    person = person_of(rows[0], "target")
    full, half = photographs_of(planned).get(person).picture, photographs_of(planned, max_side=80).get(person).picture
    height, width = half.shape[:2]
    assert max(height, width) == 80
    assert np.array_equal(half, scale_down(full, width=width, height=height))
    if (full.shape[0], full.shape[1]) == (2 * height, 2 * width):
        average = full.reshape(height, 2, width, 2, 3).astype(np.float64).mean(axis=(1, 3))
        assert np.abs(half - average).max() <= 0.5


def test_an_unreadable_shard_is_still_written(tmp_path: Path) -> None:
    """A shard of which no sample could be made has its index and its rejected tar, and no tar of kept samples."""
    source = tmp_path / "coco"
    write_coco(source, images=6)
    planned = plan_in(source, tmp_path)
    for path in (source / "tiny").iterdir():
        path.unlink()
    for shard in planned.plan.shards:
        done = make_shard(planned.layout.run, shard.name)
        assert done.by_reason == {"unreadable": shard.planned}
        assert (done.kept, done.rejected) == (0, shard.planned)
        assert not planned.layout.shard(shard.name).exists()
    make_left(planned)
    assert not list(verify_run(planned.layout))
