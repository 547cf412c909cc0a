"""A company whose events wait too long for Kafka is asked to wait; the others, and paused ones, are not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from kylo_outbox import emit
from kylo_outbox.flows.ingest import Ingest
from kylo_outbox.model.errors import Overloaded
from kylo_outbox.model.transactions import parse_request
from kylo_outbox.store import backpressure, pauses
from kylo_outbox.store.backpressure import Backpressure
from kylo_outbox.store.engine import Database

TOPIC = "txns.company.batches"
LIMIT = 100.0
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def companies_db(control_db):
    """A database with companies 710 and 711."""
    with control_db.transaction() as tx:
        for company in ("710", "711"):
            tx.execute(
                "insert into control.company_config values (%s, 'env:PG_DSN_RW', 'app_' || %s, 'S', %s || ' P', 'A')",
                (company, company, company),
            )
    return control_db


def announced(database, company, ago, topic=TOPIC):
    """An event of a company, emitted some seconds ago."""
    with database.transaction() as tx:
        emit(tx, topic=topic, key=company, type="TXNS_BATCH", payload={})
        tx.execute(
            "update kylo.outbox_log set created_at = clock_timestamp() - make_interval(secs => %s) "
            "where id = (select max(id) from kylo.outbox_log)",
            (ago,),
        )


def published(database, upto):
    """The relay's cursor behind everything up to an id."""
    with database.transaction() as tx:
        tx.execute("update kylo.lanes set high_water = %s, snapshot = pg_current_snapshot()", (upto,))


def late(database, *companies):
    """Asked by a process that has just started."""
    return Backpressure(database, TOPIC, LIMIT).late(companies or ("710", "711"))


def request(company, number=1):
    """A request with one transaction of each company."""
    row = {"id": f"t{number}", "date": "2025-08-26", "amount": "1", "description": "x"}
    return parse_request([{**row, "company_id": each} for each in company])


def test_only_the_company_that_waits_is_late(companies_db):
    """Young events, published ones and events of other topics make nobody late."""
    announced(companies_db, "710", 150)
    announced(companies_db, "711", 150, topic="other")
    announced(companies_db, "711", 50)
    assert late(companies_db) == ["710"]
    published(companies_db, 1)
    assert late(companies_db) == []


def test_what_was_late_is_so_until_it_is_published(companies_db, monkeypatch):
    """One process over time: the outage grows, the cursor passes the old event, a held one counts as well."""
    monkeypatch.setattr(backpressure, "FRESH", 0.0)
    asked = Backpressure(companies_db, TOPIC, LIMIT)
    announced(companies_db, "710", 50)
    assert asked.late(["710", "711"]) == []
    with companies_db.transaction() as tx:
        tx.execute("update kylo.outbox_log set created_at = created_at - interval '60 seconds'")
    assert asked.late(["710", "711"]) == ["710"]
    announced(companies_db, "711", 101)
    assert asked.late(["710", "711"]) == ["710", "711"]
    published(companies_db, 1)
    assert asked.late(["710", "711"]) == ["711"]
    with companies_db.transaction() as tx:
        tx.execute(
            "insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, reason) "
            "select id, event_id, created_at, slot, topic, key, type, payload, 'refused' from kylo.outbox_log"
        )
    published(companies_db, 2)
    assert asked.late(["710", "711"]) == ["710", "711"]


def test_a_backlog_is_read_once_in_bounded_pieces(companies_db, monkeypatch):
    """Whatever lies ahead of the cursor, each old event is read once and a look reads no more than its pieces."""
    monkeypatch.setattr(backpressure, "FRESH", 0.0)
    monkeypatch.setattr(backpressure, "_PIECE", 100)
    monkeypatch.setattr(backpressure, "_BUDGET", 0.0)
    with companies_db.transaction() as tx:
        tx.execute(
            "insert into kylo.outbox_log (xid, event_id, created_at, slot, topic, key, type, payload) "
            "select pg_current_xact_id(), gen_random_uuid(), now() - interval '1 hour', "
            "       kylo.slot_of(%(t)s, k), %(t)s, k, 'T', '{}' "
            "  from generate_series(1, 250) n, convert_to('c' || n, 'UTF8') k",
            {"t": TOPIC},
        )
    asked = Backpressure(companies_db, TOPIC, LIMIT)
    # With no time at all nothing is read, and nobody is refused by a guess.
    assert asked.late(["c1"]) == []
    monkeypatch.setattr(backpressure, "_BUDGET", 60.0)
    assert asked.late(["c1", "c250", "c251"]) == ["c1", "c250"]
    assert asked._read_upto == 250
    published(companies_db, 240)
    assert asked.late(["c1", "c250"]) == ["c250"]
    assert len(asked._old) == 10


def test_a_side_lane_has_a_cursor_of_its_own(companies_db):
    """A company whose slot is relayed apart is late by its own cursor, the others by that of their lane."""
    announced(companies_db, "710", 150)
    announced(companies_db, "711", 150)
    with companies_db.transaction() as tx:
        slot = tx.execute("select kylo.slot_of(%s, '710')", (TOPIC,)).fetchone()[0]
        tx.execute(
            "insert into kylo.lanes (lane, slot_from, slot_to, parent) values (%s, %s, %s, 0)",
            (1024 + slot, slot, slot + 1),
        )
        tx.execute("update kylo.lanes set except_slots = array[%s::smallint], high_water = 2 where lane = 0", (slot,))
    assert late(companies_db) == ["710"]


def test_a_paused_company_is_not_refused(companies_db):
    """Its events are old on purpose; pausing loses and refuses nothing, by company, by key and by topic."""
    for company in ("710", "711", "712"):
        announced(companies_db, company, 150)
    with companies_db.transaction() as tx:
        tx.execute("update control.company_config set paused = true where company_id = '710'")
        pauses.pause(tx, TOPIC, "711", reason="", who="me")
    assert late(companies_db, "710", "711", "712") == ["712"]
    with companies_db.transaction() as tx:
        pauses.pause(tx, TOPIC, None, reason="", who="me")
    assert late(companies_db, "710", "711", "712") == []


def test_ingest_refuses_whole_and_answers_repeats(companies_db):
    """A body with a late company stores nothing; a body that is stored already gets its first answer."""
    with_limit = Ingest(companies_db, TOPIC, Backpressure(companies_db, TOPIC, LIMIT))
    first = with_limit.accept(request(["710"]), source="test")
    with companies_db.transaction() as tx:
        tx.execute("update kylo.outbox_log set created_at = now() - interval '1 hour'")
    fresh = Ingest(companies_db, TOPIC, Backpressure(companies_db, TOPIC, LIMIT))
    with pytest.raises(Overloaded, match="'710'"):
        fresh.accept(request(["710", "711"], 2), source="test")
    assert fresh.accept(request(["710"]), source="test") == first
    fresh.accept(request(["711"], 3), source="test")
    with companies_db.transaction() as tx:
        assert tx.execute("select count(*) from intake.transactions").fetchone() == (2,)


def test_an_outage_of_postgresql_is_not_backpressure():
    """Nobody is refused for what cannot be known; the ingest itself tells of the outage."""
    away = Database("postgresql://u@127.0.0.1:1/gone", name="gone")
    asked = Backpressure(away, TOPIC, LIMIT)
    assert asked.late(["710"]) == []
    began = time.monotonic()
    assert asked.late(["710"]) == []
    assert time.monotonic() - began < 0.5, "it was asked again at once"
    away.close()


@pytest.fixture
def server(companies_db, tmp_path):
    """The API as a process, with a limit of two seconds; its address."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = int(asked.getsockname()[1])
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("KYLO_", "KAFKA_", "PG"))}
    environ |= {"PG_DSN_RW": companies_db.dsn, "KYLO_BACKPRESSURE_AGE": "2s", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-m", "kylo_outbox", "serve", "--port", str(port)], env=environ, cwd=tmp_path
    )
    address = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 60
    while True:
        assert process.poll() is None
        assert time.monotonic() < until
        try:
            if httpx.get(f"{address}/readyz").status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait(30)


def test_the_http_door_answers_429_after_the_limit_and_not_before(server, companies_db):
    """No relay runs: requests are taken until the oldest event is two seconds old, then 429 for that company alone."""

    def post(company, number):
        row = {"id": f"t{number}", "company_id": company, "date": "2025-08-26", "amount": 1, "description": "x"}
        return httpx.post(f"{server}/v1/transactions", content=json.dumps([row]), timeout=30)

    began = time.monotonic()
    assert post("710", 1).status_code == 202
    number = 1
    while (answer := post("710", (number := number + 1))).status_code == 202:
        assert time.monotonic() - began < 60
        time.sleep(0.1)
    assert time.monotonic() - began > 1.5
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert "'710'" in answer.json()["errors"][0]
    assert post("711", 1).status_code == 202
    with companies_db.transaction() as tx:
        stored = tx.execute("select count(*) from intake.transactions where company_id = '710'").fetchone()
    assert stored == (number - 1,)
    hook = httpx.post(
        f"{server}/webhook/txns.ingest",
        json={
            "transactions": [
                {"id": "w", "company_id": "710", "date": "2025-08-26", "amount": 1, "description": "x"},
                {"id": "w", "company_id": "711", "date": "2025-08-26", "amount": 1, "description": "x"},
            ]
        },
    )
    assert hook.status_code == 429
    published(companies_db, 10_000)
    until = time.monotonic() + 30
    while post("710", "last").status_code != 202:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert 'kylo_ingest_refused_total{reason="backpressure"}' in httpx.get(f"{server}/metrics").text
