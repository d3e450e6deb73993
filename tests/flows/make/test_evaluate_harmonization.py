"""Harmonizers compared: on a folder whose answers are known, on runs, and what cannot be compared."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from flows.errors import BadRequest
from flows.make.evaluate_harmonization import (
    Interval,
    Measured,
    Tally,
    bootstrap,
    evaluate_harmonization,
    judge_change,
    open_methods,
    read_harmonizers,
    summarize,
)
from flows.make.harmonize import transfer_from_background
from flows.runners import LocalRunner
from flows.store.layout import Layout
from realism.conventions import CONVENTIONS, MEASURES
from realism.harmonizers import HarmonizerCheckpoint, build_harmonizer, save_harmonizer
from realism.harmonizers.masked_unet import MaskedUnetShape
from tests.flows.make.building import build_in

SIDE = 256
OFFSETS = (10, 20, 40)
"""Levels by which the composites of the hand-made data set are too bright inside."""


def write_png(path: Path, picture: Any) -> None:
    """Write uint8 (H, W) or (H, W, 3) RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture[..., ::-1] if picture.ndim == 3 else picture)


@pytest.fixture(scope="module")
def iharmony4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set that no program made: grey photographs, three composites too bright in a square.

    Two composites show one photograph, with a mask of 1/64 of the picture; the third shows another, with a mask of 1/4.
    """
    folder = tmp_path_factory.mktemp("data") / "HCOCO"
    for name, side in (("c1", 32), ("c2", 128)):
        real = np.full((SIDE, SIDE, 3), 100, np.uint8)
        real[0, 0], real[0, 1] = 0, 250
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[64 : 64 + side, 64 : 64 + side] = 255
        write_png(folder / "real_images" / f"{name}.png", real)
        write_png(folder / "masks" / f"{name}_7.png", mask)
        for number, offset in enumerate(OFFSETS[:2] if name == "c1" else OFFSETS[2:], start=1):
            composite = real + (mask > 0)[..., None].astype(np.uint8) * np.uint8(offset)
            write_png(folder / "composite_images" / f"{name}_7_{number}.png", composite)
    return folder


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the weights of an untrained masked U-Net, which changes nothing."""
    shape = MaskedUnetShape((4, 6))
    path = tmp_path_factory.mktemp("unet") / "unet"
    save_harmonizer(HarmonizerCheckpoint("masked_unet", build_harmonizer("masked_unet", shape), side=32), path)
    return path.with_suffix(".pt")


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return what was printed as JSON."""
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_a_folder_has_the_answers_known_by_hand(iharmony4: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MSE, foreground MSE and PSNR of no change, under each convention, worked out on paper."""
    assert main(["evaluate", "harmonization", str(iharmony4), "--json", "--workers", "1"]) == 0
    found = told(capsys)
    assert (found["samples"], found["photographs"], found["groups"]) == (3, 2, {"HCOCO": 3})
    squares, areas = np.array([100.0, 400.0, 1600.0]), np.array([1 / 64, 1 / 64, 1 / 4])
    scaled, inside = (squares * areas), squares
    expected = {
        "iharmony4": (scaled.mean(), np.mean(10 * np.log10(250**2 / scaled))),
        "issam": (scaled.mean(), np.mean(10 * np.log10(250**2 / scaled))),
        "native": (inside.mean(), np.mean(10 * np.log10(255**2 / inside))),
        "pasted": (scaled.mean(), np.mean(10 * np.log10(255**2 / scaled))),
    }
    assert list(found["conventions"]) == list(expected)
    for name, (mse, psnr) in expected.items():
        row = found["conventions"][name]["rows"][0]
        assert row["method"] == "no_change"
        assert row["mse"]["mean"] == pytest.approx(mse, rel=1e-5)
        assert row["fmse"]["mean"] == pytest.approx(700, rel=1e-5)
        assert row["psnr"]["mean"] == pytest.approx(psnr, abs=1e-4)
        bins = found["conventions"][name]["bins"]
        assert [(each["samples"], each["fmse"]["no_change"]["mean"]) for each in bins] == [
            (2, pytest.approx(250, rel=1e-5)),
            (1, pytest.approx(1600, rel=1e-5)),
        ]


def test_the_background_s_colour_mends_a_flat_subject(iharmony4: Path) -> None:
    """Reinhard's transfer from a grey background brings the bright square back, so it is better than no change."""
    found = evaluate_harmonization(iharmony4, harmonizers={})
    row = next(row for row in found.tables["native"].rows if row.method == "reinhard")
    assert row.worse is not None
    assert row.change is not None
    assert row.measures["fmse"].mean < 60
    assert row.worse.mean == 0
    assert judge_change(row.change) == "better"


def test_outside_the_mask_baselines_change_nothing() -> None:
    """And inside they take the background's mean."""
    rng = np.random.default_rng(0)
    composite = rng.integers(60, 90, (40, 50, 3), dtype=np.uint8)
    composite[10:30, 10:30] += 100
    mask = np.zeros((40, 50), np.uint8)
    mask[10:30, 10:30] = 255
    for family in ("reinhard", "histogram"):
        made = transfer_from_background(composite, mask, family=family)
        assert np.array_equal(made[mask == 0], composite[mask == 0])
        assert abs(made[mask > 0].mean() - composite[mask == 0].mean()) < 3


def test_an_untrained_network_is_no_change(iharmony4: Path, unet: Path) -> None:
    """Its figures are those of doing nothing, no sample is worse, and the difference is said to be none."""
    found = evaluate_harmonization(iharmony4, harmonizers={"unet": unet})
    rows = {row.method: row for row in found.tables["native"].rows}
    assert rows["unet"].measures == rows["no_change"].measures
    assert rows["unet"].worse == Interval(0, 0, 0)
    assert judge_change(rows["unet"].change or Interval(1, 1, 1)) == "no difference"


@pytest.mark.slow
def test_workers_change_no_digit(whole_run: Layout, unet: Path) -> None:
    """Two processes measure what one does, networks too."""
    alone = evaluate_harmonization(whole_run.run, harmonizers={"unet": unet}, split="train")
    with LocalRunner(2) as runner:
        together = evaluate_harmonization(whole_run.run, harmonizers={"unet": unet}, split="train", over=runner.map)
    assert alone.to_json() == together.to_json()


def test_a_run_is_read_split_by_split(whole_run: Layout) -> None:
    """Its kept samples, each once, with the foreground MSE that the run's records have."""
    alone = evaluate_harmonization(whole_run.run, harmonizers={}, split="train")
    rows = [row for path in sorted((whole_run.run / "index").iterdir()) for row in pq.read_table(path).to_pylist()]
    kept = {row["key"]: row for row in rows if row["status"] == "kept" and row["split"] == "train"}
    assert sorted(alone.tally.names) == sorted(kept)
    at = list(CONVENTIONS).index("native"), MEASURES.index("fmse")
    for name, figures in zip(alone.tally.names, alone.tally.figures, strict=True):
        assert figures[0, *at] == pytest.approx(kept[name]["foreground_mse"], abs=1e-3)


@pytest.fixture(scope="module")
def plain_page(iharmony4: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the page of the data set whose names mean nothing."""
    page = tmp_path_factory.mktemp("plain") / "page.html"
    assert main(["evaluate", "harmonization", str(iharmony4), "--workers", "1", "--page", str(page)]) == 0
    return page.read_text()


@pytest.mark.parametrize(
    "name", ["c1<img src=x onerror=pwned()>`|$&amp;{{7*7}}", "c1](javascript:pwned())\n", "=c1+cmd|x!A\udcff"]
)
def test_names_of_files_stay_text(
    name: str, iharmony4: Path, plain_page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the page and in the table: no tag, no address, no formula, and no name that ends the command."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(iharmony4, name)
    for path in sorted(Path(name).rglob("c1*.png")):
        path.rename(path.with_name(f"{name}{path.name.removeprefix('c1')}"))
    command = ["evaluate", "harmonization", name, "--workers", "1"]
    assert main([*command, "--page", "page.html", "--output", "figures.csv"]) == 0
    page = Path("page.html").read_text()
    assert re.findall(r"<[a-z/!][^>\s]*", page) == re.findall(r"<[a-z/!][^>\s]*", plain_page)
    assert not re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,|#)', page)
    with Path("figures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shown = name.encode("utf-8", "backslashreplace").decode()
    assert all(row["sample"].startswith(f"'{shown}" if name[0] == "=" else shown) for row in rows)


def test_figures_and_page_are_written(
    iharmony4: Path, unet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row a sample and method; a page that asks nobody for anything, with nine pictures of each changing method."""
    page, table = tmp_path / "page.html", tmp_path / "figures.csv"
    command = ["evaluate", "harmonization", str(iharmony4), "--harmonizer", f"unet={unet}", "--workers", "1"]
    assert main([*command, "--page", str(page), "--output", str(table)]) == 0
    text = capsys.readouterr().out
    assert "not comparable: these are 3 other samples" in text
    assert "iharmony4: 256 x 256 bicubic, peak = range of the composite" in text
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4
    assert float(rows[0]["native_fmse"]) in {100.0, 400.0, 1600.0}
    markup = page.read_text()
    assert "http" not in markup.replace("http://www.w3.org", "").replace('http-equiv="Content', "")
    assert markup.count("<img ") == 3 * 3 * 6
    assert markup.count("<svg") == 3


def test_axe_finds_nothing(iharmony4: Path, tmp_path: Path) -> None:
    """Names, roles, contrast and order are in place, in light and dark."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra `browser`")
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine")
    page = tmp_path / "page.html"
    assert main(["evaluate", "harmonization", str(iharmony4), "--workers", "1", "--page", str(page)]) == 0
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            tab = browser.new_context(color_scheme=scheme).new_page()
            tab.goto(page.as_uri())
            violations = axe.Axe().run(tab).response["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in violations] == []
        browser.close()


def _spoil(folder: Path) -> dict[str, int]:
    """Add to a data set a composite for each way of being of no use; return the reasons and how often each is due."""
    grey = np.full((SIDE, SIDE, 3), 90, np.uint8)
    square = np.zeros((SIDE, SIDE), np.uint8)
    square[:64, :64] = 255
    coloured = np.zeros((SIDE, SIDE, 3), np.uint8)
    coloured[:64, :64, 0] = 255
    masks: dict[str, Any] = {
        "x1": None,
        "x2": square,
        "x3": square,
        "x4": square[:, 1:],
        "x5": square // 30,
        "x6": np.full_like(square, 255),
        "x7": square,
        "x8": coloured,
        "x9": square[61:67, :6],
    }
    for name, mask in masks.items():
        composite = grey[:6, :6] if name == "x9" else grey
        if mask is not None:
            write_png(folder / "masks" / f"{name}_1.png", mask)
        if name != "x2":
            write_png(folder / "real_images" / f"{name}.png", composite[:, 4:] if name == "x3" else composite)
        write_png(folder / "composite_images" / f"{name}_1_1.png", composite)
    (folder / "composite_images" / "x7_1_1.png").write_text("no picture")
    reasons = ("mask_missing", "real_missing", "mask_empty", "mask_full", "unreadable", "mask_coloured", "too_small")
    return {**dict.fromkeys(reasons, 1), "size_mismatch": 2}


def test_what_cannot_be_measured_is_counted(
    iharmony4: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every bad composite has a reason, the others are measured."""
    folder = tmp_path / "HCOCO"
    shutil.copytree(iharmony4, folder)
    due = _spoil(folder)
    assert main(["evaluate", "harmonization", str(folder), "--json", "--workers", "1"]) == 0
    found = told(capsys)
    assert (found["samples"], found["reasons"]) == (3, due)


def test_nothing_to_measure_is_one_line(iharmony4: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All composites have a reason: a bad request that names it."""
    folder = tmp_path / "HCOCO"
    shutil.copytree(iharmony4, folder)
    shutil.rmtree(folder / "real_images")
    assert main(["evaluate", "harmonization", str(folder), "--workers", "1"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"hcoco evaluate: none of the 3 composites in {folder} can be measured: real_missing 3 (")
    assert line.count("\n") == 1


def test_runs_that_cannot_be_measured_are_told(
    whole_run: Layout, damaged_run: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    """No test samples; a damaged tar; an unfinished run; no such folder."""
    command = ["evaluate", "harmonization", "--workers", "1"]
    assert main([*command, str(whole_run.run)]) == 2
    assert "has no kept harmonization samples in the split test" in capsys.readouterr().err
    damaged_run.shard("train-00000").write_bytes(b"no tar")
    assert main([*command, str(damaged_run.run), "--split", "train"]) == 2
    assert "shards/train-00000.tar is damaged at" in capsys.readouterr().err
    damaged_run.manifest.unlink()
    assert main([*command, str(damaged_run.run)]) == 2
    assert "is not finished" in capsys.readouterr().err
    assert main([*command, str(damaged_run.run / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("given", ["unet", "=a.pt", "unet=", "no_change=a.pt", "reinhard=a.pt", "unet=nowhere.pt"])
def test_bad_harmonizers_are_one_line(given: str) -> None:
    """No pair, a baseline's name, no such file."""
    with pytest.raises(BadRequest, match=r"--harmonizer"):
        read_harmonizers([given])


def test_a_stage_is_measured_alone(tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run with copy-paste pairs only the harmonization samples are measured, or only the pairs."""
    layout = build_in(tiny_coco, tmp_path, stages="harmonization,copypaste", samples=6)
    for stage, number in (("harmonization", "-00"), ("copypaste", "-100")):
        found = evaluate_harmonization(layout.run, harmonizers={}, split="train", stage=stage)
        assert found.tally.names
        assert all(name.endswith(number) for name in found.tally.names)
    command = ["evaluate", "harmonization", str(layout.run), "--split", "train", "--stage", "copypaste"]
    assert main([*command, "--workers", "1", "--json"]) == 0
    assert told(capsys)["stage"] == "copypaste"


def naive_bootstrap(values: Any, clusters: list[str], *, seed: int, replicates: int) -> Any:
    """Draw clusters anew, one replicate at a time, and take the mean of all their rows."""
    rng, names = np.random.default_rng(seed), sorted(set(clusters))
    means = []
    for _ in range(replicates):
        drawn = [names[place] for place in rng.integers(len(names), size=len(names))]
        rows = [row for name in drawn for row, cluster in zip(values, clusters, strict=True) if cluster == name]
        means.append(np.nanmean(rows, axis=0))
    return np.percentile(means, [2.5, 97.5], axis=0)


def test_the_bootstrap_is_that_of_an_obvious_version() -> None:
    """Whole clusters are drawn, and the mean is over rows, not over clusters."""
    rng = np.random.default_rng(3)
    values = rng.normal(5, 2, (30, 3))
    clusters = [f"{number % 7}" for number in range(30)]
    means, low, high = bootstrap(values, clusters, seed=4, replicates=120)
    expected = naive_bootstrap(values, clusters, seed=4, replicates=120)
    assert np.allclose(means, values.mean(axis=0))
    assert np.allclose([low, high], expected)
    again = bootstrap(values, clusters, seed=4, replicates=120)
    assert np.array_equal(low, again[1])


def test_differences_are_paired() -> None:
    """A method that is better by the same amount everywhere has an interval of no width, however samples vary."""
    rng = np.random.default_rng(0)
    tally = Tally(("no_change", "one"))
    for number in range(40):
        figures = np.repeat(rng.uniform(100, 5000, (1, 4, 4)), 2, axis=0)
        figures[1, :, MEASURES.index("fmse")] -= 50
        tally.add(Measured(str(number), str(number), "run", 0.1, figures))
    row = summarize(tally, seed=0)["native"].rows[1]
    assert row.change is not None
    assert (row.change.low, row.change.high) == pytest.approx((-50, -50))
    assert row.measures["fmse"].high - row.measures["fmse"].low > 100


def test_values_that_do_not_count_are_left_out() -> None:
    """A column without a value has no mean, and says so with NaN."""
    values = np.array([[1.0, np.nan], [3.0, np.nan]])
    means, low, _ = bootstrap(values, ["a", "b"], seed=0)
    assert means[0] == 2
    assert np.isnan([means[1], low[1]]).all()


def test_every_method_sees_the_same_mask(unet: Path) -> None:
    """The table of methods begins with doing nothing, then the baselines, then the networks in the order given."""
    assert list(open_methods({"b": unet, "a": unet})) == ["no_change", "reinhard", "histogram", "b", "a"]
