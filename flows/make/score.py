"""Score composites of any origin by a realism checkpoint: a picture and a mask, or a whole data set."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from flows.coco.pictures import BadPicture, Picture
from flows.coco.sources import Watch, unwatched
from flows.errors import BadRequest
from flows.make.pairs import Pair, find_pairs, read_pair
from flows.store.cells import harmless_cell
from flows.store.layout import writing
from realism import Checkpoint, load_checkpoint, prepare, score_crops, shipped
from realism.metrics import auroc
from realism.weights import NAMES

DEFAULT_CHECKPOINT: Final = "photographs"
CHUNK: Final = 64
"""Pairs that are read before they are scored: crops of so many are in memory at a time."""

Crop = NDArray[np.uint8]


@dataclass(frozen=True)
class Scored:
    """What is said of one composite of a data set.

    Attributes:
        composite: Path of the file.
        group: Name of its data set.
        score: P(natural) of the composite, 0..1; None where it could not be scored.
        real_score: Of its photograph with the same mask; None where there is none.
        kept: Whether the checkpoint's threshold keeps the composite; None without a score.
        reason: Why the composite, or its photograph, has no score: `mask_missing`, `mask_empty`, `mask_full`,
            `mask_coloured`, `unreadable`, `size_mismatch`, `real_missing`; empty where both have one.
        detail: The same for people.
    """

    composite: str
    group: str
    score: float | None
    real_score: float | None
    kept: bool | None
    reason: str
    detail: str


def open_judge(name: str | Path = DEFAULT_CHECKPOINT) -> Checkpoint:
    """Load a checkpoint: one that comes with the package, by name, or a file.

    Raises:
        BadRequest: There is none, or it cannot be used.
    """
    path = judge_path(name)
    try:
        return load_checkpoint(path)
    except ValueError as error:
        hint = "" if path.parent != Path() else f"; by name there are {', '.join(NAMES)}"
        raise BadRequest(f"{error}{hint}") from None


def judge_path(name: str | Path) -> Path:
    """Return the weights file of a checkpoint that comes with the package, or the path itself."""
    return shipped(str(name)) if str(name) in NAMES else Path(name)


def pick_device(device: str) -> str:
    """Return `cpu` or `cuda` for `auto`, `cpu` or `cuda`.

    Raises:
        BadRequest: `cuda` was asked for and is not there.
    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise BadRequest("torch finds no accelerator here; use --device cpu")
    return "cuda" if cuda and device != "cpu" else "cpu"


def score_pair(
    picture: Path | Picture,
    mask: Path | NDArray[Any],
    *,
    checkpoint: Checkpoint | None = None,
    device: str = "cpu",
) -> float:
    """Score how natural the masked subject looks in its picture.

    Args:
        picture: A file, or uint8 (H, W, 3) sRGB in RGB order.
        mask: A file, or bool or uint8 0..255 (H, W); the subject is what is over 127. Both are files, or neither is.
        checkpoint: From `open_judge`; the package's `photographs` where None.
        device: `cpu` or `cuda`.

    Returns:
        P(natural), 0..1, rounded to 4 decimals.

    Raises:
        BadRequest: A file cannot be read, sizes differ, or the mask is empty or covers the whole picture.
        TypeError: A file and an array, or an array of another dtype.
    """
    judge = _default() if checkpoint is None else checkpoint
    try:
        if isinstance(picture, Path) and isinstance(mask, Path):
            crop = _crop(*read_pair(picture, mask), side=judge.model.shape.side)
        elif isinstance(picture, np.ndarray) and isinstance(mask, np.ndarray):
            crop = prepare(picture, mask, side=judge.model.shape.side)
        else:
            raise TypeError(f"picture and mask must both be files or arrays, got {type(picture)} and {type(mask)}")
    except (BadPicture, ValueError) as bad:
        raise BadRequest(str(bad)) from None
    return float(_scores(judge, [crop], device=device)[0])


@lru_cache(maxsize=1)
def _default() -> Checkpoint:
    return open_judge()


def score_folder(
    place: Path, *, checkpoint: Checkpoint | None = None, device: str = "cpu", watch: Watch = unwatched
) -> Iterator[Scored]:
    """Score the composites of a data set in iHarmony4's layout, and their photographs with the same masks.

    Args:
        place: As `find_pairs` takes it.
        checkpoint: From `open_judge`; the package's `photographs` where None.
        device: `cpu` or `cuda`.
        watch: Told how many composites were scored.

    Yields:
        In the order of `find_pairs`. What cannot be scored has a reason.

    Raises:
        BadRequest: There is nothing to score.
    """
    judge = _default() if checkpoint is None else checkpoint
    pairs = find_pairs(place)
    watch("scored", 0, len(pairs))
    for first in range(0, len(pairs), CHUNK):
        yield from _score_chunk(judge, pairs[first : first + CHUNK], device=device)
        watch("scored", min(first + CHUNK, len(pairs)), len(pairs))


def _score_chunk(judge: Checkpoint, pairs: Sequence[Pair], *, device: str) -> Iterator[Scored]:
    """Score some pairs; a photograph that several composites share is scored once."""
    looks = {look: _look(*look, side=judge.model.shape.side) for pair in pairs for look in _looks(pair)}
    crops = {look: crop for look, crop in looks.items() if isinstance(crop, np.ndarray)}
    scores = dict(zip(crops, _scores(judge, list(crops.values()), device=device).tolist(), strict=True))
    for pair in pairs:
        score = scores.get((pair.composite, pair.mask))
        bad = [look for look in map(looks.__getitem__, _looks(pair)) if isinstance(look, BadPicture)]
        bad += [] if pair.real else [BadPicture("real_missing", f"{pair.composite.name!r} has no photograph")]
        yield Scored(
            composite=str(pair.composite),
            group=pair.group,
            score=score,
            real_score=None if pair.real is None else scores.get((pair.real, pair.mask)),
            kept=None if score is None else score >= judge.threshold,
            reason=bad[0].reason if bad else "",
            detail=str(bad[0]) if bad else "",
        )


def _looks(pair: Pair) -> list[tuple[Path, Path | None]]:
    return [(picture, pair.mask) for picture in (pair.composite, pair.real) if picture is not None]


def _look(picture: Path, mask: Path | None, *, side: int) -> Crop | BadPicture:
    """Return the crop of a picture and a mask, or why there is none."""
    if mask is None:
        return BadPicture("mask_missing", f"{picture.name!r} has no mask")
    try:
        return _crop(*read_pair(picture, mask), side=side)
    except BadPicture as bad:
        return bad


def _crop(picture: Picture, mask: NDArray[np.uint8], *, side: int) -> Crop:
    """Cut the crop; a mask that leaves nothing to compare is told of with what is in it."""
    inside = int(np.count_nonzero(mask > 127))
    if inside == 0:
        detail = f"no pixel is over 127, the highest is {mask.max()}"
        raise BadPicture("mask_empty", f"the mask is empty: {detail}; paint the subject white (255)")
    if inside == mask.size:
        raise BadPicture("mask_full", "the mask covers the whole picture; paint only the subject white")
    return prepare(picture, mask, side=side)


def _scores(judge: Checkpoint, crops: Sequence[Crop], *, device: str) -> NDArray[np.float64]:
    side = judge.model.shape.side
    stacked = np.stack(crops) if crops else np.empty((0, side, side, 4), np.uint8)
    try:
        scores = score_crops(judge, stacked, device=device)
    except torch.OutOfMemoryError:
        raise BadRequest("the accelerator's memory is full; free some of it, or use --device cpu") from None
    if not np.isfinite(scores).all():
        raise BadRequest("the checkpoint's scores are not finite; use another one")
    return scores


def summarize(rows: Iterable[Scored]) -> dict[str, Any]:
    """Sum up a data set.

    Returns:
        `all`, and `groups` by name: `composites`; `scored`; `kept`, the share of those scored; `mean_composite`;
        `mean_real`; `pairs`, where both were scored; `auroc`, of photographs against composites; `real_higher`, the
        share of pairs whose photograph scores higher, ties counting half. None where nothing was scored.
        `reasons`: code to number.
    """
    every = sorted(rows, key=lambda row: row.group)
    codes = Counter(row.reason for row in every if row.reason)
    groups = {name: _summary(list(members)) for name, members in groupby(every, key=lambda row: row.group)}
    return {"all": _summary(every), "groups": groups, "reasons": dict(codes.most_common())}


def _summary(rows: Sequence[Scored]) -> dict[str, Any]:
    composites = [row.score for row in rows if row.score is not None]
    reals = [row.real_score for row in rows if row.real_score is not None]
    both = np.array(
        [(row.score, row.real_score) for row in rows if row.score is not None and row.real_score is not None]
    ).reshape(-1, 2)
    gaps = np.sign(both[:, 1] - both[:, 0])
    figures = {
        "kept": _mean([row.kept for row in rows if row.kept is not None]),
        "mean_composite": _mean(composites),
        "mean_real": _mean(reals),
        "auroc": round(auroc(both[:, 1], both[:, 0]), 4) if len(both) else None,
        "real_higher": _mean((gaps + 1) / 2),
    }
    return {"composites": len(rows), "scored": len(composites), "pairs": len(both), **figures}


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def write_scores(rows: Iterable[Scored], path: Path) -> None:
    """Write a row a composite: as CSV, or as JSON lines where the name ends in `.jsonl`."""
    with writing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        if path.suffix == ".jsonl":
            text.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
        else:
            table = csv.DictWriter(text, [field.name for field in fields(Scored)], lineterminator="\n")
            table.writeheader()
            table.writerows({name: harmless_cell(value) for name, value in asdict(row).items()} for row in rows)
        text.detach()  # flushed, and left open for `writing` to bring to the disk


def tell_scores(summary: Mapping[str, Any]) -> list[str]:
    """Return a summary as lines of a table."""
    header = ("", "composites", "scored", "kept", "composite", "real", "AUROC", "real higher")
    names = ("composites", "scored", "kept", "mean_composite", "mean_real", "auroc", "real_higher")
    parts = {**summary["groups"], "all": summary["all"]} if len(summary["groups"]) > 1 else {"all": summary["all"]}
    rows = [header, *((name, *(_shown(part[key]) for key in names)) for name, part in parts.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    reasons = ", ".join(f"{code} {number}" for code, number in summary["reasons"].items())
    return [*lines, f"not scored, or without photograph: {reasons}"] if reasons else lines


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
