"""A runner without processes, for tests that break what workers use and for fuzzing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self


class Here:
    """A runner without processes, so that a test may break what the workers use."""

    workers = 1

    def __enter__(self) -> Self:
        """Return the runner."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop nothing."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the function."""
        return function(*arguments)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Call the function with each item."""
        return map(function, items)

    def each(self, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Make the calls in turn."""
        return (call[0](*call[1:]) for call in calls)
