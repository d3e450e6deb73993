"""Bring a Prefect server, its work pool, the deployments and a worker up and down, for this project alone.

Everything lives under `.prefect` in the project's folder: the database, the logs, a lock and the state file
`services.json`. The user's own Prefect home, profile and server are neither read nor written, and no `PREFECT_*`
variable of the user's reaches our processes.

Two things tell that a process is ours: the state file names its id *and* its start time (an id alone may have
been given to a stranger since), and its environment carries `MARKER` with this project's folder. The second still
finds what a lost state file forgot, and the flow runs below a worker that was killed.

Only the standard library is imported here, so that `hcoco --help` and the Prefect plugin stay quick.
Linux only, for `/proc`; elsewhere `hcoco build` makes the same run without Prefect.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from flows.errors import BadRequest
from flows.objects import is_address

HOME: Final = ".prefect"
HOST: Final = "127.0.0.1"
PORT: Final = 4217
"""First port that is tried; Prefect's own 4200 is left to the user's server."""
POOL: Final = "hcoco"
DEPLOYMENTS: Final = ("build-hcoco", "train-realism", "train-fusion", "self-teach", "train")
"""Names of this project's flows, each deployed under its own name; the ones in prefect.yaml exist already."""
MARKER: Final = "HCOCO_SERVICES"
LAST_RUN: Final = "HCOCO_LAST_RUN"
"""Environment variable of a flow run: the file where it leaves the folder of the run that it made."""

HEARTBEAT_SECONDS: Final = 30
"""Time between two signs of life of a flow run; Prefect allows no shorter one."""

SILENT_SECONDS: Final = 90
"""Silence after which a flow run is taken for lost: three signs of life, so that a busy machine is not mistaken."""

_PORTS_TRIED = 50
_SERVER_SECONDS = 180.0  # a first start migrates the database: 14 s measured on two cores, more on a loaded machine
_WORKER_SECONDS = 90.0
_DEPLOY_SECONDS = 180.0
_LOCK_SECONDS = 300.0
_STOP_SECONDS = 10.0
_WORKER_STOP_SECONDS = 4.0  # with a run just ended it drains for 30 s more (measured), and has nothing left to say
_EVENT_SECONDS = 1.0  # for a `--watch` in another terminal to hear from the server how its run ended
_ANSWER_SECONDS = 10.0
_SLOW_ANSWER_SECONDS = 60.0  # of a server that has just started, where much else runs
_BUSY_TRIES = 10
_BUSY_SECONDS = 1.0
_LOG_BYTES = 5_000_000

_LAUNCH = """
import subprocess, sys
with open(sys.argv[1], "ab") as log:
    print(subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True).pid)
"""
"""A service is started by a process that ends at once: it gets init as its parent, and leaves the terminal."""


@dataclass(frozen=True)
class Process:
    """A process, told from a later one with the same id by when it started (boot id and clock ticks since)."""

    pid: int
    started: str


@dataclass(frozen=True)
class Services:
    """What runs for a project: `server` and `worker` are None where dead; `started` names what this call started."""

    root: Path
    port: int | None = None
    server: Process | None = None
    worker: Process | None = None
    deployed: str | None = None
    started: tuple[str, ...] = ()

    @property
    def url(self) -> str | None:
        """Return the address of the server's dashboard, or None where no port is known."""
        return None if self.port is None else f"http://{HOST}:{self.port}"

    @property
    def api_url(self) -> str | None:
        """Return the address of the server's API, or None where no port is known."""
        return None if self.url is None else f"{self.url}/api"

    @property
    def are_up(self) -> bool:
        """Say whether both the server and the worker are alive."""
        return self.server is not None and self.worker is not None


def project_root() -> Path:
    """Return the folder that holds this package: the project's root in a checkout."""
    return Path(__file__).resolve().parents[1]


def status(*, root: Path) -> Services:
    """Say what runs, without starting, stopping or asking anything over the network."""
    known = _read_state(root.resolve())
    return replace(known, server=_if_alive(known.server), worker=_if_alive(known.worker))


def up(*, root: Path, port: int | None = None) -> Services:
    """Bring everything up that is not, and return it; a second call does nothing.

    Starts from any state: nothing there, one of the two dead, both killed, a lost state file, an older database.
    Where it cannot finish it stops what it started itself and raises `BadRequest`.

    Args:
        root: the project's folder.
        port: of the server; by default `PORT`, or the next free one.

    Raises:
        BadRequest: the port is taken, a service does not start, or a deployment cannot be made.
    """
    root = root.resolve()
    _check_platform()
    with _lock(root):
        return _up(root, port)


def down(*, root: Path) -> tuple[str, ...]:
    """Stop the flow runs, the worker and the server, and return the names of what ran; the database stays."""
    root = root.resolve()
    if not (root / HOME).is_dir():
        return ()
    _check_platform()
    with _lock(root):
        return _down(root)


def _up(root: Path, port: int | None) -> Services:
    now = status(root=root)
    if now.server is not None and port is not None and port != now.port:
        raise BadRequest(f"the services are up on port {now.port}; run `hcoco down` before using port {port}")
    _stop(_strays(root, keep=(now.server, now.worker)), seconds=_STOP_SECONDS)
    begun: list[Process] = []
    try:
        if now.server is None or not _answers_in_time(now):
            now = _with_server(now, port, begun)
        now = _with_worker_and_deployments(now, begun)
    except BaseException:
        _stop(tuple(begun), seconds=_STOP_SECONDS)
        raise
    return now


def _with_server(now: Services, port: int | None, begun: list[Process]) -> Services:
    """Start a server; a living worker is kept if its server comes back where it was, else stopped."""
    if now.server is not None:
        _stop((now.server,), seconds=_STOP_SECONDS)
    tried = now.port if port is None else port
    for _ in range(3):  # another program may take the port between the look and the start
        chosen = _free_port(tried, fixed=port is not None)
        if now.worker is not None and chosen != now.port:
            _stop((now.worker, *_flow_runs(now.root)), seconds=_STOP_SECONDS)
            now = replace(now, worker=None)
        command = (sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(chosen))
        server = _launch(now.root, chosen, "server", command)
        begun.append(server)
        now = replace(now, port=chosen, server=server, deployed=None, started=(*now.started, "server"))
        _write_state(now)
        if _answers_in_time(now):
            return now
        if _if_alive(server) is not None or _is_free(chosen):
            break
        tried = chosen
    raise BadRequest(f"the Prefect server does not start: {_last_line(now.root, 'server')}")


def _with_worker_and_deployments(now: Services, begun: list[Process]) -> Services:
    """Start a worker and deploy, both at once, where the one is dead or the other out of date."""
    now = replace(now, worker=_if_alive(now.worker))  # it may have died while the server was waited for
    code = _deployed_code(now.root)
    deploying = _deploy(now) if now.deployed != code else None
    try:
        if now.worker is None:
            command = (sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process")
            since = time.time()
            if not _flow_runs(now.root):
                _close_lost_runs(now)
            worker = _launch(now.root, _port(now), "worker", (*command, "--name", POOL, "--install-policy", "never"))
            begun.append(worker)
            now = replace(now, worker=worker, started=(*now.started, "worker"))
            _write_state(now)
            _wait_for_worker(now, since=since)
        if deploying is not None:
            _watch_for_lost_runs(now)
            _wait_for_deployment(now.root, deploying)
            now = replace(now, deployed=code)
    finally:
        if deploying is not None and deploying.poll() is None:
            deploying.kill()
            deploying.wait()
    _write_state(now)
    return now


def _down(root: Path) -> tuple[str, ...]:
    """Stop runs, then the worker, then the server, so that each can still tell the next how it ended."""
    now = status(root=root)
    marked = _marked(root)
    servers = _known_and_marked(now.server, marked, "server")
    workers = _known_and_marked(now.worker, marked, "worker")
    runs = _flow_runs(root)
    _stop(runs, seconds=_STOP_SECONDS)
    _stop(workers, seconds=_WORKER_STOP_SECONDS)
    _stop(_flow_runs(root), seconds=_STOP_SECONDS)  # those that the worker began between the two lines above
    _kill_leftovers(root, keep=servers)
    if now.server is not None and (_close_lost_runs(now) or runs):
        time.sleep(_EVENT_SECONDS)
    _stop(servers, seconds=_STOP_SECONDS)
    (root / HOME / "services.json").unlink(missing_ok=True)
    return tuple(name for name, group in (("worker", workers), ("server", servers)) if group)


def service_environment(root: Path, *, port: int) -> dict[str, str]:
    """Return the environment of our processes: the user's, with every Prefect variable replaced by ours."""
    home = root / HOME
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        **client_settings(root, port=port),
        MARKER: str(root),
        LAST_RUN: str(last_run_file(root)),
        "MPLCONFIGDIR": str(home / "cache" / "matplotlib"),  # font lists stay in the project's folder
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # 5.6 s instead of 17 s from submit to finish of a trivial run (measured)
    }


def client_settings(root: Path, *, port: int) -> dict[str, str]:
    """Return the variables that point a Prefect client at our server, past any proxy."""
    around = [part for part in os.environ.get("no_proxy", os.environ.get("NO_PROXY", "")).split(",") if part]
    direct = ",".join(dict.fromkeys([*around, HOST, "localhost"]))
    return {
        "PREFECT_HOME": str(root / HOME),
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


def last_run_file(root: Path) -> Path:
    """Return the file in which the last deployed run left its folder."""
    return root / HOME / "last-run"


# ---------------------------------------------------------------------------------------------- processes


def _check_platform() -> None:
    if not Path("/proc/self/stat").exists():
        raise BadRequest("the services need Linux (/proc); `hcoco build` makes the same run without them")


def _launch(root: Path, port: int, name: str, command: Sequence[str]) -> Process:
    """Start `command` detached, with our environment and a log of its own, in the folder `.prefect`."""
    home = root / HOME
    log = home / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    launched = subprocess.run(
        [sys.executable, "-I", "-c", _LAUNCH, str(log), *command],
        cwd=home,  # not the root: Prefect reads a .env and a pyproject.toml from where it is started
        env=service_environment(root, port=port),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    pid = int(launched.stdout)
    return Process(pid, _start_of(pid) or "ended at once")


def _start_of(pid: int) -> str | None:
    """Return when a process started, as boot id and ticks since boot; None where there is none, or a zombie.

    A process whose first thread has ended looks like a zombie, and still holds its port and its files until the last
    of its threads has: some 20 ms after SIGKILL, measured with eight busy threads on one core.
    """
    try:
        # The second field is the program's name in parentheses, and may itself hold blanks and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        state, ticks, threads = fields[0], fields[19], list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return None
    return None if state in "ZX" and len(threads) < 2 else f"{boot}/{ticks}"


def _if_alive(process: Process | None) -> Process | None:
    return process if process is not None and _start_of(process.pid) == process.started else None


def _marked(root: Path) -> dict[Process, tuple[str, ...]]:
    """Find every living process that carries this project's marker, with its command line."""
    wanted = f"{MARKER}={root}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if wanted not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # ended meanwhile, or belongs to another user
            continue
        started = _start_of(int(folder.name))
        if started is not None:
            found[Process(int(folder.name), started)] = tuple(words)
    return found


def _is_service(words: Sequence[str], name: str) -> bool:
    return any(pair == (name, "start") for pair in itertools.pairwise(words))


def _known_and_marked(known: Process | None, marked: Mapping[Process, Sequence[str]], name: str) -> tuple[Process, ...]:
    """Return the service that the state file names and all others of its kind that carry our marker."""
    found = {process for process, words in marked.items() if _is_service(words, name)}
    return tuple(found if known is None else found | {known})


def _strays(root: Path, *, keep: Sequence[Process | None]) -> tuple[Process, ...]:
    """Find servers and workers of ours that the state file does not know."""
    return tuple(
        process
        for process, words in _marked(root).items()
        if process not in keep and (_is_service(words, "server") or _is_service(words, "worker"))
    )


def _flow_runs(root: Path) -> tuple[Process, ...]:
    """Find the flow runs: Prefect makes each a session leader, and what it starts itself is left to it."""
    return tuple(
        process
        for process, words in _marked(root).items()
        if not _is_service(words, "server") and not _is_service(words, "worker") and _leads_session(process.pid)
    )


def _leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def _signal(processes: Sequence[Process], number: signal.Signals) -> None:
    for process in processes:
        if _if_alive(process) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _stop(processes: Sequence[Process], *, seconds: float) -> None:
    """Ask processes to end, wait, and kill those that did not."""
    _signal(processes, signal.SIGTERM)
    if not _wait_until_gone(processes, seconds=seconds):
        _signal(processes, signal.SIGKILL)
        _wait_until_gone(processes, seconds=seconds)


def _kill_leftovers(root: Path, *, keep: Sequence[Process]) -> None:
    """Kill what a flow run started and left behind."""
    _signal(tuple(process for process in _marked(root) if process not in keep), signal.SIGKILL)


def _wait_until_gone(processes: Sequence[Process], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(_if_alive(process) is not None for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# ---------------------------------------------------------------------------------------------- the server's API


@contextlib.contextmanager
def _answer_expected() -> Iterator[None]:
    """Turn the silence of a server that is up into a `BadRequest`."""
    try:
        yield
    except (urllib.error.URLError, TimeoutError) as error:
        raise BadRequest(f"the Prefect server does not answer as it should ({error}); run `hcoco up` again") from None


def _request(
    url: str, *, body: Mapping[str, Any] | None = None, method: str | None = None, seconds: float = _ANSWER_SECONDS
) -> Any:
    """Ask our server over HTTP, never through a proxy; return the decoded JSON, raise `OSError` where it fails.

    A server that says that it is busy (503: its database is locked by other writers) is asked again, as Prefect's own
    client does.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"}, method=method)  # noqa: S310 - our own http address
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for left in reversed(range(_BUSY_TRIES)):
        try:
            with opener.open(request, timeout=seconds) as answer:
                said = answer.read()
            break
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or not left:
                raise
            error.close()
            time.sleep(_BUSY_SECONDS)
    return json.loads(said) if said else None  # 204: done, and nothing to say


def _answers_in_time(now: Services) -> bool:
    """Wait until the server says that it is healthy; False where it dies or stays silent."""
    end = time.monotonic() + _SERVER_SECONDS
    while _if_alive(now.server) is not None and time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            if _request(f"{now.api_url}/health") is True:
                # If our process fell over the port, somebody else has just answered.
                return _if_alive(now.server) is not None
        time.sleep(0.1)
    return False


def _make_pool(now: Services) -> None:
    """Create the work pool where it is missing; the worker fills in the job template of its type."""
    try:
        _request(f"{now.api_url}/work_pools/", body={"name": POOL, "type": "process"}, seconds=_SLOW_ANSWER_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 409:  # conflict: the pool exists, with whatever limits the user gave it
            raise


def _close_lost_runs(now: Services) -> int:
    """Mark runs of our pool Crashed that the server believes alive, and return how many.

    Call it only where no process of theirs is left.

    A run whose process was killed together with its worker has nobody to report it, and would stay Running.
    """
    alive = {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}
    wanted = {"flow_runs": {"state": alive}, "work_pools": {"name": {"any_": [POOL]}}}
    crashed = {"type": "CRASHED", "message": "Its process was gone when hcoco's services were stopped or started."}
    try:
        lost = _request(f"{now.api_url}/flow_runs/filter", body=wanted)
        for run in lost:
            _request(f"{now.api_url}/flow_runs/{run['id']}/set_state", body={"state": crashed, "force": True})
    except (OSError, ValueError):  # a courtesy: it must not keep the services from their start or end
        return 0
    return len(lost)


def lost_runs_automation() -> dict[str, Any]:
    """Return the automation that marks a run Crashed when it falls silent: its machine died, and nobody else tells."""
    ends = [f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")]
    beat = "prefect.flow-run.heartbeat"
    return {
        "name": "hcoco: lost runs are Crashed",
        "description": "Made by `hcoco up`. What such a run had made stays; run the same again to go on.",
        "trigger": {
            "type": "event",
            "posture": "Proactive",
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "for_each": ["prefect.resource.id"],
            "after": [beat],
            "expect": [beat, *ends],
            "threshold": 1,
            "within": SILENT_SECONDS,
        },
        "actions": [
            {
                "type": "change-flow-run-state",
                "state": "CRASHED",
                "message": f"No sign of life for {SILENT_SECONDS} s: its machine or its processes died. "
                "Run the same again to go on.",
            }
        ],
    }


def _watch_for_lost_runs(now: Services) -> None:
    """Create the automation where it is missing, else bring it up to date; one that the user switched off stays off."""
    wanted = lost_runs_automation()
    named = {"automations": {"name": {"any_": [wanted["name"]]}}}
    ask = partial(_request, seconds=_SLOW_ANSWER_SECONDS)
    with _answer_expected():
        found = ask(f"{now.api_url}/automations/filter", body=named)
        if not found:
            ask(f"{now.api_url}/automations/", body=wanted)
        for one in found:
            body = {**wanted, "enabled": one["enabled"]}
            ask(f"{now.api_url}/automations/{one['id']}", body=body, method="PUT")


def _wait_for_worker(now: Services, *, since: float) -> None:
    """Wait until the worker has reported to the pool."""
    end = time.monotonic() + _WORKER_SECONDS
    while _if_alive(now.worker) is not None and time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            workers = _request(f"{now.api_url}/work_pools/{POOL}/workers/filter", body={})
            seen = [datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() for worker in workers]
            if any(moment >= since for moment in seen):
                return
        time.sleep(0.1)
    raise BadRequest(f"the Prefect worker does not start: {_last_line(now.root, 'worker')}")


def _deploy(now: Services) -> subprocess.Popen[bytes]:
    """Begin to deploy what prefect.yaml lists; runs then execute in the project's folder."""
    with _answer_expected():
        _make_pool(now)
    log = now.root / HOME / "logs" / "deploy.log"
    with log.open("wb") as written:
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=now.root,
            env=service_environment(now.root, port=_port(now)),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        )


def _wait_for_deployment(root: Path, deploying: subprocess.Popen[bytes]) -> None:
    try:
        code = deploying.wait(timeout=_DEPLOY_SECONDS)
    except subprocess.TimeoutExpired:
        code = None
    if code != 0:
        raise BadRequest(f"prefect.yaml cannot be deployed: {_last_line(root, 'deploy')}")


def _deployed_code(root: Path) -> str:
    """Digest what a deployment is made from: prefect.yaml, and the modules with the flows' parameters."""
    digest = hashlib.sha256()
    for path in (root / "prefect.yaml", *sorted((root / "flows").glob("*.py"))):
        with contextlib.suppress(FileNotFoundError):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _port(now: Services) -> int:
    if now.port is None:
        raise ValueError("services without a port, wanted a server that was started")
    return now.port


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that lingers is no listener
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port(first: int | None, *, fixed: bool) -> int:
    """Return the first port from `first` (default `PORT`) that nothing listens on; only that one where `fixed`."""
    begin = PORT if first is None else first
    for port in range(begin, begin + 1 if fixed else min(begin + _PORTS_TRIED, 65536)):
        if _is_free(port):
            return port
    ports = f"port {begin} is" if fixed else f"ports {begin} to {begin + _PORTS_TRIED - 1} are"
    raise BadRequest(f"{ports} taken by another program; choose another one with `hcoco up --port`")


# ---------------------------------------------------------------------------------------------- files


@contextlib.contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Let one `up` or `down` at a time work on a project; the lock dies with its process."""
    path = root / HOME / "services.lock"
    try:
        (path.parent / "logs").mkdir(parents=True, exist_ok=True)
        handle = path.open("w", encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"cannot write to {path.parent}: {error.strerror}; make it writable") from error
    with handle:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise BadRequest("another `hcoco up` or `hcoco down` is at work; wait for it or end it") from None
                time.sleep(0.1)
        yield


def _read_state(root: Path) -> Services:
    """Read the state file; one that is missing, cut short or of another shape tells nothing."""
    try:
        state = json.loads((root / HOME / "services.json").read_text(encoding="utf-8"))
        server, worker = (None if state[name] is None else Process(**state[name]) for name in ("server", "worker"))
        return Services(root, port=int(state["port"]), server=server, worker=worker, deployed=state["deployed"])
    except (OSError, ValueError, TypeError, KeyError):
        return Services(root)


def _write_state(now: Services) -> None:
    path = now.root / HOME / "services.json"
    state = {
        "api_url": now.api_url,
        "port": now.port,
        "server": None if now.server is None else asdict(now.server),
        "worker": None if now.worker is None else asdict(now.worker),
        "deployed": now.deployed,
    }
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def _last_line(root: Path, name: str) -> str:
    """Return the last line of a service's log that says something, and where the rest is."""
    path = root / HOME / "logs" / f"{name}.log"
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        lines = []
    said = [line for line in lines if line and line != "Server stopped!"]
    return f"{said[-1] if said else 'no word from it'} (see {HOME}/logs/{name}.log)"


# ---------------------------------------------------------------------------------------------- used by make


def run_between(command: Sequence[str], *, root: Path, keep: bool) -> int:
    """Bring the services up, run a command against them, say where its run is, and stop what was started here.

    Services that were up already stay up. They are stopped after a failure, Ctrl-C, SIGTERM and SIGHUP too,
    unless `keep`.

    Returns:
        The exit code of the command, 130 where it was interrupted.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    services = Services(root)
    try:
        last_run_file(root).unlink(missing_ok=True)
        _say("Bringing the Prefect server and worker up ...")
        services = up(root=root)
        _say(f"Prefect is up: {services.url}")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= client_settings(services.root, port=_port(services))
        since = datetime.now(UTC)
        code = subprocess.run(command, cwd=root, env=environment, check=False).returncode
        if code != 0:
            _print_reason(services, since=since)
    except KeyboardInterrupt:
        code = 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave a server behind
        _leave(services, keep=keep)
    if code == 0:
        _print_run(root)
    return code


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()  # before what the command itself writes


def _leave(services: Services, *, keep: bool) -> None:
    if not services.started:
        return
    if keep:
        _say(f"The services stay up: {services.url} (stop them with `hcoco down`).")
        return
    _say("Stopping the Prefect services that were started here ...")
    down(root=services.root)


def _print_reason(services: Services, *, since: datetime) -> None:
    """Print why the newest run ended badly; `prefect deployment run --watch` tells only that it did."""
    wanted = {
        "flow_runs": {
            "state": {"type": {"any_": ["FAILED", "CRASHED", "CANCELLED"]}},
            "expected_start_time": {"after_": since.isoformat()},
        },
        "work_pools": {"name": {"any_": [POOL]}},
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": 1,
    }
    with contextlib.suppress(OSError, ValueError):
        for run in _request(f"{services.api_url}/flow_runs/filter", body=wanted):
            _say(f"{run['state']['name']}: {run['state']['message']}")


def _print_run(root: Path) -> None:
    """Print where the last deployed run left its shards and its report."""
    try:
        place = last_run_file(root).read_text(encoding="utf-8").strip()
    except OSError:
        _say("The run left no note of its folder; look in output/.")
        return
    if is_address(place):
        _say(f"Shards:  {place}/shards\nReport:  {place}/report/index.html")
        return
    run = Path(place)
    report = run / "report" / "index.html"
    _say(f"Shards:  {run / 'shards'}")
    _say(f"Report:  {report}  (open it in a browser: {report.as_uri()})")


def _main(arguments: Sequence[str]) -> int:
    """Run `python -m flows.services [--keep] -- COMMAND ...`."""
    parser = argparse.ArgumentParser(prog="python -m flows.services", description=run_between.__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the services up afterwards")
    parser.add_argument("command", nargs="+", help="what to run against the services")
    options = parser.parse_args(arguments)
    try:
        return run_between(options.command, root=project_root(), keep=options.keep)
    except BadRequest as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
