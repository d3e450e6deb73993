"""Text from outside in tables that people open with a spreadsheet."""

from __future__ import annotations

from typing import Final

_FORMULA: Final = frozenset("=+-@")


def harmless_cell(value: object) -> object:
    """Return a cell of a CSV file so that no spreadsheet takes text from outside for a formula.

    A quotation mark before it makes it text (OWASP, CSV Injection); numbers stay as they are.
    """
    return f"'{value}" if isinstance(value, str) and value.lstrip()[:1] in _FORMULA else value
