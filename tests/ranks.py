"""Read a run as one rank of a distributed training: a process of its own, joined to the others by gloo.

    python -m tests.ranks READER RUN RANK WORLD_SIZE MEETING_FILE

Prints the keys of two epochs as JSON. Environment variables are those that `torchrun` sets.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

EPOCHS = 2
WORKERS = 2


def same(samples: list[Any]) -> list[Any]:
    """Collate nothing; a function of the module, so that workers of any kind find it."""
    return samples


def shards_of(run: Path) -> list[str]:
    """Return the tars of the kept training samples."""
    return sorted(str(path) for path in (run / "shards").glob("train-*.tar"))


def read_with_ours(run: Path) -> Callable[[], Iterable[str]]:
    """Read with this project's loader: resized, in batches, shuffled."""
    import torch
    import torch.distributed as dist

    from flows.store.read import load_samples

    loader = load_samples(run, seed=3, batch_size=3, size=(32, 48), form="torch", workers=WORKERS)

    def epoch() -> Iterable[str]:
        for batch in loader:
            assert batch["composite"].shape[1:] == (3, 32, 48)
            yield from batch["__key__"]

    steps = torch.tensor([len(loader)])
    dist.all_reduce(steps)
    return epoch


def read_even(run: Path) -> Callable[[], Iterable[str]]:
    """Read as gradient averaging does: every step waits for all ranks, so all must make as many."""
    import torch
    import torch.distributed as dist

    from flows.store.read import load_samples

    loader = load_samples(run, seed=3, batch_size=3, drop_last=True, pictures=["mask"], workers=WORKERS)

    def epoch() -> Iterable[str]:
        for batch in loader:
            dist.all_reduce(torch.ones(1))
            yield from batch["__key__"]

    return epoch


def read_with_webdataset(run: Path) -> Callable[[], Iterable[str]]:
    """Read with plain `webdataset`."""
    import webdataset as wds
    from torch.utils.data import DataLoader

    shards = shards_of(run)
    data = wds.WebDataset(shards, shardshuffle=len(shards), seed=1, nodesplitter=wds.split_by_node).decode("rgb8")
    loader = DataLoader(data, batch_size=4, num_workers=WORKERS, collate_fn=same, multiprocessing_context="forkserver")
    return lambda: (sample["__key__"] for batch in loader for sample in batch)


def read_with_datasets(run: Path) -> Callable[[], Iterable[str]]:
    """Read with Hugging Face `datasets`, streaming."""
    from datasets import load_dataset
    from datasets.distributed import split_dataset_by_node
    from torch.utils.data import DataLoader

    data = load_dataset("webdataset", data_files={"train": shards_of(run)}, split="train", streaming=True)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    mine = split_dataset_by_node(data, rank=rank, world_size=world_size)
    loader = DataLoader(mine, batch_size=4, num_workers=WORKERS, collate_fn=same, multiprocessing_context="forkserver")

    def epoch() -> Iterable[str]:
        for batch in loader:
            for sample in batch:
                assert sample["json"]["key"] == sample["__key__"]
                assert sample["composite.jpg"].size == sample["mask.png"].size
                yield sample["__key__"]

    return epoch


READERS = {
    "ours": read_with_ours,
    "even": read_even,
    "webdataset": read_with_webdataset,
    "datasets": read_with_datasets,
}


def main(arguments: Sequence[str]) -> None:
    """Join the others and read."""
    reader, run, rank, world_size, meeting = arguments
    os.environ |= {"RANK": rank, "WORLD_SIZE": world_size}
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(world_size))
    epoch = READERS[reader](Path(run))
    keys = [list(epoch()) for _ in range(EPOCHS)]
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.write(json.dumps(keys))


if __name__ == "__main__":
    main(sys.argv[1:])
