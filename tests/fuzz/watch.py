"""Run cases in a process of its own and look after it: how long a case takes, how much memory, how it ends."""

from __future__ import annotations

import json
import math
import mmap
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from tests.fuzz.target import Refused, Target

ROOT: Final = Path(__file__).resolve().parents[2]
MOST_SECONDS: Final = 5.0
"""Of processor time a case may take; a shared machine makes the time on the wall mean little."""
MOST_WALL_SECONDS: Final = 120.0
"""A case that waits, for a pipe perhaps, uses no processor."""
MOST_BYTES: Final = 2_000_000_000
"""Of resident memory, the libraries' own (0.3 to 0.5 GB with torch) included."""

_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder in it has a random name
_STATE: Final = struct.Struct("<qqdd")  # number of the target, of the case, processor seconds and time at its begin


@dataclass
class Outcome:
    """What came out of the cases of one target.

    Attributes:
        taken: Cases that were read without complaint; `refused` those with a reason, or one line.
        seconds: Processor time, of all cases together; `slowest` of one.
        peak: Most resident memory in bytes during any case.
        failures: One for each case that broke the promise: its number, and what happened.
    """

    cases: int = 0
    taken: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    peak: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)


def case_of(target: Target, seeds: Sequence[bytes], *, seed: int, number: int) -> bytes:
    """Return a case: the seeds themselves first, then changed ones."""
    if number < len(seeds):
        return seeds[number]
    rng = random.Random(f"{target.name}:{seed}:{number}")
    return target.change(rng.choice(seeds[: target.mutable or len(seeds)]), rng)


@dataclass(frozen=True)
class Work:
    """What is to be run.

    Attributes:
        names: Of the targets.
        cases: Changed ones of each target, times its share; the hand-made ones come before them.
        seed: Of the changes.
        first: Number of the first case.
        seconds: On the wall, after which a target ends, whatever is left of its changed cases.
        short: Whether the largest files that may just be read are left out: each takes seconds.
    """

    names: Sequence[str]
    cases: int
    seed: int
    first: int = 0
    seconds: float | None = None
    short: bool = False


def fuzz(work: Work, *, keep: Path | None = None) -> dict[str, Outcome]:
    """Run the cases of each target; a child that dies, hangs or swells is a failure and replaced.

    Args:
        work: What is to be run.
        keep: Folder for the files that broke the promise.
    """
    outcomes = {name: Outcome() for name in work.names}
    # in memory where there is such a folder: a disk takes longer to forget a file than a reader to refuse it
    with tempfile.TemporaryDirectory(prefix="hcoco-fuzz-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as folder:
        start: tuple[int, int] | None = (0, work.first)
        while start is not None:
            start = _one_child(work, outcomes, Path(folder), start, keep)
    return outcomes


def _one_child(
    work: Work, outcomes: dict[str, Outcome], place: Path, start: tuple[int, int], keep: Path | None
) -> tuple[int, int] | None:
    """Run one child to its end; return where the next one begins, None where all is done."""
    state, said = place / "state", place / "said"
    state.write_bytes(bytes(_STATE.size))
    said.write_bytes(b"")
    (place / "scratch").mkdir()
    given = {"work": asdict(work), "start": start, "place": str(place)}
    with (place / "noise").open("wb") as noise:  # of libraries that tell what they think of a file
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.fuzz",
                "--child",
                json.dumps(given),
                *(["--keep", str(keep)] if keep else []),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "HCOCO_CACHE": str(place / "cache"),
                "TMPDIR": str(place / "scratch"),
                "OMP_NUM_THREADS": "1",
                "NUMBA_NUM_THREADS": "1",
                "OPENCV_LOG_LEVEL": "SILENT",
            },
            stdin=subprocess.DEVNULL,
            stdout=noise,
            stderr=noise,
        )
        with state.open("rb") as file, mmap.mmap(file.fileno(), _STATE.size, access=mmap.ACCESS_READ) as shared:
            end = _look_after(child, shared)
            number, case, _, _ = _STATE.unpack(shared[:])
    for line in said.read_text().splitlines():
        _add(outcomes, json.loads(line))
    if child.returncode == 0:
        return None
    if case < 0 or (child.returncode > 0 and end is None):
        tail = (place / "noise").read_bytes()[-3000:].decode(errors="replace")
        raise RuntimeError(f"the fuzzing process itself failed, in {work.names[number]}, {child.returncode}: {tail}")
    if keep:
        (keep / "at-work").rename(keep / f"{work.names[number]}-{case}")
    outcome = outcomes[work.names[number]]
    outcome.cases += 1
    if end is None:
        outcome.failures.append((case, f"the process ended with {child.returncode}"))
    else:
        outcome.failures.append((case, str(end)))
        outcome.slowest, outcome.peak = max(outcome.slowest, end.used), max(outcome.peak, end.resident)
    shutil.rmtree(place / "scratch")
    return number, case + 1


@dataclass(frozen=True)
class _Killed:
    """What a child was killed for: processor time and time on the wall in seconds, resident bytes."""

    used: float
    waited: float
    resident: int

    def __str__(self) -> str:
        return f"{self.used:.1f} s of processor time, {self.waited:.1f} s in all, {self.resident / 1e9:.2f} GB"


def _look_after(child: subprocess.Popen[bytes], shared: mmap.mmap) -> _Killed | None:
    """Wait for a child's end; kill it where a case takes too long or too much, and say so."""
    page, tick = resource.getpagesize(), os.sysconf("SC_CLK_TCK")
    while child.poll() is None:
        time.sleep(0.02)
        before = shared[:]
        _, _, cpu, began = _STATE.unpack(before)
        try:
            resident = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * page
            times = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        except (OSError, IndexError):
            continue
        if not began or shared[:] != before:  # between two cases, or at the next one
            continue
        now = _Killed(sum(map(int, times)) / tick - cpu, time.time() - began, resident)
        if now.resident > MOST_BYTES or now.used > MOST_SECONDS or now.waited > MOST_WALL_SECONDS:
            child.kill()
            child.wait()
            return now
    return None


def _add(outcomes: dict[str, Outcome], said: dict[str, object]) -> None:
    outcome = outcomes[str(said.pop("name"))]
    for name, value in said.items():
        before = getattr(outcome, name)
        setattr(outcome, name, max(before, value) if name in {"slowest", "peak"} else before + value)
    outcome.failures = [(int(number), str(what)) for number, what in outcome.failures]


def run_child(
    targets: dict[str, Target], work: Work, *, place: Path, start: tuple[int, int], keep: Path | None
) -> None:
    """Run the cases of some targets in this process, noting each before it begins.

    Args:
        targets: By name.
        work: What is to be run.
        place: Folder of the watcher.
        start: Number of the target and of the case to begin with.
        keep: Folder for the files that broke the promise.
    """
    with (place / "state").open("r+b") as file, mmap.mmap(file.fileno(), _STATE.size) as shared:
        for number, name in enumerate(work.names[start[0] :], start=start[0]):
            target = targets[name]
            shared[:] = _STATE.pack(number, -1, 0.0, 0.0)
            seeds = [*target.seeds(), *(() if work.short else target.largest())]
            last = work.first + len(seeds) + max(1, round(work.cases * target.share))
            ends = math.inf if work.seconds is None else time.monotonic() + work.seconds
            for case in range(start[1] if number == start[0] else work.first, last):
                if case >= len(seeds) and time.monotonic() > ends:
                    break
                data = case_of(target, seeds, seed=work.seed, number=case)
                shared[:] = _STATE.pack(number, case, _processor_seconds(), time.time())
                outcome = _one_case(target, data, case, keep)
                shared[:] = _STATE.pack(number, case, 0.0, 0.0)
                _say(place, name, outcome)


def _one_case(target: Target, data: bytes, number: int, keep: Path | None) -> Outcome:
    outcome = Outcome(cases=1)
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest memory so far
    if keep:
        (keep / "at-work").write_bytes(data)
    began = _processor_seconds()
    try:
        target.run(data)
        outcome.taken += 1
    except Refused:
        outcome.refused += 1
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        here = [
            f for f in frames if "/tests/" not in f.filename and str(ROOT) in f.filename and ".venv" not in f.filename
        ]
        where = f"{Path(here[-1].filename).relative_to(ROOT)}:{here[-1].lineno}" if here else str(frames[-1])
        message = (str(error).splitlines() or [""])[0][:160]
        outcome.failures.append((number, f"{type(error).__name__} at {where}: {message}"))
        if keep:
            (keep / f"{target.name}-{number}").write_bytes(data)
            (keep / f"{target.name}-{number}.txt").write_text(
                "".join(traceback.format_exception(error))[-6000:], errors="replace"
            )
    outcome.seconds = outcome.slowest = _processor_seconds() - began
    outcome.peak = _peak_bytes()
    if outcome.peak > MOST_BYTES or outcome.slowest > MOST_SECONDS:
        outcome.failures.append((number, f"{outcome.slowest:.1f} s of processor time, {outcome.peak / 1e9:.2f} GB"))
    return outcome


def _say(place: Path, name: str, outcome: Outcome) -> None:
    with (place / "said").open("a") as file:
        file.write(json.dumps({"name": name, **vars(outcome)}) + "\n")


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024
