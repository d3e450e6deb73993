from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from flows.cli import main
from flows.errors import BadRequest
from flows.make.export import LOCK, STATE, Exported, export_run, iharmony4_name
from flows.store.layout import Layout
from flows.store.lock import holding
from flows.store.read import Damaged, read_sample
from tests.flows.make.building import build_in, rows_of


@pytest.fixture(scope="module")
def run(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a run in which photographs stand in several samples; do not write into it."""
    return build_in(tiny_coco, tmp_path_factory.mktemp("export"), variants=2)


@pytest.fixture(scope="module")
def iharmony4(run: Layout, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return an export as iHarmony4; do not write into it."""
    return export_run(run, tmp_path_factory.mktemp("iharmony4") / "set", form="iharmony4")


@pytest.fixture
def changeable(run: Layout, tmp_path: Path) -> Layout:
    """Return a copy of the run that a test may change."""
    shutil.copytree(run.run, tmp_path / "changeable")
    return Layout(tmp_path / "changeable")


def kept(run: Layout, split: str | None = None) -> dict[str, dict[str, bytes]]:
    """Return the members of the kept samples by key."""
    return {
        row["key"]: read_sample(run.run / row["tar"], offset=row["offset"], size=row["size"]).members
        for row in rows_of(run)
        if row["status"] == "kept" and split in (None, row["split"])
    }


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decoded(content: bytes) -> np.ndarray[Any, Any]:
    """Return the pixels of a picture."""
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return np.asarray(picture)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_client_that_loads_as_dovenet_finds_every_sample(run: Layout, iharmony4: Exported, split: str) -> None:
    """As DoveNet: IHD lists below a root that ends in a slash, names cut at `_`, folders by replacing a word."""
    root = f"{iharmony4.folder}/"
    found = []
    for line in Path(f"{root}IHD_{split}.txt").read_text().splitlines():
        path = os.path.join(root, line.rstrip())  # noqa: PTH118 - as the client does it
        *_, mask_number, number = path.split("_")
        mask = path.replace("composite_images", "masks").replace(f"_{number}", ".png")
        real = path.replace("composite_images", "real_images").replace(f"_{mask_number}_{number}", ".jpg")
        pictures = [Image.open(path).convert("RGB"), Image.open(real).convert("RGB"), Image.open(mask).convert("1")]
        assert len({picture.size for picture in pictures}) == 1
        found.append(tuple(Path(each).read_bytes() for each in (path, mask, real)))
    expected = [
        tuple(each[name] for name in ("composite.jpg", "mask.png", "real.jpg")) for each in kept(run, split).values()
    ]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_client_that_loads_as_issam_finds_every_sample(run: Layout, iharmony4: Exported, split: str) -> None:
    """As iSSAM: the one list of the set's folder that ends in the split, bare names, the photograph up to `_`."""
    folder = iharmony4.folder / "HCOCO"
    (names,) = [path for path in folder.glob("*.txt") if path.stem.endswith(split)]
    samples = {}
    for name in names.read_text().split():
        parts = name.split("_")
        composite = cv2.imread(str(folder / "composite_images" / name))
        real = cv2.imread(str(folder / "real_images" / f"{parts[0]}.jpg"))
        mask = cv2.imread(str(folder / "masks" / f"{'_'.join(parts[:-1])}.png"))[:, :, 0].astype(np.float32) / 255
        assert composite.shape == real.shape == (*mask.shape, 3)
        assert not (composite != real)[mask == 0].any() or (mask > 0).any()
        samples[name] = (composite, real, mask)
    expected = {iharmony4_name(key): members for key, members in kept(run, split).items()}
    assert samples.keys() == expected.keys()
    for name, (composite, real, mask) in samples.items():
        assert np.array_equal(composite, decoded(expected[name]["composite.jpg"]))
        assert np.array_equal(real, decoded(expected[name]["real.jpg"]))
        assert np.array_equal(np.round(mask * 255), decoded(expected[name]["mask.png"]))


def test_a_photograph_is_one_file_however_many_edits_it_has(run: Layout, iharmony4: Exported) -> None:
    """iHarmony4's folders hold a composite and a mask a sample, and a photograph once."""
    folder = iharmony4.folder / "HCOCO"
    photographs = {row["target_image_id"] for row in rows_of(run) if row["status"] == "kept"}
    assert len(photographs) < len(kept(run))
    count = {name: len(list((folder / name).iterdir())) for name in ("composite_images", "masks", "real_images")}
    assert count == {"composite_images": len(kept(run)), "masks": len(kept(run)), "real_images": len(photographs)}
    assert {int(path.stem[1:]) for path in (folder / "real_images").iterdir()} == photographs


def test_counts_are_those_of_the_manifest_and_of_the_disk(run: Layout, iharmony4: Exported) -> None:
    """What an export reports is what lies there, and what the run holds."""
    assert sum(iharmony4.samples.values()) == json.loads(run.manifest.read_bytes())["counts"]["kept"]
    pictures = [path for path in iharmony4.folder.rglob("*") if path.suffix in (".jpg", ".png")]
    assert iharmony4.files == iharmony4.written == len(pictures)
    others = {path.name for path in iharmony4.folder.rglob("*") if path.is_file()} - {path.name for path in pictures}
    splits = ("train", "val", "test")
    assert others == {STATE, *(f"{name}_{split}.txt" for name in ("IHD", "HCOCO") for split in splits)}


def test_pairs_have_one_name_and_the_bytes_of_the_tars(run: Layout, tmp_path: Path) -> None:
    """In `folder`, A, B and mask of a sample are found under its key, by split."""
    export_run(run, tmp_path / "pairs", form="folder")
    files = tree(tmp_path / "pairs")
    del files[STATE]
    expected = {}
    for split in ("train", "val", "test"):
        for key, members in kept(run, split).items():
            expected[f"A/{split}/{key}.jpg"] = members["composite.jpg"]
            expected[f"B/{split}/{key}.jpg"] = members["real.jpg"]
            expected[f"mask/{split}/{key}.png"] = members["mask.png"]
    assert files == expected


def test_a_photograph_of_several_pairs_is_linked(run: Layout, tmp_path: Path) -> None:
    """Files of the same photograph are one file on the disk, and are counted; with copies, none is."""
    linked = export_run(run, tmp_path / "linked", form="folder")
    copied = export_run(run, tmp_path / "copied", form="folder", link=False)
    photographs = {row["target_image_id"] for row in rows_of(run) if row["status"] == "kept"}
    assert linked.linked == len(kept(run)) - len(photographs) > 0
    assert copied.linked == 0
    assert linked.files == copied.files == 3 * len(kept(run))
    inodes = [
        {path.stat().st_ino for path in (folder / "B").rglob("*.jpg")} for folder in (linked.folder, copied.folder)
    ]
    assert [len(each) for each in inodes] == [len(photographs), len(kept(run))]
    assert tree(linked.folder) == tree(copied.folder)


def test_where_the_disk_cannot_link_files_are_copied(
    run: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without hard links gets copies, and the count says so."""

    def refuse(path: Path, _target: Path) -> None:
        raise OSError(errno.EPERM, "no links here", str(path))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    exported = export_run(run, tmp_path / "pairs", form="folder")
    assert (exported.linked, exported.files) == (0, 3 * len(kept(run)))


def test_only_the_chosen_splits_are_exported(run: Layout, tmp_path: Path) -> None:
    """A split that was not asked for has neither files nor list; one without samples has an empty list."""
    exported = export_run(run, tmp_path / "set", form="iharmony4", splits=("val",), name="People")
    assert exported.samples == {"val": len(kept(run, "val"))}
    assert {path.name for path in (tmp_path / "set").rglob("*.txt")} == {"IHD_val.txt", "People_val.txt"}
    line = (tmp_path / "set" / "IHD_val.txt").read_text().splitlines()[0]
    assert line.startswith("People/composite_images/c")


def test_binary_masks_are_inside_or_not(run: Layout, tmp_path: Path) -> None:
    """With binary masks, a pixel is 255 where the alpha is over 127, else 0; pictures stay as they are."""
    export_run(run, tmp_path / "set", form="folder", masks="binary")
    for split in ("train", "val", "test"):
        for key, members in kept(run, split).items():
            mask = decoded((tmp_path / "set" / "mask" / split / f"{key}.png").read_bytes())
            assert np.array_equal(mask, np.where(decoded(members["mask.png"]) > 127, 255, 0))
            assert (tmp_path / "set" / "A" / split / f"{key}.jpg").read_bytes() == members["composite.jpg"]


def test_twice_is_once(run: Layout, tmp_path: Path) -> None:
    """A whole export is left as it is by the same command; a picture that was lost meanwhile comes back."""
    first = export_run(run, tmp_path / "set", form="folder")
    before = tree(first.folder)
    again = export_run(run, tmp_path / "set", form="folder")
    assert (again.written, again.files, again.samples) == (0, first.files, first.samples)
    next((tmp_path / "set" / "A" / "train").iterdir()).unlink()
    assert export_run(run, tmp_path / "set", form="folder").written == 1
    assert tree(first.folder) == before


class Stop(Exception):  # noqa: N818 - what a user does, no error
    """The user presses Ctrl-C."""


def stop_at(samples: int) -> Callable[[str, int, int], None]:
    """Return a watch that stops the export after some samples."""

    def watch(_what: str, done: int, _total: int) -> None:
        if done == samples:
            raise Stop

    return watch


@pytest.mark.parametrize("form", ["iharmony4", "folder"])
def test_a_stopped_export_does_not_look_whole_and_is_continued(run: Layout, tmp_path: Path, form: str) -> None:
    """Until the end there is only FOLDER.unfinished; the same command goes on there, to the same files."""
    with pytest.raises(Stop):
        export_run(run, tmp_path / "set", form=form, watch=stop_at(9))
    assert not (tmp_path / "set").exists()
    begun = [path for path in (tmp_path / "set.unfinished").rglob("*") if path.suffix in (".jpg", ".png")]
    mask = next(path for path in begun if path.suffix == ".png")
    mask.write_bytes(mask.read_bytes()[:10])  # a power cut may leave less than was written
    (mask.parent / ".half.png.tmp").write_bytes(b"half")
    continued = export_run(run, tmp_path / "set", form=form)
    assert not (tmp_path / "set.unfinished").exists()
    assert continued.written == continued.files - len(begun) + 1
    export_run(run, tmp_path / "direct", form=form)
    assert tree(tmp_path / "set") == tree(tmp_path / "direct")


def test_a_full_disk_leaves_nothing_that_looks_whole(
    run: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the disk is full in the middle, the command says so in a line, and the same command goes on later."""
    write, room = Path.write_bytes, [20]

    def write_if_room(path: Path, data: bytes) -> int:
        room[0] -= 1
        if room[0] < 0:
            write(path, data[:100])
            raise OSError(errno.ENOSPC, "no space left", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_if_room)
    command = ["export", str(run.run), str(tmp_path / "set"), "--format", "iharmony4"]
    assert main(command) == 2
    assert "the disk is full; free some space and run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
    monkeypatch.undo()
    assert main(command) == 0
    export_run(run, tmp_path / "direct", form="iharmony4")
    assert tree(tmp_path / "set") == tree(tmp_path / "direct")


def test_a_folder_that_holds_something_else_is_refused(run: Layout, tmp_path: Path) -> None:
    """Nothing is written beside files of others, and a file is no folder."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "begun.unfinished").mkdir()
    (tmp_path / "begun.unfinished" / "thesis.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(BadRequest, match="full is not empty, and no export of this run"):
        export_run(run, tmp_path / "full", form="folder")
    with pytest.raises(BadRequest, match="file is no folder"):
        export_run(run, tmp_path / "file", form="folder")
    with pytest.raises(BadRequest, match=r"begun\.unfinished was begun with another run"):
        export_run(run, tmp_path / "begun", form="folder")
    assert tree(tmp_path) == before


def test_an_empty_folder_is_taken(run: Layout, tmp_path: Path) -> None:
    """A folder that was made for the export is filled."""
    (tmp_path / "set").mkdir()
    assert export_run(run, tmp_path / "set", form="folder").files == 3 * len(kept(run))


def test_an_export_of_something_else_is_not_continued(run: Layout, tmp_path: Path) -> None:
    """Other options, finished or not, are another export."""
    export_run(run, tmp_path / "set", form="folder")
    with pytest.raises(BadRequest, match="no export of this run as it is now with these options"):
        export_run(run, tmp_path / "set", form="folder", masks="binary")
    with pytest.raises(Stop):
        export_run(run, tmp_path / "begun", form="folder", watch=stop_at(3))
    with pytest.raises(BadRequest, match="was begun with another run or other options"):
        export_run(run, tmp_path / "begun", form="iharmony4")


def test_a_strange_picture_in_the_folder_is_found(run: Layout, tmp_path: Path) -> None:
    """A picture that was put among those of an unfinished export does not become part of it."""
    with pytest.raises(Stop):
        export_run(run, tmp_path / "set", form="folder", watch=stop_at(9))
    (tmp_path / "set.unfinished" / "A" / "train" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(BadRequest, match=r"cat\.jpg is not of this export"):
        export_run(run, tmp_path / "set", form="folder")
    assert not (tmp_path / "set").exists()


def test_two_exports_at_once_into_one_folder_are_refused(run: Layout, tmp_path: Path) -> None:
    """The second one says who is at work."""
    with (
        holding(tmp_path / "set.unfinished" / LOCK, busy="never"),
        pytest.raises(BadRequest, match=r"another export into .* is at work"),
    ):
        export_run(run, tmp_path / "set", form="folder")


@pytest.mark.parametrize("harm", ["missing", "flipped", "short"])
def test_a_damaged_shard_ends_the_export(changeable: Layout, tmp_path: Path, harm: str) -> None:
    """A shard that is not what the manifest says is named, and nothing looks whole."""
    tar = sorted((changeable.run / "shards").glob("train-*.tar"))[1]
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    if harm == "missing":
        tar.unlink()
    else:
        tar.write_bytes(data if harm == "flipped" else data[:-1024])
    with pytest.raises(Damaged, match=f"shards/{tar.name} is missing or differs from its hash"):
        export_run(changeable, tmp_path / "set", form="folder")
    assert not (tmp_path / "set").exists()
    assert main(["export", str(changeable.run), str(tmp_path / "set"), "--format", "folder"]) == 1


def test_a_run_that_changes_meanwhile_is_told(changeable: Layout, tmp_path: Path) -> None:
    """A run whose shards are built anew during an export is no damage, and no mixture comes out."""

    def change(_what: str, done: int, _total: int) -> None:
        if done == 3:
            for tar in (changeable.run / "shards").glob("*.tar"):
                tar.unlink()  # as by a rename: who has it open reads on
                tar.write_bytes(bytes(1024))
            changeable.manifest.write_bytes(changeable.manifest.read_bytes() + b"\n")

    with pytest.raises(BadRequest, match="was changed during the export"):
        export_run(changeable, tmp_path / "set", form="folder", watch=change)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "zip"}, "there is no format 'zip'; known are iharmony4, folder"),
        ({"splits": ("dev",)}, "there is no split 'dev'; known are train, val, test"),
        ({"name": "my_set"}, "the name 'my_set' must be ASCII letters and digits"),
        ({"name": "../up"}, "the name '../up' must be ASCII letters and digits"),
    ],
)
def test_a_slip_is_told_in_a_line(run: Layout, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """What is wrong, and what there is."""
    with pytest.raises(BadRequest, match=message):
        export_run(run, tmp_path / "set", **{"form": "iharmony4", **options})
    assert not list(tmp_path.iterdir())


def test_a_run_without_kept_samples_is_told(changeable: Layout, tmp_path: Path) -> None:
    """An export of nothing is no export."""
    manifest = json.loads(changeable.manifest.read_bytes())
    manifest["shards"] = [entry for entry in manifest["shards"] if entry["path"].startswith("rejected/")]
    changeable.manifest.write_text(json.dumps(manifest))
    with pytest.raises(BadRequest, match="has no kept harmonization samples in train, val, test: nothing to export"):
        export_run(changeable, tmp_path / "set", form="folder")


def test_an_unfinished_run_is_told(changeable: Layout, tmp_path: Path) -> None:
    """An unfinished run is not exported in part."""
    changeable.manifest.unlink()
    with pytest.raises(BadRequest, match="is not finished"):
        export_run(changeable, tmp_path / "set", form="folder")


def test_the_command_prints_exact_counts(run: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`hcoco export` says what it wrote, for people and as JSON."""
    command = ["export", str(run.run), str(tmp_path / "set"), "--format", "folder", "--split", "train,val"]
    count = {split: len(kept(run, split)) for split in ("train", "val")}
    assert main(command) == 0
    out = capsys.readouterr().out
    assert (
        f"{sum(count.values())} samples ({count['train']} train, {count['val']} val) in {3 * sum(count.values())} pictures"
        in out
    )
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["samples"], told["files"], told["written"]) == (count, 3 * sum(count.values()), 0)
