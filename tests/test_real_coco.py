"""A small build of real photographs: what holds on drawn pictures holds on them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from augment import DEFAULT_FAMILIES
from augment.checks import LIMITS
from flows.coco.select import split_of
from flows.make.plan import plan_run, read_plan, read_planned
from flows.make.verify import verify_run
from flows.settings import parse_settings
from flows.store.layout import Layout
from flows.store.read import read_tar
from tests.flows.make.building import make_left, rows_of

SAMPLES = 120


@pytest.fixture(scope="module")
def run(real_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a run of 120 samples, all families alike."""
    families = dict.fromkeys(DEFAULT_FAMILIES, 1.0)
    output = tmp_path_factory.mktemp("real")
    settings = parse_settings(
        {
            "source": str(real_coco),
            "output": str(output),
            "samples": SAMPLES,
            "stages": "harmonization",
            "families": families,
            "shard_size": 40,
            "gate": "off",
        }
    )
    return make_left(plan_run(settings)).layout


def test_verify_passes(run: Layout) -> None:
    """Every hash, member, offset, mask and background of a real run is as promised."""
    assert list(verify_run(run)) == []


def test_every_planned_sample_was_attempted(run: Layout) -> None:
    """120 were asked for, 120 were planned and made: kept and rejected together."""
    rows = rows_of(run)
    planned = [row["key"] for shard in read_plan(run).shards for row in read_planned(run, shard)]
    assert len(rows) == SAMPLES
    assert sorted(planned) == [row["key"] for row in rows]
    assert {row["status"] for row in rows} == {"kept", "rejected"}


def test_about_half_of_the_attempts_pass_the_gates(run: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """At least half of all attempts pass, and no family falls far behind; 20 a family are too few to be strict."""
    rows = rows_of(run)
    made, kept = (
        Counter(row["family"] for row in rows if row["status"] in status)
        for status in (("kept", "rejected"), ("kept",))
    )
    with capsys.disabled():
        shares = ", ".join(f"{family} {kept[family]}/{made[family]}" for family in sorted(made))
        print(f"\npassed the closed-form gates: {shares}; {Counter(row['reason'] for row in rows)}")  # noqa: T201
    assert set(made) == set(DEFAULT_FAMILIES)
    assert kept.total() >= SAMPLES / 2
    assert all(kept[family] >= made[family] * 0.3 for family in made)
    assert {row["reason"] for row in rows if row["reason"]} <= set(LIMITS)


def test_the_background_is_identical_and_the_subject_is_not(run: Layout) -> None:
    """In every kept sample untouched blocks are equal, pixel by pixel, and the subject differs within the band."""
    looked_at = 0
    for path in sorted((run.run / "shards").iterdir()):
        for stored in read_tar(path):
            real, composite, alpha = (
                np.asarray(cv2.imdecode(np.frombuffer(stored.members[name], np.uint8), flags)).astype(np.int16)
                for name, flags in (
                    ("real.jpg", cv2.IMREAD_COLOR_RGB),
                    ("composite.jpg", cv2.IMREAD_COLOR_RGB),
                    ("mask.png", cv2.IMREAD_UNCHANGED),
                )
            )
            blocks = (
                cv2.dilate((alpha > 0).astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
            )  # holds every touched block
            assert not (real != composite)[~blocks].any()
            inside = alpha > 127
            effect = float(((real - composite).astype(np.float64) ** 2)[inside].mean())
            assert LIMITS["effect_small"] <= round(effect, 4) <= LIMITS["effect_large"]
            looked_at += 1
    assert looked_at > SAMPLES / 2


def test_no_photograph_stands_on_two_sides(run: Layout) -> None:
    """Target and reference of every sample are of the sample's own split."""
    for row in rows_of(run):
        assert split_of(row["target_image_id"]) == split_of(row["reference_image_id"]) == row["split"]


def test_licences_travel_with_the_samples(run: Layout) -> None:
    """Every sample names the licence and the address of both of its photographs."""
    licenses = read_plan(run).licenses
    for row in rows_of(run):
        for role in ("target", "reference"):
            assert str(row[f"{role}_license"]) in licenses
            assert str(row[f"{role}_coco_url"]).startswith("http")
