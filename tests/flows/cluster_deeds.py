"""What Ray's workers do in tests; importable, so that workers find it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows import ray_runner
from flows.make.shard import make_shard, read_done
from flows.ray_runner import Sight
from flows.store.layout import Layout

LOG = "HCOCO_TEST_BEGUN"
"""Environment variable of workers: file that gets a line for each shard that one begins."""

_work = ray_runner._work


def counting_work(sight: Sight, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Do a piece of work as Ray's workers do it; note each shard that is begun, and take some time over it."""
    if function is make_shard and (log := os.environ.get(LOG)):
        run, name = arguments
        if read_done(Layout(run), name) is None:
            with Path(log).open("a", encoding="ascii") as file:
                file.write(f"{name} {ray_runner._address()} {os.getpid()}\n")
            time.sleep(1.0)
    return _work(sight, function, arguments)


def begun_in(log: Path) -> list[tuple[str, str, int]]:
    """Return what workers noted: shard, address, process."""
    lines = log.read_text(encoding="ascii").splitlines() if log.exists() else []
    return [(name, address, int(pid)) for name, address, pid in map(str.split, lines)]
