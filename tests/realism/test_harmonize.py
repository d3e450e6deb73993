"""Harmonizing a picture of any size: the background stays, the change comes back sharp; and keeping a network."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from realism.harmonizers import HARMONIZERS, HarmonizerCheckpoint, build_harmonizer, harmonize, load_harmonizer
from realism.harmonizers.batch import Pixels
from realism.harmonizers.checkpoint import save_harmonizer
from tests.realism.harmonizing import SHAPES, SIDE, triplets


class _Changing(nn.Module):
    """Multiply by a gain and add an offset, whatever the mask; sRGB 0..1."""

    def __init__(self, gain: float, offset: float) -> None:
        super().__init__()
        self.gain, self.offset = gain, offset

    def forward(self, composite: Tensor, mask: Tensor) -> Tensor:
        del mask
        return self.gain * composite + self.offset


@dataclass(frozen=True)
class _Working:
    model: nn.Module
    side: int = 64


def large(*, seed: int = 2) -> tuple[Pixels, Pixels, Pixels]:
    """Return a composite, its mask and its photograph, 170 x 250."""
    batch = triplets(seed=seed, count=1, height=170, width=250)
    return batch.composite[0], batch.mask[0], batch.real[0]


@pytest.mark.parametrize("name", list(HARMONIZERS))
def test_the_background_stays_and_so_do_the_arguments(name: str) -> None:
    """Of a picture that is not square, every pixel with mask 0 comes out as it was; twice is the same."""
    torch.manual_seed(0)
    harmonizer = _Working(build_harmonizer(name, SHAPES[name]), side=SIDE)
    composite, mask, _ = large()
    copies = composite.copy(), mask.copy()
    first, second = (harmonize(harmonizer, composite, mask) for _ in range(2))
    assert (first.dtype, first.shape) == (np.uint8, composite.shape)
    assert np.array_equal(first[mask == 0], composite[mask == 0])
    assert np.array_equal(first, second)
    assert np.array_equal(composite, copies[0])
    assert np.array_equal(mask, copies[1])


def test_an_empty_mask_changes_nothing() -> None:
    """The composite comes back, as a new array, and the network is not asked."""
    composite, mask, _ = large()
    result = harmonize(_Working(_Changing(float("nan"), 0)), composite, np.zeros_like(mask))
    assert np.array_equal(result, composite)
    assert result is not composite


@pytest.mark.parametrize("side", [64, 250])
def test_a_change_of_colours_comes_back_sharp(side: int) -> None:
    """A gain and an offset are found again at full size within a level, up to the edge and in every detail."""
    composite, mask, _ = large()
    wanted = np.clip(0.8 * composite + 0.1 * 255, 0, 255)
    result = harmonize(_Working(_Changing(0.8, 0.1), side=side), composite, mask)
    inside = mask == 255
    apart = np.abs(result.astype(float) - wanted)[inside]
    assert apart.mean() < 0.5
    assert np.quantile(apart, 0.99) < 2
    plain = cv2.resize(cv2.resize(composite, dsize=(side, side), interpolation=cv2.INTER_AREA), dsize=(250, 170))
    blurred = np.abs(np.clip(0.8 * plain + 25.5, 0, 255) - wanted)[inside]
    assert apart.mean() < blurred.mean() / 2 or side == 250


def test_at_the_networks_own_size_its_answer_is_taken() -> None:
    """A picture of that size gets the very pixels that the network answered, by the mask."""
    batch = triplets(count=1, height=64, width=64)
    composite, mask = batch.composite[0], batch.mask[0]
    result = harmonize(_Working(_Changing(0.5, 0.25)), composite, mask)
    share = mask[..., None] / 255
    wanted = np.rint(composite + share * (0.5 * composite + 0.25 * 255 - composite))
    assert np.abs(result - wanted).max() <= 1


def test_colours_of_the_scene_do_not_leak_into_the_subject() -> None:
    """What a network does outside the mask has next to no influence on the subject at full size."""
    composite, mask, _ = large()

    class Outside(nn.Module):
        def forward(self, picture: Tensor, level: Tensor) -> Tensor:
            return torch.where(level > 0, picture, 1 - picture)

    result = harmonize(_Working(Outside()), composite, mask)
    assert np.abs(result.astype(int) - composite)[mask == 255].mean() < 0.5


def test_wrong_arrays_and_an_answer_that_is_no_number_are_told() -> None:
    """The errors say which argument, and what came."""
    composite, mask, _ = large()
    working = _Working(_Changing(1, 0))
    with pytest.raises(TypeError, match="must be uint8, got float64 and uint8"):
        harmonize(working, composite / 255, mask)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of one size, got"):
        harmonize(working, composite, mask.T)
    with pytest.raises(ArithmeticError, match="no number"):
        harmonize(_Working(_Changing(float("nan"), 0)), composite, mask)


@pytest.mark.parametrize("name", list(HARMONIZERS))
def test_a_checkpoint_comes_back_whole(name: str, tmp_path: Path) -> None:
    """Name, size, what it learnt from and the answer are those that were saved."""
    torch.manual_seed(0)
    model = build_harmonizer(name, SHAPES[name]).eval()
    saved = HarmonizerCheckpoint(name, model, SIDE, "abc", {"steps": 3}, {"history": []})
    digest = save_harmonizer(saved, tmp_path / "kept")
    for path in (tmp_path / "kept", tmp_path / "kept.pt", tmp_path / "kept.json"):
        loaded = load_harmonizer(path, name=name)
        assert (loaded.name, loaded.side, loaded.digest, loaded.data_digest) == (name, SIDE, digest, "abc")
        assert loaded.settings == {"steps": 3}
    composite, mask, _ = large()
    assert np.array_equal(harmonize(loaded, composite, mask), harmonize(saved, composite, mask))


class _Code:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("run",))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ({"architecture": "harmonizer_dovenet"}, "has architecture 'harmonizer_dovenet'"),
        ({"architecture": "regions"}, "has architecture 'regions'"),
        ({"architecture_version": 99}, "has architecture_version 99"),
        ({"side": 10**9}, "side must be 16 to 4096"),
        ({"side": "x"}, "is damaged"),
        ({"shape": {"widths": [12, 24, 10**6]}}, "the weights do not fit the network"),
        ({"shape": {"widths": [12, 24, 32], "more": 1}}, "shape must hold widths"),
        ({"shape": {"widths": "wide"}}, "shape.widths must be tuple"),
        ({"shape": {"widths": []}}, "widths must be two or more"),
    ],
)
def test_a_hostile_checkpoint_is_refused_in_one_line(
    damage: dict[str, object], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another network, another version, a size or a shape that is none: nothing is built, nothing runs."""
    path = tmp_path / "kept"
    model = build_harmonizer("masked_unet", SHAPES["masked_unet"])
    save_harmonizer(HarmonizerCheckpoint("masked_unet", model, SIDE), path)
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**about, **damage}))
    with pytest.raises(ValueError, match=line) as error:
        load_harmonizer(path, name="masked_unet")
    assert "\n" not in str(error.value)
    path.with_suffix(".json").write_text(json.dumps(about))
    path.with_suffix(".pt").write_bytes(pickle.dumps({"weights": _Code()}))
    with pytest.raises(ValueError, match="something other than tensors"):
        load_harmonizer(path)
    assert not capsys.readouterr().out
