"""The old Kylo's known faults as far as companies, triage and rules go: each one with a test of its own.

Faults 1 (lost records), 2-4 (doubled, missing and refused posts) and 11 (killing processes by name) have theirs in
`test_old_faults_tabs.py`. The number in a name is that of the list that the project keeps.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

import kylo_outbox
from kylo_outbox.flows.companies import Companies
from kylo_outbox.flows.ingest import Ingest
from kylo_outbox.flows.rules import Rules
from kylo_outbox.model.companies import new_company
from kylo_outbox.model.errors import Poison, Transient
from kylo_outbox.model.events import Event
from kylo_outbox.model.rules import Rule
from kylo_outbox.model.topics import declared
from kylo_outbox.model.transactions import amount_cents, parse_request
from kylo_outbox.settings import load
from kylo_outbox.wiring import parts
from kylo_outbox.wiring.projectors import named
from tests.helpers.rules import ingest, open_items, promote, rows, sorted_items, staged

SECRET = "hunter2-canary"
TXNS = "txns.company.batches"


@pytest.fixture
def built(control_db, monkeypatch):
    """The wired product on the test's database, with companies 710 and 711."""
    dsn = control_db.dsn + ("&" if "?" in control_db.dsn else "?") + f"application_name={SECRET}"
    Companies(control_db, {"PG_DSN_RW": control_db.dsn}, declared(TXNS, "rules.promote.requests")).add(
        new_company("710", "book")
    )
    with control_db.transaction() as tx:
        tx.execute(
            "insert into control.company_config values ('711', %s, 'app_711', 'book', '711 Pending', '711 Active')",
            (dsn,),
        )
    made = parts.build(load({"PG_DSN_RW": control_db.dsn}))
    yield made
    made.close()


@pytest.fixture
def triage(control_db, built):
    """Apply every announced slice, as often as asked."""
    projector = named(built, "txns")

    def run():
        found = rows(control_db, "select key, payload, event_id from outbox where topic = %s order by id", TXNS)
        with control_db.transaction() as tx:
            projector.apply(
                tx,
                [
                    Event(topic=TXNS, key=key, type="TXNS_BATCH", raw=raw.encode(), event_id=uid)
                    for key, raw, uid in found
                ],
            )

    return run


def post(control_db, *texts, companies=("710", "711"), start=1):
    """Post the same descriptions for each company."""
    body = [
        {"id": f"t{n}", "company_id": company, "date": "2025-08-26", "amount": "19.99", "description": text}
        for company in companies
        for n, text in enumerate(texts, start)
    ]
    return Ingest(control_db, TXNS).accept(parse_request(body), source="test")


def announced(control_db):
    """(company, unmatched) of every announcement of open items."""
    found = rows(control_db, "select payload from outbox where topic = 'pending.ready' order by id")
    return sorted((json.loads(raw)["company_id"], json.loads(raw)["unmatched"]) for (raw,) in found)


def test_fault_5_rows_of_other_companies_leak_in_a_shared_database(control_db, triage):
    """One database, one batch, two companies: neither sees the other's rows, rules or announcements."""
    promote(control_db, "710", ("Starbucks", "A", "x"))
    post(control_db, "STARBUCKS")
    triage()
    assert announced(control_db) == [("711", 1)]
    assert open_items(control_db, "710") == set()
    assert len(sorted_items(control_db, "710")) == 1
    assert sorted_items(control_db, "711") == {}


def test_fault_6_a_repeated_triage_announces_again_and_misses_changed_content(control_db, triage, built):
    """The same slices triaged three times are announced once; a slice whose content changed is refused."""
    post(control_db, "STARBUCKS", "x")
    for _ in range(3):
        triage()
    assert announced(control_db) == [("710", 2), ("711", 2)]
    # As many rows as before, but others: a signature made of counts would not see it.
    with control_db.transaction() as tx:
        tx.execute("update intake.transactions set content_digest = '\\x00' where company_id = '710' and txn_id = 't1'")
    with pytest.raises(Poison, match="is not the one that was announced"):
        triage()


def test_fault_7_figures_are_written_after_the_last_commit_and_never_stored(control_db, triage, built, monkeypatch):
    """What a triage and a promotion came to is stored with their effect, or neither is."""
    post(control_db, "STARBUCKS")

    def fail(*_):
        raise Transient("killed before the commit")

    with monkeypatch.context() as broken, pytest.raises(Transient):
        broken.setattr("kylo_outbox.flows.triage.emit_many", fail)
        triage()
    figures = "select company_id, matched, unmatched from kylo.triage_runs order by 1"
    assert rows(control_db, figures) == []
    assert rows(control_db, "select count(*) from kylo.transactions") == [(0,)]
    triage()
    assert rows(control_db, figures) == [("710", 0, 1), ("711", 0, 1)]
    promote(control_db, "710", ("Starbucks", "A", "x"))
    assert rows(control_db, "select version, resolved from kylo.promotions") == [(1, 1)]


def test_fault_8_a_promotion_replaces_the_active_set(control_db):
    """Promoting one rule leaves the hundred before it active; promoting nothing leaves them all."""
    promote(control_db, "710", *[(f"shop {n}", "A", "x") for n in range(100)])
    promote(control_db, "710", ("one more", "A", "x"))
    promote(control_db, "710")
    assert rows(control_db, "select count(*) from app.rules_active where company_id = '710'") == [(101,)]
    # One canonical form: the database's own text of a rule plays no part in its identity.
    stored = rows(control_db, "select source, target_sheet, target_header, rule_id from kylo.rules_active")
    assert all(Rule(*row[:3]).rule_id == row[3] for row in stored)


def test_fault_9_money_in_floats_two_normalisers_and_rules_that_never_meet(control_db, triage):
    """Cents are exact; what a rule says and what a bank writes meet in one normaliser, over every door."""
    assert [amount_cents(text) for text in ("19.99", "1.15", Decimal("-0.29"))] == [1999, 115, -29]
    promote(control_db, "710", ("Starbucks*1234", "A", "x"))
    post(control_db, "STARBUCKS 1234", companies=("710",))
    ingest(control_db, [staged("710", "other", "starbucks--1234!", 9)])
    triage()
    assert open_items(control_db, "710") == set()
    assert len(sorted_items(control_db, "710")) == 2
    assert rows(control_db, "select amount_cents from kylo.transactions where txn_id = 't1'") == [(1999,)]
    sources = "\n".join(path.read_text() for path in Path(kylo_outbox.__file__).parent.rglob("*.py"))
    assert len(re.findall(r"^def normalise\(", sources, re.MULTILINE)) == 1


def test_fault_10_a_connection_string_travels_in_messages(control_db, triage, built):
    """No message of either flow names a database, a schema or a workbook: they are looked up by the company's id."""
    promote(control_db, "710", ("one", "A", "x"))
    post(control_db, "STARBUCKS")
    triage()
    flow = Rules(control_db, "rules.promote.requests", built.directory.company, built.directory.database_of)
    flow.request_all("test")
    flow.undo("710", "test")
    messages = rows(control_db, "select topic, payload, headers::text from outbox")
    assert {topic for topic, *_ in messages} == {TXNS, "rules.promote.requests", "pending.ready", "tabs.changed"}
    for _, payload, headers in messages:
        for part in (SECRET, "postgres", "127.0.0.1", "book", "app_711", "env:"):
            assert part not in payload + headers
