"""Every harmonizer by its name: its source, how it is built, what it is taught, and with which numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from torch import Tensor, nn

from realism.harmonizers import dovenet, gp_gan, pix2pix
from realism.harmonizers.attention_unet import AttentionUnet, AttentionUnetShape
from realism.harmonizers.batch import Tensors
from realism.harmonizers.dovenet import DomainCritic, DoveNet, DoveNetShape
from realism.harmonizers.gp_gan import GpGan, GpGanShape, WassersteinCritic
from realism.harmonizers.hsv_style import attention_loss
from realism.harmonizers.masked_unet import MaskedUnet, MaskedUnetShape, masked_loss
from realism.harmonizers.multi_stream import MultiStream, MultiStreamShape, multi_stream_loss
from realism.harmonizers.pix2pix import PatchCritic, Pix2pix, Pix2pixShape


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
    critic_rate: float = 0.0
    rounds: int = 1
    """Batches that the critic learns from for one of the network."""
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Adversary:
    """What a harmonizer is trained against."""

    build: Callable[[Any], nn.Module]
    """Shape of the harmonizer to critic."""
    deceive: Callable[[Any, Tensor, Tensors], Tensor]
    """(critic, answer, batch) to what is added to the harmonizer's loss, a scalar."""
    tell_apart: Callable[[Any, Tensor, Tensors], Tensor]
    """(critic, answer without a gradient, batch) to the critic's loss, a scalar."""
    limit: Callable[[nn.Module], None] | None = None
    """Keeps the critic within bounds."""


@dataclass(frozen=True)
class Harmonizer:
    """What is known of a network."""

    source: str
    """Author, title, year."""
    shape: type
    """A frozen dataclass of numbers and tuples of numbers, with defaults."""
    build: Callable[[Any], nn.Module]
    """Shape to network: (composite (B, 3, S, S), mask (B, 1, S, S)), 0..1, to picture (B, 3, S, S)."""
    loss: Callable[[Tensor, Tensors], Tensor]
    """Of an answer, a scalar; an adversary's comes on top."""
    presets: Mapping[str, Preset]
    """`tiny` learns the embedded sample in two minutes of two cores; `paper` has published settings, where known."""
    adversary: Adversary | None = None
    blender: bool = False
    """It learns from copy-paste pairs, and answers colours that a closed form brings to full size."""
    version: int = 1
    """Raised whenever the same weights would give another picture."""


_ATTENTION_PRESETS: Final = {
    "tiny": Preset(
        AttentionUnetShape((24, 48, 64, 96, 96), dropout=0.0), side=96, batch=8, steps=600, learning_rate=2e-3
    ),
    "paper": Preset(AttentionUnetShape(), side=256, batch=8, steps=200_000, learning_rate=2e-4),
}

HARMONIZERS: Final[Mapping[str, Harmonizer]] = {
    "masked_unet": Harmonizer(
        source="after Tsai, Shen, Lin, Sunkavalli, Lu, Yang: Deep Image Harmonization, 2017; much smaller",
        shape=MaskedUnetShape,
        build=MaskedUnet,
        loss=masked_loss,
        presets={
            "tiny": Preset(MaskedUnetShape((16, 32, 48, 64)), side=96, batch=8, steps=600, learning_rate=3e-3),
            "paper": Preset(MaskedUnetShape(), side=256, batch=16, steps=40_000, learning_rate=1e-3),
        },
    ),
    "pix2pix": Harmonizer(
        source="Isola, Zhu, Zhou, Efros: Image-to-Image Translation with Conditional Adversarial Networks, 2017",
        shape=Pix2pixShape,
        build=Pix2pix,
        loss=pix2pix.pix2pix_loss,
        adversary=Adversary(PatchCritic, pix2pix.deceive, pix2pix.tell_apart),
        presets={
            "tiny": Preset(
                Pix2pixShape((12, 12), (24, 48, 64, 64), 0.5, 1, (16, 24, 32)),
                side=96, batch=8, steps=400, learning_rate=1e-3, critic_rate=2e-4,
            ),
            "paper": Preset(
                Pix2pixShape(), side=256, batch=4, steps=400_000, learning_rate=2e-4, critic_rate=2e-4
            ),
        },
    ),
    "attention_hsv": Harmonizer(
        source="Cun, Pun: Improving the Harmony of the Composite Image by Spatial-Separated Attention Module, 2020; "
        "with a style loss of hue, saturation and value",
        shape=AttentionUnetShape,
        build=AttentionUnet,
        loss=partial(attention_loss, space="hsv"),
        presets=_ATTENTION_PRESETS,
    ),
    "attention_rgb": Harmonizer(
        source="as attention_hsv, with the style loss of RGB, for comparison",
        shape=AttentionUnetShape,
        build=AttentionUnet,
        loss=partial(attention_loss, space="rgb"),
        presets=_ATTENTION_PRESETS,
    ),
    "dovenet": Harmonizer(
        source="Cong, Zhang, Niu, Liu, Ling, Li, Zhang: DoveNet: Deep Image Harmonization via Domain Verification, 2020",
        shape=DoveNetShape,
        build=DoveNet,
        loss=dovenet.dovenet_loss,
        adversary=Adversary(DomainCritic, dovenet.deceive, dovenet.tell_apart),
        presets={
            "tiny": Preset(
                DoveNetShape((24, 48, 64, 96, 96), 0.0, (16, 32, 48, 64)),
                side=96, batch=8, steps=500, learning_rate=1e-3, critic_rate=2e-4,
            ),
            "paper": Preset(
                DoveNetShape(), side=256, batch=16, steps=400_000, learning_rate=2e-4, critic_rate=2e-4
            ),
        },
    ),
    "gp_gan": Harmonizer(
        source="Wu, Zheng, Zhang, Huang: GP-GAN: Towards Realistic High-Resolution Image Blending, 2017",
        shape=GpGanShape,
        build=GpGan,
        loss=gp_gan.gp_gan_loss,
        adversary=Adversary(WassersteinCritic, gp_gan.deceive, gp_gan.tell_apart, gp_gan.keep_small),
        blender=True,
        version=2,
        presets={
            "tiny": Preset(
                GpGanShape((32, 64, 128, 256), 1024),
                side=64, batch=32, steps=400, learning_rate=1e-3, critic_rate=2e-4,
            ),
            "paper": Preset(
                GpGanShape(), side=64, batch=64, steps=60_000, learning_rate=2e-3, critic_rate=2e-4, rounds=5
            ),
        },
    ),
    "multi_stream": Harmonizer(
        source="Zhang, Zhang, Perazzi, Lin, Patel: Deep Image Compositing, 2021",
        shape=MultiStreamShape,
        build=MultiStream,
        loss=multi_stream_loss,
        presets={
            "tiny": Preset(
                MultiStreamShape((16, 32, 48, 64), detail=12), side=96, batch=8, steps=600, learning_rate=3e-3
            ),
            "paper": Preset(MultiStreamShape(), side=384, batch=8, steps=200_000, learning_rate=2e-3),
        },
    ),
}  # fmt: skip


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
