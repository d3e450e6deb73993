from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from flows.errors import BadRequest
from flows.make.plan import plan_run
from flows.make.run import finish_run, left_to_make
from flows.make.shard import make_shard
from flows.make.verify import verify_run
from flows.runners import TRIES, LocalRunner, open_runner
from flows.store.lock import only_build
from tests.flows.make import deeds
from tests.flows.make.building import build_in, differing, hashes, settings_for


@pytest.fixture(scope="module")
def two() -> Iterator[LocalRunner]:
    """Return a runner of two processes."""
    with LocalRunner(2) as runner:
        yield runner


def test_results_come_in_the_order_of_the_items(two: LocalRunner) -> None:
    """Results are those of the builtin `map`, in its order, although the first take longest."""
    assert list(two.map(deeds.late_square, range(8))) == [number * number for number in range(8)]
    assert list(two.map(deeds.square, [])) == []


def test_items_are_taken_a_few_ahead_only(two: LocalRunner) -> None:
    """A source without end is read as far as the workers need: a plan of few samples looks at few files."""
    taken = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    results = two.map(deeds.square, endless())
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) <= 3 + 2 * two.workers + 1


def test_calls_of_different_functions_keep_their_order(two: LocalRunner, tmp_path: Path) -> None:
    """Each call has its own function and arguments."""
    (tmp_path / "there").touch()
    calls = [(deeds.square, 3), (deeds.die_once, tmp_path / "there", 5), (deeds.late_square, 2)]
    assert list(two.each(calls)) == [9, 25, 4]


def test_workers_compute_with_one_thread(two: LocalRunner) -> None:
    """Sums over several threads differ in their last bits, so each worker has one."""
    told = two.call(deeds.describe, 0)
    assert told["cv2"] == 1
    assert set(told["threads"].values()) == {"1"}  # type: ignore[attr-defined]
    assert told["pid"] != os.getpid()


def test_errors_of_a_worker_arrive_as_they_are(two: LocalRunner) -> None:
    """A bad request stays one, and an error of the disk keeps its number and file; the pool goes on."""
    with pytest.raises(BadRequest, match=r"^no bread$"):
        two.call(deeds.refuse, "bread")
    with pytest.raises(OSError, match="No space left") as caught:
        two.call(deeds.fill_disk, "x.tar")
    assert (caught.value.errno, caught.value.filename) == (28, "x.tar")
    assert two.call(deeds.square, 3) == 9


def test_work_under_a_killed_worker_is_begun_again(tmp_path: Path) -> None:
    """A worker killed by -9 costs its work some time and nothing else, for `call` as for `each`."""
    with LocalRunner(2) as runner:
        assert runner.call(deeds.die_once, tmp_path / "call", 6) == 36
        work = [(deeds.die_once, tmp_path / "each", number) for number in range(8)]
        assert list(runner.each(work)) == [number * number for number in range(8)]


def test_several_threads_survive_the_same_death(tmp_path: Path) -> None:
    """Threads that wait on one pool all get their results when it breaks under them, as Prefect's tasks do."""
    with LocalRunner(2) as runner, ThreadPoolExecutor(4) as threads:
        work = [threads.submit(runner.call, deeds.die_once, tmp_path / "x", number) for number in range(8)]
        assert [future.result() for future in work] == [number * number for number in range(8)]


def test_work_that_always_kills_its_worker_is_given_up(tmp_path: Path) -> None:
    """After some tries the death is the work's own fault: one line that says what to try, and no endless loop."""
    with (
        LocalRunner(1) as runner,
        pytest.raises(BadRequest, match=rf"died {TRIES} times over die_always.*use fewer --workers"),
    ):
        runner.call(deeds.die_always, 1)
    assert not list(tmp_path.iterdir())


def test_no_process_starts_before_there_is_work() -> None:
    """Opening a runner costs nothing; leaving it stops what runs."""
    with LocalRunner(2) as runner:
        assert runner._pool is None
        pid = runner.call(deeds.describe, 0)["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # type: ignore[arg-type]


def test_an_error_stops_the_workers_at_once() -> None:
    """Where an error passes, nothing waits for work that nobody wants any more."""
    runner = LocalRunner(1)
    pid = runner.call(deeds.describe, 0)["pid"]
    with pytest.raises(RuntimeError, match="enough"), runner:
        raise RuntimeError("enough")
    assert runner._pool is None
    _wait_until_gone(pid)  # type: ignore[arg-type]


def test_threads_that_wait_hear_of_the_stop_and_begin_nothing(tmp_path: Path) -> None:
    """Left by an error, a runner ends what other threads wait for; none of them starts a worker again."""
    runner = LocalRunner(1)

    def fail_when_begun() -> None:
        while not (tmp_path / "a").exists():
            time.sleep(0.02)
        raise RuntimeError("enough")

    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(runner.call, deeds.sleep_long, tmp_path / name) for name in "ab"]
        with pytest.raises(RuntimeError, match="enough"), runner, runner:
            fail_when_begun()
        for each in waiting:
            with pytest.raises(BadRequest, match="stopped; run the same command again"):
                each.result(timeout=10)
    assert runner._pool is None


def _wait_until_gone(pid: int) -> None:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} still runs")


def test_the_settings_say_how_many_processes(tiny_coco: Path, tmp_path: Path) -> None:
    """`workers` is the number of processes; without it the cores that may be used."""
    assert open_runner(settings_for(tiny_coco, tmp_path, workers=3)).workers == 3
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert open_runner(settings_for(tiny_coco, tmp_path)).workers == cores


# Whole builds


@pytest.fixture(scope="module")
def undisturbed(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the hashes of a run that was made in this process, one shard after the other."""
    return hashes(build_in(tiny_coco, tmp_path_factory.mktemp("undisturbed"), variants=2))


def _build(source: Path, output: Path, workers: int, *, kill: bool = False) -> dict[str, str]:
    """Build with a pool as `hcoco build` does; where asked, kill a worker after the first and the fourth shard."""
    settings = settings_for(source, output, variants=2, workers=workers)
    with open_runner(settings) as runner:
        planned = plan_run(settings, over=runner.map)
        with only_build(planned.layout):
            left = left_to_make(planned.layout, planned.plan)
            for number, _ in enumerate(runner.each((make_shard, planned.layout.run, shard.name) for shard in left)):
                if kill and number in {0, 3}:
                    assert runner._pool is not None
                    os.kill(next(iter(runner._pool._processes)), signal.SIGKILL)
            finish_run(planned.layout, planned.plan)
        assert list(verify_run(planned.layout, over=runner.map)) == []
    return hashes(planned.layout)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_makes_the_same_bytes(
    tiny_coco: Path, tmp_path: Path, undisturbed: dict[str, str], workers: int
) -> None:
    """One worker, two, or none at all: shards, index and manifest are the same bytes."""
    assert differing(_build(tiny_coco, tmp_path, workers), undisturbed) == []


def test_killed_workers_do_not_change_a_byte(tiny_coco: Path, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    """Workers killed by -9 in the middle of a build, twice: it goes on, to the same bytes."""
    assert differing(_build(tiny_coco, tmp_path, 2, kill=True), undisturbed) == []


def test_shards_made_from_threads_are_the_same_bytes(
    tiny_coco: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    """Threads that wait for shards, as Prefect's task runner has them, make what one loop makes."""
    settings = settings_for(tiny_coco, tmp_path, variants=2, workers=2)
    with open_runner(settings) as runner, ThreadPoolExecutor(4) as threads:
        planned = plan_run(settings, over=runner.map)
        make = partial(runner.call, make_shard, planned.layout.run)
        list(threads.map(make, [shard.name for shard in planned.plan.shards]))
        finish_run(planned.layout, planned.plan)
    assert differing(hashes(planned.layout), undisturbed) == []
