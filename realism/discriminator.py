"""Tell how natural a subject looks in its scene: a compact network that reads a crop and a mask.

Three branches, pooled over the subject, the ring around it and the rest apart, because it is the relation of subject
to scene that counts: quantiles of colour (nothing learnt), a learnt histogram of colours (pixel by pixel), and a small
convolution (texture, edges, what is what). A mismatch of statistics of subject and surroundings is what people notice
first (Xue, Agarwala, Dorsey, Rushmeier 2012); that a network can learn realism without labels is RealismCNN's finding
(Zhu, Kraehenbuehl, Shechtman, Efros 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

ARCHITECTURE: Final = "regions"
ARCHITECTURE_VERSION: Final = 1
"""Raised whenever the same weights would give other scores."""

MAX_SIDE: Final = 1024
"""Crops that are larger would take gigabytes a batch."""
MAX_WIDTH: Final = 512
"""Channels of the first convolution; it is made even where no branch uses it."""
BRANCHES: Final = ("quantiles", "colours", "convolution")
CHANGES: Final = 6
"""Numbers that the second head tells of an edit, see `Batch.changes`."""
QUANTILES: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_DARK: Final = 0.02  # added to linear light before the logarithm: noise in the shadows is not colour
_EDGE: Final = 0.2  # weight of the pixels at a region's edge; with more, scores move with the mask's last pixels
_EDGE_LEARNING: Final = 0.3  # the same while it learns: those pixels do tell, and what they taught stays
_RING: Final = 7  # side of the window that makes the ring, in pixels of the halved crop


@dataclass(frozen=True)
class Shape:
    """What a network is built from; stands in the checkpoint."""

    architecture: ClassVar = ARCHITECTURE
    side: int = 64
    """Pixels of the square crop; a multiple of 16."""
    branches: tuple[str, ...] = BRANCHES
    width: int = 32
    """Channels of the convolution's first stage."""
    hidden: int = 192
    dropout: float = 0.3


class Discriminator(nn.Module):
    """Map crops to a logit of being natural, and to a guess at what was done to the subject."""

    def __init__(self, shape: Shape) -> None:
        """Build the branches that `shape` names.

        Raises:
            ValueError: An unknown branch, none at all, or a side that is no multiple of 16.
        """
        super().__init__()
        if not shape.branches or not set(shape.branches) <= set(BRANCHES):
            raise ValueError(f"branches must be some of {', '.join(BRANCHES)}, got {shape.branches}")
        if not 32 <= shape.side <= MAX_SIDE or shape.side % 16:
            raise ValueError(f"side must be a multiple of 16 from 32 to {MAX_SIDE}, got {shape.side}")
        if not 1 <= shape.width <= MAX_WIDTH:
            raise ValueError(f"width must be 1 to {MAX_WIDTH}, got {shape.width}")
        self.shape = shape
        every: dict[str, Quantiles | Colours | Convolution] = {
            "quantiles": Quantiles(),
            "colours": Colours(),
            "convolution": Convolution(shape.width),
        }
        chosen = {name: branch for name, branch in every.items() if name in shape.branches}
        features = sum(branch.features for branch in chosen.values())
        self.branches = nn.ModuleDict(chosen)
        self.trunk = nn.Sequential(
            nn.BatchNorm1d(features),
            nn.Dropout(shape.dropout),
            nn.Linear(features, shape.hidden),
            nn.BatchNorm1d(shape.hidden),
            nn.SiLU(),
            nn.Dropout(shape.dropout),
            nn.Linear(shape.hidden, shape.hidden // 2),
            nn.SiLU(),
        )
        self.natural = nn.Linear(shape.hidden // 2, 1)
        self.change = nn.Linear(shape.hidden // 2, CHANGES)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B,) and guessed changes (B, 6) of crops, uint8 (B, side, side, 4): sRGB and mask."""
        pixels = crops.permute(0, 3, 1, 2).to(torch.float32) / 255  # (B, 4, S, S)
        view = look(pixels, edge=_EDGE_LEARNING if self.training else _EDGE)
        hidden = self.trunk(torch.cat([branch(view) for branch in self.branches.values()], dim=1))  # (B, hidden / 2)
        return self.natural(hidden)[:, 0].float(), self.change(hidden).float()


@dataclass(frozen=True)
class View:
    """A crop in the colour spaces and regions that the branches look at, all float; h is half the side."""

    full: Tensor
    """(B, 7, S, S): sRGB -1..1, logarithm of linear light less its mean over the surroundings, mask."""
    colours: Tensor
    """(B, 7, h, h): sRGB, luma, chroma, log ratios red to green and blue to green of linear light."""
    relative: Tensor
    """(B, 3, h, h): logarithm of linear light, less its mean over the surroundings."""
    regions: Tensor
    """(B, 3, h, h): subject, ring around it, all surroundings; 0..1."""


def look(pixels: Tensor, *, edge: float = _EDGE) -> View:
    """Derive a `View` from sRGB and mask, (B, 4, S, S), 0..1; `edge` as in `without_edge`."""
    light = torch.log(pixels[:, :3] ** 2.2 + _DARK)
    half, mask = pixels[:, :3, ::2, ::2], pixels[:, 3:, ::2, ::2]
    subject, outside = without_edge(mask, weight=edge), without_edge(1 - mask, weight=edge)
    grown = functional.max_pool2d(mask, (_RING, 1), 1, (_RING // 2, 0))
    ring = functional.max_pool2d(grown, (1, _RING), 1, (0, _RING // 2)) * outside
    relative = light - pool(light[..., ::2, ::2], outside)[..., None, None]
    luma = (half * half.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    chroma = half.amax(1, keepdim=True) - half.amin(1, keepdim=True)
    ratios = (light[:, ::2] - light[:, 1:2])[..., ::2, ::2]
    return View(
        full=torch.cat([2 * pixels[:, :3] - 1, relative, pixels[:, 3:]], 1),
        colours=torch.cat([half, luma, chroma, ratios], 1),
        relative=relative[..., ::2, ::2],
        regions=torch.cat([subject, ring, outside], 1),
    )


def without_edge(mask: Tensor, *, weight: float) -> Tensor:
    """Weigh the pixels of a region (B, 1, h, w) down where it ends: annotators disagree by a pixel or two."""
    inner = -functional.max_pool2d(-mask, 3, 1, 1)
    return weight * mask + (1 - weight) * inner


def pool(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean (B, C) of (B, C, H, W) over one region (B, 1, H, W); 0 where the region is empty."""
    total = weights.sum((2, 3))
    return (values * weights).sum((2, 3)) / (total + 1e-3)


def pool_regions(values: Tensor, regions: Tensor) -> Tensor:
    """Return the means over each of R regions, side by side: (B, R * C) of (B, C, H, W) and (B, R, H, W)."""
    sums = torch.einsum("bchw,brhw->brc", values, regions)
    return (sums / (regions.sum((2, 3))[..., None] + 1e-3)).flatten(1)


class Quantiles(nn.Module):
    """Compare the distributions of colour inside and outside by their quantiles; nothing is learnt here."""

    levels: Tensor
    features = 5 * 7 * len(QUANTILES) + 9 + 1

    def __init__(self) -> None:
        """Keep the quantile levels with the weights' device."""
        super().__init__()
        self.register_buffer("levels", torch.tensor(QUANTILES), persistent=False)

    @torch.no_grad()
    def forward(self, view: View) -> Tensor:
        """Return quantiles by region and their differences (B, features)."""
        values, order = view.colours.flatten(2).sort(dim=2)  # (B, 7, N)
        regions = view.regions.flatten(2)  # (B, 3, N)
        rows = order[:, :, None].expand(-1, -1, 3, -1)
        weights = regions[:, None].expand(-1, 7, -1, -1).gather(3, rows)
        shares = weights.cumsum(3)  # (B, 7, 3, N)
        wanted = self.levels * shares[..., -1:]
        places = torch.searchsorted(shares, wanted.contiguous()).clamp(max=values.shape[2] - 1)  # (B, 7, 3, Q)
        found = values[:, :, None].expand(-1, -1, 3, -1).gather(3, places)
        subject, ring, rest = found.unbind(2)  # (B, 7, Q) each
        quantiles = torch.stack([subject, ring, rest, subject - rest, subject - ring], 1).flatten(1)
        return torch.cat([quantiles, self._texture(view), view.regions[:, :1].mean((2, 3))], 1)

    def _texture(self, view: View) -> Tensor:
        """Return log mean gradients of luma, red-green and blue-green: inside, outside, across the edge (B, 9)."""
        colours, mask = view.colours[:, (3, 5, 6)], view.regions[:, :1]
        steps = (colours[..., 1:, 1:] - colours[..., :-1, 1:]).abs() + (
            colours[..., 1:, 1:] - colours[..., 1:, :-1]
        ).abs()
        low = torch.minimum(torch.minimum(mask[..., 1:, 1:], mask[..., :-1, 1:]), mask[..., 1:, :-1])
        high = torch.maximum(torch.maximum(mask[..., 1:, 1:], mask[..., :-1, 1:]), mask[..., 1:, :-1])
        return torch.log(pool_regions(steps, torch.cat([low, 1 - high, high - low], 1)) + 1e-3)


class Colours(nn.Module):
    """Learn a histogram: map each pixel's colour to features, average them over each region."""

    features = 3 * 32 + 32

    def __init__(self) -> None:
        """Build the two layers."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(10, 32, 1, bias=False), nn.BatchNorm2d(32), nn.SiLU(),
            nn.Conv2d(32, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip

    def forward(self, view: View) -> Tensor:
        """Return the means by region, and subject less surroundings (B, features)."""
        pooled = pool_regions(self.layers(torch.cat([view.colours, view.relative], 1)), view.regions)
        return torch.cat([pooled, pooled[:, :32] - pooled[:, 64:]], 1)


class Convolution(nn.Module):
    """Look at texture, edges and content at three scales, pooled by region."""

    def __init__(self, width: int) -> None:
        """Build the stages: `width`, twice and three times as many channels."""
        super().__init__()
        wide, wider = 2 * width, 3 * width
        self.stem = _stage(7, width, stride=2)
        self.stages = nn.ModuleList([
            _stage(width, wide, stride=2),
            nn.Sequential(_stage(wide, wider, stride=2), _stage(wider, wider, stride=1)),
            _stage(wider, wider, stride=2),
        ])  # fmt: skip
        self.features = 3 * (wide + 2 * wider)

    def forward(self, view: View) -> Tensor:
        """Return the means of each scale by region (B, features)."""
        values, regions = self.stem(view.full), view.regions  # S / 2
        parts = []
        for stage in self.stages:
            values, regions = stage(values), functional.avg_pool2d(regions, 2)  # S / 4, S / 8, S / 16
            parts.append(pool_regions(values, regions))
        return torch.cat(parts, 1)


def _stage(channels: int, out: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.SiLU())
