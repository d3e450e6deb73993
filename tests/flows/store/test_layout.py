from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flows.errors import BadRequest
from flows.store.layout import Layout, open_run, write_bytes, writing


def test_every_path_of_a_run_lies_below_it_as_the_format_says(tmp_path: Path) -> None:
    """The names of files are those of the format."""
    layout = Layout(tmp_path)
    paths = [layout.plan, layout.manifest, layout.report, layout.shard("train-00000"), layout.rejected("val-00001")]
    paths += [layout.index("test-00002"), layout.done("test-00002")]
    assert [layout.relative(path) for path in paths] == [
        "plan.json",
        "manifest.json",
        "report/index.html",
        "shards/train-00000.tar",
        "rejected/val-00001.tar",
        "index/test-00002.parquet",
        "done/test-00002.json",
    ]


def test_a_written_file_is_whole_and_readable_for_all(tmp_path: Path) -> None:
    """A file lands under its name with mode 644, in a folder made for it, and nothing else does."""
    write_bytes(tmp_path / "a" / "b.json", b"content")
    assert (tmp_path / "a" / "b.json").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "a" / "b.json").stat().st_mode) == 0o644
    assert len(list((tmp_path / "a").iterdir())) == 1


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """While a file is written anew, readers see the old one."""
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    with writing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_exception(tmp_path: Path, error: type[BaseException]) -> None:
    """An exception of any kind leaves no file: neither the new one nor a temporary one."""
    path = tmp_path / "a.json"

    def break_off() -> None:
        with writing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        break_off()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_at_the_flush_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is found full only when the data is flushed leaves the old file and nothing else."""
    path = tmp_path / "a.json"
    write_bytes(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path: Path) -> None:
    """A process that is killed in the middle of a write leaves the old file whole."""
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from flows.store.layout import writing\n"
        "with writing(Path(sys.argv[1])) as file:\n"
        "    file.write(b'new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    """A missing folder and one without a plan are told apart, each in one line that says what to give."""
    with pytest.raises(BadRequest, match=r"does not exist; give the folder of a run"):
        open_run(tmp_path / "missing")
    with pytest.raises(BadRequest, match=r"has no plan\.json, so it is no run"):
        open_run(tmp_path)


def test_a_run_is_opened_by_any_spelling_of_its_folder(tmp_path: Path) -> None:
    """A relative or roundabout path leads to the same run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_bytes(b"{}")
    assert open_run(tmp_path / "run" / ".." / "run").run == (tmp_path / "run").resolve()
