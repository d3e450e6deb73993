"""What the tests of flows share: one temporary Prefect server, one S3 server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness
from s3fs import S3FileSystem

from tests.flows.bucket import Storage, serve_s3, settings_of


@pytest.fixture(scope="session")
def _prefect() -> Iterator[None]:
    """Keep one temporary server for all tests of this session: it takes a quarter of a minute to start."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[str]:
    """Keep one S3 server on loopback for all tests of this session."""
    with serve_s3() as base:
        yield base


@pytest.fixture
def s3(_s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Storage]:
    """Return a bucket of the test's own, in an environment that names the server, with a cache of its own."""
    for name, value in {**settings_of(_s3_server), "HCOCO_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    bucket = f"hcoco-{uuid.uuid4().hex[:12]}"
    S3FileSystem(use_listings_cache=False).mkdir(bucket)
    yield Storage(f"s3://{bucket}", _s3_server, monkeypatch)
    S3FileSystem.clear_instance_cache()
