"""The steps of a build around its shards: what is left to do, who makes it, and the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from flows.coco.select import split_of
from flows.errors import BadRequest
from flows.make.judge import Opinion
from flows.make.plan import Plan, ShardPlan, check_code
from flows.make.plan_fusion import ROLES
from flows.make.shard import Composed, Done, compose_shard, make_shard, read_done, score_shard, write_shard
from flows.store.index import read_index
from flows.store.layout import Layout, write_bytes
from flows.store.manifest import make_manifest
from flows.store.remote import send


def left_to_make(layout: Layout, plan: Plan) -> list[ShardPlan]:
    """Return the shards that are not done, the largest first so that no core waits long at the end.

    Raises:
        BadRequest: Some are, but made by other code.
    """
    left = [shard for shard in plan.shards if read_done(layout, shard.name) is None]
    if left:
        check_code(plan, layout)
    return sorted(left, key=lambda shard: (-shard.pixels, shard.name))


class Scorer:
    """Score the shards of a run in this process, one at a time: an accelerator has one user on its machine."""

    def __init__(self, run: Path, *, device: str) -> None:
        """Score for `run` on `device`, `cpu` or `cuda`."""
        self.device = device
        self._run = run
        self._lock = threading.Lock()

    def score(self, composed: Composed) -> list[Opinion | None]:
        """Score a shard; safe to call from several threads."""
        with self._lock:
            return score_shard(self._run, composed, device=self.device)

    def each(self, shards: Iterable[Composed]) -> Iterator[tuple[Composed, list[Opinion | None]]]:
        """Yield shards with what was said of them, in their order."""
        return ((one, self.score(one)) for one in shards)


class Scores(Protocol):
    """What scores shards: `Scorer`, or several of them at once."""

    device: str

    def score(self, composed: Composed) -> list[Opinion | None]:
        """Score a shard; safe to call from several threads."""

    def each(self, shards: Iterable[Composed]) -> Iterator[tuple[Composed, list[Opinion | None]]]:
        """Yield shards with what was said of them, in their order."""


def make_one(call: Callable[..., Any], run: Path, name: str, *, scorer: Scores | None = None) -> Done:
    """Make one shard.

    Args:
        call: Calls a function in a worker and waits for it.
        run: Folder of the run.
        name: Of the shard.
        scorer: Scores between a worker's composing and a worker's writing; None where the worker does it all.
    """
    if scorer is None:
        done: Done = call(make_shard, run, name)
        return done
    composed: Composed = call(compose_shard, run, name)
    written: Done = call(write_shard, run, composed, scorer.score(composed), scorer.device)
    return written


def make_shards(
    each: Callable[[Iterable[tuple[Any, ...]]], Iterator[Any]],
    run: Path,
    names: Sequence[str],
    *,
    scorer: Scores | None = None,
) -> Iterator[Done]:
    """Make shards and yield their markers, in the order of the names.

    Args:
        each: Yields the results of calls, given as (function, *arguments), in their order, a few calls ahead.
        run: Folder of the run.
        names: Of the shards.
        scorer: As for `make_one`.
    """
    if scorer is None:
        return each((make_shard, run, name) for name in names)
    composed: Iterator[Composed] = each((compose_shard, run, name) for name in names)
    return each((write_shard, run, one, said, scorer.device) for one, said in scorer.each(composed))


@dataclass(frozen=True)
class Finished:
    """A finished run: its counts as in the manifest."""

    layout: Layout
    manifest: dict[str, Any]

    @property
    def summary(self) -> str:
        """Say in one line what came out."""
        counts = self.manifest["counts"]
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts["by_reason"].items())
        return f"{counts['planned']} planned = {counts['kept']} kept + {counts['rejected']} rejected" + (
            f" ({reasons})" if reasons else ""
        )


def finish_run(layout: Layout, plan: Plan) -> Finished:
    """Add up the shards, prove that no photograph stands on two sides, and write the manifest.

    Raises:
        BadRequest: A shard is not done.
        BrokenPromiseError: A photograph of one split is used in another.
    """
    markers: list[Done] = []
    for shard in plan.shards:
        done = read_done(layout, shard.name)
        if done is None:
            raise BadRequest(f"{layout.place}: shard {shard.name} is not done; run the same build again")
        markers.append(done)
    if leaks := find_split_leaks(layout, plan):
        raise BrokenPromiseError(f"{layout.run}: {leaks[0]} ({len(leaks)} in all)")
    manifest = add_up(plan, markers)
    if manifest["counts"]["planned"] != plan.planned:
        raise BrokenPromiseError(f"{layout.run}: {plan.planned} samples were planned, the markers count otherwise")
    write_bytes(layout.manifest, encode_manifest(manifest))
    send(layout, [layout.relative(layout.manifest)])
    return Finished(layout, manifest)


def add_up(plan: Plan, markers: Iterable[Done]) -> dict[str, Any]:
    """Return the manifest that follows from a plan and the markers of all its shards, in their order."""
    return make_manifest(
        markers=[vars(done) for done in markers],
        selection=plan.selection,
        settings=plan.settings,
        code=plan.code,
        gate=None if plan.gate is None else vars(plan.gate),
        fuser=None if plan.fuser is None else vars(plan.fuser),
    )


def encode_manifest(manifest: Mapping[str, Any]) -> bytes:
    """Encode a manifest as its file."""
    return json.dumps(manifest, indent=1).encode()


_IMAGES: Final = tuple(f"{role}_image_id" for role in ("target", "reference", *ROLES))


class BrokenPromiseError(RuntimeError):
    """The run breaks a promise of the data set; only an error in this program can cause it."""


def find_split_leaks(layout: Layout, plan: Plan) -> list[str]:
    """Look at every image id that a sample touches, in whatever role; return what is on the wrong side."""
    side: dict[int, str] = {}
    leaks = []
    for shard in plan.shards:
        table = read_index(layout.index(shard.name), columns=["split", *_IMAGES])
        for column in _IMAGES:
            for image_id, split in zip(table[column].to_pylist(), table["split"].to_pylist(), strict=True):
                if image_id is None:  # the stage has no such role
                    continue
                if side.setdefault(image_id, split) != split or split_of(image_id) != split or split != shard.split:
                    leaks.append(f"image {image_id} stands in {side[image_id]} and in {split}")
    return leaks
