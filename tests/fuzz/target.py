"""What a target of fuzzing is: a way from the bytes of a file that somebody else wrote into the code that reads it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass


class Refused(Exception):  # noqa: N818 - it is a good end, not an error
    """The reader refused a file as it promises to: with its documented error, a reason, or one line."""


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        name: Of the target.
        seeds: Returns files that are valid, and after these hand-made hostile ones.
        change: Returns a file that is changed a little.
        run: Reads a file as the program does. Raises `Refused` where it is told what is wrong; anything else that it
            raises breaks the promise.
        share: Of the cases that are asked for.
        mutable: So many of the seeds are changed, the first ones; all where 0.
        largest: Returns files that may just be read and take seconds; only the long form tries them.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    change: Callable[[bytes, random.Random], bytes]
    run: Callable[[bytes], None]
    share: float = 1.0
    mutable: int = 0
    largest: Callable[[], Sequence[bytes]] = tuple
