"""Checkpoints: a round trip, and the refusal of everything else."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from realism import Calibration, Checkpoint, Discriminator, Shape, load_checkpoint, save_checkpoint, score_crops
from realism.checkpoint import fill, mark_audited, read_about, read_weights, write_weights
from realism.tensors import load_tensors


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
    [
        {"shape": {}}, {"shape": {"branches": ["colours"]}}, {"threshold": None}, {"calibration": {"temperature": 0}},
        {"image_ids": ["x"]}, {"image_ids": "12"}, {"threshold": 10**400}, {"calibration": []}, {"audit": 3}, {"settings": None},
        {"metrics": []}, {"data_digest": 5},
    ],
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


def test_a_part_that_has_no_weights_takes_no_memory(saved: Path) -> None:
    """A width that only an unused branch has fits any weights: it is bounded by itself."""
    network = Discriminator(Shape(side=32, width=8, hidden=32, branches=("colours",)))
    save_checkpoint(Checkpoint(network), saved)
    about = json.loads(saved.with_suffix(".json").read_text())
    change(saved, shape={**about["shape"], "width": 32_000_000})
    with pytest.raises(ValueError, match="width must be 1 to 512, got 32000000"):
        load_checkpoint(saved)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_of_millions_of_commands_is_not_read(legacy: bool) -> None:  # noqa: FBT001
    """A pickle is read at a megabyte a second: one that names no tensors would keep the reader for minutes."""
    commands = b"\x80\x02" + b"(" * 20_000_000
    out = io.BytesIO(commands if legacy else b"")
    if not legacy:
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a/data.pkl", commands)
            archive.writestr("a/version", b"3\n")
    out.seek(0)
    began = time.process_time()
    with pytest.raises(ValueError, match=r"something other than tensors"):
        load_tensors(out, name="checkpoint", max_bytes=64_000_000, legacy=legacy)
    assert time.process_time() - began < 5


def test_weights_that_are_not_finite_are_refused(saved: Path) -> None:
    """NaN weights would give NaN scores; they are refused."""
    path = saved.with_suffix(".pt")
    tensors = torch.load(path, weights_only=True)
    tensors["natural.bias"] = tensors["natural.bias"] * float("nan")
    torch.save(tensors, path)
    change(saved, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="not finite"):
        load_checkpoint(saved)


SHAPE = {"side": 32, "branches": ["quantiles", "colours", "convolution"], "width": 8, "hidden": 32, "dropout": 0.3}


@pytest.mark.parametrize(
    "shape",
    [
        {"hidden": 10**9},
        {"hidden": 10**19},
        {"width": 200_000},
        {"side": 10**6},
        {"side": 32.0},
        {"width": True},
        {"dropout": "0.3"},
        {"branches": "colours"},
        {"depth": 3},
    ],
)
def test_shape_that_does_not_fit_costs_nothing(shape: dict[str, object], saved: Path) -> None:
    """A JSON that asks for a network of terabytes, or of odd types, is refused before anything is built."""
    change(saved, shape={**SHAPE, **shape})
    with pytest.raises(ValueError, match=r"^checkpoint [^\n]* is damaged: [^\n]*$"):
        load_checkpoint(saved)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    *(
        "version",
        "architecture",
        "architecture_version",
        "weights_sha256",
        "parameters",
        "threshold",
        "metrics",
        "audit",
    ),
    *("settings", "data_digest", "image_ids", "shape", "calibration"),
    *(f"shape.{name}" for name in SHAPE),
    *("calibration.temperature", "calibration.offset", "calibration.more", "image_ids.0"),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(FIELDS), value=JSON)
def test_any_value_at_any_field_is_taken_or_refused_in_one_line(saved: Path, field: str, value: object) -> None:
    """Whatever stands at whatever place of the JSON, the checkpoint loads and saves, or is refused in one line."""
    path = saved.with_suffix(".json")
    before = path.read_text()
    about = json.loads(before)
    outer, _, inner = field.partition(".")
    if inner:
        about[outer][int(inner) if inner.isdigit() else inner] = value
    else:
        about[outer] = value
    path.write_text(json.dumps(about))
    try:
        message = refusal(saved)
    finally:
        path.write_text(before)
    assert not message or message.startswith("checkpoint ")
    assert "\n" not in message
    assert len(message) < 500


def refusal(path: Path) -> str:
    """Load a checkpoint and save it elsewhere; return why it is refused, or nothing."""
    try:
        save_checkpoint(load_checkpoint(path), path.with_name("again"))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5_000, '{"version": NaN}', '{"version": 1e999}', "\xff", "null"])
def test_json_that_is_none_is_refused(text: str, saved: Path) -> None:
    """Nesting without end, numbers that are none or too long, other encodings: one line each."""
    saved.with_suffix(".json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"^checkpoint [^\n]*(is no JSON|holds no object)[^\n]*$"):
        load_checkpoint(saved)


def vouch(path: Path) -> None:
    """Let the JSON speak of the weights file as it is now."""
    change(path, weights_sha256=hashlib.sha256(path.with_suffix(".pt").read_bytes()).hexdigest())


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1).expand(10**12),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(3, device="meta"),
        [torch.zeros(1)],
        1.5,
    ],
)
def test_odd_tensors_are_refused(value: object, saved: Path) -> None:
    """A view that claims terabytes, and tensors that are complex, sparse or nowhere, are refused though safe to load."""
    torch.save({"natural.bias": value}, saved.with_suffix(".pt"))
    vouch(saved)
    with pytest.raises(ValueError, match=r"^checkpoint [^\n]*something other than tensors[^\n]*$"):
        load_checkpoint(saved)


def test_packed_zeros_are_not_unpacked(saved: Path) -> None:
    """A zip of a few kilobytes that would unpack to gigabytes is not opened."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("archive/data.pkl", b"\0" * 80_000_000)
    saved.with_suffix(".pt").write_bytes(buffer.getvalue())
    vouch(saved)
    with pytest.raises(ValueError, match="something other than tensors"):
        load_checkpoint(saved)


def test_large_files_are_not_read(saved: Path) -> None:
    """A weights file that is larger than any of its architecture is refused by its size alone."""
    with saved.with_suffix(".pt").open("r+b") as file:
        file.truncate(10**11)  # a hole, on the disk it takes nothing
    with pytest.raises(ValueError, match="is larger than 64000000 bytes"):
        load_checkpoint(saved)


def test_names_may_hold_dots(saved: Path, tmp_path: Path) -> None:
    """A checkpoint called `net.2` does not end up in the files of `net`."""
    checkpoint = load_checkpoint(saved)
    save_checkpoint(checkpoint, tmp_path / "net.2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.2.json", "net.2.pt", "net.json", "net.pt"]
    assert load_checkpoint(tmp_path / "net.2").digest == checkpoint.digest


def test_marking_changes_the_audit_alone(saved: Path) -> None:
    """A new audit's table replaces the old one; the weights' bytes and all else of the JSON stay."""
    weights, about = saved.with_suffix(".pt").read_bytes(), read_about(saved)
    mark_audited(saved.with_suffix(".pt"), {"passed": False, "subjects": 3})
    assert not load_checkpoint(saved).audit_passed
    assert saved.with_suffix(".pt").read_bytes() == weights
    assert read_about(saved) == {**about, "audit": {"passed": False, "subjects": 3}}


# Any network's weights.


def written(path: Path) -> tuple[dict[str, Any], nn.Module]:
    """Write weights of a small layer that is no discriminator."""
    torch.manual_seed(1)
    layer = nn.Linear(3, 2)
    about = {"architecture": "linear", "architecture_version": 2, "more": [1, "two"]}
    write_weights(path, about, layer.state_dict())
    return about, layer


def test_any_networks_weights_round_trip(tmp_path: Path) -> None:
    """What was written of any network comes back: what it is, its tensors, and the digest that was told."""
    about, layer = written(tmp_path / "layer")
    found, tensors, digest = read_weights(tmp_path / "layer.pt", architecture="linear", version=2)
    assert {key: found[key] for key in about} == about
    assert digest == hashlib.sha256((tmp_path / "layer.pt").read_bytes()).hexdigest() == found["weights_sha256"]
    again = fill(lambda: nn.Linear(3, 2), tensors)
    assert torch.equal(again.weight, layer.weight)
    assert not again.training


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"architecture": "regions", "version": 2}, "has architecture 'linear', this program reads 'regions'"),
        ({"architecture": "linear", "version": 1}, "has architecture_version 2, this program reads 1"),
        ({"architecture": "linear", "version": 2, "max_bytes": 100}, "is larger than 100 bytes"),
    ],
)
def test_weights_of_another_kind_are_refused(wanted: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Weights of another architecture, version or size than the caller's are refused."""
    written(tmp_path / "layer")
    with pytest.raises(ValueError, match=rf"^checkpoint [^\n]*{message}"):
        read_weights(tmp_path / "layer", **wanted)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """The first tensor that a network lacks, or has in another size, is named."""
    written(tmp_path / "layer")
    _, tensors, _ = read_weights(tmp_path / "layer", architecture="linear", version=2)
    with pytest.raises(ValueError, match="do not fit the network at 'weight'"):
        fill(lambda: nn.Linear(4, 2), tensors)
    with pytest.raises(ValueError, match="do not fit the network at 'bias'"):
        fill(lambda: nn.Linear(3, 2, bias=False), tensors)


def test_nothing_is_written_of_what_cannot_be_kept(tmp_path: Path) -> None:
    """JSON that could not be read again, or says not what it is, is refused before the weights are written."""
    with pytest.raises(ValueError, match="JSON compliant"):
        write_weights(tmp_path / "a", {"architecture": "x", "architecture_version": 1, "loss": float("nan")}, {})
    with pytest.raises(ValueError, match="about must hold architecture and architecture_version, got loss"):
        write_weights(tmp_path / "a", {"loss": 1}, {})
    assert not list(tmp_path.iterdir())
