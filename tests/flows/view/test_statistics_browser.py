"""Read the statistics of a run as a person does, in headless Chromium; skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.store.layout import Layout
from flows.view.refresh import write_views

MakeRun = Callable[..., Layout]
Sample = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def page(make_run: MakeRun, sample: Sample) -> Path:
    """Return the page of a run of 40 samples, with a report and a gallery beside it."""
    records = [
        sample(
            number,
            family=("mkl", "idt", "luminance_cct")[number % 3],
            split=("train", "val", "test")[number % 3],
            strength=0.3 + number / 100,
            foreground_mse=100.0 + 40 * number,
            score=number / 50,
        )
        for number in range(40)
    ]
    statistics = write_views(make_run(records), planned=40).statistics
    assert statistics is not None
    return statistics


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Path, browser: Any, scheme: str) -> None:
    """Names, roles, contrast and order are in place, in light and dark, with every table open."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra `browser`")
    context = browser.new_context(color_scheme=scheme)
    shown = context.new_page()
    shown.goto(page.as_uri())
    shown.locator("details").evaluate_all("(all) => all.forEach((each) => { each.open = true; })")
    violations = axe.Axe().run(shown).response["violations"]
    assert [
        (each["id"], each["nodes"][0]["html"]) for each in violations if each["impact"] in {"serious", "critical"}
    ] == []
    context.close()


def test_a_phone_scrolls_one_way_and_reads_the_plots(page: Path, browser: Any) -> None:
    """On a narrow screen nothing sticks out, open tables neither, and the names in the plots stay readable."""
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    shown = context.new_page()
    shown.goto(page.as_uri())
    shown.locator("details").evaluate_all("(all) => all.forEach((each) => { each.open = true; })")
    assert shown.evaluate("document.documentElement.scrollWidth") <= 360
    name = shown.locator("svg text", has_text="luminance_cct").first
    assert name.bounding_box()["height"] >= 8
    assert name.bounding_box()["x"] >= 0
    context.close()


def test_everything_is_asked_of_the_page_alone(page: Path, browser: Any) -> None:
    """One file is opened and nothing else, no error is told, and the plots take the page's colours."""
    context = browser.new_context(color_scheme="dark")
    shown = context.new_page()
    asked: list[str] = []
    told: list[str] = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("console", lambda message: told.append(message.text))
    shown.goto(page.as_uri())
    assert (asked, told) == ([page.as_uri()], [])
    colour = "(each) => getComputedStyle(each).fill"
    ink = shown.evaluate("getComputedStyle(document.body).color")
    assert shown.locator("svg text", has_text="all").first.evaluate(colour) == ink
    context.close()


def test_links_lead_from_page_to_page(page: Path, browser: Any) -> None:
    """From the statistics to the report, on to the gallery, and back; a section is found by its link."""
    context = browser.new_context()
    shown = context.new_page()
    shown.goto(page.as_uri())
    shown.click("text=Change of luminance >> nth=0")
    assert shown.evaluate("location.hash") == "#harmonization-stops"
    for name, folder in (("Report", "report"), ("Gallery of all samples", "gallery"), ("Statistics", "statistics")):
        shown.click(f".pages a:text-is('{name}'), nav a:text-is('{name}')")
        shown.wait_for_url(f"**/{folder}/index.html*")
    context.close()
