from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli import main
from flows.errors import BadRequest
from flows.make.verify import verify_run
from flows.store.layout import Layout
from flows.view.links import link_pages
from flows.view.quantiles import HCOCO, LEVELS
from flows.view.refresh import refresh_views, write_views
from flows.view.statistics import write_statistics
from tests.flows.make.building import build_in, rows_of

MakeRun = Callable[..., Layout]
Sample = Callable[..., dict[str, Any]]


def words_of(page: Path) -> str:
    """Return the text of a page, without tags and drawings."""
    text = page.read_text()
    text = re.sub(r"<(svg|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(text))


def links_of(page: Path) -> list[str]:
    """Return where a page leads to within the run."""
    return re.findall(r'<a href="(\.\./[^"]*)"', page.read_text())


def test_a_table_says_the_quantiles_of_each_group(make_run: MakeRun, sample: Sample) -> None:
    """Effects of 0, 10, ..., 1,000 in `mkl` and of 500 twice in `idt` have the quantiles that one counts."""
    records = [sample(n, foreground_mse=10.0 * n) for n in range(101)]
    records += [sample(n, family="idt", split="val", foreground_mse=500.0) for n in (200, 201)]
    words = words_of(write_statistics(make_run(records)).page)
    assert "Edits: 103 edited samples" in words
    assert "mkl 101 50 250 500 750 950" in words
    assert "idt 2 500 500 500 500 500" in words
    assert "train 101 50 250 500 750 950" in words
    assert "val 2 500 500 500 500 500" in words


def test_it_says_where_the_set_is_like_hcoco(make_run: MakeRun, sample: Sample) -> None:
    """Effects that are spread as HCOCO's are called alike, twice as large ones differ at every quantile."""
    spread = np.interp((np.arange(400) + 0.5) / 400, (0, *LEVELS, 1), (100, *HCOCO["foreground_mse"], 5000))
    for factor, verdict in ((1.0, "Like HCOCO"), (2.0, "Differs from HCOCO at 5 of 5 quantiles: larger at 5%")):
        records = [sample(n, foreground_mse=float(value * factor)) for n, value in enumerate(spread)]
        assert verdict in words_of(write_statistics(make_run(records)).page).partition("Share of the image")[2]


def test_rejected_samples_are_not_counted(make_run: MakeRun, sample: Sample) -> None:
    """The page is about what a trainer reads."""
    records = [sample(1), sample(2, status="rejected", reason="hue_flip", family="idt")]
    written = write_statistics(make_run(records))
    assert (written.samples, written.measured) == (1, 1)
    assert "idt" not in words_of(written.page)


@pytest.mark.parametrize("rejected", [0, 3])
def test_a_run_that_kept_nothing_says_so(make_run: MakeRun, sample: Sample, rejected: int) -> None:
    """Empty or all rejected, it has a page."""
    records = [sample(n, status="rejected", reason="hue_flip") for n in range(rejected)]
    assert "No sample of this run was kept" in words_of(write_statistics(make_run(records)).page)


def test_samples_without_pictures_are_counted_as_such(make_run: MakeRun, sample: Sample) -> None:
    """A lost tar costs what the pictures say, not what the index says."""
    layout = make_run([sample(1), sample(2)])
    layout.shard("train-00000").unlink()
    written = write_statistics(layout)
    assert (written.samples, written.measured) == (2, 0)
    words = words_of(written.page)
    assert "the pictures of 2 cannot be read, hcoco verify tells why" in words
    assert "Effect size" in words
    assert "Luminance before" not in words


def test_an_unfinished_run_is_refused(make_run: MakeRun, sample: Sample) -> None:
    """One line says what to do first."""
    layout = make_run([sample(1)])
    layout.manifest.unlink()
    with pytest.raises(BadRequest, match="run the same build again"):
        write_statistics(layout)
    assert not layout.statistics.exists()


def test_text_of_the_run_is_shown_as_text(make_run: MakeRun, sample: Sample) -> None:
    """No name from a run becomes a tag, neither in a table nor in a drawing."""
    hostile = "<script>pwned()</script>"
    page = write_statistics(make_run([sample(1, family=hostile)], name="<b>&amp;")).page.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<b>" not in page


@pytest.mark.parametrize(
    "hostile",
    [
        "</text></svg><img src=x onerror=pwned()>",
        "--><b>x</b><!--",
        '" onload="pwned()',
        "](javascript:pwned())",
        "a | b",
        "a\nb\u2028c",
        "`x`",
        "$\\frac{$ {{ 7 * 7 }} {% x %}",
        "&lt;b&gt;",
        "\0\x1b[31m",
        "x" * 10_000,
    ],
)
def test_a_family_of_any_name_is_shown(make_run: MakeRun, sample: Sample, hostile: str) -> None:
    """A family that a stranger named is a row of its own: the page has the tags that it has with any other name."""
    page, other = (
        write_statistics(make_run([sample(1, family=family)], name=name)).page.read_text()
        for family, name in ((hostile, "one"), ("mkl", "other"))
    )
    text = " ".join(hostile.split()).replace("\0", "").replace("\x1b", "")
    assert text[:50] in " ".join(unescape(page).split()).replace("\0", "").replace("\x1b", "")
    assert re.findall(r"<[a-z/!][^>\s]*", page) == re.findall(r"<[a-z/!][^>\s]*", other)
    assert not re.findall(r"\son[a-z]+=", re.sub(r">[^<]*<", "><", page))


def test_pages_lead_to_those_that_are_there(make_run: MakeRun, sample: Sample) -> None:
    """A small run has all three pages; each leads to the two others, and without one no link to it is left."""
    layout = make_run([sample(1)])
    views = write_views(layout, planned=1)
    assert views.gallery
    assert views.statistics
    report, gallery, statistics = (f"../{name}/index.html" for name in ("report", "gallery", "statistics"))
    assert links_of(views.report) == [gallery, statistics]
    assert set(links_of(views.gallery)) == {report, statistics}
    assert links_of(views.statistics) == [report, gallery]
    views.gallery.unlink()
    link_pages(layout)
    assert links_of(views.report) == [statistics]


def test_a_large_run_gets_its_statistics_by_the_command_alone(make_run: MakeRun, sample: Sample) -> None:
    """Above a thousand samples a build measures nothing unasked; once there, the page follows."""
    layout = make_run([sample(1)])
    assert write_views(layout, planned=1001).statistics is None
    write_statistics(layout)
    assert write_views(layout, planned=1001).statistics == layout.statistics


def test_the_command_writes_the_page_and_a_decision_changes_it(
    tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`hcoco statistics RUN` says where it is; the same run gives the same bytes; a ban takes the banned out of it."""
    layout = build_in(tiny_coco, tmp_path, samples=8)
    assert main(["statistics", str(layout.run), "--workers", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    kept = [row for row in rows_of(layout) if row["status"] == "kept"]
    assert told["samples"] == told["measured"] == len(kept) > 1
    assert Path(told["page"]) == layout.statistics
    refresh_views(layout)
    first = layout.statistics.read_bytes()
    refresh_views(layout)
    assert layout.statistics.read_bytes() == first
    (tmp_path / "list").write_text(f"ban {kept[0]['key']}\n")
    assert main(["ban", str(layout.run), str(tmp_path / "list")]) == 0
    assert f"{len(kept) - 1} kept samples" in words_of(layout.statistics)
    assert list(verify_run(layout)) == []
    assert main(["undo", str(layout.run)]) == 0
    assert layout.statistics.read_bytes() == first
