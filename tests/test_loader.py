"""Trainers' own readers read what a build wrote, and nothing of this project is needed for it.

Plain `webdataset` and Hugging Face `datasets`, alone, with two loader workers, and as two ranks of a distributed training;
the project's own loader beside them where ranks meet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from torch.utils.data import DataLoader

from flows.store.layout import Layout
from flows.store.record import flatten, make_record
from flows.view.data_card import write_card
from tests.conftest import ROOT
from tests.flows.make.building import build_in, rows_of

EPOCHS = 2
WORKERS = 2

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # webdataset leaves it to the collector
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # on a machine of one core
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # Python 3.12 and newer
]

FORMAT_FIELDS = {
    *("key", "stage", "split", "status", "reason", "value", "limit", "gates", "family", "strength", "foreground_mse"),
    *("psnr", "score", "threshold", "seen_by_gate", "recipe", "target", "reference"),
}


@pytest.fixture(scope="module")
def run(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a run with more shards than loader workers."""
    return build_in(tiny_coco, tmp_path_factory.mktemp("loader"))


def same(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Collate nothing: pictures differ in size. A function of the module, so that any kind of worker finds it."""
    return samples


@pytest.fixture(scope="module")
def epochs(run: Layout) -> list[list[dict[str, Any]]]:
    """Return all samples of two epochs, read by several workers."""
    shards = sorted(str(path) for path in (run.run / "shards").iterdir())
    assert len(shards) > WORKERS
    dataset = wds.WebDataset(shards, shardshuffle=len(shards), seed=1).shuffle(20).decode("rgb8")
    # forkserver: forked workers would inherit the threads of a Prefect server that other tests keep in this process
    loader = DataLoader(
        dataset, batch_size=4, num_workers=WORKERS, collate_fn=same, multiprocessing_context="forkserver"
    )
    return [[sample for batch in loader for sample in batch] for _ in range(EPOCHS)]


def test_every_kept_sample_comes_exactly_once_in_each_epoch(run: Layout, epochs: list[list[dict[str, Any]]]) -> None:
    """No sample is lost, merged or repeated between shards and workers, in the second epoch neither."""
    kept = Counter(row["key"] for row in rows_of(run) if row["status"] == "kept")
    assert len(kept) > 20
    for epoch in epochs:
        assert Counter(sample["__key__"] for sample in epoch) == kept


def test_members_decode_to_arrays_of_one_size(epochs: list[list[dict[str, Any]]]) -> None:
    """Composite, real and mask come as uint8 arrays of the same height and width."""
    for sample in epochs[0]:
        shapes = {sample[name].shape for name in ("composite.jpg", "real.jpg", "mask.png")}
        assert len(shapes) == 1
        assert {sample[name].dtype for name in ("composite.jpg", "real.jpg", "mask.png")} == {np.dtype(np.uint8)}
        assert shapes <= {(120, 160, 3), (150, 112, 3)}
        assert {0, 255} <= set(np.unique(sample["mask.png"]))


def test_json_has_all_fields_and_belongs_to_its_pictures(epochs: list[list[dict[str, Any]]]) -> None:
    """Every sample's JSON has the fields of the format, the same in all, and its measure is that of its pictures."""
    for sample in epochs[0]:
        record = sample["json"]
        assert set(record) >= FORMAT_FIELDS
        assert list(record) == list(make_record({}))
        assert record["key"] == sample["__key__"]
        assert record["status"] == "kept"
        inside = sample["mask.png"][..., 0] > 127
        squares = (sample["composite.jpg"].astype(np.float64) - sample["real.jpg"]) ** 2
        assert squares[inside].sum() / (3 * inside.sum()) == pytest.approx(record["foreground_mse"], rel=0.05)


def test_the_background_is_identical_for_another_decoder_too(epochs: list[list[dict[str, Any]]]) -> None:
    """The promise holds for Pillow, which the loader decodes with, as for OpenCV: untouched blocks are equal."""
    for sample in epochs[0]:
        alpha = sample["mask.png"][..., 0]
        for y in range(0, alpha.shape[0], 8):
            for x in range(0, alpha.shape[1], 8):
                block = np.s_[y : y + 8, x : x + 8]
                if not alpha[block].any():
                    assert np.array_equal(sample["real.jpg"][block], sample["composite.jpg"][block])


def test_rejected_samples_are_read_the_same_way(run: Layout) -> None:
    """The rejected tars are shards like the others, so gates can be looked at, or taken back, with the same reader."""
    shards = sorted(str(path) for path in (run.run / "rejected").iterdir())
    samples = list(wds.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    rejected = {row["key"]: row["reason"] for row in rows_of(run) if row["status"] == "rejected"}
    assert {sample["__key__"]: sample["json"]["reason"] for sample in samples} == rejected


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a process whose `datasets` asks nobody and caches in a folder of the test."""
    unset = ("RANK", "WORLD_SIZE", "PYTHONWARNINGS")
    return {
        **{name: value for name, value in os.environ.items() if name not in unset},
        **dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"), "1"),
        "HF_HOME": str(tmp_path_factory.mktemp("huggingface")),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["ours", "webdataset", "datasets"])
def test_two_ranks_with_two_workers_each_see_every_sample_once(
    run: Layout, offline: dict[str, str], tmp_path: Path, reader: str
) -> None:
    """Two processes joined by gloo share each epoch: together every training sample, none twice."""
    ranks = read_as_ranks(reader, run, offline, tmp_path)
    kept = Counter(row["key"] for row in rows_of(run) if row["status"] == "kept" and row["split"] == "train")
    assert len(kept) > 20
    for epoch in zip(*ranks, strict=True):
        assert all(epoch)
        assert Counter(key for keys in epoch for key in keys) == kept


@pytest.mark.slow
def test_ranks_that_wait_for_each_other_at_every_step_all_end(
    run: Layout, offline: dict[str, str], tmp_path: Path
) -> None:
    """With `drop_last` both ranks make as many steps, so averaging gradients does not hang, and no sample repeats."""
    for epoch in zip(*read_as_ranks("even", run, offline, tmp_path), strict=True):
        assert len(epoch[0]) == len(epoch[1]) > 0
        assert not set(epoch[0]) & set(epoch[1])


def read_as_ranks(reader: str, run: Layout, environment: dict[str, str], folder: Path) -> list[list[list[str]]]:
    """Return, for each of two ranks, the keys of its epochs."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ranks", reader, run.run, str(rank), "2", folder / "meeting"],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0]
    return [json.loads(text) for text in printed]


HUGGING_FACE = """
import json, sys
from datasets import load_dataset, load_dataset_builder

run = sys.argv[1]
files = {"train": run + "/shards/train-*.tar"}
card = load_dataset(run)
features = load_dataset_builder(run).info.features
tars = load_dataset("webdataset", data_files=files, split="train", features=features)
streamed = load_dataset("webdataset", data_files=files, split="train", streaming=True)
first = tars[0]
try:
    load_dataset("webdataset", data_files=files, split="train")
    plain = "loaded"
except Exception as error:
    plain = f"{type(error).__name__}: {error.__cause__}"
print(json.dumps({
    "plain": plain,
    "keys": tars["__key__"][:],
    "streamed": [sample["__key__"] for sample in streamed],
    "by_card": {split: len(samples) for split, samples in card.items()},
    "records": {sample["__key__"]: sample["json"] for sample in card["train"]},
    "sizes": [first[name].size for name in ("composite.jpg", "real.jpg", "mask.png")],
}))
"""


@pytest.mark.slow
def test_hugging_face_datasets_reads_the_tars_and_the_card(run: Layout, offline: dict[str, str]) -> None:
    """`load_dataset` streams the tars as they are, and takes the run's folder by its data card alone; both offline.

    A table of the bare tars without the card's types fails as docs/trainers.md says; where it does not any more, the page
    and the README's limit can go.
    """
    write_card(run)
    done = subprocess.run(
        [sys.executable, "-c", HUGGING_FACE, run.run], env=offline, stdout=subprocess.PIPE, text=True, check=True
    )
    read = json.loads(done.stdout)
    kept = [row for row in rows_of(run) if row["status"] == "kept"]
    train = {row["key"]: row for row in kept if row["split"] == "train"}
    assert sorted(read["keys"]) == sorted(read["streamed"]) == sorted(train)
    assert read["plain"].startswith("DatasetGenerationError: Couldn't cast array of type")
    assert read["plain"].endswith("to null")
    assert read["by_card"] == Counter(row["split"] for row in kept)
    for key, record in read["records"].items():
        assert flatten(record) == {name: train[key][name] for name in flatten(record)}
    assert len({tuple(size) for size in read["sizes"]}) == 1
