"""Lay a person over another scene: a network that repairs what the mask gets wrong.

Deep Image Compositing (Zhang, Zhang, Perazzi, Lin, Patel 2021): two encoders with their own weights, one for the
foreground picture and its mask, one for the background and the inverted mask, and one decoder that takes the skips of
both at every scale. Here the decoder does not paint the composite, but says what a compositor needs: an alpha, as a
change of the mask given, and a change of the foreground's colours, which takes the old background out of the edge. So
a network that has learnt nothing yet is a feathered copy, and what is learnt is the repair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from realism.threads import one_thread

FUSION: Final = "two_stream_fusion"
FUSION_VERSION: Final = 1
"""Raised whenever the same weights would give another picture."""

Pixels = NDArray[np.uint8]

STRIDE: Final = 16
"""Height and width of what goes through the network are multiples of it."""
MARGIN: Final = 48
"""Pixels around the mask's box that the network sees."""
TILE: Final = 512
"""Side of the tiles that a large window is made in, in pixels; a multiple of `STRIDE`."""
CONTEXT: Final = 112
"""Pixels around a tile that are seen with it: as far as the network looks; a multiple of `STRIDE`."""
_SOFT: Final = 0.02  # the mask is kept so far from 0 and 1 before its logit is taken
Head = Literal["matte", "paint"]


@dataclass(frozen=True)
class FusionShape:
    """What a fusion network is built from; stands in the checkpoint."""

    streams: int = 2
    """Encoders: 2, each with its own weights, or 1 that reads both pictures at once."""
    widths: tuple[int, int, int, int] = (24, 40, 56, 72)
    """Channels at 1/2, 1/4, 1/8 and 1/16 of the picture's size."""
    detail: int = 16
    """Channels at full size, where the edge is drawn."""
    head: Head = "matte"
    """`matte`: an alpha and a change of the foreground's colours; `paint`: the composite's colours themselves."""


class FusionNet(nn.Module):
    """Map foreground, background and mask to a composite."""

    def __init__(self, shape: FusionShape) -> None:
        """Build the encoders and the decoder.

        Raises:
            ValueError: A number of streams other than 1 and 2, widths that are not four from 4 up, an unknown head.
        """
        super().__init__()
        if shape.streams not in {1, 2}:
            raise ValueError(f"streams must be 1 or 2, got {shape.streams}")
        if len(shape.widths) != 4 or min(*shape.widths, shape.detail) < 4:
            raise ValueError(f"widths must be four, from 4 up, as must detail, got {shape.widths} and {shape.detail}")
        if shape.head not in {"matte", "paint"}:
            raise ValueError(f"head must be matte or paint, got {shape.head!r}")
        self.shape = shape
        inputs = (4, 4) if shape.streams == 2 else (7,)
        self.encoders = nn.ModuleList(_Encoder(channels, shape.widths) for channels in inputs)
        self.decoder = _Decoder(shape.widths, streams=shape.streams, detail=shape.detail)
        self.edge = _conv(shape.detail + 7, shape.detail)
        self.out = nn.Conv2d(shape.detail, 4, 3, 1, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, foreground: Tensor, background: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the composite (B, 3, H, W) and its alpha (B, 1, H, W), not clipped and 0..1.

        Args:
            foreground: (B, 3, H, W), sRGB 0..1, the person in the old surroundings, at the new place.
            background: (B, 3, H, W), sRGB 0..1.
            mask: (B, 1, H, W), 0..1.
        """
        over, under = 2 * foreground - 1, 2 * background - 1
        streams = [(over, mask), (under, 1 - mask)] if self.shape.streams == 2 else [(over, under, mask)]
        scales = [encoder(torch.cat(parts, 1)) for encoder, parts in zip(self.encoders, streams, strict=True)]
        skips = [torch.cat(levels, 1) for levels in zip(*scales, strict=True)]
        detail = torch.cat([self.decoder(skips), over, under, mask], 1)
        change = self.out(self.edge(detail)).float()
        if self.shape.head == "paint":
            return self._paint(foreground, background, mask, change)
        alpha = torch.sigmoid(torch.logit(soften(mask), eps=_SOFT) + 4 * change[:, :1])
        alpha = ((alpha - _SOFT) / (1 - 2 * _SOFT)).clamp(0, 1)
        return alpha * (foreground + change[:, 1:]) + (1 - alpha) * background, alpha

    @staticmethod
    def _paint(foreground: Tensor, background: Tensor, mask: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        plain = mask * foreground + (1 - mask) * background
        return plain + change[:, 1:], mask


def soften(mask: Tensor) -> Tensor:
    """Blur a mask over 6 pixels either way: float (B, 1, H, W), 0..1.

    What is learnt is a change of its logit, which a small step moves where the mask is doubtful, that is near its edge.
    """
    values = mask.float()
    for _ in range(2):
        values = functional.avg_pool2d(values, 7, 1, 3, count_include_pad=False)
    return values


class _Encoder(nn.Module):
    """See a picture at four scales."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        first, *rest = widths
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), _conv(4 * channels, first))
        self.stages = nn.ModuleList()
        for before, width in zip(widths, rest, strict=False):
            self.stages.append(nn.Sequential(_conv(before, width, stride=2), _conv(width, width)))

    def forward(self, picture: Tensor) -> list[Tensor]:
        levels = [self.stem(picture)]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        return levels


class _Decoder(nn.Module):
    """Come back to full size, taking every encoder's skip at every scale."""

    def __init__(self, widths: tuple[int, ...], *, streams: int, detail: int) -> None:
        super().__init__()
        self.deepest = _conv(streams * widths[-1], widths[-1])
        self.stages = nn.ModuleList()
        for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.stages.append(_conv(below + streams * width, width))
        self.grow = nn.Sequential(nn.Conv2d(widths[0], 4 * detail, 1), nn.PixelShuffle(2))

    def forward(self, skips: list[Tensor]) -> Tensor:
        values = self.deepest(skips[-1])
        for stage, skip in zip(self.stages, skips[-2::-1], strict=True):
            grown = functional.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
            values = stage(torch.cat([grown, skip], 1))
        result: Tensor = self.grow(values)
        return result


def _conv(channels: int, out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


@dataclass(frozen=True)
class Fused:
    """What a fusion network made of one composition; all of the size of its pictures."""

    picture: Pixels
    """uint8 (H, W, 3) sRGB: the composite, the true background wherever the mask is farther than `reach_of` away."""
    raw: Pixels
    """uint8 (H, W, 3) sRGB: as the network left it, the true background only outside the window that it saw."""
    alpha: Pixels
    """uint8 (H, W): the network's alpha; 0 where the true background is pasted."""


def fuse(model: FusionNet, foreground: Pixels, background: Pixels, mask: NDArray[Any], *, device: str = "cpu") -> Fused:
    """Lay the masked subject of one picture over another of the same size.

    Only the box of the mask with a margin is looked at, in tiles where it is large, so memory is bounded; on the CPU
    one thread computes, so the same arguments give the same bytes on one kind of machine.

    Args:
        model: Of a checkpoint.
        foreground: uint8 (H, W, 3) sRGB, the subject in its old surroundings.
        background: uint8 (H, W, 3) sRGB.
        mask: bool, or uint8 0..255, (H, W): roughly where the subject is; an empty one gives the background.
        device: `cpu` or `cuda`.

    Raises:
        TypeError: Wrong dtype.
        ValueError: Shapes that do not belong together.
        ArithmeticError: The network answered something that is no number.
    """
    _check(foreground, background, mask)
    level = mask.view(np.uint8) * np.uint8(255) if mask.dtype == np.bool_ else mask
    raw, alpha = background.copy(), np.zeros(level.shape, np.uint8)
    if not level.any():
        return Fused(background.copy(), raw, alpha)
    window = _around(level)
    pictures = [np.ascontiguousarray(layer[window]) for layer in (foreground, background, level)]
    raw[window], alpha[window] = _run(model, *pictures, device=device)
    near = cv2.dilate((level > 127).view(np.uint8), kernel=_disc(reach_of(level))) > 0
    alpha[~near] = 0
    return Fused(np.where(near[..., None], raw, background), raw, alpha)


def reach_of(mask: Pixels) -> int:
    """Return how far from the mask a composite may differ from the background, in pixels.

    A twelfth of the side of a square of the mask's size, 8 to 28: as far as a matte's band reaches, and twice the
    fault that a polygon may have.
    """
    return int(min(max(round(np.count_nonzero(mask > 127) ** 0.5 / 12), 8), 28))


def _check(foreground: Pixels, background: Pixels, mask: NDArray[Any]) -> None:
    pictures, level = {foreground.dtype, background.dtype}, mask.dtype
    if pictures != {np.dtype(np.uint8)} or level not in {np.dtype(np.uint8), np.dtype(np.bool_)}:
        kinds = f"{foreground.dtype}, {background.dtype}, {level}"
        raise TypeError(f"foreground and background must be uint8, mask uint8 or bool, got {kinds}")
    if foreground.ndim != 3 or foreground.shape != background.shape or foreground.shape != (*mask.shape, 3):
        shapes = (foreground.shape, background.shape, mask.shape)
        raise ValueError(f"foreground and background must be (H, W, 3) and mask (H, W) of one size, got {shapes}")


def _around(mask: Pixels) -> tuple[slice, slice]:
    x, y, wide, high = cv2.boundingRect(mask)
    return np.s_[max(y - MARGIN, 0) : y + high + MARGIN, max(x - MARGIN, 0) : x + wide + MARGIN]


def _disc(radius: int) -> Pixels:
    return np.asarray(cv2.getStructuringElement(shape=cv2.MORPH_ELLIPSE, ksize=(2 * radius + 1,) * 2), np.uint8)


def _run(
    model: FusionNet, foreground: Pixels, background: Pixels, mask: Pixels, *, device: str
) -> tuple[Pixels, Pixels]:
    """Return the network's composite and alpha of a window, tile by tile, each seen with `CONTEXT` pixels around."""
    model.to(device).eval()
    height, width = mask.shape
    raw, alpha = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.uint8)
    with one_thread(), torch.inference_mode():
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                high, low = max(top - CONTEXT, 0), max(left - CONTEXT, 0)
                seen = np.s_[high : top + TILE + CONTEXT, low : left + TILE + CONTEXT]
                answer = _answer(model, foreground[seen], background[seen], mask[seen], device=device)
                inner = answer[top - high : top - high + TILE, left - low : left - low + TILE]
                raw[top : top + TILE, left : left + TILE] = inner[..., :3]
                alpha[top : top + TILE, left : left + TILE] = inner[..., 3]
    return raw, alpha


def _answer(model: FusionNet, foreground: Pixels, background: Pixels, mask: Pixels, *, device: str) -> Pixels:
    """Return composite and alpha of one tile, uint8 (h, w, 4), padded for the network by its last row and column."""
    layers = np.dstack([foreground, background, mask])
    down, right = -layers.shape[0] % STRIDE, -layers.shape[1] % STRIDE
    padded = np.pad(layers, ((0, down), (0, right), (0, 0)), mode="edge")
    values = torch.from_numpy(padded).to(device).permute(2, 0, 1)[None].float() / 255  # (1, 7, h, w), channels last
    composite, alpha = model(values[:, :3], values[:, 3:6], values[:, 6:])
    found = torch.cat([composite, alpha], 1)[0].permute(1, 2, 0).cpu().numpy()
    if not np.isfinite(found).all():
        raise ArithmeticError("the fusion network answered something that is no number")
    levels = np.rint(255 * np.clip(found, 0, 1)).astype(np.uint8)
    return np.asarray(levels[: mask.shape[0], : mask.shape[1]], np.uint8)
