"""Training both stages on small pictures, and measuring them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flows.coco.sources import open_source
from flows.errors import BadRequest
from flows.make.fusion import (
    Gathered,
    blend_by,
    closed_blends,
    evaluate_blends,
    gather,
    hard_cases,
    perceptual_features,
    train_fusion,
)
from flows.make.fusion_data import Drawing, cases, harden
from realism.fusion import FusionNet, FusionShape, reach_of
from realism.fusion_checkpoint import load_fusion
from realism.train_fusion import FusionSettings
from tests.flows.make.test_fusion_data import person, scenes

SHAPE = FusionShape(widths=(4, 6, 8, 8), detail=4)
SMALL = FusionSettings(steps=2, save_every=1, warmup=1, perceptual=0, shape=SHAPE)


@pytest.fixture
def small_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw two small crops a batch."""
    monkeypatch.setattr("flows.make.fusion.Drawing", lambda *people, **more: Drawing(*people, **more, crops=2, side=32))


def gathered(*, seed: int = 0) -> Gathered:
    """Return two people and three scenes."""
    return Gathered([person(seed=seed), person(seed=seed + 1)], scenes(), 6)


@pytest.mark.usefixtures("small_drawing")
def test_second_stage_names_the_first(tmp_path: Path) -> None:
    """A checkpoint says what it learnt from and from which network it comes; asked again, nothing is trained."""
    one = train_fusion(gathered(), SMALL, output=tmp_path / "m1.pt", features=None, held_out=gathered(seed=5))
    first = load_fusion(tmp_path / "m1.pt")
    two = train_fusion(
        gathered(), SMALL, output=tmp_path / "m2.pt", features=None, first=first, held_out=gathered(seed=5)
    )
    second = load_fusion(tmp_path / "m2.pt")
    assert (first.stage, first.parent, first.digest) == (1, "", one.digest)
    assert (second.stage, second.parent, second.digest) == (2, one.digest, two.digest)
    assert second.image_ids == {0, 1}
    assert {"easy_boundary_psnr", "hard_psnr"} <= set(two.history[-1])
    again = train_fusion(gathered(), SMALL, output=tmp_path / "m1.pt", features=None)
    assert again.digest == one.digest
    json.loads((tmp_path / "m2.json").read_text())


def test_hard_person_differs_in_its_picture_only() -> None:
    """The person stands in another scene, the mask, the matte and the colours stay; the scene is true around it."""
    torch.manual_seed(1)
    easy = gathered().people
    first, again = (list(harden(FusionNet(SHAPE), easy, scenes(), each=2, seed=3)) for _ in range(2))
    assert len(first) == 4
    assert [one.picture.tobytes() for one in first] == [one.picture.tobytes() for one in again]
    for hard, before in zip(first[:2], easy, strict=True):
        assert np.array_equal(hard.alpha, before.alpha)
        assert np.array_equal(hard.mask, before.mask)
        deep = np.s_[65:85, 50:62]
        assert np.array_equal(hard.picture[deep], before.picture[deep])
        assert reach_of(before.mask) < 28
        assert not np.array_equal(hard.picture[:5], before.picture[:5])


def test_methods_are_measured_on_the_same_cases() -> None:
    """Every closed-form blend and a network, a row each; the wanted composite itself has no error."""
    chosen = cases(gathered().people, scenes(), count=2, seed=0)
    methods = {**closed_blends(), "network": blend_by(FusionNet(SHAPE)), "wanted": lambda case: case.wanted}
    rows = {row["method"]: row for row in evaluate_blends(chosen, methods)}
    assert set(rows) == {"copy_paste", "feather", "laplacian", "poisson", "gaussian_poisson", "network", "wanted"}
    assert rows["wanted"] == {
        "method": "wanted", "psnr": 100.0, "ssim": 1.0, "boundary_psnr": 100.0, "boundary_error": 0.0
    }  # fmt: skip
    assert all(float(row["boundary_psnr"]) < 60 for name, row in rows.items() if name != "wanted")


def test_hard_cases_are_as_many_as_asked() -> None:
    """Cases of people laid into a scene by a network, over another."""
    assert len(hard_cases(FusionNet(SHAPE), gathered(), count=3, seed=0)) == 3


def test_source_without_whole_people_is_refused(
    tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No easy person, or too few scenes: one line that says so."""
    source = open_source(str(tiny_coco), cache=tmp_path)
    monkeypatch.setattr("flows.make.fusion_data.LEAST_PIXELS", 10**6)
    with pytest.raises(BadRequest, match="no photograph of the val split has a whole person"):
        gather(source, None, split="val")
    monkeypatch.setattr("flows.make.fusion.SCENES", 2)
    monkeypatch.setattr("flows.make.fusion_data.LEAST_PIXELS", 100)
    with pytest.raises(BadRequest, match="2 scenes"):
        gather(source, None, split="val")


def test_features_come_from_the_given_file_or_from_the_package(tmp_path: Path) -> None:
    """Without a file the shipped realism network is looked through; a file that is none is refused in one line."""
    pictures, mask = torch.rand(1, 3, 32, 48), torch.ones(1, 1, 32, 48)
    assert [tuple(values.shape[2:]) for values in perceptual_features()(pictures, mask)] == [(16, 24), (8, 12)]
    with pytest.raises(BadRequest, match="cannot be read"):
        perceptual_features(vgg=tmp_path / "none.pth")
    with pytest.raises(BadRequest, match="cannot be read"):
        perceptual_features(realism=tmp_path / "none.pt")
