from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flows.errors import BadRequest
from flows.store.layout import Layout
from flows.view.report import write_report

MakeRun = Callable[..., Layout]
Sample = Callable[..., dict[str, Any]]

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&{{7*7}}"


class _Reader(HTMLParser):
    """Collect what a browser would see: tags, loaded files, ids, text, and the embedded data."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.data: list[dict[str, Any]] = []
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {name: value or "" for name, value in attrs}
        self.loads += [value for name, value in values.items() if name == "src"]
        self.ids += [value for name, value in values.items() if name == "id"]
        self.handlers += [name for name in values if name.startswith("on")]
        if tag in {"script", "style"}:
            self._inside = values.get("type", tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in {"script", "style"}:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "application/json":
            self.data = json.loads(data)
        elif self._inside is None:
            self.text += data


def _read(page: Path) -> _Reader:
    reader = _Reader()
    reader.feed(page.read_text("utf-8"))
    reader.close()
    return reader


def _mixed(sample: Sample) -> list[dict[str, Any]]:
    failed = {
        "status": "rejected",
        "reason": "effect_small",
        "value": 34.6964,
        "limit": 100.0,
        "foreground_mse": 34.6964,
    }
    return [
        sample(1),
        sample(2, family="reinhard", strength=0.9, foreground_mse=3000.0, split="val"),
        sample(3, **failed),
        sample(4, status="rejected", reason="clipping", value=0.13, limit=0.05, family="perturb"),
    ]


@pytest.fixture(scope="module")
def mixed(make_run: MakeRun, sample: Sample) -> Path:
    """Return the report of a small run with kept and rejected samples."""
    return write_report(make_run(_mixed(sample)))


def test_a_report_says_what_was_made(mixed: Path) -> None:
    """The line under the title adds up: planned = kept + rejected."""
    text = " ".join(_read(mixed).text.split())
    assert "4 planned = 2 kept + 2 rejected; 50.0% of the attempts were kept." in text


def test_every_sample_of_a_small_run_has_a_card(mixed: Path) -> None:
    """A run that fits the page is shown whole, kept and rejected in turn."""
    reader = _read(mixed)
    assert [entry["status"] for entry in reader.data] == ["kept", "rejected"] * 2
    assert {entry["key"][:12] for entry in reader.data} == {f"{number:012d}" for number in (1, 2, 3, 4)}


def test_a_rejected_sample_names_reason_value_and_limit(mixed: Path) -> None:
    """A rejected sample is labelled with what was compared."""
    text = _read(mixed).text
    assert "effect_small 34.7, limit 100" in text
    assert "clipping 0.13, limit 0.05" in text


def test_an_enlarged_sample_has_its_licence_and_links(mixed: Path) -> None:
    """Licence and links of both photographs stand in the enlarged view."""
    entry = _read(mixed).data[0]
    assert [person["role"] for person in entry["people"]] == ["target", "reference"]
    assert entry["people"][0]["license"] == "Attribution License"
    assert entry["people"][0]["license_url"] == "http://creativecommons.org/licenses/by/2.0/"
    assert entry["people"][0]["links"][0] == ["COCO", "http://images.cocodataset.org/val2017/000000000001.jpg"]
    assert entry["remake"] == "hcoco remake sample-0a1b2c3d 000000000001-000000000007-00"


def test_the_same_run_gives_the_same_bytes(make_run: MakeRun, sample: Sample) -> None:
    """Writing a report twice changes no byte and leaves no other file."""
    layout = make_run(_mixed(sample))
    folder = write_report(layout).parent
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_report(layout)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first


def test_pictures_of_an_older_report_go_away(make_run: MakeRun, sample: Sample) -> None:
    """A picture that no card shows any more is removed."""
    layout = make_run(_mixed(sample))
    stale = layout.report.parent / "pictures" / "00112233445566778899.jpg"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    write_report(layout)
    assert not stale.exists()


def test_a_report_asks_nobody_for_anything(mixed: Path) -> None:
    """Everything that the page loads lies beside it, and its policy lets nothing else in."""
    reader = _read(mixed)
    assert reader.loads
    assert all((mixed.parent / path).is_file() for path in reader.loads)
    assert all((mixed.parent / path).is_file() for entry in reader.data for path in entry["pictures"].values())
    assert "default-src 'none'" in mixed.read_text()
    assert "link" not in reader.tags
    assert not re.findall(r"@import|url\((?!#)", mixed.read_text())


def test_the_policy_allows_the_one_script_of_the_page(mixed: Path) -> None:
    """The hash in the content security policy is that of the script as it stands in the mixed."""
    text = mixed.read_text()
    script = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


@pytest.mark.parametrize("field", ["key", "split", "family", "reason"])
def test_hostile_text_in_a_record_stays_text(make_run: MakeRun, sample: Sample, field: str) -> None:
    """Markup, quotes and template code in a record are shown, not run."""
    plain = _read(write_report(make_run([sample(1, status="rejected", reason="halo")])))
    record = sample(1, **{"status": "rejected", "reason": "halo", field: HOSTILE})
    reader = _read(write_report(make_run([record])))
    assert HOSTILE in reader.text
    assert reader.tags.count("script") == plain.tags.count("script")
    assert reader.tags.count("img") == plain.tags.count("img")
    assert not reader.handlers


def test_hostile_text_in_settings_and_name_stays_text(make_run: MakeRun, sample: Sample) -> None:
    """The run's name and its settings come from outside as well."""
    layout = make_run([sample(1)], name="<b>run", settings={"source": HOSTILE, "images": "\ud800"})
    reader = _read(write_report(layout))
    assert HOSTILE in reader.text
    assert "<b>run" in reader.text
    assert "b" not in reader.tags


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//host/x", "http:x", 7]
)
def test_only_web_addresses_become_links(make_run: MakeRun, sample: Sample, url: object) -> None:
    """A link leads to http or https, or is none."""
    person = {"image_id": 1, "license": 4, "coco_url": str(url), "flickr_url": "https://www.flickr.com/x"}
    layout = make_run([sample(1, target=person)], plan={"licenses": {"4": {"name": "L", "url": url}}})
    target = _read(write_report(layout)).data[0]["people"][0]
    assert target["links"] == [["Flickr", "https://www.flickr.com/x"]]
    assert target["license_url"] is None


def test_a_run_without_rejected_samples_says_so(make_run: MakeRun, sample: Sample) -> None:
    """Nothing rejected is a line in the table, no empty one."""
    assert "No sample was rejected." in _read(write_report(make_run([sample(1), sample(2)]))).text


def test_a_run_without_kept_samples_has_a_report(make_run: MakeRun, sample: Sample) -> None:
    """Unreadable samples, whose only member is the record, have cards without pictures and numbers."""
    none = dict.fromkeys(("foreground_mse", "psnr", "strength"))
    records = [sample(n, status="rejected", reason="unreadable", gates={}, **none) for n in (1, 2)]
    reader = _read(write_report(make_run(records)))
    assert "2 planned = 0 kept + 2 rejected" in " ".join(reader.text.split())
    assert reader.text.count("a photograph could not be read") == 2
    assert reader.data[0]["pictures"] == {}
    assert "Nothing to plot" in reader.text


def test_an_empty_run_has_a_report(make_run: MakeRun) -> None:
    """A run that planned nothing still says what its selection did."""
    text = _read(write_report(make_run([]))).text
    assert "This run has no samples." in text
    assert "not looked at" not in text
    assert "crowd" in text


def test_a_missing_shard_leaves_the_rest_of_the_report(make_run: MakeRun, sample: Sample) -> None:
    """Where a tar is gone its samples are shown without pictures; telling the damage is for `verify`."""
    layout = make_run(_mixed(sample))
    layout.rejected("train-00000").unlink()
    reader = _read(write_report(layout))
    assert [bool(entry["pictures"]) for entry in reader.data] == [True, False] * 2


def test_a_missing_score_is_a_dash(mixed: Path) -> None:
    """Where no network looked, score and threshold are shown as unknown."""
    facts = dict(_read(mixed).data[0]["facts"])
    assert facts["score"] == facts["threshold"] == "\N{EN DASH}"


def test_ids_are_unique(mixed: Path) -> None:
    """No two elements share an id, those inside the plots included."""
    ids = _read(mixed).ids
    assert len(ids) == len(set(ids))


def test_an_unfinished_run_is_refused(make_run: MakeRun, sample: Sample) -> None:
    """Without a manifest there is nothing to report yet."""
    layout = make_run([sample(1)])
    layout.manifest.unlink()
    with pytest.raises(BadRequest, match="not finished"):
        write_report(layout)


def test_a_damaged_index_is_one_line(make_run: MakeRun, sample: Sample) -> None:
    """A file of the index that cannot be read is named."""
    layout = make_run([sample(1)])
    layout.index("train-00000").write_bytes(b"PAR1 no more")
    with pytest.raises(BadRequest, match=r"train-00000\.parquet is damaged"):
        write_report(layout)


# realism

GATE = {"checkpoint": "0a1b", "weights_sha256": "0a1b", "threshold": 0.2, "side": 64, "audit": ""}


def _scored(sample: Sample) -> list[dict[str, Any]]:
    dropped = {"status": "rejected", "reason": "unnatural", "value": 0.05, "limit": 0.2, "score": 0.05}
    records = [sample(number, score=number / 40, threshold=0.2) for number in range(8, 38)]
    return [*records, sample(1, threshold=0.2, **dropped), sample(2, threshold=0.2, **{**dropped, "score": None})]


def test_a_gated_run_shows_its_scores(make_run: MakeRun, sample: Sample) -> None:
    """Distributions by family and strength with the threshold, and the ten best and the ten worst composites."""
    page = write_report(make_run(_scored(sample), gate=GATE))
    reader = _read(page)
    text = " ".join(reader.text.split())
    assert "31 samples have one" in text
    assert "at least 0.2000, the dashed line" in text
    assert "3.2% of the scores are below it" in text
    assert "Distribution of the realism score per family" in page.read_text()
    assert "Distribution of the realism score per strength" in page.read_text()
    keys = [entry["key"] for entry in reader.data[-20:]]
    assert [int(key[:12]) for key in keys] == [*range(37, 27, -1), 1, *range(8, 17)]
    assert all(entry["pictures"]["strip"] for entry in reader.data[-20:])
    assert "Warning" not in text


def test_a_failed_audit_is_shown(make_run: MakeRun, sample: Sample) -> None:
    """The page warns where the gate's checkpoint did, and its words stay text."""
    reader = _read(write_report(make_run(_scored(sample), gate={**GATE, "audit": f"did not pass {HOSTILE}"})))
    assert "The gate's checkpoint did not pass" in " ".join(reader.text.split())
    assert HOSTILE in reader.text
    assert reader.tags.count("script") == 2


@pytest.mark.parametrize("gate", [None, [1], GATE])
def test_a_run_without_scores_has_no_word_on_realism(make_run: MakeRun, sample: Sample, gate: object) -> None:
    """Without a gate there is no such section, and a gate that never got to look breaks nothing."""
    page = write_report(make_run(_mixed(sample), gate=gate))
    assert ("realism" in _read(page).ids) == (gate == GATE)
