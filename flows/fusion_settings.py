"""The settings of a training of fusion networks: read alike by the commands and the flows `train-fusion`, `self-teach`.

Every field carries its bounds and the sentence that `--help` prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from flows.settings import COCO_BASE, SAMPLE, check_name, check_path

STEPS: Final = 4000
SAMPLE_STEPS: Final = 600


class FusionTraining(BaseModel):
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
    photos: Path | None = Field(None, description="Folder of photographs without annotations, for backgrounds only.")
    output: Path = Field(Path("output/fusion"), description="Folder that holds the trainings.")
    name: str | None = Field(None, description="Name of this training and its folder; that of the source by default.")
    steps: int | None = Field(
        None, ge=1, le=10_000_000, description=f"Batches of a stage; {STEPS}, and {SAMPLE_STEPS} for `sample`."
    )
    learning_rate: float = Field(2e-3, gt=0, le=1, description="Highest learning rate.")
    perceptual: float = Field(
        0.8, ge=0, le=100, description="Weight of the perceptual loss beside that of the colours; 0 needs no features."
    )
    vgg16_weights: Path | None = Field(
        None,
        description="ImageNet weights for the perceptual loss, a file in torchvision's format; by default the features "
        "are those of the shipped realism network.",
    )
    streams: Literal[1, 2] = Field(2, description="Encoders: 2, or 1 that reads both pictures, for comparison.")
    truth: Literal["matte", "polygon"] = Field(
        "matte",
        description="What the wanted composites are made with: the matte, or for comparison the polygon, which teaches "
        "to paste what the mask says.",
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

    _check_paths = field_validator("source", "images", "annotations", "photos", "output", "vgg16_weights")(check_path)
    _check_name = field_validator("name")(check_name)

    @field_validator("streams", mode="before")
    @classmethod
    def _read_streams(cls, streams: object) -> object:
        return int(streams) if streams in {"1", "2"} else streams

    @property
    def batches(self) -> int:
        """Return the steps of a stage, with the source's default filled in."""
        return self.steps or (SAMPLE_STEPS if self.source == SAMPLE else STEPS)


class TrainFusionSettings(FusionTraining):
    """One stage."""

    first: Path | None = Field(
        None, description="Checkpoint of the stage before, which makes the hard examples; without it the first stage."
    )
    _check_first = field_validator("first")(check_path)


class SelfTeachSettings(FusionTraining):
    """The first stage and those that follow from it."""

    rounds: int = Field(
        1, ge=1, le=9, description="Stages after the first; each learns from the pictures of the one before."
    )
