from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from flows.errors import BadRequest
from flows.make.plan import Planned
from flows.store.layout import Layout, write_bytes, writing
from flows.store.loader import Loader, Sample, epoch_order, find_places
from flows.store.read import Damaged, load_samples, read_sample
from flows.store.record import encode_record, flatten, index_table, make_record
from flows.store.write import pack, write_tar
from tests.conftest import write_coco
from tests.flows.make.building import build_in, make_left, plan_in, rows_of

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine of one core


@pytest.fixture(scope="module")
def run(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a run of several shards in three splits; do not write into it."""
    return build_in(tiny_coco, tmp_path_factory.mktemp("loader"))


def kept_in(run: Layout, split: str = "train") -> list[dict[str, Any]]:
    """Return the index rows of a split's kept samples, by key."""
    return [row for row in rows_of(run) if row["status"] == "kept" and row["split"] == split]


def keys_of(epoch: Sequence[Sample]) -> list[str]:
    """Return the keys of an epoch that comes in batches."""
    return [key for batch in epoch for key in batch["__key__"]]


def test_every_kept_sample_comes_once_in_an_epoch(run: Layout) -> None:
    """An epoch is the split's kept samples, neither more nor fewer, shuffled or not."""
    kept = sorted(row["key"] for row in kept_in(run))
    assert len(kept) > 20
    for seed in (None, 5):
        loader = load_samples(run.run, seed=seed, pictures=["mask"])
        for _ in range(2):
            assert sorted(sample["__key__"] for sample in loader) == kept


def test_without_a_seed_samples_come_in_the_order_of_shards_and_keys(run: Layout) -> None:
    """Not shuffled is the order of the disk."""
    rows = sorted(kept_in(run), key=lambda row: (row["tar"], row["key"]))
    assert [sample["__key__"] for sample in load_samples(run.run, pictures=[])] == [row["key"] for row in rows]


def test_workers_change_nothing_in_the_order(run: Layout) -> None:
    """Two processes hand out the same batches in the same order as none, in each epoch, and across a resume."""
    alone, helped = (load_samples(run.run, seed=1, batch_size=4, pictures=["mask"], workers=n) for n in (0, 2))
    for _ in range(2):
        assert keys_of(list(alone)) == keys_of(list(helped))
    helped.load_state_dict({**helped.state_dict(), "epoch": 0, "consumed": 8})
    alone.load_state_dict(helped.state_dict())
    assert keys_of(list(alone)) == keys_of(list(helped))


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_torchs_generator_alone(run: Layout, workers: int) -> None:
    """What a network draws, in dropout for instance, does not depend on where an epoch begins or reading goes on."""
    before = torch.get_rng_state()
    loader = load_samples(run.run, seed=1, batch_size=4, pictures=["mask"], workers=workers)
    next(iter(loader))
    list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_order_follows_from_seed_and_epoch(run: Layout) -> None:
    """The same seed gives the same epochs; another seed or epoch another order."""
    places = find_places(run, split="train", stage="harmonization", status="kept")

    def order(seed: int, epoch: int) -> list[int]:
        return epoch_order(places, seed=seed, epoch=epoch, shards_at_once=None).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize("at_once", [1, 2])
def test_shards_at_once_keeps_the_shards_of_a_window_together(run: Layout, at_once: int) -> None:
    """All samples of some shards come before any of the next ones; which they are, and their order, is shuffled."""
    places = find_places(run, split="train", stage="harmonization", status="kept")
    order = epoch_order(places, seed=1, epoch=0, shards_at_once=at_once)
    assert sorted(order) == list(range(len(places)))
    shards = places.tar[order].tolist()
    window_of = {shard: place // at_once for place, shard in enumerate(dict.fromkeys(shards))}
    windows = [window_of[shard] for shard in shards]
    assert windows == sorted(windows)
    assert len({tuple(epoch_order(places, seed=1, epoch=n, shards_at_once=at_once)) for n in range(3)}) == 3


def test_arrays_are_the_members_decoded(run: Layout) -> None:
    """Pictures are RGB, masks of one channel, as OpenCV decodes the bytes in the tar; the record is the json member."""
    rows = {row["key"]: row for row in kept_in(run)}
    for sample in load_samples(run.run):
        row = rows[sample["__key__"]]
        stored = read_sample(run.run / row["tar"], offset=row["offset"], size=row["size"])
        assert list(sample) == ["__key__", "composite", "mask", "real", "json"]
        for name in ("composite", "real"):
            expected = cv2.imdecode(np.frombuffer(stored.members[f"{name}.jpg"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            assert sample[name].dtype == np.uint8
            assert np.array_equal(sample[name], expected)
        expected = cv2.imdecode(np.frombuffer(stored.members["mask.png"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(sample["mask"], expected)
        assert sample["json"] == stored.record


def test_tensors_are_the_arrays_as_floats(run: Layout) -> None:
    """Tensors are float32, channels first, from 0 to 1, and hold the same pictures."""
    pairs = zip(load_samples(run.run), load_samples(run.run, form="torch"), strict=True)
    array, tensor = next(pairs)
    for name in ("composite", "mask", "real"):
        assert tensor[name].dtype == torch.float32
        planes = np.atleast_3d(array[name]).transpose(2, 0, 1)
        assert np.array_equal(tensor[name].numpy(), planes / np.float32(255))


@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_pictures_of_one_size_are_stacked(run: Layout, form: Any) -> None:
    """With a size, a batch is arrays with one more axis in front; the last batch is what is left."""
    batches = list(load_samples(run.run, size=(30, 50), batch_size=8, form=form))
    count = len(kept_in(run))
    assert [len(batch["__key__"]) for batch in batches] == [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    shape = tuple(batches[0]["real"].shape), tuple(batches[0]["mask"].shape)
    assert shape == (((8, 30, 50, 3), (8, 30, 50)) if form == "numpy" else ((8, 3, 30, 50), (8, 1, 30, 50)))
    assert len(batches[0]["json"]) == 8


def test_resizing_keeps_the_mean(run: Layout) -> None:
    """Shrinking averages, so a picture's mean stays, and height and width are not swapped."""
    for whole, small in zip(load_samples(run.run), load_samples(run.run, size=(40, 56)), strict=True):
        assert small["real"].shape == (40, 56, 3)
        assert np.allclose(whole["real"].mean((0, 1)), small["real"].mean((0, 1)), atol=1)
        assert abs(float(whole["mask"].mean()) - float(small["mask"].mean())) < 1


def test_pictures_of_their_own_sizes_come_as_lists(run: Layout) -> None:
    """Without a size, a batch holds lists, also where all happen to be equal."""
    batch = next(iter(load_samples(run.run, batch_size=2)))
    assert all(isinstance(batch[name], list) for name in batch)


def test_an_epoch_is_resumed_where_it_was_left(run: Layout) -> None:
    """A position that went through JSON leads a new loader to the batches that were still to come, and on."""
    whole = load_samples(run.run, seed=7, batch_size=3, pictures=["mask"])
    epochs = [keys_of(list(whole)) for _ in range(2)]
    first = load_samples(run.run, seed=7, batch_size=3, pictures=["mask"])
    begun = iter(first)
    seen = keys_of([next(begun), next(begun)])
    state = json.loads(json.dumps(first.state_dict()))
    assert (state["epoch"], state["consumed"]) == (0, 6)
    second = load_samples(run.run, seed=7, batch_size=3, pictures=["mask"])
    second.load_state_dict(state)
    assert len(second) == len(list(whole)) - 2
    assert seen + keys_of(list(second)) == epochs[0]
    assert second.epoch == 1
    assert keys_of(list(second)) == epochs[1]


def test_a_loop_that_was_left_goes_on(run: Layout) -> None:
    """Leaving a loop loses nothing: the next one begins behind the last batch that was handed out."""
    loader = load_samples(run.run, seed=7, batch_size=3, pictures=["mask"], workers=1)
    seen = []
    for batch in loader:
        seen.append(batch)
        if len(seen) == 3:
            break
    rest = list(loader)
    assert Counter(keys_of([*seen, *rest])) == Counter(row["key"] for row in kept_in(run))


def test_a_position_holds_for_other_ranks_and_batches(run: Layout) -> None:
    """What one process has begun, three go on with: together they see the rest, once."""
    first = load_samples(run.run, seed=7, batch_size=5, pictures=[])
    seen = keys_of([next(iter(first))])
    rest = []
    for rank in range(3):
        part = load_samples(run.run, seed=7, batch_size=2, pictures=[], rank=rank, world_size=3)
        part.load_state_dict(first.state_dict())
        rest += keys_of(list(part))
    assert Counter(seen + rest) == Counter(row["key"] for row in kept_in(run))


@pytest.mark.parametrize("change", [{"seed": 8}, {"samples": "other"}, {"shards_at_once": 1}])
def test_a_position_in_another_order_is_refused(run: Layout, change: dict[str, int]) -> None:
    """A position means nothing in another order of samples, so it is not taken."""
    loader = load_samples(run.run, seed=7, pictures=[])
    with pytest.raises(ValueError, match=f"same {next(iter(change))}"):
        loader.load_state_dict({**loader.state_dict(), **change})


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_ranks_share_an_epoch(run: Layout, world_size: int, batch_size: int | None) -> None:
    """All ranks together see every sample once, their shares differ by one at most, and each knows its length."""
    shares = []
    for rank in range(world_size):
        loader = load_samples(run.run, seed=2, batch_size=batch_size, pictures=[], rank=rank, world_size=world_size)
        expected = len(loader)
        share = list(loader)
        assert len(share) == expected
        shares.append(keys_of(share) if batch_size else [sample["__key__"] for sample in share])
    assert Counter(key for share in shares for key in share) == Counter(row["key"] for row in kept_in(run))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_drop_last_gives_all_ranks_as_many_full_batches(run: Layout, world_size: int) -> None:
    """With `drop_last` all ranks make the same number of steps, no batch is short, and no sample comes twice."""
    shares = []
    for rank in range(world_size):
        loader = load_samples(
            run.run, seed=2, batch_size=3, drop_last=True, pictures=[], rank=rank, world_size=world_size
        )
        share = list(loader)
        assert len(share) == loader._steps.count(0) == len(kept_in(run)) // (3 * world_size)
        assert {len(batch["__key__"]) for batch in share} == {3}
        shares += keys_of(share)
    assert len(set(shares)) == len(shares)


def test_more_ranks_and_workers_than_samples_still_see_each_once(run: Layout) -> None:
    """The smallest split has fewer samples than there are readers: some read nothing, and none waits for ever."""
    kept = [row["key"] for row in kept_in(run, "val")]
    assert 0 < len(kept) < 9
    seen = [
        sample["__key__"]
        for rank in range(9)
        for sample in load_samples(run.run, split="val", pictures=[], rank=rank, world_size=9)
    ]
    assert Counter(seen) == Counter(kept)
    helped = load_samples(run.run, split="val", batch_size=len(kept), pictures=[], workers=2)
    assert [batch["__key__"] for batch in helped] == [kept]


def test_a_condition_on_the_index_chooses_samples(run: Layout) -> None:
    """`where` leaves those samples for which it holds, by any column of the index."""
    chosen = load_samples(run.run, where=(pc.field("strength") > 0.6) & (pc.field("family") != "idt"), pictures=[])
    expected = [row["key"] for row in kept_in(run) if row["strength"] > 0.6 and row["family"] != "idt"]
    assert 0 < len(expected) < len(kept_in(run))
    assert sorted(sample["__key__"] for sample in chosen) == expected


def brighten(sample: Sample) -> Sample:
    """Stand in for a trainer's own augmentation."""
    return {**sample, "brightness": float(sample["real"].mean())}


def test_a_transform_is_applied_in_the_workers(run: Layout) -> None:
    """What a transform adds to a sample is in the batch."""
    batch = next(iter(load_samples(run.run, transform=brighten, batch_size=2, workers=1)))
    assert batch["brightness"] == [float(picture.mean()) for picture in batch["real"]]


def roll(sample: Sample) -> Sample:
    """Stand in for a trainer's augmentation that draws."""
    return {**sample, "rolled": (float(torch.rand(())), float(np.random.rand()))}  # noqa: NPY002 - as trainers do


def test_what_a_transform_draws_in_a_worker_follows_from_the_seeds(run: Layout) -> None:
    """The same again in another training of the same seeds, something else with another seed, rank or beginning."""

    def rolled(*, own: int = 0, rank: int = 0, consumed: int = 0) -> tuple[Any, ...]:
        with torch.random.fork_rng():
            torch.manual_seed(own)
            loader = load_samples(
                run.run, transform=roll, batch_size=2, pictures=[], seed=1, workers=1, rank=rank, world_size=2
            )
            loader.load_state_dict({**loader.state_dict(), "consumed": consumed})
            return tuple(next(iter(loader))["rolled"])

    first = rolled()
    assert first == rolled()
    assert len({first, rolled(own=1), rolled(rank=1), rolled(consumed=4)}) == 4


def test_rejected_samples_are_loaded_but_those_without_pictures(tmp_path: Path) -> None:
    """What the gates dropped comes like the rest; a photograph that could not be read has nothing to show."""
    write_coco(tmp_path / "coco", images=12)
    planned: Planned = plan_in(tmp_path / "coco", tmp_path)
    for path in sorted((tmp_path / "coco" / "tiny").iterdir())[:4]:
        path.write_bytes(b"no picture")
    run = make_left(planned).layout
    reasons = {row["key"]: row["reason"] for row in rows_of(run) if row["split"] == "train" and row["reason"]}
    assert "unreadable" in reasons.values()
    expected = {key: reason for key, reason in reasons.items() if reason != "unreadable"}
    assert expected
    loaded = load_samples(run.run, status="rejected")
    assert {sample["__key__"]: sample["json"]["reason"] for sample in loaded} == expected


def test_the_members_of_a_fusion_sample_are_those_of_its_stage(tmp_path: Path) -> None:
    """Another stage has other pictures; which they are is looked up by the stage."""
    rng = np.random.default_rng(1)
    members = {
        name: cv2.imencode(Path(name).suffix, rng.integers(0, 255, shape, dtype=np.uint8))[1].tobytes()
        for name, shape in {
            **dict.fromkeys(("foreground.jpg", "background.jpg", "composite.jpg"), (20, 30, 3)),
            **dict.fromkeys(("mask.png", "alpha.png"), (20, 30)),
        }.items()
    }
    layout = Layout(tmp_path / "run")
    record = make_record({"key": "a-b-00", "stage": "fusion", "split": "train", "status": "kept"})
    packed = pack("a-b-00", {**members, "json": encode_record(record)})
    tar = layout.run / "fusion" / "train-00000.tar"
    write_tar(tar, [packed])
    with writing(layout.index("fusion-train-00000")) as file:
        row = {**flatten(record), "tar": "fusion/train-00000.tar", "offset": 0, "size": len(packed)}
        pq.write_table(index_table([row]), file)
    counts = {"planned": 1, "kept": 1, "rejected": 0, "by_reason": {}, "by_family": {}}
    index = [{"path": "index/fusion-train-00000.parquet", "sha256": "", "samples": 1}]
    manifest = {"counts": counts, "selection": {}, "settings": {}, "code": {}, "shards": [], "index": index}
    write_bytes(layout.manifest, json.dumps(manifest).encode())
    write_bytes(layout.plan, b"{}")
    (sample,) = load_samples(layout.run, stage="fusion")
    pictures = ("foreground", "background", "composite", "mask", "alpha")
    assert list(sample) == ["__key__", *pictures, "json"]
    assert [sample[name].shape for name in pictures] == [(20, 30, 3)] * 3 + [(20, 30)] * 2
    with pytest.raises(BadRequest, match="no kept harmonization samples in split 'train'"):
        load_samples(layout.run)


def test_the_reader_is_imported_without_torch() -> None:
    """Reading a sample by its place needs no torch; only the loader brings it along."""
    code = "import sys, flows.store.read as r; assert 'torch' not in sys.modules; r.load_samples; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.fixture
def damaged(run: Layout, tmp_path: Path) -> Layout:
    """Return a copy of the run that a test may damage."""
    shutil.copytree(run.run, tmp_path / "run")
    return Layout(tmp_path / "run")


def test_a_missing_shard_is_told_before_the_first_sample(damaged: Layout) -> None:
    """A tar that is gone is found when the loader is opened, and named."""
    tar = kept_in(damaged)[0]["tar"]
    (damaged.run / tar).unlink()
    with pytest.raises(Damaged, match=f"{tar} is missing"):
        load_samples(damaged.run)


def test_a_shard_that_is_cut_short_is_told_before_the_first_sample(damaged: Layout) -> None:
    """So is a tar that ends before the index says."""
    tar = damaged.run / kept_in(damaged)[0]["tar"]
    tar.write_bytes(tar.read_bytes()[:-2000])
    with pytest.raises(Damaged, match="is cut short"):
        load_samples(damaged.run)


def test_a_damaged_picture_is_told_with_its_name(damaged: Layout) -> None:
    """A picture that cannot be decoded ends the epoch with the shard and the sample that it is in."""
    row = kept_in(damaged)[0]
    tar = damaged.run / row["tar"]
    data = bytearray(tar.read_bytes())
    data[row["offset"] + 512 : row["offset"] + 600] = bytes(88)
    tar.write_bytes(data)
    with pytest.raises(Damaged, match=rf"{tar.name}: {row['key']}\.composite\.jpg is no picture"):
        list(load_samples(damaged.run))


def test_an_unfinished_run_is_a_bad_request(damaged: Layout) -> None:
    """A run without manifest is not loaded: what is missing would be missing without a word."""
    damaged.manifest.unlink()
    with pytest.raises(BadRequest, match="is not finished"):
        load_samples(damaged.run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "training"}, "no kept harmonization samples in split 'training'"),
        ({"where": pc.field("family") == "x"}, "for which `where` holds"),
        ({"where": pc.field("colour") == "x"}, "cannot be read so"),
    ],
)
def test_asking_for_samples_that_do_not_exist_is_a_bad_request(
    run: Layout, options: dict[str, Any], message: str
) -> None:
    """An empty loader would train nothing without a word."""
    with pytest.raises(BadRequest, match=message):
        load_samples(run.run, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pictures": ["fake"]}, "pictures must be among composite, mask, real, got 'fake'"),
        ({"stage": "inpainting"}, "stage must be one of harmonization, fusion"),
        ({"rank": 1}, "rank and world_size must be given together"),
        ({"rank": 2, "world_size": 2}, "rank must be 0 to 1, got 2"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"shards_at_once": 0}, "shards_at_once must be at least 1, got 0"),
    ],
)
def test_a_callers_slip_names_the_argument(run: Layout, options: dict[str, Any], message: str) -> None:
    """What was wrong, what came, and what was wanted."""
    with pytest.raises(ValueError, match=message):
        load_samples(run.run, **options)


def test_the_documented_import_path_gives_the_loader(run: Layout) -> None:
    """`flows.store.read` is where the loader is looked for."""
    assert isinstance(load_samples(run.run), Loader)
