"""What workers do in the tests of the runner; importable, so that workers find it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from flows.errors import BadRequest


def square(number: int) -> int:
    """Return the square."""
    return number * number


def late_square(number: int) -> int:
    """Return the square; the smaller the number, the later."""
    time.sleep(0.05 * max(0, 4 - number))
    return number * number


def sleep_long(marker: Path) -> None:
    """Say that this has begun, and take a minute."""
    marker.touch()
    time.sleep(60)


def refuse(word: str) -> None:
    """Raise a `BadRequest`."""
    raise BadRequest(f"no {word}")


def fill_disk(name: str) -> None:
    """Raise what a full disk raises."""
    raise OSError(28, "No space left on device", name)


def die_once(marker: Path, number: int) -> int:
    """Kill this process where `marker` is not there yet; else return the square."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def die_always(number: int) -> int:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def describe(_nothing: int) -> dict[str, object]:
    """Tell what a worker sees of itself."""
    import cv2

    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {
        "pid": os.getpid(),
        "cv2": cv2.getNumThreads(),
        "threads": {name: os.environ.get(name) for name in names},
    }
