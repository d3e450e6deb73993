"""Where shards are made, by name. `local`: threads that wait, a pool of processes that work; `flows.ray_runner` the others.

A worker that dies (killed, out of memory) breaks its pool; the pool is then built anew and whatever was under way is
made again, from the plan, to the same bytes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from loky.backend import get_context
from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor, ShutdownExecutorError

from flows.errors import BadRequest
from flows.make.plan import Planned
from flows.make.run import Scorer, Scores
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

_STOPPED: Final = "stopped; run the same command again to go on"


def _prepare_worker(parent: int) -> None:
    import cv2  # noqa: PLC0415 - in the worker, not where the pool is made

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the build answers it
    cv2.setNumThreads(1)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: int) -> None:
    """End this process soon after its parent: one that was killed cannot stop its pool, whose workers wait for ever."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_SECONDS)
    os._exit(1)


class Runner(Protocol):
    """What runs functions in workers, on this machine or on many; entered with `with`, safe to call from threads."""

    @property
    def workers(self) -> int:
        """Return how many can work at once."""

    def __enter__(self) -> Self:
        """Return the runner itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the workers."""

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run one call in a worker and wait for it; begin it again where the worker dies."""

    def map(self, function: Callable[[Any], Result], items: Iterable[Any]) -> Iterator[Result]:
        """Yield the function's results in the order of the items, made a few items ahead of the reader."""

    def each(self, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield the results of calls, each given as (function, *arguments), in their order, a few calls ahead."""

    def scorer(self, run: Path) -> Scores:
        """Return what scores the shards of a run with an accelerator."""


def _check_handles(workers: int) -> None:
    """Raise the system's own error where a pool of so many would run out of file handles, which hides it in another."""
    with ExitStack() as held:
        for _ in range(12 + 3 * workers):  # queues and wake-up calls; of each worker a pipe, a sentinel, one to spare
            held.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def _hush_tracker() -> None:
    """Keep the process that tidies up after the pool from warning, beside our one line, of what a stop left to it."""
    heard = [part for part in os.environ.get("PYTHONWARNINGS", "").split(",") if part]
    os.environ["PYTHONWARNINGS"] = ",".join(dict.fromkeys([*heard, "ignore:resource_tracker:UserWarning"]))


class LocalRunner:
    """Run functions in a pool of processes; survive the death of any of them. Safe to call from several threads.

    Leaving it ends the processes for good. It may be left twice: once while a lock is held under which they wrote.
    """

    def __init__(self, workers: int) -> None:
        """Make a runner of so many processes; they start when the first work comes."""
        self.workers = workers
        self._left = False
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._generation = 0

    def __enter__(self) -> Self:
        """Return the runner itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the processes; at once where an error passes, whatever other threads wait for."""
        with self._lock:
            self._left = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, kill_workers=kind is not None)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run one call in a worker and wait for it; begin it again where the worker dies.

        Raises:
            BadRequest: Workers died under it again and again, or another thread stopped the runner.
        """
        for _ in range(TRIES):
            future, generation = self._submit(function, arguments)
            try:
                return future.result()
            except BrokenProcessPool:
                self._rebuild(generation)
            except ShutdownExecutorError:
                raise BadRequest(_STOPPED) from None
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

    def scorer(self, run: Path) -> Scorer:
        """Return what scores the shards of a run on this machine's accelerator: this process."""
        return Scorer(run, device="cuda")

    def _submit(self, function: Callable[..., Result], arguments: tuple[Any, ...]) -> tuple[Future[Result], int]:
        with self._lock:
            if self._left:  # a thread whose worker was stopped must not start a new one
                raise BadRequest(_STOPPED)
            if self._pool is None:
                _check_handles(self.workers)
                _hush_tracker()
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


def open_runner(settings: BuildSettings) -> Runner:
    """Return the runner that the settings name.

    Raises:
        BadRequest: It needs Ray, which is not installed, or its workers could not see the output.
    """
    if (Layout(settings.output / "x").address or "").startswith("memory:"):
        raise BadRequest("memory:// belongs to one process, and workers are others; choose another --output")
    if settings.runner == "local":
        return LocalRunner(settings.processes)
    from flows.ray_runner import RayRunner  # noqa: PLC0415 - for those who ask for it

    return RayRunner(settings)


def scorer_for(planned: Planned, runner: Runner) -> Scores | None:
    """Return the scorer of a build that has an accelerator; None where the workers score, or nobody does."""
    return runner.scorer(planned.layout.run) if planned.device == "cuda" else None
