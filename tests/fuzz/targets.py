"""All targets by name."""

import os

from tests.fuzz import networks, runs, sources

os.fsync = lambda _: None  # no power will fail here, and disks take their time over it
TARGETS = {target.name: target for target in (*sources.TARGETS, *runs.TARGETS, *networks.TARGETS)}
