"""The HTTP door as callers meet it: answers, refusals, guards, and no request that makes it fall."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kylo_outbox.flows.ingest import Ingest
from kylo_outbox.flows.overview import Overview
from kylo_outbox.flows.trace import Trace
from kylo_outbox.model.errors import NotReady
from kylo_outbox.store.engine import Database
from kylo_outbox.web.app import Access, Collaborators, build_app
from kylo_outbox.web.limits import Limits
from kylo_outbox.web.signature import sign

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

BASE = "http://127.0.0.1:8080"
SECRET = "a plain webhook secret"
READER, OPERATOR = "reader-token-0123456789", "operator-token-0123456789"
RUNBOOK = {
    "transactions": [
        {"id": "t1", "company_id": "710", "date": "2025-08-26", "amount": -12.34, "description": "STARBUCKS"},
        {"id": "t2", "company_id": "711", "date": "2025-08-26", "amount": 45.67, "description": "WALMART"},
        {"id": "t3", "company_id": "710", "date": "2025-08-26", "amount": 10.00, "description": "UNKNOWN"},
    ]
}


class Door:
    """A client of the whole application, with everything that guards it."""

    def __init__(self, database: Database, **changes: Any) -> None:
        self.ready: list[Callable[[], object]] = [lambda: None]
        self.overview = Overview(database, lambda: [database])
        parts = Collaborators(
            ingest=Ingest(database, "txns.company.batches"),
            trace=Trace(database, lambda _: database),
            overview=self.overview,
            checks={"postgresql": self._check},
            own_samples=list,
        )
        self.app: FastAPI = build_app(parts, **changes)

    def _check(self) -> None:
        self.ready[0]()

    def __call__(self, method: str, path: str, **sent: Any) -> httpx.Response:
        """Send one request and check what every answer must have."""

        async def story() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=BASE) as client:
                return await client.request(method, path, **sent)

        answer = asyncio.run(story())
        assert answer.headers["x-content-type-options"] == "nosniff"
        if answer.status_code >= 400 and answer.status_code != 503:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == answer.status_code
        return answer


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


@pytest.fixture
def door(companies_db):
    """The door on loopback, without tokens."""
    made = Door(companies_db)
    yield made
    made.overview.close()


def test_the_runbooks_payload_is_answered_as_ever(door):
    """Kylo's webhook answers with the number of companies, the first time and at each repeat."""
    for _ in range(2):
        answer = door("POST", "/webhook/txns.ingest", json=RUNBOOK)
        assert (answer.status_code, answer.json()) == (200, {"ok": True, "items_published": 2})


def test_the_api_answers_for_each_transaction(door):
    """202 with the batch, its slices, its items, and where to follow it; a repeat is answered alike."""
    first = door("POST", "/v1/transactions", json=RUNBOOK["transactions"], headers={"Idempotency-Key": "k1"})
    assert first.status_code == 202
    body = first.json()
    assert set(body) == {"batch_id", "ingest_batch_id", "companies", "items"}
    assert [(part["company_id"], part["rows"]) for part in body["companies"]] == [("710", 2), ("711", 1)]
    assert body["items"][0] == {"id": "t1", "company_id": "710", "result": "accepted"}
    assert door("POST", "/v1/transactions", json=RUNBOOK, headers={"Idempotency-Key": "k1"}).json() == body
    page = door("GET", first.headers["location"]).json()
    assert page["batch_id"] == body["batch_id"]
    assert [stage["stage"] for stage in page["companies"][0]["stages"]] == ["saved"]
    assert door("POST", "/v1/transactions", json=[], headers={"Idempotency-Key": "k1"}).status_code == 409


def test_every_format_makes_the_same_batch(door):
    """JSON, NDJSON and CSV of the same content are the same request."""
    rows = RUNBOOK["transactions"]
    ndjson = "\n".join(json.dumps(row) for row in rows)
    csv = "id,company_id,date,amount,description\n" + "".join(
        f"{row['id']},{row['company_id']},{row['date']},{row['amount']:.2f},{row['description']}\n" for row in rows
    )
    batches = {
        door("POST", "/v1/transactions", content=content, headers={"content-type": kind}).json()["batch_id"]
        for kind, content in (
            ("application/json", json.dumps(RUNBOOK)),
            ("application/x-ndjson", ndjson),
            ("text/csv", csv),
        )
    }
    assert len(batches) == 1


def test_one_bad_row_among_good_ones_stores_nothing(door, companies_db):
    """422 lists every fault with its path."""
    rows = [*RUNBOOK["transactions"], {"id": "", "company_id": "710", "date": "x", "amount": 1.005}]
    answer = door("POST", "/webhook/txns.ingest", json={"transactions": rows})
    assert answer.status_code == 422
    assert [fault.split(":")[0] for fault in answer.json()["errors"]] == [
        f"transactions[3].{field}" for field in ("id", "date", "amount", "description")
    ]
    with companies_db.transaction() as tx:
        assert tx.execute("select count(*) from intake.transactions").fetchone() == (0,)


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        ({"content": b"{"}, 400, "broken JSON"),
        ({"content": b""}, 400, "broken JSON"),
        ({"content": b"\xff"}, 400, "UTF-8"),
        ({"content": b"[" * 50_000}, 400, "nested"),
        ({"data": {"a": "b"}}, 415, "Content-Type"),
        ({"content": b"[]", "headers": {"content-encoding": "gzip"}}, 415, "Content-Encoding"),
        ({"json": {"rows": []}}, 422, "transactions: missing"),
        ({"json": [RUNBOOK["transactions"][0] | {"company_id": "999"}]}, 422, "kylo-outbox company add 999"),
        ({"json": [RUNBOOK["transactions"][0] | {"currency": "EUR"}]}, 422, "transactions[0].currency: unknown field"),
        ({"json": [], "headers": {"idempotency-key": "x" * 201}}, 422, "Idempotency-Key"),
        ({"json": [], "headers": [("idempotency-key", "a"), ("idempotency-key", "b")]}, 422, "more than once"),
    ],
)
def test_bad_input_is_answered_with_what_is_wrong(door, sent, status, says):
    """Each kind of bad input has its status and its words."""
    answer = door("POST", "/v1/transactions", **sent)
    assert (answer.status_code, says in answer.text) == (status, True)


def test_other_content_under_a_known_id_is_a_conflict(door):
    """409 names the transaction."""
    door("POST", "/webhook/txns.ingest", json=RUNBOOK)
    answer = door("POST", "/v1/transactions", json=[RUNBOOK["transactions"][0] | {"amount": 1}])
    assert answer.status_code == 409
    assert answer.json()["errors"][0].startswith("transactions[0].id: 't1' of company '710'")


def test_a_body_over_the_limit_is_refused_before_it_is_read_whole(companies_db):
    """413, with and without a declared length."""
    door = Door(companies_db, limits=Limits(body=1000))

    async def endless() -> Any:
        for number in range(1000):
            assert number < 50
            yield b" " * 100

    assert door("POST", "/v1/transactions", content=b" " * 1001).status_code == 413
    assert door("POST", "/v1/transactions", content=endless()).status_code == 413
    door.overview.close()


def test_unknown_paths_and_methods_are_problems_too(door):
    """404 and 405 look like every other refusal."""
    assert door("GET", "/nowhere").status_code == 404
    assert door("GET", "/v1/batches/not-an-id").status_code == 404
    assert door("GET", "/v1/batches/01a1fc56-a14b-7176-a1d5-15208df580ec").status_code == 404
    answer = door("DELETE", "/v1/transactions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_tokens_guard_everything_but_the_probes(companies_db):
    """Readers read, operators do everything, the rest is 401; the webhook without secrets needs a token too."""
    tokens = [f"prom:reader:{READER}", OPERATOR]
    door = Door(companies_db, access=Access(host="0.0.0.0", tokens=tokens))
    for path in ("/livez", "/readyz", "/startupz", "/healthz"):
        assert door("GET", path).status_code == 200
    for path in ("/metrics", "/health/kafka/stats", "/openapi.json", "/nowhere"):
        assert door("GET", path).status_code == 401
        assert door("GET", path, headers={"authorization": f"Bearer {READER}"}).status_code in {200, 404}
    for value in ("", "Bearer", "Bearer wrong", f"Basic {OPERATOR}", "Bearer é".encode()):
        answer = door("POST", "/webhook/txns.ingest", json=RUNBOOK, headers={"authorization": value})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    for token, status in ((READER, 403), (OPERATOR, 200)):
        headers = {"authorization": f"Bearer {token}"}
        assert door("POST", "/webhook/txns.ingest", json=RUNBOOK, headers=headers).status_code == status
    door.overview.close()


def test_without_tokens_a_web_page_cannot_reach_the_door(door):
    """Foreign names and foreign origins are refused, so that a page in a local browser can neither read nor post."""
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}, {"host": "[::1"}):
        assert door("POST", "/v1/transactions", json=[], headers=headers).status_code == 403
    for headers in ({"host": "localhost:8080"}, {"host": "[::1]:8080"}, {"origin": BASE}):
        assert door("POST", "/v1/transactions", json=[], headers=headers).status_code == 202


def test_a_webhook_with_secrets_must_be_signed(companies_db):
    """With secrets set the webhook takes signed messages only; a repeat of one is answered like the first."""
    door = Door(companies_db, access=Access(host="0.0.0.0", tokens=[OPERATOR], webhook_secrets=[SECRET]))
    body = json.dumps(RUNBOOK).encode()
    now = int(time.time())
    signed = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign(SECRET, "msg_1", now, body),
        "content-type": "application/json",
    }
    for _ in range(2):
        assert door("POST", "/webhook/txns.ingest", content=body, headers=signed).json()["ok"] is True
    assert door("POST", "/webhook/txns.ingest", content=body + b" ", headers=signed).status_code == 401
    token = {"authorization": f"Bearer {OPERATOR}", "content-type": "application/json"}
    assert door("POST", "/webhook/txns.ingest", content=body, headers=token).status_code == 401
    assert door("POST", "/v1/transactions", content=body, headers=token).status_code == 202
    spoiled = token | signed | {"webhook-id": "msg_2"}
    assert door("POST", "/v1/transactions", content=body, headers=spoiled).status_code == 401
    door.overview.close()


def test_an_outage_is_told_as_such():
    """Without PostgreSQL: 503 with Retry-After, no trace and no password; probes and metrics still answer."""
    away = Database("postgresql://u:hush@127.0.0.1:1/gone", name="gone")
    door = Door(away)

    def ask() -> None:
        with away.begin():
            raise AssertionError

    door.ready[0] = ask
    answer = door("POST", "/webhook/txns.ingest", json=RUNBOOK)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "Traceback" not in answer.text
    statuses = {
        path: door("GET", path).status_code for path in ("/livez", "/readyz", "/startupz", "/health/kafka", "/metrics")
    }
    assert statuses == {"/livez": 200, "/readyz": 503, "/startupz": 503, "/health/kafka": 503, "/metrics": 200}
    assert "hush" not in answer.text + door("GET", "/readyz").text + door("GET", "/health/kafka/stats").text
    door.overview.close()


def test_startup_stays_passed(door):
    """Once it has been ready, an outage is readiness' matter and not start-up's."""

    def not_yet() -> None:
        raise NotReady("the schema is not there")

    good = door.ready[0]
    door.ready[0] = not_yet
    assert door("GET", "/startupz").status_code == 503
    door.ready[0] = good
    assert door("GET", "/startupz").status_code == 200
    door.ready[0] = not_yet
    assert door("GET", "/startupz").status_code == 200
    assert door("GET", "/readyz").json()["checks"]["postgresql"] == "the schema is not there"


def test_an_unexpected_error_shows_nothing_of_itself(companies_db, monkeypatch):
    """500 is a problem with a name that the log knows; the error's text stays inside."""
    door = Door(companies_db)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("postgresql://u:hush@h")

    monkeypatch.setattr(Ingest, "accept", broken)

    async def story() -> httpx.Response:
        transport = httpx.ASGITransport(door.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            return await client.post("/v1/transactions", json=[])

    answer = asyncio.run(story())
    assert answer.status_code == 500
    assert answer.json()["instance"].startswith("urn:uuid:")
    assert "hush" not in answer.text
    door.overview.close()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(max_size=5) | _JSON,
            "company_id": st.sampled_from(["710", "711", "7|10"]) | _JSON,
            "date": st.dates().map(str) | _JSON,
            "amount": st.decimals(places=2).map(str) | _JSON,
            "description": st.text(st.characters(), max_size=20) | _JSON,
        },
        optional={"extra": _JSON},
    )
    | _JSON,
    max_size=4,
)
_CONTENT = (
    st.binary(max_size=100)
    | _ROWS.map(lambda rows: json.dumps(rows).encode())
    | _ROWS.map(lambda rows: json.dumps({"transactions": rows}).encode())
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=_CONTENT,
    path=st.sampled_from(
        ["/webhook/txns.ingest", "/v1/transactions", "/v1/batches/%00", "/v1/batches/" + "%ff" * 9, "/livez"]
    ),
    method=st.sampled_from(["POST", "POST", "POST", "GET", "PUT"]),
    kind=st.sampled_from([None, "application/json", "text/csv", "application/x-ndjson", "text/csv; charset=x", "é"]),
    key=st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
)
def test_no_request_makes_it_fall(door, content, path, method, kind, key):
    """Whatever is sent is answered, and never with a 5xx."""
    headers = [(b"content-type", kind.encode("latin-1"))] if kind is not None else []
    headers += [(b"idempotency-key", key.encode("latin-1"))] if key is not None else []
    assert door(method, path, content=content, headers=headers).status_code < 500
