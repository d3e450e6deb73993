"""Train one stage of the fusion network, as a Prefect flow; `hcoco train-fusion` does the same without Prefect."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import FailedRun
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.errors import BadRequest, storage_errors_told
from flows.fusion_settings import TrainFusionSettings
from flows.make.self_teach import load_first, only_teaching
from flows.self_teach import gather, stage
from flows.settings import COCO_BASE, parse


@flow(
    name="train-fusion",
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type] # one after the other
    validate_parameters=False,  # parse does, in one line that says how to mend it
    persist_result=False,
)
def train_fusion(  # noqa: PLR0917 - a flow's parameters, always given by name
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
    first: str | None = None,
) -> State[Any] | dict[str, Any]:
    """Train one stage of the fusion network and write its checkpoint.

    Args:
        source: `sample` (embedded, offline), a folder in COCO's layout, `coco:val2017` or `coco:train2017`.
        images: Folder of the photographs, where the source's layout is not COCO's or holds several sets.
        annotations: COCO instances file, where the source's layout is not COCO's or holds several sets.
        coco_base: Address that `coco:...` sources are fetched from.
        photos: Folder of photographs without annotations, for backgrounds only.
        output: Folder that holds the trainings.
        name: Name of this training and its folder; that of the source by default.
        steps: Batches; 4000, and 600 for `sample`.
        learning_rate: Highest learning rate.
        perceptual: Weight of the perceptual loss; 0 needs no features.
        vgg16_weights: ImageNet weights for the perceptual loss, a file in torchvision's format.
        streams: Encoders: 2, or 1 for comparison.
        truth: What the wanted composites are made with: `matte`, or `polygon` for comparison.
        seed: Seed of the first weights and of everything that is drawn.
        device: Where the network is trained: `auto`, `cpu` or `cuda`.
        threads: Of the network on the CPU.
        first: Checkpoint of the stage before; without it the first stage.
    """
    asked = dict(locals())
    try:
        with storage_errors_told():
            return _train(parse(TrainFusionSettings, asked))
    except (BadRequest, FailedRun) as request:
        return Failed(message=str(request))


def _train(settings: TrainFusionSettings) -> dict[str, Any]:
    before = load_first(settings.first)
    number = before.stage + 1 if before else 1
    with only_teaching(settings):
        school = gather.submit(settings).result()
        checkpoint = stage.submit(school, number, before).result()
    return {"checkpoint": str(school.checkpoint(number)), "sha256": checkpoint.digest}
