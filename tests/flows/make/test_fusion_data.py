"""What the fusion network learns from: repeatable draws, spoilt masks, targets made with the matte, one split."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from flows.coco.select import split_of
from flows.coco.sources import Source, open_source
from flows.make.fusion_data import (
    Cutout,
    Drawing,
    backgrounds,
    case_of,
    cases,
    compose,
    cover,
    cutouts,
    easiest,
    spoil,
)


@pytest.fixture(scope="session")
def tiny_source(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Open the small COCO folder."""
    return open_source(str(tiny_coco), cache=tmp_path_factory.mktemp("catalogue"))


def person(*, difficulty: float = 0.5, seed: int = 0, height: int = 150, width: int = 112) -> Cutout:
    """Return a person that is an ellipse of one colour before noise, with a matte a little smaller than the mask."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    radius = np.hypot((rows - height / 2) / 50, (columns - width / 2) / 30)
    mask, alpha = ((radius < limit).astype(np.uint8) * 255 for limit in (1.0, 0.9))
    subject = np.full((height, width, 3), (200, 30, 60), np.uint8)
    return Cutout(seed, np.where(alpha[..., None] > 0, subject, picture), mask, alpha, subject, 0.8, difficulty)


def scenes(count: int = 3) -> list[np.ndarray]:
    """Return noise of several sizes."""
    rng = np.random.default_rng(9)
    return [rng.integers(0, 256, (90 + 40 * n, 200 - 30 * n, 3), dtype=np.uint8) for n in range(count)]


def test_batch_is_a_function_of_seed_and_step() -> None:
    """The same step gives the same bytes in any order, another step or seed others."""
    drawing = Drawing([person(), person(seed=1)], scenes(), seed=4, crops=3, side=48)
    third, again = drawing.batch(3), drawing.batch(3)
    for field in dataclasses.fields(third):
        assert np.array_equal(getattr(third, field.name), getattr(again, field.name))
    assert not np.array_equal(third.foreground, drawing.batch(2).foreground)
    assert not np.array_equal(third.foreground, dataclasses.replace(drawing, seed=5).batch(3).foreground)


def test_layers_of_a_batch_belong_together() -> None:
    """All layers have one size and uint8, and the subject's colours are the picture's where the matte is full."""
    batch = Drawing([person()], scenes(), seed=0, crops=6, side=64).batch(0)
    assert batch.foreground.shape == batch.background.shape == batch.subject.shape == (6, 64, 64, 3)
    assert batch.mask.shape == batch.alpha.shape == (6, 64, 64)
    assert {getattr(batch, field.name).dtype for field in dataclasses.fields(batch)} == {np.dtype(np.uint8)}
    full = batch.alpha == 255
    assert np.median(np.abs(batch.foreground[full].astype(int) - batch.subject[full])) == 0


def test_every_crop_shows_some_edge() -> None:
    """No crop is wasted on the inside or the outside alone."""
    batch = Drawing([person()], scenes(), seed=1, crops=16, side=48).batch(0)
    shares = (batch.alpha > 127).mean(axis=(1, 2))
    assert shares.min() > 0
    assert shares.max() < 1


def test_hard_people_are_drawn_as_often_as_asked() -> None:
    """The share of hard people is what the drawing says."""
    easy, hard = person(), dataclasses.replace(person(), picture=np.zeros((150, 112, 3), np.uint8))
    drawing = Drawing([easy], scenes(), seed=0, hard=[hard], hard_share=0.25, crops=200, side=16)
    black = (drawing.batch(0).foreground.max(axis=(1, 2, 3)) == 0).mean()
    assert black == pytest.approx(0.25, abs=0.08)


def test_polygon_as_truth_teaches_copy_and_paste() -> None:
    """With `truth` polygon the alpha is the mask before it is spoilt, and the subject's colours are the picture's."""
    batch = Drawing([person()], scenes(), seed=0, crops=4, side=48, plain=1.0, truth="polygon").batch(0)
    assert np.array_equal(batch.alpha > 127, batch.mask > 127)
    assert np.array_equal(batch.subject, batch.foreground)


def test_spoilt_mask_keeps_the_subject_and_its_size() -> None:
    """An edge moves by at most 4 + 3 pixels and the waves; the argument stays."""
    mask = person(height=200, width=150).mask
    before = mask.copy()
    sizes = []
    for seed in range(30):
        spoilt = spoil(mask, np.random.default_rng(seed))
        assert spoilt.shape == mask.shape
        assert spoilt.dtype == np.uint8
        assert spoilt[100, 75] == 255
        assert not spoilt[:20].any()
        sizes.append((spoilt > 127).sum() / (mask > 127).sum())
    assert np.array_equal(mask, before)
    assert min(sizes) < 0.9
    assert max(sizes) > 1.1


def test_easiest_share_is_taken_by_difficulty() -> None:
    """A third of seven is three, the least difficult ones, in the order given; of one it is one."""
    people = [person(difficulty=value, seed=number) for number, value in enumerate([0.9, 0.1, 0.5, 0.3, 0.8, 0.7, 0.6])]
    assert [chosen.difficulty for chosen in easiest(people)] == [0.1, 0.5, 0.3]
    assert len(easiest(people[:1])) == 1
    assert easiest([]) == []


def test_composite_of_the_matte_by_hand() -> None:
    """Alpha 51 is a fifth: 100 over 200 gives 180; 0 and 255 give the pictures themselves."""
    subject, background = np.full((1, 3, 3), 100, np.uint8), np.full((1, 3, 3), 200, np.uint8)
    alpha = np.array([[0, 51, 255]], np.uint8)
    assert compose(subject, background, alpha)[0, :, 0].tolist() == [200, 180, 100]


@pytest.mark.parametrize("size", [(300, 40), (40, 300), (200, 200), (7, 9)])
def test_scene_covers_any_frame(size: tuple[int, int]) -> None:
    """A scene smaller or larger than the frame, of another aspect, fills it."""
    wide, high = size
    covered = cover(scenes()[0], width=wide, height=high, rng=np.random.default_rng(0))
    assert covered.shape == (high, wide, 3)


def test_cases_repeat_themselves_and_hold_what_is_wanted() -> None:
    """Cases are a function of the seed; the wanted picture is the composite with the matte; large ones are scaled down."""
    people = [person(), person(seed=1, height=700, width=500)]
    first, again = (cases(people, scenes(), count=3, seed=2) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.wanted, other.wanted)
        assert max(one.mask.shape) <= 384
        nothing = one.alpha == 0
        assert np.array_equal(one.wanted[nothing], one.background[nothing])
    assert cases([], scenes(), count=3, seed=2) == []
    lone = case_of(people[0], scenes()[0], np.random.default_rng(0))
    assert np.array_equal(lone.wanted, compose(people[0].subject, lone.background, people[0].alpha))


def test_people_are_of_one_split_and_whole(tiny_source: Source) -> None:
    """Only photographs of the split are opened; every person keeps away from the frame and has a matte."""
    found = list(cutouts(tiny_source, split="train"))
    assert found
    assert {split_of(one.image_id) for one in found} == {"train"}
    for one in found:
        assert one.picture.shape == one.subject.shape == (*one.mask.shape, 3)
        assert 0 <= one.confidence <= 1
        assert (one.alpha > 127)[one.mask > 127].mean() > 0.5
    assert len(list(backgrounds(tiny_source, None, split="train", most=99))) == 24 - sum(
        split_of(number) != "train" for number in range(1, 25)
    )
