from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.errors import BadRequest
from flows.store.layout import Layout
from flows.store.manifest import read_manifest
from flows.store.write import hash_file
from flows.view import measures
from flows.view.measures import measure_light, measure_run, measure_sample

MakeRun = Callable[..., Layout]
Sample = Callable[..., dict[str, Any]]

UNKNOWN = (None,) * 5


def flat(colour: tuple[int, int, int], *, height: int = 40, width: int = 50) -> bytes:
    """Encode a picture of one colour (RGB) without loss."""
    picture = np.full((height, width, 3), colour[::-1], np.uint8)
    return cv2.imencode(".png", picture)[1].tobytes()


def mask_of(*, height: int = 40, width: int = 50) -> bytes:
    """Encode a mask of 10 x 20 of 40 x 50 pixels, with a ramp beside it that does not count."""
    mask = np.zeros((height, width), np.uint8)
    mask[5:15, 10:30] = 255
    mask[15, 10:30] = 127
    return cv2.imencode(".png", mask)[1].tobytes()


def hashed(layout: Layout) -> dict[str, Any]:
    """Return the run's manifest after naming the tars that lie there."""
    tars = [path for path in (layout.shard("train-00000"), layout.rejected("train-00000")) if path.is_file()]
    entries = [{"path": layout.relative(path), "sha256": hash_file(path)[0], "samples": 1} for path in tars]
    layout.manifest.write_text(json.dumps({**json.loads(layout.manifest.read_bytes()), "shards": entries}))
    return read_manifest(layout)


def test_numbers_are_those_that_are_reckoned_by_hand() -> None:
    """White is luminance 1 and 6,505 K; sRGB 188 is ((188/255 + .055) / 1.055) ^ 2.4 = .5029 of it; the mask is a tenth."""
    members = {"mask.png": mask_of(), "real.jpg": flat((255, 255, 255)), "composite.jpg": flat((188, 188, 188))}
    share, before, after, kelvin_before, kelvin_after = measure_sample(members, stage="harmonization")
    assert share == pytest.approx(200 / 2000)
    assert before == pytest.approx(1.0, abs=1e-6)
    assert after == pytest.approx(0.50289, abs=1e-5)
    # McCamy: n = (.3127 - .3320) / (.1858 - .3290); 449 n^3 + 3525 n^2 + 6823.3 n + 5520.33
    assert kelvin_before == pytest.approx(6505.1, abs=0.1)
    assert kelvin_after == pytest.approx(6505.1, abs=0.1)


def test_only_the_inside_of_the_mask_is_measured() -> None:
    """What lies outside, or on the ramp, has no influence."""
    picture = np.zeros((40, 50, 3), np.uint8)
    picture[5:15, 10:30] = 255
    members = {"mask.png": mask_of(), "real.jpg": cv2.imencode(".png", picture)[1].tobytes()}
    assert measure_sample({**members, "composite.jpg": flat((255, 255, 255))}, stage="harmonization")[1:3] == (
        pytest.approx(1.0, abs=1e-6),
        pytest.approx(1.0, abs=1e-6),
    )


def test_what_is_no_light_has_no_temperature() -> None:
    """Green has a luminance, .7152 of white, and black has 0; neither has a colour temperature."""
    green = np.full((7, 3), (0, 255, 0), np.uint8)
    assert measure_light(green) == (pytest.approx(0.7152, abs=1e-4), None)
    assert measure_light(np.zeros((7, 3), np.uint8)) == (0.0, None)


def test_of_a_fusion_the_foreground_is_before() -> None:
    """The matte says where the person is, not the polygon."""
    members = {
        "mask.png": b"no picture",
        "alpha.png": mask_of(),
        "background.jpg": flat((0, 0, 0)),
        "foreground.jpg": flat((255, 255, 255)),
        "composite.jpg": flat((188, 188, 188)),
    }
    assert measure_sample(members, stage="fusion")[:3] == (0.1, pytest.approx(1.0), pytest.approx(0.50289, abs=1e-5))


@pytest.mark.parametrize("mask", [None, b"", b"no picture"])
def test_without_a_mask_nothing_is_known(mask: bytes | None) -> None:
    """A sample without pictures has no numbers, and is no error."""
    members = {} if mask is None else {"mask.png": mask}
    assert measure_sample(members, stage="harmonization") == UNKNOWN


def test_an_empty_mask_and_a_picture_of_another_size_are_survived() -> None:
    """The share is known, what cannot be measured is not."""
    empty = cv2.imencode(".png", np.zeros((40, 50), np.uint8))[1].tobytes()
    pictures = {"real.jpg": flat((9, 9, 9)), "composite.jpg": flat((9, 9, 9), width=51)}
    assert measure_sample({"mask.png": empty, **pictures}, stage="harmonization") == (0.0, *UNKNOWN[1:])
    assert measure_sample({"mask.png": mask_of(), **pictures}, stage="harmonization")[2] is None


def test_a_sample_is_measured_once(make_run: MakeRun, sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look decodes nothing and finds the same numbers; rejected samples are not decoded at all."""
    records = [sample(1), sample(2), sample(3, status="rejected", reason="hue_flip")]
    layout = make_run(records)
    manifest = hashed(layout)
    first = measure_run(layout, manifest)
    assert first["luminance_before"].null_count == 0
    assert first.num_rows == 2
    monkeypatch.setattr(measures, "measure_sample", lambda *_, **__: pytest.fail("measured again"))
    assert measure_run(layout, manifest).equals(first)


def test_what_lies_in_a_damaged_tar_is_not_remembered(make_run: MakeRun, sample: Sample) -> None:
    """Numbers of a tar that is not what the manifest says are shown, and measured anew next time."""
    layout = make_run([sample(1)])
    manifest = hashed(layout)
    tar = layout.shard("train-00000")
    whole = tar.read_bytes()
    tar.write_bytes(bytes(len(whole)))
    assert measure_run(layout, manifest)["share"].to_pylist() == [None]
    assert not layout.measures("train-00000").exists()
    tar.write_bytes(whole)
    assert measure_run(layout, manifest)["share"].to_pylist() != [None]
    assert pq.read_table(layout.measures("train-00000"))["key"].to_pylist() == ["000000000001-000000000007-00"]


def test_a_damaged_memory_is_made_anew(make_run: MakeRun, sample: Sample) -> None:
    """What was stored is no truth: a file that cannot be read, or of a shard that is gone, costs time only."""
    layout = make_run([sample(1)])
    manifest = hashed(layout)
    first = measure_run(layout, manifest)
    layout.measures("train-00000").write_bytes(b"no parquet")
    layout.measures("train-00009").write_bytes(b"of a shard that is gone")
    assert measure_run(layout, manifest).equals(first)
    assert not layout.measures("train-00009").exists()


def test_an_index_that_leads_out_of_the_run_is_damaged(make_run: MakeRun, sample: Sample) -> None:
    """A stranger's run does not make the statistics read files elsewhere."""
    layout = make_run([sample(1)])
    table = pq.read_table(layout.index("train-00000"))
    place = table.schema.get_field_index("tar")
    pq.write_table(table.set_column(place, "tar", [["../../other.tar"]]), layout.index("train-00000"))
    with pytest.raises(BadRequest, match=r"train-00000\.parquet is damaged \(a sample lies outside the run\)"):
        measure_run(layout, read_manifest(layout))


def test_a_damaged_index_is_named(make_run: MakeRun, sample: Sample) -> None:
    """One line says which file, and how to mend it."""
    layout = make_run([sample(1)])
    layout.index("train-00000").write_bytes(b"no parquet")
    with pytest.raises(BadRequest, match=r"train-00000\.parquet is damaged .*; run the same build again"):
        measure_run(layout, read_manifest(layout))
