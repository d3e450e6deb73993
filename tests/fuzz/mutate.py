"""Change files that are valid into files that are nearly so: by bytes, by the nodes of their JSON, by lines.

Every change is a function of the random state that is handed in, so a case is named by its target, seed and number.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Sequence
from typing import Any, Final

DEEP: Final = "@deep{}@"
"""Stands for so many nested lists, which `json.dumps` could not write."""
HUGE: Final = "@digits{}@"
"""Stands for a whole number of so many digits."""

EVIL: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 7, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30),
    *(0.5, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 100_000, 30_000, 100_000_000),
    *("", " ", "0", "1e999", "null", "\0", "a\0b", "\ud800", "\n", "x" * 100_000, "ä\u202e", "é" * 300, "%s{0}"),
    *("..", "../../../../etc/passwd", "/etc/passwd", "/dev/zero", "C:\\x", "\\\\host\\x", "a/../../b", "./x", "~root"),
    *("<script>alert(1)</script>\"'&", "=cmd|' /C calc'!A0", "train-00000", "fusion-train-00000", "kept", "mkl"),
    *([], {}, [[]], [None], [0] * 1000, {"": None}, {"a": {"b": {}}}, [["1"], 2, {"3": 4}]),
    *(DEEP.format(n) for n in (50, 400, 800, 900, 950, 975, 990, 2000, 100_000)),
    *(HUGE.format(n) for n in (20, 310, 4000, 5000)),
)

NUMBERS: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 100_000, 2**40)


def write_json(value: Any) -> bytes:
    """Return a value as JSON text, with what stands for deep lists and huge numbers spelt out."""
    text = re.sub(r'"@deep([0-9]{1,6})@"', lambda found: "[" * int(found[1]) + "]" * int(found[1]), json.dumps(value))
    text = re.sub(r'"@digits([0-9]{1,6})@"', lambda found: "9" * int(found[1]), text)
    return text.encode()


def mutate_value(value: Any, rng: random.Random, *, words: Sequence[Any] = ()) -> Any:
    """Return a JSON value with one to four of its nodes changed; the given one stays as it is.

    Args:
        value: The value.
        rng: Random state.
        words: Values that mean something to the reader, put in beside the evil ones.
    """
    changed = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        changed = _change_one(changed, rng, words)
    return changed


def _change_one(value: Any, rng: random.Random, words: Sequence[Any]) -> Any:
    nodes = list(_nodes(value))
    if not nodes or rng.random() < 0.02:
        return _evil(value, rng, words)
    parent, key = rng.choice(nodes)
    act = rng.random()
    if act < 0.15:
        del parent[key]
    elif act < 0.25 and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), _evil(parent[key], rng, words))
    elif act < 0.25:
        parent[rng.choice(("extra", "", "\ud800", "__class__", "path", key + "x"))] = _evil(parent[key], rng, words)
    elif act < 0.35 and len(nodes) > 1:
        other, place = rng.choice(nodes)
        parent[key] = copy.deepcopy(other[place]) if place in _keys(other) else None
    else:
        parent[key] = _evil(parent[key], rng, words)
    return value


def _keys(parent: Any) -> Any:
    return parent if isinstance(parent, dict) else range(len(parent))


def _nodes(value: Any) -> Any:
    """Yield every place in lists and objects, the upper ones as often as the lower ones of long lists."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for number, (key, child) in enumerate(list(children)):
        yield value, key
        if number < 40:
            yield from _nodes(child)


def _evil(old: Any, rng: random.Random, words: Sequence[Any]) -> Any:  # noqa: PLR0911 - a kind of value a line
    if words and rng.random() < 0.2:
        return copy.deepcopy(rng.choice(words))
    if rng.random() < 0.25:
        if isinstance(old, bool):
            return not old
        if isinstance(old, int | float):
            return rng.choice((old + 1, old - 1, -old, old * 2, old / 3, str(old), old * 10**6))
        if isinstance(old, str):
            place = rng.randrange(len(old) + 1)
            return rng.choice(
                (old[:place], old + old, f"{old[:place]}{rng.choice(('/', '..', chr(0), '-', '.', 'é'))}{old[place:]}")
            )
        if isinstance(old, list):
            return rng.choice((old + old, old[:1], list(reversed(old)), {str(k): v for k, v in enumerate(old)}))
        if isinstance(old, dict):
            return list(old.items())
    return copy.deepcopy(rng.choice(EVIL))


def mutate_bytes(data: bytes, rng: random.Random, *, others: Sequence[bytes] = ()) -> bytes:
    """Return bytes with one to eight places changed: flipped, cut, doubled, overwritten by numbers, spliced."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        size = len(changed)
        place = rng.randrange(size + 1)
        if rng.random() < 0.4:
            place = min(place, rng.randrange(64))  # headers decide most
        act = rng.randrange(7)
        if act == 0 and place < size:
            changed[place] ^= 1 << rng.randrange(8)
        elif act == 1 and place < size:
            changed[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif act == 2:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) % (1 << 8 * width)
            changed[place : place + width] = number.to_bytes(width, rng.choice(("big", "little")))
        elif act == 3:
            del changed[place : place + rng.choice((1, 2, 4, 16, 512, size))]
        elif act == 4:
            piece = changed[place : place + rng.choice((1, 4, 16, 64, 512))]
            changed[place:place] = piece * rng.choice((1, 2, 50))
        elif act == 5 and others:
            other = rng.choice(others)
            cut = rng.randrange(len(other) + 1)
            changed = bytearray(bytes(changed[:place]) + other[cut : cut + 4096])
        else:
            changed[place:place] = rng.randbytes(rng.choice((1, 2, 8, 64)))
        del changed[4_000_000:]
    return bytes(changed)


def mutate_json(data: bytes, rng: random.Random, *, words: Sequence[Any] = ()) -> bytes:
    """Return JSON text with changed nodes; one time in ten with changed bytes instead."""
    if rng.random() < 0.1:
        return mutate_bytes(data, rng)
    return write_json(mutate_value(json.loads(data), rng, words=words))


def mutate_lines(data: bytes, rng: random.Random, *, words: Sequence[Any] = ()) -> bytes:
    """Return text with lines changed, dropped, doubled, or bytes changed."""
    if rng.random() < 0.2:
        return mutate_bytes(data, rng)
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 2, 5))):
        place = rng.randrange(len(lines) + 1)
        texts = [each for each in (*EVIL, *words) if isinstance(each, str) and not each.startswith("@")]
        new = rng.choice(texts).encode("utf-8", "surrogatepass")
        act = rng.randrange(4)
        if act == 0:
            lines.insert(place, new)
        elif act == 1 and place < len(lines):
            lines[place] = new + lines[place] if rng.random() < 0.5 else lines[place] + new
        elif act == 2 and place < len(lines):
            del lines[place]
        elif lines:
            lines += rng.choices(lines, k=3)
    return b"\n".join(lines)
