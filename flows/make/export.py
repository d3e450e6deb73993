"""Export the kept samples of a run as folders of files, for trainers that read neither tars nor Parquet.

Everything is made in `FOLDER.unfinished`, which becomes FOLDER by one rename at the end: what looks like an export is
a whole one. The same command goes on where an earlier one was stopped. The bytes of the tars are written as they are.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np

from flows.coco.sources import Watch, unwatched
from flows.decoding import decode_member
from flows.errors import BadRequest
from flows.store.decisions import KEY
from flows.store.layout import Layout, read_json, write_bytes
from flows.store.lock import holding
from flows.store.manifest import read_places
from flows.store.read import Damaged, Stored, read_tar
from flows.store.write import hash_file

MaskKind = Literal["alpha", "binary"]

SPLITS: Final = ("train", "val", "test")
NAME: Final = "HCOCO"
"""Folder of the samples in `iharmony4`: the public trainers' settings look for it."""

STATE: Final = ".hcoco-export.json"
LOCK: Final = ".lock"
EXPORT_VERSION: Final = 1

_NO_LINKS: Final = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
"""Answers of file systems that cannot link, or not once more."""


@dataclass(frozen=True)
class File:
    """One file of an export.

    Attributes:
        path: Below the export's folder.
        member: Of the sample whose bytes it has.
        photograph: Set where the bytes are those of every file with the same number: an unedited photograph.
    """

    path: str
    member: str
    photograph: int | None = None


@dataclass
class Exported:
    """What an export holds.

    Attributes:
        folder: Where it is.
        samples: By split.
        files: Pictures in the folder.
        linked: How many of them are hard links to another of them.
        written: How many files this call wrote or linked; the others were there.
    """

    folder: Path
    samples: dict[str, int]
    files: int = 0
    linked: int = 0
    written: int = 0


@dataclass
class _Work:
    """An export while it is made: what is in it so far."""

    exported: Exported
    link: bool
    masks: MaskKind
    listed: dict[str, list[str]] = field(default_factory=dict)
    photographs: dict[int, str] = field(default_factory=dict)
    paths: dict[str, int] = field(default_factory=dict)


def export_run(
    layout: Layout,
    folder: Path,
    *,
    form: str,
    splits: Sequence[str] = SPLITS,
    name: str = NAME,
    masks: MaskKind = "alpha",
    link: bool = True,
    watch: Watch = unwatched,
) -> Exported:
    """Export the kept harmonization samples of a finished run.

    Args:
        layout: Of the run.
        folder: New or empty; or one that an export of the same was stopped in, or finished in.
        form: `iharmony4` or `folder`; docs/trainers.md shows both.
        splits: Of `train`, `val`, `test`.
        name: Folder of the samples in `iharmony4`.
        masks: `alpha` as in the tars, or `binary`: 255 where the alpha is over 127, else 0.
        link: Make files of the same content hard links, where the file system can.
        watch: Told how many samples are done, of how many.

    Raises:
        BadRequest: The folder holds something else, or the run is unfinished, has no such samples, or was changed
            meanwhile.
        Damaged: A shard is missing, or differs from its hash.
        OSError: The disk is full or not writable; what was written stays, and the same call goes on from there.
    """
    _check_request(form, splits, name)
    folder = folder.expanduser().resolve()
    shards = _shards(layout, splits)
    state = _describe(layout, form=form, splits=splits, name=name, masks=masks)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    finished = _check_folder(folder, unfinished, state)
    place = folder if finished else unfinished
    exported = Exported(folder, dict.fromkeys(splits, 0))
    with holding(place / LOCK, busy=f"another export into {folder} is at work; wait for it, or choose another folder"):
        if not finished:
            write_bytes(place / STATE, json.dumps(state, indent=1).encode())
        work = _Work(exported, link, masks, listed={split: [] for split in splits})
        for stored, split in _stored(layout, shards, watch=watch, digest=state["manifest"]):
            _export_sample(place, work, FORMATS[form].files(stored.key, split, name), stored)
            work.listed[split].append(stored.key)
            exported.samples[split] += 1
        for path, content in FORMATS[form].lists(work.listed, name).items():
            write_bytes(place / path, content)
        _count(place, exported, expected=work.paths)
        (place / LOCK).unlink()
    if not finished:
        os.sync()  # the rename must not reach the disk before what it makes visible
        unfinished.replace(folder)
    return exported


@dataclass(frozen=True)
class Format:
    """A form of an export.

    Attributes:
        files: Returns the files of a sample, from its key, its split, and the name of the set.
        lists: Returns the text files that end the export, by path, from the keys of each split, and the name.
    """

    files: Callable[[str, str, str], Sequence[File]]
    lists: Callable[[Mapping[str, Sequence[str]], str], Mapping[str, bytes]]


def iharmony4_files(key: str, _split: str, name: str) -> Sequence[File]:
    """Return the files of a sample as in iHarmony4 (Cong et al., DoveNet, 2020): photograph_mask_number.

    Trainers find a mask by cutting the last part of a composite's name, and a photograph by cutting two. Each edit has
    a mask of its own here, since its edge is feathered by a width of its own: so the variant is the last two digits of
    the mask's number, and the number behind it always 1.
    """
    composite = iharmony4_name(key)
    mask, photograph = composite.rsplit("_", 1)[0], composite.split("_", 1)[0]
    return (
        File(f"{name}/composite_images/{composite}", "composite.jpg"),
        File(f"{name}/masks/{mask}.png", "mask.png"),
        File(f"{name}/real_images/{photograph}.jpg", "real.jpg", photograph=_image_id(key)),
    )


def iharmony4_name(key: str) -> str:
    """Return the name of a composite: `c139_23083100_1.jpg`, c as in HCOCO's own names."""
    image_id, annotation_id, variant = key.split("-")
    return f"c{int(image_id)}_{int(annotation_id)}{variant}_1.jpg"


def iharmony4_lists(keys: Mapping[str, Sequence[str]], name: str) -> Mapping[str, bytes]:
    """Return the lists: bare names in the set's folder, names with their folders in the one above it."""
    lists = {}
    for split, those in keys.items():
        names = [iharmony4_name(key) for key in those]
        lists[f"{name}/{name}_{split}.txt"] = _lines(names)
        lists[f"IHD_{split}.txt"] = _lines(f"{name}/composite_images/{each}" for each in names)
    return lists


def folder_files(key: str, split: str, _name: str) -> Sequence[File]:
    """Return the files of a sample as pairs: A the composite, B the photograph, under the same name, and the mask."""
    return (
        File(f"A/{split}/{key}.jpg", "composite.jpg"),
        File(f"B/{split}/{key}.jpg", "real.jpg", photograph=_image_id(key)),
        File(f"mask/{split}/{key}.png", "mask.png"),
    )


FORMATS: Final[Mapping[str, Format]] = {
    "iharmony4": Format(iharmony4_files, iharmony4_lists),
    "folder": Format(folder_files, lambda _keys, _name: {}),
}


def _image_id(key: str) -> int:
    return int(key.partition("-")[0])


def _lines(names: Iterable[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _check_request(form: str, splits: Sequence[str], name: str) -> None:
    if form not in FORMATS:
        raise BadRequest(f"there is no format {form!r}; known are {', '.join(FORMATS)}")
    for split in splits:
        if split not in SPLITS:
            raise BadRequest(f"there is no split {split!r}; known are {', '.join(SPLITS)}")
    if not name.isascii() or not name.isalnum():
        raise BadRequest(f"the name {name!r} must be ASCII letters and digits: trainers cut names at `_` and `.`")


def _shards(layout: Layout, splits: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the manifest's entries of the kept harmonization samples."""
    entries: list[Mapping[str, Any]] = [
        entry
        for split in SPLITS
        for entry in read_places(layout)["shards"]
        if split in splits and entry["path"].startswith(f"shards/{split}-")
    ]
    if not entries:
        raise BadRequest(f"{layout.run} has no kept harmonization samples in {', '.join(splits)}: nothing to export")
    return entries


def _describe(layout: Layout, *, form: str, splits: Sequence[str], name: str, masks: MaskKind) -> dict[str, Any]:
    """Say what an export is of: one that differs in any of this cannot be continued."""
    return {
        "version": EXPORT_VERSION,
        "manifest": _manifest_digest(layout),
        "format": form,
        "splits": sorted(splits),
        "name": name,
        "masks": masks,
    }


def _manifest_digest(layout: Layout) -> str:
    return hashlib.sha256(layout.manifest.read_bytes()).hexdigest()


def _check_folder(folder: Path, unfinished: Path, state: Mapping[str, Any]) -> bool:
    """Say whether the folder is a finished export of the same; refuse one that is anything else."""
    if folder.exists() and not folder.is_dir():
        raise BadRequest(f"{folder} is no folder; choose another")
    if folder.is_dir() and any(folder.iterdir()):
        if _read_state(folder) != state:
            raise BadRequest(
                f"{folder} is not empty, and no export of this run as it is now with these options; choose another folder"
            )
        return True
    if unfinished.exists() and _read_state(unfinished) not in (state, {}):
        raise BadRequest(
            f"{unfinished} was begun with another run or other options; delete it, or choose another folder"
        )
    return False


def _read_state(folder: Path) -> object:
    """Return what an export's folder says of itself; {} where it holds nothing yet, None where it is no export."""
    try:
        return read_json(folder / STATE)
    except FileNotFoundError:
        return None if any(path.name != LOCK for path in folder.iterdir()) else {}
    except (OSError, ValueError):
        return None


def _stored(
    layout: Layout, shards: Sequence[Mapping[str, Any]], *, watch: Watch, digest: str
) -> Iterator[tuple[Stored, str]]:
    """Yield the samples of shards that are as the manifest says, and their splits."""
    total = sum(entry["samples"] for entry in shards)
    done = 0
    watch("samples", done, total)
    for entry in shards:
        tar = layout.run / entry["path"]
        if not tar.is_file() or hash_file(tar)[0] != entry["sha256"]:
            if _manifest_digest(layout) != digest:
                raise BadRequest(f"{layout.run} was changed during the export; delete what there is and export again")
            raise Damaged(f"{entry['path']} is missing or differs from its hash in the manifest; run hcoco verify")
        split = tar.name.partition("-")[0]
        for stored in read_tar(tar):
            if not KEY.fullmatch(stored.key):
                raise Damaged(f"{entry['path']}: {stored.key[:60]!r} is no key; run hcoco verify")
            yield stored, split
            done += 1
            watch("samples", done, total)
    if done != total:
        raise Damaged(f"{layout.run}: the manifest counts {total} samples, the shards hold {done}; run hcoco verify")


def _export_sample(place: Path, work: _Work, files: Sequence[File], stored: Stored) -> None:
    for file in files:
        if file.path in work.paths:
            continue  # a photograph that another of its edits has brought
        try:
            content = stored.members[file.member]
        except KeyError:
            raise Damaged(f"{stored.key} has no {file.member}; run hcoco verify") from None
        if file.member == "mask.png" and work.masks == "binary":
            content = _binary(content)
        original = None if file.photograph is None or not work.link else work.photographs.get(file.photograph)
        path = place / file.path
        if original is not None and _link(place / original, path, work.exported):
            work.exported.linked += 1
        elif not path.is_file() or path.stat().st_size != len(content):
            _put(path, content)
            work.exported.written += 1
        if file.photograph is not None:
            work.photographs.setdefault(file.photograph, file.path)
        work.paths[file.path] = len(content)


def _link(original: Path, path: Path, exported: Exported) -> bool:
    """Make `path` the same file as `original`; False where the file system cannot."""
    if path.exists() and path.samefile(original):
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        path.hardlink_to(original)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    exported.written += 1
    return True


def _put(path: Path, content: bytes) -> None:
    """Write a file whole, or not at all; it is not flushed, `export_run` does that once for all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _binary(content: bytes) -> bytes:
    """Return a mask as PNG of 0 and 255."""
    alpha = decode_member(content, cv2.IMREAD_GRAYSCALE)
    if alpha is None:
        raise Damaged("a mask is no PNG; run hcoco verify")
    inside = np.where(alpha > 127, 255, 0).astype(np.uint8)
    return cv2.imencode(".png", inside)[1].tobytes()


def _count(place: Path, exported: Exported, *, expected: Mapping[str, int]) -> None:
    """Count the pictures in the folder; refuse an export that holds others."""
    for path in sorted({(place / path).parent for path in expected}):
        for beside in path.glob(".*.tmp"):
            beside.unlink()  # left by an export that was killed
        for file in path.iterdir():
            if file.relative_to(place).as_posix() not in expected:
                raise BadRequest(f"{file} is not of this export; move it away and run the same command again")
            exported.files += 1
