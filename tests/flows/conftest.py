"""What the tests of flows share: one temporary Prefect server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def _prefect() -> Iterator[None]:
    """Keep one temporary server for all tests of this session: it takes a quarter of a minute to start."""
    with prefect_test_harness(server_startup_timeout=120):
        yield
