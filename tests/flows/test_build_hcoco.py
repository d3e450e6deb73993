"""The flow under a real, temporary Prefect server: wiring, artifacts, and how a refusal looks."""

from __future__ import annotations

import errno
import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markdown_it import MarkdownIt
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.artifacts import show_build
from flows.build_hcoco import build_hcoco
from flows.make.run import Finished
from flows.make.verify import verify_run
from flows.store.layout import Layout
from flows.store.manifest import read_manifest
from flows.view.refresh import Views
from tests.flows.make.building import differing, hashes
from tests.flows.make.gating import save_untrained


@pytest.fixture(scope="session")
def built(_prefect: None, tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the flow once on the tiny folder, with a gate whose audit failed."""
    output = tmp_path_factory.mktemp("flow")
    checkpoint = save_untrained(output / "mine", audit={"passed": False})
    outcome: dict[str, Any] = build_hcoco(
        source=str(tiny_coco), output=str(output / "runs"), workers=2, shard_size=8, gate_checkpoint=str(checkpoint)
    )
    return outcome


def test_the_flow_makes_a_whole_run(built: dict[str, Any]) -> None:
    """A run made by the flow passes every check, and its counts add up."""
    layout = Layout(Path(built["run"]))
    assert list(verify_run(layout)) == []
    assert built["planned"] == built["kept"] + built["rejected"] > 0
    assert layout.report.is_file()


def test_the_flow_and_the_command_make_the_same_bytes(
    built: dict[str, Any], tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`hcoco build` without Prefect writes the same files, byte by byte."""
    from flows.cli import main

    main(
        [
            "build",
            "--source",
            str(tiny_coco),
            "--output",
            str(tmp_path),
            "--shard-size",
            "8",
            "--gate-checkpoint",
            str(Path(built["run"]).parent.parent / "mine.pt"),
            "--workers",
            "1",
            "--json",
        ]
    )
    here, there = Path(json.loads(capsys.readouterr().out)["run"]), Path(built["run"])
    names = sorted(p.relative_to(there) for p in there.rglob("*") if p.is_file() and p.parent.name != "done")
    assert names == sorted(p.relative_to(here) for p in here.rglob("*") if p.is_file() and p.parent.name != "done")
    assert [name for name in names if (here / name).read_bytes() != (there / name).read_bytes()] == []


def test_a_second_run_makes_nothing_again(
    built: dict[str, Any], tiny_coco: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same request finds everything done and touches no shard; that the gate's audit failed is told again."""
    run = Path(built["run"])
    before = {path: path.stat().st_mtime_ns for path in (run / "shards").iterdir()}
    checkpoint = str(run.parent.parent / "mine.pt")
    again: dict[str, Any] = build_hcoco(
        source=str(tiny_coco), output=str(run.parent), workers=2, shard_size=8, gate_checkpoint=checkpoint
    )
    assert again == built
    assert {path: path.stat().st_mtime_ns for path in (run / "shards").iterdir()} == before
    warned = [record.getMessage() for record in caplog.records if "did not pass its audit" in record.getMessage()]
    assert len(warned) == 1


def test_prefect_shows_counts_and_progress(built: dict[str, Any]) -> None:
    """Tables by family and by reason, a summary and the progress stand beside the run."""
    assert built["planned"]
    with get_client(sync_client=True) as client:
        keys = ["families", "reasons", "build-summary", "build-progress"]
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=keys)))
    assert {artifact.key for artifact in found} == set(keys)
    assert next(artifact for artifact in found if artifact.key == "build-progress").data == pytest.approx(100.0)
    whole = [json.loads(str(artifact.data))[-1] for artifact in found if artifact.key == "families"]
    outcomes = [(row.pop("family"), row.pop("planned"), row.pop("kept"), sum(row.values())) for row in whole]
    assert ("all", built["planned"], built["kept"], built["rejected"]) in outcomes
    summaries = [str(artifact.data) for artifact in found if artifact.key == "build-summary"]
    run = Path(built["run"])
    pages = [(run / page / "index.html").as_uri() for page in ("report", "gallery", "statistics")]
    assert any(all(f"[{page}]({page})" in summary for page in pages) for summary in summaries)
    assert all((run / page / "index.html").is_file() for page in ("report", "gallery", "statistics"))


def test_text_of_a_run_stays_text_in_prefect_s_pages(built: dict[str, Any], tmp_path: Path) -> None:
    """Prefect takes summaries and cells for Markdown: no family, reason or folder becomes a tag, a link or a picture."""
    hostile = "<img src=x>](javascript:x) ![a](http://x) `|`\n# b"
    layout = Layout(tmp_path / "a`b](javascript:x) __c__")
    shutil.copytree(built["run"], layout.run)
    for path in layout.index("any").parent.glob("*.parquet"):
        table = pq.read_table(path)
        for name in ("family", "reason"):
            words = [word and hostile for word in table[name].to_pylist()]
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(words, pa.string()))
        pq.write_table(table, path)
    manifest = read_manifest(layout)
    manifest["counts"]["by_reason"] = {hostile: 1}
    flow(show_build, validate_parameters=False)(Finished(layout, manifest), Views(layout.report, None, None))
    with get_client(sync_client=True) as client:
        keys = ["families", "reasons", "build-summary"]
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=keys)))
    newest = {artifact.key: str(artifact.data) for artifact in sorted(found, key=lambda each: str(each.created))}
    cells = [str(word) for key in keys[:2] for row in json.loads(newest[key]) for item in row.items() for word in item]
    assert sum("javascript" in cell for cell in cells) >= 3
    marks = MarkdownIt("commonmark", {"html": True})
    assert all(marks.render(f"x {cell}").count("<") == 2 for cell in cells)
    summary = marks.render(newest["build-summary"])
    assert "<img" not in summary
    assert "<h1" not in summary
    assert re.findall(r'href="[^"]*"', summary) == []  # this renderer links no files, Prefect's does
    assert f"<code>{layout.run}</code>" in summary


@pytest.mark.usefixtures("_prefect")
def test_a_request_that_cannot_be_met_fails_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The flow's state says what is wrong and how to mend it, without a traceback."""
    state = build_hcoco(source=str(tmp_path / "nowhere"), output=str(tmp_path), return_state=True)
    assert state.is_failed()
    assert "does not exist; give" in str(state.message)
    assert "\n" not in str(state.message)
    assert "Traceback" not in caplog.text


@pytest.mark.usefixtures("_prefect")
def test_a_shard_that_cannot_be_written_fails_in_one_line(
    tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk in the middle of a build is the flow's message, and no traceback."""

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "shard.tar")

    monkeypatch.setattr("flows.runners.LocalRunner.call", full)
    state = build_hcoco(source=str(tiny_coco), output=str(tmp_path), workers=1, gate="off", return_state=True)
    assert state.is_failed()
    assert "the disk is full" in str(state.message)
    assert "Traceback" not in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed")
def test_the_flow_on_ray_makes_the_same_bytes(built: dict[str, Any], tiny_coco: Path, tmp_path: Path) -> None:
    """The flow with `runner=ray`, its tasks waiting for Ray's workers, writes the same shards as with its own pool."""
    checkpoint = Path(built["run"]).parent.parent / "mine.pt"
    given = {"output": str(tmp_path), "workers": 2, "shard_size": 8, "gate_checkpoint": str(checkpoint)}
    outcome: dict[str, Any] = build_hcoco(source=str(tiny_coco), runner="ray", **given)
    assert differing(hashes(Layout(Path(outcome["run"]))), hashes(Layout(Path(built["run"])))) == []
