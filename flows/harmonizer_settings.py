"""The settings of a training of a harmonizer: read alike by `hcoco train` and the flow `train`.

Every field carries its bounds and the sentence that `--help` prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from flows.settings import check_name, check_path

NETWORKS: Final = (*("masked_unet", "pix2pix", "attention_hsv", "attention_rgb", "dovenet", "gp_gan", "multi_stream"),)
"""Names of `realism.harmonizers.HARMONIZERS`, for those who must not load torch; a test keeps them equal."""
WORDS: Final = "Default: the preset's."


class TrainHarmonizerSettings(BaseModel):
    """What to learn from, and how. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Literal[
        "masked_unet", "pix2pix", "attention_hsv", "attention_rgb", "dovenet", "gp_gan", "multi_stream"
    ] = Field(description="Name of the harmonizer; docs/harmonizers.md says what each is.")
    samples: Path = Field(description="Folder of the run whose kept samples of the split `train` are learnt from.")
    preset: Literal["tiny", "paper"] = Field(
        "tiny", description="`tiny`: a small network, two minutes on two cores; `paper`: published sizes and numbers."
    )
    stage: Literal["auto", "harmonization", "copypaste"] = Field(
        "auto",
        description="Whose samples; `auto` takes copy-paste pairs for gp_gan where the run has them, else harmonization.",
    )
    output: Path = Field(Path("output/harmonizers"), description="Folder that holds the trainings.")
    name: str | None = Field(
        None, description="Name of this training and its folder; network, preset and run by default."
    )
    steps: int | None = Field(None, ge=1, le=100_000_000, description=f"Batches to learn from. {WORDS}")
    batch: int | None = Field(None, ge=2, le=4096, description=f"Samples a batch. {WORDS}")
    side: int | None = Field(
        None, ge=16, le=2048, description=f"Pixels, either way, that pictures are scaled to. {WORDS}"
    )
    learning_rate: float | None = Field(None, gt=0, le=1, description=f"Highest learning rate. {WORDS}")
    flip: bool = Field(default=True, description="Mirror every other sample, left to right.")
    window: float = Field(
        1.0,
        ge=0.25,
        le=1,
        description="Cut a window out of every other sample, anew each time it comes: at least this share of either side; "
        "1 takes samples whole.",
    )
    jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Give each sample another light, composite and photograph alike, anew each time it comes: gammas of "
        "e to the power of at most this; 0 leaves it.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the first weights, of the order and of what is varied.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the network is trained; `auto` takes an accelerator where there is one."
    )
    half: bool = Field(
        default=False,
        description="Compute in bfloat16 on the CPU too, in half the time where it has AMX; on CUDA it always is.",
    )
    threads: int = Field(
        2,
        ge=1,
        le=1024,
        description="Threads of the network on the CPU; another number gives weights that differ in their last bits.",
    )
    workers: int = Field(1, ge=0, le=256, description="Processes that read and decode; 0 does it between the steps.")

    _check_paths = field_validator("samples", "output")(check_path)
    _check_name = field_validator("name")(check_name)
