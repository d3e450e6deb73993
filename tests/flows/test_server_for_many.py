"""docs/scale.md, "A server for many", step by step: Prefect on PostgreSQL, two workers on one queue."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from flows import services
from flows.make.verify import verify_run
from flows.store.layout import Layout
from tests.conftest import write_coco
from tests.flows.make.building import build_in, differing, hashes

ROOT: Final = Path(__file__).resolve().parents[2]
POOL: Final = "hcoco"
ENDED: Final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def find_postgresql() -> Path | None:
    """Return the folder of the newest PostgreSQL server's programs; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    named = shutil.which("initdb")
    return found[-1].parent if found else Path(named).parent if named else None


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*words: object, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command to its end and return what it said; fail with that where it fails."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=None if environment is None else dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def postgresql(programs: Path) -> Iterator[str]:
    """Run a PostgreSQL of our own with the database `prefect`; yield its address for Prefect."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:
        folder, port, password = Path(name), free_port(), secrets.token_hex(8)
        as_owner: Sequence[str] = ()
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres")
            as_owner = ("runuser", "-u", "postgres", "--")
        run(*as_owner, programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "postgres", "-N", cwd=folder)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        control = (*as_owner, programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log")
        run(*control, "-o", options, "start", cwd=folder)
        try:
            for command in (
                f"CREATE ROLE prefect LOGIN PASSWORD '{password}'",
                "CREATE DATABASE prefect OWNER prefect",
            ):
                run("psql", "-h", folder, "-p", port, "-U", "postgres", "-c", command)
            yield f"postgresql+asyncpg://prefect:{password}@127.0.0.1:{port}/prefect"
        finally:
            run(*control, "-m", "immediate", "stop", cwd=folder)


@contextmanager
def process(*words: object, environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command beside the test; end it and what it started afterwards."""
    with (
        log.open("wb") as file,
        subprocess.Popen(
            [str(word) for word in words],
            cwd=log.parent,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        ) as child,
    ):
        try:
            yield child
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Server:
    """A Prefect server, asked over HTTP."""

    api: str
    environment: Mapping[str, str]
    folder: Path

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask its API."""
        return services._request(f"{self.api}/{path}", body=body)

    def submit(self, **parameters: object) -> str:
        """Ask for a run of the deployment `build-hcoco`; return its id."""
        deployment = self.ask("deployments/name/build-hcoco/build-hcoco")["id"]
        told = {name: str(value) if isinstance(value, Path) else value for name, value in parameters.items()}
        asked = {"parameters": told, "state": {"type": "SCHEDULED"}}
        return str(self.ask(f"deployments/{deployment}/create_flow_run", asked)["id"])

    def wait(self, *runs: str, until: Sequence[str] = ENDED, seconds: float = 480) -> list[dict[str, Any]]:
        """Wait until all runs are in one of some states; return what the server says of them."""
        end, found = time.monotonic() + seconds, []
        while True:
            with suppress(OSError):  # it takes its time on a busy machine
                found = [self.ask(f"flow_runs/{run}") for run in runs]
                if all(each["state_type"] in until for each in found):
                    return found
            assert time.monotonic() < end, [(each["state_type"], each["state"]["message"]) for each in found]
            time.sleep(0.5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server on PostgreSQL, with pool and deployments as the guide makes them."""
    programs = find_postgresql()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "DO_NOT_TRACK": "1",
    }
    prefect = (sys.executable, "-m", "prefect", "--no-prompt")
    with postgresql(programs) as database:
        of_server = {**environment, "PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
        start = (*prefect, "server", "start", "--host", "127.0.0.1", "--port", port)
        with process(*start, environment=of_server, log=folder / "server.log") as child:
            it = Server(environment["PREFECT_API_URL"], environment, folder)
            _wait_until_healthy(it, child)
            run(*prefect, "work-pool", "create", POOL, "--type", "process", environment=environment, cwd=folder)
            run(*prefect, "deploy", "--name", "build-hcoco", environment=environment, cwd=ROOT)
            yield it
        asked = "SELECT count(*) FROM flow_run"
        url = database.replace("+asyncpg", "")
        assert int(run("psql", "-At", "-c", asked, url)) >= 5, "the runs are not in PostgreSQL"


def _wait_until_healthy(server: Server, child: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while True:
        with suppress(OSError, ValueError):
            if server.ask("health") is True:
                return
        assert child.poll() is None, (server.folder / "server.log").read_text()
        assert time.monotonic() < end, (server.folder / "server.log").read_text()
        time.sleep(0.2)


@contextmanager
def worker(server: Server, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker on the pool that makes one run at a time, as the guide starts it."""
    start = (sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--name", name, "--limit", 1)
    with process(*start, environment=server.environment, log=server.folder / f"{name}.log") as child:
        yield child


def worker_of(flow_run: Mapping[str, Any]) -> int:
    """Return the process that started a run's process."""
    pid = int(str(flow_run["infrastructure_pid"]).rpartition(":")[2])
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])


@pytest.mark.by_hand
def test_two_workers_share_a_queue_and_one_of_them_may_die(server: Server, tmp_path: Path) -> None:
    """Two runs are made at once; of two into one run the second is refused; a killed worker's run ends by a rerun."""
    source = tmp_path / "coco"
    write_coco(source)
    same = {"source": source, "output": tmp_path / "out", "gate": "off", "stages": "harmonization", "workers": 1}
    long = {**same, "run": "long", "shard_size": 8, "variants": 16}
    with worker(server, "one") as one, worker(server, "two") as two:
        both = [server.submit(**same, run=name, shard_size=8, variants=2) for name in ("a", "b")]
        server.wait(*both, until=("RUNNING", *ENDED))
        done = server.wait(*both)
        assert [each["state_type"] for each in done] == ["COMPLETED", "COMPLETED"], done

        rivals = [server.submit(**long) for _ in range(2)]
        running = server.wait(*rivals, until=("RUNNING", *ENDED))
        loser = _first_to_end(server, rivals)
        assert loser["state_type"] == "FAILED"
        assert loser["state"]["message"].startswith(f"another build is at work in {tmp_path / 'out' / 'long'}; wait")

        (winner,) = (each for each in running if each["id"] != loser["id"])
        ours = {one.pid: one, two.pid: two}
        killed = worker_of(winner)
        ours[killed].kill()
        (lost,) = server.wait(winner["id"])
        assert lost["state_type"] == "CRASHED", lost["state"]
        (again,) = server.wait(server.submit(**long))
        assert again["state_type"] == "COMPLETED", again["state"]
    for name, variants in (("a", 2), ("b", 2), ("long", 16)):
        layout = Layout(tmp_path / "out" / name)
        assert list(verify_run(layout)) == []
        assert differing(hashes(layout), hashes(build_in(source, tmp_path / f"{variants}", variants=variants))) == []


def _first_to_end(server: Server, runs: Sequence[str]) -> dict[str, Any]:
    """Wait for the first of some runs to end; return what the server says of it."""
    end = time.monotonic() + 480
    while time.monotonic() < end:
        for flow_run in runs:
            with suppress(OSError):
                found: dict[str, Any] = server.ask(f"flow_runs/{flow_run}")
                if found["state_type"] in ENDED:
                    return found
        time.sleep(0.2)
    raise AssertionError("no run has ended")
