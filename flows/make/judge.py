"""Decide which samples are kept: the closed-form gates first, the realism gate last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from augment import judge_gates


@dataclass(frozen=True)
class Opinion:
    """What the realism gate says of one sample.

    Attributes:
        score: P(natural), 0..1; None where the network has no answer: the mask is empty or covers the whole picture.
        threshold: A sample is kept where score >= threshold.
        seen_by_gate: Whether the network learnt from the target's photograph.
    """

    score: float | None
    threshold: float
    seen_by_gate: bool

    @property
    def natural(self) -> bool:
        """Say whether the sample may be kept; one without a score may not."""
        return self.score is not None and self.score >= self.threshold


@dataclass(frozen=True)
class Verdict:
    """Why a sample is dropped, with the value that was compared and its limit; all None where it is kept.

    Attributes:
        opinion: Of the realism gate; None where none looked.
    """

    reason: str | None = None
    value: float | None = None
    limit: float | None = None
    opinion: Opinion | None = None

    @property
    def kept(self) -> bool:
        """Say whether the sample goes into the shards."""
        return self.reason is None


def judge(gates: Mapping[str, float | None], opinion: Opinion | None = None) -> Verdict:
    """Judge one sample by the closed-form gates, in their order, and where all of them pass by the realism gate."""
    failed = judge_gates(gates)
    if failed is not None:
        return Verdict(*failed, opinion)
    if opinion is not None and not opinion.natural:
        return Verdict("unnatural", opinion.score, opinion.threshold, opinion)
    return Verdict(opinion=opinion)
