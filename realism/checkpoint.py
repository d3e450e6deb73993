"""Keep a trained network: weights as plain tensors, and beside them JSON that a person can read.

`NAME.pt` holds tensors only and is loaded with `weights_only=True`, so no code hides in it; `NAME.json` says what it
is, what it learnt from, how it was measured, and the weights' sha256. `write_weights` and `read_weights` do this for
any network, `save_checkpoint` and `load_checkpoint` for a discriminator with all that is needed to use it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from realism.networks import ARCHITECTURES, Network, make_network, shape_from
from realism.tensors import check_finite, load_tensors, open_plain
from realism.train import replace_atomically

CHECKPOINT_VERSION: Final = 1
MAX_BYTES: Final = 64_000_000
"""A weights file that is larger is not opened, unless the caller expects more; nor is a larger JSON."""

_Built = TypeVar("_Built", bound=nn.Module)


@dataclass(frozen=True)
class Calibration:
    """Turn a logit into a probability: sigmoid(logit / temperature + offset) (Platt 1999; Guo et al. 2017)."""

    temperature: float = 1.0
    offset: float = 0.0

    def apply(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Return P(natural), float64, 0..1."""
        values = np.asarray(logits, np.float64) / self.temperature + self.offset
        return np.asarray(1 / (1 + np.exp(-np.clip(values, -50, 50))), np.float64)


@dataclass(frozen=True)
class Checkpoint:
    """A network with all that is needed to use and to judge it."""

    model: Network
    calibration: Calibration = field(default_factory=Calibration)
    threshold: float = 0.0
    """A sample is kept where score >= threshold."""
    image_ids: frozenset[int] = frozenset()
    """Photographs that it learnt from."""
    data_digest: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the training."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    """sha256 of the weights file, set by loading."""

    @property
    def audit_passed(self) -> bool:
        """Say whether an audit was made and passed."""
        return self.audit.get("passed") is True


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write `path` with the suffixes `.pt` and `.json`, each atomically, the JSON last."""
    shape = checkpoint.model.shape
    about = {
        "architecture": shape.architecture,
        "architecture_version": ARCHITECTURES[shape.architecture].version,
        "shape": asdict(shape),
        "parameters": sum(tensor.numel() for tensor in checkpoint.model.parameters()),
        "calibration": asdict(checkpoint.calibration),
        "threshold": checkpoint.threshold,
        "metrics": dict(checkpoint.metrics),
        "audit": dict(checkpoint.audit),
        "settings": dict(checkpoint.settings),
        "data_digest": checkpoint.data_digest,
        "image_ids": sorted(checkpoint.image_ids),
    }
    write_weights(path, about, checkpoint.model.state_dict())


def load_checkpoint(path: Path) -> Checkpoint:
    """Load what `save_checkpoint` wrote.

    Args:
        path: Either of the two files, or their common name without suffix.

    Raises:
        ValueError: One line: missing, truncated, damaged, of another architecture or version, or with code in it.
    """
    name = read_about(path).get("architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise _foreign(path, "architecture", name, " or ".join(map(repr, ARCHITECTURES)))
    known = ARCHITECTURES[name]
    about, tensors, digest = read_weights(path, architecture=name, version=known.version, max_bytes=known.max_bytes)
    with damage_told(path):
        shape = shape_from(name, about["shape"])
        return Checkpoint(
            model=fill(lambda: make_network(name, shape), tensors),
            calibration=_calibration(about["calibration"]),
            threshold=_number(about["threshold"], "threshold"),
            image_ids=frozenset(_ids(about["image_ids"])),
            data_digest=_typed(about["data_digest"], str, "data_digest"),
            settings=_typed(about["settings"], dict, "settings"),
            metrics=_typed(about["metrics"], dict, "metrics"),
            audit=_typed(about["audit"], dict, "audit"),
            digest=digest,
        )


def mark_audited(path: Path, audit: Mapping[str, Any]) -> None:
    """Put another audit's table into a checkpoint's JSON; the weights and all else stay as they are.

    Raises:
        ValueError: The JSON cannot be read.
    """
    _write_about(path, {**read_about(path), "audit": dict(audit)})


def write_weights(path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Write the tensors to `path` with the suffix `.pt` and what they are to `.json`, each atomically, the JSON last.

    Args:
        path: Either of the two files, or their common name without suffix.
        about: JSON values, among them `architecture` and `architecture_version`; `version` (of this layout) and
            `weights_sha256` are put before them.
        tensors: As a network's `state_dict` returns them.

    Returns:
        sha256 of the weights file.

    Raises:
        ValueError: `about` lacks one of the two, or holds a number that is not finite.
    """
    if not {"architecture", "architecture_version"} <= set(about):
        raise ValueError(f"about must hold architecture and architecture_version, got {', '.join(sorted(about))}")
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, buffer)
    weights = buffer.getvalue()
    digest = hashlib.sha256(weights).hexdigest()
    whole = {"version": CHECKPOINT_VERSION, "weights_sha256": digest, **about}
    json.dumps(whole, allow_nan=False)  # before anything is written
    replace_atomically(_beside(path, ".pt"), lambda beside: beside.write_bytes(weights))
    _write_about(path, whole)
    return digest


def read_weights(
    path: Path, *, architecture: str, version: int, max_bytes: int = MAX_BYTES
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Read what `write_weights` wrote, trusting nothing.

    Args:
        path: Either of the two files, or their common name without suffix.
        architecture: That the file must be of.
        version: Of the architecture, that the file must be of.
        max_bytes: A larger weights file is not opened.

    Returns:
        (about, tensors on the CPU, sha256 of the weights file). The tensors are finite and their names are strings;
        whether they fit a network says `fill`.

    Raises:
        ValueError: One line: missing, truncated, damaged, of another architecture or version, or with code in it.
    """
    about = read_about(path)
    for key, wanted in (("architecture", architecture), ("architecture_version", version)):
        if about.get(key) != wanted:
            raise _foreign(path, key, about.get(key), repr(wanted))
    file = _beside(path, ".pt")
    weights = _read(file, max_bytes)
    tensors = load_tensors(io.BytesIO(weights), name=f"checkpoint {file}", max_bytes=max_bytes)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != about.get("weights_sha256"):
        raise ValueError(f"checkpoint {file} is not the file that its JSON speaks of; copy both again")
    check_finite(tensors, name=f"checkpoint {path}")
    return about, tensors, digest


def read_about(path: Path) -> dict[str, Any]:
    """Read a checkpoint's JSON.

    Raises:
        ValueError: One line: missing, no JSON object, a number that is not finite, or of another version.
    """
    file = _beside(path, ".json")
    data = _read(file, MAX_BYTES)
    try:
        about = json.loads(data, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        raise ValueError(f"checkpoint {file} is no JSON; copy it again") from None
    if not isinstance(about, dict):
        raise ValueError(f"checkpoint {file} holds no object; copy it again")  # noqa: TRY004 - the file is wrong
    if about.get("version") != CHECKPOINT_VERSION:
        raise _foreign(path, "version", about.get("version"), repr(CHECKPOINT_VERSION))
    return about


def fill(build: Callable[[], _Built], tensors: Mapping[str, Tensor]) -> _Built:
    """Build a network, give it weights and set it to evaluation.

    The sizes are compared before anything is built: a JSON that asks for a huge network costs no memory.

    Raises:
        ValueError: The weights do not fit.
    """
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in build().state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != wanted:
        different = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
        raise ValueError(f"the weights do not fit the network at {reprlib.repr(different[0])}")
    network = build()
    network.load_state_dict(tensors)
    return network.eval()


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turn what wrong values in a checkpoint's JSON lead to into one line.

    Raises:
        ValueError: In place of any of them.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        line = f"{line} is missing" if isinstance(error, KeyError) else line
        raise ValueError(f"checkpoint {path} is damaged: {line[:120]}") from None


def _calibration(values: Any) -> Calibration:
    numbers = {key: _number(value, f"calibration.{key}") for key, value in values.items()}
    calibration = Calibration(**numbers)
    if calibration.temperature <= 0:
        raise ValueError(f"calibration.temperature must be over 0, it is {calibration.temperature:g}")
    return calibration


def _ids(values: Any) -> list[int]:
    return [_typed(value, int, "image_ids") for value in _typed(values, list, "image_ids")]


def _number(value: Any, name: str) -> float:
    if type(value) not in {int, float}:
        raise TypeError(f"{name} must be a number, it is {reprlib.repr(value)}")
    return float(value)


_Kind = TypeVar("_Kind")


def _typed(value: Any, kind: type[_Kind], name: str) -> _Kind:
    if type(value) is not kind:
        raise TypeError(f"{name} must be {kind.__name__}, it is {reprlib.repr(value)}")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _foreign(path: Path, key: str, found: Any, wanted: str) -> ValueError:
    file = _beside(path, ".json")
    return ValueError(f"checkpoint {file} has {key} {reprlib.repr(found)}, this program reads {wanted}; train it again")


def _beside(path: Path, suffix: str) -> Path:
    """Return one of a checkpoint's two files; only their own suffixes are taken off: a name may hold dots."""
    return path.with_suffix(suffix) if path.suffix in {".pt", ".json"} else path.with_name(path.name + suffix)


def _read(path: Path, most: int) -> bytes:
    with open_plain(path, name=f"checkpoint {path}", max_bytes=most) as file:
        return file.read()


def _write_about(path: Path, about: Mapping[str, Any]) -> None:
    text = json.dumps(about, indent=1, allow_nan=False) + "\n"
    replace_atomically(_beside(path, ".json"), lambda beside: beside.write_text(text, encoding="utf-8"))
