from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flows import doctor
from flows.doctor import Finding, examine, import_failure
from flows.services import Process, Services

HERE = Process(os.getpid(), "now")


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a test the imports of every package."""
    monkeypatch.setattr(doctor, "PACKAGES", {"cv2": "opencv-python-headless"})
    monkeypatch.setattr(doctor, "import_failure", lambda _: None)
    monkeypatch.setattr(doctor, "_accelerator", lambda: Finding("accelerator", ok=True, detail="none"))


def test_a_sound_machine_has_nothing_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every finding is in order where everything is, and then names nothing to mend."""
    quick(monkeypatch)
    findings = examine(tmp_path)
    assert [finding for finding in findings if not finding.ok or finding.mend] == []
    assert {"python", "one cv2", "memory", "disk", "writing", "services"} <= {finding.name for finding in findings}


def test_whatever_is_wrong_comes_with_a_way_to_mend_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where everything is wrong each finding says what to do."""
    quick(monkeypatch)
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (99, 0))
    monkeypatch.setattr(doctor, "LEAST_DISK_GB", 1e9)
    monkeypatch.setattr(doctor, "LEAST_MEMORY_GB", 1e9)
    monkeypatch.setattr(doctor, "import_failure", lambda _: "ImportError: libGL.so.1")
    monkeypatch.setattr(doctor, "status", lambda *, root: Services(root, port=4217, server=HERE))
    (tmp_path / "output").write_text("a file where a folder belongs")
    wrong = [finding for finding in examine(tmp_path) if not finding.ok]
    assert {finding.name for finding in wrong} == {
        *("python", "opencv-python-headless", "memory", "disk", "writing", "services")
    }
    assert all(finding.mend for finding in wrong)


def test_a_module_that_imports_has_no_failure() -> None:
    """A sound module is found to be sound."""
    assert import_failure("json") is None


def test_a_module_that_raises_is_reported_by_its_last_line() -> None:
    """The line that says what is wrong is kept, the traceback is not."""
    failure = import_failure("no_such_module_of_ours")
    assert failure == "ModuleNotFoundError: No module named 'no_such_module_of_ours'"


def test_a_module_that_kills_python_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that ends the process by a signal does not end the doctor."""
    (tmp_path / "deadly.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert import_failure("deadly") == "importing it kills Python (-9)"


def test_a_package_that_is_not_installed_is_named() -> None:
    """A missing package is told by the name under which it is installed."""
    finding = doctor._package("x", "no-such-package-of-ours", failure=None, bound=None)
    assert (finding.ok, finding.name, finding.detail) == (False, "no-such-package-of-ours", "not installed")


def test_a_version_out_of_bounds_is_named() -> None:
    """A package that is newer or older than the project allows is told with the bound."""
    finding = doctor._package("numpy", "numpy", failure=None, bound="<1")
    assert not finding.ok
    assert finding.detail.endswith("wanted <1")


def test_the_bounds_are_those_of_the_project() -> None:
    """The bounds are read from the installed project, extras left out."""
    bounds = doctor._bounds()
    assert bounds["fastapi"] == "<0.151,>=0.139"
    assert "pytest" not in bounds


def test_two_packages_with_one_cv2_are_found() -> None:
    """Any other package that brings `cv2` is named in the command that mends it."""
    finding = doctor._one_opencv(["numpy", "opencv-python", "opencv-python-headless"])
    assert not finding.ok
    assert "uninstall -y opencv-python opencv-python-headless" in finding.mend


@pytest.mark.parametrize(("free", "ok"), [(1e9, False), (2e9, True), (None, True)])
def test_memory_is_held_against_what_a_run_takes(free: float | None, ok: bool) -> None:  # noqa: FBT001 - the expectation
    """Too little memory is told; where nobody knows it is not guessed."""
    assert doctor._memory(free).ok is ok


@pytest.mark.parametrize(
    ("found", "ok", "detail"),
    [
        (Services(Path()), True, "down; `hcoco up` brings them up"),
        (
            Services(Path(), port=4217, server=HERE, worker=HERE),
            True,
            "server and worker are up at http://127.0.0.1:4217",
        ),
        (Services(Path(), port=4217, server=HERE), False, "the worker is dead"),
        (Services(Path(), port=4217, worker=HERE), False, "the server is dead"),
    ],
)
def test_half_dead_services_are_to_mend(
    found: Services,
    ok: bool,  # noqa: FBT001 - the expectation
    detail: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Services may be up or down; only one without the other is wrong."""
    monkeypatch.setattr(doctor, "status", lambda *, root: replace(found, root=root))
    finding = doctor._services(Path())
    assert (finding.ok, finding.detail) == (ok, detail)


def test_the_doctor_needs_none_of_what_it_looks_at() -> None:
    """The module imports where no package is installed at all."""
    loaded = "import sys, flows.doctor; print({'cv2', 'numpy', 'pydantic', 'prefect', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
