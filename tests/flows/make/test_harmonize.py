"""Harmonizers by name: baselines, networks from checkpoints, files, and what cannot be done."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flows.errors import BadRequest
from flows.make.harmonize import BASELINES, harmonize_file, open_harmonizer
from realism.harmonizers import HarmonizerCheckpoint, build_harmonizer, save_harmonizer
from tests.realism.harmonizing import SHAPES, SIDE, triplets

BATCH = triplets(seed=6, count=1, height=90, width=140)
COMPOSITE, MASK = BATCH.composite[0], BATCH.mask[0]


def kept(name: str, folder: Path) -> Path:
    """Write a checkpoint of an untrained network."""
    torch.manual_seed(0)
    model = build_harmonizer(name, SHAPES[name]).eval()
    save_harmonizer(HarmonizerCheckpoint(name, model, SIDE), folder / name)
    return folder / f"{name}.pt"


@pytest.mark.parametrize("name", list(BASELINES))
def test_baselines_leave_the_background(name: str) -> None:
    """Pixels with mask 0 stay, so does a picture that is all subject or has none, and no argument changes."""
    before = COMPOSITE.copy()
    result = BASELINES[name](COMPOSITE, MASK)
    assert np.array_equal(result[MASK == 0], COMPOSITE[MASK == 0])
    for full in (0, 255):
        assert np.array_equal(BASELINES[name](COMPOSITE, np.full_like(MASK, full)), COMPOSITE)
    assert np.array_equal(COMPOSITE, before)


@pytest.mark.parametrize("name", ["reinhard", "histogram"])
def test_a_transfer_gives_the_subject_the_means_of_its_scene(name: str) -> None:
    """The mean of the subject comes much nearer to that of the rest in every channel; `none` moves nothing."""
    dark = COMPOSITE.copy()
    dark[MASK > 0] = dark[MASK > 0] // 2

    def apart(picture: np.ndarray) -> float:  # type: ignore[type-arg]
        return float(np.abs(picture[MASK > 127].mean(axis=0) - picture[MASK == 0].mean(axis=0)).max())

    assert apart(BASELINES[name](dark, MASK)) < apart(dark) / 4
    assert np.array_equal(BASELINES["none"](dark, MASK), dark)


def test_gp_gan_keeps_the_detail_of_the_photograph(tmp_path: Path) -> None:
    """The blender's answer has the colours of its network and the gradients of the picture, and no background moves."""
    result = open_harmonizer("gp_gan", kept("gp_gan", tmp_path))(COMPOSITE, MASK)
    assert np.array_equal(result[MASK == 0], COMPOSITE[MASK == 0])
    deep = cv2.erode(MASK, kernel=np.ones((9, 9), np.uint8)) == 255
    detail = [
        picture - cv2.GaussianBlur(picture, ksize=(5, 5), sigmaX=1) for picture in (result * 1.0, COMPOSITE * 1.0)
    ]
    moving = (result > 5).all(axis=-1) & (result < 250).all(axis=-1) & deep  # not where it was clipped
    assert np.corrcoef(detail[0][moving].ravel(), detail[1][moving].ravel())[0, 1] > 0.9
    assert np.array_equal(open_harmonizer("gp_gan", tmp_path / "gp_gan")(COMPOSITE, 0 * MASK), COMPOSITE)


@pytest.mark.parametrize(
    ("name", "given", "line"),
    [
        ("unet", None, "there is no harmonizer 'unet'; there are none, reinhard, histogram, masked_unet"),
        ("reinhard", "masked_unet", "reinhard learns nothing and takes no checkpoint"),
        ("masked_unet", None, "needs --checkpoint; `hcoco train masked_unet RUN` makes one"),
        ("dovenet", "masked_unet", "has architecture 'harmonizer_masked_unet'"),
        ("masked_unet", "missing", "cannot be read"),
    ],
)
def test_what_cannot_be_opened_is_one_line(name: str, given: str | None, line: str, tmp_path: Path) -> None:
    """An unknown name, a checkpoint too many, none, one of another network or none there."""
    kept("masked_unet", tmp_path)
    with pytest.raises(BadRequest, match=line) as error:
        open_harmonizer(name, given and tmp_path / given)
    assert "\n" not in str(error.value)


def test_files_are_harmonized_and_png_keeps_the_background(tmp_path: Path) -> None:
    """A PNG comes out with the very background of the composite; a size that differs or another suffix is refused."""
    cv2.imwrite(str(tmp_path / "a.png"), COMPOSITE[..., ::-1])
    cv2.imwrite(str(tmp_path / "mask.png"), MASK)
    cv2.imwrite(str(tmp_path / "small.png"), MASK[:20])
    image, mask, output = (tmp_path / name for name in ("a.png", "mask.png", "out.png"))
    harmonize_file(image, mask, output, harmonizer=BASELINES["reinhard"])
    found = cv2.imread(str(output))[..., ::-1]
    assert np.array_equal(found, BASELINES["reinhard"](COMPOSITE, MASK))
    harmonize_file(image, mask, tmp_path / "out.jpg", harmonizer=BASELINES["none"])
    assert cv2.imread(str(tmp_path / "out.jpg")).shape == COMPOSITE.shape
    with pytest.raises(BadRequest, match=r"must end with \.png or"):
        harmonize_file(image, mask, tmp_path / "out.gif", harmonizer=BASELINES["none"])
    with pytest.raises(BadRequest, match="scale the mask to the picture's size"):
        harmonize_file(image, tmp_path / "small.png", output, harmonizer=BASELINES["none"])
