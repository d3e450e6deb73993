"""Pictures and masks that users made: read upright and whole whatever their format, and found by their names."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from flows.coco.pictures import BadPicture
from flows.errors import BadRequest
from flows.make.pairs import find_pairs, read_pair

HEIGHT, WIDTH = 30, 44


def picture_of(*, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return a picture whose every corner looks different."""
    rows, columns = np.mgrid[:height, :width]
    layers = (255 * rows / (height - 1), 255 * columns / (width - 1), (17 * rows + 5 * columns) % 256)
    return np.stack(layers, axis=2).astype(np.uint8)


def mask_of(*, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return a mask with the subject in one corner."""
    mask = np.zeros((height, width), np.uint8)
    mask[2:9, 3:20] = 255
    return mask


@pytest.fixture
def mask_file(tmp_path: Path) -> Path:
    """Return a mask that fits the picture."""
    return written(tmp_path / "mask.png", mask_of())


def written(path: Path, array: np.ndarray) -> Path:
    """Write an array with Pillow; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


PICTURES: dict[str, Callable[[Path], Image.Image]] = {
    "palette": lambda _: Image.fromarray(picture_of() // 64 * 64).quantize(256),
    "opaque_alpha": lambda _: Image.fromarray(np.dstack([picture_of(), np.full((HEIGHT, WIDTH), 255, np.uint8)])),
    "grey": lambda _: Image.fromarray(picture_of()[..., 1]),
    "one_bit": lambda _: Image.fromarray(mask_of() > 0),
}


@pytest.mark.parametrize("kind", list(PICTURES))
def test_pictures_of_other_kinds_are_read(kind: str, mask_file: Path, tmp_path: Path) -> None:
    """Palette, opaque alpha, grey and one-bit PNG files give the colours that any viewer shows."""
    image = PICTURES[kind](tmp_path)
    image.save(tmp_path / "picture.png")
    picture, mask = read_pair(tmp_path / "picture.png", mask_file)
    assert np.array_equal(picture, np.asarray(image.convert("RGB")))
    assert np.array_equal(mask, mask_of())


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled(channels: int, mask_file: Path, tmp_path: Path) -> None:
    """A PNG file of 16 bits gives the 8 upper bits, colours in their order; a mask of 16 bits likewise."""
    colours = picture_of()[..., :channels]
    stored = colours.astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), stored[..., ::-1] if channels == 3 else stored)
    cv2.imwrite(str(tmp_path / "deep_mask.png"), mask_of().astype(np.uint16) * 257)
    picture, mask = read_pair(tmp_path / "deep.png", tmp_path / "deep_mask.png")
    assert np.array_equal(picture, np.broadcast_to(colours, picture.shape))
    assert np.array_equal(mask, read_pair(tmp_path / "deep.png", mask_file)[1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_are_made_upright(orientation: int, tmp_path: Path) -> None:
    """A picture that EXIF says is turned becomes what OpenCV, an independent reader, shows, with a mask drawn so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture_of()).save(tmp_path / "turned.jpg", quality=95, exif=exif)
    shown = cv2.imread(str(tmp_path / "turned.jpg"), flags=cv2.IMREAD_COLOR_RGB)
    mask = mask_of(height=shown.shape[0], width=shown.shape[1])
    picture, read = read_pair(tmp_path / "turned.jpg", written(tmp_path / "mask.png", mask))
    assert np.array_equal(picture, shown)
    assert np.array_equal(read, mask)


def test_a_mask_of_the_stored_pixels_leaves_them(mask_file: Path, tmp_path: Path) -> None:
    """Where the mask fits the stored pixels only, as COCO's do, the picture is not turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture_of()).save(tmp_path / "turned.png", exif=exif)
    picture, _ = read_pair(tmp_path / "turned.png", mask_file)
    assert np.array_equal(picture, picture_of())


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_of_a_mask_is_the_mask(mode: str, tmp_path: Path) -> None:
    """A mask file that is transparent in places says with its alpha what the subject is, whatever its colours."""
    picture = written(tmp_path / "picture.png", picture_of())
    image = Image.fromarray(picture_of()).convert(mode)
    image.putalpha(Image.fromarray(mask_of()))
    image.save(tmp_path / "cut_out.png")
    assert np.array_equal(read_pair(picture, tmp_path / "cut_out.png")[1], mask_of())


def test_jpeg_masks_are_read(tmp_path: Path) -> None:
    """A mask that went through JPEG is still a mask."""
    Image.fromarray(np.dstack([mask_of()] * 3)).save(tmp_path / "mask.jpg", quality=80)
    _, mask = read_pair(written(tmp_path / "picture.png", picture_of()), tmp_path / "mask.jpg")
    assert np.array_equal(mask > 127, mask_of() > 127)


def cut_short(path: Path) -> None:
    """Write a JPEG file without its end."""
    buffer = io.BytesIO()
    Image.fromarray(picture_of(height=300, width=400)).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue()[:-2000])


BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "other_size": (lambda p: written(p, picture_of(width=43)), "size_mismatch", "scale the mask to the picture's size"),
    "transparent": (
        lambda p: written(p, np.dstack([picture_of(), mask_of()])),
        "unreadable",
        "lay it over its background first",
    ),
    "text": (lambda p: p.write_text("no picture"), "unreadable", "not a picture"),
    "empty": (lambda p: p.touch(), "unreadable", "is empty"),
    "folder": (lambda p: p.mkdir(), "unreadable", "no plain file"),
    "missing": (lambda _: None, "unreadable", "cannot be read"),
    "cut_short": (cut_short, "unreadable", "cut short"),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_bad_pictures_are_told_of_by_name(kind: str, mask_file: Path, tmp_path: Path) -> None:
    """A picture that cannot be used gives a reason and a line that names the file."""
    write, reason, message = BAD[kind]
    write(tmp_path / "bad.png")
    with pytest.raises(BadPicture, match=rf"^[^\n]*bad\.png[^\n]*{message}") as told:
        read_pair(tmp_path / "bad.png", mask_file)
    assert told.value.reason == reason


def test_a_huge_picture_is_not_decoded(mask_file: Path, tmp_path: Path) -> None:
    """A header that claims more than 100 million pixels is believed, and nothing is decoded."""
    Image.new("1", (10_001, 10_000)).save(tmp_path / "huge.png")
    with pytest.raises(BadPicture, match="10001 x 10000 is more than 100000000 pixels"):
        read_pair(tmp_path / "huge.png", mask_file)


def test_a_coloured_mask_is_refused(tmp_path: Path) -> None:
    """A photograph, or a map of classes, given in place of the mask is told from one."""
    picture = written(tmp_path / "picture.png", picture_of())
    with pytest.raises(BadPicture, match=r"'picture\.png' has colours") as told:
        read_pair(picture, picture)
    assert told.value.reason == "mask_coloured"


def lay_out(folder: Path, *names: str) -> None:
    """Make empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def told(place: Path, *, within: Path) -> list[tuple[str | None, ...]]:
    """Find pairs; return their paths from a folder."""
    return [
        tuple(path and path.relative_to(within).as_posix() for path in (pair.composite, pair.mask, pair.real))
        for pair in find_pairs(place)
    ]


def test_names_lead_to_mask_and_photograph(tmp_path: Path) -> None:
    """`<name>_<m>_<k>` has the mask `<name>_<m>` and the photograph `<name>`; underscores in the name do not confuse."""
    lay_out(tmp_path, "composite_images/a_b_7_1.jpg", "composite_images/a_b_7_2.jpg", "composite_images/d-1_2_1.png")
    lay_out(tmp_path, "masks/a_b_7.png", "masks/d-1_2.png", "real_images/a_b.jpg", "real_images/d-1.JPG")
    lay_out(tmp_path, "composite_images/Thumbs.db")
    assert told(tmp_path, within=tmp_path) == [
        ("composite_images/a_b_7_1.jpg", "masks/a_b_7.png", "real_images/a_b.jpg"),
        ("composite_images/a_b_7_2.jpg", "masks/a_b_7.png", "real_images/a_b.jpg"),
        ("composite_images/d-1_2_1.png", "masks/d-1_2.png", "real_images/d-1.JPG"),
    ]


def test_plain_names_and_lacking_files(tmp_path: Path) -> None:
    """Composites of one's own may have one name throughout; what is not there is None."""
    lay_out(tmp_path, "composite_images/mine.png", "masks/mine.png", "composite_images/other_1_1.jpg")
    assert told(tmp_path, within=tmp_path) == [
        ("composite_images/mine.png", "masks/mine.png", None),
        ("composite_images/other_1_1.jpg", None, None),
    ]


def test_data_sets_are_found_in_folders(tmp_path: Path) -> None:
    """A folder of data sets gives all of them, each with its name, in the order of the names."""
    lay_out(tmp_path, "HFlickr/composite_images/f1_1_1.jpg", "HCOCO/composite_images/c1_1_1.jpg", "README.md")
    assert [pair.group for pair in find_pairs(tmp_path)] == ["HCOCO", "HFlickr"]


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("HCOCO/HCOCO_test.txt", "c2_1_1.jpg"),
        ("HCOCO/HCOCO_test.txt", "composite_images/c2_1_1.jpg"),
        ("IHD_test.txt", "HCOCO/composite_images/c2_1_1.jpg"),
    ],
)
def test_a_list_names_what_is_wanted(place: str, line: str, tmp_path: Path) -> None:
    """A list is read from its own folder, with paths or bare names, in its order; blank lines say nothing."""
    names = [f"HCOCO/composite_images/c{number}_1_1.jpg" for number in (1, 2, 3)]
    lay_out(tmp_path, *names, "HCOCO/masks/c2_1.png")
    (tmp_path / place).write_text(f"{line}\r\n\n{line.replace('c2', 'c1')}\n")
    assert told(tmp_path / place, within=tmp_path) == [(names[1], "HCOCO/masks/c2_1.png", None), (names[0], None, None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no composites"),
        (b"\n \n", "names no composites"),
        (b"\xff\xd8\xff\xe0", "is no text; for a picture, give its mask too"),
        (b"../../secret.jpg", "leaves the folder"),
        (b"/etc/passwd", "leaves the folder"),
        (b"x" * 300, "is no name of a file"),
        (b"x/" * 100_000, "is no name of a file"),
    ],
)
def test_bad_lists_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    """A list of nothing, of paths that lead elsewhere, and a picture taken for a list: one line each."""
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(BadRequest, match=message) as told:
        find_pairs(tmp_path / "list.txt")
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(("name", "message"), [("nowhere", "is neither"), (".", "holds no composite_images")])
def test_places_without_composites_are_refused(name: str, message: str, tmp_path: Path) -> None:
    """A place that is not there, and a folder without composites, are refused."""
    with pytest.raises(BadRequest, match=message):
        find_pairs(tmp_path / name)
