"""What every training on the CPU shares: batches drawn ahead by a thread of their own, a fixed number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

import cv2

from realism.threads import threads

AHEAD: Final = 4
"""Batches that are drawn ahead."""

Drawn = TypeVar("Drawn")


@contextmanager
def drawing_ahead(draw: Callable[[int], Drawn], *, steps: int) -> Iterator[Callable[[int], Drawn]]:
    """Yield a function like `draw`, for steps in order, that has a thread draw the next ones meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="draw") as pool:
        coming: dict[int, Future[Drawn]] = {}

        def take(step: int) -> Drawn:
            for later in range(step, min(step + AHEAD, steps)):
                if later not in coming:
                    coming[later] = pool.submit(draw, later)
            try:
                return coming.pop(step).result()
            except ValueError as error:  # a fault of ours, not of the saved state
                raise RuntimeError(f"batch {step} could not be drawn") from error

        try:
            yield take
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Use so many threads for the network, and one for pictures: the drawing thread is the second.

    Said aloud, since numba, which the mattes are made with, sets the number of OpenMP's threads for torch too.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threads(count):
            yield
    finally:
        cv2.setNumThreads(before)
