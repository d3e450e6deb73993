"""Decide about a run, undo it, or repair it, killed before each change of the disk; then run the same again.

Run as a script: `killed_deed.py DEED SOURCE OUTPUT STEP`; of the changes only every STEP-th is tried. Prints one line
of JSON: for every point what came of it, the undisturbed deed last. Forks are cheap, and safe as long as the parent itself never works with the libraries.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd  # noqa: F401 - pyarrow wants it in each fork anew, which would take most of the time

from flows.make.decide import decide, undo
from flows.make.plan import code_version
from flows.make.repair import repair_run
from flows.make.verify import verify_run
from flows.store.decisions import Named, Rule, Ruled
from flows.store.layout import Layout
from flows.store.lock import only_build
from flows.store.swap import is_unsettled
from tests.flows.make.building import build_in, hashes, rows_of
from tests.flows.make.forging import flip
from tests.flows.make.killed import in_child

CHANGES = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir")
"""All ways in which a deed touches the disk, but for bytes that are not flushed yet."""


def ban_some(layout: Layout) -> None:
    """Take a decision that changes every shard."""
    with only_build(layout):
        decide(layout, Ruled("ban", Rule(min_strength=0.5)))


def undo_last(layout: Layout) -> None:
    """Take it back, unless that is done."""
    with only_build(layout):
        if layout.decisions.exists():
            undo(layout)


def repair(layout: Layout) -> None:
    """Mend what is damaged."""
    with only_build(layout):
        list(repair_run(layout))


def readmit_one(layout: Layout) -> None:
    """Re-admit the first rejected sample."""
    key = min(row["key"] for row in rows_of(layout) if row["status"] == "rejected")
    with only_build(layout):
        decide(layout, Named(readmit=frozenset({key})))


def damage(layout: Layout) -> None:
    """Damage a decided run in all ways that matter."""
    readmit_one(layout)
    names = sorted(path.stem for path in (layout.run / "index").iterdir())
    layout.index(names[0]).unlink()
    flip(layout.shard(names[-1]), 5000)
    layout.manifest.unlink()


DEEDS: dict[str, tuple[Callable[[Layout], None], Callable[[Layout], None]]] = {
    "decide": (lambda _layout: None, ban_some),
    "undo": (ban_some, undo_last),
    "repair": (damage, repair),
}
"""What is done before, and what is killed."""


def kill_at(point: int) -> None:
    """Have this process killed right before its `point`-th change of the disk."""
    left = [point]

    def counting(change: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return change(*arguments, **named)

    for name in CHANGES:
        setattr(os, name, partial(counting, getattr(os, name)))


def main(deed: str, source: Path, output: Path, step: int) -> None:
    """Kill some changes later each time, until the deed comes through unharmed."""
    before, work = DEEDS[deed]
    code_version()  # once for all forks: somebody may be editing the code meanwhile
    start = output / "start" / "run"
    in_child(lambda: before(build_in(source, start.parent, samples=6, shard_size=4, stages="harmonization")))
    outcome: list[dict[str, object]] = []
    killed = True
    while killed:
        layout, point = Layout(output / f"point-{len(outcome)}" / "run"), 1 + step * len(outcome)
        shutil.copytree(start, layout.run)

        def first(layout: Layout = layout, point: int = point) -> None:
            kill_at(point)
            work(layout)

        killed = not in_child(first)
        after, unsettled = hashes(layout), is_unsettled(layout)
        whole = in_child(partial(_check, layout))
        finished = in_child(partial(work, layout))
        outcome.append(
            {
                "killed": killed,
                "after": after,
                "unsettled": unsettled,
                "whole": whole,
                "finished": finished,
                "whole_then": in_child(partial(_check, layout)),
                "left_over": [path.name for path in layout.run.rglob(".*") if path.name != ".lock"],
                "hashes": hashes(layout),
            }
        )
        shutil.rmtree(layout.run)
    print(json.dumps({"start": hashes(Layout(start)), "points": outcome}))  # noqa: T201 - the answer to the test


def _check(layout: Layout) -> None:
    if problems := [str(problem) for problem in verify_run(layout)]:
        raise SystemExit(problems[0])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
