"""Targets that stand before a build: annotations, outlines, pictures, lists, folders of composites, archives."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flows.coco.download import ARCHIVE, _DamagedError, _read_member
from flows.coco.masks import decode_mask
from flows.coco.pictures import BadPicture, decode, locate, read_bytes, screen
from flows.coco.select import screen_candidates, select_by_annotation
from flows.coco.sources import open_source, read_ids
from flows.errors import BadRequest
from flows.make.decision_list import read_list
from flows.make.pairs import read_pair
from flows.make.score import score_folder
from flows.make.subjects import read_picture
from flows.store.loader import decode_picture
from flows.view.gallery import STAGES, cut_tiles
from flows.view.measures import measure_sample
from flows.view.pictures import make_pictures
from tests.conftest import draw_photograph, write_coco
from tests.fuzz.mutate import EVIL, mutate_bytes, mutate_json, mutate_lines, write_json
from tests.fuzz.target import Refused, Target


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def told(*kinds: type[BaseException]) -> Iterator[None]:
    """Turn the documented errors into `Refused`, and see that each is one line."""
    try:
        yield
    except kinds as error:
        text = str(error)
        assert text, "an error without words"
        assert isinstance(error, ValueError) or "\n" not in text, f"not one line: {text[:200]!r}"
        assert len(text) < 2000, f"a line of {len(text)} characters"
        raise Refused from None


# annotations


@cache
def _coco() -> Path:
    folder = Path(tempfile.mkdtemp()) / "coco"
    write_coco(folder, images=4)
    return folder


def _annotations() -> Sequence[bytes]:
    valid = (_coco() / "annotations" / "instances_tiny.json").read_bytes()
    value = json.loads(valid)
    runs = {"size": [120, 160], "counts": [100, 19000, 100]}
    value["annotations"][0]["segmentation"] = runs
    value["annotations"][1]["iscrowd"] = 1
    people = b'"categories":[{"id":1,"name":"person"}]'
    return [
        valid,
        json.dumps(value).encode(),
        json.dumps({**value, "annotations": [{**value["annotations"][0], "area": float("nan")}]}).encode(),
        b"[" * 3_000_000,
        b'{"images":' * 100_000,
        b'{"images":[],"annotations":[{"segmentation":' + b"[" * 500_000 + b"]" * 500_000 + b"}]," + people + b"}",
        b'{"images":[{"id":' + b"9" * 2_000_000 + b'}],"annotations":[],' + people + b"}",
        b'{"images":[{"id":1e999}],"annotations":[],' + people + b"}",
        b'{"images":[' + b"{}," * 500_000 + b'{}],"annotations":[],' + people + b"}",
        valid.replace(b'"person"', b'"' + b"p" * 5_000_000 + b'"'),
        b"\xef\xbb\xbf" + valid,
        valid.decode().encode("utf-16"),
    ]


def _run_annotations(data: bytes) -> None:
    with scratch() as folder:
        shutil.copytree(_coco() / "tiny", folder / "tiny", copy_function=shutil.copyfile)
        (folder / "annotations").mkdir()
        (folder / "annotations" / "instances_tiny.json").write_bytes(data)
        with told(BadRequest):
            source = open_source(str(folder), cache=folder / "cache")
            candidates, selection = select_by_annotation(
                source, min_person_share=0.01, licenses=None, exclude_ids=frozenset(), seed=0
            )
            for batch in candidates.batches():
                for screened in screen_candidates(batch, min_person_share=0.01, max_side=None):
                    selection.count(screened)
            json.dumps(selection.to_json())


_NAMES = (
    "../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "x" * 300,
    "x/" * 3000,
    "\ud800.jpg",
    ".",
    "tiny",
    "..\\x",
    "C:x.jpg",
)


# outlines


def _outlines() -> Sequence[bytes]:
    polygons = [[10.5, 10, 60, 12, 55, 80.25, 12, 70], [70, 70, 90, 70, 90, 90]]
    across = [[0, 0, 1e9, 1e9, 0, 1e9, 1e9, 0] * 12_000]
    return [
        json.dumps(polygons).encode(),
        json.dumps({"size": [120, 160], "counts": [100, 19000, 100]}).encode(),
        json.dumps({"size": [120, 160], "counts": "T3XaPnU2" * 3}).encode(),
        json.dumps({"size": [100_000, 100_000], "counts": [0, 10_000_000_000]}).encode(),
        json.dumps({"size": [120, 160], "counts": [0] * 3_000_000 + [19200]}).encode(),
        json.dumps({"size": [120, 160], "counts": "0" * 4_000_000}).encode(),
        json.dumps({"size": [120, 160], "counts": "o" * 4_000_000}).encode(),
        json.dumps(across).encode(),
        json.dumps([[0, 0, 160, 0, 160, 120]] * 60_000).encode(),
        b"[" * 4_000_000,
        b"[[" + b"9" * 4_000_000 + b",1,2,3,4,5]]",
        b'{"size":[120,160],"counts":[' + b"1" * 5000 + b"]}",
    ]


def _run_outline(data: bytes) -> None:
    drawn = 0
    for height, width in ((120, 160), (100_000, 100_000), (10_000, 10_000)):
        if height > 1000 and (len(data) > 1000 or len(data) % 8):
            continue  # the large frame takes 0.1 s: one in eight, and the hostile files on the small one
        with contextlib.suppress(Refused), told(ValueError):
            mask = decode_mask(data, height=height, width=width)
            assert mask.shape == (height, width)
            drawn += 1
    if not drawn:
        raise Refused


def _change_outline(data: bytes, rng: random.Random) -> bytes:
    if len(data) > 100_000:
        return mutate_bytes(data, rng)
    words = ([120, 160], "T3XaPnU2", [1e9, -1e9] * 4, [0, 19200], 19200, 19201, "o" * 12, "?" * 9)
    return mutate_json(data, rng, words=words)


# pictures


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def _packed_zeros(count: int) -> bytes:
    """Return so many zeros as zlib packs them, without going over them."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)  # nothing after it depends on it
    rest = zlib.compressobj(9, wbits=-15)
    end = rest.compress(bytes(count % 1_000_000)) + rest.flush()
    return b"\x78\xda" + block * (count // 1_000_000) + end + struct.pack(">HH", count % 65521, 1)


def _png(width: int, height: int, *, kind: int = 2, depth: int = 8, rows: int | None = None) -> bytes:
    """Return a PNG of zeros, with fewer rows than it claims where `rows` says so."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    packed = _packed_zeros((1 + -(-width * channels * depth // 8)) * (height if rows is None else rows))
    palette = chunk(b"PLTE", bytes(3)) if kind == 3 else b""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _scans(photograph: Image.Image, count: int) -> bytes:
    """Return a progressive JPEG whose last scan stands there so many times."""
    data = _saved(photograph, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def _with_size(jpeg: bytes, width: int, height: int) -> bytes:
    place = next(at for at in (jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2")) if at > 0)
    return jpeg[: place + 5] + struct.pack(">HH", height, width) + jpeg[place + 9 :]


@cache
def _pictures() -> Sequence[bytes]:
    rgb = Image.fromarray(draw_photograph(1, width=80, height=60))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80) * 13)
    plain = _saved(rgb, "JPEG", quality=90)
    gif = _saved(rgb.quantize(64), "GIF")
    tiff = _saved(rgb, "TIFF")
    webp = _saved(rgb, "WEBP")
    valid = [
        plain,
        _saved(rgb, "JPEG", progressive=True, exif=exif),
        _saved(rgb.convert("L"), "JPEG"),
        _saved(rgb.convert("CMYK"), "JPEG"),
        _saved(rgb, "PNG"),
        _saved(rgb.convert("RGBA"), "PNG"),
        _saved(rgb.quantize(32), "PNG", transparency=3),
        _saved(grey16, "PNG"),
        _saved(rgb, "WEBP", lossless=True),
        webp,
        gif,
        tiff,
        _saved(rgb, "TIFF", compression="tiff_deflate"),
        _saved(rgb, "TIFF", compression="tiff_lzw"),
        _saved(rgb, "TIFF", compression="jpeg"),
        _saved(rgb, "BMP"),
        _saved(rgb, "PPM"),
        b"P3 8 6 255 " + b"1 2 3 " * 48,
        _saved(rgb, "JPEG2000"),
        _saved(rgb, "PNG", pnginfo=None, exif=exif.tobytes()),
    ]
    assert len(valid) == _MUTABLE
    return [
        *valid,
        _with_size(plain, 65_500, 65_500),
        _with_size(_saved(rgb, "JPEG", progressive=True), 65_500, 65_500),
        _with_size(_saved(rgb, "JPEG", progressive=True), 10_000, 10_000),
        _scans(rgb, 20_000),
        _scans(Image.new("L", (8_000, 8_000)), 400),
        _png(100_000, 100_000, rows=0),
        _png(100_000, 100_000, rows=10),
        _png(30_000, 30_000, kind=0, depth=1),
        _png(10_001, 10_000, kind=3, depth=1),
        webp[:26] + struct.pack("<HH", 16_383, 16_383) + webp[30:],
        gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:],
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 10_000, -10_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"P6 100000 100000 255\n",
        b"P6 10000 10000 255\n",
        b"P3 10000 10000 255\n" + b"1 " * 1_000_000,
        _tiff_of(100_000, 100_000),
        _tiff_of(10_000, 10_000),
        b"",
        b"\xff\xd8",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n" + b"(x) show\n" * 100,
        b"RIFF\x1a\0\0\0WEBPVP8L\x0e\0\0\0\x2f\x0f\xe7\xc3\x09\x07\x10\x11\xfd\x0f\x44\x44\xff\x03",
        _png(10_000, 10_000, kind=6, depth=16),
    ]


@cache
def _largest() -> Sequence[bytes]:
    """Return pictures that are just not too large: each takes seconds."""
    gif = _saved(Image.fromarray(draw_photograph(1, width=80, height=60)).quantize(64), "GIF")
    flat = Image.new("RGB", (10_000, 10_000))
    return [
        _png(10_000, 10_000, kind=2),
        _png(10_000, 10_000, kind=0, depth=1),
        gif[:6] + struct.pack("<HH", 10_000, 10_000) + gif[10:],
        _saved(flat, "TIFF", compression="tiff_lzw"),
        _saved(flat, "GIF"),
    ]


_MUTABLE = 20


def _tiff_of(width: int, height: int) -> bytes:
    """Return a TIFF that claims a size and has next to no pixels."""
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, 4),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return (
        b"II*\0" + struct.pack("<I", 12) + b"\0\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    )


def _claimed(data: bytes) -> tuple[int, int]:
    """Return the size that a file claims, as an annotation would say it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except Exception:  # noqa: BLE001 - whatever is wrong with it is the reader's affair
        return 80, 60


def _run_picture(data: bytes) -> None:
    import warnings

    with warnings.catch_warnings(action="ignore"):
        width, height = _claimed(data)
    refused = 0
    sizes = (
        {(80, 60), (width, height)} if width <= 30_000 and height <= 30_000 else {(80, 60)}
    )  # as the catalogue lets through
    for wide, high in sorted(sizes):
        try:
            screen(data, width=wide, height=high)
        except BadPicture as bad:
            assert bad.reason in {"unreadable", "size_mismatch"}
            refused += 1
        try:
            picture = decode(data, width=wide, height=high)
            assert picture.shape == (high, wide, 3)
        except BadPicture as bad:
            assert bad.reason in {"unreadable", "size_mismatch"}
            refused += 1
    if refused == 2 * len(sizes):
        raise Refused


def _run_viewed(data: bytes) -> None:
    """Show a picture as the report and the gallery do: in a sample whose other pictures are small."""
    small = Image.open(io.BytesIO(_pictures()[0])).size
    shown = []
    for role in _roles(data, ("real.jpg", "mask.png")):
        members = {"real.jpg": _pictures()[0], "composite.jpg": _pictures()[0], "mask.png": _pictures()[4], role: data}
        shown.append(make_pictures(members))
        if role == "mask.png":
            measure_sample(members, stage="harmonization")
        else:
            cut_tiles(members, STAGES["harmonization"], side=64)
    assert all(pictures is None or (pictures.width, pictures.height) == small for pictures in shown)
    if not any(shown):
        raise Refused


def _roles(data: bytes, roles: tuple[str, str]) -> tuple[str, ...]:
    """Return what a picture is tried as: a large one, which may take seconds, as one thing only."""
    width, height = _claimed(data)
    return roles if width * height < 10_000_000 else (roles[len(data) % 2],)


def _run_loaded(data: bytes) -> None:
    """Decode a picture as training, `verify` and `export` do."""
    loaded = 0
    for grey in (True, False):
        with contextlib.suppress(ValueError):
            picture = decode_picture(data, grey=grey)
            assert (picture.dtype, picture.ndim) == (np.uint8, 2 if grey else 3)
            loaded += 1
    if not loaded:
        raise Refused


def _run_scored(data: bytes) -> None:
    """Read a picture and a mask as `score` and the training on unlabelled photographs do."""
    read = 0
    with scratch() as folder:
        (folder / "p.jpg").write_bytes(data)
        (folder / "q.png").write_bytes(_pictures()[4])
        for role in _roles(data, ("p.jpg", "q.png")):
            if role == "p.jpg":
                read += read_picture(folder / "p.jpg") is not None
            try:
                read_pair(folder / role, folder / ("q.png" if role == "p.jpg" else "p.jpg"))
                read += 1
            except BadPicture as bad:
                assert bad.reason in {"unreadable", "size_mismatch", "mask_coloured"}
    if not read:
        raise Refused


def _change_picture(data: bytes, rng: random.Random) -> bytes:
    return mutate_bytes(data, rng, others=_pictures()[:_MUTABLE])


# names


def _parsed(data: bytes) -> Any:
    """Return the JSON value that tells what is to be tried; None where the change left none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _names() -> Sequence[bytes]:
    return [
        json.dumps([text]).encode() for text in ("000000000001.jpg", *_NAMES, *(e for e in EVIL if isinstance(e, str)))
    ]


def _run_name(data: bytes) -> None:
    """Join a file name from an annotation to its folder and read it: nothing outside the folder may be read."""
    name = _parsed(data)
    name = name[0] if isinstance(name, list) and name and isinstance(name[0], str) else "x"
    with scratch() as outer:
        folder = outer / "photographs"
        folder.mkdir()
        (outer / "secret.jpg").write_bytes(b"secret")
        try:
            content = read_bytes(locate(folder, name))
        except BadPicture as bad:
            assert bad.reason == "unreadable"
            raise Refused from None
        raise AssertionError(f"read {content[:20]!r} by the name {name!r}")


def _change_name(data: bytes, rng: random.Random) -> bytes:
    parts = [
        "..",
        ".",
        "secret.jpg",
        "/",
        "\\",
        "C:",
        "\0",
        "photographs",
        "~",
        " ",
        "",
        "\u2215",
        "%2e%2e",
    ]
    return (
        json.dumps(["/".join(rng.choices(parts, k=rng.randint(1, 5)))]).encode()
        if rng.random() < 0.7
        else mutate_json(data, rng)
    )


# lists


def _run_exclusions(data: bytes) -> None:
    with scratch() as folder:
        (folder / "ids.txt").write_bytes(data)
        with told(BadRequest):
            read_ids(folder / "ids.txt")


def _run_decision_list(data: bytes) -> None:
    with scratch() as folder:
        (folder / "list.txt").write_bytes(data)
        with told(BadRequest):
            read_list(folder / "list.txt", action="ban", run="sample")


def _exclusions() -> Sequence[bytes]:
    return [
        b"139\n000000000285.jpg\n# comment\nCOCO_val2014_000000000632.jpg\nc139_1640_1.jpg\nval/000000000724.jpg\n",
        b"1\n" * 2_000_000,
        b"1\n" * 20_000_000,
        *(f"{number}\n".encode() for number in (0, 10**12 - 1, 10**12)),
        b"9" * 10_000_000,
        b"/" * 5_000_000,
        b"\n" * 60_000_000,
        b"c1" + b"_1" * 1_000_000 + b".jpg",
        b"\0" * 1_000_000,
    ]


def _decision_lists() -> Sequence[bytes]:
    key = b"000000000139-000000230831-00"
    return [
        b"# hcoco gallery of sample\nreadmit "
        + key
        + b"\nban 000000000285-000000230832-01\n"
        + key.replace(b"139", b"140"),
        b"ban x\n" * 3_000_000,
        b"# hcoco gallery of " + b"x " * 5_000_000,
        b"# hcoco gallery of x" + b" " * 5_000_000 + b"x",
        b"# hcoco gallery of sample\n" * 1_200_000,
        b"".join(b"ban %012d-%012d-00\n" % (number, number) for number in range(900_000)),
        b"\n" * 30_000_000,
        b"a " * 10_000_000,
    ]


# folders of composites


def _composites() -> Sequence[bytes]:
    names = ["composite_images/c1_2_1.jpg", "masks/c1_2.png", "real_images/c1.jpg", "composite_images/c3_4_1.jpg"]
    return [
        write_json({"files": [[name, 0] for name in names], "list": ""}),
        write_json(
            {
                "files": [[name, number] for number, name in enumerate(names)],
                "list": "c1_2_1.jpg\ncomposite_images/c3_4_1.jpg\n",
            }
        ),
        write_json({"files": [["composite_images/" + "_" * 200 + ".jpg", 0]], "list": "x/" * 100_000}),
        write_json({"files": [[name, 0] for name in names], "list": "c1_2_1.jpg\n" * 20}),
        write_json(
            {
                "files": [[f"{n}/composite_images/=cmd|x_1_1.jpg", 1] for n in range(3)],
                "list": "../" * 50 + "etc/passwd",
            }
        ),
    ]


@cache
def _judge() -> Any:
    from flows.make.score import open_judge

    return open_judge("sample")


def _run_composites(data: bytes) -> None:
    value = _parsed(data)
    files = value.get("files") if isinstance(value, dict) else None
    listed = value.get("list") if isinstance(value, dict) else None
    contents = [_pictures()[0], _pictures()[4], b"", b"\xff\xd8\xff", _png(80, 60), _png(81, 60)]
    with scratch() as folder:
        for entry in files if isinstance(files, list) else ():
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and "\0" not in entry[0]):
                continue
            path = folder / "set" / "/".join(part for part in entry[0].split("/") if part not in {"", ".", ".."})
            number = entry[1] if isinstance(entry[1], int) else 0
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents[number % len(contents)])
            except (OSError, ValueError):  # no file system takes this name
                continue
        place = folder / "set"
        if not place.exists():  # else it is a folder, or a file of that name
            place.mkdir()
        if isinstance(listed, str) and listed and place.is_dir():
            place /= "list.txt"
            place.write_bytes(listed.encode("utf-8", "surrogatepass"))
        with told(BadRequest):
            rows = list(score_folder(place, checkpoint=_judge()))
            assert all(Path(row.composite).resolve().is_relative_to(folder.resolve()) for row in rows)


# archives


def _archives() -> Sequence[bytes]:
    member = "annotations/instances_val2017.json"
    seeds = []
    for form in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", form) as archive:
            archive.writestr("annotations/other.json", b"{}")
            archive.writestr(member, b'{"images": []}' * 50)
        seeds.append(out.getvalue())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(member, "w") as file:
        for _ in range(300):
            file.write(bytes(1_000_000))
    return [*seeds, out.getvalue()]


def _run_archive(data: bytes) -> None:
    try:
        for _ in _read_member(io.BytesIO(data), "annotations/instances_val2017.json"):
            pass
    except _DamagedError as error:
        assert str(error), ARCHIVE
        raise Refused from None


TARGETS = (
    Target("annotations", _annotations, partial(mutate_json, words=_NAMES), _run_annotations, share=2, mutable=3),
    Target("outlines", _outlines, _change_outline, _run_outline, share=4, mutable=3),
    Target("pictures", _pictures, _change_picture, _run_picture, share=5, mutable=_MUTABLE, largest=_largest),
    Target("pictures-viewed", _pictures, _change_picture, _run_viewed, share=2, mutable=_MUTABLE, largest=_largest),
    Target("pictures-loaded", _pictures, _change_picture, _run_loaded, share=4, mutable=_MUTABLE, largest=_largest),
    Target("pictures-scored", _pictures, _change_picture, _run_scored, share=2, mutable=_MUTABLE, largest=_largest),
    Target("names", _names, _change_name, _run_name, share=2),
    Target("exclusions", _exclusions, mutate_lines, _run_exclusions, share=2, mutable=1),
    Target("decision-lists", _decision_lists, mutate_lines, _run_decision_list, share=2, mutable=1),
    Target("composites", _composites, mutate_json, _run_composites, share=0.75),
    Target("archives", _archives, mutate_bytes, _run_archive, share=5, mutable=2),
)
