"""Pair every subject with a reference person of another photograph of the same split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flows.coco.select import SPLITS, Screened, Split, split_of


@dataclass(frozen=True)
class Pair:
    """One planned edit: rows of the subject and its reference in the tables of the selection."""

    split: Split
    variant: int
    target: Screened
    subject_row: int
    reference: Screened
    reference_row: int


def pair_subjects(screened: Iterable[Screened], *, variants: int, seed: int) -> Iterator[Pair]:
    """Yield the planned edits in their order; look at no more photographs than the edits taken need.

    The photographs of a split form a ring in the seeded order. Variant k takes its reference k + 1 places further on
    in the ring: a derangement over images (Sattolo's cycle and its powers), another one for each k. All edits of
    variant 0 come first, then those of variant 1, and so on, so that more samples, or more variants, only ever
    append. Neighbours in the order share photographs, which is why a worker decodes most of them once.

    Where a split holds n photographs, variants from n - 1 on find no other photograph and yield nothing.

    Args:
        screened: Photographs in the seeded order; those without subjects are passed over.
        variants: Edits per subject.
        seed: Of the choice among several people in a reference photograph.
    """
    rings: dict[Split, list[Screened]] = {split: [] for split in SPLITS}
    arrived: list[tuple[Split, int]] = []
    for photograph in screened:
        if photograph.reason is not None or not photograph.subjects:
            continue
        split = split_of(photograph.image_id)
        ring = rings[split]
        ring.append(photograph)
        arrived.append((split, len(ring) - 1))
        if len(ring) > 1:
            yield from _pairs(split, 0, ring[-2], ring[-1], seed=seed)
    for split, ring in rings.items():
        if len(ring) > 1:
            yield from _pairs(split, 0, ring[-1], ring[0], seed=seed)
    for variant in range(1, variants):
        for split, place in arrived:
            ring = rings[split]
            if variant + 1 < len(ring):
                yield from _pairs(split, variant, ring[place], ring[(place + variant + 1) % len(ring)], seed=seed)


def _pairs(split: Split, variant: int, target: Screened, reference: Screened, *, seed: int) -> Iterator[Pair]:
    people = reference.subjects
    for row in target.subjects:
        text = f"{seed}:reference:{target.image_id}:{row - target.people_rows[0]}:{variant}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        chosen = people[int.from_bytes(digest, "big") % len(people)]
        yield Pair(split, variant, target, row, reference, chosen)
