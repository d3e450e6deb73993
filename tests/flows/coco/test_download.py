import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from flows.coco import download
from flows.coco.download import Mirror, fetch_annotations, fetch_images, image_path
from flows.errors import BadRequest
from tests.flows.coco.mirror import Faults, lay_out, serve

NAMES = [f"{number:012d}.jpg" for number in range(1, 7)]
INSTANCES = json.dumps({"images": np.random.default_rng(0).integers(0, 1 << 30, 30_000).tolist()}).encode()
ARCHIVE = "annotations_trainval2017.zip"


def jpeg(seed: int) -> bytes:
    """Return a small noisy JPEG, 40 x 56 pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", noise)[1])


IMAGES = {name: jpeg(seed) for seed, name in enumerate(NAMES)}


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the loopback directly, whatever proxy the machine has."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Return a folder in the layout of the official server."""
    lay_out(tmp_path / "official", images=IMAGES, instances=INSTANCES, padding_bytes=5_000_000)
    return tmp_path / "official"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return where the cache is to be; it is not there yet."""
    return tmp_path / "cache"


def quick(base: str, *, retries: int = 3) -> Mirror:
    """Return a mirror with the waits of a test."""
    return Mirror(base=base, retries=retries, backoff_s=0.01, timeout_s=2.0)


def stored(folder: Path) -> dict[str, bytes]:
    """Return every file of `folder` by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- annotations


def test_annotations_by_ranges(official: Path, cache: Path) -> None:
    """Of a big archive only the directory and the one member (and some read-ahead) cross the network."""
    calls: list[tuple[int, int, int]] = []
    with serve(official) as serving:
        path = fetch_annotations(
            "val2017", cache=cache, mirror=quick(serving.base), progress=lambda *call: calls.append(call)
        )
    assert path == cache / "annotations" / "instances_val2017.json"
    assert path.read_bytes() == INSTANCES
    assert serving.sent < 200_000
    assert calls[-1] == (len(INSTANCES), len(INSTANCES), serving.sent)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_read_ahead_in_blocks(official: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member longer than the read-ahead is put together from several ranges."""
    monkeypatch.setattr(download, "READ_AHEAD", 10_000)
    monkeypatch.setattr(download, "BLOCK", 10_000)
    with serve(official) as serving:
        path = fetch_annotations("val2017", cache=cache, mirror=quick(serving.base))
    assert path.read_bytes() == INSTANCES
    assert len(serving.requests) > 10


def test_zip64_archive(official: Path, cache: Path) -> None:
    """An archive with zip64 records is read by ranges like any other."""
    with zipfile.ZipFile(official / "annotations" / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("annotations/instances_val2017.json", "w", force_zip64=True) as member:
            member.write(INSTANCES)
        for number in range(65_600 // 800):
            archive.writestr(f"other/{number}", b"")
        archive.comment = b"a comment moves the end of the directory"
    with serve(official) as serving:
        path = fetch_annotations("val2017", cache=cache, mirror=quick(serving.base))
    assert path.read_bytes() == INSTANCES


def test_stored_annotations_are_not_fetched_again(official: Path, cache: Path) -> None:
    """A second call asks the network for nothing."""
    with serve(official) as serving:
        fetch_annotations("val2017", cache=cache, mirror=quick(serving.base))
        before = len(serving.requests)
        fetch_annotations("val2017", cache=cache, mirror=quick(serving.base))
    assert len(serving.requests) == before


def test_annotations_survive_a_bad_network(official: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropped connections and a server that is busy at first cost retries and nothing else."""
    monkeypatch.setattr(download, "READ_AHEAD", 10_000)
    monkeypatch.setattr(download, "BLOCK", 10_000)
    with serve(official, faults=Faults(drop_every=3, silent_every=5, busy_first=2)) as serving:
        path = fetch_annotations("val2017", cache=cache, mirror=quick(serving.base, retries=6))
    assert path.read_bytes() == INSTANCES


def test_server_without_ranges(official: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The whole archive is fetched once, with one line saying so, and serves the other subset too."""
    with serve(official, faults=Faults(ranges=False)) as serving:
        path = fetch_annotations("val2017", cache=cache, mirror=quick(serving.base))
        before = len(serving.requests)
        with pytest.raises(BadRequest, match=r"holds no annotations/instances_train2017\.json"):
            fetch_annotations("train2017", cache=cache, mirror=quick(serving.base))
    assert path.read_bytes() == INSTANCES
    assert len(serving.requests) == before == 2
    assert [record.message for record in caplog.records if record.name == download.__name__] == [
        f"127.0.0.1 serves no ranges: fetching the whole {ARCHIVE} once"
    ]


@pytest.mark.parametrize("ranges", [True, False])
def test_archive_that_is_a_web_page(official: Path, cache: Path, ranges: bool) -> None:  # noqa: FBT001
    """A login page in place of the archive is named and not kept."""
    (official / "annotations" / ARCHIVE).write_text("<html>log in</html>")
    with (
        serve(official, faults=Faults(ranges=ranges)) as serving,
        pytest.raises(BadRequest, match=r"no zip archive|not a zip file"),
    ):
        fetch_annotations("val2017", cache=cache, mirror=quick(serving.base))
    assert stored(cache / "annotations") == {}


def test_forged_archives() -> None:
    """Whatever bytes of an archive are flipped, the member comes as it was or the damage is named."""
    buffer, member, content = io.BytesIO(), "annotations/instances_val2017.json", b'{"images": []}' * 30
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    generator = np.random.default_rng(0)
    outcomes = set()
    for _ in range(3_000):
        data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        data[generator.integers(len(data), size=2)] = generator.choice(np.array([0, 1, 99, 255], np.uint8), size=2)
        try:
            blocks = [block for block, _ in download._read_member(io.BytesIO(data.tobytes()), member)]
        except download._DamagedError:
            outcomes.add("damaged")
        else:
            assert b"".join(blocks) == content
            outcomes.add("whole")
    assert outcomes == {"damaged", "whole"}


def test_archive_without_the_member(official: Path, cache: Path) -> None:
    """An archive that lacks the file is a bad request that names it."""
    with serve(official) as serving, pytest.raises(BadRequest, match=r"holds no annotations/instances_train2017\.json"):
        fetch_annotations("train2017", cache=cache, mirror=quick(serving.base))
    assert stored(cache / "annotations") == {}


def test_corrupt_member(official: Path, cache: Path) -> None:
    """Annotations with a wrong CRC never get their name in the cache."""
    path = official / "annotations" / ARCHIVE
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("annotations/instances_val2017.json", INSTANCES)
    path.write_bytes(path.read_bytes().replace(INSTANCES[-9:], b"00000000}"))
    with serve(official) as serving, pytest.raises(BadRequest, match="is damaged: Bad CRC-32"):
        fetch_annotations("val2017", cache=cache, mirror=quick(serving.base))
    assert stored(cache / "annotations") == {}


def test_corrupt_deflate_stream(official: Path, cache: Path) -> None:
    """A damaged deflate stream is one line too, not a traceback of zlib."""
    path = official / "annotations" / ARCHIVE
    data = bytearray(path.read_bytes())
    data[-50_000:-40_000] = bytes(10_000)
    path.write_bytes(data)
    with serve(official) as serving, pytest.raises(BadRequest, match="is damaged"):
        fetch_annotations("val2017", cache=cache, mirror=quick(serving.base))


def test_annotations_over_the_limit(official: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member larger than any annotation file is refused before it is unpacked."""
    monkeypatch.setattr(download, "ANNOTATIONS_LIMIT", len(INSTANCES) - 1)
    with serve(official) as serving, pytest.raises(BadRequest, match="more than the limit"):
        fetch_annotations("val2017", cache=cache, mirror=quick(serving.base))
    assert stored(cache / "annotations") == {}


def test_archive_that_changes(official: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive replaced between two ranges is noticed, never mixed."""
    monkeypatch.setattr(download, "READ_AHEAD", 10_000)
    monkeypatch.setattr(download, "BLOCK", 10_000)
    path = official / "annotations" / ARCHIVE
    with serve(official) as serving, pytest.raises(BadRequest, match="changed while it was read"):
        fetch_annotations(
            "val2017", cache=cache, mirror=quick(serving.base), progress=lambda *_: os.utime(path, ns=(0, 0))
        )


def test_unknown_subset(cache: Path) -> None:
    """A subset that COCO lacks is a bad request that lists the others."""
    with pytest.raises(BadRequest, match="use one of coco:val2017, coco:train2017"):
        fetch_annotations("val2014", cache=cache, mirror=Mirror())


# --- pictures


def test_images_asked_for_and_no_others(official: Path, cache: Path) -> None:
    """Just the named pictures come, whole, each once, into COCO's own layout."""
    calls: list[tuple[int, int, int]] = []
    with serve(official) as serving:
        failures = fetch_images(
            [*NAMES[:4], NAMES[0]],
            subset="val2017",
            cache=cache,
            mirror=replace(quick(serving.base), timeout_s=60.0),  # a busy machine must not make it ask twice
            progress=lambda *call: calls.append(call),
        )
    assert failures == {}
    assert stored(cache / "val2017") == {name: IMAGES[name] for name in NAMES[:4]}
    assert len(serving.requests) == 4
    assert [call[:2] for call in calls] == [(done, 4) for done in range(5)]
    assert calls[-1][2] == sum(len(IMAGES[name]) for name in NAMES[:4])


def test_stored_images_are_not_fetched_again(official: Path, cache: Path) -> None:
    """A stored picture is left alone; an empty file counts as missing."""
    (cache / "val2017").mkdir(parents=True)
    image_path(cache, "val2017", NAMES[0]).write_bytes(b"mine")
    image_path(cache, "val2017", NAMES[1]).write_bytes(b"")
    with serve(official) as serving:
        assert fetch_images(NAMES[:2], subset="val2017", cache=cache, mirror=quick(serving.base)) == {}
    assert [request.path for request in serving.requests] == [f"/val2017/{NAMES[1]}"]
    assert stored(cache / "val2017") == {NAMES[0]: b"mine", NAMES[1]: IMAGES[NAMES[1]]}


def test_missing_images_are_reported(official: Path, cache: Path) -> None:
    """A picture that the mirror lacks is returned with its reason, without a retry; the others come."""
    with serve(official, faults=Faults(missing=frozenset(NAMES[2:4]))) as serving:
        failures = fetch_images(NAMES, subset="val2017", cache=cache, mirror=quick(serving.base))
    assert failures == dict.fromkeys(NAMES[2:4], "the mirror answers 404 Not Found")
    assert len(serving.requests) == len(NAMES)
    assert set(stored(cache / "val2017")) == set(NAMES) - set(failures)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(drop_every=2),
        Faults(silent_every=3),
        Faults(truncated=frozenset(NAMES), truncate_first=2),
        Faults(busy_first=1),
        Faults(drop_every=2, ranges=False),
    ],
    ids=["dropped", "silent", "truncated", "busy", "dropped-without-ranges"],
)
def test_images_survive_a_bad_network(official: Path, cache: Path, faults: Faults) -> None:
    """Connections that drop, bodies that end early and busy answers cost retries and nothing else."""
    with serve(official, faults=faults) as serving:
        failures = fetch_images(NAMES, subset="val2017", cache=cache, mirror=quick(serving.base, retries=8))
    assert failures == {}
    assert stored(cache / "val2017") == IMAGES
    assert len(serving.requests) > len(NAMES)


def test_dropped_image_is_continued(official: Path, cache: Path) -> None:
    """After a break only the missing bytes are asked for."""
    with serve(official, faults=Faults(drop_every=2)) as serving:
        fetch_images(NAMES[:2], subset="val2017", cache=cache, mirror=replace(quick(serving.base), parallel=1))
    half = len(IMAGES[NAMES[1]]) // 2
    assert [request.range for request in serving.asked(NAMES[1])] == ["", f"bytes={half}-"]
    assert serving.sent == len(IMAGES[NAMES[0]]) + len(IMAGES[NAMES[1]])


def test_network_that_always_drops(official: Path, cache: Path) -> None:
    """Where every connection breaks half way but brings something, a picture comes with few retries."""
    with serve(official, faults=Faults(drop_every=1, drop_over=200)) as serving:
        failures = fetch_images(NAMES, subset="val2017", cache=cache, mirror=quick(serving.base, retries=3))
    assert failures == {}
    assert stored(cache / "val2017") == IMAGES
    assert all(len(serving.asked(name)) > 4 for name in NAMES)


def test_part_of_an_earlier_run_is_continued(official: Path, cache: Path) -> None:
    """A part that a call gave up on is continued by the next one."""
    with serve(official, faults=Faults(drop_every=1)) as serving:
        failures = fetch_images(NAMES[:1], subset="val2017", cache=cache, mirror=quick(serving.base, retries=0))
    assert list(failures) == NAMES[:1]
    left = len(IMAGES[NAMES[0]]) // 2
    with serve(official) as serving:
        assert fetch_images(NAMES[:1], subset="val2017", cache=cache, mirror=quick(serving.base)) == {}
    assert serving.requests[0].range == f"bytes={left}-"
    assert stored(cache / "val2017") == {NAMES[0]: IMAGES[NAMES[0]]}


@pytest.mark.parametrize("tag", ['"another"', ""], ids=["changed", "unknown"])
def test_part_of_another_picture_is_not_continued(official: Path, cache: Path, tag: str) -> None:
    """A part whose validator is not the server's, or is not known, is fetched from the beginning."""
    (cache / "val2017").mkdir(parents=True)
    (cache / "val2017" / f"{NAMES[0]}.part").write_bytes(b"\xff\xd8 of another picture")
    if tag:
        (cache / "val2017" / f"{NAMES[0]}.part.tag").write_text(tag)
    with serve(official) as serving:
        assert fetch_images(NAMES[:1], subset="val2017", cache=cache, mirror=quick(serving.base)) == {}
    assert stored(cache / "val2017") == {NAMES[0]: IMAGES[NAMES[0]]}


def test_part_that_is_too_long(official: Path, cache: Path) -> None:
    """A part as long as the picture, which no range can continue, is fetched from the beginning."""
    with serve(official, faults=Faults(drop_every=1)) as serving:
        fetch_images(NAMES[:1], subset="val2017", cache=cache, mirror=quick(serving.base, retries=0))
    (cache / "val2017" / f"{NAMES[0]}.part").write_bytes(b"x" * len(IMAGES[NAMES[0]]))
    with serve(official) as serving:
        assert fetch_images(NAMES[:1], subset="val2017", cache=cache, mirror=quick(serving.base)) == {}
    assert [request.status for request in serving.requests] == [416, 200]
    assert stored(cache / "val2017") == {NAMES[0]: IMAGES[NAMES[0]]}


def test_slow_body_is_dropped_and_asked_for_again(official: Path, cache: Path) -> None:
    """A body that trickles is given up long before the read timeout or its end."""
    with serve(official, faults=Faults(slow=frozenset(NAMES[:1]))) as serving:
        mirror = replace(quick(serving.base), slow_s=0.2)
        assert fetch_images(NAMES[:1], subset="val2017", cache=cache, mirror=mirror) == {}
    assert stored(cache / "val2017") == {NAMES[0]: IMAGES[NAMES[0]]}
    assert sorted(request.status for request in serving.asked(NAMES[0])) == [200, 206]


def test_endless_slowness_is_a_reason(official: Path, cache: Path) -> None:
    """A picture that always trickles ends as a reason, within its retries."""
    with serve(official, faults=Faults(slow=frozenset(NAMES[:1]), slow_first=9)) as serving:
        mirror = replace(quick(serving.base, retries=1), slow_s=0.1)
        failures = fetch_images(NAMES[:2], subset="val2017", cache=cache, mirror=mirror)
    assert list(failures) == NAMES[:1]
    assert failures[NAMES[0]].startswith("too slow: ")


def test_file_that_is_no_jpeg(official: Path, cache: Path) -> None:
    """A web page in place of a picture is a reason and leaves no file."""
    (official / "val2017" / NAMES[0]).write_text("<html>log in</html>")
    with serve(official) as serving:
        failures = fetch_images(NAMES[:1], subset="val2017", cache=cache, mirror=quick(serving.base))
    assert failures == {NAMES[0]: "what came is no JPEG"}
    assert stored(cache / "val2017") == {}


@pytest.mark.parametrize("faults", [Faults(), Faults(truncated=frozenset(NAMES), truncate_first=99)])
def test_image_over_the_limit(official: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, faults: Faults) -> None:
    """A picture over the limit is refused, whether its length is announced or not."""
    monkeypatch.setattr(download, "IMAGE_LIMIT", 1_000)
    with serve(official, faults=faults) as serving:
        failures = fetch_images(NAMES[:1], subset="val2017", cache=cache, mirror=quick(serving.base))
    assert "more than the limit of 1000" in failures[NAMES[0]]
    assert len(serving.requests) == 1
    assert stored(cache / "val2017") == {}


@pytest.mark.parametrize(
    "name",
    ["../escape.jpg", "/etc/passwd", "a/b.jpg", "a\\b.jpg", "..", ".", "", ".hidden", "a\0b", "a\n", "é.jpg", "x.part"],
)
def test_hostile_names(official: Path, cache: Path, name: str) -> None:
    """A name that could lead out of the folder is a reason, is never asked for, and has no path."""
    with serve(official) as serving:
        failures = fetch_images([name, NAMES[0]], subset="val2017", cache=cache, mirror=quick(serving.base))
    assert failures == {name: "not a plain file name"}
    assert [request.path for request in serving.requests] == [f"/val2017/{NAMES[0]}"]
    with pytest.raises(ValueError, match="plain file name"):
        image_path(cache, "val2017", name)


def test_part_that_is_a_link(official: Path, cache: Path, tmp_path: Path) -> None:
    """A part file that is a symbolic link is not written through."""
    (cache / "val2017").mkdir(parents=True)
    (tmp_path / "precious").write_bytes(b"precious")
    (cache / "val2017" / f"{NAMES[0]}.part").symlink_to(tmp_path / "precious")
    with serve(official) as serving, pytest.raises(BadRequest, match="cannot use the cache"):
        fetch_images(NAMES[:1], subset="val2017", cache=cache, mirror=quick(serving.base))
    assert (tmp_path / "precious").read_bytes() == b"precious"


# --- redirects


@pytest.mark.parametrize(
    "location", ["{other}/val2017/{name}", "https://127.0.0.1/val2017/{name}", "file:///etc/passwd"]
)
def test_redirect_elsewhere_is_refused(official: Path, cache: Path, location: str) -> None:
    """A redirect to another port, scheme or host is not followed."""
    with serve(official) as other:
        place = location.format(other=other.base, name=NAMES[0])
        with serve(official, faults=Faults(redirects={f"/val2017/{NAMES[0]}": place})) as serving:
            failures = fetch_images(NAMES[:1], subset="val2017", cache=cache, mirror=quick(serving.base))
    assert failures[NAMES[0]].startswith("redirected to another server")
    assert (len(serving.requests), len(other.requests)) == (1, 0)


def test_redirect_on_the_mirror_is_followed(official: Path, cache: Path) -> None:
    """A redirect on the same server is followed, and a circle of them ends."""
    redirects = {f"/val2017/{NAMES[0]}": f"/val2017/{NAMES[1]}", f"/val2017/{NAMES[2]}": f"/val2017/{NAMES[2]}"}
    with serve(official, faults=Faults(redirects=redirects)) as serving:
        failures = fetch_images([NAMES[0], NAMES[2]], subset="val2017", cache=cache, mirror=quick(serving.base))
    assert failures == {NAMES[2]: "redirected more than 3 times"}
    assert stored(cache / "val2017") == {NAMES[0]: IMAGES[NAMES[1]]}


# --- the network as a whole


def test_unreachable_mirror(cache: Path) -> None:
    """A server that is not there is one line that says what to check, for pictures and annotations alike."""
    with serve(cache) as serving:
        gone = quick(serving.base, retries=1)
    with pytest.raises(
        BadRequest, match=r"^cannot fetch COCO from 127\.0\.0\.1: no connection: .*; check the network.*$"
    ):
        fetch_images(NAMES, subset="val2017", cache=cache, mirror=gone)
    with pytest.raises(BadRequest, match=r"^cannot fetch COCO .*--coco-base.*$"):
        fetch_annotations("val2017", cache=cache, mirror=gone)
    assert stored(cache / "val2017") == {}


def test_failing_mirror_ends_the_call(official: Path, cache: Path) -> None:
    """A mirror that fails picture after picture ends the call soon instead of after every name."""
    names = [f"{number}.jpg" for number in range(500)]
    with serve(official, faults=Faults(busy_first=99)) as serving:
        mirror = replace(quick(serving.base, retries=1), parallel=3)
        with pytest.raises(BadRequest, match="the mirror answers 503"):
            fetch_images(names, subset="val2017", cache=cache, mirror=mirror)
    assert len(serving.requests) < 50


def test_cache_that_cannot_be_written(official: Path, tmp_path: Path) -> None:
    """A cache in the place of a file is a bad request."""
    (tmp_path / "file").write_text("")
    with serve(official) as serving, pytest.raises(BadRequest, match="cannot use the cache"):
        fetch_images(NAMES, subset="val2017", cache=tmp_path / "file", mirror=quick(serving.base))


@pytest.mark.parametrize(
    "base", ["", "images.cocodataset.org", "ftp://a.b", "file:///etc", "http://", "http://[", "http://a?b"]
)
def test_base_that_is_no_address(base: str) -> None:
    """A base that is no http address is refused at once."""
    with pytest.raises(BadRequest, match="no address of a COCO mirror"):
        Mirror(base=base)


def test_base_with_a_path(official: Path, cache: Path) -> None:
    """A mirror may live below a path, with or without a slash at its end."""
    with serve(official.parent) as serving:
        mirror = quick(f"{serving.base}/official/")
        assert fetch_images(NAMES[:1], subset="val2017", cache=cache, mirror=mirror) == {}


@pytest.mark.parametrize("wrong", [{"parallel": 0}, {"retries": -1}, {"timeout_s": 0.0}, {"slow_s": -1.0}])
def test_numbers_out_of_range(wrong: dict[str, float]) -> None:
    """A number out of range is a ValueError that names it."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Mirror(**wrong)  # type: ignore[arg-type]


# --- several at once


def test_threads_share_a_cache(official: Path, cache: Path) -> None:
    """Callers at the same time get whole files, and each file crosses the network once."""
    results: list[object] = []

    def fetch() -> None:
        results.append(fetch_images(NAMES, subset="val2017", cache=cache, mirror=quick(serving.base)))
        results.append(fetch_annotations("val2017", cache=cache, mirror=quick(serving.base)).read_bytes() == INSTANCES)

    with serve(official, faults=Faults(delay_s=0.02)) as serving:
        threads = [threading.Thread(target=fetch) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results, key=str) == [True] * 4 + [{}] * 4
    assert stored(cache / "val2017") == IMAGES
    assert {name: len(serving.asked(name)) for name in NAMES} == dict.fromkeys(NAMES, 1)


PROCESS = """
import sys
from pathlib import Path
from flows.coco.download import Mirror, fetch_annotations, fetch_images
base, cache, *names = sys.argv[1:]
mirror = Mirror(base=base, backoff_s=0.01)
fetch_annotations("val2017", cache=Path(cache), mirror=mirror)
print(fetch_images(names, subset="val2017", cache=Path(cache), mirror=mirror))
"""


def test_processes_share_a_cache(official: Path, cache: Path) -> None:
    """Two processes at the same time, one killed in the middle, leave whole files only."""
    command = [sys.executable, "-c", PROCESS]
    with serve(official, faults=Faults(delay_s=0.05, drop_every=4)) as serving:
        arguments = [*command, serving.base, str(cache), *NAMES]
        runs = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        while not serving.requests:
            threading.Event().wait(0.01)
        runs[0].kill()
        outputs = [run.communicate(timeout=20)[0].strip() for run in runs]
    assert outputs[1:] == ["{}", "{}"]
    assert stored(cache / "val2017") == IMAGES
    assert stored(cache / "annotations") == {"instances_val2017.json": INSTANCES}


def test_part_held_by_a_process_that_stands_still(official: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that another process holds without writing is side-stepped, not waited for for ever."""
    monkeypatch.setattr(download, "PEER_PATIENCE_S", 0.1)
    (cache / "val2017").mkdir(parents=True)
    with (cache / "val2017" / f"{NAMES[0]}.part").open("wb") as held, serve(official) as serving:
        assert download._lock(held) is True
        assert fetch_images(NAMES[:1], subset="val2017", cache=cache, mirror=quick(serving.base)) == {}
    assert image_path(cache, "val2017", NAMES[0]).read_bytes() == IMAGES[NAMES[0]]


@pytest.fixture
def _no_locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: object) -> None:
        raise OSError(95, "no locks on this file system")

    with monkeypatch.context() as patched:
        patched.setattr("fcntl.flock", refuse)
        yield


@pytest.mark.usefixtures("_no_locks")
def test_file_system_without_locks(official: Path, cache: Path) -> None:
    """Where files cannot be locked, pictures come through parts of the thread's own."""
    with serve(official) as serving:
        assert fetch_images(NAMES, subset="val2017", cache=cache, mirror=quick(serving.base)) == {}
    assert {name: image_path(cache, "val2017", name).read_bytes() for name in NAMES} == IMAGES


def test_check_of_the_end_of_a_jpeg() -> None:
    """Without an announced length the end mark decides; with one, the length did already."""
    cut = io.BytesIO(IMAGES[NAMES[0]][:-2])
    download._check_jpeg(cut, len(cut.getvalue()))
    with pytest.raises(download._TransferError, match="cut off"):
        download._check_jpeg(cut, None)
