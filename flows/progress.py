"""What the command line shows of work in progress: bars on a terminal, lines elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from flows.make.shard import Done

if TYPE_CHECKING:
    from flows.make.realism import Told


class _Rate(ProgressColumn):
    """Samples a second since the start."""

    def render(self, task: Task) -> Text:
        """Return the rate, or nothing before the first shard."""
        elapsed = task.finished_time if task.finished else task.elapsed
        return Text(f"{task.completed / elapsed:.0f}/s" if elapsed and task.completed else "")


@contextmanager
def watching(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function to tell what is going on and how much of it is done; it moves a bar where there is a terminal."""
    console = Console(quiet=quiet, stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def watch(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield watch


@contextmanager
def showing_training(*, steps: int, quiet: bool) -> Iterator[Callable[[Told], None]]:
    """Yield a function to tell of each step; on a terminal it moves a bar, elsewhere it prints a line a saved state."""
    console = Console(quiet=quiet, highlight=False)
    bar = Progress(
        TextColumn("steps"),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    task, figures = bar.add_task("steps", total=steps, rate=""), Text()
    on_terminal = console.is_terminal and not quiet

    def tell(told: Told) -> None:
        bar.update(task, completed=told.step, rate=f"{told.rate:.1f}/s" if told.made else "")
        figures.plain = told.figures
        if told.saved and not on_terminal:
            console.print(told.line, soft_wrap=True)

    with Live(Group(bar, figures), console=console) if on_terminal else nullcontext():
        yield tell


def show_progress(shards: Iterable[Done], *, total: int, quiet: bool) -> None:
    """Show shards as they are done; on a terminal as a bar, elsewhere as a line a shard.

    Args:
        shards: Markers, as the shards are finished.
        total: Samples of all of them.
        quiet: Show nothing.
    """
    console = Console(quiet=quiet, highlight=False)
    bar = Progress(TextColumn("samples"), BarColumn(20), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    task, outcome = bar.add_task("samples", total=total), Text()
    reasons: Counter[str] = Counter()
    kept = made = 0
    on_terminal = console.is_terminal and not quiet
    with Live(Group(bar, outcome), console=console) if on_terminal else nullcontext():
        for done in shards:
            reasons.update(done.by_reason)
            kept, made = kept + done.kept, made + done.planned
            bar.update(task, advance=done.planned)
            outcome.plain = ", ".join([f"kept {kept}", *(f"{reason} {n}" for reason, n in reasons.most_common())])
            if not on_terminal:
                console.print(f"{done.shard}: {done.kept} kept of {done.planned} ({made} of {total} samples)")
