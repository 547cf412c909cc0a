"""The Pending tab through the official client and the stand-in: each row once, whatever was answered."""

from __future__ import annotations

import json
import urllib.request
from typing import Any
from uuid import uuid4

import pytest

from kylo_outbox import Event, Transient
from kylo_outbox.flows.post_sheet import AnnounceUnposted, Posting, PostSheet
from kylo_outbox.model.companies import new_company
from kylo_outbox.model.errors import UnknownOutcome
from kylo_outbox.sheets.gateway import GoogleSheets
from kylo_outbox.sheets.standin import background
from kylo_outbox.store import sheet_posts
from tests.helpers.rules import promote, undo
from tests.helpers.tabs import CONFIG

BOOK = "book"
TITLE = "710 Pending"


@pytest.fixture
def standin(tmp_path):
    """A stand-in of this test's own; its address."""
    with background.running(tmp_path) as url:
        yield url.rstrip("/")


@pytest.fixture
def poster(control_db, standin):
    """A poster of company 710 through the official client."""
    gateway = GoogleSheets(standin, timeout=5.0)
    company = new_company("710", BOOK)
    yield PostSheet(
        topics=("pending.ready",),
        company_of=lambda company_id: company if company_id == "710" else None,
        posting=Posting(
            control=control_db, store_of=lambda _company: control_db, gateway=gateway, pause=lambda _seconds: None
        ),
    )
    gateway.close()


def add_open(database, count, company="710"):
    """Leave some transactions open."""
    with database.transaction() as tx:
        for _ in range(count):
            tx.execute(
                "insert into kylo.pending_txns (company_id, txn_uid, first_seen_batch, last_seen_batch, occurred_at, "
                "description, description_norm, amount_cents) values (%s, %s, 1, 1, '2025-08-26', 'SHOP', 'shop', 1)",
                (company, uuid4()),
            )


def ready(company="710"):
    """The event that says so."""
    return Event(topic="pending.ready", key=company, type="PENDING_READY", payload={})


def hashes(standin):
    """Column A of the tab, without its header."""
    with urllib.request.urlopen(f"{standin}/_standin/sheets/{BOOK}.json") as answer:
        tabs = json.load(answer)["tabs"]
    return [row[0] for tab in tabs if tab["title"] == TITLE for row in tab["values"][1:]]


def posts(database):
    """(state, rows) of every post, in order."""
    with database.transaction() as tx:
        return tx.execute("select state, row_count from control.sheet_posts order by id").fetchall()


def fail(standin, mode, when):
    """Tell the stand-in to fail the next change."""
    body = json.dumps({"mode": mode, "when": when, "count": 1, "method": "batchUpdate"}).encode()
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{standin}/_standin/faults", body, headers)):
        pass


def test_many_events_of_a_company_are_one_post(control_db, poster, standin):
    """Three announcements and five rows make one batchUpdate; a repeat makes none."""
    add_open(control_db, 5)
    poster.perform([ready(), ready(), ready()])
    poster.perform([ready()])
    assert len(set(hashes(standin))) == 5
    assert posts(control_db) == [("posted", 5)]


@pytest.mark.parametrize(
    ("mode", "when"), [("close", "after"), ("503", "after"), ("close", "before"), ("503", "before")]
)
def test_an_unknown_outcome_is_looked_up_before_anything_is_sent_again(control_db, poster, standin, mode, when):
    """After a dropped connection or a 503 the marker decides; each row stands in the tab once."""
    add_open(control_db, 3)
    fail(standin, mode, when)
    with pytest.raises(UnknownOutcome):
        poster.perform([ready()])
    assert posts(control_db) == [("unknown", 3)]
    add_open(control_db, 2)
    poster.perform([ready()])
    assert len(hashes(standin)) == len(set(hashes(standin))) == 5
    assert posts(control_db) == [("posted", 3), ("posted", 2)]


def test_a_refused_quota_leaves_no_trace_and_is_tried_again(control_db, poster, standin):
    """429 took no effect: nothing is recorded, and the same rows go out later."""
    add_open(control_db, 3)
    fail(standin, "429", "before")
    with pytest.raises(Transient):
        poster.perform([ready()])
    assert posts(control_db) == []
    poster.perform([ready()])
    assert len(hashes(standin)) == 3


def test_a_poster_killed_between_call_and_confirmation_does_not_post_twice(control_db, poster, standin, monkeypatch):
    """The claim of the dead poster is found, its marker answers, and the post is confirmed."""

    class KilledError(BaseException):
        """kill -9 leaves no exception handler behind."""

    def die(*_args):
        raise KilledError

    add_open(control_db, 3)
    with monkeypatch.context() as killed:
        killed.setattr(poster._posting._sender, "_confirm", die)
        with pytest.raises(KilledError):
            poster.perform([ready()])
    assert posts(control_db) == [("sending", 3)]
    poster.perform([ready()])
    assert len(hashes(standin)) == 3
    assert posts(control_db) == [("posted", 3)]


def test_a_poster_killed_before_the_call_posts_afterwards(control_db, poster, standin, monkeypatch):
    """A claim without its marker in the workbook is sent again exactly as it was claimed."""

    class KilledError(BaseException):
        """kill -9 leaves no exception handler behind."""

    def die(*_args):
        raise KilledError

    add_open(control_db, 3)
    with monkeypatch.context() as killed:
        killed.setattr(poster._posting.looker.gateway, "batch_update", die)
        with pytest.raises(KilledError):
            poster.perform([ready()])
    add_open(control_db, 1)
    poster.perform([ready()])
    assert len(set(hashes(standin))) == len(hashes(standin)) == 4
    assert posts(control_db) == [("posted", 3), ("posted", 1)]


def test_two_posters_of_one_tab_do_not_interleave(control_db, poster):
    """While one claim of a tab is open, a second one is refused by the table itself."""
    values: dict[str, Any] = {"company_id": "710", "tab": TITLE, "spreadsheet_id": BOOK, "row_hashes": ["a"], "upto": 1}
    with control_db.transaction() as tx:
        sheet_posts.claim(tx, ordinal=1, signature="one", **values)
    with pytest.raises(Transient, match="another poster"), control_db.transaction() as tx:
        sheet_posts.claim(tx, ordinal=1, signature="two", **values)


def test_shadow_mode_calls_nobody_and_records_nothing(control_db, standin):
    """Without a gateway nothing is posted; afterwards the unposted tabs are announced on the road."""
    shadow = PostSheet(topics=(), company_of=lambda _company: None, posting=None)
    add_open(control_db, 2)
    shadow.perform([ready()])
    assert posts(control_db) == []
    announce = AnnounceUnposted(control=control_db, stores=lambda: [(control_db, ["710", "711"])])
    assert announce.run_once() == ["710"]
    with control_db.transaction() as tx:
        assert tx.execute("select topic, key, type from outbox").fetchall() == [("tabs.changed", "710", "TABS_CHANGED")]


def test_rules_promoted_in_shadow_mode_are_announced_too(control_db, poster):
    """Without one open row: the Active tab lacks a version, and once it is posted nothing is announced."""
    company = new_company("710", BOOK)
    with control_db.transaction() as tx:
        tx.execute(CONFIG, ("710", BOOK, company.tab_pending, company.tab_active))
    promote(control_db, "710", ("shop", "PETTY CASH", "Food"))
    announce = AnnounceUnposted(control=control_db, stores=lambda: [(control_db, ["710"])])
    assert announce.run_once() == ["710"]
    poster.perform([ready()])
    assert announce.run_once() == []
    undo(control_db, "710")
    assert announce.run_once() == ["710"]
    poster.perform([ready()])
    assert announce.run_once() == []


def test_what_was_posted_is_not_announced(control_db, poster):
    """A tab that is complete is left alone."""
    add_open(control_db, 2)
    poster.perform([ready()])
    announce = AnnounceUnposted(control=control_db, stores=lambda: [(control_db, ["710"])])
    assert announce.run_once() == []
