"""Train the network of the realism gate, as a Prefect flow.

    gather     subjects to learn from, held-out cases to measure on      flows/make/realism.py
    train      the loop; killed at any moment it goes on later           realism/train.py
    measure    calibrate, measure, audit; checkpoint and report          flows/view/training.py

`hcoco train-realism` calls the same functions without Prefect. What is done lies on disk, in the training's folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import FailedRun
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.build_hcoco import refusing
from flows.errors import BadRequest, storage_errors_told
from flows.make.realism import Gathered, Told, describe_checkpoint, layout_of, only_training, train_network
from flows.make.realism import gather as gather_data
from flows.make.realism import measure as measure_network
from flows.settings import COCO_BASE, parse
from flows.train_settings import DEFAULT_SHARE, TrainRealismSettings
from flows.view.markdown import as_code, as_text
from flows.view.training import FIGURES, write_training_report
from realism.checkpoint import Checkpoint
from realism.networks import Network
from realism.train import NotANumberLossError


@flow(
    name="train-realism",
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type] # one after the other
    validate_parameters=False,  # parse does, in one line that says how to mend it
    persist_result=False,
)
def train_realism(  # noqa: PLR0917 - a flow's parameters, always given by name
    source: str = "sample",
    images: str | None = None,
    annotations: str | None = None,
    coco_base: str = COCO_BASE,
    photos: str | None = None,
    photographs: int = 4000,
    output: str = "output/realism",
    name: str | None = None,
    network: str = "compact",
    vgg16_weights: str | None = None,
    steps: int | None = None,
    groups: int = 16,
    learning_rate: float | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    without: list[str] | str = "",
    share: dict[str, float] | str = dict(DEFAULT_SHARE),  # noqa: B006 - Prefect shows it in its form
    vigour: float = 0.35,
) -> State[Any] | dict[str, Any]:
    """Train the realism network, calibrate, measure and audit it, and write a checkpoint with a report.

    Args:
        source: `sample` (embedded, offline), a folder in COCO's layout, `coco:val2017` or `coco:train2017`.
        images: Folder of the photographs, where the source's layout is not COCO's or holds several sets.
        annotations: COCO instances file, where the source's layout is not COCO's or holds several sets.
        coco_base: Address that `coco:...` sources are fetched from.
        photos: Folder of photographs without annotations, to learn from too.
        photographs: At most so many photographs of each kind are learnt from.
        output: Folder that holds the trainings.
        name: Name of this training and its folder; that of the source by default.
        network: `compact`, or `vgg16`, which wants an accelerator.
        vgg16_weights: ImageNet weights that `vgg16` starts from, a file in torchvision's format.
        steps: Batches to learn from; 3000, and 400 for `sample`.
        groups: Subjects a batch; each is seen four times in it.
        learning_rate: Highest learning rate; 2e-3, and 1e-4 for `vgg16`.
        seed: Seed of the first weights and of everything that is drawn.
        device: Where the network is trained: `auto`, `cpu` or `cuda`.
        threads: Threads of the network on the CPU.
        without: Families of edits that are left out of training.
        share: How often which kind of subject is drawn.
        vigour: How strongly whole photographs are changed, natural or edited.
    """
    asked = dict(locals())
    try:
        with storage_errors_told():
            return _train(parse(TrainRealismSettings, asked))
    except (BadRequest, FailedRun) as request:
        return Failed(message=str(request))


def _train(settings: TrainRealismSettings) -> dict[str, Any]:
    layout = layout_of(settings)
    with only_training(layout):
        gathered = gather.submit(settings).result()
        network, history = train.submit(gathered).result()
        checkpoint = measure.submit(gathered, network, history).result()
    return {"training": str(layout.folder), "audit_passed": checkpoint.audit_passed, "metrics": checkpoint.metrics}


@task(task_run_name="gather", cache_policy=NO_CACHE, persist_result=False)
@refusing
def gather(settings: TrainRealismSettings) -> Gathered:
    """Gather subjects and held-out cases."""
    gathered = gather_data(settings)
    get_run_logger().info("%s", gathered.summary)
    return gathered


@task(task_run_name="train", cache_policy=NO_CACHE, persist_result=False)  # the state on disk is the cache
@refusing
def train(gathered: Gathered) -> tuple[Network, list[dict[str, float]]]:
    """Train, telling of each saved state."""
    logger = get_run_logger()
    progress = cast("UUID", create_progress_artifact(progress=0.0, key="train-realism-progress", description="Steps"))

    def tell(told: Told) -> None:
        if told.saved:
            logger.info("%s", told.line)
            update_progress_artifact(artifact_id=progress, progress=100.0 * told.step / told.steps)

    try:
        return train_network(gathered, tell=tell)
    except NotANumberLossError as error:
        raise BadRequest(f"{error}, under another name") from None


@task(task_run_name="measure", cache_policy=NO_CACHE, persist_result=False)
@refusing
def measure(gathered: Gathered, network: Network, history: Sequence[Mapping[str, float]]) -> Checkpoint:
    """Calibrate, measure and audit; write checkpoint and report, and show the figures in Prefect."""
    checkpoint = measure_network(gathered, network, history)
    report = write_training_report(gathered.layout)
    table = [
        {
            "figure": row.name,
            **{split: values.get(row.key) for split, values in checkpoint.metrics.items()},
            "wanted": row.wanted,
        }
        for row in FIGURES
    ]
    create_table_artifact(table=table, key="train-realism-figures", description="Figures on held-out photographs")
    lines = describe_checkpoint(checkpoint)
    places = (f"folder: {as_code(gathered.layout.folder)}", f"report: {as_code(report)}")
    summary = "\n".join(f"- {line}" for line in (*map(as_text, lines), *places))
    create_markdown_artifact(markdown=summary, key="train-realism-summary")
    for line in lines:
        get_run_logger().info("%s", line)
    return checkpoint
