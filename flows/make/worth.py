"""What the parts of the pipeline are worth: one small network, taught on equally many samples with and without each.

A question compares two arms: ways of choosing what is learnt from. Every arm trains the masked U-Net anew for each seed,
on as many samples, for as many steps. Held-out samples are never learnt from, since whole photographs are held out. An
arm and seed that is finished is a file; what is there is read, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from augment.composition import near_mask
from flows.coco.sources import Watch, unwatched
from flows.decoding import decode_member
from flows.errors import BadRequest
from flows.make.evaluate_harmonization import Interval, judge_change
from flows.make.plan import read_plan
from flows.store.index import read_index
from flows.store.layout import FUSION, HARMONIZATION, Layout, open_run, write_bytes, writing
from flows.store.lock import holding
from flows.store.manifest import read_manifest
from flows.store.read import Damaged, read_sample
from flows.store.write import hash_file
from realism.fusion import reach_of
from realism.harmonizers.apply import shrink
from realism.harmonizers.batch import Triplets, tensor_of
from realism.harmonizers.masked_unet import MaskedUnetShape
from realism.harmonizers.teach import HarmonizerSettings, train_harmonizer

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

SIDE: Final = 128
"""Pixels, either way, of what is learnt from and measured on."""
BATCH: Final = 8
WIDTHS: Final = (16, 32, 48, 64)
"""Of the network; with bfloat16 a step takes 0.2 s of a core that has AMX."""
HELD_OUT: Final = ("val", "test")
"""Nothing is chosen by `val` here, so both are held out."""
TESTED: Final = 400
"""Samples of a test set at most, spread over it: photographs are few, and more composites of each say little more."""
LAYERS: Final = 7
"""Of a stored triplet: composite, mask, photograph."""
REPLICATES: Final = 1000
LEAST: Final = 2
"""Samples of an arm, and photographs of a test set, below which a question is not asked."""


@dataclass(frozen=True)
class Arm:
    """A way of choosing what is learnt from.

    Attributes:
        pool: Whose samples: `edits`, `edits_of_all_people` or `compositions`.
        kept: Whether only those that the gates kept.
        families: Only those of these; all where empty. `most` stands for the family with the most samples.
    """

    pool: str
    kept: bool = True
    families: tuple[str, ...] = ()


ARMS: Final[Mapping[str, Arm]] = {
    "gated": Arm("edits"),
    "ungated": Arm("edits", kept=False),
    "one_family": Arm("edits", families=("most",)),
    "all_people": Arm("edits_of_all_people"),
    "easy": Arm("compositions", families=("easy",)),
    "easy_and_hard": Arm("compositions"),
}
"""Arms, and the test sets of their kind, by name."""


@dataclass(frozen=True)
class Question:
    """What is asked: is `one` better than `other`, measured on held-out samples of several kinds."""

    title: str
    one: str
    other: str
    tests: tuple[str, ...]


QUESTIONS: Final = (
    Question("gated against ungated", "gated", "ungated", ("gated", "ungated")),
    Question("one family against all", "one_family", "gated", ("one_family", "gated")),
    Question("person-heavy against all people", "gated", "all_people", ("gated", "all_people")),
    Question("easy against easy and hard", "easy", "easy_and_hard", ("easy", "hard")),
)
TESTS: Final[Mapping[str, Arm]] = {**ARMS, "hard": Arm("compositions", families=("hard",))}


@dataclass(frozen=True)
class WorthSettings:
    """How the arms are trained; the same for all of them."""

    samples: int | None = None
    """Of an arm at most; as many as the smallest arm has where None."""
    steps: int = 600
    seeds: int = 3
    shape: tuple[int, ...] = WIDTHS
    learning_rate: float = 3e-3

    def to_json(self) -> dict[str, Any]:
        """Return this for JSON."""
        return {**asdict(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class Pool:
    """Samples of one kind, scaled and on disk.

    Attributes:
        rows: key, status, family, split and photograph of each, in the order of `pixels`.
        pixels: uint8 (N, SIDE, SIDE, LAYERS), read from disk as needed.
        digest: Of the run's files that they come from.
    """

    rows: pa.Table
    pixels: Pixels
    digest: str

    def choose(self, arm: Arm, splits: Sequence[str]) -> NDArray[np.int64]:
        """Return where the samples of an arm in some splits stand, in order."""
        columns = {name: np.asarray(self.rows[name].to_pylist(), object) for name in ("status", "family", "split")}
        chosen = np.isin(columns["split"], list(splits))
        if arm.kept:
            chosen &= columns["status"] == "kept"
        if families := self._named(arm):
            chosen &= np.isin(columns["family"], families)
        return np.flatnonzero(chosen)

    def held_out(self, arm: Arm) -> NDArray[np.int64]:
        """Return where the samples that an arm is tested on stand, in order: `TESTED` at most."""
        found = self.choose(arm, HELD_OUT)
        return found[np.linspace(0, len(found) - 1, min(len(found), TESTED)).astype(np.int64)]

    def _named(self, arm: Arm) -> list[str]:
        if arm.families != ("most",):
            return list(arm.families)
        counts = Counter(
            row["family"] for row in self.rows.to_pylist() if row["status"] == "kept" and row["split"] == "train"
        )
        return [max(sorted(counts), key=lambda family: counts[family])] if counts else []


@dataclass(frozen=True)
class Answer:
    """What came out on one test set.

    Attributes:
        photographs: Of the test set.
        one: Mean foreground MSE of the question's first arm, over seeds and samples.
        other: Of its second.
        no_change: Of doing nothing.
        difference: First minus second; negative where the first is better.
    """

    question: str
    one_name: str
    other_name: str
    test: str
    samples: int
    photographs: int
    one: float
    other: float
    no_change: float
    difference: Interval

    @property
    def verdict(self) -> str:
        """Say what the interval allows to say."""
        judged = judge_change(self.difference)
        if judged == "no difference":
            return "no difference found"
        return f"{self.one_name if judged == 'better' else self.other_name} is better"

    def to_json(self) -> dict[str, Any]:
        """Return this for JSON."""
        return {**asdict(self), "difference": self.difference.to_json(), "verdict": self.verdict}


@dataclass(frozen=True)
class Worth:
    """What came out.

    Attributes:
        answers: A row a question and test set.
        unasked: Why a question was not asked, by its title.
        trained_on: Samples of each arm.
    """

    answers: tuple[Answer, ...]
    unasked: Mapping[str, str]
    trained_on: Mapping[str, int]
    settings: WorthSettings

    def to_json(self) -> dict[str, Any]:
        """Return this for JSON."""
        return {
            "answers": [answer.to_json() for answer in self.answers],
            "unasked": dict(self.unasked),
            "trained_on": dict(self.trained_on),
            "settings": self.settings.to_json(),
            "bootstrap": {"replicates": REPLICATES, "percent": 95, "over": "photographs and seeds"},
        }


def evaluate_worth(
    runs: Sequence[Path],
    folder: Path,
    settings: WorthSettings,
    *,
    device: str = "cpu",
    watch: Watch = unwatched,
) -> Worth:
    """Train the arms that the runs allow, measure them, and compare.

    Args:
        runs: Finished. The first with edits asks of gate and families; one that was built with min_person_share 0
            beside it, of person-heavy photographs; the first with fusion samples, of hard ones.
        folder: Where everything is kept; an interrupted evaluation of the same goes on there.
        settings: Of the trainings.
        device: `cpu` or `cuda`.
        watch: Told how many trainings are done, of how many.

    Raises:
        BadRequest: No question can be asked of the runs, one of them is unfinished or damaged, or the folder holds an
            evaluation of something else.
    """
    folder = folder.expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with holding(folder / ".lock", busy=f"another evaluation is at work in {folder}; wait for it, or choose another"):
        pools = {
            name: open_pool(layout, FUSION if name == "compositions" else HARMONIZATION, folder / "pools" / name)
            for name, layout in choose_runs(runs).items()
        }
        asked, unasked = _askable(pools)
        if not asked:
            raise BadRequest("no question can be asked of these runs: " + "; ".join(unasked.values()))
        _begin(folder, pools, settings)
        sizes = _sizes(pools, asked, settings)
        todo = [(arm, seed) for arm in sizes for seed in range(settings.seeds)]
        watch("trainings", 0, len(todo))
        found: dict[tuple[str, int], dict[str, Floats]] = {}
        for number, (arm, seed) in enumerate(todo, start=1):
            found[arm, seed] = _trained(
                folder, pools, arm, seed, count=sizes[arm], asked=asked, settings=settings, device=device
            )
            watch("trainings", number, len(todo))
        answers = tuple(answer for question in asked for answer in _answers(question, pools, found, settings.seeds))
        worth = Worth(answers, unasked, sizes, settings)
        write_bytes(folder / "worth.json", json.dumps(worth.to_json(), indent=1).encode())
        return worth


def choose_runs(runs: Sequence[Path]) -> dict[str, Layout]:
    """Return whose samples each pool takes; a pool that none has is left out."""
    chosen: dict[str, Layout] = {}
    for layout in map(open_run, runs):
        stages = read_manifest(layout)["counts"].get("by_stage", {})
        everybody = not read_plan(layout).identity["min_person_share"]
        if stages.get(HARMONIZATION, {}).get("kept"):
            chosen.setdefault("edits_of_all_people" if everybody else "edits", layout)
        if stages.get(FUSION, {}).get("kept"):
            chosen.setdefault("compositions", layout)
    if "edits" not in chosen and "edits_of_all_people" in chosen:  # gate and families can be asked of it as well
        chosen["edits"] = chosen.pop("edits_of_all_people")
    return chosen


def open_pool(layout: Layout, stage: str, path: Path) -> Pool:
    """Scale the samples of a stage of a run, kept and rejected, unless that was done; return them.

    Raises:
        BadRequest: The run is damaged.
    """
    rows, digest = _rows_of(layout, stage), hash_file(layout.manifest)[0]
    file, mark = path.with_suffix(".npy"), path.with_suffix(".sha256")
    if not file.is_file() or not mark.is_file() or mark.read_text() != digest:
        mark.unlink(missing_ok=True)
        header = np.lib.format.header_data_from_array_1_0(np.empty((0, SIDE, SIDE, LAYERS), np.uint8))
        with writing(file) as out:
            np.lib.format.write_array_header_1_0(out, {**header, "shape": (len(rows), SIDE, SIDE, LAYERS)})
            for row in rows.to_pylist():
                out.write(_scaled(layout, row, stage).tobytes())
        write_bytes(mark, digest.encode())
    return Pool(rows, np.load(file, mmap_mode="r"), digest)


def _rows_of(layout: Layout, stage: str) -> pa.Table:
    photograph = "foreground_image_id" if stage == FUSION else "target_image_id"
    names = ["key", "status", "reason", "family", "split", photograph, "tar", "offset", "size"]
    files = [layout.run / entry["path"] for entry in read_manifest(layout).get("index", ())]
    try:
        table = pa.concat_tables(
            read_index(file, columns=[*names, "stage"]).filter(pc.field("stage") == stage).select(names)
            for file in files
        )
    except (OSError, pa.ArrowException) as error:
        raise BadRequest(
            f"the index of {layout.run} is damaged ({str(error).splitlines()[0]}); run hcoco verify"
        ) from None
    readable = pc.fill_null(pc.not_equal(table["reason"], "unreadable"), True)  # noqa: FBT003 - pyarrow's value
    table = table.filter(readable).sort_by("key")
    return table.rename_columns(["photograph" if name == photograph else name for name in names])


def _scaled(layout: Layout, row: Mapping[str, Any], stage: str) -> Pixels:
    """Return composite, mask and what is wanted of one sample, uint8 (SIDE, SIDE, LAYERS)."""
    try:
        members = read_sample(layout.run / row["tar"], offset=row["offset"], size=row["size"]).members
        layers = _composition(members) if stage == FUSION else _edit(members)
    except (Damaged, KeyError) as damage:
        raise BadRequest(f"{row['tar']} is damaged at {row['key']} ({damage}); run hcoco verify") from None
    composite, mask, wanted = (shrink(layer, (SIDE, SIDE)) for layer in layers)
    return np.concatenate([composite, mask[..., None], wanted], axis=-1)


def _edit(members: Mapping[str, bytes]) -> tuple[Pixels, Pixels, Pixels]:
    composite, real = (_decoded(members[f"{name}.jpg"], cv2.IMREAD_COLOR_RGB) for name in ("composite", "real"))
    return composite, _decoded(members["mask.png"], cv2.IMREAD_UNCHANGED), real


def _composition(members: Mapping[str, bytes]) -> tuple[Pixels, Pixels, Pixels]:
    """Paste the foreground by its rough mask; what may change reaches as far around it as a matte does."""
    foreground, background, wanted = (
        _decoded(members[f"{name}.jpg"], cv2.IMREAD_COLOR_RGB) for name in ("foreground", "background", "composite")
    )
    mask = _decoded(members["mask.png"], cv2.IMREAD_UNCHANGED)
    pasted = np.where(mask[..., None] > 127, foreground, background)
    return pasted, near_mask(mask, reach_of(mask)).view(np.uint8) * np.uint8(255), wanted


def _decoded(data: bytes, flags: int) -> Pixels:
    picture = decode_member(data, flags)
    if picture is None:
        raise Damaged("a picture cannot be decoded")
    return picture


def _askable(pools: Mapping[str, Pool]) -> tuple[list[Question], dict[str, str]]:
    """Return the questions that can be asked, and why the others cannot."""
    asked, unasked = [], {}
    for question in QUESTIONS:
        why = next((why for arm in (question.one, question.other) if (why := _lacking(pools, ARMS[arm], arm))), None)
        why = why or next((why for test in question.tests if (why := _lacking_test(pools, test))), None)
        if why is None:
            asked.append(question)
        else:
            unasked[question.title] = why
    return asked, unasked


def _lacking(pools: Mapping[str, Pool], arm: Arm, name: str) -> str | None:
    if arm.pool not in pools:
        return _MISSING[arm.pool]
    count = len(pools[arm.pool].choose(arm, ("train",)))
    return None if count >= LEAST else f"{name} has {count} samples to learn from"


def _lacking_test(pools: Mapping[str, Pool], name: str) -> str | None:
    pool, arm = pools[TESTS[name].pool], TESTS[name]
    photographs = set(pool.rows["photograph"].take(pool.held_out(arm)).to_pylist())
    return None if len(photographs) >= LEAST else f"{name} has {len(photographs)} held-out photographs"


_MISSING: Final = {
    "edits": "no run has harmonization samples",
    "edits_of_all_people": "no second run was built with --min-person-share 0",
    "compositions": "no run has fusion samples",
}


def _begin(folder: Path, pools: Mapping[str, Pool], settings: WorthSettings) -> None:
    """Write down what is evaluated, or see that it is the same.

    Raises:
        BadRequest: It is another.
    """
    about = {
        "version": 3,
        "settings": settings.to_json(),
        "pools": {name: pool.digest for name, pool in sorted(pools.items())},
    }
    path = folder / "begun.json"
    if not path.is_file():
        write_bytes(path, json.dumps(about, indent=1).encode())
    elif json.loads(path.read_bytes()) != about:
        raise BadRequest(f"{folder} holds an evaluation of other runs or settings; choose another --output")


def _sizes(pools: Mapping[str, Pool], asked: Sequence[Question], settings: WorthSettings) -> dict[str, int]:
    """Return how many samples each arm learns from: as many for all edits, and as many for all compositions."""
    arms = dict.fromkeys(arm for question in asked for arm in (question.one, question.other))
    have = {arm: len(pools[ARMS[arm].pool].choose(ARMS[arm], ("train",))) for arm in arms}
    sizes = {}
    for arm in arms:
        alike = [
            have[each] for each in arms if (ARMS[each].pool == "compositions") == (ARMS[arm].pool == "compositions")
        ]
        sizes[arm] = min(alike) if settings.samples is None else min(*alike, settings.samples)
    return sizes


def _trained(
    folder: Path,
    pools: Mapping[str, Pool],
    arm: str,
    seed: int,
    *,
    count: int,
    asked: Sequence[Question],
    settings: WorthSettings,
    device: str,
) -> dict[str, Floats]:
    """Return the foreground MSE of each sample of the arm's test sets: read where it is finished, else trained."""
    path = folder / "arms" / f"{arm}-{seed}.npz"
    tests = sorted({test for question in asked if arm in {question.one, question.other} for test in question.tests})
    if path.is_file():
        with np.load(path) as stored:
            if set(tests) <= set(stored.files):
                return {test: stored[test] for test in tests}
    pool = pools[ARMS[arm].pool]
    every = pool.choose(ARMS[arm], ("train",))
    chosen = np.sort(np.random.default_rng([seed, 1]).permutation(every)[:count])
    origin = hashlib.sha256(f"{pool.digest}:{arm}:{count}".encode()).hexdigest()
    training = HarmonizerSettings(
        "masked_unet",
        MaskedUnetShape(settings.shape),
        side=SIDE,
        batch=min(BATCH, count),
        steps=settings.steps,
        seed=seed,
        learning_rate=settings.learning_rate,
        half_on_cpu=True,
        origin=origin,
    )
    state = folder / "arms" / f"{arm}-{seed}.state"
    state.parent.mkdir(exist_ok=True)
    draw = partial(draw_batch, pool.pixels, chosen, seed=seed, size=training.batch)
    model, _ = train_harmonizer(draw, training, state=state, device=device)
    measured = {test: measure_test(model, pools, test, device=device) for test in tests}
    with writing(path) as file:
        np.savez(file, **measured)  # type: ignore[arg-type]
    state.unlink(missing_ok=True)
    return measured


def draw_batch(pixels: Pixels, chosen: NDArray[np.int64], number: int, *, seed: int, size: int) -> Triplets:
    """Return batch `number`: samples of the chosen, each epoch in an order of its own, half of them mirrored."""
    epoch, place = divmod(number * size, len(chosen))
    order = np.concatenate(
        [np.random.default_rng([seed, 2, each]).permutation(chosen) for each in range(epoch, epoch + 2)]
    )
    batch = np.array(pixels[order[place : place + size]])
    mirrored = np.random.default_rng([seed, 3, number]).random(size) < 0.5
    batch[mirrored] = batch[mirrored, :, ::-1]
    return split_layers(batch)


def split_layers(batch: Pixels) -> Triplets:
    """Return stored samples, uint8 (N, H, W, LAYERS), as composites, masks and what is wanted."""
    return Triplets(*(np.ascontiguousarray(batch[..., part]) for part in (np.s_[:3], 3, np.s_[4:])))


def measure_test(model: torch.nn.Module | None, pools: Mapping[str, Pool], test: str, *, device: str = "cpu") -> Floats:
    """Return the foreground MSE (mask over 127, at SIDE pixels) of each sample of a test set; of doing nothing for None."""
    pool = pools[TESTS[test].pool]
    rows = pool.held_out(TESTS[test])
    return np.concatenate(
        [_errors(model, split_layers(np.array(pool.pixels[each])), device=device) for each in _batches(rows)]
    )


def _batches(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(rows), BATCH):
        yield rows[first : first + BATCH]


def _errors(model: torch.nn.Module | None, batch: Triplets, *, device: str) -> Floats:
    made = batch.composite.astype(np.float64)
    if model is not None:
        model.to(device).eval()
        with torch.inference_mode():
            answer = model(tensor_of(batch.composite, device=device), tensor_of(batch.mask, device=device))
            made = 255 * answer.clamp(0, 1).permute(0, 2, 3, 1).double().cpu().numpy()
    squared = ((made - batch.real) ** 2).mean(axis=-1)
    inside = batch.mask > 127
    count = inside.sum(axis=(1, 2))
    return np.asarray((squared * inside).sum(axis=(1, 2)) / np.maximum(count, 1), np.float64)


def _answers(
    question: Question, pools: Mapping[str, Pool], found: Mapping[tuple[str, int], Mapping[str, Floats]], seeds: int
) -> Iterator[Answer]:
    for test in question.tests:
        pool = pools[TESTS[test].pool]
        photographs = pool.rows["photograph"].take(pool.held_out(TESTS[test])).to_pylist()
        one, other = (
            np.stack([found[arm, seed][test] for seed in range(seeds)]) for arm in (question.one, question.other)
        )
        yield Answer(
            question=question.title,
            one_name=question.one,
            other_name=question.other,
            test=test,
            samples=len(photographs),
            photographs=len(set(photographs)),
            one=round(float(one.mean()), 3),
            other=round(float(other.mean()), 3),
            no_change=round(float(measure_test(None, pools, test).mean()), 3),
            difference=compare_arms(one - other, photographs),
        )


def compare_arms(
    difference: Floats, photographs: Sequence[int], *, seed: int = 0, replicates: int = REPLICATES
) -> Interval:
    """Return the mean of differences and where 95 of 100 means lie when photographs and seeds are drawn anew.

    Args:
        difference: (seeds, samples), of the same samples under each seed.
        photographs: Of each sample; samples of one photograph are drawn together.
        seed: Of the draws.
        replicates: How many.
    """
    _, code = np.unique(np.asarray(photographs), return_inverse=True)
    number = int(code.max()) + 1
    sums = np.stack([np.bincount(code, weights=each, minlength=number) for each in difference])  # (seeds, photographs)
    counts = np.bincount(code, minlength=number)
    rng, means = np.random.default_rng(seed), np.empty(replicates)
    for place in range(replicates):
        times = np.bincount(rng.integers(number, size=number), minlength=number)
        drawn = rng.integers(len(difference), size=len(difference))
        means[place] = (sums[drawn] @ times).mean() / (counts @ times)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(difference.mean()), float(low), float(high))


def tell_worth(worth: Worth) -> Iterator[str]:
    """Say it as a text table."""
    trained = ", ".join(f"{arm} {count}" for arm, count in worth.trained_on.items())
    settings = worth.settings
    yield f"masked U-Net at {SIDE} px, {settings.steps} steps, {settings.seeds} seeds; samples learnt from: {trained}"
    yield "foreground MSE on held-out photographs; differences with the interval of 95 of 100 bootstrap means"
    yield f"  {'tested on':<14}{'samples':>8}{'no change':>11}{'first':>10}{'second':>10}{'difference':>12}{'95 %':>20}"
    last = ""
    for each in worth.answers:
        if each.question != last:
            yield f"{each.question} (first: {each.one_name}, second: {each.other_name})"
            last = each.question
        low_high = f"{each.difference.low:+.1f}..{each.difference.high:+.1f}"
        yield (
            f"  {each.test:<14}{each.samples:>8}{each.no_change:>11.1f}{each.one:>10.1f}{each.other:>10.1f}"
            f"{each.difference.mean:>+12.1f}{low_high:>20}  {each.verdict}"
        )
    yield from (f"not asked: {title}, since {why}" for title, why in worth.unasked.items())


Build = Callable[[Mapping[str, Any]], Path]
"""Builds a run with these settings, or finishes it; returns its folder."""


def runs_of_source(source: str, folder: Path, build: Build, *, samples: int) -> list[Path]:
    """Build the two runs that all questions need: of person-heavy photographs, with fusion, and of all people.

    Args:
        source: Of photographs, as of a build.
        folder: The runs lie below it.
        build: Makes one.
        samples: Planned, of each stage.
    """
    common = {"source": source, "output": str(folder / "runs"), "samples": samples, "max_side": 320}
    heavy = build({**common, "run": "person-heavy", "stages": "harmonization,fusion"})
    everybody = build({**common, "run": "all-people", "stages": "harmonization", "min_person_share": 0})
    return [heavy, everybody]
