"""Lines of the Pending tab: what approves a rule, and what everything else is told."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kylo_outbox.model.approvals import NOTE, Line, is_own_note, judge, uid_of
from kylo_outbox.model.rules import Rule

UIDS = [UUID(int=n) for n in range(4)]
SOURCES = dict(zip(UIDS, ["STARBUCKS", "starbucks!", "Walmart", "***"], strict=True))


def line(number=0, approved=True, sheet="PETTY CASH", header="Coffee", row=None, row_hash=None):
    """A filled-in line of one of the four transactions."""
    return Line(
        number + 2 if row is None else row, str(UIDS[number]) if row_hash is None else row_hash, approved, sheet, header
    )


def test_a_ticked_line_with_targets_is_a_rule():
    """The source is the description that Row_Hash names; blanks around targets do not count."""
    found = judge([line(sheet=" PETTY CASH "), line(2, "TRUE")], SOURCES, frozenset())
    assert found.rules == {0: Rule("STARBUCKS", "PETTY CASH", "Coffee"), 1: Rule("Walmart", "PETTY CASH", "Coffee")}
    assert found.faults == {}


@pytest.mark.parametrize("approved", [False, None, "", "FALSE"])
def test_what_is_not_ticked_is_left_alone(approved):
    """Neither a rule nor a fault, whatever else stands in the line."""
    found = judge([line(approved=approved, sheet="", row_hash="somebody's own row")], SOURCES, frozenset())
    assert (found.rules, found.faults) == ({}, {})


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"approved": "yes"}, "Approved must be TRUE or FALSE, not 'yes'"),
        ({"approved": "true"}, "TRUE or FALSE, not 'true'"),
        ({"approved": 1.0}, "TRUE or FALSE, not '1.0'"),
        ({"approved": "x" * 5000}, "..."),
        ({"row_hash": ""}, "Row_Hash is not"),
        ({"row_hash": str(UUID(int=99))}, "Row_Hash is not that of an open transaction of this company"),
        ({"sheet": " "}, "Target_Sheet must be filled in"),
        ({"sheet": "", "header": ""}, "Target_Sheet and Target_Header must be filled in"),
        ({"sheet": "PETY CASH"}, "unknown Target_Sheet 'PETY CASH'; known: 'PETTY CASH'"),
        ({"header": "a\nb"}, "target_header: control characters"),
        ({"number": 3}, "source: has no letter and no digit"),
    ],
)
def test_a_faulty_line_gets_its_reason(changed, fault):
    """One line's fault is its own; the line beside it is taken."""
    found = judge([line(**changed), line(2)], SOURCES, frozenset({("PETTY CASH", "")}))
    assert list(found.rules) == [1]
    assert fault in found.faults[0]
    assert len(found.faults[0]) < 300


def test_two_targets_for_one_source_take_neither():
    """Both are told which rows contradict each other; the same target twice is no conflict."""
    found = judge([line(0), line(1, header="Food"), line(2)], SOURCES, frozenset())
    assert list(found.rules) == [2]
    assert found.faults[0] == found.faults[1] == "rows 2, 3 approve different targets for one source"
    assert judge([line(0), line(1)], SOURCES, frozenset()).faults == {}


ANYTHING = st.none() | st.booleans() | st.text(max_size=8) | st.floats()
LINES = st.lists(
    st.builds(
        Line,
        st.integers(2, 9),
        st.sampled_from([str(uid) for uid in UIDS]) | st.text(max_size=8),
        ANYTHING,
        st.text(max_size=8),
        st.text(max_size=8),
    ),
    max_size=6,
)


@given(LINES)
def test_no_line_breaks_the_reader(lines):
    """Every line is a rule, a fault or left alone; what is a rule is strictly TRUE and complete."""
    found = judge(lines, SOURCES, frozenset())
    assert not found.rules.keys() & found.faults.keys()
    for index, rule in found.rules.items():
        assert lines[index].approved is True or lines[index].approved == "TRUE"
        assert uid_of(lines[index].row_hash) in SOURCES
        assert rule.source_norm
    for index in range(len(lines)):
        if lines[index].approved in {False, None, "", "FALSE"} and index in found.faults:
            assert lines[index].approved == 0


def test_own_notes_are_known():
    """What people wrote is never taken for ours."""
    assert is_own_note(NOTE + "because")
    assert not is_own_note("ask Ann")
