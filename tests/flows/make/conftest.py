"""A run for the tests of this folder: made once, copied by those that damage it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.store.layout import Layout
from tests.flows.make.building import WHOLE, build_in
from tests.flows.make.fusing import fusing, save_untrained


@pytest.fixture(scope="session")
def whole_run(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a finished run of 22 samples in three shards; do not write into it."""
    return build_in(tiny_coco, tmp_path_factory.mktemp("whole"), **WHOLE)


@pytest.fixture
def damaged_run(whole_run: Layout, tmp_path: Path) -> Layout:
    """Return a copy of the finished run that a test may damage."""
    shutil.copytree(whole_run.run, tmp_path / "run")
    return Layout(tmp_path / "run")


@pytest.fixture(scope="session")
def fuser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the weights of a small untrained fusion network."""
    return save_untrained(tmp_path_factory.mktemp("fuser") / "small")


@pytest.fixture(scope="session")
def fusion_run(many_coco: Path, fuser: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a finished run of 12 fusion samples, half of them hard; do not write into it."""
    return build_in(many_coco, tmp_path_factory.mktemp("fusion"), **fusing(fuser))
