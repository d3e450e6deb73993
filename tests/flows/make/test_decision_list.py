from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.errors import BadRequest
from flows.make.decision_list import read_list, read_rule
from flows.store.decisions import Named, Rule, Ruled


def test_a_list_is_read_leniently(tmp_path: Path) -> None:
    """Bare keys take the command's word, a line's own word goes before it; comments, blanks, BOM and CRLF do not matter."""
    path = tmp_path / "list"
    keys = [f"{number:012d}-{number:012d}-00" for number in range(4)]
    text = f"# chosen by hand\r\n\r\n  {keys[0]}  # nice\r\nban {keys[1]}\r\nreadmit\t{keys[2]}\r\n{keys[3]}\r\n{keys[0]}\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_list(path, action="ban", run="run") == Named(
        readmit=frozenset({keys[2]}), ban=frozenset({keys[0], keys[1], keys[3]})
    )


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "names no sample"),
        (b"# nothing\n\n", "names no sample"),
        (b"hello\n", "line 1: 'hello' is neither a key nor `readmit KEY` nor `ban KEY`"),
        (b"readmit\n", "line 1: 'readmit' is neither"),
        (b"keep 000000000139-000000230831-00\n", "is neither a key"),
        (b"\n000000000139-000000230831-00.jpg\n", "line 2"),
        (b"../../etc/passwd\n", "is neither a key"),
        (b"readmit 000000000139-000000230831-00\nban 000000000139-000000230831-00\n", "says both readmit and ban of"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is no text"),
        (b"\xff\xfe\x00", "is no text"),
        ("000000000139-000000230831-0\N{SUPERSCRIPT ONE}\n".encode(), "is neither a key"),
        (b"# hcoco gallery of other\n000000000139-000000230831-00\n", "is a list of the run other, not of mine"),
        (b"# hcoco gallery of " + b"x" * 10_000, f"is a list of the run {'x' * 100}, not of mine"),
        (b"# hcoco gallery of x" + b" " * 1_000_000 + b"x", "is a list of the run x "),
        (b"\n" * 2_000_001, "has more than 2,000,000 lines"),
    ],
)
def test_a_bad_list_is_one_line(tmp_path: Path, content: bytes, line: str) -> None:
    """What is wrong, and in which line."""
    path = tmp_path / "list"
    path.write_bytes(content)
    with pytest.raises(BadRequest) as told:
        read_list(path, action="ban", run="mine")
    assert line in str(told.value)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("name", ["nothing", "folder", "with\0nul"])
def test_a_list_that_is_no_file_is_one_line(tmp_path: Path, name: str) -> None:
    """A missing file, a folder and an impossible name are refused alike."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadRequest, match="cannot be read"):
        read_list(tmp_path / name, action="ban", run="run")


def test_a_list_of_a_gallery_of_this_run_is_read(tmp_path: Path) -> None:
    """The line that a gallery writes first is a comment where the run is this one."""
    path = tmp_path / "list"
    path.write_text("# hcoco gallery of run\nban 000000000139-000000230831-00\n")
    assert read_list(path, action="readmit", run="run") == Named(ban=frozenset({"000000000139-000000230831-00"}))


def test_a_rule_is_what_was_given() -> None:
    """Parts that were not given ask for nothing."""
    assert read_rule("ban", {"family": ("mkl",), "min_score": 0.5}) == Ruled(
        "ban", Rule(family=("mkl",), min_score=0.5)
    )


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"reason": ("ugly",)}, "there is no reason 'ugly'; known are clipping"),
        ({"reason": ("banned",)}, "hcoco undo takes a decision back"),
        ({"family": ("mkl", "x")}, "there is no family 'x'"),
        ({"split": ("trian",)}, "there is no split 'trian'"),
    ],
)
def test_a_rule_of_unknown_words_is_refused(given: dict[str, Any], line: str) -> None:
    """A slip in a word is told, instead of meaning nothing."""
    with pytest.raises(BadRequest) as told:
        read_rule("readmit", given)
    assert line in str(told.value)
