"""Make small checkpoints in a test: an untrained network, whose scores are spread over 0..1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from flows.make.plan import Planned
from flows.make.run import Finished, Scorer, finish_run, left_to_make, make_shards
from flows.store.lock import only_build
from realism import Calibration, Checkpoint, Discriminator, Shape, save_checkpoint

PASSED = {"passed": True, "subjects": 400}


def save_untrained(
    path: Path, *, threshold: float = 0.5, image_ids: Iterable[int] = (1, 2, 3), seed: int = 0, **more: Any
) -> Path:
    """Save a small random network; return the path of its weights."""
    torch.manual_seed(seed)
    model = Discriminator(Shape(side=32, branches=("quantiles", "colours"), hidden=16)).eval()
    about = {"calibration": Calibration(temperature=0.02), "audit": PASSED, **more}
    save_checkpoint(Checkpoint(model, threshold=threshold, image_ids=frozenset(image_ids), **about), path)
    return path.with_suffix(".pt")


def each_here(calls: Iterable[tuple[Callable[..., Any], Any]]) -> Iterator[Any]:
    """Make the calls in turn, in this process."""
    return (call[0](*call[1:]) for call in calls)


def make_left_with(scorer: Scorer, planned: Planned) -> Finished:
    """Make what is left of a run, scored by `scorer` between composing and writing; finish it."""
    with only_build(planned.layout):
        names = [shard.name for shard in left_to_make(planned.layout, planned.plan)]
        list(make_shards(each_here, planned.layout.run, names, scorer=scorer))
        return finish_run(planned.layout, planned.plan)
