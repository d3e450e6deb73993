"""A plain `webdataset` loader reads what a build wrote; nothing of this project is needed for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from torch.utils.data import DataLoader

from flows.store.layout import Layout
from flows.store.record import make_record
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
