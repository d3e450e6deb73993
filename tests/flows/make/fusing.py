"""Make small fusion networks in a test: untrained ones, which lay a feathered copy, and ones that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realism.fusion import FusionNet, FusionShape
from realism.fusion_checkpoint import FusionCheckpoint, save_fusion

SHAPE = FusionShape(widths=(4, 6, 8, 8), detail=4)


def save_untrained(path: Path, *, seed: int = 0, overflow: bool = False) -> Path:
    """Save a small network; return the path of its weights.

    Args:
        path: Of the checkpoint.
        seed: Of the weights.
        overflow: Give it finite weights whose answers are not finite.
    """
    torch.manual_seed(seed)
    model = FusionNet(SHAPE).eval()
    if overflow:
        torch.nn.init.constant_(model.out.weight, 3e38)
        torch.nn.init.constant_(model.out.bias, 3e38)  # type: ignore[arg-type]
    save_fusion(FusionCheckpoint(model), path)
    return path.with_suffix(".pt")


def fusing(checkpoint: Path, **more: Any) -> dict[str, Any]:
    """Return settings of a build of fusion samples with this network, small enough for drawn photographs."""
    return {"stages": "fusion", "fusion_checkpoint": str(checkpoint), "fusion_side": 160, "samples": 12, **more}


class Grey(FusionNet):
    """A network that answers mid-grey, whatever it is shown."""

    def forward(self, foreground: Tensor, _background: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return grey and a full alpha."""
        return torch.full_like(foreground, 0.5), torch.ones_like(mask)
