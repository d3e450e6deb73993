"""Naturals and edits of known severity, and the subjects they are drawn from."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from flows.coco.select import split_of
from flows.coco.sources import Source, open_source
from flows.make.severity import (
    GROSS,
    LADDER,
    Cases,
    Drawing,
    Scene,
    audit_cases,
    draw_cases,
    gross,
    hide_masks,
    join_cases,
    make_checkpoint,
    measure_cases,
    pairs_in_order,
    people_of,
)
from flows.make.subjects import (
    Subject,
    annotated_subjects,
    check_splits,
    cut_out,
    digest_of,
    id_of,
    unlabelled_photographs,
    unlabelled_subjects,
)
from realism import Discriminator, Shape


@pytest.fixture(scope="module")
def source(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Return a small folder in COCO's layout."""
    return open_source(str(tiny_coco), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def subjects(source: Source) -> list[Subject]:
    """Return the subjects of its split `train`."""
    return list(annotated_subjects(source, split="train"))


@pytest.fixture(scope="module")
def scenes(source: Source) -> list[Scene]:
    """Return the photographs of its split `train` with their people."""
    return people_of(source, split="train")


@pytest.fixture(scope="module")
def cases(scenes: list[Scene]) -> Cases:
    """Return the cases of four subjects."""
    return draw_cases(scenes, seed=1, per_photograph=1, most=4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of pictures without annotations, of both kinds of name."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(12):
        blocks = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        picture = cv2.resize(blocks, dsize=(128, 96), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f"{number:012d}.png"), picture)
    (folder / "README.md").write_text("no picture")
    (folder / "000000000099.png").write_bytes(b"broken")
    return folder


def drawing_of(subjects: list[Subject], **options: object) -> Drawing:
    """Return a drawing of four subjects a batch."""
    return Drawing(subjects, [s.colours for s in subjects], seed=0, groups=4, **options)  # type: ignore[arg-type]


def test_batch_is_a_function_of_seed_and_step(subjects: list[Subject]) -> None:
    """The same step gives the same batch from another object, another step another one."""
    first, again = (drawing_of(subjects).batch(5) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))
    assert not np.array_equal(first.crops, drawing_of(subjects).batch(6).crops)


def test_batch_has_groups_that_begin_with_a_natural(subjects: list[Subject]) -> None:
    """Every fourth crop is natural, with no change to guess; all crops of a group share one mask."""
    batch = drawing_of(subjects).batch(0)
    assert batch.natural.tolist() == [1, 0, 0, 0] * 4
    assert not batch.changes[::LADDER].any()
    masks = batch.crops[..., 3].reshape(4, LADDER, 64, 64)
    assert all(np.array_equal(masks[:, 0], masks[:, row]) for row in range(LADDER))
    assert np.isfinite(batch.changes).all()


def test_surroundings_are_alike_within_a_group(subjects: list[Subject]) -> None:
    """What tells a natural from its edits lies in the subject: pixels far from it are equal in the whole group."""
    batch = drawing_of(subjects, vigour=1.0).batch(3)
    for group in batch.crops.reshape(4, LADDER, 64, 64, 4):
        far = cv2.dilate(group[0, ..., 3], np.ones((15, 15))) == 0
        rows = (
            [1, 2, 3] if np.array_equal(group[1][far], group[0][far]) else [2, 3]
        )  # a natural edited as a whole differs
        levels = group[..., :3].astype(int)
        assert all(np.abs(levels[row][far] - levels[rows[0]][far]).max(initial=0) <= 24 for row in rows)


def test_left_out_family_is_never_drawn(subjects: list[Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that is not among the weights makes no edit."""
    seen = set()
    from flows.make import severity

    plain = severity.edit_subject

    def noted(*arguments: object) -> object:
        seen.add(arguments[3].family)  # type: ignore[attr-defined]
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(severity, "edit_subject", noted)
    monkeypatch.setattr(severity, "_natural", lambda base, *_: base)
    drawing = drawing_of(subjects, families={"mkl": 1.0, "perturb": 1.0})
    for step in range(3):
        drawing.batch(step)
    assert seen == {"mkl", "perturb"}


def test_pairs_run_from_mild_to_severe() -> None:
    """A pair names the milder row first; subjects of different groups are compared only where far apart."""
    mse = np.array([0.0, 100, 400, 120, 0, 90, 2000, 5000])
    pairs = pairs_in_order(mse, np.random.default_rng(0))
    assert all(mse[milder] < mse[severer] for milder, severer in pairs)
    assert [0, 1] in pairs.tolist()
    assert [1, 3] not in pairs.tolist()
    assert [1, 6] in pairs.tolist()
    assert [2, 6] in pairs.tolist()
    assert [3, 5] not in pairs.tolist()


@pytest.mark.parametrize("kind", GROSS)
def test_gross_edits_leave_the_surroundings(kind: str, subjects: list[Subject]) -> None:
    """A gross edit changes the subject much and nothing where alpha is 0."""
    rng = np.random.default_rng(2)
    base = rng.integers(40, 200, (50, 70, 3), dtype=np.uint8)
    alpha = np.zeros((50, 70), np.uint8)
    alpha[10:40, 20:50] = 255
    edited = gross(base, alpha, subjects[0].colours, kind, rng)
    assert np.array_equal(edited[alpha == 0], base[alpha == 0])
    assert np.abs(edited[alpha > 0].astype(int) - base[alpha > 0]).mean() > 10


def test_unknown_gross_edit_is_refused() -> None:
    """A kind that does not exist is named."""
    with pytest.raises(ValueError, match="kind must be one of"):
        gross(
            np.zeros((4, 5, 3), np.uint8),
            np.ones((4, 5), np.uint8),
            np.zeros((1, 3), np.uint8),
            "melted",
            np.random.default_rng(),
        )


def test_cases_hold_every_measure(cases: Cases) -> None:
    """Each subject is there as natural, drawn edits, one of each family and kind, ladder, null edits and shifts."""
    for subject in range(4):
        what = cases.what[cases.subject == subject].tolist()
        counts = {name: what.count(name) for name in ("natural", "edit", "family", "gross", "ladder", "null")}
        assert counts == {"natural": 1, "edit": 2, "family": 6, "gross": 4, "ladder": 5, "null": 7}
        assert what.count("shift") >= 10
    assert (cases.mse[cases.what == "natural"] == 0).all()
    assert (cases.mse[(cases.what == "ladder") & (cases.strength == 0)] < 1).all()


def test_null_edits_look_as_before(cases: Cases) -> None:
    """Crops of null edits differ from the natural by rounding and encoding only."""
    for subject in range(4):
        mine = cases.subject == subject
        natural = cases.crops[mine & (cases.what == "natural")][0].astype(int)
        for crop in cases.crops[mine & (cases.what == "null")]:
            assert np.abs(crop[..., :3] - natural[..., :3]).mean() < 1.5
            assert np.array_equal(crop[..., 3], natural[..., 3])


def test_cases_can_be_kept(cases: Cases, tmp_path: Path) -> None:
    """What is saved is loaded."""
    cases.save(tmp_path / "cases.npz")
    loaded = Cases.load(tmp_path / "cases.npz")
    assert all(np.array_equal(a, b) for a, b in zip(vars(cases).values(), vars(loaded).values(), strict=True))


@pytest.mark.parametrize("how", ["packed", "claims terabytes", "another method", "no archive"])
def test_forged_cases_are_refused(cases: Cases, how: str, tmp_path: Path) -> None:
    """A file that may stand for any size is one line, and takes no memory."""
    path = tmp_path / "cases.npz"
    cases.save(path)
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    if how == "claims terabytes":
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
        members["mse.npy"] = b"\x93NUMPY\x01\x00v\x00" + header
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if how == "packed" else zipfile.ZIP_STORED) as forged:
        for name, content in members.items():
            forged.writestr(name, content)
    if how == "another method":
        data = bytearray(path.read_bytes())
        for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
            data[data.index(signature) + place] = 99
        path.write_bytes(data)
    if how == "no archive":
        path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="holds no cases that can be read; remove it"):
        Cases.load(path)


def test_joined_cases_number_their_subjects_anew(cases: Cases) -> None:
    """Subjects of two sets of cases stay apart."""
    joined = join_cases(cases, cases)
    assert len(np.unique(joined.subject)) == 8
    assert len(joined.crops) == 2 * len(cases.crops)


def test_perfect_scores_measure_perfectly(cases: Cases) -> None:
    """A network that knew the foreground MSE would reach 1 in every ranking."""
    measured = measure_cases(1 / (1 + cases.mse / 1000 + cases.strength * 1e-9), cases)
    assert measured["band_auroc"] == 1
    assert np.isnan(measured["natural_gross_auroc"]) or measured["natural_gross_auroc"] == 1
    assert measured["spearman"] > 0.99


def test_audit_compares_shifts_with_their_bases(cases: Cases) -> None:
    """Scores that follow the subject alone shift nowhere; ones that see the size of the file do."""
    steady = audit_cases(cases.subject / 10, cases)
    assert steady["worst_shift"] == 0
    assert steady["null_auroc"] == 0.5
    moved = audit_cases(cases.subject / 10 + 0.1 * (cases.name == "edit:jpeg_75"), cases)
    assert moved["shift"]["edit:jpeg_75"] == pytest.approx(0.1)


def test_hidden_masks_say_nothing(cases: Cases) -> None:
    """Every hidden mask is the same, the pictures stay."""
    hidden = hide_masks(cases.crops)
    assert np.unique(hidden[..., 3]).size == 1
    assert np.array_equal(hidden[..., :3], cases.crops[..., :3])


def test_checkpoint_lists_what_it_learnt_from(subjects: list[Subject], cases: Cases) -> None:
    """A checkpoint names its photographs, its data's digest, a threshold, figures and an audit."""
    edited = np.isin(cases.what, ("edit", "family"))
    easy = Cases(**{**vars(cases), "passes": cases.passes | edited, "mse": cases.mse + 3000 * (cases.what == "gross")})
    checkpoint = make_checkpoint(Discriminator(Shape(width=8, hidden=32)), subjects=subjects, val=easy, test=easy)
    assert checkpoint.image_ids == {subject.image_id for subject in subjects}
    assert checkpoint.data_digest == digest_of(subjects)
    assert set(checkpoint.metrics) == {"val", "test"}
    assert not checkpoint.audit_passed  # four subjects are too few


def test_subjects_come_from_one_split(subjects: list[Subject]) -> None:
    """Every subject's photograph is of the split asked for, and a foreign one is named."""
    assert subjects
    check_splits(subjects, split="train")
    with pytest.raises(ValueError, match="these photographs are not"):
        check_splits(subjects, split="val")


def test_cut_out_keeps_the_subject_whole() -> None:
    """A subject that fits is cut out at its size, with room on all sides; a large one is scaled down."""
    picture = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    mask = np.zeros((400, 600), bool)
    mask[190:210, 290:330] = True
    subject = cut_out(1, "person", picture, mask)
    assert np.count_nonzero(subject.mask > 127) == mask.sum()
    assert subject.picture.shape[:2] == subject.mask.shape
    mask[50:350, 100:500] = True
    assert max(cut_out(1, "person", picture, mask).mask.shape) <= 151


def test_unlabelled_photographs_give_subjects(photos: Path, subjects: list[Subject]) -> None:
    """Pictures without annotations give borrowed masks and segments of their own split, the same each time."""
    shapes = [subject.mask for subject in subjects]
    first, again = (list(unlabelled_subjects(photos, split="train", shapes=shapes, each=4, seed=1)) for _ in range(2))
    assert {subject.kind for subject in first} == {"borrowed", "segment"}
    assert all(split_of(subject.image_id) == "train" for subject in first)
    assert digest_of(first) == digest_of(again)
    scenes = list(unlabelled_photographs(photos, split="train", shapes=shapes, seed=1))
    assert all(masks and picture.shape == (96, 128, 3) for _, picture, masks in scenes)


def test_id_of_a_file() -> None:
    """COCO's names give their id, other names a number of their own."""
    assert id_of(Path("a/000000000139.jpg")) == 139
    assert id_of(Path("holiday.jpg")) == id_of(Path("elsewhere/holiday.jpg")) != id_of(Path("other.jpg"))
