"""Training a harmonizer on the samples of a run: what is drawn, written, gone on from, refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from flows.cli import main
from flows.errors import BadRequest
from flows.harmonizer_settings import NETWORKS, TrainHarmonizerSettings
from flows.make import train_harmonizer as module
from flows.make.train_harmonizer import Batches, Course, foreground_mse, only_course, open_course, train_course
from flows.settings import parse
from flows.store.layout import Layout
from flows.store.read import Damaged, load_samples
from flows.view.harmonizer_page import render_harmonizer_page, write_harmonizer_page
from realism.harmonizers import load_harmonizer
from realism.harmonizers.batch import Triplets
from tests.flows.make.building import WHOLE, build_in


@pytest.fixture(scope="module")
def run(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a run with samples in `train` and `val`; do not write into it."""
    return build_in(tiny_coco, tmp_path_factory.mktemp("harmonizers"), **WHOLE)


def settings_for(run: Layout, output: Path, **more: Any) -> TrainHarmonizerSettings:
    """Return settings of a training of 12 steps at 32 pixels."""
    fixed = {"network": "masked_unet", "steps": 12, "batch": 4, "side": 32, "workers": 0, "threads": 1}
    return parse(TrainHarmonizerSettings, {"samples": run.run, "output": output, **fixed, **more})


def test_a_batch_is_that_of_its_number(run: Layout, tmp_path: Path) -> None:
    """Asked in order, from the middle, in another epoch or of a process: the same number is the same batch."""
    course = open_course(settings_for(run, tmp_path, seed=5))
    epoch = course.samples // 4
    plain, again = Batches(course, workers=0), Batches(course, workers=1)
    numbers = [*range(epoch + 2)]
    first = {number: plain.draw(number) for number in numbers}
    second = {number: again.draw(number) for number in (1, 2, epoch, epoch + 1, 0)}
    again.close()
    for number, batch in second.items():
        for name, layer in vars(batch).items():
            assert np.array_equal(layer, vars(first[number])[name])
    assert not np.array_equal(first[0].real, first[epoch].real)
    assert first[0].composite.shape == (4, 32, 32, 3)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("varied", [{}, {"window": 0.5, "jitter": 0.3}], ids=["plain", "varied"])
def test_batches_out_of_memory_are_those_that_were_read(
    run: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, varied: dict[str, float]
) -> None:
    """Whether the samples fit into memory changes no batch: in order over epochs, and gone on with in the middle of one."""
    course = open_course(settings_for(run, tmp_path, batch=3, **varied))
    assert course.samples % 3  # some of each epoch are left out
    remembering, later = Batches(course, workers=workers), Batches(course, workers=workers)
    monkeypatch.setattr(module, "REMEMBERED", 0)
    reading = Batches(course, workers=0)
    end = 4 * (course.samples // 3)
    for number in range(end):
        wanted = reading.draw(number)
        for batches in [remembering, later] if number >= end // 3 + 1 else [remembering]:
            for layers in zip(vars(batches.draw(number)).values(), vars(wanted).values(), strict=True):
                assert np.array_equal(*layers)
    remembering.close()
    later.close()


def test_samples_that_fit_into_memory_are_read_once(
    run: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once each sample has come, the shards are not needed; with more than fit they are."""
    copied = Layout(Path(shutil.copytree(run.run, tmp_path / run.run.name)))
    course = open_course(settings_for(copied, tmp_path, batch=2))
    size = course.samples * 32 * 32 * 7
    monkeypatch.setattr(module, "REMEMBERED", size)
    remembering = Batches(course, workers=0)
    monkeypatch.setattr(module, "REMEMBERED", size - 1)
    reading = Batches(course, workers=0)
    epoch = course.samples // 2
    assert epoch * 2 == course.samples
    for number in range(epoch):
        remembering.draw(number)
    shutil.rmtree(copied.run / "shards")
    for number in range(epoch, 3 * epoch):
        assert len(remembering.draw(number)) == 2
    with pytest.raises(Damaged, match="No such file"):
        reading.draw(epoch)


def test_an_epoch_is_every_sample_once_mirrored_or_not(run: Layout, tmp_path: Path) -> None:
    """The batches of an epoch are the samples of the split, each once, composite, mask and photograph alike turned."""
    course = open_course(settings_for(run, tmp_path, batch=2))
    stored = load_samples(run.run, pictures=("composite", "mask", "real"), size=(32, 32))
    kept = {sample["composite"].tobytes(): (sample["composite"], sample["mask"], sample["real"]) for sample in stored}
    batches, seen, turned = Batches(course, workers=0), set(), 0
    for number in range(course.samples // 2):
        for composite, mask, real in zip(*vars(batches.draw(number)).values(), strict=True):
            plain = composite.tobytes() in kept
            turned += not plain
            key = composite.tobytes() if plain else np.ascontiguousarray(composite[:, ::-1]).tobytes()
            for found, wanted in zip((composite, mask, real), kept[key], strict=True):
                assert np.array_equal(found, wanted if plain else wanted[:, ::-1])
            assert key not in seen
            seen.add(key)
    assert len(seen) == course.samples // 2 * 2
    assert 0 < turned < len(seen)


def test_windows_are_parts_of_the_samples(run: Layout, tmp_path: Path) -> None:
    """With `window` a batch is of the network's size, another each epoch, the same whenever it is asked for."""
    course = open_course(settings_for(run, tmp_path, batch=2, window=0.5, flip=False))
    assert course.numbers.origin != open_course(settings_for(run, tmp_path, batch=2, flip=False)).numbers.origin
    batches, again = Batches(course, workers=0), Batches(course, workers=0)
    epoch = course.samples // 2
    first = [batches.draw(number) for number in range(epoch)]
    assert {layer.shape[1:3] for batch in first for layer in vars(batch).values()} == {(32, 32)}
    later = again.draw(epoch - 1)
    assert all(np.array_equal(*pair) for pair in zip(vars(first[-1]).values(), vars(later).values(), strict=True))
    second = {picture.tobytes() for number in range(epoch, 2 * epoch) for picture in batches.draw(number).real}
    known = {picture.tobytes() for batch in first for picture in batch.real}
    assert 0.25 * epoch < len(second - known) < 1.75 * epoch  # of two samples a batch; the others come whole, as before


def test_jitter_is_part_of_a_training(run: Layout, tmp_path: Path) -> None:
    """It changes what is learnt from, and its digest, and leaves what a batch is a function of."""
    plain, lit = (open_course(settings_for(run, tmp_path, jitter=amount)) for amount in (0.0, 0.3))
    assert plain.numbers.origin != lit.numbers.origin
    first, second, again = (Batches(course, workers=0).draw(1) for course in (plain, lit, lit))
    assert np.array_equal(first.mask, second.mask)
    assert not np.array_equal(first.real, second.real)
    assert np.array_equal(second.real, again.real)


def test_held_out_are_drawn_from_all_of_val(run: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first by key would be edits of one photograph; the draw is the same in every training of this size."""
    monkeypatch.setattr(module, "HELD_OUT", 2)
    first, again = (open_course(settings_for(run, tmp_path, seed=seed)).held_out for seed in (0, 1))
    stored = [each["real"] for each in load_samples(run.run, split="val", pictures=("real",), size=(32, 32))]
    assert len(stored) > 2
    assert np.array_equal(first.real, again.real)
    assert not np.array_equal(first.real, stored[:2])
    assert {picture.tobytes() for picture in first.real} <= {picture.tobytes() for picture in stored}


def test_a_training_writes_checkpoint_sheets_and_report(run: Layout, tmp_path: Path) -> None:
    """The checkpoint harmonizes, names what it learnt from, and the page shows pictures and curves and loads nothing."""
    course = open_course(settings_for(run, tmp_path))
    told: list[int] = []
    made = train_course(course, tell=lambda progress: told.append(progress.step))
    assert told == [10, 12]
    loaded = load_harmonizer(course.layout.checkpoint, name="masked_unet")
    assert (loaded.digest, loaded.side, loaded.data_digest) == (made.digest, 32, course.numbers.origin)
    assert loaded.settings["stage"] == "harmonization"
    assert {"loss", "step", "val_fmse"} == set(loaded.metrics["history"][-1])
    assert loaded.metrics["val_fmse_none"] > 0
    page = write_harmonizer_page(course.layout).read_text()
    assert page.count("<img") == 2
    assert page.count("<svg") == 2
    assert "http://" not in page.replace("http://www.w3.org", "")
    for split in ("train", "val"):
        sheet = cv2.imread(str(course.layout.report.parent / f"{split}.png"))
        assert sheet.shape[1] == 4 * 32


def test_text_of_a_training_stays_text() -> None:
    """A name, and what stands in the settings, may come from a source that somebody else named."""
    hostile = "</style><script>pwned()</script>](javascript:pwned())`|\n{{7*7}}\ud800"
    about = {
        "architecture": "harmonizer_masked_unet",
        "shape": {"widths": [4, 8]},
        "side": 32,
        "parameters": 7,
        "metrics": {"samples": 5, "history": [{"step": 1, "loss": 1.0}]},
        "settings": {"run": hostile, hostile: hostile},
        "data_digest": hostile,
        "weights_sha256": hostile,
    }
    page = render_harmonizer_page(name=hostile, about=about, sheets={}).decode()
    assert "<script" not in page
    assert "&lt;script&gt;pwned()" in page
    assert "href=" not in page.replace('href="#', "")


def test_a_finished_training_is_left_as_it_is_and_an_unfinished_one_goes_on(run: Layout, tmp_path: Path) -> None:
    """The same command again gives the same weights; one that was stopped ends in the weights of one that was not."""
    whole = train_course(open_course(settings_for(run, tmp_path / "a")))
    assert train_course(open_course(settings_for(run, tmp_path / "a"))).digest == whole.digest
    course = open_course(settings_for(run, tmp_path / "b"))

    def stop(_progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_course(course, tell=stop)
    assert not course.layout.checkpoint.with_name("x.pt").exists()
    assert train_course(course).digest == whole.digest


def test_bfloat16_on_the_cpu_is_another_training(run: Layout, tmp_path: Path) -> None:
    """`half` gives weights near those of full precision, says so, and does not go on from their state."""
    whole, half = (
        train_course(open_course(settings_for(run, tmp_path / str(half), half=half))) for half in (False, True)
    )
    assert (whole.settings["half_on_cpu"], half.settings["half_on_cpu"]) == (False, True)
    assert whole.digest != half.digest
    last = [made.metrics["history"][-1]["loss"] for made in (whole, half)]
    assert last[1] == pytest.approx(last[0], rel=0.05)
    with pytest.raises(BadRequest, match="begun with other settings"):
        train_course(open_course(settings_for(run, tmp_path / "True")))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_a_killed_training_goes_on_to_the_same_weights(run: Layout, tmp_path: Path, network: str) -> None:
    """SIGKILL in the middle of an epoch; the same command ends in the weights of a training that nobody disturbed."""
    side = "64" if network == "gp_gan" else "32"
    numbers = ["--steps", "20", "--batch", "3", "--side", side, "--workers", "0", "--threads", "1", "--name", "n"]
    command = [sys.executable, "-m", "flows.cli", "train", network, str(run.run), *numbers, "--output"]
    killed = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL)
    state = tmp_path / "killed" / "n" / "training.state"
    while not state.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not state.with_name("n.pt").exists()
    for folder in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / folder)], stdout=subprocess.DEVNULL, check=True)
    digests = {load_harmonizer(tmp_path / folder / "n" / "n").digest for folder in ("killed", "whole")}
    assert len(digests) == 1


def test_another_training_in_the_same_folder_is_refused(run: Layout, tmp_path: Path) -> None:
    """Other settings do not go on from the state, and a folder is held by one process."""
    train_course(open_course(settings_for(run, tmp_path, name="one")))
    with pytest.raises(BadRequest, match=r"begun with other settings.*--name"):
        train_course(open_course(settings_for(run, tmp_path, name="one", seed=1)))
    settings = settings_for(run, tmp_path, name="one")
    with only_course(settings), pytest.raises(BadRequest, match="another training is at work"), only_course(settings):
        pass


def test_foreground_mse_counts_what_is_inside(run: Layout) -> None:
    """Two samples with known differences: 9 in one channel of three inside, anything outside."""
    del run
    real = np.full((2, 4, 5, 3), 100, np.uint8)
    answer, mask = real.copy(), np.zeros((2, 4, 5), np.uint8)
    mask[:, :2] = 255
    answer[0, :2, :, 0] += 3
    answer[:, 2:] = 0
    assert foreground_mse(answer, Triplets(answer, mask, real)) == pytest.approx((3 + 0) / 2)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"network": "unet"}, "setting network: "),
        ({"side": 33}, "setting side: masked_unet cannot work at 33 px; its presets take 96 and 256"),
        ({"network": "gp_gan", "side": 40}, "setting side: gp_gan cannot work at 40 px"),
        ({"steps": 0}, "setting steps: "),
        ({"samples": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_trained_is_one_line(run: Layout, tmp_path: Path, given: dict[str, Any], line: str) -> None:
    """An unknown network, a size that it cannot take, no steps, no run."""
    with pytest.raises(BadRequest, match=line) as error:
        open_course(settings_for(run, tmp_path, **given))
    assert "\n" not in str(error.value)


def test_a_blender_learns_from_what_the_run_has(run: Layout, tmp_path: Path) -> None:
    """GP-GAN takes harmonization samples where there are no copy-paste pairs, and says so."""
    course = open_course(settings_for(run, tmp_path, network="gp_gan", side=64))
    assert isinstance(course, Course)
    assert course.stage == "harmonization"
    assert "harmonization samples" in course.summary


def test_the_commands_train_and_harmonize(run: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`hcoco train` prints where the checkpoint is, `hcoco harmonize` makes a picture with it; slips end with 2."""
    options = ["--output", str(tmp_path), "--steps", "10", "--side", "32", "--batch", "4", "--workers", "0"]
    assert main(["train", "masked_unet", str(run.run), "--name", "m", "--json", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    sample = next(iter(load_samples(run.run)))
    for name in ("composite", "mask"):
        picture = sample[name] if name == "mask" else sample[name][..., ::-1]
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    files = [str(tmp_path / "composite.png"), str(tmp_path / "mask.png")]
    output = tmp_path / "out.png"
    given = ["harmonize", "masked_unet", *files, "--checkpoint", told["checkpoint"], "--output", str(output)]
    assert main(given) == 0
    assert cv2.imread(str(output)).shape == sample["composite"].shape
    assert main(["harmonize", "masked_unet", *files]) == 2
    assert "needs --checkpoint" in capsys.readouterr().err
    assert main(["train", "masked_unet", str(tmp_path / "none"), *options]) == 2
    assert "does not exist" in capsys.readouterr().err
