"""Name the networks that judge realism: what a checkpoint may be of, and how each is built."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from realism.discriminator import ARCHITECTURE, ARCHITECTURE_VERSION, Discriminator, Shape
from realism.vgg import VGG_ARCHITECTURE, VGG_VERSION, VggDiscriminator, VggShape, start_from_imagenet

Network: TypeAlias = Discriminator | VggDiscriminator
NetworkShape: TypeAlias = Shape | VggShape
_Shape = TypeVar("_Shape")


@dataclass(frozen=True)
class Architecture:
    """What is known of an architecture."""

    shape: type[Shape | VggShape]
    network: type[Discriminator | VggDiscriminator]
    version: int
    """Of the architecture; raised whenever the same weights would give other scores."""
    max_bytes: int
    """No weights file of it comes near."""
    batch: int
    """Crops that the network sees at once when it scores."""


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    ARCHITECTURE: Architecture(Shape, Discriminator, ARCHITECTURE_VERSION, max_bytes=64_000_000, batch=32),
    VGG_ARCHITECTURE: Architecture(VggShape, VggDiscriminator, VGG_VERSION, max_bytes=128_000_000, batch=4),
}
"""`regions` is the compact default; `vgg16` wants an accelerator and, to be worth it, ImageNet weights."""


def make_network(architecture: str, shape: NetworkShape | None = None, *, weights: Path | None = None) -> Network:
    """Build a network to train.

    Args:
        architecture: One of `ARCHITECTURES`.
        shape: Of that architecture; its default where None.
        weights: ImageNet weights to start `vgg16` from, in torchvision's format; random ones where None.

    Raises:
        ValueError: No such architecture, a shape that it cannot have, or weights that it cannot start from.
        TypeError: A shape of another architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    known = ARCHITECTURES[architecture]
    chosen = known.shape() if shape is None else shape
    if not isinstance(chosen, known.shape):
        raise TypeError(f"shape must be a {known.shape.__name__} for {architecture}, got {chosen!r}")
    network = known.network(chosen)  # type: ignore[arg-type] # the table pairs them
    if weights is not None:
        if not isinstance(network, VggDiscriminator):
            raise ValueError(f"weights must be None for {architecture}: only {VGG_ARCHITECTURE} starts from a file")
        start_from_imagenet(network, weights)
    return network


def shape_from(architecture: str, values: Mapping[str, Any]) -> NetworkShape:
    """Read a shape that stood in JSON.

    Raises:
        TypeError: A value of another type than the shape's.
        ValueError: A name too many or too few.
    """
    return read_shape(ARCHITECTURES[architecture].shape, values)


def read_shape(kind: type[_Shape], values: Mapping[str, Any]) -> _Shape:
    """Read a dataclass of plain values, each of which has a default, that stood in JSON.

    Raises:
        TypeError: A value of another type than the default's.
        ValueError: A name too many or too few.
    """
    plain = kind()
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, dict) or set(values) != names:
        raise ValueError(f"shape must hold {', '.join(sorted(names))}, it is {reprlib.repr(values)}")
    return kind(**{name: _like(getattr(plain, name), value, name) for name, value in values.items()})


def _like(example: Any, value: Any, name: str) -> Any:
    """Return a JSON value as the type of an example."""
    if isinstance(example, tuple) and type(value) is list:
        return tuple(value)
    if isinstance(example, float) and type(value) is int:
        return float(value)
    if type(value) is not type(example):
        raise TypeError(f"shape.{name} must be {type(example).__name__}, it is {reprlib.repr(value)}")
    return value
