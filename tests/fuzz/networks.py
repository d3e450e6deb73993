"""Targets of what was learnt: checkpoints, their JSON, ImageNet's weights, the state of a training, held-out cases."""

from __future__ import annotations

import io
import json
import pickle
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flows.make.severity import Cases
from realism import load_checkpoint
from realism.fusion_checkpoint import load_fusion
from realism.harmonizers.checkpoint import PREFIX, HarmonizerCheckpoint, load_harmonizer, save_harmonizer
from realism.harmonizers.masked_unet import MaskedUnetShape
from realism.harmonizers.table import HARMONIZERS, build_harmonizer
from realism.tensors import load_tensors
from realism.train import _begin, _load_state, _save_state
from tests.flows.make.fusing import save_untrained as save_fusion
from tests.flows.make.gating import save_untrained
from tests.fuzz.mutate import mutate_bytes, mutate_json
from tests.fuzz.sources import scratch, told
from tests.fuzz.target import Refused, Target


@cache
def _checkpoints() -> tuple[Path, Path, Path]:
    folder = Path(tempfile.mkdtemp())
    torch.manual_seed(0)
    network = build_harmonizer("masked_unet", MaskedUnetShape((4, 8)))
    save_harmonizer(HarmonizerCheckpoint("masked_unet", network, side=64), folder / "harmonizer")
    return save_untrained(folder / "gate"), save_fusion(folder / "fusion"), folder / "harmonizer"


def _load(which: int, suffix: str, data: bytes) -> None:
    with scratch() as folder:
        for end in (".pt", ".json"):
            shutil.copyfile(_checkpoints()[which].with_suffix(end), folder / f"c{end}")
        (folder / f"c{suffix}").write_bytes(data)
        with told(ValueError):
            (load_checkpoint, load_fusion, load_harmonizer)[which](folder / "c")


def _about(which: int) -> Sequence[bytes]:
    text = _checkpoints()[which].with_suffix(".json").read_bytes()
    value = json.loads(text)
    huge = [{**value, "shape": {**value["shape"], name: 2**40}} for name in value["shape"]]
    known = [{**value, "architecture": f"{PREFIX}{name}"} for name in HARMONIZERS] if which == 2 else []
    return [
        text,
        *(json.dumps(each).encode() for each in (*huge, *known)),
        b"[" * 1_000_000,
        b'{"version":' + b"9" * 100_000 + b"}",
    ]


class _Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._what = (function, arguments)

    def __reduce__(self) -> Any:
        return self._what


def _archive(pickled: bytes, *, storage: bytes = b"", form: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", form) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/byteorder", b"little")
        archive.writestr("a/data/0", storage)
        archive.writestr("a/version", b"3\n")
    return out.getvalue()


@cache
def _weights() -> Sequence[bytes]:
    out = io.BytesIO()
    torch.save({"a": torch.arange(12.0).reshape(3, 4), "b": torch.zeros(2, dtype=torch.int64)}, out)
    legacy = io.BytesIO()
    torch.save({"a": torch.arange(12.0)}, legacy, _use_new_zipfile_serialization=False)
    view = io.BytesIO()
    torch.save({"a": torch.zeros(1).expand(100_000, 100_000)}, view)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as file:
        for _ in range(500):
            file.write(bytes(1_000_000))
    laughs = (
        b"\x80\x02]q\x00"
        + b"".join(
            b"]q" + bytes([n]) + b"(" + b"h" + bytes([n - 1]) + b"h" + bytes([n - 1]) + b"e" for n in range(1, 60)
        )
        + b"."
    )
    array = b"\x80\x02c__builtin__\nbytearray\nq\x00\x8a\x08" + struct.pack("<q", 2**40) + b"\x85R."
    return [
        _checkpoints()[0].read_bytes(),
        out.getvalue(),
        legacy.getvalue(),
        view.getvalue(),
        bomb.getvalue(),
        _archive(laughs),
        _archive(array),
        _archive(pickle.dumps(_Runs(__import__("os").system, "touch executed"))),
        _archive(pickle.dumps({"a": _Runs(eval, "1")})),
        _archive(b"\x80\x02" + b"(" * 490_000),
        _archive(b"\x80\x02" + b"(" * 3_000_000),
        b"\x80\x02" + b"(" * 30_000_000,
        _archive(b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b"."),
        _archive(b"\x80\x02" + b"\x8b\xff\xff\xff\x7f"),
    ]


def _run_weights(data: bytes) -> None:
    refused = 0
    try:
        load_tensors(io.BytesIO(data), name="checkpoint x", max_bytes=64_000_000, legacy=True)
    except ValueError as error:
        assert "\n" not in str(error)
        refused += 1
    try:
        _load(0, ".pt", data)
    except Refused:
        refused += 1
    assert not Path("executed").exists()
    if refused == 2:
        raise Refused


def _change_weights(data: bytes, rng: random.Random) -> bytes:
    """Change the pickle within the archive and pack it again, or bytes of the archive."""
    if rng.random() < 0.4 or data[:2] != b"PK":
        return mutate_bytes(data, rng, others=_weights()[:3])
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", rng.choice((0, 0, 8))) as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith("data.pkl"):
                content = mutate_bytes(content, rng)
            if rng.random() < 0.97:
                new.writestr(rng.choice((info.filename,) * 9 + ("../x", "/etc/x")), content)
    return out.getvalue()


@cache
def _network() -> Any:
    return load_checkpoint(_checkpoints()[0]).model


def _running() -> Any:
    import copy

    from realism import TrainSettings

    return _begin(lambda: copy.deepcopy(_network()), TrainSettings(steps=2), device="cpu", half_on_cpu=False)


def _states() -> Sequence[bytes]:
    with scratch() as folder:
        _save_state(folder / "state", {"seed": 0}, _running())
        return [(folder / "state").read_bytes(), *_weights()]


def _run_state(data: bytes) -> None:
    with scratch() as folder:
        (folder / "state").write_bytes(data)
        before = torch.get_rng_state()
        try:
            with told(ValueError):
                _load_state(folder / "state", {"seed": 0}, _running())
        finally:
            torch.set_rng_state(before)


def _cases() -> Sequence[bytes]:
    out = io.BytesIO()
    arrays = {name: np.zeros(3) for name in ("subject", "image_id", "what", "name", "strength", "mse", "passes")}
    np.savez(out, crops=np.zeros((3, 8, 8, 4), np.uint8), **arrays)
    packed, objects, bomb = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez_compressed(packed, crops=np.zeros((3, 8, 8, 4), np.uint8), **arrays)
    np.savez(objects, crops=np.array([_Runs(eval, "1")], dtype=object), **arrays)
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("crops.npy", header + text.ljust(117) + b"\n" + bytes(1_000_000))
        for name in arrays:
            archive.writestr(f"{name}.npy", header + text.ljust(117) + b"\n")
    return [out.getvalue(), packed.getvalue(), objects.getvalue(), bomb.getvalue()]


def _run_cases(data: bytes) -> None:
    with scratch() as folder:
        (folder / "cases.npz").write_bytes(data)
        with told(ValueError):
            Cases.load(folder / "cases.npz")


TARGETS = (
    Target("checkpoint-json", lambda: _about(0), mutate_json, lambda data: _load(0, ".json", data), share=2, mutable=1),
    Target("fusion-json", lambda: _about(1), mutate_json, lambda data: _load(1, ".json", data), mutable=1),
    Target("harmonizer-json", lambda: _about(2), mutate_json, lambda data: _load(2, ".json", data), mutable=1),
    Target("weights", _weights, _change_weights, _run_weights, share=3, mutable=3),
    Target("training-state", _states, _change_weights, _run_state, share=0.5, mutable=1),
    Target("cases", _cases, mutate_bytes, _run_cases, share=5, mutable=1),
)
