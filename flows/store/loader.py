"""Load samples for training: decoded, in a seeded order, shared out among ranks and workers, from any point on.

The order of an epoch is one permutation of all samples, made from seed and epoch alone. Ranks, workers and batches
only cut it into pieces, so every sample comes once however many there are, and a position in it is two numbers. That
needs samples that can be read one by one, which is what `offset` and `size` in the index are for; for tars behind a
network, where only streaming pays, there is plain `webdataset`.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import webdataset as wds
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset.utils import pytorch_worker_info

from flows.decoding import decode_member
from flows.errors import BadRequest
from flows.objects import is_address
from flows.store.index import read_index
from flows.store.layout import Layout, open_run
from flows.store.manifest import read_places
from flows.store.read import Damaged, read_sample

Sample = dict[str, Any]
Form = Literal["numpy", "torch"]
Stage = Literal["harmonization", "fusion", "copypaste"]
Status = Literal["kept", "rejected"]

MEMBERS: Final[Mapping[str, Mapping[str, str]]] = {
    "harmonization": {"composite": "composite.jpg", "mask": "mask.png", "real": "real.jpg"},
    "fusion": {
        "foreground": "foreground.jpg",
        "background": "background.jpg",
        "composite": "composite.jpg",
        "mask": "mask.png",
        "alpha": "alpha.png",
    },
    "copypaste": {"composite": "composite.jpg", "mask": "mask.png", "real": "real.jpg", "source": "source.jpg"},
}
"""Pictures of a stage's samples, and the tar member that each is."""

GREY: Final = frozenset({"mask", "alpha"})
"""Pictures of one channel; all others are RGB."""


@dataclass(frozen=True)
class Places:
    """Where samples lie, in the order of shards and keys.

    Attributes:
        run: Folder of the run.
        tars: Paths below it.
        tar: int32 (N,), positions in `tars`.
        offset: int64 (N,), in bytes.
        size: int64 (N,), in bytes.
    """

    run: Path
    tars: tuple[str, ...]
    tar: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.tar)


def load_samples(
    run: Path | str,
    *,
    split: str = "train",
    stage: Stage = "harmonization",
    status: Status = "kept",
    where: pc.Expression | None = None,
    pictures: Sequence[str] | None = None,
    form: Form = "numpy",
    size: tuple[int, int] | None = None,
    transform: Callable[[Sample], Sample] | None = None,
    batch_size: int | None = None,
    drop_last: bool = False,
    seed: int | None = None,
    shards_at_once: int | None = None,
    workers: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
) -> Loader:
    """Open the samples of a finished run.

    A sample is a dict: `__key__`, the pictures by name, and `json`, its record. With "numpy", pictures are uint8
    (H, W, 3) sRGB RGB and masks uint8 (H, W), 0..255; with "torch", float32 (3, H, W) and (1, H, W), 0..1. A batch is
    the same dict of lists; where `size` makes all pictures equal, they are stacked along a first axis.

    Args:
        run: Folder of the run.
        split: `train`, `val` or `test`.
        stage: Whose samples.
        status: `rejected` gives what the gates dropped; photographs that could not be read have no pictures and never
            come.
        where: A condition on columns of the index, such as `pc.field("family") == "mkl"`.
        pictures: Names of those to decode; all of the stage where not given.
        form: NumPy arrays or torch tensors.
        size: (height, width) that all pictures are resized to, by area where they shrink, else linearly.
        transform: Called with each decoded sample before batches are cut; a function of a module, so that workers of
            any kind find it. What it draws of torch's, NumPy's or Python's own generators in a worker follows from
            `torch.manual_seed`, `seed`, the position at which the workers were started, rank and worker.
        batch_size: Samples of a batch, on each rank; single samples where not given.
        drop_last: Leave out the end of an epoch that does not give every rank a full batch. All ranks then make the
            same number of steps, as gradient averaging needs.
        seed: Shuffle by seed and epoch; the order of shards and keys where not given. The same numpy version gives the
            same order.
        shards_at_once: Shuffle the shards, and the samples within so many of them at a time; a slow disk's cache then
            holds what comes next. All samples at once where not given.
        workers: Processes that read and decode, started by `forkserver`; 0 does it in this process.
        rank: Of this process among `world_size`; where not given, as torch.distributed or the environment say.
        world_size: Number of processes that share the samples.

    Raises:
        BadRequest: There is no such run, it is unfinished, or it has no such sample.
        Damaged: A shard is missing or shorter than the index says.
    """
    if is_address(str(run)):
        raise BadRequest(f"{run} must lie on a disk for this; copy it down first: hcoco copy {run} FOLDER")
    layout = open_run(Path(run))
    names = _check_pictures(stage, pictures)
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank and world_size must be given together, got {rank} and {world_size}")
    if rank is None or world_size is None:
        rank, world_size = pytorch_worker_info()[:2]
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be 0 to {world_size - 1}, got {rank}")
    for name, number in (("batch_size", batch_size), ("shards_at_once", shards_at_once)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    places = find_places(layout, split=split, stage=stage, status=status, where=where)
    steps = _Steps(
        places,
        step=batch_size or 1,
        drop_last=drop_last,
        seed=seed,
        shards_at_once=shards_at_once,
        rank=rank,
        world_size=world_size,
    )
    stages: list[Any] = [wds.map(partial(_load, pictures=names, form=form, size=size))]
    if transform is not None:
        stages.append(wds.map(transform))
    if batch_size is not None:
        stages.append(wds.batched(batch_size, collation_fn=partial(_collate, stack=tuple(names) if size else ())))
    return Loader(steps, stages, workers=workers)


class Loader:
    """Samples or batches of a run: each loop over it is one epoch, or what is left of one.

    Leaving a loop and beginning another goes on where the first one stopped. Workers stay alive between epochs.

    Attributes:
        epoch: The epoch that the next sample belongs to, from 0.
        consumed: Samples of it that have been handed out, on all ranks together.
        pipeline: The `webdataset.DataPipeline` that is read.
    """

    def __init__(self, steps: _Steps, stages: Sequence[Any], *, workers: int) -> None:
        """Put the pipeline together; `load_samples` does this."""
        self.epoch, self.consumed = 0, 0
        self._steps = steps
        self.pipeline = wds.DataPipeline(steps, *stages)
        self._generator = torch.Generator()  # torch's own, of which each epoch would take a number, is the network's
        self._batches: DataLoader[Any] = DataLoader(
            self.pipeline,
            batch_size=None,
            collate_fn=_leave,
            num_workers=workers,
            multiprocessing_context="forkserver" if workers else None,
            persistent_workers=workers > 0,
            worker_init_fn=_use_one_thread,
            generator=self._generator,
        )
        weakref.finalize(self, _end_workers, self._batches)  # at exit too, while they can still be told

    def __iter__(self) -> Iterator[Any]:
        """Hand out the rest of the epoch, then move on to the next one."""
        self._steps.start(self.epoch, self.consumed)
        self._generator.manual_seed(self._steps.seed_of_workers(self.epoch, self.consumed))
        for batch in self._batches:
            self.consumed = min(self.consumed + self._steps.stride, self.samples)
            yield batch
        self.epoch, self.consumed = self.epoch + 1, 0

    def __len__(self) -> int:
        """Return how many samples or batches are left of this epoch on this rank."""
        return self._steps.count(self.consumed)

    @property
    def samples(self) -> int:
        """Return the number of samples, of all ranks together."""
        return len(self._steps.places)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the order of an epoch, of all ranks together: int64 (N,), numbers of samples, the same ones in each epoch."""
        steps = self._steps
        return epoch_order(steps.places, seed=steps.seed, epoch=epoch, shards_at_once=steps.shards_at_once)

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain numbers; the batch that was handed out last counts as done.

        It is the same on all ranks after the same step, and does not depend on the number of ranks or workers.
        """
        return {
            "epoch": self.epoch,
            "consumed": self.consumed,
            "samples": self._steps.digest,
            "seed": self._steps.seed,
            "shards_at_once": self._steps.shards_at_once,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a position, also with another batch size, and other numbers of ranks or workers.

        Raises:
            ValueError: The position is one in another order.
        """
        here = self.state_dict()
        for name in ("samples", "seed", "shards_at_once"):
            if state.get(name, "nothing") != here[name]:
                raise ValueError(f"state must be of the same {name}, {here[name]!r}, got {state.get(name)!r}")
        self.epoch, self.consumed = int(state["epoch"]), int(state["consumed"])


def find_places(
    layout: Layout, *, split: str, stage: Stage, status: Status, where: pc.Expression | None = None
) -> Places:
    """Look up in the index where samples lie; see `load_samples`."""
    chosen = (pc.field("stage") == stage) & (pc.field("status") == status) & (pc.field("split") == split)
    chosen &= pc.field("reason").is_null() | (pc.field("reason") != "unreadable")
    if where is not None:
        chosen &= where
    parts = [_read_index(layout.run / file["path"], chosen) for file in read_places(layout).get("index", ())]
    table = pa.concat_tables(part for part in parts if part.num_rows) if any(part.num_rows for part in parts) else None
    if table is None:
        fitting = "" if where is None else " for which `where` holds"
        raise BadRequest(f"{layout.run} has no {status} {stage} samples in split {split!r}{fitting}")
    tar = table["tar"].combine_chunks().dictionary_encode()
    places = Places(
        layout.run,
        tuple(tar.dictionary.to_pylist()),
        tar.indices.to_numpy().astype(np.int32),
        table["offset"].to_numpy(),
        table["size"].to_numpy(),
    )
    _check_tars(places)
    return places


def epoch_order(places: Places, *, seed: int | None, epoch: int, shards_at_once: int | None) -> NDArray[np.int64]:
    """Return the order of an epoch: int64 (N,), positions in `places`; see `load_samples`."""
    if seed is None:
        return np.arange(len(places))
    rng = np.random.default_rng([seed, epoch])
    if shards_at_once is None:
        return rng.permutation(len(places))
    turn = rng.permutation(len(places.tars))[places.tar] // shards_at_once
    return np.lexsort((rng.random(len(places)), turn))


class _Steps(IterableDataset[tuple[Path, int, int]]):
    """Yield where the samples of this rank and worker lie.

    A step is a batch on each rank: `stride` samples of the order, of which rank r takes each `world_size`-th from r on.
    Workers take steps in turn, which is the order in which a `DataLoader` asks them for batches.
    """

    def __init__(
        self,
        places: Places,
        *,
        step: int,
        drop_last: bool,
        seed: int | None,
        shards_at_once: int | None,
        rank: int,
        world_size: int,
    ) -> None:
        self.places, self.stride, self.drop_last = places, step * world_size, drop_last
        self.seed, self.shards_at_once = seed, shards_at_once
        self.rank, self.world_size = rank, world_size
        self.digest = _digest(places)
        self._start = torch.zeros(2, dtype=torch.int64)
        self._start.share_memory_()  # type: ignore[no-untyped-call] # workers that stay alive read it anew

    def start(self, epoch: int, consumed: int) -> None:
        """Tell this process and its workers where the next iteration begins."""
        self._start[:] = torch.tensor([epoch, consumed])

    def seed_of_workers(self, epoch: int, consumed: int) -> int:
        """Return what the generators of the workers follow from, for transforms that draw; another on each rank."""
        words = [torch.initial_seed() % 2**64, self.seed or 0, epoch, consumed, self.rank]
        return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)

    def count(self, consumed: int) -> int:
        """Return how many steps are left on this rank after `consumed` samples of all ranks."""
        left = len(self.places) - consumed
        full, rest = divmod(left, self.stride)
        return full if self.drop_last else full + (rest > self.rank)

    def __iter__(self) -> Iterator[tuple[Path, int, int]]:
        epoch, consumed = self._start.tolist()
        places = self.places
        order = epoch_order(places, seed=self.seed, epoch=epoch, shards_at_once=self.shards_at_once)[consumed:]
        end = len(order) // self.stride * self.stride if self.drop_last else len(order)
        worker = get_worker_info()
        first, every = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for begin in range(first * self.stride, end, every * self.stride):
            for place in order[begin : begin + self.stride][self.rank :: self.world_size].tolist():
                tar = places.run / places.tars[places.tar[place]]
                yield tar, int(places.offset[place]), int(places.size[place])


def _digest(places: Places) -> str:
    """Return what differs between two choices of samples, or two states of a run."""
    digest = hashlib.sha256("\n".join(places.tars).encode())
    for column in (places.tar, places.offset, places.size):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()[:16]


def _load(
    place: tuple[Path, int, int], *, pictures: Mapping[str, str], form: Form, size: tuple[int, int] | None
) -> Sample:
    """Read and decode the sample at a place: tar, offset, size."""
    stored = read_sample(place[0], offset=place[1], size=place[2])
    sample: Sample = {"__key__": stored.key}
    for name, member in pictures.items():
        try:
            picture = decode_picture(stored.members[member], grey=name in GREY)
        except (KeyError, ValueError):
            raise Damaged(f"{place[0].name}: {stored.key}.{member} is no picture") from None
        if size is not None:
            picture = _resize(picture, size)
        sample[name] = picture if form == "numpy" else _to_tensor(picture)
    sample["json"] = stored.record
    return sample


def decode_picture(content: bytes, *, grey: bool) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG: uint8 (H, W) where `grey`, else (H, W, 3) sRGB RGB.

    Raises:
        ValueError: It is none.
    """
    flags = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB
    picture = decode_member(content, flags)
    if picture is None:
        raise ValueError(f"content must be a JPEG or PNG, got {len(content)} bytes that are none")
    return picture


def _resize(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    shrinks = height <= picture.shape[0] and width <= picture.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, dsize=(width, height), interpolation=interpolation), dtype=np.uint8)


def _to_tensor(picture: NDArray[np.uint8]) -> torch.Tensor:
    """Return float32 (C, H, W), 0..1; by NumPy, since torch's threads cost more than they bring on one picture."""
    planes = picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)
    return torch.from_numpy(np.divide(planes, np.float32(255), dtype=np.float32, order="C"))


def _collate(samples: Sequence[Sample], *, stack: Sequence[str]) -> Sample:
    """Turn samples into one dict of lists; stack the pictures named in `stack`."""
    batch: Sample = {name: [sample[name] for sample in samples] for name in samples[0]}
    for name in stack:
        batch[name] = np.stack(batch[name]) if isinstance(batch[name][0], np.ndarray) else torch.stack(batch[name])
    return batch


def _check_pictures(stage: str, pictures: Sequence[str] | None) -> dict[str, str]:
    """Return the tar member of each picture that is asked for."""
    if stage not in MEMBERS:
        raise ValueError(f"stage must be one of {', '.join(MEMBERS)}, got {stage!r}")
    known = MEMBERS[stage]
    for name in pictures or ():
        if name not in known:
            raise ValueError(f"pictures must be among {', '.join(known)}, got {name!r}")
    return {name: member for name, member in known.items() if pictures is None or name in pictures}


def _read_index(path: Path, chosen: pc.Expression) -> pa.Table:
    try:
        return read_index(path, columns=["tar", "offset", "size"], filters=chosen)
    except (OSError, pa.ArrowException) as error:
        message = str(error).splitlines()[0]
        raise BadRequest(f"{path} cannot be read so ({message}); look at `where`, or run hcoco verify") from None


def _check_tars(places: Places) -> None:
    """Tell of a tar that is missing or too short now, not in the middle of an epoch."""
    ends = places.offset + places.size
    for number, tar in enumerate(places.tars):
        path = places.run / tar
        if not path.is_file():
            raise Damaged(f"{tar} is missing")
        if path.stat().st_size < ends[places.tar == number].max():
            raise Damaged(f"{tar} is cut short")


def _leave(batch: Any) -> Any:
    """Stand in for the `DataLoader`'s own conversion, which would make tensors of arrays."""
    return batch


def _end_workers(batches: DataLoader[Any]) -> None:
    batches._iterator = None  # noqa: SLF001 - a DataLoader has no other way to end workers that stay alive


def _use_one_thread(_worker: int) -> None:
    """Let processes share the cores instead of threads of each."""
    cv2.setNumThreads(1)
