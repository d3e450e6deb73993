from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from augment import DEFAULT_FAMILIES
from flows.errors import BadRequest
from flows.make.remake import Remade, remake
from flows.runners import LocalRunner
from flows.store.layout import Layout
from flows.store.read import find_sample, read_sample
from tests.conftest import write_coco
from tests.flows.make.building import build_in, rows_of
from tests.flows.make.forging import Sample, flip, forge, with_member, with_record


@pytest.fixture(scope="module")
def every_family(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a run in which every family has kept and rejected samples."""
    families = ",".join(f"{family}=1" for family in DEFAULT_FAMILIES)
    return build_in(tiny_coco, tmp_path_factory.mktemp("families"), variants=4, families=families)


@pytest.fixture
def copy(every_family: Layout, tmp_path: Path) -> Layout:
    """Return a copy of that run, to be damaged."""
    shutil.copytree(every_family.run, tmp_path / "run")
    return Layout(tmp_path / "run")


def one_of_each(layout: Layout) -> dict[tuple[str, str], str]:
    """Return a key for every family and status that the run holds."""
    return {(row["family"], row["status"]): row["key"] for row in rows_of(layout)}


def test_samples_of_every_family_are_remade_to_the_same_bytes(every_family: Layout) -> None:
    """In a worker as `hcoco remake` does it, kept and rejected samples of every family come out byte by byte."""
    keys = one_of_each(every_family)
    assert {family for family, _ in keys} == set(DEFAULT_FAMILIES)
    assert {status for _, status in keys} == {"kept", "rejected"}
    with LocalRunner(1) as runner:
        for (family, status), key in keys.items():
            remade = runner.call(remake, every_family.run, key)
            assert remade.same, (family, status, remade.differing)


def test_what_is_remade_is_what_lies_in_the_tar(every_family: Layout) -> None:
    """The members that are given back are those of the run, the json member among them."""
    key = next(iter(one_of_each(every_family).values()))
    row = find_sample(every_family, key)
    stored = read_sample(every_family.run / row["tar"], offset=row["offset"], size=row["size"])
    assert remake(every_family.run, key) == Remade(key, stored.members, ())


@pytest.mark.parametrize("name", ["composite.jpg", "real.jpg", "mask.png"])
def test_other_bytes_are_noticed(copy: Layout, name: str) -> None:
    """A picture that is not what the recipe makes is named."""
    samples = forge(copy, "train-00000", kept=lambda samples: [_appended(samples[0], name), *samples[1:]])
    remade = remake(copy.run, samples[0][0])
    assert (remade.same, remade.differing) == (False, (name,))


def _appended(sample: Sample, name: str) -> Sample:
    return with_member(sample, name, sample[1][name] + b"\0")


def test_another_recipe_makes_other_bytes(copy: Layout) -> None:
    """The recipe of the sample decides: with a forged strength picture and record differ, and the real one does not."""

    def weaker(samples: list[Sample]) -> list[Sample]:
        return [with_record(sample, recipe={"strength": 0.31}, strength=0.31) for sample in samples]

    samples = forge(copy, "train-00000", kept=weaker)
    remade = remake(copy.run, samples[0][0])
    assert remade.differing == ("composite.jpg", "json")


def test_a_member_too_many_is_noticed(copy: Layout) -> None:
    """A member that no making gives is named."""
    samples = forge(
        copy, "train-00000", kept=lambda samples: [with_member(samples[0], "thumb.jpg", b"x"), *samples[1:]]
    )
    assert remake(copy.run, samples[0][0]).differing == ("thumb.jpg",)


def test_an_unknown_key_is_a_bad_request(every_family: Layout) -> None:
    """A key that the run does not hold is one line."""
    with pytest.raises(BadRequest, match="has no sample 'nobody'"):
        remake(every_family.run, "nobody")


@pytest.mark.parametrize("what", ["shard", "key"])
def test_an_index_of_another_plan_is_a_bad_request(copy: Layout, what: str) -> None:
    """A file of the index that names no shard of the plan, or a key that the plan does not have, is one line."""
    path = min(copy.index("any").parent.glob("*.parquet"))
    table = pq.read_table(path)
    keys = table["key"].to_pylist()
    if what == "shard":
        path.rename(path.with_name("train-99999.parquet"))
    else:
        keys[0] = f"{keys[0][:-2]}98"
        pq.write_table(table.set_column(table.schema.get_field_index("key"), "key", [keys]), path)
    with pytest.raises(BadRequest, match=r"has no .* where the index says that it is; run hcoco verify"):
        remake(copy.run, keys[0])


def test_a_damaged_tar_is_a_bad_request(copy: Layout) -> None:
    """A sample that cannot be read sends the user to `hcoco verify`."""
    row = find_sample(copy, one_of_each(copy)["mkl", "kept"])
    flip(copy.run / row["tar"], row["offset"] + 3)
    with pytest.raises(BadRequest, match=r"is damaged at .*; run hcoco verify"):
        remake(copy.run, row["key"])
    (copy.run / row["tar"]).unlink()
    with pytest.raises(BadRequest, match=r"is damaged at .*; run hcoco verify"):
        remake(copy.run, row["key"])


def _spoilt_source(tmp_path: Path) -> tuple[Path, Layout, dict[str, Any]]:
    source = tmp_path / "coco"
    write_coco(source, images=12)
    layout = build_in(source, tmp_path)
    return source, layout, rows_of(layout)[0]


def test_a_photograph_that_is_gone_is_a_bad_request(tmp_path: Path) -> None:
    """Without the photographs nothing can be made again; the line names their folder."""
    source, layout, row = _spoilt_source(tmp_path)
    (source / "tiny" / f"{row['reference_image_id']:012d}.jpg").unlink()
    with pytest.raises(BadRequest, match=r"a photograph of .* is gone or has changed since the plan; its folder was"):
        remake(layout.run, row["key"])


def test_an_unreadable_sample_is_remade_as_unreadable(tmp_path: Path) -> None:
    """A sample that was dropped since its photograph is gone is the same when made again."""
    source, layout, row = _spoilt_source(tmp_path)
    (source / "tiny" / f"{row['target_image_id']:012d}.jpg").unlink()
    for path in layout.run.rglob("*.*"):
        if path.parent.name in {"shards", "rejected", "index", "done"}:
            path.unlink()
    build_in(source, tmp_path)
    assert find_sample(layout, row["key"])["reason"] == "unreadable"
    assert remake(layout.run, row["key"]).same
