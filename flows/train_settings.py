"""The settings of a training of the realism network: read alike by `hcoco train-realism` and the flow `train-realism`.

Every field carries its bounds and the sentence that `--help` prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from flows.settings import COCO_BASE, DEFAULT_FAMILIES, SAMPLE, check_name, check_path, comma_list, weights_by_name

DEFAULT_SHARE: Final[Mapping[str, float]] = {"person": 0.75, "other": 0.15, "borrowed": 0.05, "segment": 0.05}
"""How often which kind of subject is drawn; see `flows.make.subjects.Kind`."""
STEPS: Final = 3000
SAMPLE_STEPS: Final = 400
"""The sample has 87 subjects; about two minutes of one core."""

NOT_IDENTITY: Final = frozenset({
    *("source", "images", "annotations", "coco_base", "photos", "output", "name"),
    *("device", "threads", "vgg16_weights"),
})  # fmt: skip
"""Settings that may differ when a training is continued. The digest of what is learnt from stands for the source's."""


class TrainRealismSettings(BaseModel):
    """What to learn from, and how. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        SAMPLE,
        min_length=1,
        description="`sample` (embedded, offline), a folder in COCO's layout, `coco:val2017` or `coco:train2017`.",
    )
    images: Path | None = Field(
        None, description="Folder of the photographs, where the source's layout is not COCO's or holds several sets."
    )
    annotations: Path | None = Field(
        None, description="COCO instances file, where the source's layout is not COCO's or holds several sets."
    )
    coco_base: str = Field(
        COCO_BASE,
        description="Address that `coco:...` sources are fetched from: COCO's own, or a mirror of its layout.",
    )
    photos: Path | None = Field(None, description="Folder of photographs without annotations, to learn from too.")
    photographs: int = Field(
        4000,
        ge=10,
        le=1_000_000,
        description="At most so many photographs of each kind (annotated, without annotations) are learnt from, and an "
        "eighth as many of each held-out split are measured on; all are held in memory.",
    )
    output: Path = Field(Path("output/realism"), description="Folder that holds the trainings.")
    name: str | None = Field(None, description="Name of this training and its folder; that of the source by default.")
    network: Literal["compact", "vgg16"] = Field(
        "compact",
        description="`compact` for the CPU, or `vgg16` (RealismCNN's, 112 pixels), which wants an accelerator.",
    )
    vgg16_weights: Path | None = Field(
        None, description="ImageNet weights that `vgg16` starts from, a file in torchvision's format; random without."
    )
    steps: int | None = Field(
        None, ge=1, le=10_000_000, description=f"Batches to learn from; {STEPS}, and {SAMPLE_STEPS} for `sample`."
    )
    groups: int = Field(16, ge=1, le=1024, description="Subjects a batch; each is seen four times in it.")
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="Highest learning rate; 2e-3, and 1e-4 for `vgg16`."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the first weights and of everything that is drawn.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the network is trained; `auto` takes an accelerator where there is one."
    )
    threads: int = Field(
        1,
        ge=1,
        le=1024,
        description="Threads of the network on the CPU; another number gives weights that differ in their last bits.",
    )
    without: Annotated[tuple[str, ...], BeforeValidator(comma_list)] = Field(
        (), description="Families of edits that are left out of training, as `mkl,idt`, to see how it judges new ones."
    )
    share: Annotated[dict[str, float], BeforeValidator(weights_by_name)] = Field(
        dict(DEFAULT_SHARE), description="How often which kind of subject is drawn, as `person=3,other=1`."
    )
    vigour: float = Field(
        0.35, ge=0, le=1, description="How strongly whole photographs are changed, natural or edited."
    )

    _check_paths = field_validator("source", "images", "annotations", "photos", "output", "vgg16_weights")(check_path)
    _check_name = field_validator("name")(check_name)

    @field_validator("without")
    @classmethod
    def _check_without(cls, without: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(without) - set(DEFAULT_FAMILIES))
        if unknown:
            raise ValueError(f"unknown family {unknown[0]!r}; known are {', '.join(DEFAULT_FAMILIES)}")
        if set(without) == set(DEFAULT_FAMILIES):
            raise ValueError("at least one family must be left")
        return without

    @field_validator("share")
    @classmethod
    def _check_share(cls, share: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(share) - set(DEFAULT_SHARE))
        if unknown:
            raise ValueError(f"unknown kind {unknown[0]!r}; known are {', '.join(DEFAULT_SHARE)}")
        if not all(0 <= weight <= 1e6 for weight in share.values()):  # false for NaN too
            raise ValueError("shares must be 0 to 1e6")
        if not share.get("person"):
            raise ValueError("person needs a share above 0: people are what the network is there for")
        return share

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.vgg16_weights is not None and self.network != "vgg16":
            raise ValueError("vgg16_weights are for the network vgg16; give network=vgg16 too, or leave them out")
        return self

    @property
    def batches(self) -> int:
        """Return the steps, with the source's default filled in."""
        return self.steps or (SAMPLE_STEPS if self.source == SAMPLE else STEPS)

    @property
    def highest_rate(self) -> float:
        """Return the highest learning rate, with the network's default filled in."""
        return self.learning_rate or {"compact": 2e-3, "vgg16": 1e-4}[self.network]


def identity(settings: TrainRealismSettings) -> dict[str, Any]:
    """Return the settings that decide the weights, as JSON holds them."""
    values = settings.model_dump(mode="json", exclude=set(NOT_IDENTITY))
    share = {kind: weight for kind, weight in sorted(settings.share.items()) if weight > 0}
    return {
        **values,
        "steps": settings.batches,
        "learning_rate": settings.highest_rate,
        "without": sorted(set(settings.without)),
        "share": share,
        "from_imagenet": settings.vgg16_weights is not None,
    }
