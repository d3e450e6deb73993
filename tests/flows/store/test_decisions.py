from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.errors import BadRequest
from flows.store.decisions import (
    COLUMNS,
    Decision,
    Decisions,
    Named,
    Outcome,
    Regated,
    Rule,
    Ruled,
    as_decided,
    encode_decisions,
    parse_decision,
    read_decisions,
)
from flows.store.layout import Layout
from flows.store.record import flatten, make_record

KEY = "000000000139-000000230831-00"
OTHER = "000000000139-000000230832-00"

GOOD = {"clipping": 0.01, "hue_flip": 0.0, "effect_small": 400.0, "effect_large": 400.0, "unnatural": 0.45}


def record(*, reason: str | None = None, **changes: Any) -> dict[str, Any]:
    """Return the record of a sample as its gates left it: kept, or rejected for `reason`."""
    gates = dict(GOOD)
    value = limit = None
    if reason == "clipping":
        gates["clipping"] = value = 0.08
        limit = 0.05
    if reason == "unnatural":
        gates["unnatural"] = value = 0.2
        limit = 0.3
    values = {
        "key": KEY,
        "split": "train",
        "family": "mkl",
        "strength": 0.6,
        "foreground_mse": 400.0,
        "score": gates["unnatural"],
        "threshold": 0.3,
        "status": "rejected" if reason else "kept",
        "reason": reason,
        "value": value,
        "limit": limit,
        "gates": gates,
    }
    return make_record({**values, **changes})


def fate(of: dict[str, Any], *taken: Decision) -> tuple[str, str | None, str | None]:
    """Return status, reason, and who decided."""
    outcome = Decisions(taken).outcome(flatten(of))
    return outcome.status, outcome.reason, outcome.by


# One decision


@pytest.mark.parametrize("reason", [None, "clipping", "unnatural"])
def test_without_decisions_the_gates_decide(reason: str | None) -> None:
    """A record stays as it is where nobody decided anything."""
    assert as_decided(record(reason=reason), Decisions()) == record(reason=reason)


def test_a_readmitted_sample_is_kept_and_says_what_the_gates_had_said() -> None:
    """Reason, value and limit are null as in every kept sample; the gates' own stand in `decision`."""
    decided = as_decided(record(reason="clipping"), Decisions((Named(readmit=frozenset({KEY})),)))
    assert (decided["status"], decided["reason"], decided["value"], decided["limit"]) == ("kept", None, None, None)
    assert decided["decision"] == {"by": "readmit", "reason": "clipping", "value": 0.08, "limit": 0.05}


def test_a_banned_sample_is_rejected_as_banned() -> None:
    """A kept sample that is banned gets the reason `banned`, without value or limit."""
    decided = as_decided(record(), Decisions((Named(ban=frozenset({KEY})),)))
    assert (decided["status"], decided["reason"], decided["value"], decided["limit"]) == (
        "rejected",
        "banned",
        None,
        None,
    )
    assert decided["decision"] == {"by": "ban", "reason": None, "value": None, "limit": None}


def test_a_decision_that_agrees_with_the_gates_leaves_no_trace() -> None:
    """Banning what the gates rejected, or keeping what they kept, changes no byte of the record."""
    assert as_decided(record(reason="clipping"), Decisions((Named(ban=frozenset({KEY})),))) == record(reason="clipping")
    assert as_decided(record(), Decisions((Ruled("readmit", Rule(family=("mkl",))),))) == record()


def test_a_sample_without_pictures_cannot_be_brought_back() -> None:
    """Unreadable samples stay so, whatever is decided."""
    unreadable = make_record({"key": KEY, "family": "mkl", "status": "rejected", "reason": "unreadable"})
    decisions = Decisions((Regated("clipping", 1.0), Ruled("readmit", Rule()), Named(readmit=frozenset({KEY}))))
    assert as_decided(unreadable, decisions) == unreadable


# Rules


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        (Rule(), True),
        (Rule(family=("mkl", "idt")), True),
        (Rule(family=("idt",)), False),
        (Rule(split=("val",)), False),
        (Rule(min_score=0.45), True),
        (Rule(min_score=0.4501), False),
        (Rule(max_score=0.45), True),
        (Rule(max_score=0.44), False),
        (Rule(min_effect=400, max_effect=400), True),
        (Rule(min_effect=401), False),
        (Rule(max_strength=0.5), False),
        (Rule(family=("mkl",), split=("train",), min_score=0.4, max_strength=0.7), True),
        (Rule(family=("mkl",), split=("val",), min_score=0.4), False),
    ],
)
def test_a_rule_means_what_fits_all_of_it(rule: Rule, fits: bool) -> None:  # noqa: FBT001 - a table
    """Every given part must fit; bounds fit themselves."""
    assert fate(record(), Ruled("ban", rule)) == (("rejected", "banned", "ban") if fits else ("kept", None, None))


def test_a_bound_on_an_unknown_value_fits_nothing() -> None:
    """A sample without a score is meant by no rule about scores."""
    assert fate(record(score=None, threshold=None), Ruled("ban", Rule(max_score=1.0))) == ("kept", None, None)


def test_a_rule_about_reasons_means_those_after_other_limits() -> None:
    """`--reason unnatural` means what is unnatural at the limit in force, and nothing that another rule banned."""
    stricter = Regated("unnatural", 0.5)
    assert fate(record(), stricter, Ruled("readmit", Rule(reason=("unnatural",)))) == ("kept", None, None)
    assert fate(record(), Ruled("ban", Rule()), Ruled("readmit", Rule(reason=("unnatural",)))) == (
        "rejected",
        "banned",
        "ban",
    )


# Limits


def test_a_lower_threshold_lets_in_and_a_higher_one_keeps_out() -> None:
    """Where the score is at least the limit the sample is kept, as in a build."""
    assert fate(record(reason="unnatural"), Regated("unnatural", 0.2)) == ("kept", None, "regate")
    assert fate(record(reason="unnatural"), Regated("unnatural", 0.2001)) == ("rejected", "unnatural", "regate")
    assert fate(record(), Regated("unnatural", 0.45)) == ("kept", None, None)
    outcome = Decisions((Regated("unnatural", 0.46),)).outcome(flatten(record()))
    assert outcome == Outcome("unnatural", 0.45, 0.46, by="regate")


def test_another_limit_of_one_gate_leaves_the_others_in_force() -> None:
    """What passes the loosened gate must still pass the next ones."""
    clipped = record(reason="clipping")
    assert fate(clipped, Regated("clipping", 0.08)) == ("kept", None, "regate")
    clipped["gates"]["unnatural"] = clipped["score"] = 0.1
    assert fate(clipped, Regated("clipping", 0.08)) == ("rejected", "unnatural", "regate")


def test_the_build_s_own_limit_takes_another_back() -> None:
    """Of two limits of one gate the later holds; at the build's own nothing is left of the first."""
    for reason in (None, "unnatural"):
        decisions = Decisions((Regated("unnatural", 0.9), Regated("unnatural", 0.3)))
        assert as_decided(record(reason=reason), decisions) == record(reason=reason)


def test_a_gate_that_had_no_answer_stays_a_reason() -> None:
    """A sample that the realism gate could not score is not let in by a lower threshold."""
    blank = record(reason="unnatural", score=None, value=None)
    blank["gates"]["unnatural"] = None
    assert fate(blank, Regated("unnatural", 0.0))[:2] == ("rejected", "unnatural")


# Order


READMIT, BAN = Named(readmit=frozenset({KEY})), Named(ban=frozenset({KEY}))


@pytest.mark.parametrize(
    "taken",
    [
        (READMIT, Ruled("ban", Rule(family=("mkl",))), Regated("unnatural", 0.9)),
        (BAN, Ruled("readmit", Rule(family=("mkl",))), Regated("unnatural", 0.0)),
        (Named(ban=frozenset({OTHER})), READMIT, Ruled("ban", Rule(family=("idt",)))),
        (Regated("unnatural", 0.1), Regated("clipping", 0.5), Ruled("ban", Rule(reason=("clipping",)))),
        (Ruled("ban", Rule(split=("val",))), Ruled("readmit", Rule(split=("train",))), Regated("effect_small", 500.0)),
    ],
)
@pytest.mark.parametrize("reason", [None, "clipping", "unnatural"])
def test_decisions_that_do_not_contradict_each_other_have_no_order(
    taken: tuple[Decision, ...], reason: str | None
) -> None:
    """Limits, rules and lists go before one another by their kind; within a kind, what means other samples commutes."""
    results = [as_decided(record(reason=reason), Decisions(order)) for order in itertools.permutations(taken)]
    assert all(result == results[0] for result in results)


def test_a_name_goes_before_a_rule_and_the_later_of_a_kind_before_the_earlier() -> None:
    """Who was named stays, whatever fits a rule; contradictions within a kind are won by the later."""
    everything = Ruled("ban", Rule())
    assert fate(record(), Named(readmit=frozenset({KEY})), everything) == ("kept", None, None)
    assert fate(record(), everything, Ruled("readmit", Rule())) == ("kept", None, None)
    assert fate(record(), READMIT, BAN) == ("rejected", "banned", "ban")
    assert fate(record(), BAN, READMIT) == ("kept", None, None)


NUMBERS = st.floats(0, 1)
DECISION = st.one_of(
    st.builds(
        Ruled,
        st.sampled_from(["readmit", "ban"]),
        st.builds(Rule, min_score=NUMBERS | st.none(), max_strength=NUMBERS | st.none()),
    ),
    st.builds(Regated, st.sampled_from(["unnatural", "clipping", "hue_flip"]), NUMBERS),
    st.sampled_from([READMIT, BAN, Named(ban=frozenset({OTHER}))]),
)
TAKEN = st.lists(DECISION, max_size=5).map(tuple)


@given(st.sampled_from([None, "clipping", "unnatural"]), TAKEN, TAKEN)
def test_what_was_decided_before_does_not_matter(
    reason: str | None, before: tuple[Decision, ...], after: tuple[Decision, ...]
) -> None:
    """A record decided twice is the record decided by the last alone; undone it is the gates' own again."""
    original = record(reason=reason)
    decided = as_decided(original, Decisions(before))
    assert as_decided(decided, Decisions(after)) == as_decided(original, Decisions(after))
    assert as_decided(decided, Decisions()) == original


@given(TAKEN)
def test_decisions_are_read_back_as_they_were_written(taken: tuple[Decision, ...]) -> None:
    """JSON and back is the identity."""
    value = json.loads(encode_decisions(Decisions(taken)))
    assert tuple(parse_decision(each) for each in value["decisions"]) == taken


# The file


def test_no_file_is_no_decision(tmp_path: Path) -> None:
    """A run that nobody decided about has no file, and no decisions."""
    assert not read_decisions(Layout(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"version": 2, "decisions": []}',
        b'{"version": 1}',
        b'{"version": 1, "decisions": [1]}',
        b'{"version": 1, "decisions": [{"action": "list", "readmit": "all", "ban": []}]}',
        b'{"version": 1, "decisions": [{"action": "list", "readmit": ["../x"], "ban": []}]}',
        b'{"version": 1, "decisions": [{"action": "regate", "gate": "x", "limit": 1}]}',
        b'{"version": 1, "decisions": [{"action": "regate", "gate": "unnatural", "limit": NaN}]}',
        b'{"version": 1, "decisions": [{"action": "ban", "rule": {"colour": "red"}}]}',
        b'{"version": 1, "decisions": [{"action": "ban", "rule": {"min_score": true}}]}',
        b"\xff" * 40,
        b"[" * 100_000,
    ],
    ids=lambda content: content[:60].decode("latin-1"),
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    """Whatever stands in the file, reading it ends in decisions or in one line that names it."""
    layout = Layout(tmp_path)
    layout.decisions.write_bytes(content)
    with pytest.raises(BadRequest, match=r"decisions\.json is damaged .* hcoco repair restores it"):
        read_decisions(layout)


def test_the_columns_are_those_of_a_record() -> None:
    """Everything that a fate follows from stands in the index."""
    assert set(COLUMNS) <= flatten(make_record({})).keys()
