"""Kill real builds by -9 at moments drawn from a seed, begin them again until they end, and compare every byte.

    python -m tests.flows.kills build --kills 100 --seed 1
    python -m tests.flows.kills build --kills 100 -- --source FOLDER --samples 24 --shard-size 3 --gate off
    python -m tests.flows.kills deployment --kills 10 --seed 1

`build` starts `hcoco build` and kills its main process, a process of its pool, or both at once, as a machine that
loses power does. `deployment` starts a Prefect server, a worker and the deployment `build-hcoco` in a copy of this
project, on a port of its own, and kills any of them. What is killed is begun again by the same command, killed
again, and so on until it comes to its end; each target comes once before any comes twice. Then the run must hold the bytes of a build that nobody disturbed (every
file, the two times in the markers left out), its counts must add up in every marker, in the index and in the
manifest, no temporary file may be left, and `verify` must pass.

Prints a line a kill and the sums. Ends with 1, and leaves the run to be looked at, where anything is amiss.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from flows import services
from flows.make.verify import verify_run
from flows.services import Process, Services
from flows.store.layout import Layout
from flows.store.lock import is_held

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ("--source", "sample", "--samples", "8", "--shard-size", "2", "--workers", "2")
"""Both stages, gated, in nine shards: what of the embedded sample takes some ten seconds."""

TIMES: Final = ("seconds", "finished")
"""What of a marker may differ."""

MOST_OF_POOL: Final = 2
"""Processes of a pool that are killed in one build: it gives up, rightly, where its work dies again and again."""


OF_A_BUILD: Final = ("build", "pool", "build and pool")
OF_A_DEPLOYMENT: Final = ("flow", "pool", "worker", "server", "flow and worker", "all")
"""What is killed, each once before any comes again."""


WITHOUT_POOL: Final = ("finishing", "pages")
"""Phases in which no shard is left to make."""


class AmissError(AssertionError):
    """Something was lost, differs, or does not end."""


@dataclass(frozen=True)
class Kill:
    """What was killed, and when.

    Attributes:
        what: Name of the target.
        seconds: Since the build took the run's lock.
        phase: How far the run was.
    """

    what: str
    seconds: float
    phase: str


@dataclass(frozen=True)
class Whole:
    """An undisturbed build, to compare with.

    Attributes:
        contents: Digest by path below the run.
        size: Bytes of all files.
        seconds: From when it took the lock to its end.
    """

    contents: dict[str, str]
    size: int
    seconds: float


# ---------------------------------------------------------------------------------------------- what must hold


def contents(run: Path) -> dict[str, str]:
    """Return a digest of every file of a run by its path: of markers without their times; the lock is none."""
    found = {}
    for path in sorted(run.rglob("*")):
        if not path.is_file() or path == Layout(run).lock:
            continue
        data = path.read_bytes()
        if path.parent.name == "done":
            data = json.dumps({name: value for name, value in json.loads(data).items() if name not in TIMES}).encode()
        found[path.relative_to(run).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def faults(run: Path, whole: Whole) -> list[str]:
    """Say what of a finished run is not as it must be; nothing where all is well."""
    found, layout = contents(run), Layout(run)
    wrong = [
        f"{path} {'differs' if path in found and path in whole.contents else 'is missing or new'}"
        for path in sorted({*found, *whole.contents})
        if found.get(path) != whole.contents.get(path)
    ]
    rows = [row for path in (run / "index").glob("*.parquet") for row in pq.read_table(path, columns=["status"]).to_pylist()]  # fmt: skip
    counted = Counter(row["status"] for row in rows)
    told = [json.loads(layout.manifest.read_text())["counts"]]
    markers = [json.loads(path.read_text()) for path in layout.done("x").parent.glob("*.json")]
    wrong += [
        f"planned {each['planned']}, kept {each['kept']}, rejected {each['rejected']}"
        for each in (*told, *markers)
        if each["planned"] != each["kept"] + each["rejected"]
    ]
    for name, value in {**counted, "planned": len(rows)}.items():
        if value != told[0][name] or value != sum(each[name] for each in markers):
            wrong.append(f"{name}: {value} in the index, otherwise elsewhere")
    return [*wrong, *map(str, verify_run(layout))]


def phase_of(run: Path) -> str:
    """Say how far a run is, by what lies on disk."""
    layout = Layout(run)
    if not layout.plan.is_file():
        return "planning"
    shards = len(json.loads(layout.plan.read_text())["shards"])
    done = len(list(layout.done("x").parent.glob("*.json")))
    if done < shards:
        return f"{done} of {shards} shards"
    return "pages" if layout.manifest.is_file() else "finishing"


# ---------------------------------------------------------------------------------------------- hcoco build


def command(*words: str) -> list[str]:
    """Return a command line of `hcoco`, by this Python."""
    return [sys.executable, "-m", "flows.cli", *words]


def build_whole(output: Path, options: Sequence[str]) -> Whole:
    """Build undisturbed, twice: the first fills caches, the second is timed; both must be the same bytes."""
    made = []
    for name in ("first", "second"):
        run = output / name / "run"
        with started(run, options) as build:
            until_locked(build, run)
            began = time.monotonic()
            end_well(build)
            seconds = time.monotonic() - began
        size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
        made.append(Whole(contents(run), size, seconds))
    first, whole = made
    if first.contents != whole.contents:
        raise AmissError("two undisturbed builds differ")
    say(f"undisturbed: {len(whole.contents)} files, {whole.size} bytes, {whole.seconds:.1f} s under the lock")
    return whole


@contextlib.contextmanager
def started(run: Path, options: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a build of `run`; at the end nothing of it is left, however it went."""
    words = command("build", *options, "--output", str(run.parent), "--run", run.name, "--json")
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as build:
        try:
            yield build
        finally:
            build.kill()
            build.communicate()


def until_locked(build: subprocess.Popen[str], run: Path) -> None:
    """Wait until a build holds its run's lock, or is over."""
    wait_until(lambda: bool(is_held(Layout(run).lock)) or build.poll() is not None, seconds=300, what="a build")


def end_well(build: subprocess.Popen[str]) -> None:
    """Wait for the end of a build, which must be a good one."""
    _, said = build.communicate(timeout=600)
    if build.returncode != 0:
        raise AmissError(f"a build ended with {build.returncode}: {said}")


def kill_builds(folder: Path, *, kills: int, seed: int, options: Sequence[str] = BUILD) -> Iterator[Kill]:
    """Kill builds until `kills` are done, and yield them; what is under way then comes to its end, and is looked at.

    Raises:
        AmissError: A build does not end well, or its run is not what it must be.
    """
    draw, number = random.Random(seed), 0
    whole = build_whole(folder / "undisturbed", options)
    targets = islice(in_turn(draw, OF_A_BUILD), kills)
    what = next(targets, None)
    while what is not None:
        run, ended = folder / f"build-{number}" / "run", False
        while not ended:
            with started(run, options) as build:
                until_locked(build, run)
                began = time.monotonic()
                for _ in range(MOST_OF_POOL):
                    kill = disturb(build, run, draw, what=what, began=began, span=whole.seconds) if what else None
                    if kill is None:
                        break
                    what = next(targets, None)
                    yield kill
                if build.poll() != -signal.SIGKILL:
                    end_well(build)
                    ended = True
        look_at(run, whole)
        number += 1
    say(f"builds that were killed and came to their end: {number}")


def in_turn(draw: random.Random, targets: Sequence[str]) -> Iterator[str]:
    """Yield all targets in an order that is drawn, then in another, for ever."""
    while True:
        yield from draw.sample(targets, len(targets))


def disturb(
    build: subprocess.Popen[str], run: Path, draw: random.Random, *, what: str, began: float, span: float
) -> Kill | None:
    """Kill something of one build, and wait for its end where that ends it; None where it ended before."""
    await_moment(run, draw, shards=what == "pool", span=span, over=lambda: build.poll() is not None)
    pool, phase = children(build.pid), phase_of(run)
    if build.poll() is not None or (what == "pool" and (not pool or phase in WITHOUT_POOL)):
        return None
    victims = [draw.choice(pool)] if what == "pool" else [build.pid, *(pool if "pool" in what else [])]
    kill = Kill(what, time.monotonic() - began, phase)
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if what != "pool":
        build.wait()
    return kill


def await_moment(run: Path, draw: random.Random, *, shards: bool, span: float, over: Callable[[], bool]) -> None:
    """Wait for a moment drawn from a seed, or until the build is over.

    Half of them are any moment of the time that a build takes; the others, and all where `shards`, lie while shards
    are made, which is the shorter part of a small build: soon after a drawn number of further shards is done.
    """
    shards, begun = shards or draw.random() < 0.5, len(list(Layout(run).done("x").parent.glob("*.json")))
    wanted, wait = begun + draw.randint(0, 2), draw.uniform(0, min(1.0, span / 10) if shards else span)

    def come() -> bool:
        return (
            over()
            or not shards
            or phase_of(run) in WITHOUT_POOL
            or (Layout(run).plan.is_file() and len(list(Layout(run).done("x").parent.glob("*.json"))) >= wanted)
        )

    wait_until(come, seconds=600, what="a shard")
    moment = time.monotonic() + wait
    while time.monotonic() < moment and not over():
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """Return the processes right below one, whichever of its threads began them: of a build, its pool and its watchers."""
    found = list[int]()
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, listed.read_text().split())
    return sorted(found)


def look_at(run: Path, whole: Whole) -> None:
    """Compare a finished run with an undisturbed one, and remove it.

    Raises:
        AmissError: It differs.
    """
    if wrong := faults(run, whole):
        raise AmissError(f"{run}: {'; '.join(wrong[:5])} ({len(wrong)} in all)")
    shutil.rmtree(run.parent)
    say(f"      {run.parent.name}: the bytes of an undisturbed build, and verified")


# ---------------------------------------------------------------------------------------------- deployments


def copy_project(root: Path) -> None:
    """Copy this project, as far as deployed builds need it."""
    for name in ("augment", "flows", "realism"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", root / "pyproject.toml")
    ours = (ROOT / "prefect.yaml").read_text()
    (root / "prefect.yaml").write_text(ours.partition("  - name: train-realism")[0])  # each one takes seconds to deploy


def free_port() -> int:
    """Return a port that nobody uses, above those that `hcoco up` tries by itself."""
    return services._free_port(random.SystemRandom().randrange(20_000, 32_000), fixed=False)


@contextlib.contextmanager
def deployed(root: Path) -> Iterator[Callable[[], Services]]:
    """Yield a function that brings the services of a copied project up; at the end they are down."""
    copy_project(root)
    port = free_port()
    try:
        yield lambda: services.up(root=root, port=port)
    finally:
        services.down(root=root)


def parameters_of(options: Sequence[str]) -> dict[str, Any]:
    """Return the options of a build as a deployment takes them: numbers as numbers."""
    pairs = zip(options[::2], options[1::2], strict=True)
    return {
        name.removeprefix("--").replace("-", "_"): int(value) if value.isdigit() else value for name, value in pairs
    }


def submit(now: Services, parameters: dict[str, Any]) -> str:
    """Have the deployment `build-hcoco` run; return the id of the flow run."""
    found = services._request(f"{now.api_url}/deployments/name/build-hcoco/build-hcoco")
    url = f"{now.api_url}/deployments/{found['id']}/create_flow_run"
    made = services._request(url, body={"parameters": parameters, "state": {"type": "SCHEDULED"}})
    return str(made["id"])


def state_of(now: Services, run: str) -> dict[str, Any]:
    """Return the state of a flow run, or one of type UNKNOWN where the server does not answer."""
    try:
        return dict(services._request(f"{now.api_url}/flow_runs/{run}")["state"])
    except OSError:
        return {"type": "UNKNOWN", "message": ""}


FINAL: Final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
NOT_BEGUN: Final = ("SCHEDULED", "PENDING")
"""A worker may yet begin such a flow run: it waits for one, however long that takes."""


def kill_deployments(folder: Path, *, kills: int, seed: int, options: Sequence[str] = BUILD) -> Iterator[Kill]:
    """Do the same to deployments: the flow run's process, its pool, Prefect's worker and server, and all of them."""
    draw = random.Random(seed)
    whole = build_whole(folder / "undisturbed", options)
    with deployed(folder / "project") as up:
        targets = islice(in_turn(draw, OF_A_DEPLOYMENT), kills)
        yield from kill_deployed(up, folder, draw, whole=whole, targets=targets, options=options)


def kill_deployed(
    up: Callable[[], Services],
    folder: Path,
    draw: random.Random,
    *,
    whole: Whole,
    targets: Iterator[str],
    options: Sequence[str],
) -> Iterator[Kill]:
    """Kill targets of deployed builds, one after the other, and yield the kills; what is under way comes to its end."""
    given, flow_runs, number = parameters_of(options), list[str](), 0
    now, what = up(), next(targets, None)
    while what is not None:
        run, ended = folder / f"build-{number}" / "run", False
        while not ended:
            flow_runs.append(submit(now, {**given, "output": str(run.parent), "run": run.name}))
            kill = disturb_deployment(now, run, flow_runs[-1], draw, what=what, span=whole.seconds) if what else None
            if kill is not None:
                what = next(targets, None)
                yield kill
                now = up()
            ended = come_to_end(now, run, flow_runs[-1])
        look_at(run, whole)
        number += 1
    say(f"runs that were killed and came to their end: {number}; flow runs: {end_states(now, flow_runs)}")


def disturb_deployment(
    now: Services, run: Path, flow_run: str, draw: random.Random, *, what: str, span: float
) -> Kill | None:
    """Kill a part of a deployed build at a moment drawn from the time that it takes; None where it ended before."""

    def begun() -> bool:
        return bool(is_held(Layout(run).lock)) or state_of(now, flow_run)["type"] in FINAL

    wait_until(begun, seconds=300, what="a flow run")
    began = time.monotonic()
    await_moment(
        run,
        draw,
        shards=what == "pool",
        span=span,
        over=lambda: not is_held(Layout(run).lock) and state_of(now, flow_run)["type"] in FINAL,
    )
    flows = services._flow_runs(now.root)
    flows = tuple(process for process in flows if children(process.pid)) or flows
    if state_of(now, flow_run)["type"] in FINAL or not flows:
        return None
    pool, phase = [pid for process in flows for pid in children(process.pid)], phase_of(run)
    if what == "pool" and (not pool or phase in WITHOUT_POOL):
        return None
    kill = Kill(what, time.monotonic() - began, phase)
    if what == "pool":
        os.kill(draw.choice(pool), signal.SIGKILL)
        return kill
    running = services.status(root=now.root)
    known = {"worker": running.worker, "server": running.server}
    victims: list[Process] = [each for name, each in known.items() if name in what and each is not None]
    victims += flows if "flow" in what else []
    if what == "all":
        victims = list(services._marked(now.root))
    services._signal(victims, signal.SIGKILL)
    services._wait_until_gone(victims, seconds=20)
    return kill


def come_to_end(now: Services, run: Path, flow_run: str) -> bool:
    """Wait until a flow run is over and nobody works in its folder; say whether it completed."""
    ended = time.monotonic() + 400
    while True:
        state = state_of(now, flow_run)
        if state["type"] in FINAL and not is_held(Layout(run).lock):
            break
        begun = state["type"] not in NOT_BEGUN
        if begun and not is_held(Layout(run).lock) and not services._flow_runs(now.root):
            time.sleep(1)
            if state_of(now, flow_run)["type"] not in FINAL and not services._flow_runs(now.root):
                break  # its process is gone, and nobody has told the server yet
        if time.monotonic() > ended:
            raise AmissError(f"flow run {flow_run} does not end: {state['type']} {state['message']}")
        time.sleep(0.2)
    if state["type"] == "FAILED":
        raise AmissError(f"flow run {flow_run} failed: {state['message']}")
    return str(state_of(now, flow_run)["type"]) == "COMPLETED"


def end_states(now: Services, flow_runs: Sequence[str]) -> dict[str, int]:
    """Wait until no flow run is said to be at work, and count how they ended."""
    wait_until(lambda: all(state_of(now, each)["type"] in FINAL for each in flow_runs), seconds=240, what="a lost run")
    return dict(Counter(state_of(now, each)["type"] for each in flow_runs))


# ---------------------------------------------------------------------------------------------- the command


def wait_until(claim: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Wait until `claim` holds."""
    end = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > end:
            raise AmissError(f"{what} did not get there in {seconds:.0f} s")
        time.sleep(0.01)


def say(line: str) -> None:
    """Print a line, at once."""
    print(line, flush=True)  # noqa: T201 - a command


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.flows.kills", description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("build", "deployment"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to build; a temporary folder where not given")
    parser.epilog = f"What follows `--` are options of the build; without: {' '.join(BUILD)}"
    words, _, options = (" ".join(sys.argv[1:] if arguments is None else arguments)).partition(" -- ")
    given = parser.parse_args(words.split())
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    began, done = time.monotonic(), list[Kill]()
    campaign = kill_builds if given.what == "build" else kill_deployments
    try:
        for kill in campaign(folder, kills=given.kills, seed=given.seed, options=options.split() or BUILD):
            done.append(kill)
            say(f"{len(done):4d}  {kill.what:15}  after {kill.seconds:6.2f} s, {kill.phase}")
    except AmissError as amiss:
        say(f"amiss after {len(done)} kills: {amiss}")
        return 1
    told = ", ".join(f"{what} {count}" for what, count in sorted(Counter(kill.what for kill in done).items()))
    phases = Counter("shards" if "shards" in kill.phase else kill.phase for kill in done)
    say(f"{len(done)} kills ({told}; {dict(phases)}) in {time.monotonic() - began:.0f} s: nothing is amiss")
    if given.folder is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
