"""Deployed builds, for real: cancelled as the UI does it, killed part by part, lost with worker and process, ended."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows import services
from flows.make.verify import verify_run
from flows.services import Services
from flows.store.layout import Layout
from flows.store.lock import is_held
from tests.flows.kills import (
    FINAL,
    Kill,
    build_whole,
    deployed,
    kill_deployed,
    parameters_of,
    say,
    state_of,
    submit,
    wait_until,
)
from tests.flows.make.building import build_in, differing, hashes
from tests.flows.test_stopping import SLOW_DISK, markers, options_of

SILENT = 45
"""Seconds without a sign of life, which comes every 30; less than the 90 of real life, to save time."""


@dataclass(frozen=True)
class Story:
    """What happened to the three flow runs.

    Attributes:
        automations: How many there are of our name, after they were asked for twice.
        cancelled: State of the first run, and the seconds until its processes were gone.
        after_cancel: What was left: shards done, temporary files, whether the lock was held.
        lost: State of the second run, whose process and worker were killed, and the seconds until it was told.
        last: State of the third.
        layout: Of the run that all three made.
    """

    automations: int
    cancelled: tuple[dict[str, Any], float]
    after_cancel: tuple[int, int, bool]
    lost: tuple[dict[str, Any], float]
    last: dict[str, Any]
    layout: Layout


@pytest.fixture(scope="module")
def story(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Cancel, lose and finish one run of eight shards, on a slow disk."""
    folder = tmp_path_factory.mktemp("story")
    (folder / "slow").mkdir()
    (folder / "slow" / "sitecustomize.py").write_text(SLOW_DISK)
    run = folder / "output" / "run"
    fixed = {"gate": "off", "stages": "harmonization", "samples": 24, "shard_size": 3, "workers": 2, "run": run.name}
    parameters = {"source": str(tiny_coco), "output": str(run.parent), **fixed}
    with pytest.MonkeyPatch.context() as patch, deployed(folder / "a project") as up:
        patch.setattr(services, "SILENT_SECONDS", SILENT)
        patch.setenv("PYTHONPATH", str(folder / "slow"))
        now = up()
        services._watch_for_lost_runs(now)

        flow_run = submit(now, parameters)
        until_shards(now, run, flow_run, 1)
        cancelled = cancel(now, flow_run)
        left = (markers(run), len(list(run.rglob("*.tmp"))), bool(is_held(Layout(run).lock)))

        flow_run = submit(now, parameters)
        until_shards(now, run, flow_run, left[0] + 1)
        lost = lose(now, flow_run)

        now = up()
        flow_run = submit(now, parameters)
        wait_until(lambda: state_of(now, flow_run)["type"] in FINAL, seconds=400, what="the last run")
        yield Story(len(ours(now)), cancelled, left, lost, state_of(now, flow_run), Layout(run))


@dataclass(frozen=True)
class Parts:
    """What became of deployed builds whose parts were killed, and of one that was lost.

    Attributes:
        kills: Of parts; each run was compared with an undisturbed one when it had come to its end.
        lost: State of the run whose process and worker were killed.
        last: State of the one that ended what that one had begun.
        begun: Shards that were done when it was lost.
        layout: Of the run of both.
    """

    kills: Sequence[Kill]
    lost: dict[str, Any]
    last: dict[str, Any]
    begun: int
    layout: Layout


@pytest.fixture(scope="module")
def parts(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Lose a run, wait until the server has seen it, kill the parts of others, and end the lost one.

    The server counts a run's silence in its memory, so it must not be killed before.
    """
    folder = tmp_path_factory.mktemp("parts")
    run = folder / "output" / "run"
    options = options_of(tiny_coco)
    whole = build_whole(folder / "undisturbed", options)
    with pytest.MonkeyPatch.context() as patch, deployed(folder / "a project") as up:
        patch.setattr(services, "SILENT_SECONDS", SILENT)
        patch.setattr(services, "_close_lost_runs", lambda _: 0)  # as where the whole machine is gone, and does no `up`
        now = up()
        given = {**parameters_of(options_of(tiny_coco, samples=48)), "output": str(run.parent), "run": run.name}
        lost = submit(now, given)
        until_shards(now, run, lost, 1)
        kill_worker_and_flow(now)
        begun = markers(run)
        wait_until(lambda: state_of(now, lost)["type"] in FINAL, seconds=4 * SILENT, what="the state of a lost run")

        targets = iter(("pool", "flow", "server", "worker"))
        kills = list(kill_deployed(up, folder, random.Random(3), whole=whole, targets=targets, options=options))

        now = up()
        last = submit(now, given)
        wait_until(lambda: state_of(now, last)["type"] in FINAL, seconds=400, what="the last run")
        return Parts(kills, state_of(now, lost), state_of(now, last), begun, Layout(run))


def ours(now: Services) -> list[dict[str, Any]]:
    """Return the automations of our name."""
    named = {"automations": {"name": {"any_": [services.lost_runs_automation()["name"]]}}}
    return list(services._request(f"{now.api_url}/automations/filter", body=named))


def until_shards(now: Services, run: Path, flow_run: str, number: int) -> None:
    """Wait until a flow run has so many shards done, and is still at work."""
    wait_until(
        lambda: markers(run) >= number or state_of(now, flow_run)["type"] in FINAL, seconds=400, what="the first shards"
    )
    assert state_of(now, flow_run)["type"] == "RUNNING"


def cancel(now: Services, flow_run: str) -> tuple[dict[str, Any], float]:
    """Cancel a flow run as the UI does; return its end, and the seconds until none of its processes was left."""
    processes, began = services._flow_runs(now.root), time.monotonic()
    assert processes
    wanted = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    services._request(f"{now.api_url}/flow_runs/{flow_run}/set_state", body=wanted)
    wait_until(lambda: not any(map(services._if_alive, processes)), seconds=60, what="the end of a cancelled process")
    seconds = time.monotonic() - began
    wait_until(lambda: state_of(now, flow_run)["type"] in FINAL, seconds=200, what="the state of a cancelled run")
    say(
        f"cancelled: gone after {seconds:.1f} s, {state_of(now, flow_run)['type']} after {time.monotonic() - began:.1f} s"
    )
    return state_of(now, flow_run), seconds


def lose(now: Services, flow_run: str) -> tuple[dict[str, Any], float]:
    """Kill the worker and a flow run's process by -9; return the run's end, and the seconds until it was known."""
    began = time.monotonic()
    kill_worker_and_flow(now)
    assert state_of(now, flow_run)["type"] == "RUNNING"
    wait_until(lambda: state_of(now, flow_run)["type"] in FINAL, seconds=4 * SILENT, what="the state of a lost run")
    say(f"lost: {state_of(now, flow_run)['type']} after {time.monotonic() - began:.1f} s")
    return state_of(now, flow_run), time.monotonic() - began


def kill_worker_and_flow(now: Services) -> None:
    """Kill the worker and the flow run's process by -9."""
    victims = [*services._flow_runs(now.root), *([now.worker] if now.worker else [])]
    assert len(victims) >= 2
    services._signal(victims, signal.SIGKILL)
    assert services._wait_until_gone(victims, seconds=60)


@pytest.mark.slow
def test_parts_of_a_deployment_are_killed_and_runs_end_in_the_same_bytes(parts: Parts) -> None:
    """Pool worker, flow run, server, Prefect's worker: each build comes to its end, see `tests/flows/kills.py`."""
    assert [kill.what for kill in parts.kills] == ["pool", "flow", "server", "worker"]


@pytest.mark.slow
def test_a_run_whose_machine_died_is_marked_crashed_and_ended_by_the_next(
    parts: Parts, tiny_coco: Path, tmp_path: Path
) -> None:
    """With worker and process dead the automation ends its Running; the next run makes what is missing."""
    assert parts.lost["type"] == "CRASHED"
    assert "No sign of life for" in parts.lost["message"]
    assert 1 <= parts.begun < 16
    assert parts.last["type"] == "COMPLETED", parts.last["message"]
    assert [str(problem) for problem in verify_run(parts.layout)] == []
    assert differing(hashes(parts.layout), hashes(build_in(tiny_coco, tmp_path, samples=48, shard_size=3))) == []


@pytest.mark.by_hand
def test_a_cancelled_build_ends_within_ten_seconds(story: Story) -> None:
    """Its processes are gone, its shards under way are dropped without litter, and those that were done stay."""
    state, seconds = story.cancelled
    done, litter, held = story.after_cancel
    assert state["type"] == "CANCELLED"
    assert seconds < 10
    assert 1 <= done < 8
    assert (litter, held) == (0, False)


@pytest.mark.by_hand
def test_a_lost_run_is_marked_crashed(story: Story) -> None:
    """With worker and process dead nobody reports it: the automation that `up` made, once, ends its Running."""
    state, seconds = story.lost
    assert story.automations == 1
    assert state["type"] == "CRASHED"
    assert "No sign of life for" in state["message"]
    assert seconds < 3 * SILENT


@pytest.mark.by_hand
def test_after_all_that_a_run_ends_in_the_same_bytes(story: Story, tiny_coco: Path, tmp_path: Path) -> None:
    """Cancelled, lost and begun again, the run is byte for byte what a build alone makes, and is proved."""
    assert story.last["type"] == "COMPLETED", story.last["message"]
    assert [str(problem) for problem in verify_run(story.layout)] == []
    assert not list(story.layout.run.rglob("*.tmp"))
    alone = build_in(tiny_coco, tmp_path, samples=24, shard_size=3)
    assert differing(hashes(story.layout), hashes(alone)) == []
