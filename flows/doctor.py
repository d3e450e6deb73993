"""Tell what is missing on this machine and how to mend it; the command `hcoco doctor`.

Nothing but the standard library is imported here: every package may be the one that is broken. Each is imported in
a process of its own, since a library that does not fit the machine can end its process without an exception.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from flows.services import status

OLDEST_PYTHON: Final = (3, 11)
LEAST_DISK_GB: Final = 2.0
"""Room for the embedded sample, logs and a database; a run prints what it takes itself before it begins."""
LEAST_MEMORY_GB: Final = 1.5
"""Server, worker and the process of a flow run take 0.44 GB together (measured); the rest is for making samples."""

PACKAGES: Final[Mapping[str, str]] = {
    "cv2": "opencv-python-headless",
    "fastapi": "fastapi",
    "numpy": "numpy",
    "prefect": "prefect",
    "pyarrow": "pyarrow",
    "pycocotools.mask": "pycocotools",
    "pydantic": "pydantic",
    "skimage": "scikit-image",
    "torch": "torch",
    "webdataset": "webdataset",
}
"""What is imported, and the distribution that brings it."""

_SET_UP: Final = "run `make setup`"
_AFRESH: Final = "run `rm -rf .venv && make setup`"
_IMPORT_SECONDS: Final = 180
_GB: Final = 1e9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it stands (`detail`) and, where not `ok`, how to `mend` it."""

    name: str
    ok: bool
    detail: str
    mend: str = ""


def examine(root: Path) -> list[Finding]:
    """Look at everything that a run needs, in the project's folder `root`; takes a few seconds."""
    findings = [
        _python(),
        *_packages(),
        _one_opencv(_installed()),
        _accelerator(),
        _cores(),
        _memory(_free_memory()),
        _disk(root),
        _writable(root),
        _services(root),
    ]
    return [replace(finding, mend="") if finding.ok else finding for finding in findings]


def _python() -> Finding:
    version = sys.version_info
    wanted = ".".join(map(str, OLDEST_PYTHON))
    return Finding(
        "python",
        version >= OLDEST_PYTHON,
        f"{version.major}.{version.minor}.{version.micro} at {sys.executable}",
        f"install Python {wanted} or newer, then {_AFRESH}",
    )


def _packages() -> Iterator[Finding]:
    """Import every package, four at a time, and hold its version against the project's bounds."""
    bounds = _bounds()
    with ThreadPoolExecutor(max_workers=4) as pool:
        failures = dict(zip(PACKAGES, pool.map(import_failure, PACKAGES), strict=True))
    for module, distribution in PACKAGES.items():
        yield _package(module, distribution, failure=failures[module], bound=bounds.get(distribution))


def import_failure(module: str) -> str | None:
    """Import a module in another process; return None, or the last line of what went wrong."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True,
            check=False,
            text=True,
            timeout=_IMPORT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"importing it takes more than {_IMPORT_SECONDS} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1].strip() if lines and done.returncode > 0 else f"importing it kills Python ({done.returncode})"


def _package(module: str, distribution: str, *, failure: str | None, bound: str | None) -> Finding:
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return Finding(distribution, ok=False, detail="not installed", mend=_SET_UP)
    if failure is not None:
        return Finding(
            distribution, ok=False, detail=f"{version}, but `import {module}` fails: {failure}", mend=_AFRESH
        )
    if bound is not None and not _within(version, bound):
        return Finding(distribution, ok=False, detail=f"{version}, wanted {bound}", mend=_AFRESH)
    return Finding(distribution, ok=True, detail=version)


def _bounds() -> dict[str, str]:
    """Read the version bounds of the installed project; empty where it is not installed."""
    if importlib.util.find_spec("packaging") is None:
        return {}
    from packaging.requirements import Requirement  # noqa: PLC0415 - may be missing, and then the doctor still works

    try:
        wanted = [Requirement(line) for line in importlib.metadata.requires("hcoco") or ()]
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {requirement.name: str(requirement.specifier) for requirement in wanted if requirement.marker is None}


def _within(version: str, bound: str) -> bool:
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415 - as above; a bound exists only where it was found

    return SpecifierSet(bound).contains(version, prereleases=True)


def _installed() -> list[str]:
    """List the names of all installed distributions."""
    return [found.metadata["Name"].lower() for found in importlib.metadata.distributions() if found.metadata["Name"]]


def _one_opencv(installed: Sequence[str]) -> Finding:
    """Two packages that bring the same `cv2` overwrite each other's files."""
    found = sorted({name for name in installed if name.startswith("opencv-")})
    others = [name for name in found if name != PACKAGES["cv2"]]
    return Finding(
        "one cv2",
        not others,
        ", ".join(found) or "none installed",
        f"run `.venv/bin/pip uninstall -y {' '.join(found)} && rm -f .venv/.hcoco-setup && make setup`",
    )


def _accelerator() -> Finding:
    """Name the CUDA device; none is fine, everything works on the CPU."""
    asked = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    try:
        done = subprocess.run(
            [sys.executable, "-c", asked], capture_output=True, check=False, text=True, timeout=_IMPORT_SECONDS
        )
        name = done.stdout.strip()
    except subprocess.TimeoutExpired:
        name = ""
    return Finding("accelerator", ok=True, detail=name or "none; the CPU does everything")


def _cores() -> Finding:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", ok=True, detail=f"{allowed} may be used of {os.cpu_count()}")


def _free_memory() -> float | None:
    """Return the bytes that may still be taken, here and in the container around; None where nobody says."""
    lines = _lines(Path("/proc/meminfo"))
    free = [float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit, used = (_lines(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit and used and limit[0].isdigit():
        free.append(float(limit[0]) - float(used[0]))
    return min(free, default=None)


def _memory(free: float | None) -> Finding:
    if free is None:
        return Finding("memory", ok=True, detail="unknown")
    return Finding(
        "memory",
        free >= LEAST_MEMORY_GB * _GB,
        f"{free / _GB:.1f} GB free",
        f"free {LEAST_MEMORY_GB} GB, and set `workers=1` where it stays tight",
    )


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free
    return Finding(
        "disk",
        free >= LEAST_DISK_GB * _GB,
        f"{free / _GB:.1f} GB free",
        f"free {LEAST_DISK_GB} GB on the disk of {root}",
    )


def _writable(root: Path) -> Finding:
    """Try to write where runs and services write; asking for permissions would overlook a read-only disk."""
    for folder in (root, root / "output", root / ".prefect"):
        if not folder.exists():
            continue  # its parent, looked at first, is where it will be made
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            return Finding("writing", ok=False, detail=f"{folder}: {error.strerror}", mend=f"make {folder} writable")
    return Finding("writing", ok=True, detail=str(root))


def _services(root: Path) -> Finding:
    now = status(root=root)
    if now.are_up:
        return Finding("services", ok=True, detail=f"server and worker are up at {now.url}")
    if now.server is None and now.worker is None:
        return Finding("services", ok=True, detail="down; `hcoco up` brings them up")
    dead = "worker" if now.worker is None else "server"
    return Finding("services", ok=False, detail=f"the {dead} is dead", mend="run `hcoco up`")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
