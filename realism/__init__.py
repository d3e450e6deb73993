"""Judge how natural a subject looks in its scene, by a network that learnt it from photographs.

Arrays and batches in, numbers out; knows torch, and neither Prefect nor tars nor COCO. `load_checkpoint` ->
`prepare` (picture and mask to crop) -> `score_crops` -> `judge_scores` is the whole way; `train.train` makes a network,
`calibrate`, `choose_threshold` and `audit_scores` make a checkpoint of it; `shipped` names those of the package.
docs/realism.md says what the network can and cannot do.
"""

from realism.audit import audit_scores, is_within_limits
from realism.checkpoint import Calibration, Checkpoint, load_checkpoint, save_checkpoint
from realism.discriminator import Discriminator, Shape
from realism.gate import Judged, calibrate, choose_threshold, judge_scores
from realism.score import prepare, score_crops
from realism.train import Batch, TrainSettings
from realism.weights import shipped

__all__ = [
    "Batch",
    "Calibration",
    "Checkpoint",
    "Discriminator",
    "Judged",
    "Shape",
    "TrainSettings",
    "audit_scores",
    "calibrate",
    "choose_threshold",
    "is_within_limits",
    "judge_scores",
    "load_checkpoint",
    "prepare",
    "save_checkpoint",
    "score_crops",
    "shipped",
]
