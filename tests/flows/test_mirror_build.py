"""A build through an unreliable COCO mirror is the build from the folder, byte by byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.cli import main
from tests.flows.coco.mirror import Faults, lay_out, serve

TROUBLE = Faults(drop_every=9, silent_every=23, busy_first=1, truncate_first=1)


def files_of(run: Path) -> dict[str, bytes]:
    """Return what the samples of a run are: tars and index."""
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for folder in ("shards", "rejected", "index")
        for path in sorted((run / folder).iterdir())
    }


def build(capsys: pytest.CaptureFixture[str], *options: object) -> Path:
    """Build by the command line, without a gate; return the run's folder."""
    assert (
        main(["build", "--json", "--gate", "off", "--stages", "harmonization", *(str(option) for option in options)])
        == 0
    )
    return Path(json.loads(capsys.readouterr().out)["run"])


def offer(coco: Path, mirror: Path, *, subset: str, padding_bytes: int = 0) -> None:
    """Lay a COCO folder out as COCO's server does."""
    images = {path.name: path.read_bytes() for path in sorted((coco / subset).iterdir())}
    instances = (coco / "annotations" / f"instances_{subset}.json").read_bytes()
    lay_out(mirror, images=images, instances=instances, padding_bytes=padding_bytes)


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ask the loopback directly, and keep what is fetched to this test."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HCOCO_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_alone")
def test_only_the_photographs_of_the_plan_are_fetched(
    many_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plan of few samples asks for few photographs, and for a small part of the archive."""
    offer(many_coco, tmp_path / "mirror", subset="val2017", padding_bytes=30_000_000)
    with serve(tmp_path / "mirror") as serving:
        options = ("--source", "coco:val2017", "--coco-base", serving.base, "--output", tmp_path / "out")
        build(capsys, *options, "--samples", 2, "--workers", 1)
        assert serving.sent < 5_000_000
        asked = {request.path for request in serving.requests if request.path.endswith(".jpg")}
    assert 0 < len(asked) < 40


@pytest.mark.usefixtures("_alone")
def test_faults_of_the_network_change_nothing(
    tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dropped, silent, busy and cut answers, and a missing photograph, end in the bytes of the folder without it."""
    gone = "000000000005.jpg"
    images = {path.name: path.read_bytes() for path in sorted((tiny_coco / "tiny").iterdir()) if path.name != gone}
    instances = (tiny_coco / "annotations" / "instances_tiny.json").read_bytes()
    lay_out(tmp_path / "mirror", images=images, instances=instances)
    coco = tmp_path / "coco"
    (coco / "val2017").mkdir(parents=True)
    (coco / "annotations").mkdir()
    (coco / "annotations" / "instances_val2017.json").write_bytes(instances)
    for name, data in images.items():
        (coco / "val2017" / name).write_bytes(data)
    with serve(
        tmp_path / "mirror", faults=Faults(**{**vars(TROUBLE), "truncated": frozenset(list(images)[:4])})
    ) as serving:
        remote = ("--source", "coco:val2017", "--coco-base", serving.base, "--output", tmp_path / "remote")
        fetched = build(capsys, *remote, "--shard-size", 8)
    local = build(capsys, "--source", coco, "--output", tmp_path / "local", "--shard-size", 8)
    assert files_of(fetched) == files_of(local)
    dropped = json.loads((local / "manifest.json").read_bytes())["selection"]["dropped_by_reason"]
    assert dropped["unreadable"] == 2


@pytest.mark.usefixtures("_alone")
def test_a_cache_that_was_filled_needs_no_mirror(
    many_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After `hcoco fetch` the same build works without any server, and says as many samples as were promised."""
    offer(many_coco, tmp_path / "mirror", subset="val2017")
    source = ["--source", "coco:val2017", "--samples", "20"]
    with serve(tmp_path / "mirror") as serving:
        assert main(["fetch", "--stages", "harmonization", *source, "--coco-base", serving.base, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["samples"] == 20
    run = build(capsys, *source, "--coco-base", "http://127.0.0.1:9", "--output", tmp_path / "out")
    assert json.loads((run / "manifest.json").read_bytes())["counts"]["planned"] == 20


@pytest.mark.usefixtures("_alone")
def test_a_mirror_that_is_gone_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody at the address: exit code 2 and a line that says what to check."""
    options = ["--source", "coco:val2017", "--coco-base", "http://127.0.0.1:9", "--output", str(tmp_path)]
    assert main(["build", "--gate", "off", "--stages", "harmonization", *options]) == 2
    line = capsys.readouterr().err.strip()
    assert "cannot fetch COCO" in line
    assert "\n" not in line


@pytest.mark.slow
@pytest.mark.usefixtures("_alone")
def test_500_real_samples_through_a_bad_network(
    real_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """500 samples of real photographs through injected faults equal the build from the folder."""
    offer(real_coco, tmp_path / "mirror", subset="val2017", padding_bytes=50_000_000)
    with serve(tmp_path / "mirror", faults=TROUBLE) as serving:
        remote = ("--source", "coco:val2017", "--coco-base", serving.base, "--output", tmp_path / "remote")
        fetched = build(capsys, *remote, "--samples", 500, "--shard-size", 100)
    images, annotations = real_coco / "val2017", real_coco / "annotations" / "instances_val2017.json"
    here = ("--images", images, "--annotations", annotations, "--output", tmp_path / "local")
    local = build(capsys, *here, "--samples", 500, "--shard-size", 100)
    assert json.loads((fetched / "manifest.json").read_bytes())["counts"]["planned"] == 500
    assert files_of(fetched) == files_of(local)
