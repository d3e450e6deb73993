"""Text from outside stays text in Markdown: it is rendered by a real renderer, and what comes out is what went in."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from flows.artifacts import _command, _link
from flows.view.markdown import as_code, as_text

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "](javascript:alert(1))",
    "[a](javascript:alert(1))",
    "![a](http://example.org/seen.png)",
    "<http://example.org>",
    "a | b",
    "a\nb\n\n# c\n\n---",
    "a\r\n- b\u2028c",
    "`",
    "``` a ```",
    "`a` `` b",
    "a\\`b\\",
    "*a* **b** _c_ __d__ snake_case_ ~~e~~ $f$",
    "# a",
    "&lt;b&gt; &amp;",
    "&#60;script&#62;",
    "a\ud800b\0c",
)


def shown(markdown: str) -> str:
    """Return the HTML that Markdown with tables, tags allowed, becomes."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    reader.validateLink = lambda _: True  # type: ignore[method-assign] # nothing is to depend on the renderer's own care
    return str(reader.render(markdown))


def plain(text: str) -> str:
    """Return what a text is when its whitespace is one space, and no lone surrogate nor NUL is in it."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().replace("\0", "\ufffd").split())


@pytest.mark.parametrize("text", HOSTILE)
def test_text_in_a_paragraph_is_text(text: str) -> None:
    """No tag, link, emphasis or heading comes of it, and every letter is there."""
    assert (
        unescape(shown(f"said: {as_text(text)}").removeprefix("<p>").removesuffix("</p>\n")) == f"said: {plain(text)}"
    )
    assert shown(f"said: {as_text(text)}").count("<") == 2


@pytest.mark.parametrize("text", HOSTILE)
def test_text_in_a_table_is_one_cell(text: str) -> None:
    """A row of two cells stays one."""
    html = shown(f"| a | b |\n|---|---|\n| {as_text(text)} | 1 |\n")
    assert html.count("<td>") == 2
    assert unescape(html.partition("<td>")[2].partition("</td>")[0]) == plain(text)
    assert "<script" not in html
    assert "href" not in html


@pytest.mark.parametrize("text", HOSTILE)
def test_code_is_a_code_span(text: str) -> None:
    """Whatever backticks it has, it ends where it is meant to end."""
    html = shown(f"- run: {as_code(text)} (ours)")
    assert html.startswith("<ul>\n<li>run: <code>")
    assert html.endswith("</code> (ours)</li>\n</ul>\n")
    assert html.count("<") == 6


@pytest.mark.parametrize("text", ["/data/a`b", "/data/a  b", "/data/`", "``", "/x_y/__z__"])
def test_code_can_be_copied(text: str) -> None:
    """A path stays the same, letter by letter."""
    assert unescape(shown(as_code(text))) == f"<p><code>{text}</code></p>\n"


@pytest.mark.parametrize("name", ["](javascript:alert(1))", "<b>`x`</b>", "__a__ & (b) | c", "a\nb"])
def test_a_folder_s_name_does_not_break_its_link(name: str, tmp_path: Path) -> None:
    """In Prefect's pages a page's address is one link to that page, and a command one span of code."""
    page = tmp_path / name / "index.html"
    html = shown(f"- report: {_link(page)}\n- gallery: write it by {_command('gallery', page.parent)}")
    assert html.count("<a ") == 1
    assert f'href="{page.as_uri()}"' in html
    assert f">{page.as_uri()}</a>" in html
    assert "<b>" not in html
