"""Many companies in one workbook: one batch, one bad company alone, and never two posters at once."""

from __future__ import annotations

from uuid import uuid4

import pytest

from kylo_outbox import Transient
from kylo_outbox.model.errors import UnknownOutcome
from kylo_outbox.sheets.standin import background
from kylo_outbox.store import workbook_lock
from tests.helpers import tabs
from tests.helpers.tabs import BOOK

COMPANIES = [f"c{number:02d}" for number in range(20)]


@pytest.fixture
def office(control_db, tmp_path):
    """Twenty companies in one workbook."""
    with background.running(tmp_path) as url:
        yield from tabs.office(control_db, url, COMPANIES)


def test_twenty_companies_ride_one_batch(office):
    """Twenty companies with rows cost one write; the next turn, with nothing to do, costs none."""
    ids = {company: office.leave_open(3, company) for company in COMPANIES}
    office.post()
    assert office.standin.writes() == 1
    assert {company: office.standin.hashes(f"{company} Pending") for company in COMPANIES} == ids
    assert office.rows("select count(*), count(distinct ordinal) from control.sheet_posts") == [(20, 1)]
    reads = office.standin.reads()
    office.post()
    assert office.standin.writes() == 1
    assert office.standin.reads() - reads == 2


def test_one_bad_company_is_set_aside_and_the_rest_goes_through(office, monkeypatch):
    """Google refuses what one company's tab asks for: the others' rows arrive, and its own wait with a remedy."""
    for company in COMPANIES:
        office.leave_open(2, company)
    send = office.gateway.batch_update

    def refuse(spreadsheet_id, requests):
        # What only Google can know: the stand-in is asked for something that it refuses in this company's place.
        bad = [
            {"deleteSheet": {"sheetId": 999_999}} if f"{COMPANIES[7]} Pending" in str(request) else request
            for request in requests
        ]
        return send(spreadsheet_id, bad)

    with monkeypatch.context() as patched:
        patched.setattr(office.gateway, "batch_update", refuse)
        office.post()
    assert office.standin.writes() == 3
    assert set(office.aside()) == {COMPANIES[7]}
    reason, remedy = office.aside()[COMPANIES[7]]
    assert "No grid with id" in reason
    assert f"sheets post {COMPANIES[7]}" in remedy
    posted = {company for (company,) in office.rows("select company_id from control.sheet_posts")}
    assert posted == set(COMPANIES) - {COMPANIES[7]}
    office.post()
    assert office.aside() == {}
    assert all(len(office.standin.hashes(f"{company} Pending")) == 2 for company in COMPANIES)


def test_a_refusal_that_names_nobody_is_found_by_halving(office, monkeypatch):
    """Without Google's hint the bad company is found in a logarithm of writes."""
    for company in COMPANIES:
        office.leave_open(1, company)
    send = office.gateway.batch_update

    def refuse(spreadsheet_id, requests):
        if any(f"{COMPANIES[3]} Pending" in str(request) for request in requests):
            return send(spreadsheet_id, [])
        return send(spreadsheet_id, requests)

    with monkeypatch.context() as patched:
        patched.setattr(office.gateway, "batch_update", refuse)
        office.post()
    assert set(office.aside()) == {COMPANIES[3]}
    assert office.standin.writes() <= 11
    assert sum(len(office.standin.hashes(f"{c} Pending")) for c in COMPANIES if c != COMPANIES[3]) == 19


def test_an_unknown_outcome_of_a_merged_batch_is_settled_for_all(office):
    """A batch that was applied without an answer: every company's marker is found, nothing is sent again."""
    for company in COMPANIES:
        office.leave_open(2, company)
    office.standin.fail("close", "after")
    with pytest.raises(UnknownOutcome):
        office.post()
    assert office.rows("select distinct state from control.sheet_posts") == [("unknown",)]
    office.post()
    assert office.standin.writes() == 1
    assert office.rows("select state, count(*) from control.sheet_posts group by 1") == [("posted", 20)]
    assert all(len(office.standin.hashes(f"{company} Pending")) == 2 for company in COMPANIES)


def test_what_is_too_large_for_one_batch_goes_in_several_and_the_small_ones_first(office, monkeypatch):
    """One company with much to post never delays the others: they are in the first batch."""
    sizes: list[tuple[int, int]] = []
    send = office.gateway.batch_update

    def watch(spreadsheet_id, requests):
        sizes.append((len(str(requests)), sum("addSheet" in request for request in requests)))
        return send(spreadsheet_id, requests)

    office.leave_open(4_000, COMPANIES[0], "x" * 600)
    for company in COMPANIES[1:]:
        office.leave_open(1, company)
    monkeypatch.setattr(office.gateway, "batch_update", watch)
    office.post()
    assert sizes[0][1] == 19
    assert max(size for size, _ in sizes) < 2_100_000
    assert len(set(office.standin.hashes(f"{COMPANIES[0]} Pending"))) == 4_000


def test_two_posters_on_one_workbook_do_not_interleave(office, control_db):
    """While one poster is at a workbook, another one waits, for every company in it; it goes on afterwards."""
    for company in COMPANIES[:2]:
        office.leave_open(1, company)
    with workbook_lock.held(control_db, BOOK), pytest.raises(Transient, match="another poster"):
        office.post(COMPANIES[1])
    assert office.standin.writes() == 0
    office.post()
    assert office.standin.writes() == 1


def test_a_poster_that_lost_its_lock_sends_nothing(office, control_db, monkeypatch):
    """A process that slept until its connection was closed finds that out before it writes."""
    office.leave_open(1, COMPANIES[0])
    look = office.posting.looker.look

    def sleep(*args, **kwargs):
        with control_db.transaction() as tx:
            tx.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name like 'kylo-outbox workbook%' and datname = current_database()"
            )
        return look(*args, **kwargs)

    monkeypatch.setattr(office.posting.looker, "look", sleep)
    with pytest.raises(Transient, match="lock on it is lost"):
        office.post(COMPANIES[0])
    assert office.standin.writes() == 0
    assert office.rows("select count(*) from control.sheet_posts") == [(0,)]


def test_another_workbook_is_not_held_up(office):
    """A workbook that cannot be reached holds up nobody in another one."""
    office.add_company("far", "elsewhere")
    office.ids.append("far")
    office.standin.ask("_standin/sharing/elsewhere", {"shared": False}, "PUT")
    office.leave_open(1, "far")
    office.leave_open(1, COMPANIES[0])
    office.post("far", COMPANIES[0])
    assert len(office.standin.hashes(f"{COMPANIES[0]} Pending")) == 1
    reason, remedy = office.aside()["far"]
    assert "elsewhere may not be used" in reason
    assert "Share it with" in remedy
    office.standin.ask("_standin/sharing/elsewhere", {"shared": True}, "PUT")
    office.post("far")
    assert office.aside() == {}
    assert len(office.standin.hashes("far Pending", "elsewhere")) == 1


def test_the_limit_of_a_workbook_is_told_before_anything_is_sent(office):
    """Rows that would take the workbook over ten million cells set their company aside with the limit in words."""
    office.standin.people({"addSheet": {"properties": {"gridProperties": {"rowCount": 9_970, "columnCount": 1_000}}}})
    office.leave_open(1, COMPANIES[0])
    office.leave_open(3_000, COMPANIES[1])
    office.post(COMPANIES[0], COMPANIES[1])
    assert set(office.aside()) == {COMPANIES[1]}
    reason, remedy = office.aside()[COMPANIES[1]]
    assert "10,000,000 cells" in reason
    assert office.standin.writes() == 1
    assert f"company set {COMPANIES[1]} --spreadsheet" in remedy
    assert len(office.standin.hashes(f"{COMPANIES[0]} Pending")) == 1


def test_a_batch_that_is_tried_again_asks_google_for_the_unfinished_part_only(office, monkeypatch):
    """One workbook could not be posted: the next try leaves the one alone that was, and so spares the quota."""
    office.add_company("far", "elsewhere")
    office.ids.append("far")
    for company in ("far", COMPANIES[0]):
        office.leave_open(1, company)
    events = [tabs.ready(company, uuid4()) for company in (COMPANIES[0], "far")]
    asked = []
    list_tabs = office.gateway.tabs

    def watch(spreadsheet_id):
        asked.append(spreadsheet_id)
        return list_tabs(spreadsheet_id)

    monkeypatch.setattr(office.gateway, "tabs", watch)
    with workbook_lock.held(office.database, "elsewhere"), pytest.raises(Transient, match="another poster"):
        office.poster.perform(events)
    office.poster.perform(events)
    assert asked == [BOOK, "elsewhere"]
    assert len(office.standin.hashes("far Pending", "elsewhere")) == 1


def test_a_long_turn_gives_its_worker_back_and_goes_on(office, monkeypatch):
    """More rows than one turn may take: the watchdog sees the worker, and nothing is lost or doubled."""
    monkeypatch.setattr("kylo_outbox.flows.post_sheet.posting.TURN_SECONDS", 0.0)
    monkeypatch.setattr("kylo_outbox.sheets.planner.MAX_ROWS", 10)
    ids = office.leave_open(25, COMPANIES[0])
    for _ in range(2):
        with pytest.raises(Transient, match="more rows follow"):
            office.post(COMPANIES[0])
    office.post(COMPANIES[0])
    assert office.standin.hashes(f"{COMPANIES[0]} Pending") == ids
