"""Variation of batches: what a window may leave out, and that its layers belong together."""

from __future__ import annotations

import numpy as np
import pytest

from flows.make.vary import SUBJECT_KEPT, cut_windows, jitter, mirror
from realism.harmonizers.batch import Triplets

WHOLE = 64


def ramps(count: int, *, top: int = 20, left: int = 24, high: int = 10, wide: int = 8) -> Triplets:
    """Return triplets whose pixels tell where they are: red the row, green the column, blue which layer it is."""
    rows, columns = np.mgrid[:WHOLE, :WHOLE].astype(np.uint8)
    mask = np.zeros((WHOLE, WHOLE), np.uint8)
    mask[top : top + high, left : left + wide] = 255
    layers = [np.stack([3 * rows, 3 * columns, np.full_like(rows, blue)], axis=-1) for blue in (50, 200)]
    return Triplets(*(np.stack([layer] * count) for layer in (layers[0], mask, layers[1])))


def test_windows_differ_and_their_layers_belong_together() -> None:
    """Composite and photograph show the same place, at all sizes that were asked for, and nowhere is enlarged."""
    batch = ramps(200)
    cut = cut_windows(batch, side=32, smallest=0.5, seed=[1, 2])
    assert [layer.shape for layer in vars(cut).values()] == [(200, 32, 32, 3), (200, 32, 32), (200, 32, 32, 3)]
    assert np.array_equal(cut.composite[..., :2], cut.real[..., :2])
    assert (cut.composite[..., 2] == 50).all()
    assert (cut.real[..., 2] == 200).all()
    spans = cut.real[:, -1, 0, :2].astype(float) - cut.real[:, 0, 0, :2]  # 3 levels a pixel, over 31/32 of a window
    shares = spans[:, 0] / 3 * 32 / 31 / WHOLE
    assert np.allclose(cut.real[:, 0, -1, 1].astype(float) - cut.real[:, 0, 0, 1], spans[:, 0], atol=3)
    assert 0.48 < shares.min() < 0.55
    assert 0.95 < shares.max() < 1.03
    assert len(np.unique(cut.real[:, 0, 0, :2], axis=0)) > 60
    assert 80 < (shares > 0.99).sum() < 120  # half of them, and the windows that are nearly as large


@pytest.mark.parametrize(("high", "wide"), [(10, 8), (40, 36)])
def test_a_window_holds_half_of_the_subject(high: int, wide: int) -> None:
    """Its area, measured at full size by what the window shows of it, is at least half."""
    batch = ramps(300, high=high, wide=wide)
    cut = cut_windows(batch, side=32, smallest=0.5, seed=[5])
    spans = (cut.real[:, -1, 0, 0].astype(float) - cut.real[:, 0, 0, 0]) / 3 * 32 / 31
    areas = (cut.mask / 255.0).mean(axis=(1, 2)) * spans**2
    assert areas.min() > 0.9 * SUBJECT_KEPT * high * wide
    assert areas.max() < 1.1 * high * wide


@pytest.mark.parametrize(("high", "most"), [(20, 0.5), (45, 0.7)])
def test_a_window_leaves_surroundings(high: int, most: float) -> None:
    """The subject covers no more than half of a window, or than of the whole."""
    batch = ramps(300, left=0, wide=WHOLE, top=0, high=high)
    cut = cut_windows(batch, side=32, smallest=0.3, seed=[6])
    shares = (cut.mask > 127).mean(axis=(1, 2))
    assert shares.max() <= most + 0.04
    assert len(np.unique(shares)) > 2


def test_an_empty_mask_does_no_harm_and_one_seed_is_one_batch() -> None:
    """A subject that vanished at this size lets every window pass; the draws hang on the seed alone."""
    batch = ramps(4, high=0)
    first, second, other = (cut_windows(batch, side=16, smallest=0.5, seed=seed) for seed in ([1], [1], [2]))
    assert np.array_equal(first.real, second.real)
    assert not np.array_equal(first.real, other.real)
    assert not first.mask.any()


def test_a_subject_of_two_corners_is_taken_whole() -> None:
    """Where no window holds half of the subject, the whole is taken."""
    batch = ramps(2, high=0)
    for corner in (np.s_[:, :2, :2], np.s_[:, -2:, -2:], np.s_[:, :2, -2:], np.s_[:, -2:, :2]):
        batch.mask[corner] = 255
    cut = cut_windows(batch, side=WHOLE, smallest=0.5, seed=[3])
    assert all(np.array_equal(*pair) for pair in zip(vars(cut).values(), vars(batch).values(), strict=True))


def test_mirroring_turns_some_and_all_layers_of_them() -> None:
    """A mirrored triplet is mirrored in its composite, its mask and its photograph."""
    batch = ramps(64)
    mirrored = mirror(batch, seed=[0])
    turned = [bool(picture[0, 0, 1] > picture[0, -1, 1]) for picture in mirrored.real]
    assert 16 < sum(turned) < 48
    for layer, found in zip(vars(batch).values(), vars(mirrored).values(), strict=True):
        for place, each in enumerate(turned):
            assert np.array_equal(found[place], layer[place][:, ::-1] if each else layer[place])


def test_jitter_relights_composite_and_photograph_alike() -> None:
    """One curve a triplet and channel, rising from black, the same in both pictures; the mask stays; triplets differ."""
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = np.stack([grey] * 3, axis=-1)
    batch = Triplets(np.stack([picture] * 40), np.stack([grey] * 40), np.stack([picture[::-1]] * 40))
    lit = jitter(batch, amount=0.4, seed=[4])
    assert np.array_equal(lit.mask, batch.mask)
    assert np.array_equal(lit.real[:, ::-1], lit.composite)
    curves = lit.composite.reshape(40, 256, 3).astype(float)
    assert (np.diff(curves, axis=1) >= 0).all()
    assert (curves[:, 0] == 0).all()
    middle = curves[:, 128] / 255
    assert 0.5 ** np.exp(0.4) * np.exp(-0.2) - 0.01 < middle.min() < 0.4
    assert 0.6 < middle.max() < 0.5 ** np.exp(-0.4) * np.exp(0.2) + 0.01
    assert np.ptp(middle, axis=1).min() < 0.1 < np.ptp(middle, axis=1).max()
    assert np.array_equal(jitter(batch, amount=0.4, seed=[4]).real, lit.real)


def test_hardly_any_jitter_changes_next_to_nothing() -> None:
    """The bounds shrink with the amount."""
    batch = ramps(3)
    lit = jitter(batch, amount=1e-3, seed=[1])
    assert np.abs(lit.real.astype(int) - batch.real).max() <= 1
