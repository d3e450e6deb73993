"""Real builds that are stopped, or meet a system that has not enough: one line, nothing lost, the same bytes after."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.make.status import read_status
from flows.make.verify import verify_run
from flows.store.layout import Layout
from flows.store.lock import is_held
from tests.flows.kills import Kill, children, kill_builds, say, wait_until
from tests.flows.make.building import build_in, differing, hashes

ROOT = Path(__file__).resolve().parents[2]
SAMPLES, SHARD = 12, 3

SLOW_DISK = """
import os, time
flush = os.fsync
def fsync(descriptor):
    time.sleep(0.4)
    flush(descriptor)
os.fsync = fsync
"""
"""Loaded by every Python that finds it on its path, so by the workers too: a disk that takes its time to flush."""


@pytest.fixture(scope="module")
def undisturbed(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the hashes of the run that all these builds are on their way to."""
    return hashes(build_in(tiny_coco, tmp_path_factory.mktemp("whole"), samples=SAMPLES, shard_size=SHARD))


@pytest.fixture
def slow_disk(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which a build's disk is slow."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW_DISK)
    return {"PYTHONPATH": str(tmp_path / "slow")}


def options_of(source: Path, *, samples: int = SAMPLES) -> list[str]:
    """Return the options of a build of edits without a gate, in processes of its own."""
    fixed = ["--gate", "off", "--stages", "harmonization", "--shard-size", str(SHARD), "--workers", "2"]
    return [*fixed, "--source", str(source), "--samples", str(samples)]


@contextmanager
def begun(
    source: Path, run: Path, *, samples: int = SAMPLES, handles: int | None = None, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Start a build in a session of its own, as a terminal does; leave nothing of it."""

    def prepare() -> None:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # a shell's background job hears no Ctrl-C, nor does what it starts
        if handles is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (handles, handles))

    words = [*options_of(source, samples=samples), "--output", str(run.parent), "--run", run.name, "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "build", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=prepare,  # noqa: PLW1509 - no thread of this process holds a lock that the child needs
    ) as build:
        try:
            yield build
        finally:
            build.kill()
            build.communicate()


def refused(source: Path, run: Path, *, samples: int = SAMPLES, handles: int | None = None) -> str:
    """Build where it cannot succeed; return the one line that says why."""
    with begun(source, run, samples=samples, handles=handles) as build:
        _, said = build.communicate(timeout=300)
    assert build.returncode == 2, said
    assert said.count("\n") == 1, said
    assert not list(run.rglob("*.tmp"))
    return said


def finished(source: Path, run: Path, *, samples: int = SAMPLES, **environment: str) -> dict[str, str]:
    """Build to the end; return the hashes of a run that is proved."""
    with begun(source, run, samples=samples, **environment) as build:
        _, said = build.communicate(timeout=300)
    assert build.returncode == 0, said
    assert [str(problem) for problem in verify_run(Layout(run))] == []
    assert not list(run.rglob("*.tmp"))
    return hashes(Layout(run))


def markers(run: Path) -> int:
    """Count the shards that are done."""
    return len(list((run / "done").glob("*.json")))


def stop_alone(build: subprocess.Popen[str]) -> int:
    """Stop a build as `kill` and service managers do; return its exit code."""
    build.send_signal(signal.SIGTERM)
    return build.wait(timeout=10)


def stop_terminal(build: subprocess.Popen[str]) -> int:
    """Press Ctrl-C: every process of the terminal hears it; return the exit code."""
    os.killpg(build.pid, signal.SIGINT)
    return build.wait(timeout=10)


@pytest.mark.parametrize(
    ("stop", "code"),
    [(stop_terminal, 130), pytest.param(stop_alone, 143, marks=pytest.mark.slow)],
)
def test_a_stopped_build_ends_within_ten_seconds_and_goes_on(  # noqa: PLR0917 - parameters and fixtures
    tiny_coco: Path,
    tmp_path: Path,
    undisturbed: dict[str, str],
    slow_disk: dict[str, str],
    stop: Callable[[subprocess.Popen[str]], int],
    code: int,
) -> None:
    """In the middle of shards, on a slow disk: one line, done shards stay, no process and no litter; then the same bytes."""
    run = tmp_path / "run"
    with begun(tiny_coco, run, **slow_disk) as build:
        wait_until(lambda: markers(run) >= 1 or build.poll() is not None, seconds=300, what="the first shard")
        during, workers = read_status(run), children(build.pid)
        stopped = time.monotonic()
        assert stop(build) == code
        say(f"{stop.__name__}: over after {time.monotonic() - stopped:.2f} s")
        _, said = build.communicate()
    assert (during.state, during.planned, during.made + (during.left or 0)) == ("building", SAMPLES, SAMPLES)
    assert during.per_second is not None
    assert said == "hcoco build: stopped; run the same command again to go on\n"
    assert 0 < markers(run) < 4
    assert not list(run.rglob("*.tmp"))
    assert not is_held(Layout(run).lock)
    assert workers
    assert not [pid for pid in workers if is_alive(pid)]
    assert read_status(run).state == "unfinished"
    again = slow_disk if code == 143 else {}  # a slow disk changes nothing; it only takes its time
    assert differing(finished(tiny_coco, run, **again), undisturbed) == []
    assert read_status(run).state == "finished"


def is_alive(pid: int) -> bool:
    """Say whether a process still runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_build_at_once(
    tiny_coco: Path, tmp_path: Path, undisturbed: dict[str, str], slow_disk: dict[str, str]
) -> None:
    """Whoever cannot wait loses the shards under way and nothing else."""
    run = tmp_path / "run"
    with begun(tiny_coco, run, **slow_disk) as build:
        wait_until(lambda: markers(run) >= 1 or build.poll() is not None, seconds=300, what="the first shard")
        build.send_signal(signal.SIGINT)
        build.send_signal(signal.SIGTERM)
        assert build.wait(timeout=10) in {130, 143}
    assert differing(finished(tiny_coco, run), undisturbed) == []


def test_too_few_file_handles_are_one_line(tiny_coco: Path, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    """`ulimit -n 20`: what is wrong, how to mend it; with enough of them the same command goes on."""
    run = tmp_path / "run"
    assert "too many open files; raise the limit (ulimit -n)" in refused(tiny_coco, run, handles=20)
    assert differing(finished(tiny_coco, run), undisturbed) == []


def _mount(place: Path, *options: str) -> bool:
    mount = shutil.which("mount")
    return (
        mount is not None and not subprocess.run([mount, *options, place], check=False, capture_output=True).returncode
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return the mount point of a disk of 500 kB, or skip where none may be mounted.

    The plan takes 50 kB of it and each of the four shards 140 kB: whatever two workers write at once, when the disk is
    full one shard is done, and not all are.
    """
    place = tmp_path / "disk"
    place.mkdir()
    if not _mount(place, "-t", "tmpfs", "-o", "size=500k", "tmpfs"):
        pytest.skip("no right to mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_under_the_workers_is_one_line(
    tiny_coco: Path, disk: Path, undisturbed: dict[str, str]
) -> None:
    """Shards that fitted stay and are not touched again; with more room the same command makes the rest."""
    run = disk / "run"
    assert "the disk is full; free some space" in refused(tiny_coco, run)
    done = {path.stem for path in (run / "done").glob("*.json")}
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.tar") if path.stem in done}
    assert before
    assert _mount(disk, "-o", "remount,size=16m")
    assert differing(finished(tiny_coco, run), undisturbed) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_disk_that_turns_read_only_is_one_line(tiny_coco: Path, disk: Path) -> None:
    """A finished run on it can be told and proved, not extended; writable again, it is extended."""
    run = disk / "run"
    assert _mount(disk, "-o", "remount,size=16m")
    before = finished(tiny_coco, run, samples=6)
    assert _mount(disk, "-o", "remount,ro")
    assert "the file system is read-only; choose another --output" in refused(tiny_coco, run)
    assert hashes(Layout(run)) == before
    assert read_status(run).state == "finished"
    assert list(verify_run(Layout(run))) == []
    assert _mount(disk, "-o", "remount,rw")
    after = finished(tiny_coco, run)
    assert {path: digest for path, digest in before.items() if path != "manifest.json"}.items() <= after.items()


@pytest.fixture(scope="module")
def kills(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Kill]:
    """Kill builds ten times, see `tests/flows/kills.py`; it raises where a byte, a sample or a file is amiss."""
    folder = tmp_path_factory.mktemp("kills")
    return list(kill_builds(folder, kills=10, seed=7, options=options_of(tiny_coco)))


@pytest.mark.slow
def test_builds_killed_ten_times_end_in_the_same_bytes(kills: Sequence[Kill]) -> None:
    """Main process, worker or both, at moments drawn from a seed: nothing is amiss, and the targets were all tried."""
    assert len(kills) == 10
    assert len({kill.what for kill in kills}) >= 2
