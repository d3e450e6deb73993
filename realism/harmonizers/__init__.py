"""Give a masked subject the colours and the light of its scene: the field's networks, to train and to compare.

Each network is one file that names its source. All take a composite and a mask and answer the picture, so one table,
`HARMONIZERS`, tells them apart, and `harmonize` uses any of them at any resolution. `teach.train_harmonizer`
trains them. Baselines that learn nothing are no networks; `flows.make.harmonize` has them, and opens all by name.
"""

from __future__ import annotations

from realism.harmonizers.apply import harmonize
from realism.harmonizers.checkpoint import HarmonizerCheckpoint, load_harmonizer, save_harmonizer
from realism.harmonizers.table import HARMONIZERS, build_harmonizer

__all__ = [
    "HARMONIZERS",
    "HarmonizerCheckpoint",
    "build_harmonizer",
    "harmonize",
    "load_harmonizer",
    "save_harmonizer",
]
