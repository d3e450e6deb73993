"""The queries of docs/index.md: every block is taken from the page, run in a run's folder, and checked."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, Final

import duckdb
import pandas as pd
import polars as pl
import pytest

from flows.store.layout import Layout
from flows.store.read import read_sample
from tests.conftest import ROOT
from tests.flows.make.building import build_in, rows_of

PAGE: Final = (ROOT / "docs" / "index.md").read_text()
SECTIONS: Final = {
    title: re.findall(r"```(?:sql|python)\n(?:--|#) (.*?)\n(.*?)```", text, re.DOTALL)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
}
"""Title to the blocks below it, each a tool's name and the code."""
TOOLS: Final = ("DuckDB", "pandas", "Polars")


@pytest.fixture(scope="module")
def run(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a small run with kept and rejected samples."""
    return build_in(tiny_coco, tmp_path_factory.mktemp("queries"))


def answer(tool: str, code: str) -> list[dict[str, Any]]:
    """Run a block; return its answer as rows, whatever tool gave it."""
    if tool == "DuckDB":
        table = duckdb.sql(code).df()
        return rows_of_frame(table)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - a block of our own page
    found = names["answer"]
    return found.to_dicts() if isinstance(found, pl.DataFrame) else rows_of_frame(found)


def rows_of_frame(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows of plain values."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def answers(title: str, run: Layout, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Run the blocks of a section; return what all three tools agree on."""
    monkeypatch.chdir(run.run)
    blocks = {tool: code for tool, code in SECTIONS[title] if tool in TOOLS}
    assert tuple(blocks) == TOOLS
    first, *others = (answer(tool, code) for tool, code in blocks.items())
    for other in others:
        assert other == first
    return first


def test_the_page_has_five_questions() -> None:
    """Every section of the page is tested below."""
    assert list(SECTIONS) == [
        "How many, of which family, and why were they dropped?",
        "Which samples only just passed, or only just failed?",
        "Which kept samples are the hardest?",
        "Under which licences are they?",
        "Does a photograph stand in two splits?",
    ]


def test_counts_by_outcome_and_family(run: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes and families are counted as a count in Python does."""
    rows = answers("How many, of which family, and why were they dropped?", run, monkeypatch)
    expected = Counter((row["reason"] or "kept", row["family"]) for row in rows_of(run))
    assert len({outcome for outcome, _ in expected}) > 1
    assert {(row["outcome"], row["family"]): row["samples"] for row in rows} == expected
    assert [(row["outcome"], row["family"]) for row in rows] == sorted(expected)


def test_samples_near_the_limit(run: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples within a tenth of the limit come, the nearest first."""
    rows = answers("Which samples only just passed, or only just failed?", run, monkeypatch)
    near = [row for row in rows_of(run) if row["foreground_mse"] and 90 <= row["foreground_mse"] <= 110]
    near.sort(key=lambda row: (abs(row["foreground_mse"] - 100), row["key"]))
    assert [row["key"] for row in rows] == [row["key"] for row in near]


def test_hardest_kept_samples(run: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ten kept samples of the least PSNR come, the least first, with their places."""
    rows = answers("Which kept samples are the hardest?", run, monkeypatch)
    kept = sorted((row for row in rows_of(run) if row["status"] == "kept"), key=lambda row: (row["psnr"], row["key"]))
    columns = ("key", "family", "psnr", "tar", "offset", "size")
    assert rows == [{name: row[name] for name in columns} for row in kept[:10]]


def test_one_sample_is_read_by_its_place(run: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's way of reading one sample gives its composite, byte by byte."""
    monkeypatch.chdir(run.run)
    (code,) = (code for tool, code in SECTIONS["Which kept samples are the hardest?"] if tool not in TOOLS)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - a block of our own page
    row = names["hardest"]
    stored = read_sample(run.run / row["tar"], offset=int(row["offset"]), size=int(row["size"]))
    assert names["composite"] == stored.members["composite.jpg"]


def test_licences(run: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept samples and their photographs are counted by licence."""
    rows = answers("Under which licences are they?", run, monkeypatch)
    kept = [row for row in rows_of(run) if row["status"] == "kept"]
    assert rows == [{"license": 4, "kept": len(kept), "photographs": len({row["target_image_id"] for row in kept})}]


def test_no_photograph_in_two_splits(run: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run has no leak; one that is forged into an index is found by all three tools."""
    title = "Does a photograph stand in two splits?"
    assert answers(title, run, monkeypatch) == []
    rows = pd.DataFrame(
        [
            {"split": "train", "target_image_id": 1, "reference_image_id": 2},
            {"split": "val", "target_image_id": 3, "reference_image_id": 1},
        ]
    )
    (tmp_path / "index").mkdir()
    rows.to_parquet(tmp_path / "index" / "a.parquet")
    assert answers(title, Layout(tmp_path), monkeypatch) == [{"image_id": 1, "splits": 2}]
