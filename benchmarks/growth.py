"""Say what a sample costs in data sets of 1,000, 10,000 and 100,000: time, memory, files, Prefect's database.

    python benchmarks/growth.py measure FOLDER --gate on,off --after verify,gallery [--samples 1000,10000,100000]
    python benchmarks/growth.py measure FOLDER --samples= --deployed 1000 --shard-size 50
    python benchmarks/growth.py draw FOLDER docs/growth.svg

Photographs grow with the samples: each is 160 x 120 pixels, holds ten people, and gives twenty samples (two variants
of the stage harmonization). Every build is the command `hcoco build` in a process of its own, whose whole family is
watched; `--deployed` runs the same settings through server, worker and deployment, for the size of the database.
Figures are appended to FOLDER/growth.jsonl, so that sizes can be measured one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import Table, describe

PEOPLE = 10
VARIANTS = 2
WIDTH, HEIGHT = 160, 120
PROJECT = Path(__file__).resolve().parent.parent
HCOCO = (sys.executable, "-m", "flows.cli")


def draw_source(folder: Path, *, samples: int) -> Path:
    """Write a COCO folder that gives so many samples; one that is there is kept."""
    coco = folder / f"coco-{samples}"
    if (coco / "annotations" / "instances_small.json").is_file():
        return coco
    (coco / "small").mkdir(parents=True, exist_ok=True)
    (coco / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for image_id in range(1, samples // (PEOPLE * VARIANTS) + 1):
        picture, people = draw_photograph(image_id)
        name = f"{image_id:012d}.jpg"
        cv2.imwrite(str(coco / "small" / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
        images.append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 4})
        annotations += people
    instances = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
        "licenses": [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}],
    }
    (coco / "annotations" / "instances_small.json").write_text(json.dumps(instances))
    return coco


def draw_photograph(image_id: int) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], list[dict[str, Any]]]:
    """Draw a scene of its own for each id, uint8 (HEIGHT, WIDTH, 3) BGR, and say where its people are."""
    rng = np.random.default_rng(image_id)
    coarse = rng.integers(40, 215, (6, 8, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 6, (HEIGHT, WIDTH, 3))
    picture = np.clip(picture, 5, 250).astype(np.uint8)
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    people = []
    for number in range(PEOPLE):
        x, y = 16 + 32 * (number % 5), 31 + 57 * (number // 5)
        outline = np.stack([x + 14 * np.cos(angles), y + 27 * np.sin(angles)], axis=1).round(2)
        for part in range(4):  # head, shirt, trousers, shoes: colours of their own
            colour = rng.integers(30, 225, 3).tolist()
            cv2.ellipse(picture, (x, y), (14, 27), 0, 45 + 90 * part, 135 + 90 * part, colour, -1)
        people.append(
            {
                "id": image_id * PEOPLE + number,
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": 0,
                "area": float(np.pi * 14 * 27),
                "bbox": [x - 14, y - 27, 28, 54],
                "segmentation": [outline.ravel().tolist()],
            }
        )
    return picture, people


class Family:
    """Watch a process and all that descend from it: the most memory that each ever held, in bytes."""

    def __init__(self, root: int) -> None:
        """Begin to watch the process `root`."""
        self.peaks: dict[int, tuple[str, int]] = {}
        self._root, self._over = root, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the watching."""
        self._over.set()
        self._thread.join()

    def most(self, role: str) -> int:
        """Return the peak of the largest process in a role."""
        return max((peak for name, peak in self.peaks.values() if name == role), default=0)

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            for pid in self._members():
                try:
                    peak = _peak_of(pid)
                except (OSError, ValueError, IndexError, StopIteration):
                    continue  # it has just ended
                self.peaks[pid] = (self._role(pid), max(peak, self.peaks.get(pid, ("", 0))[1]))

    def _members(self) -> Iterator[int]:
        parents = dict(_parents())
        for pid in parents:
            above = pid
            while above in parents and above != self._root:
                above = parents[above]
            if above == self._root:
                yield pid

    def _role(self, pid: int) -> str:
        if pid == self._root:
            return "main"
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return "tracker" if b"resource_tracker" in line else "worker"


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue


def _peak_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def watched(folder: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a command of hcoco; return what it printed as JSON, and what it cost."""
    began = time.monotonic()
    process = subprocess.Popen(
        [*HCOCO, *words, "--json"], cwd=PROJECT, env=_environment(folder), stdout=subprocess.PIPE, text=True
    )
    family = Family(process.pid)
    printed = process.stdout.read() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    family.end()
    if process.returncode:
        raise SystemExit(f"hcoco {' '.join(words)} ended with {process.returncode}")
    return json.loads(printed), {
        "wall_s": time.monotonic() - began,
        "processor_s": used.ru_utime + used.ru_stime,
        "main_bytes": family.most("main"),
        "worker_bytes": family.most("worker"),
    }


def build(folder: Path, *, samples: int, gate: str) -> dict[str, Any]:
    """Build a run by the command line and say what it cost."""
    source, output = draw_source(folder, samples=samples), folder / f"runs-{gate}"
    name = f"grown-{samples}"
    shutil.rmtree(output / name, ignore_errors=True)
    counts, cost = watched(folder, "build", *_options(source, output, samples=samples, gate=gate, name=name))
    run = output / name
    if counts["planned"] != counts["kept"] + counts["rejected"]:
        raise SystemExit(f"{run} lost samples: {counts}")
    return {
        "what": "build",
        "samples": counts["planned"],
        "kept": counts["kept"],
        "gate": gate,
        "shards_s": sum(json.loads(path.read_bytes())["seconds"] for path in (run / "done").glob("*.json")),
        **cost,
        **sizes(run),
    }


def sizes(run: Path) -> dict[str, int]:
    """Return the bytes of the parts of a run, and its number of files."""
    parts = {name: size_of(run / name) for name in ("shards", "rejected", "index", "plan", "done", "report", "gallery")}
    files = {name: size_of(run / name) for name in ("plan.json", "manifest.json")}
    return {
        **{f"{name}_bytes": size for name, size in (parts | files).items()},
        "files": sum(path.is_file() for path in run.rglob("*")),
        "shards": len(list((run / "done").glob("*.json"))),
    }


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file()) if path.exists() else 0


def command_cost(folder: Path, *, samples: int, gate: str, command: str) -> dict[str, Any]:
    """Run `hcoco verify` or `hcoco gallery` on a run that was built, and say what it cost."""
    run = folder / f"runs-{gate}" / f"grown-{samples}"
    _, cost = watched(folder, command, str(run), "--workers", "2")
    size = {"gallery_bytes": size_of(run / "gallery")} if command == "gallery" else {}
    return {"what": command, "samples": samples, "gate": gate, **cost, **size}


def deploy(folder: Path, *, samples: int, shard_size: int) -> dict[str, Any]:
    """Run the deployment `build-hcoco` against a new server, and say how large its database became."""
    source, output = draw_source(folder, samples=samples), folder / "runs-deployed"
    root, name = folder / f"project-{samples}-{shard_size}", f"grown-{samples}-{shard_size}"
    for old in (root, output / name):
        shutil.rmtree(old, ignore_errors=True)
    root.mkdir(parents=True)
    for part in ("flows", "augment", "realism", "prefect.yaml", "pyproject.toml"):
        (root / part).symlink_to(PROJECT / part)
    options = [*_options(source, output, samples=samples, gate="off", name=name), "--shard_size", str(shard_size)]
    settings = [f"{key.removeprefix('--')}={value}" for key, value in zip(options[::2], options[1::2], strict=True)]
    flags = [word for each in settings for word in ("-p", each)]
    prefect = [str(Path(sys.executable).with_name("prefect")), "deployment", "run", "build-hcoco", "--watch"]
    between = f"import sys; from pathlib import Path; from flows.services import run_between; sys.exit(run_between(%r, root=Path({str(root)!r}), keep=False))"
    grown = []
    for command in (["true"], [*prefect, *flags]):  # the first start makes the database
        subprocess.run([sys.executable, "-c", between % (command,)], cwd=root, env=_environment(folder), check=True)
        grown.append(database_bytes(root))
    database = {"before_bytes": grown[0], "after_bytes": grown[1]}
    return {"what": "deployment", "samples": samples, **database, **sizes(output / name)}


def database_bytes(root: Path) -> int:
    """Return the bytes of Prefect's database below a project's folder, its log of changes among them."""
    return sum(path.stat().st_size for path in (root / ".prefect").rglob("*.db*") if path.is_file())


def _options(source: Path, output: Path, *, samples: int, gate: str, name: str) -> list[str]:
    values = {
        "source": source,
        "output": output,
        "run": name,
        "samples": samples,
        "variants": VARIANTS,
        "stages": "harmonization",
        "gate": gate,
        "device": "cpu",
        "workers": 2,
    }
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "HCOCO_CACHE": str(folder / "cache"), "MPLCONFIGDIR": str(folder / "cache" / "matplotlib")}


def main() -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "draw"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path, nargs="?")
    parser.add_argument("--samples", type=_numbers, default=(1000, 10_000, 100_000))
    parser.add_argument("--gate", type=_words, default=["on"])
    parser.add_argument("--after", type=_words, default=[], help="commands to run on each run that was built")
    parser.add_argument("--deployed", type=_numbers, default=())
    parser.add_argument("--shard-size", type=int, default=1000, help="of the deployed builds")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if given.what == "draw":
        draw(read_figures(folder), given.picture)
        print(tell(read_figures(folder)))
        return
    print(describe())
    for row in measure(folder, given):
        with (folder / "growth.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def measure(folder: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row of figures for each size and each way of building."""
    for samples in given.samples:
        for gate in given.gate:
            yield build(folder, samples=samples, gate=gate)
            for command in given.after:
                yield command_cost(folder, samples=samples, gate=gate, command=command)
    for samples in given.deployed:
        yield deploy(folder, samples=samples, shard_size=given.shard_size)


def read_figures(folder: Path) -> list[dict[str, Any]]:
    """Return the rows that were measured; of two for the same thing the later."""
    rows = [json.loads(line) for line in (folder / "growth.jsonl").read_text().splitlines()]
    return list({(row["what"], row["samples"], row.get("gate"), row.get("shards")): row for row in rows}.values())


def tell(rows: Sequence[dict[str, Any]]) -> str:
    """Return the figures as a table in Markdown."""
    headings = ("", "samples", "processor, s", "ms a sample", "main, MB", "worker, MB", "report, MB", "gallery, MB")
    table = Table(headings)
    for row in sorted(rows, key=lambda row: (row["what"], row.get("gate", ""), row["samples"])):
        if "processor_s" in row:
            each = f"{1000 * row['processor_s'] / row['samples']:.1f}"
            parts = (row.get(f"{name}_bytes", 0) for name in ("main", "worker", "report", "gallery"))
            megabytes = (f"{size / 1e6:,.1f}" if size else "" for size in parts)
            what = f"{row['what']}, gate {row['gate']}"
            table.add(what, f"{row['samples']:,}", f"{row['processor_s']:.1f}", each, *megabytes)
    return table.markdown()


def draw(rows: Sequence[dict[str, Any]], to: Path) -> None:
    """Draw time, memory and sizes against samples."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - for this only

    def series(what: str, gate: str, value: Callable[[dict[str, Any]], float]) -> tuple[list[int], list[float]]:
        mine = sorted((r for r in rows if (r["what"], r.get("gate")) == (what, gate)), key=lambda r: r["samples"])
        return [row["samples"] for row in mine], [value(row) for row in mine]

    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    times, memory, bytes_of = figure.subplots(1, 3)
    for gate, dashes in (("on", "-"), ("off", "--")):
        for what in ("build", "verify", "gallery"):
            points = series(what, gate, lambda row: 1000 * row["processor_s"] / row["samples"])
            times.plot(*points, dashes, marker="o", label=f"{what}, gate {gate}")
        for role in ("main", "worker"):
            points = series("build", gate, lambda row, role=role: row[f"{role}_bytes"] / 1e6)
            memory.plot(*points, dashes, marker="o", label=f"{role}, gate {gate}")
    for part in ("shards", "index", "plan", "report", "manifest.json"):
        points = series("build", "on", lambda row, part=part: row[f"{part}_bytes"] / 1e6)
        bytes_of.plot(*points, marker="o", label=part)
    bytes_of.plot(*series("gallery", "on", lambda row: row["gallery_bytes"] / 1e6), marker="o", label="gallery")
    bytes_of.set_yscale("log")
    titles = ("processor time, ms a sample", "largest process, MB", "size, MB")
    for axes, title in zip((times, memory, bytes_of), titles, strict=True):
        axes.set(xscale="log", xlabel="samples", title=title)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=7)
    times.set_ylim(bottom=0)
    memory.set_ylim(bottom=0)
    figure.savefig(to, metadata={"Date": None})


def _numbers(text: str) -> Sequence[int]:
    return tuple(int(part) for part in text.split(",") if part)


def _words(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


if __name__ == "__main__":
    main()
