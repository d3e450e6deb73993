from __future__ import annotations

import csv
import hashlib
import json
import logging
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from flows.cli import main
from flows.errors import BadRequest
from flows.store.layout import Layout
from flows.store.manifest import read_manifest
from flows.store.read import Damaged
from flows.view.data_card import (
    ATTRIBUTION,
    CROISSANT,
    README,
    gather_facts,
    read_licenses,
    render_readme,
    write_card,
)
from tests.conftest import save_instances, write_coco
from tests.flows.make.building import build_in, rows_of

LICENSES = [
    {
        "id": 3,
        "name": "Attribution-NonCommercial-NoDerivs License",
        "url": "http://creativecommons.org/licenses/by-nc-nd/2.0/",
    },
    {"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"},
    {"id": 6, "name": "Attribution-NoDerivs License", "url": "http://creativecommons.org/licenses/by-nd/2.0/"},
    {"id": 9, "name": "a | b\n<script>", "url": "javascript:alert(1)"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a run over photographs of four licences, with its card; do not write into it."""
    folder = tmp_path_factory.mktemp("card")
    instances = write_coco(folder / "coco")
    for image in instances["images"]:
        image["license"] = LICENSES[image["id"] % 4]["id"]
        image["flickr_url"] = f"http://farm1.staticflickr.com/{image['id']}_z.jpg"
    save_instances(folder / "coco", {**instances, "licenses": LICENSES})
    layout = build_in(folder / "coco", folder)
    write_card(layout)
    return layout


def front_matter(layout: Layout) -> dict[str, Any]:
    """Return the YAML of the card, as Hugging Face reads it."""
    yaml = pytest.importorskip("yaml")
    _, text, _ = (layout.run / README).read_text().split("---\n", 2)
    value: dict[str, Any] = yaml.safe_load(text)
    return value


def test_front_matter_counts_the_kept_samples(run: Layout) -> None:
    """Splits, sizes and files in the front matter are those on the disk."""
    kept = Counter(row["split"] for row in rows_of(run) if row["status"] == "kept")
    matter = front_matter(run)
    assert {each["name"]: each["num_examples"] for each in matter["dataset_info"]["splits"]} == kept
    for each, files in zip(matter["dataset_info"]["splits"], matter["configs"][0]["data_files"], strict=True):
        assert each["name"] == files["split"]
        assert each["num_bytes"] == sum(path.stat().st_size for path in run.run.glob(files["path"]))
    assert matter["size_categories"] == ["n<1K"]
    assert matter["license"] == "other"


def test_attribution_has_a_row_for_every_photograph(run: Layout) -> None:
    """Whatever a sample shows or takes colours from is named, with its licence, links, and how often it is used."""
    rows = rows_of(run)
    with (run.run / ATTRIBUTION).open(newline="") as file:
        table = {int(row["image_id"]): row for row in csv.DictReader(file)}
    assert set(table) == {row[f"{role}_image_id"] for row in rows for role in ("target", "reference")}
    names = {each["id"]: each["name"] for each in LICENSES}
    for row in rows:
        for role in ("target", "reference"):
            found = table[row[f"{role}_image_id"]]
            number = row[f"{role}_license"]
            assert (found["license"], found["license_name"]) == (str(number), names[number])
            assert (found["coco_url"], found["flickr_url"]) == (row[f"{role}_coco_url"], row[f"{role}_flickr_url"])
            assert found["no_derivatives"] == ("yes" if number in (3, 6) else "no")
    for role in ("target", "reference"):
        used = Counter(row[f"{role}_image_id"] for row in rows)
        assert {image: int(row[f"{role}_samples"]) for image, row in table.items()} == {
            image: used[image] for image in table
        }


def test_licences_are_counted_and_those_without_derivatives_are_named(run: Layout) -> None:
    """The card says how many photographs forbid derivatives, and how to build without them."""
    text = (run.run / README).read_text()
    rows = rows_of(run)
    license_of = {row[f"{role}_image_id"]: row[f"{role}_license"] for row in rows for role in ("target", "reference")}
    for number in (3, 4, 6, 9):
        photographs = sum(each == number for each in license_of.values())
        kept = [
            sum(row["status"] == "kept" and row[f"{role}_license"] == number for row in rows)
            for role in ("reference", "target")
        ]
        line = next(line for line in text.splitlines() if line.startswith(f"| {number} |"))
        assert line.split(" | ")[3:] == [str(photographs), str(kept[0]), f"{kept[1]} |"]
        assert ("**yes**" in line) == (number in (3, 6))
    forbidding = sum(each in (3, 6) for each in license_of.values())
    assert f"**{forbidding} photographs are under a licence that allows no derivatives** (ids 3, 6)" in text
    assert "`hcoco build --licenses 4,9`" in text


def test_words_from_the_annotation_file_stay_words(run: Layout) -> None:
    """A licence's name cannot break the table or bring a tag, and an address that is none is not linked."""
    text = (run.run / README).read_text()
    assert r"a \| b \<script\>" in text
    assert "<script>" not in text
    assert "javascript:" not in text


HOSTILE = ("<script>x</script>", "](javascript:x)", "a | b", "a\n# b", "``x`` `", "![x](http://x)")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_words_of_the_run_stay_words(run: Layout, hostile: str) -> None:
    """Families, reasons, settings, roles and the gate of a stranger's run: the card has the same lines and no tag more."""
    manifest, licenses = read_manifest(run), read_licenses(run)
    facts = gather_facts(run, manifest)

    def rendered(word: str) -> str:
        counts = {
            **manifest["counts"],
            "by_family": {word: {"kept": 1, "rejected": 2}},
            "by_reason": {word: 2},
        }
        settings = {**manifest["settings"], "source": f"coco:{word}", word: word}
        gate = {"threshold": word, "checkpoint": word}
        forged = {
            **manifest,
            "counts": counts,
            "settings": settings,
            "gate": gate,
            "code": {"hcoco": word, "digest": word},
            "decisions": {word: 1},
        }
        return render_readme(
            name="hcoco-0", manifest=forged, facts=replace(facts, roles=(word,), photographs=()), licenses=licenses
        )

    marks = MarkdownIt("commonmark", {"html": True}).enable("table")
    card, plain = (re.sub(r"\A---.*?\n---\n", "", rendered(word), flags=re.DOTALL) for word in (hostile, "two words"))
    assert len(card.splitlines()) == len(plain.splitlines())
    tags = [re.findall(r"<[a-z/!][^>]*>", marks.render(each)) for each in (card, plain)]
    assert tags[0] == tags[1]


def test_the_card_knows_neither_time_nor_place(run: Layout, tmp_path: Path) -> None:
    """Written twice, or of a run that was moved, the three files are the same bytes; no path of this machine is in them."""
    moved = Layout(tmp_path / "elsewhere")
    shutil.copytree(run.run, moved.run)
    for path in write_card(moved):
        assert path.read_bytes() == (run.run / path.name).read_bytes()
        assert str(run.run.parent).encode() not in path.read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib")  # which mlcroissant parses JSON-LD with
@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlcroissant")
def test_croissant_is_valid_and_gives_the_index(run: Layout, caplog: pytest.LogCaptureFixture) -> None:
    """`mlcroissant` finds no error, nothing missing but a date, and reads every attempted sample as a record."""
    mlcroissant = pytest.importorskip("mlcroissant")
    with caplog.at_level(logging.WARNING):
        data = mlcroissant.Dataset(str(run.run / CROISSANT))
    assert not data.metadata.ctx.issues.errors
    assert all("datePublished" in warning for warning in data.metadata.ctx.issues.warnings)
    assert not any("not standard" in record.getMessage() for record in caplog.records)
    records = {record["samples/key"].decode(): record for record in data.records("samples")}
    for row in rows_of(run):
        record = records.pop(row["key"])
        assert record["samples/tar"].decode() == row["tar"]
        assert (record["samples/offset"], record["samples/size"]) == (row["offset"], row["size"])
        assert record["samples/strength"] == row["strength"]
    assert not records


def test_croissant_has_the_hash_of_every_file(run: Layout) -> None:
    """Every tar and index file stands there with the sha256 and the size that it has."""
    value = json.loads((run.run / CROISSANT).read_bytes())
    assert value["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    files = {each["contentUrl"]: each for each in value["distribution"] if each["@type"] == "cr:FileObject"}
    on_disk = {
        path.relative_to(run.run).as_posix(): path.read_bytes()
        for folder in ("shards", "rejected", "index")
        for path in (run.run / folder).iterdir()
    }
    assert {path: each["sha256"] for path, each in files.items()} == {
        path: hashlib.sha256(content).hexdigest() for path, content in on_disk.items()
    }
    assert {path: each["contentSize"] for path, each in files.items()} == {
        path: f"{len(content)} B" for path, content in on_disk.items()
    }


@pytest.fixture
def changeable(run: Layout, tmp_path: Path) -> Layout:
    """Return a copy of the run that a test may change."""
    shutil.copytree(run.run, tmp_path / "run")
    return Layout(tmp_path / "run")


def test_a_run_without_kept_samples_has_a_card(changeable: Layout) -> None:
    """Where the gates dropped everything, the card says so and names no files."""
    manifest = json.loads(changeable.manifest.read_bytes())
    rejected = [each for each in manifest["shards"] if each["path"].startswith("rejected/")]
    manifest["counts"] |= {"kept": 0}
    changeable.manifest.write_text(json.dumps({**manifest, "shards": rejected, "index": []}))
    write_card(changeable)
    assert front_matter(changeable)["size_categories"] == ["n<1K"]
    assert "= 0 kept +" in (changeable.run / README).read_text()


def test_a_missing_shard_is_damage(changeable: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """A card is not written of files that are not there; the command ends with 1."""
    tar = next((changeable.run / "shards").iterdir())
    tar.unlink()
    with pytest.raises(Damaged, match=f"shards/{tar.name} is missing"):
        write_card(changeable)
    assert main(["card", str(changeable.run)]) == 1
    assert "is missing" in capsys.readouterr().err


def test_a_damaged_index_or_plan_is_told(changeable: Layout) -> None:
    """What cannot be read is named in a line."""
    next((changeable.run / "index").iterdir()).write_bytes(b"no parquet")
    with pytest.raises(BadRequest, match=r"index/.* is damaged"):
        write_card(changeable)
    changeable.plan.write_text("[]")
    with pytest.raises(BadRequest, match=r"plan\.json is damaged"):
        write_card(changeable)


def test_the_command_names_what_it_wrote(changeable: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """`hcoco card` prints the three paths."""
    assert main(["card", str(changeable.run), "--json"]) == 0
    assert [Path(path).name for path in json.loads(capsys.readouterr().out)] == [README, CROISSANT, ATTRIBUTION]
