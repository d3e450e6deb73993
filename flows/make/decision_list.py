"""Read what a person wants decided: a list of keys from a file, or a rule from the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flows.coco.select import SPLITS
from flows.errors import BadRequest
from flows.make.plan_fusion import KINDS
from flows.settings import DEFAULT_FAMILIES
from flows.store.decisions import ACTIONS, BANNED, KEY, UNREADABLE, Action, Named, Rule, Ruled
from flows.store.record import GATES

LIST_BYTES: Final = 32_000_000
"""A larger list is not read: it would name a million samples."""
MAX_LISTED: Final = 2_000_000
"""Lines of a list, comments and blank ones too."""


def read_rule(action: Action, given: Mapping[str, Any]) -> Ruled:
    """Return the decision that a rule is.

    Args:
        action: What becomes of the samples that fit.
        given: Fields of `Rule`.

    Raises:
        BadRequest: A reason, family or split is not one that the gates, the edits and the selection know.
    """
    known = {"reason": (*GATES, UNREADABLE), "family": (*DEFAULT_FAMILIES, *KINDS), "split": SPLITS}
    for field, words in known.items():
        for word in given.get(field, ()):
            if word == BANNED and field == "reason":
                raise BadRequest(f"{BANNED} is what decisions made of samples; hcoco undo takes a decision back")
            if word not in words:
                raise BadRequest(f"there is no {field} {word!r}; known are {', '.join(words)}")
    return Ruled(action, Rule(**given))


def read_list(path: Path, *, action: Action, run: str) -> Named:
    """Read a list of keys: `readmit KEY`, `ban KEY`, or a bare KEY a line; `#` begins a comment.

    Args:
        path: Of the list, UTF-8.
        action: What a bare key means. A line's own word goes before it.
        run: Name of the run that is decided about. Runs of one source share their keys, so a list that a gallery
            saved says whose it is.

    Raises:
        BadRequest: It cannot be read, is no such list or another run's, names nothing, or says both of one key.
    """
    text = _read_text(path)
    whose = next(iter(re.findall(r"^# hcoco gallery of (.+)$", text, flags=re.MULTILINE)), run).rstrip()
    if whose != run:
        raise BadRequest(
            f"{str(path)!r} is a list of the run {whose[:100]}, not of {run}; take its first line out if it fits"
        )
    keys: dict[Action, set[str]] = {"readmit": set(), "ban": set()}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        this, key = _read_line(words, action)
        if key is None:
            raise BadRequest(
                f"{str(path)!r}, line {number}: {line.strip()[:60]!r} is neither a key nor `readmit KEY` nor `ban KEY`"
            )
        keys[this].add(key)
    if both := keys["readmit"] & keys["ban"]:
        raise BadRequest(f"{str(path)!r} says both readmit and ban of {min(both)}; leave one out")
    if not keys["readmit"] and not keys["ban"]:
        raise BadRequest(f"{str(path)!r} names no sample; give a file of keys, one a line")
    return Named(readmit=frozenset(keys["readmit"]), ban=frozenset(keys["ban"]))


def _read_text(path: Path) -> str:
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(LIST_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadRequest(f"the list {str(path)!r} cannot be read ({error}); give a file of keys, one a line") from None
    if len(data) > LIST_BYTES:
        raise BadRequest(f"the list {str(path)!r} is over {LIST_BYTES // 1_000_000} MB; split it")
    if data.count(b"\n") > MAX_LISTED:
        raise BadRequest(f"the list {str(path)!r} has more than {MAX_LISTED:,} lines; split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise BadRequest(f"{str(path)!r} is no text; give a file of keys, one a line")
    return text


def _read_line(words: list[str], action: Action) -> tuple[Action, str | None]:
    this = next((each for each in ACTIONS if each == words[0]), None)
    rest = words if this is None else words[1:]
    whole = len(rest) == 1 and KEY.fullmatch(rest[0])
    return this or action, rest[0] if whole else None
