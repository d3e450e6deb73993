"""The steps of a build around its shards: what is left to do, and the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from flows.coco.select import split_of
from flows.errors import BadRequest
from flows.make.plan import Plan, ShardPlan, check_code
from flows.make.shard import Done, read_done
from flows.store.layout import Layout, write_bytes
from flows.store.manifest import make_manifest


def left_to_make(layout: Layout, plan: Plan) -> list[ShardPlan]:
    """Return the shards that are not done, the largest first so that no core waits long at the end.

    Raises:
        BadRequest: Some are, but made by other code.
    """
    left = [shard for shard in plan.shards if read_done(layout, shard.name) is None]
    if left:
        check_code(plan, layout)
    return sorted(left, key=lambda shard: (-shard.pixels, shard.name))


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
            raise BadRequest(f"{layout.run}: shard {shard.name} is not done; run the same build again")
        markers.append(done)
    if leaks := find_split_leaks(layout, plan):
        raise BrokenPromiseError(f"{layout.run}: {leaks[0]} ({len(leaks)} in all)")
    manifest = make_manifest(
        markers=[vars(done) for done in markers], selection=plan.selection, settings=plan.settings, code=plan.code
    )
    if manifest["counts"]["planned"] != plan.planned:
        raise BrokenPromiseError(f"{layout.run}: {plan.planned} samples were planned, the markers count otherwise")
    write_bytes(layout.manifest, json.dumps(manifest, indent=1).encode())
    return Finished(layout, manifest)


class BrokenPromiseError(RuntimeError):
    """The run breaks a promise of the data set; only an error in this program can cause it."""


def find_split_leaks(layout: Layout, plan: Plan) -> list[str]:
    """Look at every image id that a sample touches, target or reference; return what is on the wrong side."""
    side: dict[int, str] = {}
    leaks = []
    for shard in plan.shards:
        table = pq.read_table(layout.index(shard.name), columns=["split", "target_image_id", "reference_image_id"])
        for column in ("target_image_id", "reference_image_id"):
            for image_id, split in zip(table[column].to_pylist(), table["split"].to_pylist(), strict=True):
                if side.setdefault(image_id, split) != split or split_of(image_id) != split or split != shard.split:
                    leaks.append(f"image {image_id} stands in {side[image_id]} and in {split}")
    return leaks
