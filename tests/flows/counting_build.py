"""Run `hcoco` as a process, its Ray workers noting each shard that they begin (tests/flows/cluster_deeds.py)."""

from __future__ import annotations

import os
import sys

from flows import cli, ray_runner
from tests.flows.cluster_deeds import LOG, counting_work

if __name__ == "__main__":
    ray_runner._work = counting_work
    ray_runner.WORKERS_ENVIRONMENT[LOG] = os.environ[LOG]
    sys.exit(cli.main(sys.argv[1:]))
