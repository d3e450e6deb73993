"""Say what Prefect, markers, index, manifest and lock cost in a run of 2,000 samples.

    python benchmarks/orchestration.py [COCO FOLDER] [--samples 2000] [--rounds 2]

One plan is made several times over: by the flow against a real Prefect server, and by a bare loop over as many
processes that only composes, judges and writes tars. Rounds alternate. The report page is timed by itself: it is not
orchestration, and it does not grow with the run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from machine import describe
from prefect.testing.utilities import prefect_test_harness

from flows import build_hcoco as job
from flows.make.plan import Planned, plan_run, read_planned
from flows.make.shard import compose_rows, judge_made, record_of
from flows.runners import LocalRunner
from flows.settings import BuildSettings, parse_settings
from flows.store.layout import Layout
from flows.store.record import encode_record
from flows.store.write import pack, write_tar
from flows.view.report import write_report


def bare_shard(run: Path, name: str, to: Path) -> None:
    """Make a shard's samples and write them into one tar: no marker, no index, no second file."""
    layout = Layout(run)
    from flows.make.plan import read_plan  # noqa: PLC0415 - in the worker

    plan = read_plan(layout)
    shard = plan.shard(name)
    rows = compose_rows(plan, read_planned(layout, shard))
    write_tar(
        to / f"{name}.tar",
        (
            pack(made.key, {**made.members, "json": encode_record(record_of(row, made, judge_made(made)))})
            for row, made in rows
        ),
    )


def bare(planned: Planned, workers: int) -> None:
    """Make all shards with nothing around them but the processes that the flow starts too."""
    with tempfile.TemporaryDirectory() as folder, LocalRunner(workers) as runner:
        shards = sorted(planned.plan.shards, key=lambda shard: (-shard.pixels, shard.name))
        for _ in runner.each((bare_shard, planned.layout.run, shard.name, Path(folder)) for shard in shards):
            pass


def flow(settings: BuildSettings, planned: Planned) -> None:
    """Run the flow on the planned run, all shards anew; the report is stubbed out and timed elsewhere."""
    shutil.rmtree(planned.layout.run / "done", ignore_errors=True)
    job.write_report = lambda layout: layout.report
    job.build_hcoco(**settings.model_dump(mode="json", exclude={"families"}))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coco", nargs="?", default=os.environ.get("HCOCO_TEST_COCO", "../shared/coco"))
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as output, prefect_test_harness(server_startup_timeout=120):
        settings = parse_settings(
            {"source": given.coco, "samples": given.samples, "variants": 3, "output": output, "shard_size": 200}
        )
        with LocalRunner(settings.processes) as runner:
            planned = plan_run(settings, over=runner.map)
        bare(planned, settings.processes)  # the files come into the cache
        alone, whole = [], []
        for _ in range(given.rounds):
            began = time.perf_counter()
            bare(planned, settings.processes)
            alone.append(time.perf_counter() - began)
            began = time.perf_counter()
            flow(settings, planned)
            whole.append(time.perf_counter() - began)
        began = time.perf_counter()
        write_report(planned.layout)
        report = time.perf_counter() - began
    middle, best = statistics.median(whole), statistics.median(alone)
    print(
        f"| {planned.plan.planned} samples, {settings.processes} workers, median of {given.rounds} rounds | s |\n|---|---|"
    )
    print(
        f"| samples alone, in a bare loop | {best:.1f} |\n| the whole flow | {middle:.1f} |\n| report | {report:.1f} |"
    )
    print(f"\norchestration takes {100 * (middle - best) / middle:.1f} % of the flow's wall time")


if __name__ == "__main__":
    main()
