"""Where shards are made, by name. `local`: threads that wait, a pool of processes that work.

A worker that dies (killed, out of memory) breaks its pool; the pool is then built anew and whatever was under way is
made again, from the plan, to the same bytes.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from loky.backend import get_context
from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

from flows.errors import BadRequest
from flows.settings import BuildSettings
from flows.store.layout import Layout

Result = TypeVar("Result")

TRIES: Final = 4
"""Times that one piece of work is begun before its workers' deaths are taken for its own fault."""

ONE_THREAD: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
"""Sums over several threads differ in their last bits from machine to machine; and processes are parallel enough."""


ORPHAN_SECONDS: Final = 0.25
"""How long a worker may outlive the process that started it."""


def _prepare_worker(parent: int) -> None:
    import cv2  # noqa: PLC0415 - in the worker, not where the pool is made

    cv2.setNumThreads(1)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: int) -> None:
    """End this process soon after its parent: one that was killed cannot stop its pool, whose workers wait for ever."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_SECONDS)
    os._exit(1)


class LocalRunner:
    """Run functions in a pool of processes; survive the death of any of them. Safe to call from several threads."""

    def __init__(self, workers: int) -> None:
        """Make a runner of so many processes; they start when the first work comes."""
        self.workers = workers
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._generation = 0

    def __enter__(self) -> Self:
        """Return the runner itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the processes; at once where an error passes."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, kill_workers=kind is not None)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run one call in a worker and wait for it; begin it again where the worker dies.

        Raises:
            BadRequest: Workers died under it again and again.
        """
        for _ in range(TRIES):
            future, generation = self._submit(function, arguments)
            try:
                return future.result()
            except BrokenProcessPool:
                self._rebuild(generation)
        raise BadRequest(
            f"worker processes died {TRIES} times over {function.__name__}{arguments}; most often memory runs out: "
            "use fewer --workers or a smaller --max-side"
        )

    def map(self, function: Callable[[Any], Result], items: Iterable[Any]) -> Iterator[Result]:
        """Yield the function's results in the order of the items, made a few items ahead of the reader."""
        return self.each((function, item) for item in items)

    def each(self, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield the results of calls, each given as (function, *arguments), in their order, a few calls ahead."""
        waiting = iter(calls)
        ahead: deque[tuple[tuple[Any, ...], Future[Any], int]] = deque()
        while True:
            for call in islice(waiting, 2 * self.workers + 1 - len(ahead)):
                ahead.append((call, *self._submit(call[0], call[1:])))
            if not ahead:
                return
            call, future, generation = ahead.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                self._rebuild(generation)
                yield self.call(*call)

    def _submit(self, function: Callable[..., Result], arguments: tuple[Any, ...]) -> tuple[Future[Result], int]:
        with self._lock:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    max_workers=self.workers,
                    initializer=_prepare_worker,
                    initargs=(os.getpid(),),
                    env=dict(ONE_THREAD),
                    context=get_context("loky"),
                )
            try:
                return self._pool.submit(function, *arguments), self._generation
            except BrokenProcessPool as error:
                failed: Future[Result] = Future()
                failed.set_exception(error)
                return failed, self._generation

    def _rebuild(self, generation: int) -> None:
        """Replace the pool, unless another thread that noticed the same death has done it already."""
        with self._lock:
            if generation == self._generation:
                self._generation += 1
                pool, self._pool = self._pool, None
                if pool is not None:
                    pool.shutdown(wait=False, kill_workers=True)


def open_runner(settings: BuildSettings) -> LocalRunner:
    """Return the runner that the settings name.

    Raises:
        BadRequest: Its workers could not see the output.
    """
    if (Layout(settings.output / "x").address or "").startswith("memory:"):
        raise BadRequest("memory:// belongs to one process, and workers are others; choose another --output")
    return LocalRunner(settings.processes)
