"""Generated requests through every door, from the description of the API: no 5xx, no hang, nothing but problems."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from kylo_outbox.flows.companies import Companies
from kylo_outbox.flows.overview import Overview
from kylo_outbox.model.companies import new_company
from kylo_outbox.model.rules import Rule
from kylo_outbox.settings import load
from kylo_outbox.store import proposals
from kylo_outbox.wiring import parts
from kylo_outbox.wiring.server import ServerProcess
from tests.helpers import http_fuzz
from tests.helpers.rules import ingest, promote, staged

BASE = "http://127.0.0.1:8080"
HANGS_AFTER = 30.0
A_FEW, MANY = 40, int(os.environ.get("FUZZ_REQUESTS", "3000"))
# Doors whose answer to "it is not well" is 503: what they say is about the system, not about the request.
HEALTH = frozenset({"/health/kafka", "/health/kafka/stats", "/readyz", "/startupz"})
COMPANY = "/v1/companies/{company_id}"
DOORS = (
    *(("GET", path) for path in ("/livez", "/healthz", "/readyz", "/startupz", "/metrics")),
    *(("GET", path) for path in ("/health/kafka", "/health/kafka/stats")),
    ("POST", "/webhook/txns.ingest"),
    ("POST", "/v1/transactions"),
    ("GET", "/v1/batches/{batch_id}"),
    ("GET", "/v1/companies"),
    ("GET", COMPANY),
    ("GET", f"{COMPANY}/pending"),
    ("POST", f"{COMPANY}/pause"),
    ("POST", f"{COMPANY}/resume"),
    ("GET", f"{COMPANY}/rules"),
    ("GET", f"{COMPANY}/rules/history"),
    ("GET", f"{COMPANY}/rules/proposals"),
    ("POST", f"{COMPANY}/rules/proposals"),
    ("POST", f"{COMPANY}/rules/proposals/{{proposal}}/approve"),
    ("POST", f"{COMPANY}/rules/proposals/{{proposal}}/withdraw"),
    ("POST", f"{COMPANY}/rules/undo"),
    ("POST", f"{COMPANY}/promote"),
    ("POST", "/v1/promote"),
)
KNOWN = {
    "company_id": ["710", "711"],
    "proposal": ["1", "2", "3"],
    "source": ["STARBUCKS", "shop 1"],
    "target_sheet": ["A"],
    "target_header": ["x", "y"],
    "id": [f"n{number}" for number in range(9)],
    "date": ["2025-08-26"],
    "amount": ["1.00"],
    "description": ["shop"],
    "preview": ["1", "true"],
    "text/csv": [
        "id,company_id,date,amount,description\n",
        "id,company_id,date,amount,description\nn1,710,2025-08-26,1,x",
    ],
    "application/x-ndjson": [
        '{"id": "n1", "company_id": "710", "date": "2025-08-26", "amount": 1, "description": "x"}\n'
    ],
}


class Door:
    """The wired application on one event loop, without a socket."""

    def __init__(self, dsn: str) -> None:
        self.parts = parts.build(load({"PG_DSN_RW": dsn}))
        self.overview = Overview(self.parts.control, lambda: [self.parts.control])
        app = ServerProcess(self.parts, None, None).app(self.overview)
        # Not raised: what falls is to be answered as it would be over the wire.
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url=BASE)
        self.runner = asyncio.Runner()
        self.document: dict[str, Any] = json.loads(self.runner.run(self.client.get("/openapi.json")).text)
        row = {name: KNOWN[name][0] for name in ("id", "company_id", "date", "amount", "description")}
        made = self.runner.run(self.client.post("/v1/transactions", json=[row])).json()
        self.known = KNOWN | {"batch_id": [made["batch_id"]]}

    def send(self, request: http_fuzz.Request) -> httpx.Response:
        """One request; a hang is a `TimeoutError`."""

        async def story() -> httpx.Response:
            async with asyncio.timeout(HANGS_AFTER):
                return await self.client.request(
                    request.method, request.path, headers=request.headers, content=request.content
                )

        return self.runner.run(story())

    def close(self) -> None:
        """Give everything back."""
        self.runner.run(self.client.aclose())
        self.runner.close()
        self.overview.close()
        self.parts.close()


@pytest.fixture
def door(control_db):
    """The door to two companies with open items, proposals and rules."""
    flow = Companies(control_db, {"PG_DSN_RW": control_db.dsn}, ())
    for company in ("710", "711"):
        flow.add(new_company(company, "book"))
        ingest(control_db, [staged(company, f"t{n}", f"shop {n}") for n in range(3)])
        promote(control_db, company, ("shop 0", "A", "x"))
        with control_db.transaction() as tx:
            proposals.propose(tx, company, [Rule(f"shop {n}", "A", "x") for n in (1, 2)], "t")
    made = Door(control_db.dsn)
    yield made
    made.close()


def fuzz(door: Door, method: str, path: str, many: int) -> Counter[int]:
    """Send so many generated requests to one operation; how often each status came."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=many,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(http_fuzz.requests(door.document, method, path, door.known))
    def run(request: http_fuzz.Request) -> None:
        answer = door.send(request)
        statuses[answer.status_code] += 1
        if answer.status_code >= 400:
            assert answer.status_code < 500 or (answer.status_code == 503 and path in HEALTH), (request, answer.text)
            if path not in HEALTH:
                assert answer.headers["content-type"] == "application/problem+json", request

    run()
    print(method, path, sum(statuses.values()), dict(statuses))
    return statuses


def test_every_door_is_tried(door):
    """A new operation must be added to the list above."""
    assert sorted(DOORS) == sorted(http_fuzz.operations(door.document))


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_no_generated_request_makes_it_fall(door, method, path):
    """A few requests of each operation; some are taken and, where anything can be wrong, some are refused."""
    statuses = fuzz(door, method, path, A_FEW)
    _check_both_sides(method, path, statuses)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("method", "path"), DOORS)
def test_thousands_of_generated_requests(door, method, path):
    """3,000 requests of each operation (`FUZZ_REQUESTS`)."""
    statuses = fuzz(door, method, path, MANY)
    assert sum(statuses.values()) >= MANY
    _check_both_sides(method, path, statuses)


def _check_both_sides(method: str, path: str, statuses: Counter[int]) -> None:
    assert any(status < 400 for status in statuses) or path in HEALTH
    assert any(400 <= status < 500 for status in statuses) or not ("{" in path or method == "POST")


def test_what_falls_is_found(door, monkeypatch):
    """The planted fault: an operation that falls over one value does not pass."""
    monkeypatch.setattr("kylo_outbox.web.rules.preview_shape", lambda *_: 1 // 0)
    with pytest.raises(AssertionError, match="An error of ours"):
        fuzz(door, "POST", f"{COMPANY}/promote", 400)
