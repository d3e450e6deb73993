"""Compare harmonizers on held-out composites: baselines that learn nothing, and networks, by four conventions.

Samples are read, harmonized and measured one after the other, some at a time in each worker; of each only its figures
are kept. Every method sees the same samples, so differences are paired; intervals come of a bootstrap over photographs,
since composites of one photograph are no independent samples.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from flows.coco.pictures import BadPicture, Picture
from flows.coco.sources import Watch, unwatched
from flows.decoding import decode_member
from flows.errors import BadRequest
from flows.make.harmonize import Harmonize, leave, open_harmonizer, transfer_from_background
from flows.make.pairs import Pair, find_pairs, read_pair
from flows.make.plan import Map
from flows.store.cells import harmless_cell
from flows.store.index import read_index
from flows.store.layout import HARMONIZATION, Layout, open_run, writing
from flows.store.manifest import read_manifest
from flows.store.read import Damaged, read_sample
from realism.conventions import CONVENTIONS, LOWER_IS_BETTER, MEASURES, WINDOW, measure_all
from realism.harmonizers import load_harmonizer

Alpha = NDArray[np.uint8]
Floats = NDArray[np.float64]

NO_CHANGE: Final = "no_change"
FROM_BACKGROUND: Final = ("reinhard", "histogram")
"""Families of `augment.transfer` that are baselines: the background's colours are imposed on the subject."""
BINS: Final = ((0.0, 0.05), (0.05, 0.15), (0.15, 1.0))
"""Mask shares, from and up to, as the iHarmony4 paper (Cong et al. 2020) cuts them."""
PIECE: Final = 8
"""Samples that a worker reads and measures at a time."""
REPLICATES: Final = 1000
_REPLICATES_AT_ONCE: Final = 100
_PLACE: Final = ("key", "tar", "offset", "size", "target_image_id")
"""Columns of the index, in the order of `Placed`."""
LEVEL: Final = 95
"""Percent of the replicates inside an interval."""
NATIVE: Final = "native"
"""The convention that says which sample is a method's best or worst."""

PUBLISHED: Final = (
    ("composite, no change", 69.37, 33.94),
    ("Lalonde and Efros 2007", 110.10, 31.14),
    ("Xue et al. 2012", 77.04, 33.32),
    ("DoveNet, Cong et al. 2020", 36.72, 35.83),
    ("BargainNet, Cong et al. 2021", 24.84, 37.03),
    ("iSSAM, Sofiiuk et al. 2021", 16.48, 39.16),
    ("HDNet, Chen et al. 2023", 11.60, 41.04),
)
"""Method, MSE and PSNR on the test split of HCOCO at 256 x 256, as published; nothing of it was measured here."""
HCOCO_TEST: Final = 4283
"""Composites in HCOCO's test split."""
_MSE_NEAR: Final = 0.7
"""So near to the published MSE of no change (a hundredth of it) the samples are taken for the published ones."""


@dataclass(frozen=True)
class Placed:
    """A kept sample of a run: where it lies."""

    key: str
    tar: str
    offset: int
    size: int
    photograph: int


@dataclass(frozen=True)
class Piece:
    """Some samples that one worker measures: of a run, or of a data set of files."""

    run: Path | None
    samples: tuple[Placed | Pair, ...]


@dataclass(frozen=True)
class Triplet:
    """A composite, its mask and the photograph, uint8 (H, W, 3), (H, W), (H, W, 3)."""

    composite: Picture
    mask: Alpha
    real: Picture


@dataclass(frozen=True)
class Measured:
    """What is kept of one sample.

    Attributes:
        name: Key, or path of the composite.
        photograph: That it shows; several samples may show one.
        group: Name of its data set.
        share: Of the picture that its mask covers, 0..1; 0 where it was not measured.
        figures: (methods, conventions, measures); None where it was not measured.
        reason: Why not: `mask_missing`, `mask_empty`, `mask_full`, `mask_coloured`, `unreadable`, `size_mismatch`,
            `real_missing`, `too_small`; empty where it was.
        detail: The same for people.
    """

    name: str
    photograph: str
    group: str
    share: float = 0.0
    figures: Floats | None = None
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Interval:
    """A mean and where it lies, 95 of 100 times."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return this for JSON, rounded."""
        return {name: round(value, 5) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Row:
    """What one convention says of one method.

    Attributes:
        measures: Mean of each measure.
        change: Mean difference of foreground MSE from no change; negative is better. None of no change itself.
        worse: Share of the samples whose foreground MSE is above that of no change; None of no change itself.
    """

    method: str
    measures: Mapping[str, Interval]
    change: Interval | None
    worse: Interval | None


@dataclass(frozen=True)
class Bin:
    """Samples of like mask share; foreground MSE of each method."""

    low: float
    high: float
    samples: int
    fmse: Mapping[str, Interval]


@dataclass(frozen=True)
class Table:
    """What one convention says."""

    rows: tuple[Row, ...]
    bins: tuple[Bin, ...]


@dataclass
class Tally:
    """Figures of samples as they come; nothing of their pictures."""

    methods: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    photographs: list[str] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    figures: list[Floats] = field(default_factory=list)
    groups: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    first_detail: str = ""

    def add(self, each: Measured) -> None:
        """Count one sample."""
        if each.figures is None:
            self.reasons[each.reason] += 1
            self.first_detail = self.first_detail or f"{each.name}: {each.detail}"
            return
        self.names.append(each.name)
        self.photographs.append(each.photograph)
        self.shares.append(each.share)
        self.figures.append(each.figures)
        self.groups[each.group] += 1


@dataclass(frozen=True)
class Evaluation:
    """What came out."""

    place: str
    split: str | None
    tally: Tally
    tables: Mapping[str, Table]
    seed: int
    stage: str | None = None

    @property
    def comparable(self) -> str | None:
        """Return why the published figures cannot be compared with these; None where they can.

        They can where these are the composites of HCOCO's test split: as many, and no change measured as published.
        """
        count = len(self.tally.names)
        if count != HCOCO_TEST or set(self.tally.groups) != {"HCOCO"}:
            return f"these are {count} other samples, and theirs are the {HCOCO_TEST} of HCOCO's test split"
        found, published = self.tables["iharmony4"].rows[0].measures["mse"].mean, PUBLISHED[0][1]
        if abs(found - published) > _MSE_NEAR:
            return f"no change has MSE {found:.2f} here and {published:.2f} there, so these are other samples"
        return None

    def to_json(self) -> dict[str, Any]:
        """Return this for JSON."""
        return {
            "place": self.place,
            "split": self.split,
            "stage": self.stage,
            "samples": len(self.tally.names),
            "photographs": len(set(self.tally.photographs)),
            "groups": dict(self.tally.groups),
            "reasons": dict(self.tally.reasons.most_common()),
            "methods": list(self.tally.methods),
            "bootstrap": {"replicates": REPLICATES, "seed": self.seed, "percent": LEVEL, "over": "photographs"},
            "conventions": {
                name: {"title": CONVENTIONS[name].title, "source": CONVENTIONS[name].source, **_table_json(table)}
                for name, table in self.tables.items()
            },
            "published": {
                "on": "HCOCO, test split, 256 x 256",
                "not_comparable_because": self.comparable,
                "rows": [{"method": name, "mse": mse, "psnr": psnr} for name, mse, psnr in PUBLISHED],
            },
        }


def _table_json(table: Table) -> dict[str, Any]:
    return {
        "rows": [
            {
                "method": row.method,
                **{name: value.to_json() for name, value in row.measures.items()},
                "fmse_change": row.change and row.change.to_json(),
                "worse_than_no_change": row.worse and row.worse.to_json(),
            }
            for row in table.rows
        ],
        "bins": [
            {
                "from": each.low,
                "to": each.high,
                "samples": each.samples,
                "fmse": {method: value.to_json() for method, value in each.fmse.items()},
            }
            for each in table.bins
        ],
    }


def read_harmonizers(given: Sequence[str]) -> dict[str, Path]:
    """Read `NAME=FILE` of trained harmonizers, and see that each can be loaded.

    Raises:
        BadRequest: It is no such pair, a name stands there twice or is a baseline's, or a checkpoint cannot be used.
    """
    harmonizers: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name or not path or name in {*harmonizers, NO_CHANGE, *FROM_BACKGROUND}:
            raise BadRequest(
                f"--harmonizer {text!r} is no NAME=FILE of its own name; write it as unet=output/harmonizers/a/a.pt"
            )
        harmonizers[name] = Path(path).expanduser()
        _opened(name, harmonizers[name], "cpu")
    return harmonizers


@lru_cache(maxsize=16)
def _opened(name: str, path: Path, device: str) -> Harmonize:
    try:
        return open_harmonizer(load_harmonizer(path).name, path, device=device)
    except (ValueError, BadRequest) as error:
        raise BadRequest(f"--harmonizer {name}: {error}") from None


def open_methods(harmonizers: Mapping[str, Path], *, device: str = "cpu") -> dict[str, Harmonize]:
    """Return every method by its name: no change, transfers from the background, networks.

    Raises:
        BadRequest: A checkpoint cannot be used.
    """
    return {
        NO_CHANGE: leave,
        **{family: partial(transfer_from_background, family=family) for family in FROM_BACKGROUND},
        **{name: partial(harmonize_by, name, path, device=device) for name, path in harmonizers.items()},
    }


def harmonize_by(name: str, path: Path, composite: Picture, mask: Alpha, *, device: str) -> Picture:
    """Harmonize by a network at native size.

    Raises:
        BadRequest: The checkpoint cannot be used, it answers no numbers, or the accelerator's memory is full.
    """
    try:
        return _opened(name, path, device)(composite, mask)
    except ArithmeticError as error:
        raise BadRequest(f"--harmonizer {name}: {error}; use another checkpoint") from None
    except torch.OutOfMemoryError:
        raise BadRequest("the accelerator's memory is full; free some of it, or use --device cpu") from None


def is_run(place: Path) -> bool:
    """Say whether a folder is a run of hcoco."""
    return (place.expanduser() / "plan.json").is_file()


def pieces_of(place: Path, *, split: str, stage: str) -> list[Piece]:
    """Return what there is to measure: of a run its samples of a split and stage, else the composites of a data set.

    Raises:
        BadRequest: There is nothing to measure, or the run is unfinished or damaged.
    """
    return pieces_of_run(open_run(place), split=split, stage=stage) if is_run(place) else pieces_of_folder(place)


def pieces_of_run(layout: Layout, *, split: str = "test", stage: str = HARMONIZATION) -> list[Piece]:
    """Return the kept samples of a split and stage of a finished run, in the order of shards and keys.

    Raises:
        BadRequest: The run is unfinished or damaged, or has no such samples.
    """
    found: list[Placed] = []
    for entry in read_manifest(layout).get("index", ()):
        try:
            table = read_index(layout.run / entry["path"], columns=[*_PLACE, "stage", "status", "split"])
        except (OSError, pa.ArrowException) as error:
            message = str(error).splitlines()[0]
            raise BadRequest(f"{layout.run / entry['path']} is damaged ({message}); run hcoco verify") from None
        mine = table.filter(
            (pc.field("stage") == stage) & (pc.field("status") == "kept") & (pc.field("split") == split)
        )
        found += [Placed(*row.values()) for row in mine.select(list(_PLACE)).to_pylist()]
    if not found:
        raise BadRequest(
            f"{layout.run} has no kept {stage} samples in the split {split}: build more samples, or choose "
            "another --split"
        )
    return [Piece(layout.run, tuple(chosen)) for chosen in _chunks(found)]


def pieces_of_folder(place: Path) -> list[Piece]:
    """Return the composites of a data set in iHarmony4's layout; see `find_pairs`.

    Raises:
        BadRequest: There is nothing to measure.
    """
    return [Piece(None, tuple(chosen)) for chosen in _chunks(find_pairs(place))]


def _chunks(samples: Iterable[Placed | Pair]) -> Iterator[list[Placed | Pair]]:
    waiting = iter(samples)
    while chosen := list(islice(waiting, PIECE)):
        yield chosen


def read_triplet(run: Path | None, sample: Placed | Pair) -> Triplet:
    """Read one sample.

    Raises:
        BadPicture: A file of a data set cannot be used; its reason is that of `Measured`.
        BadRequest: A sample of a run is damaged.
    """
    triplet = _read_files(sample) if isinstance(sample, Pair) else _read_stored(run or Path(), sample)
    inside = np.count_nonzero(triplet.mask > 127)
    if inside == 0:
        raise BadPicture("mask_empty", f"no pixel of the mask is over 127, the highest is {triplet.mask.max()}")
    if inside == triplet.mask.size:
        raise BadPicture("mask_full", "the mask covers the whole picture, there is no background")
    if min(triplet.mask.shape) < WINDOW:
        raise BadPicture("too_small", f"the picture has fewer than {WINDOW} pixels a side")
    return triplet


def _read_files(pair: Pair) -> Triplet:
    if pair.mask is None:
        raise BadPicture("mask_missing", f"{pair.composite.name!r} has no mask")
    if pair.real is None:
        raise BadPicture("real_missing", f"{pair.composite.name!r} has no photograph")
    composite, mask = read_pair(pair.composite, pair.mask)
    real, _ = read_pair(pair.real, pair.mask)
    return Triplet(composite, mask, real)


def _read_stored(run: Path, sample: Placed) -> Triplet:
    try:
        members = read_sample(run / sample.tar, offset=sample.offset, size=sample.size).members
        composite, real = (
            decode_member(members[f"{name}.jpg"], cv2.IMREAD_COLOR_RGB) for name in ("composite", "real")
        )
        mask = decode_member(members["mask.png"], cv2.IMREAD_UNCHANGED)
        if composite is None or real is None or mask is None or not composite.shape == real.shape == (*mask.shape, 3):
            raise Damaged("its pictures cannot be decoded, or differ in size")  # noqa: TRY301 - one way out
    except (Damaged, KeyError) as damage:
        raise BadRequest(f"{sample.tar} is damaged at {sample.key} ({damage}); run hcoco verify") from None
    return Triplet(composite, mask, real)


def measure_piece(piece: Piece, *, harmonizers: Mapping[str, Path], device: str) -> list[Measured]:
    """Read, harmonize and measure some samples; in a worker.

    Raises:
        BadRequest: A sample of a run is damaged, or a network answers no numbers.
    """
    methods = open_methods(harmonizers, device=device)
    return [_measure(piece.run, sample, methods) for sample in piece.samples]


def _measure(run: Path | None, sample: Placed | Pair, methods: Mapping[str, Harmonize]) -> Measured:
    name, photograph, group = _named(sample)
    try:
        triplet = read_triplet(run, sample)
    except BadPicture as bad:
        return Measured(name, photograph, group, reason=bad.reason, detail=str(bad))
    made = (method(triplet.composite, triplet.mask) for method in methods.values())
    figures = np.stack([measure_all(picture, triplet.real, triplet.mask) for picture in made])
    share = np.count_nonzero(triplet.mask > 127) / triplet.mask.size
    return Measured(name, photograph, group, share, figures)


def _named(sample: Placed | Pair) -> tuple[str, str, str]:
    """Return name, photograph and group of a sample."""
    if isinstance(sample, Pair):
        return str(sample.composite), str(sample.real), sample.group
    return sample.key, str(sample.photograph), "run"


def evaluate_harmonization(
    place: Path,
    *,
    harmonizers: Mapping[str, Path],
    split: str = "test",
    stage: str = HARMONIZATION,
    device: str = "cpu",
    seed: int = 0,
    over: Map = map,
    watch: Watch = unwatched,
) -> Evaluation:
    """Measure every method on the samples of a run, or of a data set in iHarmony4's layout.

    Args:
        place: A run; or as `find_pairs` takes it.
        harmonizers: Checkpoints by name, see `read_harmonizers`.
        split: Of a run.
        stage: Of a run: `harmonization`, or `copypaste` for blenders.
        device: Of the networks; `over` must then work in one process.
        seed: Of the bootstrap.
        over: Maps the work over pieces; the outcome is the same for any number of workers.
        watch: Told how many samples were measured, of how many.

    Raises:
        BadRequest: There is nothing to measure, the run is unfinished or damaged, or a checkpoint cannot be used.
    """
    run = is_run(place)
    pieces = pieces_of(place, split=split, stage=stage)
    total, done = sum(len(piece.samples) for piece in pieces), 0
    tally = Tally((NO_CHANGE, *FROM_BACKGROUND, *harmonizers))
    for measured in over(partial(measure_piece, harmonizers=harmonizers, device=device), pieces):
        for each in measured:
            tally.add(each)
        done += len(measured)
        watch("measured", done, total)
    if not tally.names:
        reasons = ", ".join(f"{reason} {count}" for reason, count in tally.reasons.most_common())
        raise BadRequest(f"none of the {total} composites in {place} can be measured: {reasons} ({tally.first_detail})")
    tables = summarize(tally, seed=seed)
    return Evaluation(str(place), split if run else None, tally, tables, seed, stage if run else None)


def summarize(tally: Tally, *, seed: int) -> dict[str, Table]:
    """Return what each convention says, with intervals of a bootstrap over photographs, the same for all methods."""
    figures = np.stack(tally.figures)  # (samples, methods, conventions, measures)
    fmse = figures[..., MEASURES.index("fmse")]  # (samples, methods, conventions)
    shares = np.asarray(tally.shares)
    inside = np.stack([(shares > low) & (shares <= high) for low, high in BINS], axis=1)  # (samples, bins)
    binned = np.where(inside[:, :, None, None], fmse[:, None], np.nan)  # (samples, bins, methods, conventions)
    parts = {
        "measures": figures,
        "change": fmse - fmse[:, :1],
        "worse": (fmse > fmse[:, :1]).astype(np.float64),
        "bins": binned,
    }
    flat = np.concatenate([part.reshape(len(figures), -1) for part in parts.values()], axis=1)
    means, low, high = bootstrap(flat, tally.photographs, seed=seed)
    told, begin = {}, 0
    for name, part in parts.items():
        end = begin + int(np.prod(part.shape[1:]))
        told[name] = np.stack([each[begin:end].reshape(part.shape[1:]) for each in (means, low, high)], axis=-1)
        begin = end
    counts = inside.sum(axis=0).tolist()
    return {name: _table(tally.methods, told, number, counts) for number, name in enumerate(CONVENTIONS)}


def _table(methods: Sequence[str], told: Mapping[str, Floats], convention: int, counts: Sequence[int]) -> Table:
    def at(name: str, *place: int) -> Interval:
        return Interval(*told[name][place].tolist())

    rows = tuple(
        Row(
            method,
            {name: at("measures", number, convention, place) for place, name in enumerate(MEASURES)},
            at("change", number, convention) if number else None,
            at("worse", number, convention) if number else None,
        )
        for number, method in enumerate(methods)
    )
    bins = tuple(
        Bin(low, high, counts[place], {m: at("bins", place, number, convention) for number, m in enumerate(methods)})
        for place, (low, high) in enumerate(BINS)
        if counts[place]
    )
    return Table(rows, bins)


def bootstrap(
    values: Floats, clusters: Sequence[str], *, seed: int, replicates: int = REPLICATES
) -> tuple[Floats, Floats, Floats]:
    """Return means and where 95 of 100 of them lie when clusters are drawn anew, with replacement.

    All columns are drawn alike, so differences between columns are paired.

    Args:
        values: (N, K); NaN where a row does not count for a column.
        clusters: Of each row: rows of one cluster are drawn together.
        seed: Of the draws.
        replicates: How many.

    Returns:
        (K,) each: means, 2.5th and 97.5th percentiles. NaN for a column without a value.
    """
    _, code = np.unique(np.asarray(clusters), return_inverse=True)
    number, columns = int(code.max()) + 1, values.shape[1]
    known = np.isfinite(values)
    sums, counts = np.zeros((number, columns)), np.zeros((number, columns))
    np.add.at(sums, code, np.where(known, values, 0))
    np.add.at(counts, code, known)
    rng, drawn = np.random.default_rng(seed), []
    for first in range(0, replicates, _REPLICATES_AT_ONCE):
        times = [
            np.bincount(rng.integers(number, size=number), minlength=number)
            for _ in range(min(_REPLICATES_AT_ONCE, replicates - first))
        ]
        weights = np.asarray(times, np.float64)
        drawn.append(_ratio(weights @ sums, weights @ counts))
    means = _ratio(sums.sum(axis=0), counts.sum(axis=0))
    every, tail = np.concatenate(drawn), (100 - LEVEL) / 2
    some = np.isfinite(every).any(axis=0)
    low, high = np.full(columns, np.nan), np.full(columns, np.nan)
    low[some], high[some] = np.nanpercentile(every[:, some], [tail, 100 - tail], axis=0)
    return means, low, high


def _ratio(sums: Floats, counts: Floats) -> Floats:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


@dataclass(frozen=True)
class Shown:
    """A sample that is shown, and what every method made of it.

    Attributes:
        method: Whose best, median or worst it is.
        rank: `best`, `median`, `worst`.
        name: Of the sample.
        change: Of its foreground MSE by that method, native convention; negative is better.
        pictures: Composite, mask, photograph, then what each method made, by name; the subject with its surroundings.
    """

    method: str
    rank: str
    name: str
    change: float
    pictures: Mapping[str, Picture]


RANKS: Final = {"best": 0.0, "median": 0.5, "worst": 1.0}
ROOM: Final = 0.35
"""Of the subject's box on each side is shown with it."""


def show_extremes(evaluation: Evaluation, place: Path, *, harmonizers: Mapping[str, Path], device: str) -> list[Shown]:
    """Return, for each method that changes something, the samples it changed for the best, the median and the worst.

    Raises:
        BadRequest: A sample cannot be read any more.
    """
    tally, methods = evaluation.tally, open_methods(harmonizers, device=device)
    fmse = np.stack(tally.figures)[:, :, list(CONVENTIONS).index(NATIVE), MEASURES.index("fmse")]
    pieces = pieces_of(place, split=evaluation.split or "", stage=evaluation.stage or "")
    samples = {_named(sample)[0]: (piece.run, sample) for piece in pieces for sample in piece.samples}
    shown = []
    for number, method in enumerate(tally.methods[1:], start=1):
        change = fmse[:, number] - fmse[:, 0]
        order = np.argsort(change, kind="stable")
        for rank, place_in_order in RANKS.items():
            row = int(order[round(place_in_order * (len(order) - 1))])
            try:
                triplet = read_triplet(*samples[tally.names[row]])
            except (BadPicture, KeyError) as bad:
                raise BadRequest(f"{tally.names[row]} was changed while it was measured ({bad})") from None
            shown.append(Shown(method, rank, tally.names[row], float(change[row]), _pictures(triplet, methods)))
    return shown


def _pictures(triplet: Triplet, methods: Mapping[str, Harmonize]) -> dict[str, Picture]:
    x, y, width, height = cv2.boundingRect(triplet.mask)
    across, down = round(ROOM * width), round(ROOM * height)
    window = np.s_[max(y - down, 0) : y + height + down, max(x - across, 0) : x + width + across]
    mask = np.asarray(cv2.cvtColor(triplet.mask, cv2.COLOR_GRAY2RGB), np.uint8)
    made = {name: method(triplet.composite, triplet.mask) for name, method in methods.items() if name != NO_CHANGE}
    every = {"composite": triplet.composite, "mask": mask, "photograph": triplet.real, **made}
    return {name: np.ascontiguousarray(picture[window]) for name, picture in every.items()}


def write_figures(tally: Tally, path: Path) -> None:
    """Write a row a sample and method as CSV: every measure of every convention."""
    names = [f"{convention}_{measure}" for convention in CONVENTIONS for measure in MEASURES]
    with writing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["sample", "photograph", "mask_share", "method", *names])
        for sample, photograph, share, figures in zip(
            tally.names, tally.photographs, tally.shares, tally.figures, strict=True
        ):
            for method, values in zip(tally.methods, figures, strict=True):
                words = map(harmless_cell, (sample, photograph, round(share, 6), method))
                table.writerow([*words, *np.round(values.ravel(), 6).tolist()])
        text.flush()
        text.detach()


def tell_evaluation(evaluation: Evaluation) -> Iterator[str]:
    """Say it as text: a table a convention, bins of mask share, and the published figures."""
    tally = evaluation.tally
    what = f"{evaluation.split} {evaluation.stage} samples" if evaluation.split else "composites"
    yield f"{evaluation.place}: {len(tally.names)} {what} of {len(set(tally.photographs))} photographs"
    if tally.reasons:
        yield "not measured: " + ", ".join(f"{reason} {count}" for reason, count in tally.reasons.most_common())
    wide = max(12, *(len(method) for method in tally.methods))
    for name, table in evaluation.tables.items():
        yield f"\n{name}: {CONVENTIONS[name].title}"
        yield f"  {'method':<{wide}}{'MSE':>10}{'fMSE':>10}{'95 %':>20}{'PSNR':>8}{'SSIM':>8}{'worse':>8}  than no change"
        yield from (f"  {row.method:<{wide}}{_cells(row)}" for row in table.rows)
    yield f"\nforeground MSE by mask share ({NATIVE})"
    bins = evaluation.tables[NATIVE].bins
    yield f"  {'method':<{wide}}" + "".join(f"{f'{100 * b.low:g}-{100 * b.high:g} % ({b.samples})':>24}" for b in bins)
    for method in tally.methods:
        yield f"  {method:<{wide}}" + "".join(f"{_spread(b.fmse[method]):>24}" for b in bins)
    why = evaluation.comparable
    yield "\npublished on HCOCO's test split at 256 x 256" + (f"; not comparable: {why}" if why else " (`iharmony4`)")
    yield from (f"  {name:<30}{mse:>8.2f} MSE {psnr:>7.2f} PSNR" for name, mse, psnr in PUBLISHED)


def _cells(row: Row) -> str:
    values = row.measures
    worse = "" if row.worse is None else f"{100 * row.worse.mean:.0f} %"
    verdict = "" if row.change is None else f"  {judge_change(row.change)}"
    spread = f"{values['fmse'].low:.2f}..{values['fmse'].high:.2f}"
    means = f"{values['mse'].mean:>10.2f}{values['fmse'].mean:>10.2f}{spread:>20}"
    return f"{means}{values['psnr'].mean:>8.2f}{values['ssim'].mean:>8.4f}{worse:>8}{verdict}"


def _spread(value: Interval) -> str:
    return f"{value.mean:.1f} ({value.low:.1f}..{value.high:.1f})"


def judge_change(change: Interval, *, measure: str = "fmse") -> str:
    """Say whether a difference is one: `better`, `worse`, or `no difference` where the interval holds 0."""
    if change.low <= 0 <= change.high:
        return "no difference"
    return "better" if (change.high < 0) == (measure in LOWER_IS_BETTER) else "worse"
