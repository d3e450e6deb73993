from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from augment.transfer.histogram import BINS, GAIN_LIMIT, histogram, limit_gain, matching_shift
from tests.reference import transfer as slow

Pixels = NDArray[np.uint8]


def _counts(**bins: float) -> NDArray[np.float64]:
    counts = np.zeros(100)
    for name, count in bins.items():
        counts[int(name[1:])] = count
    return counts


def test_two_values_go_to_two_values() -> None:
    """Half at 10 and half at 20 go to half at 40 and half at 60; in between is interpolated, beyond is continued."""
    shift = matching_shift(_counts(b10=3, b20=3), _counts(b40=5, b60=5))
    assert shift[[10, 20, 15, 0, 99]].tolist() == [30, 40, 35, 30, 40]


def test_a_spike_goes_to_the_median() -> None:
    """The middle of a single bin's ranks is one half."""
    shift = matching_shift(_counts(b50=7), _counts(b10=1, b20=1, b30=1))
    assert shift[50] == -30


def test_ranks_between_two_bins_are_interpolated() -> None:
    """Ranks 1/8, 1/2, 7/8 against 1/4 and 3/4: the ends, and half way."""
    shift = matching_shift(_counts(b0=1, b1=2, b2=1), _counts(b10=1, b20=1))
    np.testing.assert_allclose(shift[:3], [10, 14, 18])


def test_equal_shapes_need_no_shift() -> None:
    """Counts of another total but the same shape give exactly zero."""
    counts = np.random.default_rng(1).integers(0, 9, 100).astype(float)
    assert not matching_shift(counts, 7 * counts).any()


def test_the_curve_never_falls(subject: Pixels, reference: Pixels) -> None:
    """Brighter stays brighter, with and without the limit."""
    own, other = (
        np.bincount(16 * pixels[:, 1].astype(int), minlength=BINS).astype(float) for pixels in (subject, reference)
    )
    for shift in (matching_shift(own, other), limit_gain(matching_shift(own, other), own)[0]):
        assert np.diff(np.arange(BINS) + shift).min() > -1e-3


def test_a_gentle_curve_is_not_touched() -> None:
    """Below the limit the shift comes back as it was."""
    shift = np.linspace(0, 60, 128, dtype=np.float32)
    same, limited = limit_gain(shift, np.ones(128))
    assert not limited
    assert (same == shift).all()


def test_a_gap_is_bridged_by_the_steepest_allowed_line() -> None:
    """A jump of 1,000 bins within a cell of 32 becomes a rise of the limit, and the median stays put."""
    shift = np.where(np.arange(256) < 100, 0, 1000).astype(np.float32)
    gentle, limited = limit_gain(shift, np.ones(256))
    assert limited
    rise = np.diff(np.arange(256) + gentle)
    assert rise.max() == pytest.approx(GAIN_LIMIT, abs=0.01)
    assert rise.min() == pytest.approx(1, abs=0.01)
    assert gentle[127] == pytest.approx(shift[127], abs=0.01)


def test_each_channel_takes_the_references_distribution(subject: Pixels, reference: Pixels) -> None:
    """On a real picture the quantiles of Y, Cb and Cr become the reference's."""
    mapped = slow.ycbcr(histogram(subject, reference).apply(subject).astype(float))
    ranks = np.linspace(0.02, 0.98, 25)
    wanted = np.quantile(slow.ycbcr(reference.astype(float)), ranks, axis=0)
    assert np.abs(np.quantile(mapped, ranks, axis=0) - wanted).mean() < 1.5


def test_it_agrees_with_matching_sorted_values(subject: Pixels) -> None:
    """Against a reference that needs no limit, the map is that of unbinned mid-ranks to a level."""
    other = (subject * 0.8 + 20).astype(np.uint8)
    color_map = histogram(subject, other)
    assert not color_map.notes["gain_limited"]
    own, wanted = slow.ycbcr(subject.astype(float)), slow.ycbcr(other.astype(float))
    expected = np.stack([slow.mid_rank_match(own[:, c], wanted[:, c]) for c in range(3)], axis=1)
    difference = np.abs(slow.ycbcr(color_map.apply(subject).astype(float)) - expected)
    assert difference.mean() < 0.1
    assert np.quantile(difference, 0.999) < 1


def test_no_bands() -> None:
    """A smooth grey ramp stays without steps: between neighbours never more than the limited gain."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    bimodal = np.concatenate([ramp[30:60], ramp[190:230]])
    mapped = histogram(ramp[60:160], bimodal).apply(ramp[60:160])[:, 1]
    steps = np.diff(mapped)
    assert steps.min() >= 0
    assert steps.max() <= GAIN_LIMIT + 0.5
