"""Metrics, calibration, threshold and audit on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from realism import (
    Calibration,
    Checkpoint,
    Discriminator,
    Shape,
    audit_scores,
    calibrate,
    choose_threshold,
    judge_scores,
)
from realism.metrics import auroc, calibration_error, ranks, recall_at_precision, rejection_curve, spearman


def test_ranks_share_ties() -> None:
    """Equal values share their mean rank."""
    assert ranks([3, 1, 3, 2]).tolist() == [3.5, 1, 3.5, 2]


def test_auroc_counts_pairs() -> None:
    """AUROC is the share of pairs in order, ties half."""
    rng = np.random.default_rng(0)
    above, below = rng.integers(0, 9, 23), rng.integers(0, 7, 31)
    naive = np.mean([(a > b) + 0.5 * (a == b) for a in above for b in below])
    assert auroc(above, below) == pytest.approx(naive)
    assert np.isnan(auroc([], [1]))


def test_calibration_error_by_hand() -> None:
    """Two bins, each off by a tenth and by three tenths, of two and six samples."""
    scores, natural = [0.1] * 2 + [0.8] * 6, [0, 0, 1, 1, 1, 0, 0, 0]
    assert calibration_error(scores, natural, bins=2) == pytest.approx(0.25 * 0.1 + 0.75 * 0.3)


def test_rejection_on_one_to_nine() -> None:
    """Precision is that of 1 gross to 9 mild, whatever the sizes of the sets."""
    thresholds, precision, recall = rejection_curve([0.1, 0.2, 0.3, 0.6], [0.25, 0.7])
    at = int(np.searchsorted(thresholds, 0.26))
    assert recall[at] == 0.5
    assert precision[at] == pytest.approx(0.5 / (0.5 + 9 * 0.5))


def test_recall_at_precision_takes_the_most() -> None:
    """Everything below the lowest mild score can be dropped."""
    recall, threshold = recall_at_precision([0.1, 0.2, 0.3, 0.6], [0.4, 0.7])
    assert recall == 0.75
    assert 0.3 < threshold < 0.4
    assert recall_at_precision([0.9], [0.1]) == (0.0, 0.0)


def test_spearman_of_order() -> None:
    """Ranks in order give 1, reversed -1, a constant 0."""
    assert spearman([1, 5, 9], [2, 3, 4]) == pytest.approx(1)
    assert spearman([1, 5, 9], [4, 3, 2]) == pytest.approx(-1)
    assert spearman([1, 1, 1], [4, 3, 2]) == 0


def test_calibration_recovers_a_known_one() -> None:
    """Logits that were stretched and moved come back to the probabilities they were drawn with."""
    rng = np.random.default_rng(1)
    true = rng.normal(0, 2, 20_000)
    natural = rng.random(20_000) < 1 / (1 + np.exp(-true))
    found = calibrate(3 * (true - 0.5)[natural], 3 * (true - 0.5)[~natural])
    assert found.temperature == pytest.approx(3, rel=0.05)
    assert found.offset == pytest.approx(0.5, abs=0.06)


def test_calibration_keeps_the_order_of_a_useless_network() -> None:
    """Logits the wrong way round are flattened, not turned over."""
    found = calibrate([0.0, -1.0, -2.0], [0.5, 1.0, 2.0])
    assert found.temperature > 0
    with pytest.raises(ValueError, match="finite logits"):
        calibrate([], [1.0])


def test_threshold_reaches_the_precision() -> None:
    """The threshold drops as much as the precision allows, and says what it reached."""
    threshold, precision, recall = choose_threshold([0.1, 0.2, 0.6], [0.5, 0.7, 0.8])
    assert 0.2 < threshold < 0.5
    assert precision == 1
    assert recall == pytest.approx(2 / 3)


def test_gate_keeps_from_the_threshold_on() -> None:
    """A score at the threshold is kept; the caller's threshold goes before the checkpoint's."""
    network = Discriminator(Shape(side=32, width=8, hidden=32))
    checkpoint = Checkpoint(network, Calibration(), threshold=0.5, image_ids=frozenset({7}))
    judged = judge_scores(checkpoint, [0.5, 0.4999], [7, 8])
    assert [one.kept for one in judged] == [True, False]
    assert [one.seen_by_gate for one in judged] == [True, False]
    assert judge_scores(checkpoint, [0.3], [8], threshold=0.2)[0].kept


def test_audit_passes_what_does_not_move() -> None:
    """Equal scores pass, a null edit that is told from naturals fails, and so does a shift of the mean."""
    scores = np.linspace(0, 1, 300)
    good = audit_scores(scores, {"own": scores}, {"jpeg": (scores, scores + 0.02)})
    assert good["passed"]
    assert (good["null_auroc"], good["worst_shift"]) == (0.5, 0.02)
    assert not audit_scores(scores, {"own": scores - 0.2}, {})["passed"]
    assert not audit_scores(scores, {"own": scores}, {"jpeg": (scores, scores - 0.03)})["passed"]
    assert not audit_scores(scores[:50], {"own": scores[:50]}, {})["passed"]
