"""Open a report whose every text is hostile in headless Chromium; skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from flows.store.layout import Layout
from flows.view.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")

HOSTILE = "</script><img src=x onerror='window.pwned=1'>\"&amp;<svg onload=window.pwned=1>"


def _hostile(value: Any) -> Any:
    """Put hostile text behind every text of a record, so that none of it is forgotten."""
    if isinstance(value, dict):
        return {name: _hostile(each) for name, each in value.items()}
    return value + HOSTILE if isinstance(value, str) else value


@pytest.mark.slow
def test_hostile_text_in_every_field_is_shown_and_not_run(
    make_run: Callable[..., Layout], sample: Callable[..., dict[str, Any]]
) -> None:
    """Records, reasons, families, settings, licences, code and the run's name come from outside: none becomes markup."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine")
    record = {**_hostile(sample(1, status="x", reason="halo")), "status": "rejected"}
    layout = make_run(
        [record],
        name="<img src=x onerror=window.pwned=1>",
        settings={HOSTILE: HOSTILE, "source": HOSTILE},
        code={"hcoco": HOSTILE, HOSTILE: HOSTILE},
        gate={"audit": HOSTILE},
        plan={"licenses": {"4": {"name": HOSTILE, "url": "javascript:window.pwned=1"}, HOSTILE: HOSTILE}},
    )
    page_path = write_report(layout)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_path.as_uri())
        page.locator("#samples .strip").first.click()
        page.wait_for_selector("dialog[open]")
        assert HOSTILE in page.locator("dialog").inner_text()
        assert page.evaluate("window.pwned") is None
        assert page.locator("img[onerror], svg[onload], [href^=javascript]").count() == 0
        assert errors == []
        browser.close()
