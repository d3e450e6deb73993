"""What is wrong with a request is one line that can be read."""

from __future__ import annotations

from flows.errors import BadRequest


def test_what_is_quoted_breaks_no_line() -> None:
    """A name with line breaks in it stays in the line."""
    assert str(BadRequest("the file a\nb\r\nc is damaged")) == "the file a b c is damaged"


def test_what_is_quoted_makes_no_page_of_a_line() -> None:
    """Of a megabyte of quotation the beginning is told, and at the end what is to be done."""
    told = str(BadRequest(f"plan.json is damaged ({'x' * 1_000_000}); restore it, or build into another --run"))
    assert len(told) < 2000
    assert told.startswith("plan.json is damaged (xxx")
    assert told.endswith("xxx); restore it, or build into another --run")
