"""Put text from outside into Markdown so that it stays text: names, paths, words of a run that somebody else made."""

from __future__ import annotations

import re
from typing import Final

_MEANS: Final = re.compile(r"[\\`*\[\]<>|#!~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""What begins or ends something in Markdown, wherever it stands; an underscore within a word does not."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Line ends among them: a code span is one line."""


def as_text(value: object) -> str:
    """Return a value as text for a paragraph or a table's cell: one line, and nothing in it that means something."""
    return _MEANS.sub(r"\\\g<0>", " ".join(_plain(value).split()))


def as_code(value: object) -> str:
    """Return a value as a code span, for what is to be copied: a path, a command. Not for a table's cell."""
    text = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], _plain(value))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text[:1] in {"`", " "} or text[-1:] in {"`", " "} else ""
    return f"{fence}{space}{text}{space}{fence}"


def _plain(value: object) -> str:
    """Return text without lone surrogates, which file names may have and no file or server takes."""
    return str(value).encode("utf-8", "backslashreplace").decode()
