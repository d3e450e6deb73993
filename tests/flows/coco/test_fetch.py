"""Photographs from elsewhere: the samples of a folder, from any machine."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flows import objects
from flows.coco import fetch
from flows.coco.fetch import bring_photographs, folder_of
from flows.coco.sources import open_source
from flows.errors import BadRequest
from flows.make.plan import Planned, plan_run
from flows.make.remake import remake
from flows.settings import parse_settings
from flows.store.layout import Layout
from tests.conftest import write_coco
from tests.flows.make.building import build_in, differing, hashes, make_left, plan_in, rows_of

SMALL: Mapping[str, Any] = {"samples": 6, "shard_size": 4, "seed": 4}


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Return an address in this process's memory, with a cache of this test's own."""
    monkeypatch.setenv("HCOCO_CACHE", str(tmp_path / "cache"))
    return f"memory://{uuid.uuid4().hex}"


def put(folder: Path, address: str) -> None:
    """Put a folder into object storage."""
    for path in folder.rglob("*"):
        if path.is_file():
            objects.send(path, f"{address}/{path.relative_to(folder).as_posix()}")


def samples_of(layout: Layout) -> dict[str, str]:
    """Return the hashes of all tars and indices."""
    return {path: digest for path, digest in hashes(layout).items() if path != "manifest.json"}


def plan_from(source: str, output: Path, **more: Any) -> Planned:
    """Plan a run from an address."""
    fixed = {"run": "run", "gate": "off", "stages": "harmonization", **SMALL}
    return plan_run(parse_settings({"source": source, "output": str(output), **fixed, **more}))


@pytest.mark.parametrize("folder", ["tiny", "images/tiny", "images"])
def test_a_source_at_an_address_is_the_folder(folder: str, tiny_coco: Path, address: str, tmp_path: Path) -> None:
    """Wherever the layout has its photographs, the samples are those of the folder; only what is used is fetched."""
    put(tiny_coco / "annotations", f"{address}/annotations")
    put(tiny_coco / "tiny", f"{address}/{folder}")
    planned = plan_from(address, tmp_path / "far")
    far = make_left(planned).layout
    near = build_in(tiny_coco, tmp_path / "near", **SMALL)
    assert differing(samples_of(far), samples_of(near)) == []
    assert planned.plan.roots == {"tiny": f"{address}/{folder}"}
    fetched = list(folder_of(f"{address}/{folder}").iterdir())
    assert 0 < len(fetched) < 24


def test_a_photograph_that_is_not_there_is_unreadable(address: str, tmp_path: Path) -> None:
    """A missing photograph and one with a name that leaves the folder drop as they do in a folder."""
    instances = write_coco(tmp_path / "coco")
    (tmp_path / "coco" / "tiny" / "000000000003.jpg").unlink()
    instances["images"][4]["file_name"] = "../tiny/000000000005.jpg"
    (tmp_path / "coco" / "annotations" / "instances_tiny.json").write_text(json.dumps(instances))
    put(tmp_path / "coco", address)
    far = plan_from(address, tmp_path / "far", samples=None)
    near = plan_in(tmp_path / "coco", tmp_path / "near", **{**SMALL, "samples": None})
    assert far.plan.selection == near.plan.selection
    assert far.plan.selection["dropped_by_reason"]["unreadable"] == 4


def test_another_machine_fetches_what_it_needs(
    tiny_coco: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cache is empty, shards are made, and samples made again, from the address in the plan."""
    put(tiny_coco, address)
    planned = plan_from(address, tmp_path / "far")
    monkeypatch.setenv("HCOCO_CACHE", str(tmp_path / "other-cache"))
    layout = make_left(planned).layout
    assert differing(samples_of(layout), samples_of(build_in(tiny_coco, tmp_path / "near", **SMALL))) == []
    assert {row["reason"] for row in rows_of(layout)} & {"unreadable"} == set()
    monkeypatch.setenv("HCOCO_CACHE", str(tmp_path / "third-cache"))
    assert remake(layout.run, rows_of(layout)[0]["key"]).same


def test_a_storage_that_fails_is_no_missing_photograph(
    tiny_coco: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photograph that may exist ends the planning: a plan must not depend on the weather."""
    put(tiny_coco, address)

    def refused(_address: str) -> None:
        raise BadRequest("permission denied")

    monkeypatch.setattr(fetch, "look_up", refused)
    with pytest.raises(BadRequest, match="permission denied"):
        plan_from(address, tmp_path / "far")


def test_annotations_that_changed_are_fetched_anew(tiny_coco: Path, address: str) -> None:
    """Another annotation file at the same address is another source."""
    put(tiny_coco, address)
    before = open_source(address).digests
    instances = json.loads((tiny_coco / "annotations" / "instances_tiny.json").read_bytes())
    instances["annotations"].pop()
    objects.write(f"{address}/annotations/instances_tiny.json", json.dumps(instances).encode())
    assert open_source(address).digests != before


@pytest.mark.parametrize(
    ("lay_out", "why"),
    [
        ({"readme.txt": b"x"}, "has no annotations/instances_"),
        ({"annotations/instances_tiny.json": b"{}"}, "no folder of photographs named tiny"),
    ],
)
def test_what_is_no_source_is_told_in_a_line(lay_out: dict[str, bytes], why: str, address: str) -> None:
    """A bucket without annotations, or without photographs, says what is missing."""
    for path, data in lay_out.items():
        objects.write(f"{address}/{path}", data)
    with pytest.raises(BadRequest, match=why):
        open_source(address)


def test_images_beside_an_address_are_refused(address: str, tmp_path: Path) -> None:
    """An address says where its photographs are; a folder beside it is a mistake."""
    with pytest.raises(BadRequest, match="--images is for folders"):
        open_source(address, images=tmp_path)


def test_a_source_that_moved_is_found_again(tmp_path: Path) -> None:
    """A begun run goes on where the same source lies elsewhere now, and no sample is lost to it."""
    write_coco(tmp_path / "before")
    plan_in(tmp_path / "before", tmp_path / "out", **SMALL)
    (tmp_path / "before").rename(tmp_path / "after")
    layout = make_left(plan_in(tmp_path / "after", tmp_path / "out", **SMALL)).layout
    assert not [row for row in rows_of(layout) if row["reason"] == "unreadable"]


def test_a_folder_needs_nothing(tmp_path: Path) -> None:
    """The photographs of a folder are where they are."""
    assert folder_of(str(tmp_path)) == tmp_path
    bring_photographs(str(tmp_path), ["none.jpg"], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
