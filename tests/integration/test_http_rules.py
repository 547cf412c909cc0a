"""Companies and rules over HTTP, as the server is wired: answers, repeats, refusals."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kylo_outbox.flows.companies import Companies
from kylo_outbox.flows.direct import DirectDelivery
from kylo_outbox.flows.overview import Overview
from kylo_outbox.model.companies import new_company
from kylo_outbox.settings import load
from kylo_outbox.store.history import moment, stored_rows
from kylo_outbox.wiring import parts
from kylo_outbox.wiring.projectors import named, projection
from kylo_outbox.wiring.server import ServerProcess
from tests.helpers.rules import ingest, rows, staged

BASE = "http://127.0.0.1:8080"
SECRET = "hunter2-canary"
RULE = {"source": "STARBUCKS", "target_sheet": "PETTY CASH", "target_header": "Coffee"}
READER, OPERATOR = "reader-token-0123456789", "operator-token-0123456789"


class Door:
    """A client of the wired application."""

    def __init__(self, dsn: str, **extra: str) -> None:
        self.parts = parts.build(load({"PG_DSN_RW": dsn} | extra))
        self.overview = Overview(self.parts.control, lambda: [self.parts.control])
        self.app = ServerProcess(self.parts, None, None).app(self.overview)
        self.headers: dict[str, str] = {}

    def __call__(self, method: str, path: str, **sent: Any) -> httpx.Response:
        """Send one request; every refusal is a problem."""

        async def story() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=BASE) as client:
                return await client.request(method, path, **{"headers": self.headers} | sent)

        answer = asyncio.run(story())
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == answer.status_code
        assert SECRET not in answer.text
        return answer

    def close(self) -> None:
        """Give everything back."""
        self.overview.close()
        self.parts.close()


@pytest.fixture
def door(control_db):
    """The door to companies 710 and 711."""
    made = Door(control_db.dsn)
    flow = Companies(control_db, {"PG_DSN_RW": control_db.dsn}, ())
    for company in ("710", "711"):
        flow.add(new_company(company, "book"))
    yield made
    made.close()


def deliver(door, database):
    """Apply every request for promotion, over the direct path's own code."""
    direct = DirectDelivery(
        store_id="s",
        topics=["rules.promote.requests"],
        is_direct=lambda _company: True,
        projections=[projection(door.parts, named(door.parts, "promote"))],
        moment=partial(moment, database),
        published_rows=lambda topics, _at: stored_rows(database, topics),
    )
    assert list(direct.catch_up())


def test_a_rule_from_proposal_to_undo(control_db, door):
    """Every door of the story, each asked twice; the second answer is that of the first."""
    ingest(control_db, [staged("710", f"t{n}", "Starbucks", cents=-1234) for n in range(3)])
    company = "/v1/companies/710"
    first = door("GET", f"{company}/pending?limit=2").json()
    assert [(item["description"], item["amount"], item["date"]) for item in first["items"]] == [
        ("Starbucks", "-12.34", "2025-08-26")
    ] * 2
    assert len(door("GET", first["next"]).json()["items"]) == 1
    assert door("GET", first["next"]).json()["next"] is None
    made = door("POST", f"{company}/rules/proposals", json=RULE)
    again = door("POST", f"{company}/rules/proposals", json={"proposals": [RULE]})
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json() == again.json()
    number = made.json()["proposals"][0]["proposal"]
    approved = door("POST", f"{company}/rules/proposals/{number}/approve")
    assert (approved.status_code, approved.json()["state"]) == (200, "approved")
    assert door("POST", f"{company}/rules/proposals/{number}/approve").json() == approved.json()
    preview = door("POST", f"{company}/promote?preview=1")
    assert (preview.status_code, preview.json()["would_resolve"]) == (200, 3)
    key = {"Idempotency-Key": "one"}
    asked = [door("POST", f"{company}/promote", headers=key) for _ in range(2)]
    assert [each.status_code for each in asked] == [202, 202]
    assert asked[0].json() == asked[1].json()
    deliver(door, control_db)
    rules = door("GET", f"{company}/rules").json()
    assert (rules["version"], [rule["source"] for rule in rules["rules"]]) == (1, ["STARBUCKS"])
    [log] = door("GET", f"{company}/rules/history").json()["history"]
    assert (log["request_id"], log["resolved"], log["asked_by"]) == (asked[0].json()["request_id"], 3, "api")
    assert door("GET", f"{company}/pending").json()["items"] == []
    assert door("GET", f"{company}/rules/proposals?state=promoted").json()["proposals"][0]["version"] == 1
    undone = [door("POST", f"{company}/rules/undo", json={"version": 1}).json() for _ in range(2)]
    assert undone[0] == undone[1]
    assert undone[0]["reopened"] == 3
    assert door("GET", f"{company}/rules").json()["rules"] == []


def test_every_company_at_once(control_db, door):
    """What n8n calls: list, then promote all; one event a company; a repeat of the key adds none."""
    listed = door("GET", "/v1/companies").json()["companies"]
    assert [company["company_id"] for company in listed] == ["710", "711"]
    assert listed[0]["db_dsn_rw"] == "env:PG_DSN_RW"
    for _ in range(2):
        answer = door("POST", "/v1/promote", headers={"Idempotency-Key": "night"})
        assert (answer.status_code, answer.json()["items_published"]) == (202, 2)
    assert rows(control_db, "select count(*), count(distinct key) from outbox where type = 'PROMOTE_RULES'") == [(2, 2)]


def test_pause_and_resume(door):
    """Twice is once."""
    for verb, paused in (("pause", True), ("pause", True), ("resume", False), ("resume", False)):
        assert door("POST", f"/v1/companies/710/{verb}").json()["paused"] is paused
    assert door("GET", "/v1/companies/710").json()["paused"] is False


def test_connection_strings_are_redacted(control_db, door):
    """A company whose row holds a password shows none, in an answer or in a refusal."""
    with control_db.transaction() as tx:
        dsn = f"postgresql://u:{SECRET}@127.0.0.1:1/d"
        tx.execute("update control.company_config set db_dsn_rw = %s where company_id = '711'", (dsn,))
    assert "127.0.0.1" in door("GET", "/v1/companies").text
    assert "u" in door("GET", "/v1/companies/711").json()["db_dsn_rw"]
    refused = door("GET", "/v1/companies/711/rules")
    assert refused.status_code == 503
    assert "not reachable" in refused.text


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/v1/companies/999/rules", None, 404, "'999' is unknown"),
        ("GET", "/v1/companies/999", None, 404, "company list"),
        ("GET", "/v1/companies/999/pending", None, 404, "unknown"),
        ("POST", "/v1/companies/999/promote", None, 404, "unknown"),
        ("POST", "/v1/companies/999/pause", None, 404, "unknown"),
        ("POST", "/v1/companies/710%00/pause", None, 404, "unknown"),
        ("GET", "/v1/companies/%00", None, 404, "unknown"),
        ("GET", "/v1/companies/710/pending?limit=0", None, 422, "limit"),
        ("GET", "/v1/companies/710/rules/proposals?state=x", None, 422, "state"),
        ("POST", "/v1/companies/710/rules/proposals", "{", 400, "broken JSON"),
        ("POST", "/v1/companies/710/rules/proposals", "[]", 422, "proposals"),
        ("POST", "/v1/companies/710/rules/proposals", '{"proposals": []}', 422, "at least one"),
        ("POST", "/v1/companies/710/rules/proposals", '{"source": "x"}', 422, "proposals[0].target_sheet"),
        ("POST", "/v1/companies/710/rules/proposals/9/approve", None, 404, "no proposal 9"),
        ("POST", f"/v1/companies/710/rules/proposals/{2**70}/approve", None, 404, "no proposal"),
        ("POST", "/v1/companies/710/rules/proposals/x/approve", None, 422, "proposal"),
        ("POST", "/v1/companies/710/rules/proposals/9/approve", '{"approved": true}', 422, "unknown field"),
        ("POST", "/v1/companies/710/rules/undo", None, 422, "nothing to undo"),
        ("POST", "/v1/companies/710/rules/undo", '{"version": "1"}', 422, "whole number"),
        ("POST", "/v1/companies/710/rules/undo", '{"version": 7}', 409, "7 is not in force"),
        ("POST", "/v1/companies/710/promote?preview=maybe", None, 422, "preview"),
    ],
)
def test_refusals_name_what_is_wrong(door, method, path, body, status, said):
    """A problem with the right status and a line that helps."""
    answer = door(method, path, content=body)
    assert answer.status_code == status
    assert said in answer.text


def test_readers_read_and_operators_change(control_db, door):
    """With tokens: who sends it stands in the history; a reader changes nothing."""
    guarded = Door(control_db.dsn, KYLO_API_TOKENS=f"ann:operator:{OPERATOR},bob:reader:{READER}")
    guarded.headers = {"Authorization": f"Bearer {READER}"}
    assert guarded("GET", "/v1/companies/710/rules").status_code == 200
    assert guarded("POST", "/v1/promote").status_code == 403
    guarded.headers = {"Authorization": f"Bearer {OPERATOR}"}
    made = guarded("POST", "/v1/companies/710/rules/proposals", json=RULE).json()
    assert made["proposals"][0]["proposed_by"] == "api ann"
    guarded.headers = {}
    assert guarded("GET", "/v1/companies").status_code == 401
    guarded.close()


def test_the_description_of_the_api_names_every_door(door):
    """Paths, bodies and refusals stand in /openapi.json."""
    paths = door("GET", "/openapi.json").json()["paths"]
    for path in ("", "/{company_id}/pending", "/{company_id}/rules", "/{company_id}/promote", "/{company_id}/pause"):
        assert f"/v1/companies{path}" in paths
    propose = paths["/v1/companies/{company_id}/rules/proposals"]["post"]
    assert propose["requestBody"]["content"]["application/json"]
    assert "application/problem+json" in propose["responses"]["409"]["content"]
    assert "/v1/promote" in paths


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10) | st.sampled_from([*RULE]), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["710", "999", "%00", "a%2Fb", "%F0%9F%92%A9"]),
    st.sampled_from(["rules/proposals", "rules/proposals/1/approve", "rules/undo", "promote", "promote?preview=1"]),
    JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30),
)
def test_no_request_makes_it_fall(door, company, path, body):
    """Whatever is sent, the answer is a success or a problem below 500."""
    assert door("POST", f"/v1/companies/{company}/{path}", content=body).status_code < 500
