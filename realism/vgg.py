"""Look at pictures through VGG-16 (Simonyan, Zisserman 2015): as a realism network, and for perceptual losses.

RealismCNN (Zhu, Kraehenbuehl, Shechtman, Efros 2015) is VGG-16 with ImageNet weights, tuned to tell natural pictures
from composites. Here it reads the mask too, as a fourth channel, and its fully connected layers, nine tenths of its
weights, give way to means over subject and surroundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from realism.discriminator import CHANGES, MAX_SIDE, pool_regions
from realism.tensors import check_finite, load_tensors, open_plain

VGG_ARCHITECTURE: Final = "vgg16"
VGG_VERSION: Final = 1
"""Raised whenever the same weights would give other scores."""

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
MAX_IMAGENET_BYTES: Final = 600_000_000
"""VGG-16 with its fully connected layers has 553 MB."""
WIDTH: Final = 64
"""Channels of VGG-16's first layer."""
_STAGES: Final = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Of each stage: its channels in those of the first, and its convolutions; a maximum of 2 x 2 ends it."""


def _layer_names() -> dict[str, int]:
    """Return the rectified layers by name, with their places in torchvision's `features`."""
    places, place = {}, 0
    for stage, (_, count) in enumerate(_STAGES, 1):
        for number in range(1, count + 1):
            places[f"relu{stage}_{number}"] = place + 1
            place += 2
        place += 1
    return places


LAYERS: Final = _layer_names()
"""`relu1_1` to `relu5_3`, with their places."""


@dataclass(frozen=True)
class VggShape:
    """What a realism network on VGG-16 is built from; stands in the checkpoint."""

    architecture: ClassVar = VGG_ARCHITECTURE
    side: int = 224
    """Pixels of the square crop; a multiple of 16."""
    width: int = WIDTH
    """Channels of the first layer; ImageNet weights fit 64 only."""
    hidden: int = 256
    dropout: float = 0.5


class Features(nn.Module):
    """The convolutions of VGG-16; the names of its weights are torchvision's."""

    mean: Tensor
    std: Tensor

    def __init__(self, *, width: int = WIDTH, extra: int = 0) -> None:
        """Build them with He's random weights.

        Args:
            width: Channels of the first layer.
            extra: Channels beside red, green and blue, whose weights start at zero.
        """
        super().__init__()
        layers: list[nn.Module] = []
        channels = self.channels = 3 + extra
        for times, count in _STAGES:
            for _ in range(count):
                convolution = nn.Conv2d(channels, times * width, 3, padding=1)
                # the mean gradient keeps its size through thirteen layers without normalization (He et al. 2015)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
                layers += [convolution, nn.ReLU()]
                channels = times * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        with torch.no_grad():
            self.get_parameter("features.0.weight")[:, 3:] = 0
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, pictures: Tensor, *, layers: Sequence[str]) -> list[Tensor]:
        """Return what some layers answer.

        Args:
            pictures: Float (B, 3 + extra, H, W); sRGB 0..1, normalized here, and the extra channels as they are.
            layers: Names of `LAYERS`; (B, C, H / 2^n, W / 2^n) each, n the stage less 1.

        Raises:
            ValueError: An unknown layer, none at all, or pictures of another shape or too small for the layers.
        """
        if not layers or not set(layers) <= set(LAYERS):
            raise ValueError(f"layers must be some of {', '.join(LAYERS)}, got {', '.join(layers) or 'none'}")
        least = 2 ** (max(int(layer[4]) for layer in layers) - 1)
        if pictures.ndim != 4 or pictures.shape[1] != self.channels or min(pictures.shape[2:]) < least:
            wanted = f"(B, {self.channels}, H, W), sides {least} at least"
            raise ValueError(f"pictures must be {wanted}, got {tuple(pictures.shape)}")
        colours = (pictures[:, :3] - self.mean) / self.std
        values = torch.cat([colours, pictures[:, 3:]], 1)
        places = [LAYERS[layer] for layer in layers]
        found = {}
        for place, layer in enumerate(list(self.features)[: max(places) + 1]):
            values = layer(values)
            if place in places:
                found[place] = values
        return [found[place] for place in places]


class VggDiscriminator(nn.Module):
    """Map crops to a logit of being natural, and to a guess at what was done to the subject, as `Discriminator` does."""

    def __init__(self, shape: VggShape) -> None:
        """Build it with random weights.

        Raises:
            ValueError: A side that is no multiple of 16.
        """
        super().__init__()
        if not 32 <= shape.side <= MAX_SIDE or shape.side % 16:
            raise ValueError(f"side must be a multiple of 16 from 32 to {MAX_SIDE}, got {shape.side}")
        self.shape = shape
        self.vgg = Features(width=shape.width, extra=1)
        self.trunk = nn.Sequential(
            nn.Dropout(shape.dropout),
            nn.Linear(2 * 8 * shape.width, shape.hidden),
            nn.ReLU(),
            nn.Dropout(shape.dropout),
        )
        self.natural = nn.Linear(shape.hidden, 1)
        self.change = nn.Linear(shape.hidden, CHANGES)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B,) and guessed changes (B, 6) of crops, uint8 (B, side, side, 4): sRGB and mask."""
        pixels = crops.permute(0, 3, 1, 2).to(torch.float32) / 255  # (B, 4, S, S)
        colours, mask = pixels[:, :3], pixels[:, 3:]
        (values,) = self.vgg(torch.cat([colours, 2 * mask - 1], 1), layers=("relu5_3",))  # (B, 512, S / 16, S / 16)
        subject = functional.avg_pool2d(mask, 16)
        pooled = pool_regions(values, torch.cat([subject, 1 - subject], 1))  # (B, 1024)
        hidden = self.trunk(pooled)
        return self.natural(hidden)[:, 0].float(), self.change(hidden).float()


def load_vgg16(path: Path) -> Features:
    """Load ImageNet's convolutions from a file in torchvision's format, such as `vgg16-397923af.pth`.

    Args:
        path: A `state_dict` saved by torch, in its zip format or the one before; `classifier.*` may be there or not,
            and is not used.

    Returns:
        In evaluation, its weights fixed: gradients go through it to the pictures.

    Raises:
        ValueError: One line: missing, truncated, with code in it, or not the weights of VGG-16.
    """
    features = Features()
    features.load_state_dict(_read_imagenet(path))
    return features.eval().requires_grad_(requires_grad=False)


def start_from_imagenet(network: VggDiscriminator, path: Path) -> None:
    """Give a network ImageNet's convolutions; the weights of the mask stay zero.

    Raises:
        ValueError: As `load_vgg16`; or a network of another width.
    """
    if network.shape.width != WIDTH:
        raise ValueError(f"ImageNet weights fit a width of {WIDTH} only, the network's is {network.shape.width}")
    tensors = _read_imagenet(path)
    first = "features.0.weight"
    tensors[first] = functional.pad(tensors[first], (0, 0, 0, 0, 0, 1))
    network.vgg.load_state_dict(tensors)


def _read_imagenet(path: Path) -> dict[str, Tensor]:
    name = f"VGG-16 weights {path}"
    with open_plain(path, name=name, max_bytes=MAX_IMAGENET_BYTES) as file:
        tensors = load_tensors(file, name=name, max_bytes=MAX_IMAGENET_BYTES, legacy=True)
    with torch.device("meta"):
        wanted = {key: tuple(tensor.shape) for key, tensor in Features().state_dict().items()}
    for key, shape in wanted.items():
        found = tuple(tensors[key].shape) if key in tensors else "missing"
        if found != shape:
            raise ValueError(f"{name} are not torchvision's VGG-16: {key} is {found}, not {shape}")
    chosen = {key: tensors[key] for key in wanted}
    check_finite(chosen, name=name)
    return chosen
