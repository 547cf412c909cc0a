"""Approvals from the tab: read, released, promoted, marked; reading again changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kylo_outbox.flows.approvals import TakeApprovals
from kylo_outbox.model.approvals import Line
from kylo_outbox.model.rules import Rule
from kylo_outbox.store import company_state, proposals
from tests.helpers.rules import ingest, promote, rows, staged, undo

TEXTS = ("STARBUCKS", "Starbucks!", "Walmart", "Shell")


@pytest.fixture
def taker(control_db):
    """Reads tabs of this database's companies."""
    return TakeApprovals(control_db, lambda _company: control_db)


@pytest.fixture
def lines(control_db):
    """The tab of 710 with four open rows, nothing ticked."""
    slice_ = [staged("710", f"t{n}", text) for n, text in enumerate(TEXTS)]
    ingest(control_db, slice_)
    return [Line(n + 2, str(row.txn_uid), False) for n, row in enumerate(slice_)]


def ticked(line, header="Coffee", sheet="PETTY CASH"):
    """The line as somebody approved it."""
    return replace(line, approved=True, target_sheet=sheet, target_header=header)


def states(database):
    """(state, header) of every proposal, by number."""
    return rows(database, "select state, target_header from kylo.rules_proposals order by proposal")


def test_a_tick_becomes_a_rule_and_the_rows_are_marked(control_db, taker, lines):
    """Two rows of one source, one ticked: both are resolved and marked by the promotion; a second look is equal."""
    tab = [ticked(lines[0]), *lines[1:]]
    first = taker.take("710", tab)
    assert [(out.row, out.match_notes, out.rule_id, out.processed_at) for out in first] == [
        (n + 2, "", "", "") for n in range(4)
    ]
    assert taker.take("710", tab) == first
    assert states(control_db) == [("approved", "Coffee")]
    assert promote(control_db, "710").resolved == 2
    after = taker.take("710", tab)
    assert [out.rule_id for out in after] == [str(Rule("starbucks", "PETTY CASH", "Coffee").rule_id)] * 2 + [""] * 2
    assert [bool(out.processed_at) for out in after] == [True, True, False, False]
    assert [out.match_notes for out in after] == [""] * 4
    assert states(control_db) == [("promoted", "Coffee")]
    assert taker.take("710", tab) == after


def test_what_is_unticked_or_changed_is_released(control_db, taker, lines):
    """As long as it is not promoted; two rows that approve the same must both let go."""
    taker.take("710", [ticked(lines[0]), ticked(lines[1]), *lines[2:]])
    taker.take("710", [ticked(lines[0]), *lines[1:]])
    assert states(control_db) == [("approved", "Coffee")]
    taker.take("710", [ticked(lines[0], "Food"), *lines[1:]])
    assert states(control_db) == [("withdrawn", "Coffee"), ("approved", "Food")]
    taker.take("710", lines)
    assert states(control_db) == [("withdrawn", "Coffee"), ("withdrawn", "Food")]
    taker.take("710", [ticked(lines[0], "Food"), *lines[1:]])
    assert states(control_db)[2:] == [("approved", "Food")]


def test_a_conflict_in_the_tab_takes_neither_and_releases_what_was_taken(control_db, taker, lines):
    """The second opinion stops the first one, until somebody decides."""
    taker.take("710", [ticked(lines[0]), *lines[1:]])
    told = taker.take("710", [ticked(lines[0]), ticked(lines[1], "Food"), *lines[2:]])
    assert [out.match_notes for out in told[:2]] == [
        "Not taken: rows 2, 3 approve different targets for one source"
    ] * 2
    assert promote(control_db, "710").version == 0
    told = taker.take("710", [ticked(lines[0], "Food"), ticked(lines[1], "Food"), *lines[2:]])
    assert [out.match_notes for out in told] == [""] * 4
    assert promote(control_db, "710").resolved == 2


def test_a_conflict_with_somebody_elses_approval(control_db, taker, lines):
    """What was approved by API stays; the line is told which proposal stands in its way."""
    with control_db.transaction() as tx:
        company_state.lock(tx, ["710"])
        proposals.propose(tx, "710", [Rule("Walmart", "BALANCE", "Food")], "ann")
        proposals.approve(tx, "710", [1], "ann")
    told = taker.take("710", [*lines[:2], ticked(lines[2]), lines[3]])
    assert "proposal 1 for this source is approved with BALANCE / Food" in told[2].match_notes
    # The same rule from both sides is no conflict, and unticking does not take back what Ann approved.
    agreed = ticked(lines[2], "Food", "BALANCE")
    assert taker.take("710", [agreed])[0].match_notes == ""
    taker.take("710", [lines[2]])
    assert states(control_db) == [("approved", "Food")]


def test_an_undone_rule_waits_for_a_new_tick(control_db, taker, lines):
    """The tick that is still there approves nothing; unticked and ticked again it does."""
    tab = [ticked(lines[0]), *lines[1:]]
    taker.take("710", tab)
    promote(control_db, "710")
    undo(control_db, "710")
    told = taker.take("710", tab)
    assert "was undone; untick Approved and tick it again" in told[0].match_notes
    assert (told[0].rule_id, told[0].processed_at) == ("", "")
    assert promote(control_db, "710").version == 0
    taker.take("710", lines)
    assert taker.take("710", tab)[0].match_notes == ""
    assert promote(control_db, "710").resolved == 2


def test_rows_of_other_companies_and_faulty_lines_are_told(control_db, taker, lines):
    """A Row_Hash of 711 in the tab of 710 approves nothing for either; the other lines are taken."""
    ingest(control_db, [staged("711", "t9", "Foreign")])
    foreign = Line(9, str(staged("711", "t9", "Foreign").txn_uid), True, "A", "x")
    told = taker.take("710", [foreign, ticked(lines[3]), replace(lines[2], approved="yes")])
    assert "Row_Hash is not" in told[0].match_notes
    assert told[1].match_notes == ""
    assert "TRUE or FALSE" in told[2].match_notes
    assert states(control_db) == [("approved", "Coffee")]
    assert rows(control_db, "select distinct company_id from kylo.rules_proposals") == [("710",)]
    assert taker.take("710", []) == []


def test_targets_of_the_company_are_asked(control_db, taker, lines):
    """With a list of targets, what is not on it is told."""
    with control_db.transaction() as tx:
        tx.execute("insert into control.rule_targets (company_id, target_sheet) values ('710', 'BALANCE')")
    assert "known: 'BALANCE'" in taker.take("710", [ticked(lines[0])])[0].match_notes
    assert taker.take("710", [ticked(lines[0], sheet="BALANCE")])[0].match_notes == ""


def test_a_whole_tab_of_twenty_thousand_rows(control_db, taker):
    """Set-based: as many rows as a tab holds, a thousand of them ticked."""
    slice_ = [staged("710", f"t{n}", f"shop {n}") for n in range(20_000)]
    ingest(control_db, slice_)
    tab = [Line(n + 2, str(row.txn_uid), n < 1000, "A", "x") for n, row in enumerate(slice_)]
    assert {out.match_notes for out in taker.take("710", tab)} == {""}
    assert promote(control_db, "710").resolved == 1000
