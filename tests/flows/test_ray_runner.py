from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.errors import BadRequest
from flows.make.plan import plan_run
from flows.make.run import finish_run, left_to_make, make_shards
from flows.make.shard import make_shard, read_done
from flows.make.verify import verify_run
from flows.ray_runner import TRIES, RayRunner, Sight, _landmarks_below, _put_token
from flows.runners import open_runner
from flows.settings import parse_settings
from flows.store.layout import Layout
from flows.store.lock import only_build
from tests.conftest import write_coco
from tests.flows import cluster_deeds
from tests.flows.kills import say
from tests.flows.machines import ROOT, Machine, three_machines, why_no_machines
from tests.flows.make import deeds
from tests.flows.make.building import build_in, differing, hashes, plan_in, settings_for
from tests.flows.make.gating import save_untrained

OPTIONS = ("--run", "run", "--shard-size", "8", "--gate", "off", "--stages", "harmonization", "--variants", "2")

AGENTS = ("ray::RuntimeEnvAgent", "ray::DashboardAgent")
"""Two of Ray's own processes, which wait a minute for their cluster to come back before they end too."""

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")

# ------------------------------------------------------------------------------------------- without a cluster


@pytest.fixture
def sight(tmp_path: Path) -> Sight:
    """Return the sight of a build whose run, source and code are those of this process."""
    from flows.make.plan import code_version

    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "1.jpg").write_bytes(b"12345")
    marks = tuple(_landmarks_below(tmp_path / "photographs"))
    return Sight((_put_token(tmp_path / "output"),), marks, code_version())


@pytest.fixture
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this machine an address, which Ray would tell."""
    monkeypatch.setattr("flows.ray_runner._address", lambda: "10.0.0.7")
    monkeypatch.setattr("flows.ray_runner._SIGHT_SECONDS", 0.2)


def test_a_worker_that_sees_all_may_work(sight: Sight) -> None:
    """Where run, source and code are the same, nothing is said."""
    sight.check()
    sight.check_code()


@pytest.mark.usefixtures("_named")
def test_a_worker_that_does_not_see_the_run_says_so(sight: Sight) -> None:
    """A machine without the shared folder is named in one line, and so is what it must see."""
    sight.tokens[0].unlink()
    with pytest.raises(BadRequest, match=rf"\(10\.0\.0\.7\) does not see {sight.tokens[0].parent} .* same paths"):
        sight.check()


@pytest.mark.usefixtures("_named")
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"1234")])
def test_a_worker_that_sees_other_photographs_says_so(sight: Sight, change: Callable[[Path], object]) -> None:
    """A photograph that is missing or of another size would become a silent reject; it stops the worker instead."""
    change(sight.landmarks[0][0])
    with pytest.raises(BadRequest, match=r"does not see .*photographs/1\.jpg as the build does"):
        sight.check()


@pytest.mark.usefixtures("_named")
def test_a_worker_of_other_code_says_so(sight: Sight) -> None:
    """Another version of what decides bytes is told by name and number."""
    other = Sight(sight.tokens, sight.landmarks, {**sight.code, "numpy": "1.0"})
    with pytest.raises(BadRequest, match=r"has numpy 2\.\S+, the build has 1\.0: its samples would differ"):
        other.check_code()


def test_landmarks_are_few_and_of_every_folder(tmp_path: Path) -> None:
    """Some files of the source's folder and of those below it, by name; nothing where there is no folder."""
    for name in ("a/1.jpg", "a/2.jpg", "a/3.jpg", "a/4.jpg", "b/deep/5.jpg", "6.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = {path.relative_to(tmp_path).as_posix(): size for path, size in _landmarks_below(tmp_path)}
    assert found == {"6.json": 6, "a/1.jpg": 7, "a/2.jpg": 7, "a/3.jpg": 7, "b/deep/5.jpg": 12}
    assert _landmarks_below(tmp_path / "nowhere") == []


def test_tokens_of_killed_builds_are_taken_away(tmp_path: Path) -> None:
    """What a build that was killed days ago left goes; what one has put there now stays."""
    old, new = _put_token(tmp_path), _put_token(tmp_path)
    os.utime(old, (0, 0))
    _put_token(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_photographs_out_of_sight_leave_no_marker(tiny_coco: Path, tmp_path: Path) -> None:
    """What was read while the sight was gone is not written, so a rerun makes it anew."""
    layout = plan_in(tiny_coco, tmp_path).layout

    def gone() -> None:
        raise BadRequest("not seen")

    with pytest.raises(BadRequest, match="not seen"):
        make_shard(layout.run, "train-00000", seen=gone)
    assert read_done(layout, "train-00000") is None
    assert not list(layout.run.rglob("*.tmp"))


@pytest.mark.parametrize("runner", ["local", "ray", "ray://10.0.0.1:10001", "head.example:6379"])
def test_a_runner_is_named_by_a_word_or_an_address(runner: str) -> None:
    """This machine, a cluster of this machine, a cluster by its client port or by its own."""
    assert parse_settings({"runner": runner}).runner == runner


@pytest.mark.parametrize(
    "runner", ["ray:", "ray://", "ray://head", "Ray", "head", "http://head:1", "a b:1", "-x:1", ":1"]
)
def test_a_runner_of_another_kind_is_refused(runner: str) -> None:
    """Whatever is no address says what one looks like."""
    with pytest.raises(BadRequest, match=r"runner: give `local`, `ray`, `ray://HOST:PORT` or HOST:PORT"):
        parse_settings({"runner": runner})


def test_ray_that_is_missing_is_named_with_its_extra(
    tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Ray there is one line that names the extra."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.exceptions", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(BadRequest, match=r"ray needs Ray, which is not installed; pip install 'hcoco\[ray\]'"):
        open_runner(settings_for(tiny_coco, tmp_path, runner="ray"))


@needs_ray
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_without_a_cluster_is_told(scheme: str, tiny_coco: Path, tmp_path: Path) -> None:
    """Where nothing listens, the address is named at once, in one line and with code 2.

    In a process of its own: Ray reads once in a process whether there is a secret, and here there is none.
    """
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        runner = f"{scheme}127.0.0.1:{nobody.getsockname()[1]}"
        words = ("build", "--source", tiny_coco, "--output", tmp_path, *OPTIONS, "--runner", runner)
        build = _hcoco(*words, environment=dict(os.environ))
        said, _ = build.communicate(timeout=120)
    assert build.returncode == 2
    assert f"no Ray cluster answers at {runner}" in said
    assert len(said.splitlines()) == 1


# ------------------------------------------------------------------------------------------- processes of this machine


@pytest.fixture(scope="module")
def undisturbed(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a run that was made in this process, one shard after the other, by a gate of its own."""
    folder = tmp_path_factory.mktemp("undisturbed")
    gate = save_untrained(folder / "gate")
    return build_in(tiny_coco, folder, variants=2, gate="on", gate_checkpoint=str(gate))


def checkpoint_of(layout: Layout) -> str:
    """Return the network that judged a run."""
    return str(layout.run.parent / "gate.pt")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file in which workers note the shards that they begin."""
    return tmp_path_factory.mktemp("begun") / "shards"


def _hcoco(*words: object, environment: dict[str, str], module: str = "flows.cli") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def two(
    tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory, undisturbed: Layout, begun: Path
) -> Iterator[RayRunner]:
    """Return a runner of two processes of this machine, that note the shards that they begin."""
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = str(ROOT)  # workers take part in the tests
    output = tmp_path_factory.mktemp("ray")
    given = {"variants": 2, "gate": "on", "gate_checkpoint": checkpoint_of(undisturbed), "workers": 2, "runner": "ray"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.ray_runner._work", cluster_deeds.counting_work)
        patch.setitem(sys.modules["flows.ray_runner"].WORKERS_ENVIRONMENT, cluster_deeds.LOG, str(begun))
        with RayRunner(settings_for(tiny_coco, output, **given)) as runner:
            yield runner
            below = [pid for pid in _below(os.getpid()) if "ray" in _words(pid)]
    os.environ.clear()
    os.environ.update(before)
    assert len(below) > 4
    _wait_until_gone(below)


def _below(parent: int) -> list[int]:
    """Return the processes that a process started, and those that they did."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat[1]) == parent and stat[0] != "Z":
                found += [int(folder.name), *_below(int(folder.name))]
    return found


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _wait_until_gone(pids: list[int]) -> None:
    """Wait for the end of processes; those of Ray notice that of the others within seconds, if they get to run."""
    end = time.monotonic() + 240
    while left := [words for words in map(_words, pids) if words]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


@needs_ray
@pytest.mark.slow
def test_workers_of_ray_do_as_those_of_the_pool(two: RayRunner, tmp_path: Path) -> None:
    """Order, single threads and errors are those of the local runner; killed work is begun again, or given up."""
    assert two.workers == 2
    assert list(two.map(deeds.late_square, range(8))) == [number * number for number in range(8)]
    told = two.call(deeds.describe, 0)
    assert told["cv2"] == 1
    assert set(told["threads"].values()) == {"1"}  # type: ignore[attr-defined]
    with pytest.raises(BadRequest, match=r"^no bread$"):
        two.call(deeds.refuse, "bread")
    with pytest.raises(OSError, match="No space left") as caught:
        two.call(deeds.fill_disk, "x.tar")
    assert (caught.value.errno, caught.value.filename) == (28, "x.tar")
    assert two.call(deeds.die_once, tmp_path / "call", 6) == 36
    work = [(deeds.die_once, tmp_path / "each", number) for number in range(4)]
    assert list(two.each(work)) == [0, 1, 4, 9]
    with pytest.raises(BadRequest, match=rf"died {TRIES} times over die_always.*use fewer --workers"):
        two.call(deeds.die_always, 1)


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("two")
def test_a_cluster_of_this_machine_listens_on_loopback_alone() -> None:
    """No process of a cluster that was started here can be reached from outside, and there is no dashboard."""
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, check=True, text=True).stdout.splitlines()
    ours = {f"pid={pid}," for pid in (os.getpid(), *_below(os.getpid()))}
    addresses = [line.split()[3] for line in listening if any(pid in line for pid in ours)]
    assert len(addresses) > 3
    assert {address.rpartition(":")[0] for address in addresses} <= {"127.0.0.1", "[::ffff:127.0.0.1]", "[::1]"}
    assert not [address for address in addresses if address.endswith(":8265")]


def _plan(two: RayRunner, tiny_coco: Path, output: Path, undisturbed: Layout) -> Any:
    given = {"variants": 2, "gate": "on", "gate_checkpoint": checkpoint_of(undisturbed)}
    return plan_run(settings_for(tiny_coco, output, **given), over=two.map)


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_loses_only_its_shard(
    two: RayRunner, tiny_coco: Path, tmp_path: Path, undisturbed: Layout, begun: Path
) -> None:
    """A worker killed by -9 in mid-shard: that shard alone is begun twice, and the run is the same bytes."""
    planned = _plan(two, tiny_coco, tmp_path, undisturbed)
    killed = None
    with only_build(planned.layout):
        names = [shard.name for shard in left_to_make(planned.layout, planned.plan)]
        for number, _ in enumerate(make_shards(two.each, planned.layout.run, names)):
            if number == 1:
                killed, _, pid = _begun_last(begun, planned.layout)
                os.kill(pid, signal.SIGKILL)
        finish_run(planned.layout, planned.plan)
    counts = [name for name, _, _ in cluster_deeds.begun_in(begun)]
    assert len(names) > 5
    assert {name: counts.count(name) for name in names} == {name: 1 + (name == killed) for name in names}
    assert list(verify_run(planned.layout)) == []
    assert differing(hashes(planned.layout), hashes(undisturbed)) == []


def _begun_last(begun: Path, layout: Layout) -> tuple[str, str, int]:
    """Wait for a shard that is under way; return what its worker noted."""
    for _ in range(600):
        noted = cluster_deeds.begun_in(begun)
        if noted and read_done(layout, noted[-1][0]) is None:
            return noted[-1]
        time.sleep(0.05)
    raise AssertionError("no shard was begun")


@needs_ray
@pytest.mark.slow
def test_an_actor_for_each_accelerator_scores_to_the_same_bytes(
    two: RayRunner, tiny_coco: Path, tmp_path: Path, undisturbed: Layout
) -> None:
    """Composed by workers, scored by two actors, one of them killed, and written by workers: the same run."""
    planned = _plan(two, tiny_coco, tmp_path, undisturbed)
    scorer = two.scorer(planned.layout.run, device="cpu", count=2)
    actor = scorer._idle.get()
    scorer._idle.put(actor)
    two._ray.kill(actor)
    with only_build(planned.layout):
        names = [shard.name for shard in left_to_make(planned.layout, planned.plan)]
        list(make_shards(two.each, planned.layout.run, names, scorer=scorer))
        finish_run(planned.layout, planned.plan)
    assert scorer.count == 2
    assert differing(hashes(planned.layout), hashes(undisturbed)) == []
    assert not list(planned.layout.run.rglob("*.tmp"))


@needs_ray
@pytest.mark.parametrize(
    "lasting", [pytest.param(AGENTS, marks=pytest.mark.slow), pytest.param((), marks=pytest.mark.by_hand)]
)
def test_a_killed_build_leaves_no_process_and_ends_by_a_rerun(
    tiny_coco: Path, tmp_path: Path, lasting: tuple[str, ...]
) -> None:
    """`kill -9` of the build takes its cluster along; the same command without Ray ends it to the same bytes."""
    words = ("build", "--source", tiny_coco, "--output", tmp_path, *OPTIONS, "--workers", "2")
    log, layout = tmp_path / "begun", Layout(tmp_path / "run")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), cluster_deeds.LOG: str(log)}
    build = _hcoco(*words, "--runner", "ray", environment=environment, module="tests.flows.counting_build")
    while len(cluster_deeds.begun_in(log)) < 3 and build.poll() is None:
        time.sleep(0.05)
    below = [pid for pid in _below(build.pid) if not _words(pid).startswith(lasting)]
    build.kill()
    build.communicate()
    assert len(below) > 4
    assert 0 < len(list((tmp_path / "run" / "done").glob("*.json"))) < 12
    _wait_until_gone(below)
    again = _hcoco(*words, environment=environment)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert differing(hashes(layout), hashes(build_in(tiny_coco, tmp_path / "local", variants=2))) == []


# ------------------------------------------------------------------------------------------- three machines


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all machines see: `coco`, `begun`, `cache` and what is built."""
    folder = tmp_path_factory.mktemp("shared")
    write_coco(folder / "coco")
    return folder


@pytest.fixture(scope="module")
def environment(shared: Path) -> dict[str, str]:
    """Return the environment of the build and of the machines: a secret, and the switches of docs/scale.md."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PYTHONPATH": str(ROOT),
        "HCOCO_CACHE": str(shared / "cache"),
        cluster_deeds.LOG: str(shared / "begun"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_worker_niceness": "0",
        "RAY_grpc_client_keepalive_time_ms": "10000",
        "RAY_grpc_client_keepalive_timeout_ms": "10000",
    }


@pytest.fixture(scope="module")
def machines(environment: dict[str, str]) -> Iterator[list[Machine]]:
    """Yield three machines with a Ray cluster, the first its head."""
    if (why := why_no_machines()) is not None:
        pytest.skip(why)
    with three_machines(environment) as three:
        head, *others = three
        head.start_ray("--head", "--port 6379", "--ray-client-server-port 10001", f"--temp-dir {head.folder}")
        for machine in others:
            machine.start_ray(f"--address {head.address}:6379")
        yield three


@needs_ray
@pytest.mark.by_hand
def test_a_machine_that_dies_in_mid_build_loses_only_its_shard(
    machines: list[Machine], shared: Path, environment: dict[str, str]
) -> None:
    """Three machines build, one is unplugged and killed: same bytes as here, its shard alone is begun twice."""
    local = build_in(shared / "coco", shared / "local", variants=2)
    runner = f"ray://{machines[0].address}:10001"
    words = ("build", "--source", shared / "coco", "--output", shared / "many", *OPTIONS, "--runner", runner)
    layout, log = Layout(shared / "many" / "run"), shared / "begun"
    build = _hcoco(*words, environment=environment, module="tests.flows.counting_build")
    lost = machines[2]
    try:
        doomed = _under_way_on(lost, log, layout, build)
        lost.kill()
        killed = time.monotonic()
        said, _ = build.communicate(timeout=240)
        say(f"{doomed} lost with its machine; the build was over {time.monotonic() - killed:.0f} s later")
    finally:
        build.kill()
    assert build.returncode == 0, said
    counted = re.search(r"(\d+) planned = (\d+) kept \+ (\d+) rejected", said)
    assert counted is not None
    planned, kept, rejected = map(int, counted.groups())
    assert planned == kept + rejected
    assert f"{doomed}: its Ray worker died" in said
    noted = cluster_deeds.begun_in(log)
    names = [name for name, _, _ in noted]
    assert {address for _, address, _ in noted} == {machine.address for machine in machines}
    assert {name: names.count(name) for name in names} == {name: 1 + (name == doomed) for name in names}
    assert differing(hashes(layout), hashes(local)) == []
    assert list(verify_run(layout)) == []


def _under_way_on(machine: Machine, log: Path, layout: Layout, build: subprocess.Popen[str]) -> str:
    """Wait until a machine is in the midst of a shard; return the shard."""
    for _ in range(2400):
        for name, address, _ in cluster_deeds.begun_in(log):
            if address == machine.address and read_done(layout, name) is None:
                return name
        if build.poll() is not None:
            break
        time.sleep(0.05)
    build.kill()
    raise AssertionError(f"{machine.address} was given no shard: {build.communicate()[0]}")


@needs_ray
@pytest.mark.by_hand
def test_a_machine_without_the_shared_folder_or_with_other_code_is_named(
    machines: list[Machine], shared: Path, environment: dict[str, str]
) -> None:
    """A build from one of the machines ends with one line, code 2, and no sample that a blind worker made."""
    head, _, third = machines
    third.kill_processes()
    third.plug()
    other = shared / "other"
    shutil.copytree(ROOT / "augment", other / "augment")
    with (other / "augment" / "__init__.py").open("a") as file:
        file.write("\n# another version\n")
    blind = (f"mount -t tmpfs none {shared / 'coco'}", f"does not see {shared / 'coco'}")
    for before, line in (blind, (f"mount --bind {other / 'augment'} {ROOT / 'augment'}", "has digest")):
        third.start_ray(f"--address {head.address}:6379", before=before)
        inside = ("ip", "netns", "exec", head.name, sys.executable, "-m", "flows.cli", "build", "--source")
        words = (*inside, shared / "coco", "--output", shared / "blind", *OPTIONS, "--runner", f"{head.address}:6379")
        done = subprocess.run(
            [str(word) for word in words], cwd=ROOT, env=environment, capture_output=True, check=False, text=True
        )
        assert done.returncode == 2, done.stdout + done.stderr
        assert f"({third.address})" in done.stderr
        assert line in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        third.kill_processes()
