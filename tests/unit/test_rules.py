"""Rules as values: what is accepted, which one wins, and that no order of steps matters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kylo_outbox.model.errors import Refused
from kylo_outbox.model.normalise import normalise
from kylo_outbox.model.rules import Rule, additions, parse_rules, replay, rules_in_force, target_fault, triage

ROW = {"source": "STARBUCKS", "target_sheet": "PETTY CASH", "target_header": "Coffee"}
SOURCES = st.sampled_from(["Starbucks", "STARBUCKS!", "Walmart", "Shell", "Café", "Metro 7"])
RULES = st.builds(Rule, SOURCES, st.sampled_from(["PETTY CASH", "BALANCE"]), st.sampled_from(["Coffee", "Fuel"]))
TEXTS = st.text(alphabet="abcABC éÉ*#-_.1", min_size=1, max_size=12)


def test_the_last_duplicate_source_wins():
    """Two rules for one source, however it is written: the later one holds."""
    rules = [Rule("Starbucks", "A", "x"), Rule("Shell", "B", "y"), Rule("STARBUCKS!", "C", "z")]
    found = rules_in_force(rules)
    assert found["starbucks"].target_sheet == "C"
    assert len(found) == 2


def test_a_rule_is_known_by_its_meaning():
    """How the source is written does not make another rule; where it points to does."""
    rule = Rule("Starbucks*1234", "A", "x", "note")
    assert rule.rule_id == Rule(" STARBUCKS 1234 ", "A", "x").rule_id
    assert rule.rule_id != Rule("Starbucks*1234", "A", "y").rule_id
    # Joined fields must have one reading.
    assert Rule("a", "b", "c d").rule_id != Rule("a", "b c", "d").rule_id


@given(st.lists(RULES), st.lists(RULES))
def test_a_promotion_never_loses_a_rule(former, approved):
    """Every source that had a rule has one afterwards; approved rules hold; the same again adds nothing."""
    before = rules_in_force(former)
    added = additions({norm: rule.rule_id for norm, rule in before.items()}, approved)
    after = rules_in_force([*former, *added])
    assert before.keys() <= after.keys()
    assert all(after[norm] == rule for norm, rule in before.items() if norm not in rules_in_force(added))
    once = list(rules_in_force(approved).values())
    added = additions({norm: rule.rule_id for norm, rule in before.items()}, once)
    after = rules_in_force([*former, *added])
    assert all(after[rule.source_norm].rule_id == rule.rule_id for rule in once)
    assert additions({norm: rule.rule_id for norm, rule in after.items()}, once) == []


@given(st.dictionaries(st.integers(), TEXTS), st.lists(RULES))
def test_triage_splits_and_replay_resolves_exactly_what_matches(texts, rules):
    """Each transaction is matched or unmatched; a second replay finds nothing; no rules match nothing."""
    norms = {txn: normalise(text) for txn, text in texts.items()}
    holding = rules_in_force(rules)
    matched, unmatched = triage(norms, holding)
    assert matched.keys() | unmatched == norms.keys()
    assert not matched.keys() & unmatched
    assert all(rule.source_norm == norms[txn] for txn, rule in matched.items())
    assert replay({txn: norms[txn] for txn in unmatched}, holding) == {}
    assert triage(norms, {}) == ({}, set(norms))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ingest"), st.dictionaries(st.integers(0, 20), SOURCES, max_size=4)),
        st.tuples(st.just("promote"), st.lists(RULES, max_size=3)),
        st.tuples(st.just("replay"), st.none()),
    ),
    max_size=12,
)


@given(STEPS, st.randoms(use_true_random=False))
def test_every_order_of_ingest_promotion_and_replay_leaves_the_same_open(steps, dice):
    """Open in the end is what no rule matches, in whichever order things came; nothing that matches stays pending."""

    def run(order):
        # A rule set needs no order among its sources here: the same promotions in the same order, or sources differ.
        texts: dict[int, str] = {}
        open_items: set[int] = set()
        rules: list[Rule] = []
        for kind, what in order:
            if kind == "ingest":
                new = {txn: normalise(text) for txn, text in what.items() if txn not in texts}
                texts.update(new)
                open_items |= triage(new, rules_in_force(rules))[1]
            else:
                rules += what or []
                waiting = {txn: texts[txn] for txn in open_items}
                open_items -= replay(waiting, rules_in_force(rules)).keys()
        assert not replay({txn: texts[txn] for txn in open_items}, rules_in_force(rules))
        return open_items

    # One id names one transaction: the same text wherever it comes again.
    texts: dict[int, str] = {}
    steps = [
        (kind, {txn: texts.setdefault(txn, text) for txn, text in what.items()} if kind == "ingest" else what)
        for kind, what in steps
    ]
    shuffled = list(steps)
    dice.shuffle(shuffled)
    assert run(steps) == run(shuffled)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"source": ""}, r"proposals\[0\].source: must be a text of 1 to 50,000"),
        ({"source": "***"}, "source: has no letter and no digit"),
        ({"source": "a\x00"}, "source: control characters"),
        ({"target_sheet": None}, "target_sheet: must be a text of 1 to 100"),
        ({"target_header": "x" * 101}, "target_header: must be a text"),
        ({"target_header": "a\nb"}, "target_header: control characters"),
        ({"match_notes": 7}, "match_notes: must be a text"),
        ({"approved": True}, "approved: unknown field"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_path(change, fault):
    """Each fault names its place and what is accepted."""
    with pytest.raises(Refused, match=fault):
        parse_rules([{**ROW, **change}])


@pytest.mark.parametrize("rows", [None, [], {}, "x", [ROW] * 10_001, [7]])
def test_what_is_no_list_of_rules_is_refused(rows):
    """A body of another form, nothing at all, and too much."""
    with pytest.raises(Refused, match="proposals"):
        parse_rules(rows)


def test_targets_that_are_known():
    """Without a list everything is a target; with one, what is not on it is told with what is."""
    known = {("PETTY CASH", ""), ("BALANCE", "Fuel")}
    assert target_fault("X", "y", ()) is None
    assert target_fault("PETTY CASH", "anything", known) is None
    assert target_fault("BALANCE", "Fuel", known) is None
    assert "known: 'BALANCE', 'PETTY CASH'" in str(target_fault("PETY CASH", "x", known))
    assert "known: 'Fuel'" in str(target_fault("BALANCE", "x", known))
    with pytest.raises(Refused, match=r"proposals\[0\].target: unknown Target_Sheet 'PETTY CASH'"):
        parse_rules([ROW], {("BALANCE", "")})
