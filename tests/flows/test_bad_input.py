"""Bad input through the command line: a reason for a bad sample, one line and exit code 2 for a bad request."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import flows.runners
import flows.store.layout
import flows.view.report
from flows.cli import BAD_REQUEST, DAMAGE, DONE, main
from tests.flows.here import Here
from tests.flows.make.forging import flip
from tests.flows.make.gating import save_untrained

Instances = dict[str, Any]

FEW = (1, 2, 3, 4, 5, 6, 7, 8, 12)
"""Photographs of the tiny folder for most tests: seven of the split `train` and two of `val`."""
PEOPLE = 2 * len(FEW)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(flows.runners, "open_runner", lambda _: Here())
    monkeypatch.setattr(flows.runners, "LocalRunner", lambda _: Here())
    monkeypatch.setattr(flows.view.report, "write_report", lambda layout: layout.report)  # drawn in tests of its own
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power will fail here, and disks take their time over it
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def coco(tiny_coco: Path, tmp_path: Path) -> Path:
    """Return a COCO folder of nine photographs that a test may spoil."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "tiny").mkdir()
    instances = json.loads((tiny_coco / "annotations" / "instances_tiny.json").read_text())
    for part, name in (("images", "id"), ("annotations", "image_id")):
        instances[part] = [record for record in instances[part] if record[name] in FEW]
    (folder / "annotations" / "instances_tiny.json").write_text(json.dumps(instances))
    for image in instances["images"]:
        shutil.copy(tiny_coco / "tiny" / image["file_name"], folder / "tiny")
    return folder


@pytest.fixture
def spoil(coco: Path) -> Callable[[Callable[[Instances], object]], Path]:
    """Return a function that changes the annotations of the folder, and returns the folder."""

    def change(how: Callable[[Instances], object]) -> Path:
        file = coco / "annotations" / "instances_tiny.json"
        instances = json.loads(file.read_text())
        how(instances)
        file.write_text(json.dumps(instances))
        return coco

    return change


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command which must be refused, and returns its one line."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main(_plainest(arguments)) == BAD_REQUEST
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert error.startswith(f"hcoco {arguments[0]}: "), error
        assert "Traceback" not in error
        return error.strip()

    return run


@pytest.fixture
def built(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Return a function that builds a run, which must succeed, and returns its manifest."""

    def run(source: Path, *options: object) -> dict[str, Any]:
        capsys.readouterr()
        arguments = _plainest(["build", "--json", "--source", source, *options])
        assert main(arguments) == DONE, capsys.readouterr().err
        folder = Path(json.loads(capsys.readouterr().out)["run"])
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        counts, selection = manifest["counts"], manifest["selection"]
        assert counts["planned"] == counts["kept"] + counts["rejected"]
        dropped = sum(selection["dropped_by_reason"].values())
        assert selection["people"] == selection["subjects"] + dropped + selection["unvisited"]
        return manifest

    return run


def _plainest(arguments: Iterable[object]) -> list[str]:
    """Return a command line, of edits without a gate where it builds and asks for none: most tests are about these."""
    words = [str(argument) for argument in arguments]
    if words[0] not in {"build", "fetch"}:
        return words
    for name, value in (("--gate", "off"), ("--stages", "harmonization")):
        if not any(word.startswith(name) for word in words):
            words += [name, value]
    return words


def contents(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder but the lock."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def bytes_that_count(folder: Path) -> dict[str, str]:
    """Return the sha256 of shards and index."""
    return {
        path: digest for path, digest in contents(folder).items() if path.startswith(("shards", "rejected", "index"))
    }


# sources


def test_a_missing_folder(refused: Callable[..., str]) -> None:
    """The line says what a source may be."""
    assert "does not exist; give `sample`, a folder in COCO's layout" in refused("build", "--source", "nowhere")


def test_an_empty_folder(refused: Callable[..., str], tmp_path: Path) -> None:
    """The line names what is looked for."""
    (tmp_path / "empty").mkdir()
    assert "has no annotations/instances_*.json" in refused("build", "--source", "empty")


def test_a_file_for_a_folder(refused: Callable[..., str], tmp_path: Path) -> None:
    """A picture is no source."""
    (tmp_path / "x.jpg").touch()
    assert "is a file, not a folder" in refused("build", "--source", "x.jpg")


def test_a_folder_without_photographs(refused: Callable[..., str], coco: Path) -> None:
    """The line names the folder that is missing."""
    shutil.rmtree(coco / "tiny")
    assert "no folder of photographs named tiny" in refused("build", "--source", coco)


def test_a_folder_whose_name_holds_a_line_break(refused: Callable[..., str], tmp_path: Path) -> None:
    """The line stays one line."""
    (tmp_path / "two\nlines").mkdir()
    assert "two lines" in refused("build", "--source", "two\nlines")


def test_an_unknown_home_folder(refused: Callable[..., str]) -> None:
    """A tilde with nobody's name is a bad request like others."""
    assert "source" in refused("build", "--source", "~nobody-of-this-name/coco")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not json", "is not JSON"),
        (b'{"images": [', "is not JSON"),
        (b"\xff\xd8\xff\xe0", "is not JSON"),
        (b"[" * 100_000, "not"),
        (b"[1, 2]", "not a COCO instances file"),
        (b'{"images": []}', "not a COCO instances file"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}', "no category named 'person'"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}', "no pair of people"),
    ],
)
def test_an_annotation_file_that_is_none(refused: Callable[..., str], coco: Path, content: bytes, message: str) -> None:
    """Not JSON, not COCO, without people: each has its words, and no run is begun."""
    (coco / "annotations" / "instances_tiny.json").write_bytes(content)
    assert message in refused("build", "--source", coco, "--output", "out")
    assert not list(Path("out").glob("*/plan.json"))


def test_a_missing_annotation_file(refused: Callable[..., str], coco: Path) -> None:
    """The option that names it is no excuse for a traceback."""
    line = refused("build", "--images", coco / "tiny", "--annotations", "nowhere.json")
    assert "cannot read the annotation file" in line


def test_nobody_fits(refused: Callable[..., str], coco: Path) -> None:
    """The line counts the reasons and says what to loosen."""
    line = refused("build", "--source", coco, "--min-person-share", 1)
    assert f"dropped: not_person_heavy {PEOPLE}" in line
    assert "--min-person-share" in line
    assert f"license {PEOPLE}" in refused("build", "--source", coco, "--licenses", 3)


# settings


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("samples", "0"), ("samples", "many"), ("variants", "1000"), ("min-person-share", "nan"), ("seed", "-1")),
        *(("families", "mkl=x"), ("families", "dove=1"), ("families", ""), ("licenses", "a"), ("max-side", "1")),
        *(("run", "../elsewhere"), ("run", ""), ("workers", "0"), ("runner", "dask"), ("device", "tpu")),
        *(("stages", "nothing"), ("shard-size", "0"), ("source", "")),
    ],
)
def test_settings_that_do_not_fit(refused: Callable[..., str], option: str, value: str) -> None:
    """Each is refused by its name before anything is read."""
    assert option.replace("-", "_") in refused("build", f"--{option}={value}")


def test_a_list_of_excluded_ids_that_is_none(refused: Callable[..., str], coco: Path, tmp_path: Path) -> None:
    """A missing list, and a line without an id, must not pass for an empty list."""
    assert "cannot read the list" in refused("build", "--source", coco, "--exclude-ids", "nowhere.txt")
    (tmp_path / "ids.txt").write_text("1\ndog\n")
    assert "line 2: 'dog' holds no image id" in refused("build", "--source", coco, "--exclude-ids", "ids.txt")


# photographs


def _encoded(picture: np.ndarray[Any, Any], kind: str = ".jpg") -> bytes:
    return bytes(cv2.imencode(kind, picture)[1].tobytes())


def _as_pillow(photograph: bytes, mode: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(photograph)).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def _turned(photograph: bytes) -> bytes:
    """Store a photograph on its side, with the EXIF tag that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.open(io.BytesIO(photograph)).transpose(Image.Transpose.ROTATE_90).save(out, "JPEG", exif=exif)
    return out.getvalue()


DROPPED_FILES: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "missing": (lambda _: None, "unreadable"),
    "truncated": (lambda photograph: photograph[: len(photograph) // 2], "unreadable"),
    "zero bytes": (lambda _: b"", "unreadable"),
    "not an image": (lambda _: b"<html>404</html>", "unreadable"),
    "greyscale": (lambda photograph: _as_pillow(photograph, "L"), "greyscale"),
    "another size": (lambda _: _encoded(np.full((50, 70, 3), (10, 200, 30), dtype=np.uint8)), "size_mismatch"),
    "16-bit grey": (
        lambda _: _encoded(np.full((120, 160), 30_000, dtype=np.uint16), ".png"),
        "greyscale",
    ),
}


@pytest.mark.parametrize(("change", "reason"), DROPPED_FILES.values(), ids=DROPPED_FILES.keys())
def test_a_photograph_that_cannot_be_used_is_counted(
    built: Callable[..., dict[str, Any]], coco: Path, change: Callable[[bytes], bytes | None], reason: str
) -> None:
    """Its two people are dropped by the right reason, and the rest of the folder is made into triplets."""
    file = coco / "tiny" / f"{5:012d}.jpg"
    content = change(file.read_bytes())
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    manifest = built(coco)
    assert manifest["selection"]["dropped_by_reason"] == {reason: 2}
    assert manifest["selection"]["subjects"] == PEOPLE - 2
    assert manifest["counts"]["kept"] > 0


USABLE_FILES: dict[str, Callable[[bytes], bytes]] = {
    "CMYK": lambda photograph: _as_pillow(photograph, "CMYK", quality=95),
    "16-bit": lambda photograph: _encoded(
        np.asarray(Image.open(io.BytesIO(photograph)))[..., ::-1].astype(np.uint16) * 257, ".png"
    ),
    "on its side": _turned,
    "with metadata that is broken": lambda photograph: (
        photograph[:2] + b"\xff\xe1\x00\x10Exif\x00\x00MM\xff\xff\xff\xff\xff\xff" + photograph[2:]
    ),
}


@pytest.mark.parametrize("change", USABLE_FILES.values(), ids=USABLE_FILES.keys())
def test_a_photograph_of_another_kind_is_used(
    built: Callable[..., dict[str, Any]], coco: Path, change: Callable[[bytes], bytes]
) -> None:
    """CMYK, 16 bits and a rotation in EXIF are no reason to drop anybody."""
    file = coco / "tiny" / f"{5:012d}.jpg"
    file.write_bytes(change(file.read_bytes()))
    manifest = built(coco)
    assert manifest["selection"]["dropped_by_reason"] == {}
    assert manifest["counts"]["planned"] == PEOPLE
    assert "unreadable" not in manifest["counts"]["by_reason"]


def test_a_photograph_that_vanishes_after_the_plan_is_a_rejected_sample(
    built: Callable[..., dict[str, Any]], coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was planned and cannot be read any more is counted as `unreadable` among the samples."""
    import flows.make.run as run_module

    left_to_make = run_module.left_to_make

    def vanish(*arguments: Any) -> Any:
        (coco / "tiny" / f"{5:012d}.jpg").unlink()
        return left_to_make(*arguments)

    monkeypatch.setattr(run_module, "left_to_make", vanish)
    manifest = built(coco)
    assert manifest["counts"]["planned"] == PEOPLE
    assert manifest["counts"]["by_reason"]["unreadable"] == 4  # two as targets, two whose reference it was


# annotations


def _segmentation(value: Any) -> Callable[[Instances], object]:
    return lambda instances: instances["annotations"][8].update(segmentation=value)


SPOILED_PEOPLE: dict[str, tuple[Callable[[Instances], object], dict[str, int]]] = {
    "a polygon of two points": (_segmentation([[1, 1, 60, 60]]), {"degenerate": 1}),
    "a polygon out of the frame": (_segmentation([[500, 500, 600, 500, 600, 600]]), {"degenerate": 1}),
    "a polygon with NaN": (_segmentation([[float("nan"), 1, 60, 1, 60, 60]]), {"degenerate": 1}),
    "a polygon without end": (_segmentation([[1e300, 1, -1e300, 1, 1e300, 1e300]]), {"area": 1}),
    "texts": (_segmentation([["a", "b", "c", "d", "e", "f"]]), {"degenerate": 1}),
    "nothing": (_segmentation(None), {"degenerate": 1}),
    "run lengths of the wrong size": (_segmentation({"size": [160, 120], "counts": [19200]}), {"degenerate": 1}),
    "run lengths that do not add up": (_segmentation({"size": [120, 160], "counts": [7]}), {"degenerate": 1}),
    "run lengths that are cut": (_segmentation({"size": [120, 160], "counts": "PPo"}), {"degenerate": 1}),
    "a crowd region": (lambda instances: instances["annotations"][8].update(iscrowd=1), {"crowd": 1}),
    "an annotation id twice": (lambda instances: instances["annotations"][8].update(id=10), {"degenerate": 1}),
    "an image id twice": (lambda instances: instances["images"].append(instances["images"][0]), {}),
    "an image of another size": (lambda instances: instances["images"][4].update(width=161), {"size_mismatch": 2}),
    "an image that is not listed": (
        lambda instances: instances["annotations"][8].update(image_id=4040),
        {"degenerate": 1},
    ),
}


@pytest.mark.parametrize(("how", "dropped"), SPOILED_PEOPLE.values(), ids=SPOILED_PEOPLE.keys())
def test_a_spoiled_annotation_is_counted(
    built: Callable[..., dict[str, Any]],
    spoil: Callable[[Callable[[Instances], object]], Path],
    how: Callable[[Instances], object],
    dropped: dict[str, int],
) -> None:
    """The person is dropped by the right reason, and nobody else."""
    selection = built(spoil(how))["selection"]
    assert (selection["people"], selection["unvisited"]) == (PEOPLE, 0)
    assert selection["dropped_by_reason"] == dropped


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "{outside}/secret.jpg", "..\\secret.jpg", "C:\\secret.jpg", "a\0b.jpg", "", "n" * 400]
)
def test_a_file_name_never_leaves_the_source(
    built: Callable[..., dict[str, Any]],
    spoil: Callable[[Callable[[Instances], object]], Path],
    coco: Path,
    tmp_path: Path,
    name: str,
) -> None:
    """A photograph that lies outside is not opened, though its size and content would fit."""
    for place in (tmp_path, coco):
        shutil.copy(coco / "tiny" / f"{5:012d}.jpg", place / "secret.jpg")
    given = name.replace("{outside}", str(tmp_path))
    manifest = built(spoil(lambda instances: instances["images"][4].update(file_name=given)))
    reason = "unreadable" if name else "degenerate"  # a record without a name is no image record
    assert manifest["selection"]["dropped_by_reason"] == {reason: 2}


@pytest.mark.parametrize("name", ["Zoë ☃ (1).jpg", "two\nlines.jpg", "'; rm -rf $HOME #.jpg", "%s{0}.jpg", "sub/x.jpg"])
def test_strange_file_names_are_read(
    built: Callable[..., dict[str, Any]],
    spoil: Callable[[Callable[[Instances], object]], Path],
    coco: Path,
    name: str,
) -> None:
    """Whatever the file system takes is fine."""
    (coco / "tiny" / name).parent.mkdir(exist_ok=True)
    (coco / "tiny" / f"{5:012d}.jpg").rename(coco / "tiny" / name)
    manifest = built(spoil(lambda instances: instances["images"][4].update(file_name=name)))
    assert manifest["selection"]["dropped_by_reason"] == {}


# runs


def test_more_samples_than_pairs(capsys: pytest.CaptureFixture[str], coco: Path) -> None:
    """All pairs are made, and a line says that there are no more and how to get some."""
    assert main(_plainest(["build", "--source", str(coco), "--samples", "5000", "--output", "out"])) == DONE
    said = capsys.readouterr().out
    assert f"5000 samples were asked for, {PEOPLE} pairs exist; raise --variants" in said


def test_an_existing_run_with_other_settings(
    built: Callable[..., dict[str, Any]], refused: Callable[..., str], coco: Path
) -> None:
    """Every difference of identity is refused by its name, and what was made stays as it was."""
    built(coco, "--run", "mine", "--samples", 6)
    before = contents(Path("output/mine"))
    for name, value in (("seed", 7), ("families", "mkl"), ("max-side", 100), ("shard-size", 5), ("licenses", 4)):
        line = refused("build", "--source", coco, "--run", "mine", "--samples", 6, f"--{name}", value)
        assert f"made with another {name.replace('-', '_')}" in line
        assert "choose another --run" in line
    assert "it can be extended, not made smaller" in refused("build", "--source", coco, "--run", "mine", "--samples", 3)
    assert contents(Path("output/mine")) == before


def test_an_existing_run_with_another_source(
    built: Callable[..., dict[str, Any]],
    refused: Callable[..., str],
    spoil: Callable[[Callable[[Instances], object]], Path],
    coco: Path,
) -> None:
    """Annotations that changed are another input, so the run is not continued."""
    built(coco, "--run", "mine", "--samples", 6)
    before = contents(Path("output/mine"))
    spoil(lambda instances: instances["annotations"].pop())
    assert "made with another inputs" in refused("build", "--source", coco, "--run", "mine", "--samples", 6)
    assert contents(Path("output/mine")) == before


def test_a_folder_that_is_something_else(refused: Callable[..., str], coco: Path, tmp_path: Path) -> None:
    """A folder with somebody's files, and a file, are left alone."""
    thesis = tmp_path / "output" / "mine" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("all my work")
    (tmp_path / "output" / "file").write_text("mine too")
    assert "is no run of hcoco" in refused("build", "--source", coco, "--run", "mine")
    assert "is no run of hcoco" in refused("build", "--source", coco, "--run", "file")
    assert contents(tmp_path / "output") == {
        "file": hashlib.sha256(b"mine too").hexdigest(),
        "mine/thesis.txt": hashlib.sha256(b"all my work").hexdigest(),
    }


@pytest.mark.parametrize("plan", [b"", b"{", b"{}", b"[]", b'{"version": 99}'])
def test_a_damaged_plan(
    built: Callable[..., dict[str, Any]], refused: Callable[..., str], coco: Path, plan: bytes
) -> None:
    """It is told from a missing one, and nothing is planned over it."""
    built(coco, "--run", "mine", "--samples", 2)
    Path("output/mine/plan.json").write_bytes(plan)
    assert "plan.json is damaged" in refused("build", "--source", coco, "--run", "mine", "--samples", 2)
    assert "plan.json is damaged" in refused("verify", "output/mine")
    assert Path("output/mine/plan.json").read_bytes() == plan


def test_commands_on_what_is_no_run(refused: Callable[..., str], coco: Path) -> None:
    """`verify` and `remake` say what they want."""
    for command in (("verify",), ("remake",)):
        key = ("000000000001-000000000010-00",) if command == ("remake",) else ()
        assert "does not exist" in refused(*command, "nowhere", *key)
        assert "is no run of hcoco" in refused(*command, coco, *key)


@pytest.mark.parametrize("key", ["000000000001-000000000010-77", "", "../x", "x" * 5000, "a\nb"])
def test_remaking_a_key_that_is_not_there(
    built: Callable[..., dict[str, Any]], refused: Callable[..., str], coco: Path, key: str
) -> None:
    """An unknown key is one line."""
    built(coco, "--run", "mine", "--samples", 2)
    refused("remake", "output/mine", key)


# storage


def test_an_output_below_a_file(refused: Callable[..., str], coco: Path, tmp_path: Path) -> None:
    """A file where the folder of runs should be is named, and survives."""
    (tmp_path / "file").write_text("mine")
    for output in ("file", "file/deeper"):
        assert "choose another --" in refused("build", "--source", coco, "--output", output)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_with_a_name_too_long(refused: Callable[..., str], coco: Path) -> None:
    """The file system's limit is a bad request."""
    assert "too long" in refused("build", "--source", coco, "--output", "n" * 300)


def test_an_output_that_is_a_circle_of_links(refused: Callable[..., str], coco: Path, tmp_path: Path) -> None:
    """Links that lead nowhere are a bad request."""
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    refused("build", "--source", coco, "--output", "one/runs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_is_forbidden(refused: Callable[..., str], coco: Path, tmp_path: Path) -> None:
    """Rights are told from other errors."""
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "permission denied" in refused("build", "--source", coco, "--output", "locked/runs")


def _fails(error: int, *, after: int) -> Callable[[int], None]:
    """Return an `fsync` that fails after so many calls, as disks tell that they are full."""
    left = [after]

    def fsync(_descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(error, os.strerror(error))

    return fsync


@pytest.mark.parametrize(
    ("error", "after"),
    [*((errno.ENOSPC, after) for after in range(9)), (errno.EROFS, 3), (errno.EIO, 4), (errno.EDQUOT, 5)],
)
def test_a_disk_that_fails_in_the_middle(  # noqa: PLR0917 - parameters and fixtures
    built: Callable[..., dict[str, Any]],
    refused: Callable[..., str],
    coco: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
    after: int,
) -> None:
    """One line; what was made stays; the same command goes on, to the same bytes as without the failure."""
    options = ("--samples", 6, "--shard-size", 3)
    expected = built(coco, *options, "--run", "undisturbed")["shards"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _fails(error, after=after))
        line = refused("build", "--source", coco, *options, "--run", "mine")
    assert any(words in line for words in ("disk is full", "read-only", "input/output error", "quota"))
    assert not list(Path("output/mine").rglob("*.tmp"))
    before = bytes_that_count(Path("output/mine"))
    assert built(coco, *options, "--run", "mine")["shards"] == expected
    after_all = bytes_that_count(Path("output/mine"))
    assert {path: after_all[path] for path in before} == before
    assert after_all == bytes_that_count(Path("output/undisturbed"))


def test_an_extension_that_meets_a_full_disk(
    built: Callable[..., dict[str, Any]], refused: Callable[..., str], coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished run that could not be extended holds all that it held, and can be extended later."""
    built(coco, "--run", "mine", "--samples", 4)
    before = bytes_that_count(Path("output/mine"))
    for after in range(5):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _fails(errno.ENOSPC, after=after))
            assert "disk is full" in refused("build", "--source", coco, "--run", "mine", "--samples", 12)
        now = contents(Path("output/mine"))
        assert {path: now.get(path) for path in before} == before
    assert built(coco, "--run", "mine", "--samples", 12)["counts"]["planned"] == 12


def test_two_builds_of_one_run(built: Callable[..., dict[str, Any]], refused: Callable[..., str], coco: Path) -> None:
    """The second waits for nothing and touches nothing: it says that the first is at work."""
    built(coco, "--run", "mine", "--samples", 2)
    before = contents(Path("output/mine"))
    with Path("output/mine/.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another build is at work" in refused("build", "--source", coco, "--run", "mine", "--samples", 2)
    assert contents(Path("output/mine")) == before


def test_a_limit_on_the_size_of_files(
    built: Callable[..., dict[str, Any]], refused: Callable[..., str], coco: Path
) -> None:
    """`ulimit -f`, enforced by the system itself, is told; nothing half written stays; lifted, the build goes on."""
    built(coco, "--samples", 6, "--run", "undisturbed")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        line = refused("build", "--source", coco, "--samples", 6, "--run", "mine")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "ulimit -f" in line
    assert not list(Path("output/mine").rglob("*.tmp"))
    assert not list(Path("output/mine").rglob("*.tar"))
    built(coco, "--samples", 6, "--run", "mine")
    assert bytes_that_count(Path("output/mine")) == bytes_that_count(Path("output/undisturbed"))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the mount point of a disk of 200 kB, or skip where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], check=False, capture_output=True).returncode:  # fmt: skip
        pytest.skip("no right to mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk(
    built: Callable[..., dict[str, Any]], refused: Callable[..., str], coco: Path, tiny_disk: Path
) -> None:
    """A disk that is really full is told; with room made, the same command finishes."""
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(120_000))
    options = ("--samples", 2, "--run", "mine", "--output", tiny_disk)
    assert "the disk is full; free some space" in refused("build", "--source", coco, *options)
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", tiny_disk], check=True)
    assert built(coco, *options)["counts"]["planned"] == 2


def test_a_damaged_shard_is_found_and_named(
    built: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str], coco: Path
) -> None:
    """`verify` ends with 1, a finding, not with 2."""
    built(coco, "--run", "mine", "--samples", 4)
    tar = next(Path("output/mine/shards").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 0xFF
    tar.write_bytes(data)
    assert main(["verify", "output/mine"]) == DAMAGE
    assert tar.name in capsys.readouterr().out


def test_every_attempt_stands_in_the_index(
    built: Callable[..., dict[str, Any]], tiny_coco: Path, tmp_path: Path
) -> None:
    """With everything wrong at once, planned = kept + rejected, row by row."""
    coco = Path(shutil.copytree(tiny_coco, tmp_path / "coco"))
    for image_id, (change, _) in enumerate(DROPPED_FILES.values(), start=1):
        file = coco / "tiny" / f"{image_id:012d}.jpg"
        content = change(file.read_bytes())
        file.unlink()
        if content is not None:
            file.write_bytes(content)
    counts = built(coco, "--run", "mine", "--variants", 2)["counts"]
    rows = [row for path in Path("output/mine/index").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len({row["key"] for row in rows}) == len(rows) == counts["planned"]
    assert sum(row["status"] == "kept" for row in rows) == counts["kept"]
    assert all((row["reason"] is None) == (row["status"] == "kept") for row in rows)


# the gate


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return the weights of a checkpoint that a test may spoil."""
    return save_untrained(tmp_path / "mine")


class _Code:
    """Pickles as a command that leaves a file behind."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        """Return what a trusting reader would run."""
        return os.system, ("touch executed",)


def _with_about(checkpoint: Path, **changes: object) -> None:
    about = json.loads(checkpoint.with_suffix(".json").read_text())
    checkpoint.with_suffix(".json").write_text(json.dumps({**about, **changes}))


def _with_weights(checkpoint: Path, value: object, *, bare: bool = False) -> None:
    """Put something else in place of the weights, with a JSON that agrees."""
    if bare:
        checkpoint.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, checkpoint)
    _with_about(checkpoint, weights_sha256=hashlib.sha256(checkpoint.read_bytes()).hexdigest())


SPOILT_CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "weights gone": Path.unlink,
    "about gone": lambda path: path.with_suffix(".json").unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a bit flipped": lambda path: flip(path, path.stat().st_size // 2),
    "no zip": lambda path: path.write_bytes(b"\0" * 5000),
    "about no JSON": lambda path: path.with_suffix(".json").write_text("weights"),
    "another architecture": lambda path: _with_about(path, architecture="resnet"),
    "another version": lambda path: _with_about(path, version=99),
    "a threshold that is none": lambda path: _with_about(path, threshold="high"),
    "a pickle with code": lambda path: _with_weights(path, {"x": _Code()}),
    "a bare pickle with code": lambda path: _with_weights(path, _Code(), bare=True),
    "weights of another network": lambda path: _with_weights(path, {"x": torch.zeros(3)}),
}


@pytest.mark.parametrize("spoil_it", SPOILT_CHECKPOINTS.values(), ids=SPOILT_CHECKPOINTS.keys())
def test_a_checkpoint_that_cannot_be_used(
    refused: Callable[..., str], coco: Path, checkpoint: Path, spoil_it: Callable[[Path], object]
) -> None:
    """One line that names the file, before anything is made; code in it is not run."""
    spoil_it(checkpoint)
    line = refused("build", "--source", coco, "--gate-checkpoint", checkpoint)
    assert line.startswith("hcoco build: setting gate_checkpoint: checkpoint ")
    assert "mine" in line
    assert not Path("output").exists()
    assert not Path("executed").exists()


def test_a_checkpoint_with_the_gate_off(refused: Callable[..., str], coco: Path, checkpoint: Path) -> None:
    """A contradiction is not settled in silence."""
    line = refused("build", "--source", coco, "--gate", "off", "--gate-checkpoint", checkpoint)
    assert "setting gate_checkpoint: there is no gate with gate=off" in line
    assert "setting gate_threshold" in refused("build", "--gate", "off", "--gate-threshold", "0.5")


def test_a_failed_audit_is_one_line_on_the_error_stream(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The build goes on, and what is printed as JSON stays JSON."""
    leaky = save_untrained(tmp_path / "leaky", audit={"passed": False})
    options = ["--source", str(coco), "--gate-checkpoint", str(leaky), "--samples", "2", "--json"]
    assert main(_plainest(["build", *options])) == DONE
    told = capsys.readouterr()
    assert told.err.startswith("hcoco build: warning: the gate's checkpoint did not pass its audit")
    assert told.err.count("\n") == 1
    assert json.loads(told.out)["planned"] == 2


@pytest.mark.parametrize("after", range(6))
def test_a_disk_that_fails_in_the_middle_of_a_gated_build(  # noqa: PLR0917 - parameters and fixtures
    built: Callable[..., dict[str, Any]],
    refused: Callable[..., str],
    coco: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    """Wherever it fails, the checkpoint's copy included, the same command goes on to a whole run."""
    options = ("--samples", 4, "--shard-size", 2, "--gate-checkpoint", checkpoint, "--run", "mine")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _fails(errno.ENOSPC, after=after))
        assert "disk is full" in refused("build", "--source", coco, *options)
    assert not list(Path("output/mine").rglob("*.tmp"))
    built(coco, *options)
    assert main(["verify", "output/mine"]) == DONE


# the command itself


def _command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(flows.store.layout.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_real_command_ends_with_two_and_one_line(coco: Path, tmp_path: Path) -> None:
    """A process of its own, with its pool of workers: exit code 2, one line on stderr, nothing else."""
    for image in (coco / "tiny").glob("*.jpg"):
        image.write_bytes(b"")
    done = _command(*_plainest(["build", "--source", coco, "--workers", "1"]), cwd=tmp_path)
    assert done.returncode == BAD_REQUEST
    assert done.stderr.count("\n") == 1
    assert f"unreadable {PEOPLE}" in done.stderr
    assert not list((tmp_path / "output").glob("*/plan.json"))


def test_an_unknown_option_is_one_line(refused: Callable[..., str]) -> None:
    """A slip in an option's name is a bad request like others."""
    refused("build", "--sampels", "5")


def test_verify_with_impossible_workers_is_one_line(
    built: Callable[..., dict[str, Any]], refused: Callable[..., str], coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative number of processes is a bad request."""
    built(coco, "--run", "mine", "--samples", 2)
    monkeypatch.undo()
    refused("verify", coco.parent / "output" / "mine", "--workers", "-1")
