"""The settings of a build: one frozen model, read alike by `hcoco build` and the flow `build-hcoco`.

Every field carries its bounds and the sentence that `--help` and the Prefect form print.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from flows.errors import BadRequest
from flows.objects import BUILT, check_address, is_address, twin

DEFAULT_FAMILIES: Final[Mapping[str, float]] = {
    "luminance_cct": 0.35,
    "histogram": 0.20,
    "mkl": 0.15,
    "reinhard": 0.15,
    "perturb": 0.10,
    "idt": 0.05,
}
"""Families of edits and their weights. `augment.TRANSFERS` holds the code; a test keeps the names equal."""

COCO_BASE: Final = "http://images.cocodataset.org"
SAMPLE: Final = "sample"
FUSION: Final = "fusion"
COPYPASTE: Final = "copypaste"
DEFAULT_STAGES: Final = ("harmonization", FUSION)
STAGES: Final = (*DEFAULT_STAGES, COPYPASTE)
"""Copy-paste pairs are made on request only: they are for blending networks, such as GP-GAN."""
MOST_FUSION_VARIANTS: Final = 50
"""Variants have two digits in a sample's key, and the upper half of them are of the fusion stage."""
SAMPLE_SHARD_SIZE: Final = 16
SHARD_SIZE: Final = 1000

NOT_IDENTITY: Final = frozenset({"coco_base", "output", "run", "samples", "variants", "workers", "runner", "device"})
"""Settings that may differ when a run is continued; all others are what the run *is*."""

LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6
"""Of the families together, and of each: far beyond, sums of weights overflow or vanish."""

Model = TypeVar("Model", bound=BaseModel)

_RUNNER = re.compile(r"local|ray|(?:ray://)?[A-Za-z0-9][A-Za-z0-9._-]{0,252}:[0-9]{1,5}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def weights_by_name(value: object) -> object:
    """Read `mkl=1,idt=2`, or a bare name for a weight of 1, as an object."""
    if not isinstance(value, str):
        return value
    pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
    return {name.strip(): (weight.strip() if equals else "1") for name, equals, weight in pairs}


def comma_list(value: object) -> object:
    """Read `a,b` as a list, and a single number as a list of one."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return (value,) if isinstance(value, int) else value


def place_of_runs(value: object) -> object:
    """Read an address in object storage as the folder of the cache that stands for it; a path stays as it is."""
    return twin(check_address(value), kind=BUILT) if isinstance(value, str) and is_address(value) else value


def check_path(path: str | Path | None) -> str | Path | None:
    """Return a path from a user as it is; raise ValueError where the system could not open any such path."""
    if isinstance(path, Path) and re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):
        raise ValueError("an address does not go here; copy the file to a disk")
    if path is not None and "\0" in str(path):
        raise ValueError("a path cannot hold a NUL character")
    try:
        Path(path or "").expanduser()
    except RuntimeError:
        raise ValueError("there is no such user's home folder") from None
    return path


def check_name(name: str | None) -> str | None:
    """Return the name of a folder from a user as it is; raise ValueError where it is more than a plain name."""
    if name is not None and not _PLAIN_NAME.fullmatch(name):
        raise ValueError("use letters, digits, `.`, `_` and `-` only, 100 at most, and begin with a letter or digit")
    return name


class BuildSettings(BaseModel):
    """What to build, from what, and how. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        SAMPLE,
        min_length=1,
        description="`sample` (embedded, offline), a folder in COCO's layout or its address (`s3://bucket/coco`), "
        "`coco:val2017` or `coco:train2017`.",
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
    output: Annotated[Path, BeforeValidator(place_of_runs)] = Field(
        Path("output"), description="Folder that holds the runs, or an address such as `s3://bucket/prefix`."
    )
    run: str | None = Field(
        None, description="Name of this run's folder; by default the source and 8 hex digits of the settings."
    )
    stages: Annotated[tuple[Literal["harmonization", "fusion", "copypaste"], ...], BeforeValidator(comma_list)] = Field(
        DEFAULT_STAGES,
        min_length=1,
        description="What to make: `harmonization` triplets (edited people), `fusion` triplets (people brought into "
        "other photographs), `copypaste` pairs (people pasted hard, in another light), or several, as "
        "`harmonization,fusion`.",
    )
    samples: int | None = Field(None, ge=1, description="Upper bound of planned edits of a stage; all where not given.")
    variants: int = Field(
        1,
        ge=1,
        le=100,
        description="Edits per subject, each with another reference or in another place; 50 at most for fusion.",
    )
    families: Annotated[dict[str, float], BeforeValidator(weights_by_name)] = Field(
        dict(DEFAULT_FAMILIES), description="Colour-transfer families and their weights, as `mkl=1,reinhard=2`."
    )
    min_person_share: float = Field(
        0.06, ge=0, le=1, description="Least share of a photograph that its people cover together."
    )
    exclude_ids: Path | None = Field(
        None, description="File of COCO image ids, one a line, that must not be touched (a benchmark's test set, say)."
    )
    licenses: Annotated[tuple[int, ...] | None, BeforeValidator(comma_list)] = Field(
        None, description="COCO licence ids that are allowed, as `4,5,7`; all where not given."
    )
    max_side: int | None = Field(
        None, ge=64, description="Scale photographs down so that the longer side is at most this many pixels."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the plan: order, pairing and every drawn number.")
    workers: int | None = Field(None, ge=1, le=1024, description="Processes that make samples; the cores by default.")
    runner: str = Field(
        "local",
        description="Where shards are made: `local`; with the extra `ray` also `ray` (a Ray cluster of this machine), "
        "`ray://HOST:PORT` (one of many machines), or HOST:PORT (the same, from one of its machines).",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device of the learned parts.")
    shard_size: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description=f"Planned samples per shard; {SHARD_SIZE}, and {SAMPLE_SHARD_SIZE} for `sample`.",
    )
    gate: Literal["on", "off"] = Field(
        "on", description="Realism gate, which drops what looks grossly unnatural: `on` or `off`."
    )
    gate_checkpoint: Path | None = Field(
        None, description="Checkpoint of the gate; the one shipped for photographs by default, for `sample` its own."
    )
    gate_threshold: float | None = Field(
        None, ge=0, le=1, description="A sample is kept where its score is at least this; the checkpoint's by default."
    )

    easy_share: float = Field(
        0.33, gt=0, le=1, description="Share of the whole people, the easiest to cut out, that fusion takes."
    )
    fusion_side: int = Field(
        384, ge=128, le=1024, description="Longer side of a fusion picture, in pixels; smaller photographs stay so."
    )
    fusion_checkpoint: Path | None = Field(
        None,
        description="Network that makes the hard fusion samples; the one shipped for photographs by default, for "
        "`sample` its own.",
    )

    @field_validator("stages")
    @classmethod
    def _check_stages(cls, stages: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(stage for stage in STAGES if stage in stages)

    @field_validator("variants")
    @classmethod
    def _check_variants(cls, variants: int, info: ValidationInfo) -> int:
        if variants > MOST_FUSION_VARIANTS and FUSION in info.data.get("stages", ()):
            raise ValueError(
                f"at most {MOST_FUSION_VARIANTS} with the stage fusion; give stages=harmonization for more"
            )
        return variants

    @field_validator("fusion_checkpoint")
    @classmethod
    def _refuse_without_fusion(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and FUSION not in info.data.get("stages", ()):
            raise ValueError("it is for the stage fusion; add it to stages, or leave the checkpoint out")
        return value

    @field_validator("gate_checkpoint", "gate_threshold")
    @classmethod
    def _refuse_without_gate(cls, value: Path | float | None, info: ValidationInfo) -> Path | float | None:
        if value is not None and info.data.get("gate") == "off":
            raise ValueError("there is no gate with gate=off; leave one of the two out")
        return value

    @field_validator("families")
    @classmethod
    def _check_families(cls, families: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(families) - set(DEFAULT_FAMILIES))
        if unknown:
            raise ValueError(f"unknown family {unknown[0]!r}; known are {', '.join(DEFAULT_FAMILIES)}")
        if not all(0 <= weight <= MOST_WEIGHT for weight in families.values()):  # false for NaN too
            raise ValueError(f"weights must be 0 to {MOST_WEIGHT:g}")
        if sum(families.values()) < LEAST_WEIGHT:
            raise ValueError(f"at least one family needs a weight above 0 (together {LEAST_WEIGHT:g} or more)")
        return families

    _check_paths = field_validator(
        *("source", "images", "annotations", "output", "exclude_ids", "gate_checkpoint", "fusion_checkpoint")
    )(check_path)
    _check_run = field_validator("run")(check_name)

    @field_validator("runner")
    @classmethod
    def _check_runner(cls, runner: str) -> str:
        if not _RUNNER.fullmatch(runner):
            raise ValueError("give `local`, `ray`, `ray://HOST:PORT` or HOST:PORT")
        return runner

    @property
    def planned_per_shard(self) -> int:
        """Return the planned samples per shard, with the source's default filled in."""
        return self.shard_size or (SAMPLE_SHARD_SIZE if self.source == SAMPLE else SHARD_SIZE)

    @property
    def processes(self) -> int:
        """Return the number of worker processes, with the usable cores filled in."""
        return self.workers or usable_cores()


def usable_cores() -> int:
    """Count the cores that this process may run on (containers often allow fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_settings(values: Mapping[str, Any]) -> BuildSettings:
    """Check the settings of a build from a user; see `parse`."""
    return parse(BuildSettings, values)


def parse(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Check settings from a user; raise `BadRequest` with one line for the first that does not fit."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"][:1]) or "settings"
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            raise BadRequest(f"there is no setting {name!r}; known are {', '.join(model.model_fields)}") from None
        raise BadRequest(f"setting {name}: {message} (got {first['input']!r})") from None


def identity(
    settings: BuildSettings,
    *,
    inputs: Mapping[str, Any],
    checkpoint: str | None = None,
    threshold: float | None = None,
    fuser: str | None = None,
) -> dict[str, Any]:
    """Return what makes a run this run: settings that decide bytes, and digests of the files they name.

    Paths do not take part, the content behind them does: a folder that moved is the same source.

    Args:
        settings: Of the run.
        inputs: Digests of the annotations and of the excluded ids.
        checkpoint: Digest of the gate's checkpoint; None without a gate.
        threshold: Of the gate, the checkpoint's where the settings name none; None without a gate.
        fuser: Digest of the fusion network; None without the stage fusion.
    """
    values = settings.model_dump(
        mode="json", exclude=set(NOT_IDENTITY) | {"source", "images", "annotations", "exclude_ids"}
    )
    values |= {"gate_checkpoint": checkpoint, "gate_threshold": threshold, "fusion_checkpoint": fuser}
    if FUSION not in settings.stages:
        values |= {"easy_share": None, "fusion_side": None}
    values["families"] = {name: weight for name, weight in sorted(settings.families.items()) if weight > 0}
    values["licenses"] = None if settings.licenses is None else sorted(set(settings.licenses))
    values["stages"] = sorted(set(settings.stages))
    values["shard_size"] = settings.planned_per_shard
    return {**values, "inputs": dict(inputs)}


def fingerprint(value: Mapping[str, Any]) -> str:
    """Return 8 hex digits of the canonical JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:8]
