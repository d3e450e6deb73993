"""Checkpoints: a round trip, and the refusal of everything else."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from realism import Calibration, Checkpoint, Discriminator, Shape, load_checkpoint, save_checkpoint, score_crops


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return a saved checkpoint of a small network."""
    torch.manual_seed(0)
    model = Discriminator(Shape(side=32, width=8, hidden=32)).eval()
    checkpoint = Checkpoint(
        model,
        Calibration(temperature=1.5, offset=-0.2),
        threshold=0.1234,
        image_ids=frozenset({9, 25}),
        data_digest="abc",
        settings={"steps": 3},
        metrics={"band_auroc": 0.7},
        audit={"passed": True},
    )
    save_checkpoint(checkpoint, tmp_path / "net")
    return tmp_path / "net"


def change(path: Path, **values: object) -> None:
    """Change entries of a checkpoint's JSON."""
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**about, **values}))


def test_round_trip(saved: Path) -> None:
    """A loaded checkpoint says what the saved one said, and scores alike."""
    loaded = load_checkpoint(saved.with_suffix(".pt"))
    again = load_checkpoint(saved)
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 4), dtype=np.uint8)
    assert np.array_equal(score_crops(loaded, crops), score_crops(again, crops))
    assert (loaded.threshold, loaded.image_ids, loaded.data_digest) == (0.1234, frozenset({9, 25}), "abc")
    assert loaded.calibration == Calibration(1.5, -0.2)
    assert loaded.audit_passed
    assert loaded.metrics == {"band_auroc": 0.7}


def test_same_checkpoint_same_bytes(saved: Path, tmp_path: Path) -> None:
    """Saving what was loaded gives the same two files."""
    save_checkpoint(load_checkpoint(saved), tmp_path / "again")
    for suffix in (".pt", ".json"):
        assert saved.with_suffix(suffix).read_bytes() == (tmp_path / "again").with_suffix(suffix).read_bytes()


@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_missing_file_is_refused(saved: Path, suffix: str) -> None:
    """Both files are needed."""
    saved.with_suffix(suffix).unlink()
    with pytest.raises(ValueError, match=r"^checkpoint .*cannot be read: No such file or directory$"):
        load_checkpoint(saved)


@pytest.mark.parametrize("keep", [0, 10, 1000, -20])
def test_truncated_weights_are_refused(saved: Path, keep: int) -> None:
    """A weights file that was cut short is refused, wherever it was cut."""
    path = saved.with_suffix(".pt")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"^checkpoint [^\n]*$"):
        load_checkpoint(saved)


def test_truncated_json_is_refused(saved: Path) -> None:
    """So is JSON."""
    path = saved.with_suffix(".json")
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match="is no JSON"):
        load_checkpoint(saved)


@pytest.mark.parametrize("values", [{"version": 99}, {"architecture": "vgg"}, {"architecture_version": 0}])
def test_other_version_or_architecture_is_refused(saved: Path, values: dict[str, object]) -> None:
    """What another program or version wrote is refused, naming what it has and what is read."""
    change(saved, **values)
    with pytest.raises(ValueError, match=f"has {next(iter(values))} .*this program reads"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "values",
    [{"shape": {}}, {"shape": {"branches": ["colours"]}}, {"threshold": None}, {"calibration": {"temperature": 0}}, {"image_ids": ["x"]}],
)  # fmt: skip
def test_json_that_does_not_fit_is_refused(saved: Path, values: dict[str, object]) -> None:
    """A JSON that is changed so that it no longer fits the weights, or makes no sense, is refused in one line."""
    change(saved, **values)
    with pytest.raises(ValueError, match=r"^checkpoint [^\n]* is damaged: [^\n]*$"):
        load_checkpoint(saved)


def test_other_weights_are_refused(saved: Path) -> None:
    """Weights that the JSON does not speak of are refused, though they fit."""
    torch.manual_seed(1)
    torch.save(Discriminator(Shape(side=32, width=8, hidden=32)).state_dict(), saved.with_suffix(".pt"))
    with pytest.raises(ValueError, match="not the file that its JSON speaks of"):
        load_checkpoint(saved)


class Hostile:
    """Runs code when unpickled."""

    def __init__(self, place: Path) -> None:
        """Remember the file that the code makes."""
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        """Ask the unpickler to write a file."""
        return Path.touch, (self.place,)


@pytest.mark.parametrize("write", [torch.save, lambda v, p: p.write_bytes(pickle.dumps(v))])
def test_code_in_a_checkpoint_does_not_run(write, saved: Path, tmp_path: Path) -> None:  # noqa: ANN001 - a function
    """A pickle with code in it is refused, and its code not run, even where the JSON vouches for it."""
    path = saved.with_suffix(".pt")
    write({"weights": Hostile(tmp_path / "ran")}, path)
    change(saved, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=r"something other than tensors|truncated or damaged"):
        load_checkpoint(saved)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_not_finite_are_refused(saved: Path) -> None:
    """NaN weights would give NaN scores; they are refused."""
    path = saved.with_suffix(".pt")
    tensors = torch.load(path, weights_only=True)
    tensors["natural.bias"] = tensors["natural.bias"] * float("nan")
    torch.save(tensors, path)
    change(saved, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="not finite"):
        load_checkpoint(saved)
