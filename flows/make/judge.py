"""Decide which samples are kept. The closed-form gates come first; a learned one has its place behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from augment import judge_gates


@dataclass(frozen=True)
class Verdict:
    """Why a sample is dropped, with the value that was compared and its limit; all None where it is kept.

    Attributes:
        score: P(natural) of the realism network, 0..1; None where no network looked.
        threshold: A sample is kept where score >= threshold; None where no network looked.
        seen_by_gate: Whether the network learnt from the target; None where no network looked.
    """

    reason: str | None = None
    value: float | None = None
    limit: float | None = None
    score: float | None = None
    threshold: float | None = None
    seen_by_gate: bool | None = None

    @property
    def kept(self) -> bool:
        """Say whether the sample goes into the shards."""
        return self.reason is None


def judge(gates: Mapping[str, float | None]) -> Verdict:
    """Judge one sample by the closed-form gates, in their order.

    Whole shards are judged at once by the caller, after all their samples are made: that is where a realism network
    will score them in batches (`gate`), before any tar is written.
    """
    failed = judge_gates(gates)
    return Verdict() if failed is None else Verdict(*failed)
