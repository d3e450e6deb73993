"""A run for the tests of this folder: made once, copied by those that damage it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.store.layout import Layout
from tests.flows.make.building import build_in


@pytest.fixture(scope="session")
def whole_run(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a finished run of 46 samples in six shards; do not write into it."""
    return build_in(tiny_coco, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def damaged_run(whole_run: Layout, tmp_path: Path) -> Layout:
    """Return a copy of the finished run that a test may damage."""
    shutil.copytree(whole_run.run, tmp_path / "run")
    return Layout(tmp_path / "run")


@pytest.fixture
def copy_run(whole_run: Layout, tmp_path: Path) -> Callable[[str], Layout]:
    """Return a function that copies the finished run under a name."""

    def copy(name: str) -> Layout:
        shutil.copytree(whole_run.run, tmp_path / name)
        return Layout(tmp_path / name)

    return copy
