"""Compare catalogue and plan with `pycocotools.COCO(file)` on an annotation file as large as that of train2017.

    python benchmarks/catalogue.py [--coco FOLDER] [--instances 860000] [--samples 2000] [--rounds 3]

The file repeats the annotations of a real folder in COCO's layout under new ids; images keep their file names, so the
photographs that the plan looks at exist. Each measurement is a process of its own: its peak memory is the kernel's
(`VmHWM`), the part that is no file's page is sampled from outside. Everything is read from the page cache. It needs
about 1 GB of disk in the temporary folder and takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from machine import Table, describe

SAMPLING_S = 0.005
COMPACT = (",", ":")


@dataclass(frozen=True)
class Measured:
    """One process: seconds of its work, its CPU's, those of looking at photographs; MB at the peak, whole and no file's."""

    work_s: float
    cpu_s: float
    look_s: float
    whole_s: float
    peak_mb: float
    anonymous_mb: float


def write_large(coco: Path, file: Path, *, images: Path, instances: int) -> int:
    """Write an instances file of so many annotations, and a folder of links to the photographs; return its images."""
    parts = [json.loads(path.read_bytes()) for path in sorted((coco / "annotations").glob("instances_*.json"))]
    images.mkdir()
    for path in sorted(coco.glob("*2017/*.jpg")):
        (images / path.name).symlink_to(path.resolve())
    image_records = [record for part in parts for record in part["images"]]
    annotations = [record for part in parts for record in part["annotations"]]
    place = {record["id"]: number for number, record in enumerate(image_records)}
    repeats = -(-instances // len(annotations))
    head = {name: parts[0][name] for name in ("info", "licenses", "categories")}
    with file.open("w", encoding="utf-8") as out:
        out.write(json.dumps(head, separators=COMPACT)[:-1])
        _write_list(out, "images", _numbered(image_records, repeats * len(image_records)))
        _write_list(out, "annotations", _numbered(annotations, instances, place=place))
        out.write("}")
    return repeats * len(image_records)


def _numbered(records: list[dict[str, Any]], count: int, *, place: dict[int, int] | None = None) -> Iterator[str]:
    """Yield JSON texts of so many records, repeated, their ids counted from 1, and `image_id` where `place` is given."""
    texts = [
        json.dumps({k: v for k, v in r.items() if k not in {"id", "image_id"}}, separators=COMPACT) for r in records
    ]
    for number in range(count):
        repeat, which = divmod(number, len(records))
        ids = f'"id":{number + 1}'
        if place is not None:
            ids += f',"image_id":{repeat * len(place) + place[records[which]["image_id"]] + 1}'
        yield f"{texts[which][:-1]},{ids}}}"


def _write_list(out: IO[str], name: str, texts: Iterator[str]) -> None:
    out.write(f',"{name}":[')
    for number, text in enumerate(texts):
        out.write("," + text if number else text)
    out.write("]")


@dataclass
class Looking:
    """Stands in for the builtin `map`, and adds up the seconds that the mapped function takes."""

    seconds: float = 0.0

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield the function's results."""
        for item in items:
            began = time.perf_counter()
            result = function(item)
            self.seconds += time.perf_counter() - began
            yield result


def open_with_pycocotools(file: Path) -> Callable[[], object]:
    """Prepare what everybody does."""
    from pycocotools.coco import COCO  # noqa: PLC0415 - each process imports what it measures

    return lambda: COCO(str(file))


def plan(file: Path, *, images: Path, output: Path, samples: int, looking: Looking) -> Callable[[], object]:
    """Prepare the planning of a run: catalogue, selection, the look at photographs, pairs, the plan's files."""
    from flows.make.plan import plan_run  # noqa: PLC0415 - as above
    from flows.settings import parse_settings  # noqa: PLC0415

    values = {"images": images, "annotations": file, "output": output, "samples": samples, "workers": 1}
    return lambda: plan_run(parse_settings({"source": str(images), **values}), over=looking.map)


def select(file: Path, *, images: Path) -> Callable[[], object]:
    """Prepare the selection among all photographs by their annotations alone."""
    from flows.coco.select import select_by_annotation  # noqa: PLC0415 - as above
    from flows.coco.sources import open_source  # noqa: PLC0415

    def work() -> object:
        source = open_source(str(images), images=images, annotations=file)
        return select_by_annotation(source, min_person_share=0.06, licenses=None, exclude_ids=frozenset(), seed=0)

    return work


def measure(what: str, folder: Path, *, samples: int) -> Measured:
    """Run one measurement in a process of its own and watch its memory."""
    command = [sys.executable, __file__, "--measure", what, "--folder", str(folder), "--samples", str(samples)]
    environment = os.environ | {"HCOCO_CACHE": str(folder / "cache")}
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        anonymous = 0
        while process.poll() is None:
            anonymous = max(anonymous, _status_kb(process.pid, "RssAnon"))
            time.sleep(SAMPLING_S)
        whole_s = time.perf_counter() - began
        answer = process.stdout.read().splitlines()[-1] if process.stdout else ""
    if process.returncode:
        raise SystemExit(process.returncode)
    work_s, cpu_s, look_s, peak_kb = json.loads(answer)
    return Measured(work_s, cpu_s, look_s, whole_s, peak_kb / 1024, anonymous / 1024)


def _measure_here(what: str, folder: Path, samples: int) -> None:
    """Do one measurement in this process and print its seconds and its peak in KB."""
    file, images = folder / "instances_large.json", folder / "images"
    looking = Looking()
    if what == "pycocotools":
        work = open_with_pycocotools(file)
    elif what == "select":
        work = select(file, images=images)
    else:
        work = plan(file, images=images, output=folder / "output", samples=samples, looking=looking)
    began, cpu_began = time.perf_counter(), time.process_time()
    result = work()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    print(json.dumps([seconds, cpu_seconds, looking.seconds, _status_kb(os.getpid(), "VmHWM")]))
    del result


def _status_kb(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, default=Path(os.environ.get("HCOCO_TEST_COCO", "../shared/coco")))
    parser.add_argument("--instances", type=int, default=860_000)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=["pycocotools", "plan", "select"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        _measure_here(given.measure, given.folder, given.samples)
        return
    with tempfile.TemporaryDirectory(prefix="hcoco-benchmark-") as name:
        folder = Path(name)
        file = folder / "instances_large.json"
        images = write_large(given.coco, file, images=folder / "images", instances=given.instances)
        size = file.stat().st_size / 1e6
        rows = _measure_all(folder, samples=given.samples, rounds=given.rounds)
    print(f"\n{describe()}\n\n{given.instances:,} annotations of {images:,} images, {size:.0f} MB of JSON; ", end="")
    print(f"medians of {given.rounds} rounds.\n")
    print(_table(rows, samples=given.samples).markdown())


def _measure_all(folder: Path, *, samples: int, rounds: int) -> dict[str, list[Measured]]:
    """Measure all cases round by round, so that the machine's moods hit them alike."""
    rows: dict[str, list[Measured]] = {}
    for _ in range(rounds):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        for case, what in (
            ("pycocotools", "pycocotools"),
            ("first", "plan"),
            ("second", "plan"),
            ("select", "select"),
            ("again", "plan"),
        ):
            if case in {"first", "second"}:
                shutil.rmtree(folder / "output", ignore_errors=True)
            rows.setdefault(case, []).append(measure(what, folder, samples=samples))
            print(f"{case}: {rows[case][-1]}", file=sys.stderr)
    return rows


def _table(rows: dict[str, list[Measured]], *, samples: int) -> Table:
    names = {
        "pycocotools": "`pycocotools.coco.COCO(file)`",
        "first": f"catalogue and plan of {samples:,} samples, empty cache",
        "second": f"plan of {samples:,} samples, catalogue cached",
        "select": "selection among all photographs by annotation alone, catalogue cached",
        "again": "the same run once more, catalogue and plan there",
    }
    times = ("s", "of it looking at photographs", "CPU s", "s with start and imports")
    table = Table(["", *times, "peak MB", "of it no file's pages", "peak, share of pycocotools'"])
    middle = {case: _middle(measured) for case, measured in rows.items()}
    for case, name in names.items():
        m = middle[case]
        share = m.peak_mb / middle["pycocotools"].peak_mb
        seconds = (m.work_s, m.look_s, m.cpu_s, m.whole_s)
        table.add(name, *(f"{s:.2f}" for s in seconds), f"{m.peak_mb:.0f}", f"{m.anonymous_mb:.0f}", f"{share:.2f}")
    return table


def _middle(measured: list[Measured]) -> Measured:
    return Measured(
        cpu_s=statistics.median(m.cpu_s for m in measured),
        look_s=statistics.median(m.look_s for m in measured),
        work_s=statistics.median(m.work_s for m in measured),
        whole_s=statistics.median(m.whole_s for m in measured),
        peak_mb=statistics.median(m.peak_mb for m in measured),
        anonymous_mb=statistics.median(m.anonymous_mb for m in measured),
    )


if __name__ == "__main__":
    main()
