"""Keep a trained discriminator: weights as plain tensors, and beside them JSON that a person can read.

`NAME.pt` holds tensors only and is loaded with `weights_only=True`, so no code hides in it; `NAME.json` says what it
is, what it learnt from, how it was measured, and the weights' sha256.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from realism.discriminator import ARCHITECTURE, ARCHITECTURE_VERSION, Discriminator, Shape
from realism.train import replace_atomically

CHECKPOINT_VERSION: Final = 1
MAX_BYTES: Final = 64_000_000
"""No checkpoint of this architecture comes near; a file that claims to be one and is larger is not opened."""
_ZIP: Final = b"PK"
"""How every file begins that `torch.save` wrote in this decade; bare pickles do not."""
"""Where the checkpoints that come with the package lie: `photographs` and `sample`."""


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

    model: Discriminator
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
    """sha256 of the weights file, set by loading and saving."""

    @property
    def audit_passed(self) -> bool:
        """Say whether an audit was made and passed."""
        return self.audit.get("passed") is True


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write `path` with the suffixes `.pt` and `.json`, each atomically, the JSON last."""
    buffer = io.BytesIO()
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in checkpoint.model.state_dict().items()}
    torch.save(tensors, buffer)
    weights = buffer.getvalue()
    about = {
        "version": CHECKPOINT_VERSION,
        "architecture": ARCHITECTURE,
        "architecture_version": ARCHITECTURE_VERSION,
        "shape": asdict(checkpoint.model.shape),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "parameters": sum(tensor.numel() for tensor in checkpoint.model.parameters()),
        "calibration": asdict(checkpoint.calibration),
        "threshold": checkpoint.threshold,
        "metrics": dict(checkpoint.metrics),
        "audit": dict(checkpoint.audit),
        "settings": dict(checkpoint.settings),
        "data_digest": checkpoint.data_digest,
        "image_ids": sorted(checkpoint.image_ids),
    }
    text = json.dumps(about, indent=1, allow_nan=False)
    replace_atomically(path.with_suffix(".pt"), lambda beside: _write(beside, weights))
    replace_atomically(path.with_suffix(".json"), lambda beside: _write(beside, (text + "\n").encode()))


def load_checkpoint(path: Path) -> Checkpoint:
    """Load what `save_checkpoint` wrote.

    Args:
        path: Either of the two files, or their common name without suffix.

    Raises:
        ValueError: One line: missing, truncated, damaged, of another architecture or version, or with code in it.
    """
    about = _read_about(path.with_suffix(".json"))
    weights = _read(path.with_suffix(".pt"))
    digest = hashlib.sha256(weights).hexdigest()
    tensors = _tensors(weights, path.with_suffix(".pt"))
    if digest != about.get("weights_sha256"):
        raise ValueError(
            f"checkpoint {path.with_suffix('.pt')} is not the file that its JSON speaks of; copy both again"
        )
    try:
        shape = Shape(**{**about["shape"], "branches": tuple(about["shape"]["branches"])})
        model = Discriminator(shape)
        model.load_state_dict(tensors)
        checkpoint = Checkpoint(
            model=model.eval(),
            calibration=Calibration(**{key: float(value) for key, value in about["calibration"].items()}),
            threshold=float(about["threshold"]),
            image_ids=frozenset(int(value) for value in about["image_ids"]),
            data_digest=str(about["data_digest"]),
            settings=about["settings"],
            metrics=about["metrics"],
            audit=about["audit"],
            digest=digest,
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint {path} is damaged: {line[:120]}") from None
    numbers = (checkpoint.calibration.temperature, checkpoint.calibration.offset, checkpoint.threshold)
    if not all(map(math.isfinite, numbers)) or checkpoint.calibration.temperature <= 0:
        raise ValueError(f"checkpoint {path} is damaged: calibration and threshold are {numbers}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ValueError(f"checkpoint {path} is damaged: some weights are not finite")
    return checkpoint


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(_read(path))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError(f"checkpoint {path} is no JSON; copy it again") from None
    if not isinstance(about, dict):
        raise ValueError(f"checkpoint {path} holds no object; copy it again")  # noqa: TRY004 - the file is wrong
    for key, wanted in (
        ("version", CHECKPOINT_VERSION),
        ("architecture", ARCHITECTURE),
        ("architecture_version", ARCHITECTURE_VERSION),
    ):
        if about.get(key) != wanted:
            raise ValueError(
                f"checkpoint {path} has {key} {about.get(key)!r}, this program reads {wanted!r}; train it again"
            )
    return about


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"checkpoint {path} is larger than {MAX_BYTES} bytes; it is no checkpoint of this program")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error.strerror}") from None


def _tensors(weights: bytes, path: Path) -> dict[str, torch.Tensor]:
    if weights and not weights.startswith(_ZIP):
        raise ValueError(f"checkpoint {path} holds something other than tensors and is not opened")
    try:
        tensors = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"checkpoint {path} holds something other than tensors and is not opened") from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, AttributeError, IndexError, UnicodeDecodeError):
        raise ValueError(f"checkpoint {path} is truncated or damaged; copy it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ValueError(f"checkpoint {path} holds something other than named tensors and is not opened")
    return tensors


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
