"""Run cases in a process of its own and look after it: how long a case takes, how much memory, how it ends."""

from __future__ import annotations

import json
import mmap
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
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


def fuzz(
    names: Sequence[str],
    *,
    cases: int,
    seed: int,
    first: int = 0,
    keep: Path | None = None,
    seconds: float | None = None,
) -> dict[str, Outcome]:
    """Run cases `first` to `first + cases` of each target; a child that dies, hangs or swells is a failure and replaced.

    Args:
        names: Of the targets.
        cases: Of each target, times its share.
        seed: Of the changes.
        first: Number of the first case.
        keep: Folder for the files that broke the promise.
        seconds: On the wall, after which a target ends, whatever is left of its changed cases.
    """
    outcomes = {name: Outcome() for name in names}
    with tempfile.TemporaryDirectory(prefix="hcoco-fuzz-") as folder:
        place = Path(folder)
        start: tuple[int, int] | None = (0, first)
        while start is not None:
            start = _one_child(
                names, outcomes, place, cases=cases, seed=seed, first=first, start=start, keep=keep, seconds=seconds
            )
    return outcomes


def _one_child(
    names: Sequence[str],
    outcomes: dict[str, Outcome],
    place: Path,
    *,
    cases: int,
    seed: int,
    first: int,
    start: tuple[int, int],
    keep: Path | None,
    seconds: float | None,
) -> tuple[int, int] | None:
    """Run one child to its end; return where the next one begins, None where all is done."""
    state, said = place / "state", place / "said"
    state.write_bytes(bytes(_STATE.size))
    said.write_bytes(b"")
    work = {
        "names": list(names),
        "cases": cases,
        "seed": seed,
        "first": first,
        "start": start,
        "place": str(place),
        "seconds": seconds,
    }
    (place / "scratch").mkdir(exist_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz", "--child", json.dumps(work), *(["--keep", str(keep)] if keep else [])],
        cwd=ROOT,
        env={
            **os.environ,
            "HCOCO_CACHE": str(place / "cache"),
            "TMPDIR": str(place / "scratch"),
            "OMP_NUM_THREADS": "1",
        },
        stdin=subprocess.DEVNULL,
    )
    with state.open("rb") as file, mmap.mmap(file.fileno(), _STATE.size, access=mmap.ACCESS_READ) as shared:
        why = _look_after(child, shared)
        number, case, _, _ = _STATE.unpack(shared[:])
    for line in said.read_text().splitlines():
        _add(outcomes, json.loads(line))
    if child.returncode == 0:
        return None
    if case < 0 or (child.returncode > 0 and not why):
        raise RuntimeError(f"the fuzzing process itself failed, in {names[number]}: {why or child.returncode}")
    outcome = outcomes[names[number]]
    outcome.cases += 1
    outcome.failures.append((case, why or f"the process ended with {child.returncode}"))
    return number, case + 1


def _look_after(child: subprocess.Popen[bytes], shared: mmap.mmap) -> str:
    """Wait for a child's end; kill it where a case takes too long or too much, and say so."""
    page, tick = resource.getpagesize(), os.sysconf("SC_CLK_TCK")
    while child.poll() is None:
        time.sleep(0.02)
        try:
            resident = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * page
            times = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        except (OSError, IndexError):
            continue
        number, case, cpu, began = _STATE.unpack(shared[:])
        if not began:
            continue
        used = sum(map(int, times)) / tick - cpu
        why = ""
        if resident > MOST_BYTES:
            why = f"{resident / 1e9:.1f} GB of memory"
        elif used > MOST_SECONDS or time.time() - began > MOST_WALL_SECONDS:
            why = f"{used:.1f} s of processor time, {time.time() - began:.1f} s in all"
        if why and (number, case) == _STATE.unpack(shared[:])[:2]:
            child.kill()
            child.wait()
            return why
    return ""


def _add(outcomes: dict[str, Outcome], said: dict[str, object]) -> None:
    outcome = outcomes[str(said.pop("name"))]
    for name, value in said.items():
        before = getattr(outcome, name)
        setattr(outcome, name, max(before, value) if name in {"slowest", "peak"} else before + value)
    outcome.failures = [(int(number), str(what)) for number, what in outcome.failures]


def run_child(targets: dict[str, Target], work: dict[str, object], keep: Path | None) -> None:
    """Run the cases of some targets in this process, noting each before it begins."""
    place = Path(str(work["place"]))
    names = [str(name) for name in work["names"]]  # type: ignore[attr-defined]
    with (place / "state").open("r+b") as file, mmap.mmap(file.fileno(), _STATE.size) as shared:
        start_target, start_case = work["start"]  # type: ignore[misc]
        for number, name in enumerate(names[start_target:], start=start_target):
            target = targets[name]
            shared[:] = _STATE.pack(number, -1, 0.0, 0.0)
            seeds = target.seeds()
            count = max(len(seeds), round(int(work["cases"]) * target.share))  # type: ignore[call-overload]
            begin = start_case if number == start_target else int(work["first"])  # type: ignore[call-overload]
            outcome, ends = Outcome(), time.monotonic() + float(work["seconds"] or 1e9)  # type: ignore[arg-type]
            for case in range(begin, int(work["first"]) + count):  # type: ignore[call-overload]
                if case >= len(seeds) and time.monotonic() > ends:
                    break
                data = case_of(target, seeds, seed=int(work["seed"]), number=case)  # type: ignore[call-overload]
                shared[:] = _STATE.pack(number, case, _processor_seconds(), time.time())
                _one_case(target, data, case, outcome, keep)
                shared[:] = _STATE.pack(number, case, 0.0, 0.0)
                if outcome.cases >= 20 or outcome.failures:
                    _say(place, name, outcome)
                    outcome = Outcome()
            _say(place, name, outcome)


def _one_case(target: Target, data: bytes, number: int, outcome: Outcome, keep: Path | None) -> None:
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
    seconds = _processor_seconds() - began
    outcome.cases += 1
    outcome.seconds += seconds
    outcome.slowest = max(outcome.slowest, seconds)
    peak = _peak_bytes()
    outcome.peak = max(outcome.peak, peak)
    if peak > MOST_BYTES or seconds > MOST_SECONDS:
        outcome.failures.append((number, f"{seconds:.1f} s, {peak / 1e9:.2f} GB"))


def _say(place: Path, name: str, outcome: Outcome) -> None:
    with (place / "said").open("a") as file:
        file.write(json.dumps({"name": name, **vars(outcome)}) + "\n")


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024
