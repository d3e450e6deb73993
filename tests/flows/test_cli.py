from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.make.verify import verify_run
from flows.settings import BuildSettings
from flows.store.layout import Layout
from flows.store.lock import only_build
from tests.conftest import write_coco
from tests.flows.make.building import build_in, differing, hashes, rows_of
from tests.flows.make.forging import flip

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = 6  # enough samples that a build can be killed in the middle
HEAVY = ("torch", "cv2", "prefect", "numpy", "pyarrow", "webdataset", "matplotlib", "skimage")

Capture = pytest.CaptureFixture[str]


def command(*arguments: object) -> list[str]:
    """Return the command line of `hcoco` with this interpreter."""
    return [sys.executable, "-m", "flows.cli", *map(str, arguments)]


def build_arguments(source: Path, output: Path, *more: object) -> list[str]:
    """Return the arguments of a build of edits into `output/run`, without a gate."""
    return [
        "build",
        "--gate",
        "off",
        "--stages",
        "harmonization",
        "--source",
        str(source),
        "--output",
        str(output),
        "--run",
        "run",
        "--shard-size",
        "8",
        *map(str, more),
    ]


@pytest.fixture(scope="module")
def built(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a finished run; do not write into it."""
    return build_in(tiny_coco, tmp_path_factory.mktemp("built"), samples=16)


@pytest.fixture
def copied(built: Layout, tmp_path: Path) -> Layout:
    """Return a copy of the finished run, to be damaged."""
    shutil.copytree(built.run, tmp_path / "run")
    return Layout(tmp_path / "run")


# Help


def test_help_answers_within_a_second() -> None:
    """`hcoco --help` is quick; the best of three counts, since other processes may hold the machine."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(command("--help"), cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 1.0


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["verify", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """Neither torch nor cv2 nor Prefect is on the path of any help."""
    code = (
        "import sys\nfrom flows.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert told.stdout.splitlines()[-1] == "LOADED []"


def test_no_command_prints_the_help(capsys: Capture) -> None:
    """`hcoco` alone teaches, and is no error."""
    assert main([]) == 0
    text = capsys.readouterr().out
    assert "first steps:" in text
    assert "exit codes: 0 done, 1 damage or a failed check was found, 2 a bad request" in text


def test_every_setting_is_an_option_with_its_sentence(capsys: Capture) -> None:
    """`hcoco build --help` names every setting, with the words and the default of the settings."""
    with pytest.raises(SystemExit) as end:
        main(["build", "--help"])
    assert end.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    for name, field in BuildSettings.model_fields.items():
        assert f"--{name.replace('_', '-')} {name.upper()}" in words
        assert " ".join(str(field.description).split()[:4]) in words


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["build", "--nonsense", "1"], ["remake"], ["verify"], ["verify", "run", "--workers", "x"]],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments: list[str], capsys: Capture) -> None:
    """A slip on the command line is a bad request like any other: one line on the error stream that says where to read."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("hcoco")
    assert error.count("\n") == 1
    assert "--help` tells" in error


# Build


def test_build_says_what_it_makes_and_where(tiny_coco: Path, tmp_path: Path, capsys: Capture) -> None:
    """A build prints plan, progress and outcome; shards and report lie where it says."""
    assert main(build_arguments(tiny_coco, tmp_path, "--samples", 16, "--workers", 1)) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert any("16 samples in" in line for line in lines)
    assert any(line.startswith("train-00000: ") for line in lines)
    assert any(line.startswith("16 planned = ") for line in lines)
    shards = next(line for line in lines if line.startswith("shards: ")).removeprefix("shards: ")
    report = next(line for line in lines if line.startswith("report: ")).removeprefix("report: ")
    assert list(Path(shards).glob("*.tar"))
    assert Path(report).read_text().lower().startswith("<!doctype html>")
    assert captured.err == ""


def test_build_prints_json_and_nothing_else(tiny_coco: Path, tmp_path: Path, built: Layout, capsys: Capture) -> None:
    """With `--json` the outcome is one JSON object; the bytes are those of any other way to build."""
    assert main(build_arguments(tiny_coco, tmp_path, "--samples", 16, "--workers", 1, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["planned"] == told["kept"] + told["rejected"] == 16
    assert Path(told["run"]) == (tmp_path / "run").resolve()
    assert Path(told["report"]).is_file()
    assert differing(hashes(Layout(Path(told["run"]))), hashes(built)) == []


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--source", "missing"], "missing"),
        (["--samples", "0"], "setting samples: "),
        (["--samples", "many"], "setting samples: "),
        (["--families", "magic=1"], "unknown family 'magic'"),
        (["--licenses", "1"], "no pair of people"),
        (["--exclude-ids", "missing.txt"], "missing.txt"),
        (["--gate", "maybe"], "setting gate: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_bad_request_is_one_line_and_exit_code_2(
    tiny_coco: Path, tmp_path: Path, capsys: Capture, options: list[str], what: str
) -> None:
    """Whatever cannot be done is one line that says what, on the error stream, without a traceback."""
    assert main([*build_arguments(tiny_coco, tmp_path, "--workers", 1), *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("hcoco build: ")
    assert captured.err.count("\n") == 1
    assert what in captured.err
    assert not (tmp_path / "run" / "plan.json").exists()


def test_an_existing_run_with_other_settings_is_refused(copied: Layout, tiny_coco: Path, capsys: Capture) -> None:
    """Nothing of a run is touched by a build that asks for something else."""
    before = hashes(copied)
    assert main(build_arguments(tiny_coco, copied.run.parent, "--samples", 16, "--seed", 1)) == 2
    assert "was made with another seed (0, now 1); choose another --run" in capsys.readouterr().err
    assert hashes(copied) == before


def test_a_second_build_at_the_same_time_is_refused(copied: Layout, tiny_coco: Path, capsys: Capture) -> None:
    """Two builds into one run: the second says so in one line and leaves the first alone."""
    with only_build(copied):
        assert main(build_arguments(tiny_coco, copied.run.parent, "--samples", 16, "--workers", 1)) == 2
    assert "another build is at work in" in capsys.readouterr().err


@pytest.mark.parametrize("spoil", ["file", "read-only"])
def test_an_output_that_cannot_be_written_is_a_bad_request(
    tiny_coco: Path, tmp_path: Path, capsys: Capture, spoil: str
) -> None:
    """An output folder that cannot be is one line that says how to mend it."""
    output = tmp_path / "out"
    if spoil == "file":
        output.write_text("in the way")
    else:
        if os.geteuid() == 0:
            pytest.skip("root writes anywhere")
        output.mkdir(mode=0o555)
    assert main(build_arguments(tiny_coco, output, "--workers", 1)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--output" in error


def test_a_full_disk_is_a_bad_request(
    tiny_coco: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full is one line, and says that what is done stays."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(build_arguments(tiny_coco, tmp_path, "--workers", 1)) == 2
    assert "the disk is full; free some space and run the same command again" in capsys.readouterr().err


def test_a_stopped_build_says_how_to_go_on(
    tiny_coco: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is no traceback, but a line and exit code 130."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.make.plan.plan_run", stop)
    assert main(build_arguments(tiny_coco, tmp_path)) == 130
    assert capsys.readouterr().err == "hcoco build: stopped; run the same command again to go on\n"


# Verify and remake


def test_verify_passes_on_a_good_run(built: Layout, capsys: Capture) -> None:
    """Exit code 0, and a line that says that every check passed."""
    assert main(["verify", str(built.run), "--workers", "1"]) == 0
    assert capsys.readouterr().out == f"{built.run}: every check passed\n"


def test_verify_names_damage_and_exits_with_1(copied: Layout, capsys: Capture) -> None:
    """Exit code 1; each line names file and sample."""
    tar = next(iter(sorted((copied.run / "shards").iterdir())))
    flip(tar, 3000)
    assert main(["verify", str(copied.run), "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"shards/{tar.name}: differs from its hash in the manifest" in lines
    assert lines[-1] == f"{copied.run.resolve()}: {len(lines) - 1} problems"


def test_verify_prints_json(built: Layout, copied: Layout, capsys: Capture) -> None:
    """With `--json` the outcome is one object: whole or not, and the problems with path, key and what."""
    assert main(["verify", str(built.run), "--workers", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": str(built.run), "whole": True, "problems": []}
    next((copied.run / "index").iterdir()).unlink()
    assert main(["verify", str(copied.run), "--workers", "1", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["whole"] is False
    assert {"path", "key", "what"} == set(told["problems"][0])


@pytest.mark.parametrize("name", ["verify", "remake"])
def test_a_folder_that_is_no_run_is_exit_code_2(tmp_path: Path, capsys: Capture, name: str) -> None:
    """What is no run cannot be damaged: it is a bad request."""
    arguments = [name, str(tmp_path / "nothing"), *(["key"] if name == "remake" else [])]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"hcoco {name}: {tmp_path / 'nothing'} does not exist")


def test_an_unfinished_run_is_exit_code_2(copied: Layout, capsys: Capture) -> None:
    """A run that was never finished is not verified but built to its end."""
    copied.manifest.unlink()
    assert main(["verify", str(copied.run), "--workers", "1"]) == 2
    assert "is not finished" in capsys.readouterr().err


def test_remake_says_whether_the_bytes_are_the_same(copied: Layout, tmp_path: Path, capsys: Capture) -> None:
    """Exit code 0 for the same bytes, 1 for others; `--json` says which members, `--to` writes what was made."""
    key = rows_of(copied)[0]["key"]
    assert main(["remake", str(copied.run), key, "--to", str(tmp_path / "made")]) == 0
    assert capsys.readouterr().out == f"{key}: the same bytes\n"
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        f"{key}.{name}" for name in ("composite.jpg", "json", "mask.png", "real.jpg")
    ]
    row = rows_of(copied)[0]
    flip(copied.run / row["tar"], row["offset"] + 512 + 1000)  # in the middle of composite.jpg
    assert main(["remake", str(copied.run), key, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"key": key, "same": False, "differing": ["composite.jpg"]}


def test_remake_of_an_unknown_key_is_exit_code_2(built: Layout, capsys: Capture) -> None:
    """A key that the run does not hold is one line that says what keys look like."""
    assert main(["remake", str(built.run), "nobody"]) == 2
    assert "has no sample 'nobody'; keys look like" in capsys.readouterr().err


# kill -9


def _children(pid: int) -> set[int]:
    """Return the processes below one, at any depth."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        try:
            told = Path(f"/proc/{waiting[0]}/task/{waiting[0]}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):
            told = ""
        waiting = [*waiting[1:], *map(int, told.split())]
        found.update(waiting)
    return found


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _wait_for(claim: Callable[[], Any], *, seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if claim():
            return True
        time.sleep(0.005)
    return bool(claim())


def _kill_when(claim: Callable[[], Any], arguments: list[str]) -> set[int]:
    """Start a build, kill it by -9 as soon as `claim` holds; return its worker processes of that moment."""
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as build:
        assert _wait_for(lambda: claim() or build.poll() is not None, seconds=60)
        workers = _children(build.pid)
        build.send_signal(signal.SIGKILL)
        _, error = build.communicate(timeout=60)
    assert build.returncode == -9, f"the build ended by itself, too early to be killed: {error}"
    return workers


@pytest.fixture(scope="module")
def killed(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Kill one build at two moments, each time begun again, and let the third come to its end."""
    output = tmp_path_factory.mktemp("killed")
    layout = Layout(output / "run")
    arguments = build_arguments(tiny_coco, output, "--variants", VARIANTS, "--workers", 2)
    done = layout.done("x").parent

    def shards_done(number: int) -> Callable[[], bool]:
        return lambda: done.is_dir() and len(list(done.glob("*.json"))) >= number

    moments = [shards_done(number) for number in (1, 6)]
    workers = set[int]()
    states = []
    for moment in moments:
        workers |= _kill_when(moment, arguments)
        states.append(len(list(done.glob("*.json"))) if done.is_dir() else 0)
    finished = subprocess.run(command(*arguments, "--json"), cwd=ROOT, check=False, capture_output=True, text=True)
    undisturbed = build_arguments(tiny_coco, output / "undisturbed", "--variants", VARIANTS, "--workers", 2, "--json")
    subprocess.run(command(*undisturbed), cwd=ROOT, check=True, capture_output=True)
    return {
        "undisturbed": Layout(output / "undisturbed" / "run"),
        "layout": layout,
        "workers": workers,
        "states": states,
        "finished": finished,
    }


def test_a_build_killed_by_9_is_finished_to_the_same_bytes(killed: dict[str, Any]) -> None:
    """Killed at two moments and begun again each time, a run is byte for byte what an undisturbed build makes."""
    assert killed["finished"].returncode == 0, killed["finished"].stderr
    assert differing(hashes(killed["layout"]), hashes(killed["undisturbed"])) == []
    assert list(verify_run(killed["layout"])) == []


def test_what_a_killed_build_had_done_stays(killed: dict[str, Any]) -> None:
    """Each build went on where the one before it was killed: markers only ever became more."""
    assert killed["states"] == sorted(killed["states"])
    assert killed["states"][-1] >= 6


def test_a_killed_build_leaves_nothing_half_written(killed: dict[str, Any]) -> None:
    """At the end no temporary file lies in the run."""
    assert list(killed["layout"].run.rglob("*.tmp")) == []


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the workers")
def test_the_workers_of_a_killed_build_do_not_stay(killed: dict[str, Any]) -> None:
    """Worker processes end by themselves when the build that started them is killed."""
    assert killed["workers"]
    assert _wait_for(lambda: not any(_is_running(pid) for pid in killed["workers"]), seconds=20)


def test_a_build_from_nothing_but_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Relative paths are taken from the caller's folder, and the run is named by source and settings."""
    write_coco(tmp_path / "my coco", images=6)
    monkeypatch.chdir(tmp_path)
    assert main(["build", "--source", "my coco", "--workers", "1", "--json"]) == 0
    run = Path(json.loads(capsys.readouterr().out)["run"])
    assert run.parent == tmp_path / "output"
    assert run.name.startswith("my-coco-")
