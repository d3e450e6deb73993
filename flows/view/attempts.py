"""Read the index of a run once: a few numbers of every attempted sample, and which samples to show."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.errors import BadRequest
from flows.store.index import read_index
from flows.store.layout import Layout

Item = TypeVar("Item")

NO_FAMILY: Final = "none"
"""Stands where a sample has no family: the stages that compose instead of edit."""

_NUMBERS: Final = ("strength", "foreground_mse", "score", "threshold")
_COLUMNS: Final = ("key", "status", "reason", "family", "split", *_NUMBERS)


@dataclass(frozen=True)
class Place:
    """Where a sample's row stands: a file of the index, and the row's number in it."""

    index: Path
    row: int


@dataclass(frozen=True)
class Attempts:
    """All attempted samples of a run, in the order of the index, a few dozen bytes each.

    Attributes:
        families: Names that `family` counts into, sorted.
        splits: Names that `split` counts into, sorted.
        family: int16 (N,).
        split: int16 (N,).
        kept: bool (N,).
        strength: float32 (N,), 0..1, NaN where unknown.
        effect: float32 (N,), foreground MSE on the 8-bit scale, NaN where unknown.
        score: float64 (N,), realism score, 0..1, NaN where unknown.
        threshold: Of the realism gate; None where none looked, or one with different thresholds.
        shown: The samples to show.
        best: Those with the highest scores, the highest first.
        worst: Those with the lowest scores, the lowest first; none of them among the best.
    """

    families: tuple[str, ...]
    splits: tuple[str, ...]
    family: NDArray[np.int16]
    split: NDArray[np.int16]
    kept: NDArray[np.bool_]
    strength: NDArray[np.float32]
    effect: NDArray[np.float32]
    score: NDArray[np.float64]
    threshold: float | None
    shown: tuple[Place, ...]
    best: tuple[Place, ...]
    worst: tuple[Place, ...]


@dataclass
class _Gathering:
    """Columns while the files of the index are read one after the other."""

    families: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    parts: dict[str, list[NDArray[Any]]] = field(default_factory=lambda: defaultdict(list))
    cells: dict[tuple[bool, str, str], list[tuple[int, str, int]]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


def read_attempts(layout: Layout, *, show: int, extremes: int = 0) -> Attempts:
    """Read the index of a run, file by file, and choose what to show.

    Args:
        layout: Of the run.
        show: At most so many kept and so many rejected samples are chosen. They are spread over the reasons, within
            a reason over the families, and drawn by a hash of their keys: whoever looks again sees the same ones.
        extremes: So many of the highest and of the lowest scores are chosen.

    Raises:
        BadRequest: A file of the index is damaged.
    """
    gathering = _Gathering()
    for path in sorted(layout.index("any").parent.glob("*.parquet")):
        gathering.files[path.name] = path
        _gather(gathering, path.name, _read_columns(path), most=show)
    score = _joined(gathering.parts["score"], np.float64)
    thresholds = np.unique(_joined(gathering.parts["threshold"], np.float64))
    thresholds = thresholds[np.isfinite(thresholds)]
    best, worst = _extremes(gathering, score, most=extremes)
    return Attempts(
        families=tuple(sorted(gathering.families)),
        splits=tuple(sorted(gathering.splits)),
        family=_ranked(gathering.parts["family"], gathering.families),
        split=_ranked(gathering.parts["split"], gathering.splits),
        kept=_joined(gathering.parts["kept"], np.bool_),
        strength=_joined(gathering.parts["strength"], np.float32),
        effect=_joined(gathering.parts["foreground_mse"], np.float32),
        score=score,
        threshold=float(thresholds[0]) if len(thresholds) == 1 else None,
        shown=_choose(gathering, most=show),
        best=best,
        worst=worst,
    )


def count_outcomes(layout: Layout) -> list[dict[str, int | str]]:
    """Count the samples of a run by family and outcome: `family`, `planned`, `kept`, and a column a reason that occurred.

    Returns:
        A row a family, sorted, and a last one for all of them; every row has the same columns.

    Raises:
        BadRequest: A file of the index is damaged.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for path in sorted(layout.index("any").parent.glob("*.parquet")):
        table = _read_columns(path)
        columns = [table[name].to_pylist() for name in ("family", "status", "reason")]
        for family, status, reason in zip(*columns, strict=True):
            counts[family or NO_FAMILY]["kept" if status == "kept" else str(reason)] += 1
    whole = sum(counts.values(), Counter[str]())
    reasons = sorted(whole.keys() - {"kept"})
    return [
        {"family": family, "planned": found.total(), "kept": found["kept"], **{each: found[each] for each in reasons}}
        for family, found in (*sorted(counts.items()), ("all", whole))
    ]


def read_rows(places: Sequence[Place]) -> list[dict[str, Any]]:
    """Return the rows of the index at some places, in their order; one file is in memory at a time."""
    rows: dict[Place, dict[str, Any]] = {}
    for index in sorted({place.index for place in places}):
        wanted = [place for place in places if place.index == index]
        taken = read_index(index).take([place.row for place in wanted])
        rows |= dict(zip(wanted, taken.to_pylist(), strict=True))
    return [rows[place] for place in places]


def take_turns(streams: Iterable[Iterable[Item]]) -> Iterator[Item]:
    """Yield one item of each stream in turn, until all have ended."""
    waiting = [iter(stream) for stream in streams]
    while waiting:
        ready = []
        for stream in waiting:
            for item in stream:
                yield item
                ready.append(stream)
                break
        waiting = ready


def _read_columns(path: Path) -> pa.Table:
    try:
        return read_index(path, columns=_COLUMNS)
    except (OSError, pa.ArrowException, KeyError) as error:
        message = str(error).splitlines()[0]
        raise BadRequest(f"{path} is damaged ({message}); run the same build again to make it anew") from None


def _gather(gathering: _Gathering, name: str, table: pa.Table, *, most: int) -> None:
    """Add one file of the index: its numbers, and in each cell the samples with the smallest hashes so far."""
    families = [family or NO_FAMILY for family in table["family"].to_pylist()]
    splits = [split or "" for split in table["split"].to_pylist()]
    kept = [status == "kept" for status in table["status"].to_pylist()]
    reasons = [reason or "" for reason in table["reason"].to_pylist()]
    parts = gathering.parts
    parts["family"].append(_coded(families, gathering.families))
    parts["split"].append(_coded(splits, gathering.splits))
    parts["kept"].append(np.array(kept, dtype=np.bool_))
    for column in _NUMBERS:
        parts[column].append(table[column].cast(pa.float64()).fill_null(float("nan")).to_numpy())
    for row, (key, *cell) in enumerate(zip(table["key"].to_pylist(), kept, reasons, families, strict=True)):
        heap = gathering.cells.setdefault((cell[0], cell[1], cell[2]), [])
        digest = hashlib.blake2b(str(key).encode(), digest_size=8).digest()
        item = (-int.from_bytes(digest, "big"), name, row)  # negative: the heap gives up its largest hash first
        if len(heap) < most:
            heapq.heappush(heap, item)
        else:
            heapq.heappushpop(heap, item)


def _coded(names: Sequence[str], codes: dict[str, int]) -> NDArray[np.int16]:
    return np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int16)


def _ranked(parts: Sequence[NDArray[Any]], codes: dict[str, int]) -> NDArray[np.int16]:
    """Turn codes in order of appearance into ranks in alphabetical order."""
    rank = {code: position for position, (_, code) in enumerate(sorted(codes.items()))}
    table = np.array([rank[code] for code in range(len(codes))], dtype=np.int16)
    return table[_joined(parts, np.int16)] if len(table) else np.zeros(0, dtype=np.int16)


def _joined(parts: Sequence[NDArray[Any]], kind: type) -> NDArray[Any]:
    return np.concatenate(parts).astype(kind, copy=False) if parts else np.zeros(0, dtype=kind)


def _extremes(
    gathering: _Gathering, score: NDArray[np.float64], *, most: int
) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    """Return the highest and the lowest scores, `most` of each, or half of all where there are fewer."""
    known = np.flatnonzero(np.isfinite(score))
    ordered = known[np.argsort(score[known], kind="stable")]
    count = min(most, len(ordered) // 2)
    names, lengths = list(gathering.files), [len(part) for part in gathering.parts["score"]]
    ends = np.cumsum(lengths)

    def place(number: int) -> Place:
        file = int(np.searchsorted(ends, number, side="right"))
        return Place(gathering.files[names[file]], number - int(ends[file] - lengths[file]))

    best, worst = ordered[::-1][:count].tolist(), ordered[:count].tolist()
    return tuple(map(place, best)), tuple(map(place, worst))


def _choose(gathering: _Gathering, *, most: int) -> tuple[Place, ...]:
    """Take turns between reasons, then families; and between kept and rejected, so that both stand on every page."""
    sides = []
    for side in (True, False):
        reasons: dict[str, list[list[tuple[int, str, int]]]] = {}
        for kept, reason, family in sorted(gathering.cells):
            if kept == side:
                cell = sorted(gathering.cells[kept, reason, family], reverse=True)
                reasons.setdefault(reason, []).append(cell)
        sides.append(list(take_turns(take_turns(cells) for cells in reasons.values()))[:most])
    return tuple(Place(gathering.files[name], row) for _, name, row in take_turns(sides))
