from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from augment import LIMITS
from flows.cli import main
from flows.errors import BadRequest
from flows.make.verify import verify_run
from flows.runners import LocalRunner
from flows.store.layout import Layout
from flows.view import gallery
from flows.view.gallery import GATES, STAGES, choose_window, cut_tiles, join_tiles, write_gallery
from tests.flows.make.building import build_in

MakeRun = Callable[..., Layout]
Sample = Callable[..., dict[str, Any]]

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&{{7*7}}\u2028"
HARMONIZATION = STAGES["harmonization"]


def read_script(path: Path) -> Any:
    """Return the value that a script of the gallery hands to the page."""
    name, value = re.fullmatch(r"galleryData\((\"[^\"]*\"),(.*)\);\n", path.read_text("ascii")).groups()  # type: ignore[union-attr]
    assert json.loads(name) == (path.name if path.name != "index.js" else "index")
    return json.loads(value)


def read_index(page: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the page's data, and its columns by name."""
    data = read_script(page.parent / "data" / "index.js")
    return data, dict(data["columns"])


def words_of(data: dict[str, Any], name: str) -> list[str | None]:
    """Return a column of words."""
    known = dict(data["words"])[name]
    return [None if code is None else known[code] for code in dict(data["columns"])[name]]


def read_details(page: Path) -> list[dict[str, Any]]:
    """Return what the page can tell of each sample."""
    rows: list[dict[str, Any]] = []
    for file, count in read_index(page)[0]["chunks"]:
        columns = read_script(page.parent / "data" / file)
        rows += [
            {name: value[row] if isinstance(value, list) else value for name, value in columns} for row in range(count)
        ]
    return rows


def tiles_on_sheet(page: Path, number: int) -> list[Any]:
    """Return the pictures of a sample as the page finds them on their sheet."""
    data, columns = read_index(page)
    file, width, height = data["sheets"][columns["sheet"][number]]
    sheet = cv2.imread(str(page.parent / "sheets" / file))
    assert sheet is not None
    assert sheet.shape == (height, width, 3)
    shape, top, left, tiles = data["shapes"][columns["shape"][number]], columns["top"][number], 8, []
    for w, h in zip(shape[::2], shape[1::2], strict=True):
        tiles.append(sheet[top : top + h, left : left + w])
        left += (w // 8 + 2) * 8
    return tiles


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _mixed(sample: Sample) -> list[dict[str, Any]]:
    failed = {"status": "rejected", "reason": "effect_small", "value": 34.6964, "limit": 100.0}
    return [
        sample(1, score=0.75, threshold=0.4),
        sample(2, family="reinhard", strength=0.9, foreground_mse=3000.0, split="val"),
        sample(3, **failed, foreground_mse=34.6964),
        sample(4, status="rejected", reason="unreadable", strength=None, foreground_mse=None, gates={}),
    ]


@pytest.fixture(scope="module")
def mixed(make_run: MakeRun, sample: Sample) -> Path:
    """Return the page of a small run with kept and rejected samples."""
    return write_gallery(make_run(_mixed(sample))).page


# What the page knows


def test_every_attempted_sample_is_there(mixed: Path) -> None:
    """Kept and rejected samples stand in the order of the index, with status, reason, family and split."""
    data, columns = read_index(mixed)
    assert columns["key"] == [f"{number:012d}-000000000007-00" for number in (1, 2, 3, 4)]
    assert data["samples"] == 4
    assert words_of(data, "status") == ["kept", "kept", "rejected", "rejected"]
    assert words_of(data, "reason") == [None, None, "effect_small", "unreadable"]
    assert words_of(data, "family") == ["mkl", "reinhard", "mkl", "mkl"]
    assert words_of(data, "split") == ["train", "val", "train", "train"]


def test_numbers_are_those_of_the_index(mixed: Path) -> None:
    """Strength, effect, value and limit can be filtered and sorted by; what is unknown is null, as every score without a gate."""
    _, columns = read_index(mixed)
    assert columns["strength"] == [0.5, 0.9, 0.5, None]
    assert columns["foreground_mse"] == [812.5, 3000.0, 34.6964, None]
    assert columns["value"] == [None, None, 34.6964, None]
    assert columns["limit"] == [None, None, 100.0, None]
    assert columns["score"] == [0.75, None, None, None]


def test_samples_are_found_by_the_ids_of_all_their_photographs(mixed: Path) -> None:
    """Image and annotation ids of target and reference are at hand for the search."""
    _, columns = read_index(mixed)
    assert columns["target_image_id"] == [1, 2, 3, 4]
    assert columns["reference_image_id"] == [1001, 1002, 1003, 1004]
    assert columns["reference_annotation_id"] == [7] * 4


def test_details_are_the_rows_of_the_index(make_run: MakeRun, sample: Sample) -> None:
    """Nothing that the index knows of a sample is lost, and no number is rounded."""
    layout = make_run(_mixed(sample))
    details = read_details(write_gallery(layout).page)
    for row, known in zip(pq.read_table(layout.index("train-00000")).to_pylist(), details, strict=True):
        known.pop("shown", None)
        assert {name: value for name, value in known.items() if value is not None} == {
            name: value for name, value in row.items() if value is not None
        }


def test_the_gates_know_their_limits() -> None:
    """The page compares with the limits that samples were judged by."""
    assert {name: limit for name, limit, _ in GATES} == {**LIMITS, "unnatural": None}


def test_marks_are_kept_by_run_and_settings(make_run: MakeRun, sample: Sample) -> None:
    """Runs of one name with other settings do not share marks; a longer run of the same settings does."""

    def identity(samples: int, seed: int) -> str:
        plan = {"identity": {"seed": seed}, "settings": {"samples": samples}}
        return str(read_index(write_gallery(make_run([sample(1)], plan=plan)).page)[0]["identity"])

    assert identity(10, 1) == identity(20, 1) != identity(10, 2)


# Pictures


def test_the_sheet_shows_the_pictures_of_the_sample(mixed: Path, pictures: dict[str, bytes]) -> None:
    """Real, mask and composite lie on the sheet where the page looks for them, up to the encoding."""
    for tile, name in zip(tiles_on_sheet(mixed, 1), ("real.jpg", "mask.png", "composite.jpg"), strict=True):
        picture = cv2.imdecode(np.frombuffer(pictures[name], np.uint8), cv2.IMREAD_COLOR)
        assert tile.shape == (64, 96, 3)
        assert np.abs(tile.astype(int) - picture.astype(int)).mean() < 4


def test_flipping_shows_the_edit_and_nothing_else(mixed: Path) -> None:
    """In blocks of 8 pixels that no edit touches, real and composite are the same pixels on the sheet."""
    real, _, composite = tiles_on_sheet(mixed, 0)
    assert np.array_equal(real[:, :56], composite[:, :56])  # the members' halved chroma reaches to 62
    assert np.abs(real[16:56, 72:88].astype(int) - composite[16:56, 72:88].astype(int)).mean() > 20


def test_scaled_pictures_are_the_same_where_nothing_is_edited() -> None:
    """Large photographs are decoded at half size, cut and scaled; both pictures alike."""
    rng = np.random.default_rng(1)
    real = cv2.resize(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8), dsize=(640, 480))
    mask = np.zeros((480, 640), np.uint8)
    mask[200:420, 320:520] = 255
    composite = np.where(mask[..., None] > 0, 255 - real, real)
    members = {"mask.png": _png(mask), "real.jpg": _jpg(real), "composite.jpg": _jpg(composite)}
    cut = cut_tiles(members, HARMONIZATION, side=200)
    assert cut is not None
    one, inside, other = cut.tiles
    assert one.shape == inside.shape == other.shape == (150, 200, 3)
    far = cv2.dilate(inside[..., 0], np.ones((9, 9))) == 0
    assert np.array_equal(one[far], other[far])
    assert np.abs(one.astype(int) - other)[inside[..., 0] > 200].mean() > 40
    assert cut.shown == "all of 640 x 480 px"


def test_a_small_subject_is_shown_with_its_surroundings() -> None:
    """The window is three times the subject's box, around it."""
    mask = np.zeros((480, 640), np.uint8)
    mask[200:300, 300:340] = 255
    assert choose_window(mask, side=96) == (slice(100, 400), slice(170, 470))


def test_a_window_stays_inside_the_frame() -> None:
    """At the border the window is moved, not cut."""
    mask = np.zeros((480, 640), np.uint8)
    mask[0:50, 600:640] = 255
    assert choose_window(mask, side=96) == (slice(0, 150), slice(490, 640))


def test_a_window_is_never_smaller_than_the_picture_on_the_page() -> None:
    """Nothing is enlarged where the photograph has more to show."""
    mask = np.zeros((480, 640), np.uint8)
    mask[100:110, 100:110] = 255
    rows, columns = choose_window(mask, side=256)
    assert rows.stop - rows.start == columns.stop - columns.start == 256


def test_an_empty_mask_shows_the_whole_frame() -> None:
    """Without a subject there is nothing to cut around."""
    assert choose_window(np.zeros((48, 64), np.uint8), side=8) == (slice(0, 48), slice(0, 64))


def test_tiles_stand_on_whole_blocks_with_their_edge_around() -> None:
    """A tile is surrounded by its own edge pixels up to whole blocks, and never directly by its neighbour."""
    one, other = np.full((10, 16, 3), 50, np.uint8), np.full((8, 5, 3), 200, np.uint8)
    joined = join_tiles([one, other])
    assert joined.shape == (8 + 16, 8 + 24 + 8 + 8, 3)
    assert (joined[:, :32] == 50).all()
    assert (joined[:, 32:] == 200).all()


def test_the_fusion_stage_fits_in() -> None:
    """A sample of foreground, background and composite is shown by the same code; a foreground of another size whole."""
    rng = np.random.default_rng(2)
    picture = rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)
    mask = np.zeros((60, 90), np.uint8)
    mask[10:20, 10:20] = 255
    members = {"mask.png": _png(mask), "alpha.png": _png(mask), "foreground.jpg": _jpg(picture[:40, :50])}
    members |= {"background.jpg": _jpg(picture), "composite.jpg": _jpg(picture)}
    cut = cut_tiles(members, STAGES["fusion"], side=32)
    assert cut is not None
    assert [tile.shape[:2] for tile in cut.tiles] == [(26, 32), (32, 32), (32, 32), (32, 32)]
    assert STAGES["fusion"].before == "background"


def test_a_sample_without_a_picture_has_none(mixed: Path) -> None:
    """An unreadable sample has no place on a sheet and keeps its row."""
    _, columns = read_index(mixed)
    assert [place is None for place in columns["sheet"]] == [False, False, False, True]
    assert columns["sheet"][0] == columns["sheet"][1] != columns["sheet"][2]


def _png(picture: Any) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()


def _jpg(picture: Any) -> bytes:
    options = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_QUALITY, 95)
    return cv2.imencode(".jpg", picture, options)[1].tobytes()


# Odd runs


def test_many_samples_fill_many_sheets_and_chunks(
    make_run: MakeRun, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sample is found on its own sheet and in its own chunk."""
    monkeypatch.setattr(gallery, "_SAMPLES_A_CHUNK", 10)
    records = [sample(n, **({"status": "rejected", "reason": "clipping"} if n % 3 == 0 else {})) for n in range(1, 36)]
    page = write_gallery(make_run(records)).page
    data, columns = read_index(page)
    assert [count for _, count in data["chunks"]] == [10, 10, 10, 5]
    assert [row["target_image_id"] for row in read_details(page)] == list(range(1, 36))
    places = list(zip(columns["sheet"], columns["top"], strict=True))
    assert len(set(places)) == 35
    assert len(data["sheets"]) == 3 + 2
    assert {path.name for path in (page.parent / "sheets").iterdir()} == {name for name, _, _ in data["sheets"]}
    assert all(len(tiles_on_sheet(page, number)) == 3 for number in (0, 17, 34))


def test_an_empty_run_has_a_gallery(make_run: MakeRun) -> None:
    """A run that planned nothing is no error."""
    written = write_gallery(make_run([]))
    assert (written.samples, written.pictured) == (0, 0)
    assert read_index(written.page)[1]["key"] == []


def test_a_run_of_rejected_samples_only_has_a_gallery(make_run: MakeRun, sample: Sample) -> None:
    """Nothing kept is no error either."""
    written = write_gallery(make_run([sample(n, status="rejected", reason="hue_flip") for n in (1, 2)]))
    assert (written.samples, written.pictured) == (2, 2)


def test_a_missing_shard_leaves_the_rest(make_run: MakeRun, sample: Sample) -> None:
    """Where a tar is gone its samples are listed without pictures; telling the damage is for `verify`."""
    layout = make_run(_mixed(sample))
    layout.shard("train-00000").unlink()
    assert write_gallery(layout).pictured == 1


def test_an_unfinished_run_is_refused(make_run: MakeRun, sample: Sample) -> None:
    """Without a manifest there is nothing to show yet."""
    layout = make_run([sample(1)])
    layout.manifest.unlink()
    with pytest.raises(BadRequest, match="not finished"):
        write_gallery(layout)


def test_a_damaged_index_is_one_line(make_run: MakeRun, sample: Sample) -> None:
    """A file of the index that cannot be read is named, and no half gallery stays."""
    layout = make_run([sample(1)])
    layout.index("train-00000").write_bytes(b"PAR1 no more")
    with pytest.raises(BadRequest, match=r"train-00000\.parquet is damaged"):
        write_gallery(layout)
    assert not [path.name for path in layout.run.iterdir() if "gallery" in path.name]


def test_numbers_that_are_none_become_null(make_run: MakeRun, sample: Sample) -> None:
    """Infinity and NaN, which no script of a page may hold, are unknown."""
    page = write_gallery(make_run([sample(1)])).page
    assert gallery._squeeze({"a": [float("nan"), 1.0], "b": [None, None], "c": [2, 2]}) == [
        ["a", [None, 1.0]],
        ["c", 2],
    ]
    assert gallery._short(float("inf")) is None
    assert "NaN" not in (page.parent / "data" / "index.js").read_text()


# Text from outside


class _Tags(HTMLParser):
    """Collect the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("field", ["key", "split", "family", "reason"])
def test_hostile_text_in_a_record_stays_text(make_run: MakeRun, sample: Sample, field: str) -> None:
    """Markup, quotes and line separators in a record arrive in the page's data as they are, and nowhere else."""
    record = sample(1, **{"status": "rejected", "reason": "halo", field: HOSTILE.replace("/", "|")})
    page = write_gallery(make_run([record])).page
    assert read_details(page)[0][field] == record[field]
    assert "{{7*7}}" not in page.read_text()


def test_hostile_text_in_the_name_stays_text(make_run: MakeRun, sample: Sample) -> None:
    """The run's name comes from outside as well."""
    page = write_gallery(make_run([sample(1)], name="<img src=x>&amp;")).page
    assert "<img" not in page.read_text()
    assert read_index(page)[0]["name"] == "<img src=x>&amp;"


def test_the_page_asks_nobody_for_anything(mixed: Path) -> None:
    """It loads one file, from beside it, and its policy lets nothing else in."""
    reader = _Tags()
    reader.feed(mixed.read_text("utf-8"))
    assert [values["src"] for _, values in reader.tags if values.get("src")] == ["data/index.js"]
    assert "link" not in dict(reader.tags)
    assert "default-src 'none'" in mixed.read_text()
    assert not re.findall(r"@import|url\(|innerHTML|insertAdjacentHTML|eval\(|https?://(?!\.)", mixed.read_text())
    ids = [values["id"] for _, values in reader.tags if "id" in values]
    assert len(ids) == len(set(ids))


# Files


def test_the_same_run_gives_the_same_bytes(make_run: MakeRun, sample: Sample) -> None:
    """Writing a gallery twice, by this process or by workers, changes no byte and leaves nothing beside it."""
    layout = make_run(_mixed(sample))
    before = {path.name for path in layout.run.iterdir()}
    first = files_of(write_gallery(layout).page.parent)
    with LocalRunner(1) as runner:
        again = files_of(write_gallery(layout, over=runner.map).page.parent)
    assert again == first
    assert {path.name for path in layout.run.iterdir()} == before | {"gallery"}


def test_a_failure_leaves_the_old_gallery(make_run: MakeRun, sample: Sample) -> None:
    """What ends in the middle changes nothing and leaves nothing behind."""
    layout = make_run(_mixed(sample))
    first = files_of(write_gallery(layout).page.parent)

    def failing(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        for item in items:
            work(item)
            raise OSError(28, "No space left on device")
        return iter(())

    with pytest.raises(OSError, match="No space"):
        write_gallery(layout, over=failing)
    assert files_of(layout.run / "gallery") == first
    assert not list(layout.run.glob(".gallery*"))


def test_what_a_killed_one_left_is_swept(make_run: MakeRun, sample: Sample) -> None:
    """Folders of a gallery that was never finished are no obstacle and go away; the user's files in them do not."""
    layout = make_run([sample(1)])
    (layout.run / ".gallery.tmp" / "sheets").mkdir(parents=True)
    (layout.run / ".gallery-old.tmp").mkdir()
    (layout.run / ".gallery-old.tmp" / "marks.txt").write_text("ban 1\n")
    page = write_gallery(layout).page
    assert (page.parent / "marks.txt").read_text() == "ban 1\n"
    assert not list(layout.run.glob(".gallery*"))


def test_files_of_the_user_stay(make_run: MakeRun, sample: Sample) -> None:
    """A list that was saved into the folder outlives a new gallery; pictures of the old one do not."""
    layout = make_run([sample(1)])
    folder = write_gallery(layout).page.parent
    (folder / "marks.txt").write_text("ban 1\n")
    (folder / "sheets" / "99999-000.jpg").write_bytes(b"old")
    write_gallery(layout)
    assert (folder / "marks.txt").read_text() == "ban 1\n"
    assert not (folder / "sheets" / "99999-000.jpg").exists()


def test_the_command_writes_a_gallery_and_the_run_stays_whole(
    tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`hcoco gallery RUN` says where the page is; `verify` finds nothing wrong afterwards."""
    layout = build_in(tiny_coco, tmp_path, samples=8)
    assert main(["gallery", str(layout.run), "--workers", "1", "--side", "64", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == told["pictured"] == 8
    assert told["size"] == sum(len(content) for content in files_of(layout.run / "gallery").values())
    assert {max(tile.shape) for tile in tiles_on_sheet(Path(told["page"]), 0)} == {64}
    assert list(verify_run(layout)) == []


@pytest.mark.parametrize("side", ["63", "1025", "x", "-1"])
def test_an_odd_side_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], side: str) -> None:
    """`--side` is a number of pixels from 64 to 1024."""
    assert main(["gallery", str(tmp_path), f"--side={side}"]) == 2
    assert "must be 64 to 1024" in capsys.readouterr().err
