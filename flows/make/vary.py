"""Vary a batch of triplets, as a function of seed and number: mirror some, cut windows out of some, relight them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from realism.harmonizers.apply import shrink
from realism.harmonizers.batch import Pixels, Triplets

SUBJECT_KEPT: Final = 0.5
"""Share of a subject's area that a window holds at least."""
SUBJECT_SHARE: Final = 0.5
"""Share of a window that its subject covers at most, if it covers no more of the whole: without surroundings there is nothing
to go by."""
WHOLE: Final = 0.5
"""Share of the triplets that are taken whole: at test all are."""
_TRIES: Final = 10


def mirror(batch: Triplets, *, seed: Sequence[int]) -> Triplets:
    """Return the batch with every other triplet, on average, mirrored left to right."""
    turned = np.random.default_rng(seed).random(len(batch)) < 0.5
    layers = (
        np.where(turned.reshape(-1, *[1] * (layer.ndim - 1)), layer[:, :, ::-1], layer)
        for layer in vars(batch).values()
    )
    return Triplets(*layers)


def cut_windows(batch: Triplets, *, side: int, smallest: float, seed: Sequence[int]) -> Triplets:
    """Return a window of every other triplet, on average, and the others whole, scaled to `side` by area.

    A window's share of the sides and its place are drawn, again where it holds less than `SUBJECT_KEPT` of the subject or
    more of it than `SUBJECT_SHARE`; after ten draws the whole is taken.

    Args:
        batch: Of squares of at least `side / smallest` pixels, so that nothing is enlarged.
        side: Pixels, either way, of what is returned.
        smallest: Share of the sides that a window has at least, above 0, up to 1.
        seed: Of all draws.
    """
    rng = np.random.default_rng(seed)
    pieces = []
    for layers in zip(batch.composite, batch.mask, batch.real, strict=True):
        place = _window(layers[1], rng, smallest=smallest)
        pieces.append([shrink(layer[place], (side, side)) for layer in layers])
    return Triplets(*(np.stack(layer) for layer in zip(*pieces, strict=True)))


def jitter(batch: Triplets, *, amount: float, seed: Sequence[int]) -> Triplets:
    """Return the batch in other light: each triplet's composite and photograph by one gamma and one gain a channel.

    What belongs together still does, and the colours of a photograph cannot be learnt by heart. Gammas are e to the power of
    -amount to amount, gains of half that; both are drawn.
    """
    rng = np.random.default_rng(seed)
    gammas = np.exp(rng.uniform(-amount, amount, (len(batch), 1, 1)))
    gains = np.exp(rng.uniform(-amount / 2, amount / 2, (len(batch), 1, 3)))
    levels = np.linspace(0, 1, 256)[:, None] ** gammas * gains  # (N, 256, 3)
    tables = np.clip(np.rint(255 * levels), 0, 255).astype(np.uint8)
    channels = np.arange(3)

    def relit(pictures: Pixels) -> Pixels:
        return np.stack([table[picture, channels] for table, picture in zip(tables, pictures, strict=True)])

    return Triplets(relit(batch.composite), batch.mask, relit(batch.real))


def _window(mask: Pixels, rng: np.random.Generator, *, smallest: float) -> tuple[slice, slice]:
    """Draw rows and columns."""
    side = mask.shape[0]
    subject = np.count_nonzero(mask > 127)
    most = max(SUBJECT_SHARE, subject / side**2)
    for _ in range(0 if rng.random() < WHOLE else _TRIES):
        size = round(side * rng.uniform(smallest, 1.0))
        top, left = (int(place) for place in rng.integers(0, side - size, size=2, endpoint=True))
        place = slice(top, top + size), slice(left, left + size)
        if SUBJECT_KEPT * subject <= np.count_nonzero(mask[place] > 127) <= most * size**2:
            return place
    return slice(side), slice(side)
