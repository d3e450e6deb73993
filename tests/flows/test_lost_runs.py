"""A deployed build, for real: cancelled as the UI does it, then lost with worker and process, then made to its end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows import services
from flows.make.verify import verify_run
from flows.services import Services
from flows.store.layout import Layout
from flows.store.lock import is_held
from tests.flows.kills import FINAL, deployed, state_of, submit, wait_until
from tests.flows.make.building import build_in, differing, hashes
from tests.flows.test_stopping import SLOW_DISK, markers

pytestmark = pytest.mark.by_hand

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
    return state_of(now, flow_run), seconds


def lose(now: Services, flow_run: str) -> tuple[dict[str, Any], float]:
    """Kill the worker and a flow run's process by -9; return the run's end, and the seconds until it was known."""
    began = time.monotonic()
    victims = [*services._flow_runs(now.root), *([now.worker] if now.worker else [])]
    assert len(victims) >= 2
    services._signal(victims, signal.SIGKILL)
    assert services._wait_until_gone(victims, seconds=20)
    assert state_of(now, flow_run)["type"] == "RUNNING"
    wait_until(lambda: state_of(now, flow_run)["type"] in FINAL, seconds=4 * SILENT, what="the state of a lost run")
    return state_of(now, flow_run), time.monotonic() - began


def test_a_cancelled_build_ends_within_ten_seconds(story: Story) -> None:
    """Its processes are gone, its shards under way are dropped without litter, and those that were done stay."""
    state, seconds = story.cancelled
    done, litter, held = story.after_cancel
    assert state["type"] == "CANCELLED"
    assert seconds < 10
    assert 1 <= done < 8
    assert (litter, held) == (0, False)


def test_a_lost_run_is_marked_crashed(story: Story) -> None:
    """With worker and process dead nobody reports it: the automation that `up` made, once, ends its Running."""
    state, seconds = story.lost
    assert story.automations == 1
    assert state["type"] == "CRASHED"
    assert "No sign of life for" in state["message"]
    assert seconds < 3 * SILENT


def test_after_all_that_a_run_ends_in_the_same_bytes(story: Story, tiny_coco: Path, tmp_path: Path) -> None:
    """Cancelled, lost and begun again, the run is byte for byte what a build alone makes, and is proved."""
    assert story.last["type"] == "COMPLETED", story.last["message"]
    assert [str(problem) for problem in verify_run(story.layout)] == []
    assert not list(story.layout.run.rglob("*.tmp"))
    alone = build_in(tiny_coco, tmp_path, samples=24, shard_size=3)
    assert differing(hashes(story.layout), hashes(alone)) == []
