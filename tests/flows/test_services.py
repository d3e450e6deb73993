from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows import services
from flows.errors import BadRequest
from flows.services import MARKER, Process, Services, down, service_environment, status, up

REPOSITORY = Path(__file__).resolve().parents[2]


@contextmanager
def sleeper(*words: str, root: Path | None = None) -> Iterator[Process]:
    """Start a process that only sleeps, with more words on its command line, marked as ours where `root` is given."""
    environment = dict(os.environ) | ({} if root is None else {MARKER: str(root)})
    code = "import time; print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, *words], env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # before it speaks, /proc may not show its words and environment yet
        try:
            yield Process(child.pid, started_of(child.pid))
        finally:
            child.kill()


def started_of(pid: int) -> str:
    """Return when a living process started."""
    started = services._start_of(pid)
    assert started is not None
    return started


def write_state(root: Path, **changes: Any) -> None:
    """Write the state file of an earlier `up`."""
    (root / ".prefect" / "logs").mkdir(parents=True, exist_ok=True)
    services._write_state(replace(Services(root, port=4217), **changes))


@contextmanager
def healthy_server(*, busy: int = 0) -> Iterator[int]:
    """Answer `true` to every request, as a healthy server does to the one for its health; yield the port.

    Args:
        busy: Requests that are turned away before, as by a server whose database is locked.
    """
    turned_away = iter(range(busy))

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if next(turned_away, None) is not None:
                self.send_error(503)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def launch_nothing(*_: object) -> Process:
    """Stand in for the start of a service where none may be started."""
    pytest.fail("a service was started that was not asked for")


# ------------------------------------------------------------------------------------------- what is alive


def test_nothing_is_up_in_a_new_folder(tmp_path: Path) -> None:
    """Where nothing was ever started, nothing runs, and asking leaves no trace."""
    assert status(root=tmp_path) == Services(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_living_process_is_known_again(tmp_path: Path) -> None:
    """A process that the state file names by id and start is reported as it was written."""
    with sleeper() as process:
        write_state(tmp_path, server=process)
        assert status(root=tmp_path).server == process


def test_a_reused_process_id_is_not_taken_for_ours(tmp_path: Path) -> None:
    """A stranger that got the id of a service that ended is not the service."""
    with sleeper() as stranger:
        write_state(tmp_path, server=replace(stranger, started="another boot/1"), worker=stranger)
        now = status(root=tmp_path)
    assert (now.server, now.worker) == (None, stranger)


def test_a_stranger_with_a_reused_id_is_left_alive(tmp_path: Path) -> None:
    """`down` does not signal a process that merely has the id of a service that ended."""
    with sleeper() as stranger:
        write_state(tmp_path, server=replace(stranger, started="another boot/1"))
        assert down(root=tmp_path) == ()
        assert services._if_alive(stranger) is not None


def test_a_zombie_is_dead() -> None:
    """A process that ended and was not waited for yet does not count as alive."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 20
    while services._start_of(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert Path(f"/proc/{child.pid}").exists()
    assert services._start_of(child.pid) is None
    child.wait()


def test_a_process_lives_until_its_last_thread_has_ended() -> None:
    """One whose first thread is gone looks like a zombie and still holds its port: it is not taken for dead."""
    code = """if True:
        import ctypes, socket, sys, threading
        listening = socket.create_server(("127.0.0.1", 0))
        print(listening.getsockname()[1], flush=True)
        threading.Thread(target=sys.stdin.read).start()
        ctypes.CDLL(None).pthread_exit(None)
    """
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        port, started = int(child.stdout.readline()), started_of(child.pid)
        end = time.monotonic() + 60
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < end
            time.sleep(0.01)
        assert services._start_of(child.pid) == started
        assert not services._is_free(port)
        child.kill()
        assert services._wait_until_gone([Process(child.pid, started)], seconds=60)
        assert services._is_free(port)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"port": 1}', '{"port": "x", "server": 1, "worker": null}'])
def test_a_damaged_state_file_tells_nothing(tmp_path: Path, text: str) -> None:
    """A state file that is cut short or of another shape is as good as none."""
    (tmp_path / ".prefect").mkdir()
    (tmp_path / ".prefect" / "services.json").write_text(text)
    assert status(root=tmp_path) == Services(tmp_path)


# ------------------------------------------------------------------------------------------- up and down


def test_up_does_nothing_where_all_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where server and worker live and the code is what was deployed, `up` starts nothing and says so."""
    monkeypatch.setattr(services, "_launch", launch_nothing)
    with sleeper() as server, sleeper() as worker, healthy_server() as port:
        code = services._deployed_code(tmp_path)
        write_state(tmp_path, port=port, server=server, worker=worker, deployed=code)
        found = up(root=tmp_path)
    assert found.started == ()
    assert (found.server, found.worker, found.api_url) == (server, worker, f"http://127.0.0.1:{port}/api")


def test_up_refuses_another_port_while_up(tmp_path: Path) -> None:
    """A port that is not the one in use is refused with the way out, not ignored."""
    with sleeper() as server:
        write_state(tmp_path, port=4217, server=server)
        with pytest.raises(BadRequest, match=r"up on port 4217; run `hcoco down`"):
            up(root=tmp_path, port=4300)


def test_up_names_the_reason_and_leaves_nothing_where_the_server_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends at once is reported by the last line of its log, and no process is left."""
    monkeypatch.setattr(sys, "executable", str(fake_python(tmp_path)))
    with pytest.raises(BadRequest, match=r"server does not start: the database is broken \(see .prefect/logs/"):
        up(root=tmp_path)
    assert services._marked(tmp_path) == {}
    assert status(root=tmp_path).server is None


def fake_python(folder: Path) -> Path:
    """Write a Python whose Prefect complains and ends; it runs everything else as Python does."""
    script = folder / "python"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] || exec {sys.executable} "$@"\necho "the database is broken"\nexit 3\n'
    )
    script.chmod(0o755)
    return script


def test_up_stops_what_it_started_where_it_cannot_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the worker cannot be started, the server that was started for it is stopped again."""
    with sleeper() as server:

        def launch(_root: Path, _port: int, name: str, _command: Sequence[str]) -> Process:
            return server if name == "server" else Process(server.pid, "dead")

        monkeypatch.setattr(services, "_launch", launch)
        monkeypatch.setattr(services, "_answers_in_time", lambda _: True)
        monkeypatch.setattr(services, "_deploy", lambda _: None)
        with pytest.raises(BadRequest, match="worker does not start: no word from it"):
            up(root=tmp_path)
        assert services._if_alive(server) is None


def test_down_is_quiet_where_nothing_ever_ran(tmp_path: Path) -> None:
    """`down` in a folder without services stops nothing and makes nothing."""
    assert down(root=tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_down_stops_what_the_state_file_names(tmp_path: Path) -> None:
    """Both services are stopped, and the state file goes with them."""
    with sleeper() as server, sleeper() as worker:
        write_state(tmp_path, server=server, worker=worker)
        assert down(root=tmp_path) == ("worker", "server")
        assert services._if_alive(server) is None
        assert services._if_alive(worker) is None
    assert not (tmp_path / ".prefect" / "services.json").exists()


def test_down_finds_services_without_a_state_file(tmp_path: Path) -> None:
    """A server and a worker that carry this project's marker are stopped even when the state file was lost."""
    (tmp_path / ".prefect").mkdir()
    with sleeper("server", "start", root=tmp_path) as server, sleeper("worker", "start", root=tmp_path) as worker:
        assert down(root=tmp_path) == ("worker", "server")
        assert services._if_alive(server) is None
        assert services._if_alive(worker) is None


def test_down_leaves_other_projects_alone(tmp_path: Path) -> None:
    """Services of another folder keep running."""
    (tmp_path / ".prefect").mkdir()
    with sleeper("server", "start", root=tmp_path / "other") as server:
        assert down(root=tmp_path) == ()
        assert services._if_alive(server) is not None


def test_one_up_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second `up` waits for the first, and says in one line what it waited for."""
    monkeypatch.setattr(services, "_LOCK_SECONDS", 0.2)
    with services._lock(tmp_path), pytest.raises(BadRequest, match="another `hcoco up` or `hcoco down` is at work"):
        up(root=tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """Where `.prefect` cannot be made, `up` says so instead of failing later."""
    (tmp_path / ".prefect").write_text("in the way")
    with pytest.raises(BadRequest, match=r"cannot write to .*\.prefect"):
        up(root=tmp_path)


# ------------------------------------------------------------------------------------------- ports, environment


def test_a_taken_port_is_stepped_over() -> None:
    """The next free port is used where another program listens on the first."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        assert services._free_port(taken, fixed=False) > taken


def test_a_taken_port_that_was_asked_for_is_refused() -> None:
    """A port that the user named is not swapped for another one behind their back."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(BadRequest, match=f"port {taken} is taken"):
            services._free_port(taken, fixed=True)


def test_the_users_prefect_settings_do_not_reach_our_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Address, key, profile and database of the user's own Prefect are kept from our server and worker."""
    for name in ("API_URL", "API_KEY", "PROFILE", "HOME", "PROFILES_PATH", "SERVER_DATABASE_CONNECTION_URL"):
        monkeypatch.setenv(f"PREFECT_{name}", "the user's own")
    ours = service_environment(tmp_path, port=4217)
    assert "the user's own" not in ours.values()
    assert ours["PREFECT_HOME"] == str(tmp_path / ".prefect")
    assert ours["PREFECT_API_URL"] == "http://127.0.0.1:4217/api"


def test_our_processes_report_nothing_to_the_outside(tmp_path: Path) -> None:
    """Analytics are off on both sides."""
    ours = service_environment(tmp_path, port=4217)
    assert (ours["DO_NOT_TRACK"], ours["PREFECT_SERVER_ANALYTICS_ENABLED"]) == ("1", "false")


def test_a_proxy_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own address is added to the hosts that are asked directly, and the user's are kept."""
    monkeypatch.setenv("no_proxy", "intranet")
    assert service_environment(tmp_path, port=4217)["no_proxy"] == "intranet,127.0.0.1,localhost"


def test_flow_runs_give_signs_of_life(tmp_path: Path) -> None:
    """Prefect accepts the automation that misses them, which waits for more than two of them."""
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    ours = AutomationCore.model_validate(services.lost_runs_automation())
    assert isinstance(ours.trigger, EventTrigger)
    assert ours.trigger.posture is Posture.Proactive
    between = int(service_environment(tmp_path, port=4217)["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert ours.trigger.within.total_seconds() > 2 * between


@pytest.mark.parametrize(("busy", "answers"), [(2, True), (3, False)])
def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch, busy: int, answers: bool) -> None:  # noqa: FBT001
    """A database that other writers hold is no reason to give up at once, nor to ask for ever."""
    monkeypatch.setattr(services, "_BUSY_SECONDS", 0.0)
    monkeypatch.setattr(services, "_BUSY_TRIES", 3)
    with healthy_server(busy=busy) as port:
        if answers:
            assert services._request(f"http://127.0.0.1:{port}/") is True
        else:
            with pytest.raises(OSError, match="503"):
                services._request(f"http://127.0.0.1:{port}/")


def test_the_deployed_code_changes_with_the_flow(tmp_path: Path) -> None:
    """An edited flow module is deployed again by the next `up`."""
    (tmp_path / "flows").mkdir()
    flow = tmp_path / "flows" / "build_hcoco.py"
    flow.write_text("one = 1\n")
    before = services._deployed_code(tmp_path)
    flow.write_text("two = 2\n")
    assert services._deployed_code(tmp_path) != before


def test_services_import_without_prefect() -> None:
    """The command line and the plugin can read the state without paying for the import of Prefect."""
    loaded = "import sys, flows.services; sys.exit('prefect' in sys.modules or 'pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True)


# ------------------------------------------------------------------------------------------- for real

FLOW = """
import os, time
from pathlib import Path
from prefect import flow

@flow(name="build-hcoco")
def build_hcoco(samples: int = 1, seconds: float = 0.0):
    Path("begun").write_text(str(os.getpid()))
    time.sleep(seconds)
    Path("output").mkdir(exist_ok=True)
    Path("output/made").write_text(str(samples))
    Path(os.environ["HCOCO_LAST_RUN"]).write_text(str(Path("output").resolve()))
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """Make a project like this one around a flow that takes no time, in a folder with a blank in its name."""
    root = tmp_path / "a project"
    (root / "flows").mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "services.py", "plugin.py"):
        (root / "flows" / name).write_bytes((REPOSITORY / "flows" / name).read_bytes())
    (root / "flows" / "build_hcoco.py").write_text(FLOW)
    ours = (REPOSITORY / "prefect.yaml").read_text()
    (root / "prefect.yaml").write_text(ours.partition("  - name: train-realism")[0])  # of our deployments the first
    (root / "pyproject.toml").write_text("[tool.prefect.plugins]\nenabled = true\n")
    yield root
    down(root=root)


def run_prefect(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `prefect` in the project's folder as a user whose own profile names another server."""
    home = root.parent / "home"
    (home / ".prefect").mkdir(parents=True, exist_ok=True)
    (home / ".prefect" / "profiles.toml").write_text(
        'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\nPREFECT_API_KEY = "mine"\n'
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"HOME": str(home), "PYTHONPATH": str(root), "DO_NOT_TRACK": "1"}
    prefect = Path(sys.executable).with_name("prefect")
    return subprocess.run(
        [str(prefect), *words], cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def states_of_runs(now: Services) -> list[str]:
    """Ask the server how all its runs stand."""
    return sorted(run["state_type"] for run in services._request(f"{now.api_url}/flow_runs/filter", body={}))


def listening_on(port: int) -> set[str]:
    """Return the addresses on which some process of this machine listens at a port, as the kernel tells them."""
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            address, _, number = words[1].partition(":")
            if words[3] == "0A" and int(number, 16) == port:  # 0A is LISTEN
                parts = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.add(socket.inet_ntop(family, b"".join(parts)))
    return found


def wait_for(path: Path) -> None:
    """Wait until a run has written a file."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.1)


@pytest.mark.slow
def test_the_bare_name_runs_through_our_server_and_worker(project: Path) -> None:
    """`prefect deployment run build-hcoco --watch` runs in the project's folder, past the user's own profile."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if services._is_free(services.PORT):
            other.bind(("127.0.0.1", services.PORT))
            other.listen()
        first = up(root=project)
    assert first.started == ("server", "worker")
    assert first.port is not None
    assert first.port > services.PORT
    assert up(root=project) == replace(first, started=())
    assert listening_on(first.port) == {"127.0.0.1"}

    done = run_prefect(project, "deployment", "run", "build-hcoco", "--watch", "-p", "samples=7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "output" / "made").read_text() == "7"
    assert services.last_run_file(project).read_text() == str(project / "output")
    assert not (project.parent / "home" / ".prefect" / "prefect.db").exists()

    assert down(root=project) == ("worker", "server")
    assert services._marked(project) == {}


@pytest.mark.slow
def test_up_mends_a_killed_server_and_worker(project: Path) -> None:
    """After `kill -9` of server, worker and run, `up` starts them on the old database and ends the lost run."""
    first = up(root=project)
    assert run_prefect(project, "deployment", "run", "build-hcoco", "-p", "seconds=120").returncode == 0
    wait_for(project / "begun")
    kill(tuple(services._marked(project)))

    second = up(root=project)
    assert second.started == ("server", "worker")
    assert second.port == first.port
    assert states_of_runs(second) == ["CRASHED"]

    kill([worker_of(second)])
    assert up(root=project).started == ("worker",)
    done = run_prefect(project, "deployment", "run", "build-hcoco/build-hcoco", "--watch")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_down_ends_a_run_that_is_at_work(project: Path) -> None:
    """A run that `down` interrupts leaves no process, and is Crashed, not Running, when the server is back."""
    up(root=project)
    assert run_prefect(project, "deployment", "run", "build-hcoco", "-p", "seconds=120").returncode == 0
    wait_for(project / "begun")
    down(root=project)
    assert not Path(f"/proc/{(project / 'begun').read_text()}").exists()
    assert states_of_runs(up(root=project)) == ["CRASHED"]


def kill(processes: Sequence[Process]) -> None:
    """Kill processes as `kill -9` does, and wait until they are gone."""
    services._signal(processes, signal.SIGKILL)
    assert services._wait_until_gone(processes, seconds=20)


def worker_of(now: Services) -> Process:
    """Return the worker, which is known to live."""
    assert now.worker is not None
    return now.worker
