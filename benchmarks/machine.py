"""Say on what a figure was measured, and print figures as Markdown: shared by the benchmarks."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

LIBRARIES = ("numpy", "opencv-python-headless", "pyarrow", "pycocotools")


def describe(*, libraries: Sequence[str] = LIBRARIES) -> str:
    """Say in one line of Markdown when, where and with what code and libraries this is measured."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = f"{memory_bytes() / 2**30:.0f} GiB"
    code = f"hcoco {metadata.version('hcoco')} at {commit()}"
    versions = [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in libraries)]
    return f"{datetime.now(UTC):%Y-%m-%d}; {cores} cores, {cpu_model()}, {memory}; {code}; {', '.join(versions)}."


def commit() -> str:
    """Return the short commit of the code, with `+` where files differ from it; `unknown` outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        name = _git("rev-parse", "--short=10", "HEAD", here=here)
        changed = _git("status", "--porcelain", "--untracked-files=no", here=here)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}+" if changed else name


def cpu_model() -> str:
    """Return the processor's name, as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def memory_bytes() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass
class Table:
    """Rows of figures under headings; the first column is text, the others stand to the right."""

    headings: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Append a row; it must have a cell for every heading."""
        if len(cells) != len(self.headings):
            raise ValueError(f"a row must have {len(self.headings)} cells, got {len(cells)}")
        self.rows.append(cells)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rule = ["---", *["---:"] * (len(self.headings) - 1)]
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.headings, rule, *self.rows))


def _git(*arguments: str, here: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "of unknown version"
