"""Train a harmonizer on the samples of a run, as a Prefect flow; `hcoco train` does the same without Prefect."""

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
from flows.harmonizer_settings import TrainHarmonizerSettings
from flows.make.train_harmonizer import describe_training, only_course, open_course, train_course
from flows.settings import parse
from flows.view.harmonizer_page import write_harmonizer_page
from flows.view.markdown import as_code, as_text
from realism.train import Progress


@flow(
    name="train",
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type] # one after the other
    validate_parameters=False,  # parse does, in one line that says how to mend it
    persist_result=False,
)
def train(  # noqa: PLR0917 - a flow's parameters, always given by name
    network: str,
    samples: str,
    preset: str = "tiny",
    stage: str = "auto",
    output: str = "output/harmonizers",
    name: str | None = None,
    steps: int | None = None,
    batch: int | None = None,
    side: int | None = None,
    learning_rate: float | None = None,
    flip: bool = True,  # noqa: FBT001, FBT002 - a flow's parameter, always given by name
    window: float = 1.0,
    jitter: float = 0.0,
    seed: int = 0,
    device: str = "auto",
    half: bool = False,  # noqa: FBT001, FBT002 - a flow's parameter, always given by name
    threads: int = 2,
    workers: int = 1,
) -> State[Any] | dict[str, Any]:
    """Train a harmonizer, and write its checkpoint and a report with pictures and curves.

    Args:
        network: `masked_unet`, `pix2pix`, `attention_hsv`, `attention_rgb`, `dovenet`, `gp_gan` or `multi_stream`.
        samples: Folder of the run whose kept samples of the split `train` are learnt from.
        preset: `tiny`, or `paper` with published sizes and numbers.
        stage: `harmonization`, `copypaste`, or `auto`.
        output: Folder that holds the trainings.
        name: Name of this training and its folder; network, preset and run by default.
        steps: Batches to learn from; the preset's by default, as are the next three.
        batch: Samples a batch.
        side: Pixels, either way, that pictures are scaled to.
        learning_rate: Highest learning rate.
        flip: Mirror every other sample.
        window: Least share of either side that a window, cut anew out of every other sample, has; 1 takes all whole.
        jitter: Other light for each sample, composite and photograph alike: gammas of e to the power of at most this.
        seed: Seed of the first weights, of the order and of what is varied.
        device: Where the network is trained: `auto`, `cpu` or `cuda`.
        half: Compute in bfloat16 on the CPU too.
        threads: Threads of the network on the CPU.
        workers: Processes that read and decode.
    """
    asked = dict(locals())
    try:
        with storage_errors_told():
            settings = parse(TrainHarmonizerSettings, asked)
            with only_course(settings):
                return teach.submit(settings).result()
    except (BadRequest, FailedRun) as request:
        return Failed(message=str(request))


@task(task_run_name="teach", cache_policy=NO_CACHE, persist_result=False)  # the state on disk is the cache
@refusing
def teach(settings: TrainHarmonizerSettings) -> dict[str, Any]:
    """Train, telling of each saved state; write checkpoint and report, and show the outcome in Prefect."""
    logger, course = get_run_logger(), open_course(settings)
    logger.info("%s", course.summary)
    progress = cast("UUID", create_progress_artifact(progress=0.0, key="train-progress", description="Steps"))

    def tell(told: Progress) -> None:
        logger.info("step %d, loss %.4f", told.step, told.loss)
        update_progress_artifact(artifact_id=progress, progress=100.0 * told.step / course.numbers.steps)

    checkpoint = train_course(course, tell=tell)
    page, outcome = write_harmonizer_page(course.layout), describe_training(checkpoint)
    logger.info("%s", outcome)
    summary = f"- {as_text(outcome)}\n- folder: {as_code(course.layout.folder)}\n- report: {as_code(page)}"
    create_markdown_artifact(markdown=summary, key="train-summary")
    return {"folder": str(course.layout.folder), "report": str(page), "sha256": checkpoint.digest}
