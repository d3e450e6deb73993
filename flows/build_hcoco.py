"""The main job: from COCO photographs of people to sharded triplets, as a Prefect flow.

    plan        select people, split, pair; write the plan            flows/make/plan.py
    shards      edit, judge, encode, write; a task a shard            flows/make/shard.py
    finish      add up, prove the split, write manifest and report    flows/make/run.py

`hcoco build` calls the same functions without Prefect. The truth about what is done lies on disk, in the markers of
the shards; Prefect orders the work, retries it and shows it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from queue import Queue
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import FailedRun
from prefect.futures import PrefectFuture
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.artifacts import show_build
from flows.errors import BadRequest, storage_errors_told
from flows.make.plan import Planned, describe_plan, plan_run
from flows.make.run import Finished, Scores, finish_run, left_to_make, make_one
from flows.make.shard import Done
from flows.runners import Runner, open_runner, scorer_for
from flows.settings import COCO_BASE, DEFAULT_FAMILIES, BuildSettings, parse_settings
from flows.store.lock import only_build
from flows.view.refresh import write_views

MOST_AT_ONCE = 1024

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@flow(
    name="build-hcoco",
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_AT_ONCE),  # type: ignore[arg-type] # threads only wait for shards
    validate_parameters=False,  # parse_settings does, in one line that says how to mend it
    persist_result=False,
)
def build_hcoco(  # noqa: PLR0917 - a flow's parameters, always given by name
    source: str = "sample",
    images: str | None = None,
    annotations: str | None = None,
    coco_base: str = COCO_BASE,
    output: str = "output",
    run: str | None = None,
    stages: list[str] | str = "harmonization,fusion",
    samples: int | None = None,
    variants: int = 1,
    families: dict[str, float] | str = dict(DEFAULT_FAMILIES),  # noqa: B006 - Prefect shows it in its form
    min_person_share: float = 0.06,
    exclude_ids: str | None = None,
    licenses: list[int] | str | None = None,
    max_side: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    runner: str = "local",
    device: str = "auto",
    shard_size: int | None = None,
    gate: str = "on",
    gate_checkpoint: str | None = None,
    gate_threshold: float | None = None,
    easy_share: float = 0.33,
    fusion_side: int = 384,
    fusion_checkpoint: str | None = None,
) -> State[Any] | dict[str, Any]:
    """Turn COCO photographs of people into sharded triplets for image harmonization.

    Args:
        source: `sample` (embedded, offline), a folder in COCO's layout or its address, `coco:val2017`, `coco:train2017`.
        images: Folder of the photographs, where the source's layout is not COCO's or holds several sets.
        annotations: COCO instances file, where the source's layout is not COCO's or holds several sets.
        coco_base: Address that `coco:...` sources are fetched from.
        output: Folder that holds the runs, or an address such as `s3://bucket/prefix`.
        run: Name of this run's folder; by default the source and 8 hex digits of the settings.
        stages: What to make: `harmonization` triplets, `fusion` triplets, `copypaste` pairs, or several of them.
        samples: Upper bound of planned edits of a stage; all where not given.
        variants: Edits per subject, each with another reference or in another place.
        families: Colour-transfer families and their weights.
        min_person_share: Least share of a photograph that its people cover together.
        exclude_ids: File of COCO image ids, one a line, that must not be touched.
        licenses: COCO licence ids that are allowed; all where not given.
        max_side: Scale photographs down so that the longer side is at most this many pixels.
        seed: Seed of the plan: order, pairing and every drawn number.
        workers: Processes that make samples; the cores by default.
        runner: Where shards are made: `local`; `ray` on this machine; `ray://HOST:PORT` or HOST:PORT on many.
        device: Device of the learned parts.
        shard_size: Planned samples per shard; 1000, and 16 for `sample`.
        gate: Realism gate, which drops what looks grossly unnatural: `on` or `off`.
        gate_checkpoint: Checkpoint of the gate; by default the one shipped for photographs, for `sample` its own.
        gate_threshold: A sample is kept where its score is at least this; the checkpoint's by default.
        easy_share: Share of the whole people, the easiest to cut out, that fusion takes.
        fusion_side: Longer side of a fusion picture, in pixels.
        fusion_checkpoint: Network that makes the hard fusion samples; by default the one shipped for the source.
    """
    asked = dict(locals())
    try:
        finished = _build(parse_settings(asked))
    except (BadRequest, FailedRun) as request:
        return Failed(message=str(request))
    return {"run": str(finished.layout.place), **finished.manifest["counts"]}


def _build(settings: BuildSettings) -> Finished:
    logger = get_run_logger()
    with open_runner(settings) as runner:
        planned = plan.submit(settings, runner).result()
        for line in describe_plan(planned):
            logger.info(line)
        if planned.warning:
            logger.warning(planned.warning)
        with only_build(planned.layout), runner:  # no worker writes once the lock is given back
            make_shards(planned, runner)
            return finish.submit(planned, runner).result()


def refusing(work: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a task that cannot do what is asked end as failed, with the one line that says why and no traceback."""

    @wraps(work)
    def told(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        try:
            with storage_errors_told():
                return work(*arguments, **options)
        except BadRequest as request:
            return cast(
                "Result", Failed(message=str(request))
            )  # Prefect raises FailedRun where the result is asked for

    return told


@task(task_run_name="plan", cache_policy=NO_CACHE, persist_result=False)
@refusing
def plan(settings: BuildSettings, runner: Runner) -> Planned:
    """Select, split and pair; write the plan, or read the one that is there."""
    return plan_run(settings, over=runner.map)


def make_shards(planned: Planned, runner: Runner) -> None:
    """Make the shards that are not done yet, as many at once as there are workers; report progress after each."""
    logger = get_run_logger()
    left, scorer = left_to_make(planned.layout, planned.plan), scorer_for(planned, runner)
    total, began = sum(shard.planned for shard in left), time.monotonic()
    progress = cast(
        "UUID",
        create_progress_artifact(progress=0.0 if left else 100.0, key="build-progress", description="Samples made"),
    )
    made = kept = 0
    work = [(runner, planned.layout.run, shard.name, scorer) for shard in left]
    for done in as_done(make, work, at_once=runner.workers + 1):
        made, kept = made + done.planned, kept + done.kept
        rate = made / (time.monotonic() - began)
        logger.info(
            "%s: %d kept of %d (%d of %d samples, %.0f a second)",
            done.shard,
            done.kept,
            done.planned,
            made,
            total,
            rate,
        )
        update_progress_artifact(artifact_id=progress, progress=100.0 * made / total)
    if not left:
        logger.info("every shard is done already")


@task(
    task_run_name="{name}",
    cache_policy=NO_CACHE,  # the marker on disk is the cache
    persist_result=False,
    retries=2,
    retry_delay_seconds=2,
)
@refusing
def make(runner: Runner, run: Path, name: str, scorer: Scores | None) -> Done:
    """Make one shard in a worker process; where there is an accelerator, score it in this one."""
    return make_one(runner.call, run, name, scorer=scorer)


def as_done(work: Task[Any, Done], arguments: Sequence[tuple[Any, ...]], *, at_once: int) -> Iterator[Done]:
    """Submit a task for each of the arguments, `at_once` under way; yield the results as they come."""
    ended: Queue[PrefectFuture[Done]] = Queue()
    for number, each in enumerate(arguments):
        if number >= at_once:
            yield ended.get().result()
        work.submit(*each).add_done_callback(ended.put)
    for _ in range(min(at_once, len(arguments))):
        yield ended.get().result()


@task(task_run_name="finish", cache_policy=NO_CACHE, persist_result=False)
@refusing
def finish(planned: Planned, runner: Runner) -> Finished:
    """Add up, prove that no photograph stands on two sides, write manifest and pages, and show them in Prefect."""
    finished = finish_run(planned.layout, planned.plan)
    views = write_views(planned.layout, planned=planned.plan.planned, over=runner.map)
    show_build(finished, views)
    place = planned.layout.place
    report = planned.layout.link(views.report) if planned.layout.address else views.report
    get_run_logger().info("%s; report: %s", finished.summary, report)
    if last_run := os.environ.get("HCOCO_LAST_RUN"):
        Path(last_run).write_text(f"{place}\n", encoding="utf-8")
    return finished
