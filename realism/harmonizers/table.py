"""Every harmonizer by its name, and how each is built and taught."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn

from realism.harmonizers.batch import Tensors
from realism.harmonizers.masked_unet import MaskedUnet, MaskedUnetShape, masked_loss


@dataclass(frozen=True)
class Preset:
    """Numbers of a training that belong to a network."""

    shape: Any
    """What the network is built from."""
    side: int
    """Pixels that pictures are scaled to, either way."""
    batch: int
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Harmonizer:
    """What is known of a network."""

    source: str
    """Author, title, year."""
    shape: type
    """A frozen dataclass of numbers and tuples of numbers."""
    build: Callable[[Any], nn.Module]
    """Shape to network: (composite (B, 3, S, S), mask (B, 1, S, S)), 0..1, to picture (B, 3, S, S)."""
    loss: Callable[[Tensor, Tensors], Tensor]
    """Of an answer, a scalar."""
    presets: Mapping[str, Preset]
    """`tiny` and `paper`."""
    version: int = 1
    """Raised whenever the same weights would give another picture."""


HARMONIZERS: Final[Mapping[str, Harmonizer]] = {
    "masked_unet": Harmonizer(
        source="after Tsai et al.: Deep Image Harmonization, 2017, much smaller",
        shape=MaskedUnetShape,
        build=MaskedUnet,
        loss=masked_loss,
        presets={
            "tiny": Preset(MaskedUnetShape((16, 32, 48, 64)), side=96, batch=8, steps=300, learning_rate=3e-3),
            "paper": Preset(MaskedUnetShape(), side=256, batch=16, steps=40_000, learning_rate=1e-3),
        },
    ),
}


def build_harmonizer(name: str, shape: Any = None) -> nn.Module:
    """Build a network with drawn weights; of the preset `paper`'s shape where None.

    Raises:
        ValueError: No such network, or a shape that it cannot have.
        TypeError: A shape of another network.
    """
    known = known_harmonizer(name)
    chosen = known.presets["paper"].shape if shape is None else shape
    if not isinstance(chosen, known.shape):
        raise TypeError(f"shape must be a {known.shape.__name__} for {name}, got {chosen!r}")
    return known.build(chosen)


def known_harmonizer(name: str) -> Harmonizer:
    """Look a network up.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in HARMONIZERS:
        raise ValueError(f"name must be one of {', '.join(HARMONIZERS)}, got {name!r}")
    return HARMONIZERS[name]
