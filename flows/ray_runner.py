"""Where shards are made, `ray`: worker processes of a Ray cluster, on this machine or on many.

    ray                a cluster of this machine's processes, started for the build and stopped with it
    ray://HOST:PORT    a cluster that runs already, through its client port (10001 where not chosen otherwise)
    HOST:PORT          the same cluster, from one of its own machines, through the address of `ray start --address`

Planning, the lock and the manifest stay in the process that runs the build. Workers get a function and paths, so all
machines must see the run, the source and the cache at the same paths, and hold the same code; each worker proves it
before and after its work (`Sight`). A worker that dies, or a whole machine, loses what it was making, which is then
begun again elsewhere: by this module rather than by Ray, so that it is counted and told. docs/scale.md is the guide.

Ray is imported when a runner is opened, after the variables that silence it and keep it on loopback are set.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import BoundedSemaphore
from types import ModuleType, TracebackType
from typing import Any, Final, Self, TypeVar

from flows.errors import BadRequest
from flows.make.gate import find_gate
from flows.make.judge import Opinion
from flows.make.plan import code_version
from flows.make.run import Scorer
from flows.make.shard import Composed, make_shard
from flows.objects import cache_folder
from flows.runners import ONE_THREAD, TRIES
from flows.settings import SAMPLE, BuildSettings

Result = TypeVar("Result")

LOCAL: Final = "ray"
CLIENT: Final = "ray://"

WORKERS_ENVIRONMENT: Final = dict(ONE_THREAD)
"""Variables of the workers, beside the place of the cache."""

_QUIET: Final = {"RAY_USAGE_STATS_ENABLED": "0"}
_STARTED_HERE: Final = {"RAY_raylet_start_wait_time_s": "120", "RAY_worker_niceness": "0"}
"""A start takes 7 s, and longer than the 30 s that Ray grants on a machine with a load of 13 a core (both measured).

Workers have the priority of the build, as those of the pool do, and not the niceness of 15 that Ray gives them.
"""
_NOTICE_LOST_MACHINES: Final = {
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
}
"""Of a machine that falls silent Ray hears after 420 s, its defaults of 300 s and 120 s together (measured)."""
_LOOPBACK: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""The first is Ray's switch for listening on 127.0.0.1 alone, on any system; without it all addresses are open."""
_SECRET: Final = secrets.token_hex(32)
"""Of the clusters that this process starts: Ray reads it once in a process."""

_OBJECT_STORE_BYTES: Final = 200_000_000  # calls and markers are kilobytes; Ray would take 30 % of the memory
_CONNECT_SECONDS: Final = 10.0
_CONNECT_TRIES: Final = 3  # the first client of a fresh cluster now and then finds its server's process fallen over
_LITTER_SECONDS: Final = 86_400.0
_SIGHT_SECONDS: Final = 5.0  # network file systems show a new file of another machine with a delay
_READY_SECONDS: Final = 300.0  # an actor imports torch and wakes the accelerator
_LANDMARKS: Final = 3
_LOOKED_AT: Final = 500

log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- what workers must see


@dataclass(frozen=True)
class Sight:
    """What a worker must see as the process does that runs the build; without it samples would be lost unnoticed.

    Attributes:
        tokens: Empty files put into the folders that are written to.
        landmarks: Some photographs of the source, with their sizes in bytes.
        code: As `code_version` has it.
    """

    tokens: tuple[Path, ...]
    landmarks: tuple[tuple[Path, int], ...]
    code: Mapping[str, str]

    def check(self) -> None:
        """Raise where this machine does not see the same files.

        Raises:
            BadRequest: In one line, with the machine's name.
        """
        for token in self.tokens:
            if not _appears(token):
                raise BadRequest(_unseen(token.parent))
        for path, size in self.landmarks:
            try:
                same = path.stat().st_size == size
            except OSError:
                same = False
            if not same:
                raise BadRequest(_unseen(path))

    def check_code(self) -> None:
        """Raise where this machine holds other code.

        Raises:
            BadRequest: In one line, with the machine's name and what differs.
        """
        here = code_version()
        changed = sorted(name for name in {*here, *self.code} if here.get(name) != self.code.get(name))
        if changed:
            name = changed[0]
            raise BadRequest(
                f"the Ray worker on {socket.gethostname()} ({_address()}) has {name} {here.get(name)}, the build has "
                f"{self.code.get(name)}: its samples would differ; install the same hcoco and `constraints.txt` there"
            )


def _unseen(path: Path) -> str:
    return (
        f"the Ray worker on {socket.gethostname()} ({_address()}) does not see {path} as the build does; all machines "
        "need the run, the source and the cache (HCOCO_CACHE) at the same paths of one shared file system"
    )


def _appears(path: Path) -> bool:
    end = time.monotonic() + _SIGHT_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _address() -> str:
    ray = importlib.import_module("ray")
    return str(ray.util.get_node_ip_address())


def _landmarks_below(folder: Path, *, depth: int = 2) -> list[tuple[Path, int]]:
    """Return some files of a folder and of those below it; a folder of many is not read to its end."""
    found: list[tuple[Path, int]] = []
    with suppress(OSError), os.scandir(folder) as entries:
        seen = list(islice(entries, _LOOKED_AT))
        files = sorted((entry for entry in seen if entry.is_file()), key=lambda entry: entry.name)
        found += [(Path(entry.path), entry.stat().st_size) for entry in files[:_LANDMARKS]]
        for entry in seen if depth else ():
            if entry.is_dir():
                found += _landmarks_below(Path(entry.path), depth=depth - 1)
    return found


def _put_token(folder: Path) -> Path:
    """Put a token into a folder, and take those away that killed builds left there days ago."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(".ray-*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > _LITTER_SECONDS:
                old.unlink()
    token = folder / f".ray-{secrets.token_hex(8)}"
    token.touch()
    return token


# ---------------------------------------------------------------------------------------------- in the workers


def _work(sight: Sight, function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    """Do a piece of work in a worker; what was read while the sight was gone is not believed."""
    _begin(sight)
    if function is make_shard:
        return function(*arguments, seen=sight.check)
    result = function(*arguments)
    sight.check()
    return result


def _begin(sight: Sight) -> None:
    _prepare()
    sight.check_code()
    sight.check()


@cache
def _prepare() -> None:
    import cv2  # noqa: PLC0415 - in the worker, not where the build runs

    cv2.setNumThreads(1)


class _ScoringActor:
    """Hold one accelerator of the cluster and score with it."""

    def __init__(self, sight: Sight, run: Path, device: str) -> None:
        self._sight = sight
        self._scorer = Scorer(run, device=device)

    def ready(self) -> None:
        """Raise where this machine cannot score for the run."""
        _begin(self._sight)

    def score(self, composed: Composed) -> list[Opinion | None]:
        """Score a shard."""
        self._sight.check()
        return self._scorer.score(composed)


# ---------------------------------------------------------------------------------------------- in the build


class RayRunner:
    """Run functions in the workers of a Ray cluster; survive the death of any of them. Safe to call from threads.

    Leaving it ends its work for good. It may be entered and left twice: once while a lock is held under which it writes.
    """

    def __init__(self, settings: BuildSettings) -> None:
        """Make a runner; it joins or starts its cluster when it is entered.

        Raises:
            BadRequest: Ray is not installed.
        """
        self._ray = _import_ray(settings.runner)
        self._settings = settings
        self._sight: Sight | None = None
        self._folder: Path | None = None
        self._left = False
        self._at_once = nullcontext() if self._is_local or not settings.workers else BoundedSemaphore(settings.workers)

    @property
    def _is_local(self) -> bool:
        return self._settings.runner == LOCAL

    @property
    def workers(self) -> int:
        """Return how many processes can work at once now: machines come and go."""
        cores = max(1, self._count("CPU"))
        return min(cores, self._settings.workers or cores)

    @property
    def accelerators(self) -> int:
        """Return how many accelerators the cluster has now; 0 where the settings want none."""
        return 0 if self._settings.device == "cpu" else self._count("GPU")

    def _count(self, resource: str) -> int:
        with self._lost_cluster_told():
            return int(self._ray.cluster_resources().get(resource, 0))

    def __enter__(self) -> Self:
        """Start or join the cluster; return the runner itself.

        Raises:
            BadRequest: There is none at the address, or it is of another version of Ray or Python.
        """
        if self._sight is not None:
            return self
        options: dict[str, Any] = {
            "runtime_env": {"env_vars": {**WORKERS_ENVIRONMENT, "HCOCO_CACHE": str(cache_folder())}},
            "log_to_driver": False,
            "configure_logging": False,
            "logging_level": logging.ERROR,
        }
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            if self._is_local:
                self._start(options)
            else:
                self._join(options)
            self._sight = self._look()
        except BaseException:
            self._leave()
            raise
        self._remote = self._ray.remote(_work)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the cluster, which drops what this build still has there; stop it where it was started here."""
        self._leave()

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run one call in a worker and wait for it; begin it again where the worker dies.

        Raises:
            BadRequest: Workers died under it again and again, or do not see the run or the source.
        """
        result: Result = self._call(function, arguments, begun=0)
        return result

    def map(self, function: Callable[[Any], Result], items: Iterable[Any]) -> Iterator[Result]:
        """Yield the function's results in the order of the items, made a few items ahead of the reader."""
        return self.each((function, item) for item in items)

    def each(self, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield the results of calls, each given as (function, *arguments), in their order, a few calls ahead."""
        waiting = iter(calls)
        ahead: deque[tuple[tuple[Any, ...], Any]] = deque()
        while True:
            wanted = self.workers if self._settings.workers and not self._is_local else 2 * self.workers + 1
            for call in islice(waiting, max(0, wanted - len(ahead))):
                ahead.append((call, self._submit(call[0], call[1:])))
            if not ahead:
                return
            call, future = ahead.popleft()
            try:
                result = self._get(future)
            except WorkerDiedError as death:
                self._tell(call[0], call[1:], death, begun=1)
                result = self._call(call[0], call[1:], begun=1)
            yield result

    def scorer(self, run: Path, *, device: str = "cuda", count: int | None = None) -> RayScorer:
        """Return what scores the shards of a run: an actor for each accelerator, or `count` of them."""
        start = partial(self._start_actor, run, device=device)
        return RayScorer(start, self._get, device=device, count=count or max(1, self.accelerators))

    def _start_actor(self, run: Path, *, device: str) -> Any:
        """Start an actor that scores for a run, and return it when it is ready.

        Raises:
            BadRequest: Nothing gets free for it, or it does not see the run.
            WorkerDiedError: It died at once.
        """
        needs = {"num_cpus": 0, "num_gpus": 1 if device == "cuda" else 0, "max_restarts": 0}
        actor = self._ray.remote(_ScoringActor).options(**needs).remote(self._sight, run, device)
        ready = actor.ready.remote()
        if not self._ray.wait([ready], timeout=_READY_SECONDS)[0]:
            self._ray.kill(actor)
            raise BadRequest(
                "no accelerator of the Ray cluster got free within five minutes; end what holds them, or give --device cpu"
            )
        self._get(ready)
        return actor

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...], *, begun: int) -> Any:
        for number in range(begun + 1, TRIES + 1):
            try:
                with self._at_once:
                    return self._get(self._submit(function, arguments))
            except WorkerDiedError as death:
                self._tell(function, arguments, death, begun=number)
        raise BadRequest(
            f"Ray workers died {TRIES} times over {function.__name__}{arguments}; most often memory runs out: "
            "use fewer --workers or a smaller --max-side"
        )

    def _submit(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        # Ray hides accelerators from those that ask for none, and this looks whether torch finds one.
        needs = {"num_gpus": 0.01} if function is find_gate and self.accelerators else {}
        options = {"num_cpus": 1, "max_retries": 0, "scheduling_strategy": "SPREAD", **needs}
        if self._left:
            raise BadRequest("stopped; run the same command again to go on")
        with self._lost_cluster_told():
            return self._remote.options(**options).remote(self._sight, function, arguments)

    def _get(self, future: Any) -> Any:
        """Wait for a result; errors of the worker arrive as they were raised.

        Raises:
            WorkerDiedError: The worker, or its machine, died under the work.
        """
        errors = self._ray.exceptions
        died = (
            *(errors.WorkerCrashedError, errors.NodeDiedError, errors.LocalRayletDiedError, errors.OutOfMemoryError),
            *(errors.ObjectLostError, errors.RayActorError),
        )
        try:
            with self._lost_cluster_told():
                return self._ray.get(future)
        except died as death:
            raise WorkerDiedError(_first_line(death)) from None
        except errors.RayTaskError as error:
            raise _as_raised(error) from None
        except errors.RuntimeEnvSetupError as error:
            raise BadRequest(f"a machine of the Ray cluster starts no workers: {_first_line(error)}") from None

    def _lost_cluster_told(self) -> _LostClusterTold:
        return _LostClusterTold(self._settings.runner, self._ray)

    def _tell(self, function: Callable[..., Any], arguments: tuple[Any, ...], death: Exception, *, begun: int) -> None:
        name = arguments[1] if function is make_shard else function.__name__
        again = "begun again" if begun < TRIES else "given up"
        log.warning("%s: its Ray worker died (%s); %s (%d of %d)", name, death, again, begun, TRIES)

    def _look(self) -> Sight:
        """Put the tokens and choose the landmarks; `coco:` sources are fetched into the cache, `sample` is drawn there."""
        settings = self._settings
        in_cache = settings.source == SAMPLE or settings.source.startswith("coco:")
        written = [settings.output.expanduser().absolute(), *([cache_folder()] if in_cache else [])]
        read = [folder for folder in (settings.images, None if in_cache else Path(settings.source)) if folder]
        landmarks = [mark for folder in read for mark in _landmarks_below(folder.expanduser().absolute())]
        return Sight(tuple(map(_put_token, written)), tuple(landmarks), code_version())

    def _start(self, options: Mapping[str, Any]) -> None:
        """Start a cluster of this machine's processes, on loopback, in a folder of its own."""
        base = tempfile.gettempdir()
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir=base if len(base) < 30 else "/tmp"))  # noqa: S108 - sockets' paths are short
        with _FailedStartTold():
            self._ray.init(
                address="local",
                num_cpus=self._settings.processes,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=str(self._folder),
                **options,
            )

    def _join(self, options: Mapping[str, Any]) -> None:
        """Join a cluster that runs.

        Raises:
            BadRequest: There is none, or it is of another version of Ray or Python.
        """
        address = self._settings.runner
        host, _, port = address.removeprefix(CLIENT).rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            raise BadRequest(f"no Ray cluster answers at {address} ({error}); see `ray start --help`") from None
        for number in range(1, _CONNECT_TRIES + 1):
            try:
                self._ray.init(address, **options)
            except ConnectionAbortedError as error:
                if number == _CONNECT_TRIES or "Version mismatch" in str(error):
                    raise BadRequest(f"the Ray cluster at {address} cannot be joined: {_last_line(error)}") from None
            except (RuntimeError, ValueError, OSError, self._ray.exceptions.RayError) as error:
                raise BadRequest(f"the Ray cluster at {address} cannot be joined: {_last_line(error)}") from None
            else:
                return

    def _leave(self) -> None:
        if self._left:
            return
        self._left = True
        for token in self._sight.tokens if self._sight else ():
            token.unlink(missing_ok=True)  # work that is still under way somewhere sees that it is not wanted
        with suppress(ConnectionError, RuntimeError):
            self._ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class RayScorer:
    """Score the shards of a run in actors, each with an accelerator of its own. Safe to call from threads."""

    def __init__(
        self, start: Callable[[], Any], get: Callable[[Any], list[Opinion | None]], *, device: str, count: int
    ) -> None:
        """Start the actors.

        Args:
            start: Starts an actor, and returns it when it is ready.
            get: Waits for what an actor returns; raises `WorkerDiedError` where it dies.
            device: Where they score, `cpu` or `cuda`.
            count: How many there are.
        """
        self.device = device
        self.count = 0
        self._start = start
        self._get = get
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(count):
            self._add()

    def score(self, composed: Composed) -> list[Opinion | None]:
        """Score a shard in an actor that is idle; where it dies, in another.

        Raises:
            BadRequest: Actors died over it again and again, or no accelerator is left.
        """
        for number in range(1, TRIES + 1):
            actor = self._idle.get()
            try:
                opinions = self._get(actor.score.remote(composed))
            except WorkerDiedError as death:
                self.count -= 1
                log.warning("%s: its scorer died (%s); scored again (%d of %d)", composed.shard, death, number, TRIES)
                self._replace()
            except BaseException:
                self._idle.put(actor)
                raise
            else:
                self._idle.put(actor)
                return opinions
        raise BadRequest(f"scorers died {TRIES} times over {composed.shard}; is the accelerator's memory full?")

    def each(self, shards: Iterable[Composed]) -> Iterator[tuple[Composed, list[Opinion | None]]]:
        """Yield shards with what was said of them, in their order, as many at work as there are actors."""
        waiting = iter(shards)
        ahead: deque[tuple[Composed, Future[list[Opinion | None]]]] = deque()
        with ThreadPoolExecutor(max(1, self.count)) as threads:
            while True:
                for one in islice(waiting, max(0, self.count + 1 - len(ahead))):
                    ahead.append((one, threads.submit(self.score, one)))
                if not ahead:
                    return
                one, said = ahead.popleft()
                yield one, said.result()

    def _add(self) -> None:
        self._idle.put(self._start())
        self.count += 1

    def _replace(self) -> None:
        """Start an actor for one that died; without one the others go on, if there are any."""
        try:
            self._add()
        except (BadRequest, WorkerDiedError):
            if self.count == 0:
                raise BadRequest(
                    "no accelerator is left in the Ray cluster; run the same command again when one is there"
                ) from None


class WorkerDiedError(Exception):
    """A worker, or its machine, died under a piece of work."""


class _FailedStartTold:
    """Turn what Ray raises where it cannot start into a `BadRequest`; among it are exceptions of no class of their own."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell why there is no cluster.

        Raises:
            BadRequest: Ray did not start.
        """
        if kind is Exception or isinstance(error, (RuntimeError, ValueError, OSError)):
            raise BadRequest(
                f"Ray does not start here ({_last_line(error or Exception())}); run the same command again when the "
                "machine is less busy, or with --runner local"
            ) from None


class _LostClusterTold:
    """Turn the end of the cluster itself, or one that starts no workers, into a `BadRequest`."""

    def __init__(self, address: str, ray: ModuleType) -> None:
        self._address = address
        self._errors = (ConnectionError, ray.exceptions.RaySystemError, ray.exceptions.RpcError)
        self._passing = (ray.exceptions.RayTaskError, ray.exceptions.ObjectLostError)

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell the loss of the cluster; errors of workers pass.

        Raises:
            BadRequest: The cluster does not answer any more.
        """
        if isinstance(error, self._errors) and not isinstance(error, self._passing):
            raise BadRequest(
                f"the Ray cluster at {self._address} fails ({_first_line(error)}); see to it and run the same command "
                "again: what is done stays"
            ) from None


def _as_raised(error: Any) -> BaseException:
    """Return what a worker raised, without Ray's wrapping; one line where the worker has no hcoco at all."""
    cause = error.cause
    if isinstance(cause, RuntimeError) and "failed to import on the worker" in str(cause):
        return BadRequest(
            f"a Ray worker ({error.ip}) cannot import hcoco ({_last_line(cause)}); install the same hcoco and "
            "`constraints.txt` there"
        )
    return cause if isinstance(cause, BaseException) else RuntimeError(_last_line(error))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].split(". ")[0] if lines else type(error).__name__


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _import_ray(runner: str) -> ModuleType:
    """Import Ray, silent, and on loopback where the cluster is this machine's own.

    Raises:
        BadRequest: It is not installed.
    """
    variables = {**_QUIET, **_STARTED_HERE, **_NOTICE_LOST_MACHINES}
    if runner == LOCAL and "RAY_AUTH_MODE" not in os.environ:  # nobody else on this machine may hand it work
        variables |= {**_LOOPBACK, "RAY_AUTH_TOKEN": _SECRET}
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    try:
        importlib.import_module("ray.exceptions")
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise BadRequest(
            f"setting runner: {runner} needs Ray, which is not installed; pip install 'hcoco[ray]', in a checkout "
            "pip install -c constraints.txt -e '.[ray]'"
        ) from None
