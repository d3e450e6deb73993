"""Teach fusion networks from easy people to hard ones, as a Prefect flow.

    gather     easy people, their mattes, scenes                      flows/make/fusion.py
    stage      M1 on easy people; M2 on these and on M1's pictures    flows/make/self_teach.py

`hcoco self-teach` calls the same functions without Prefect. What is done lies on disk, in the training's folder.
"""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import FailedRun
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.build_hcoco import refusing
from flows.errors import BadRequest, storage_errors_told
from flows.fusion_settings import FusionTraining, SelfTeachSettings
from flows.make.self_teach import School, compare_stages, only_teaching, open_school, train_stage
from flows.settings import COCO_BASE, parse
from flows.view.fusion_page import write_fusion_page
from flows.view.markdown import as_code
from realism.fusion_checkpoint import FusionCheckpoint
from realism.train import Progress


@flow(
    name="self-teach",
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type] # one after the other
    validate_parameters=False,  # parse does, in one line that says how to mend it
    persist_result=False,
)
def self_teach(  # noqa: PLR0917 - a flow's parameters, always given by name
    source: str = "sample",
    images: str | None = None,
    annotations: str | None = None,
    coco_base: str = COCO_BASE,
    photos: str | None = None,
    output: str = "output/fusion",
    name: str | None = None,
    steps: int | None = None,
    learning_rate: float = 2e-3,
    perceptual: float = 0.8,
    vgg16_weights: str | None = None,
    streams: int = 2,
    truth: str = "matte",
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    rounds: int = 1,
) -> State[Any] | dict[str, Any]:
    """Train the first stage of the fusion network and those that learn from its pictures.

    Args:
        source: `sample` (embedded, offline), a folder in COCO's layout, `coco:val2017` or `coco:train2017`.
        images: Folder of the photographs, where the source's layout is not COCO's or holds several sets.
        annotations: COCO instances file, where the source's layout is not COCO's or holds several sets.
        coco_base: Address that `coco:...` sources are fetched from.
        photos: Folder of photographs without annotations, for backgrounds only.
        output: Folder that holds the trainings.
        name: Name of this training and its folder; that of the source by default.
        steps: Batches of a stage; 4000, and 600 for `sample`.
        learning_rate: Highest learning rate.
        perceptual: Weight of the perceptual loss; 0 needs no features.
        vgg16_weights: ImageNet weights for the perceptual loss, a file in torchvision's format.
        streams: Encoders: 2, or 1 for comparison.
        truth: What the wanted composites are made with: `matte`, or `polygon` for comparison.
        seed: Seed of the first weights and of everything that is drawn.
        device: Where the networks are trained: `auto`, `cpu` or `cuda`.
        threads: Of the network on the CPU.
        rounds: Stages after the first.
    """
    asked = dict(locals())
    try:
        with storage_errors_told():
            return _teach(parse(SelfTeachSettings, asked))
    except (BadRequest, FailedRun) as request:
        return Failed(message=str(request))


def _teach(settings: SelfTeachSettings) -> dict[str, Any]:
    made: list[FusionCheckpoint] = []
    with only_teaching(settings):
        school = gather.submit(settings).result()
        for number in range(1, settings.rounds + 2):
            made.append(stage.submit(school, number, made[-1] if made else None).result())
        page = report.submit(school, len(made)).result()
    return {"folder": str(school.folder), "report": page, "sha256": [each.digest for each in made]}


@task(task_run_name="gather", cache_policy=NO_CACHE, persist_result=False)
@refusing
def gather(settings: FusionTraining) -> School:
    """Gather easy people and scenes."""
    school = open_school(settings)
    get_run_logger().info("%s", school.summary)
    return school


@task(task_run_name="stage-{number}", cache_policy=NO_CACHE, persist_result=False)  # the state on disk is the cache
@refusing
def stage(school: School, number: int, first: FusionCheckpoint | None) -> FusionCheckpoint:
    """Train one stage, telling of each saved state."""
    logger = get_run_logger()
    progress = cast("UUID", create_progress_artifact(progress=0.0, key=f"fusion-stage-{number}", description="Steps"))

    def tell(_stage: int, told: Progress) -> None:
        logger.info("step %d, loss %.4f", told.step, told.loss)
        update_progress_artifact(artifact_id=progress, progress=100.0 * told.step / school.settings.batches)

    return train_stage(school, number, first=first, tell=tell)


@task(task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
@refusing
def report(school: School, stages: int) -> str:
    """Compare the stages with the blends on what was held out; write the page."""
    comparison = compare_stages(school, stages=stages)
    page = write_fusion_page(
        school.report,
        title=f"Self-teaching: {school.folder.name}",
        tables=comparison.tables,
        counts=comparison.counts,
        pictures=comparison.pictures,
    )
    summary = f"- folder: {as_code(school.folder)}\n- report: {as_code(page)}"
    create_markdown_artifact(markdown=summary, key="self-teach-summary")
    return str(page)
