"""Make a run again and again, killed after each of its writes, and finish it each time.

Run as a script: `killed.py SOURCE OUTPUT`. Prints one line of JSON: for every point what came of it, the undisturbed build last.
Forks are cheap, and safe as long as the parent itself never works with the libraries.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd  # noqa: F401 - pyarrow wants it in each fork anew, which would take most of the time

from flows.store.layout import Layout
from tests.flows.make.building import hashes, make_left, plan_in


def build(source: Path, output: Path) -> Path:
    """Plan and make the run."""
    planned = plan_in(source, output, samples=6, shard_size=4)
    make_left(planned)
    return planned.layout.run


def in_child(work: Callable[[], None]) -> bool:
    """Run `work` in a fork; say whether it came to its end."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def kill_at(point: int) -> None:
    """Have this process killed right before its `point`-th flush: everything before lies on disk, this one beside."""
    left, flush = [point], os.fsync

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


def main(source: Path, output: Path) -> None:
    """Kill one write later each time, until a build comes through unharmed."""
    outcome: list[dict[str, object]] = []
    killed = True
    while killed:
        place = output / f"point-{len(outcome) + 1}"

        def first(place: Path = place, point: int = len(outcome) + 1) -> None:
            kill_at(point)
            build(source, place)

        def second(place: Path = place) -> None:
            build(source, place)

        killed = not in_child(first)
        finished = not killed or in_child(second)
        outcome.append(
            {
                "killed": killed,
                "finished": finished,
                "left_over": [path.name for path in place.rglob("*.tmp")] if finished else [],
                "hashes": hashes(Layout(place / "run")),
            }
        )
    print(json.dumps(outcome))  # noqa: T201 - the answer to the test


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
