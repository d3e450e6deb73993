from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flows.coco.pair import Pair, pair_subjects
from flows.coco.select import SPLITS, Screened, split_of

Edit = tuple[int, int, int, int, int]


def photograph(
    image_id: int, *, row: int = 0, people: int = 1, dropped: Sequence[int] = (), reason: str | None = None
) -> Screened:
    """Return a photograph after its screening; `dropped` are the places of people that cannot be subjects."""
    rows = tuple(range(10 * row, 10 * row + people))
    why = tuple("pixels" if place in dropped else None for place in range(people))
    return Screened(image_id, row, rows, reason, why, 0)


def described(pairs: Iterator[Pair], count: int | None = None) -> list[Edit]:
    """Say what a pair edits by image ids and places of the people, without table rows."""
    return [
        (
            pair.target.image_id,
            pair.subject_row - pair.target.people_rows[0],
            pair.variant,
            pair.reference.image_id,
            pair.reference_row - pair.reference.people_rows[0],
        )
        for pair in islice(pairs, count)
    ]


photographs = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([None, None, None, "greyscale"]), st.sets(st.integers(0, 3), max_size=3)),
    max_size=40,
    unique_by=lambda drawn: drawn[0],
).map(
    lambda drawn: [
        photograph(image_id, row=row, people=people, dropped=sorted(dropped), reason=reason)
        for row, (image_id, people, reason, dropped) in enumerate(drawn)
    ]
)  # fmt: skip
variants = st.integers(1, 6)
seeds = st.integers(0, 2**63 - 1)


def usable(given_photographs: Sequence[Screened]) -> dict[str, list[Screened]]:
    """Return the photographs that take part, by split, in their order."""
    rings: dict[str, list[Screened]] = {split: [] for split in SPLITS}
    for each in given_photographs:
        if each.reason is None and each.subjects:
            rings[split_of(each.image_id)].append(each)
    return rings


@given(photographs, variants, seeds)
@settings(max_examples=150, deadline=None)
def test_nobody_is_its_own_reference(screened: list[Screened], count: int, seed: int) -> None:
    """Target and reference are two photographs of one split, and both people can be subjects."""
    for pair in pair_subjects(screened, variants=count, seed=seed):
        assert pair.target.image_id != pair.reference.image_id
        assert split_of(pair.target.image_id) == split_of(pair.reference.image_id) == pair.split
        assert pair.subject_row in pair.target.subjects
        assert pair.reference_row in pair.reference.subjects
        assert pair.target.reason is None
        assert pair.reference.reason is None


@given(photographs, variants, seeds)
@settings(max_examples=100, deadline=None)
def test_every_subject_is_edited_once_a_variant(screened: list[Screened], count: int, seed: int) -> None:
    """Variant k holds every subject of each split of more than k + 1 photographs, once; smaller splits give nothing."""
    expected = {
        (ring_photograph.image_id, row, variant)
        for ring in usable(screened).values()
        for ring_photograph in ring
        for row in ring_photograph.subjects
        for variant in range(count)
        if variant + 1 < len(ring)
    }
    made = [(p.target.image_id, p.subject_row, p.variant) for p in pair_subjects(screened, variants=count, seed=seed)]
    assert len(made) == len(set(made))
    assert set(made) == expected


@given(photographs, variants, seeds)
@settings(max_examples=100, deadline=None)
def test_each_variant_is_a_derangement_of_its_own(screened: list[Screened], count: int, seed: int) -> None:
    """Within a variant every photograph lends to exactly one other, and no variant repeats another's reference."""
    references: dict[tuple[int, int], set[int]] = {}
    for pair in pair_subjects(screened, variants=count, seed=seed):
        references.setdefault((pair.target.image_id, pair.variant), set()).add(pair.reference.image_id)
    assert all(len(lenders) == 1 for lenders in references.values())
    by_variant: dict[tuple[str, int], list[int]] = {}
    by_target: dict[int, list[int]] = {}
    for (target, variant), (lender,) in references.items():
        by_variant.setdefault((split_of(target), variant), []).append(lender)
        by_target.setdefault(target, []).append(lender)
    assert all(len(lenders) == len(set(lenders)) for lenders in [*by_variant.values(), *by_target.values()])


@given(photographs, st.integers(1, 5), st.integers(1, 3), st.integers(0, 60), seeds)
@settings(max_examples=150, deadline=None)
def test_more_samples_and_more_variants_only_append(
    screened: list[Screened], count: int, more: int, samples: int, seed: int
) -> None:
    """What was planned with fewer is the beginning of what is planned with more."""
    few = described(pair_subjects(screened, variants=count, seed=seed))
    many = described(pair_subjects(screened, variants=count + more, seed=seed))
    assert many[: len(few)] == few
    assert described(pair_subjects(screened, variants=count, seed=seed), samples) == few[:samples]


@given(photographs, seeds, st.integers(1, 1000))
@settings(max_examples=50, deadline=None)
def test_table_rows_do_not_matter(screened: list[Screened], seed: int, shift: int) -> None:
    """The same photographs in longer tables are paired alike: rows are places, not identities."""
    moved = [
        Screened(each.image_id, each.image_row + shift, tuple(row + 7 * shift for row in each.people_rows), each.reason, each.dropped, 0)
        for each in screened
    ]  # fmt: skip
    assert described(pair_subjects(moved, variants=2, seed=seed)) == described(
        pair_subjects(screened, variants=2, seed=seed)
    )


def of_split(split: str, count: int) -> list[int]:
    """Return the first so many image ids of a split."""
    return list(islice((image_id for image_id in range(1, 100_000) if split_of(image_id) == split), count))


def test_few_samples_look_at_few_photographs() -> None:
    """Ten samples of ten thousand photographs look at eleven of them."""
    looked_at = []

    def walk() -> Iterator[Screened]:
        for row, image_id in enumerate(of_split("train", 10_000)):
            looked_at.append(image_id)
            yield photograph(image_id, row=row)

    assert len(list(islice(pair_subjects(walk(), variants=5, seed=0), 10))) == 10
    assert len(looked_at) == 11


def test_the_order_by_hand() -> None:
    """Three photographs: each takes the next, the last the first; variant 1 goes two on; then all is said."""
    a, b, c = of_split("train", 3)
    screened = [photograph(image_id, row=row) for row, image_id in enumerate((a, b, c))]
    made = [(pair.target.image_id, pair.reference.image_id) for pair in pair_subjects(screened, variants=9, seed=1)]
    assert made == [(a, b), (b, c), (c, a), (a, c), (b, a), (c, b)]


def test_one_photograph_has_no_partner() -> None:
    """A split with a single photograph yields nothing, however many variants are asked for."""
    lonely = [photograph(of_split(split, 1)[0], row=row) for row, split in enumerate(SPLITS)]
    assert not list(pair_subjects(lonely, variants=100, seed=0))
    assert not list(pair_subjects([], variants=100, seed=0))


def test_two_photographs_have_one_variant() -> None:
    """Each is the other's only reference, so further variants yield nothing."""
    pair = [photograph(image_id, row=row, people=2) for row, image_id in enumerate(of_split("val", 2))]
    assert len(list(pair_subjects(pair, variants=50, seed=0))) == 4


def test_neighbours_share_photographs() -> None:
    """In a walk through one split, the reference of each photograph is the next target: it is decoded once."""
    screened = [photograph(image_id, row=row) for row, image_id in enumerate(of_split("train", 50))]
    made = list(islice(pair_subjects(screened, variants=1, seed=0), 49))
    assert all(here.reference.image_id == there.target.image_id for here, there in pairwise(made))


@given(seeds, seeds)
@settings(max_examples=20, deadline=None)
def test_another_seed_chooses_other_people(one: int, other: int) -> None:
    """Among several people of the reference the seed chooses, and the choice is spread over all of them."""
    assume(one != other)
    screened = [photograph(image_id, row=row, people=4) for row, image_id in enumerate(of_split("train", 60))]
    first, second = (described(pair_subjects(screened, variants=1, seed=seed)) for seed in (one, other))
    assert first != second
    assert {edit[4] for edit in first} == {0, 1, 2, 3}
