"""A thousand attempts over HTTP and a thousand in messages to reach another company by swapped ids: nothing shows."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import httpx
import pytest

from kylo_outbox.flows.companies import Companies
from kylo_outbox.flows.overview import Overview
from kylo_outbox.model.companies import new_company
from kylo_outbox.model.errors import KyloError
from kylo_outbox.model.events import Event
from kylo_outbox.model.messages import PromoteRules, TxnsBatch
from kylo_outbox.settings import load
from kylo_outbox.store import pending
from kylo_outbox.wiring import parts
from kylo_outbox.wiring.projectors import named
from kylo_outbox.wiring.server import ServerProcess
from tests.helpers.rules import promote, rows

if TYPE_CHECKING:
    from collections.abc import Callable

ATTEMPTS = 1_000
ME, OTHER = "710", "711"
BASE = "http://127.0.0.1:8080"
TXNS = "txns.company.batches"
TABLES = (
    *("transactions", "pending_txns", "rules_active", "sort_queue", "triage_runs", "company_state"),
    *("rules_versions", "rules_proposals", "sheet_approvals", "promotions"),
)
SLICES = """
select key, payload::jsonb ->> 'ingest_batch_id', payload::jsonb ->> 'slice_signature', payload::jsonb ->> 'batch_id'
  from outbox where topic = %s order by id
"""


class Office:
    """The wired product with two companies whose rows say whose they are."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.parts = parts.build(load({"PG_DSN_RW": database.dsn}))
        self.overview = Overview(database, lambda: [database])
        transport = httpx.ASGITransport(ServerProcess(self.parts, None, None).app(self.overview))
        self.client = httpx.AsyncClient(transport=transport, base_url=BASE)
        self.runner = asyncio.Runner()
        flow = Companies(database, {"PG_DSN_RW": database.dsn}, ())
        for company in (ME, OTHER):
            flow.add(new_company(company, f"book-{company}"))
            batch = [transaction(company, n) for n in range(4)]
            assert self.ask("POST", "/v1/transactions", json={"transactions": batch}).status_code == 202
        self.triage = named(self.parts, "txns")
        self.promotion = named(self.parts, "promote")
        for key, *_ in rows(database, SLICES, TXNS):
            self.deliver(self.triage, key)
        for company in (ME, OTHER):
            promote(database, company, (f"shop {company} 0", "A", f"secret {company}"))

    def ask(self, method: str, path: str, **sent: Any) -> httpx.Response:
        """Send one request."""
        return self.runner.run(self.client.request(method, path, **sent))

    def deliver(self, projector: Any, key: str) -> None:
        """Apply the stored events of one company, in order."""
        topic = projector.topics[0]
        found = rows(self.database, "select payload, event_id from outbox where topic = %s and key = %s", topic, key)
        with self.database.transaction() as tx:
            projector.apply(
                tx, [Event(topic=topic, key=key, type="x", raw=raw.encode(), event_id=one) for raw, one in found]
            )

    def everything_of(self, company: str) -> dict[str, list[str]]:
        """Every row of a company, in every table."""
        ask = "select t::text from kylo.{} t where company_id = %s order by 1"
        return {table: [row[0] for row in rows(self.database, ask.format(table), company)] for table in TABLES}

    def close(self) -> None:
        """Give everything back."""
        self.runner.run(self.client.aclose())
        self.runner.close()
        self.overview.close()
        self.parts.close()


def transaction(company: str, number: int) -> dict[str, str]:
    """One whose description says whose it is."""
    text = f"shop {company} {number}"
    return {
        "id": f"{company}-{number}",
        "company_id": company,
        "date": "2025-08-26",
        "amount": "1",
        "description": text,
    }


@pytest.fixture
def office(control_db):
    """Two companies with rows in every table."""
    made = Office(control_db)
    yield made
    made.close()


def secrets_of(office: Office, company: str) -> list[str]:
    """What only that company's answers may hold."""
    uids = rows(office.database, "select txn_uid::text from kylo.transactions where company_id = %s", company)
    rules = rows(office.database, "select rule_id::text from kylo.rules_proposals where company_id = %s", company)
    return [f"shop {company}", f"secret {company}", f"book-{company}", *(row[0] for row in [*uids, *rules])]


def http_attempts(office: Office, dice: random.Random) -> list[Callable[[], httpx.Response]]:
    """Requests in the name of one company that name something of the other one."""
    mine, ask = f"/v1/companies/{ME}", office.ask
    uids = [
        row[0]
        for row in rows(office.database, "select txn_uid::text from kylo.transactions where company_id = %s", OTHER)
    ]
    seqs = [row[0] for row in rows(office.database, "select seq from kylo.pending_txns where company_id = %s", OTHER)]
    numbers = rows(office.database, "select max(proposal) from kylo.rules_proposals where company_id = %s", OTHER)[0][0]
    version = rows(office.database, "select rules_version from kylo.company_state where company_id = %s", OTHER)[0][0]
    number = numbers + 1

    def steps() -> str:
        return dice.choice(
            [f"..%2F{OTHER}", f"%2e%2e/{OTHER}", f"{ME}%00{OTHER}", f"{ME},{OTHER}", f" {OTHER}", f"{OTHER}%20"]
        )

    return [
        lambda: ask("GET", f"{mine}/pending?after={dice.choice(seqs) - 1}&limit=1000"),
        lambda: ask("GET", f"{mine}/pending?company_id={OTHER}"),
        lambda: ask("GET", f"{mine}/rules?company_id={OTHER}", headers={"X-Company-Id": OTHER}),
        lambda: ask("GET", f"{mine}/rules/history?limit=1000&company={OTHER}"),
        lambda: ask("GET", f"{mine}/rules/proposals?company_id={OTHER}"),
        lambda: ask("GET", f"{mine}/pending/{dice.choice(uids)}"),
        lambda: ask("GET", f"/v1/companies/{steps()}/{dice.choice(['pending', 'rules', 'rules/proposals'])}"),
        lambda: ask("POST", f"/v1/companies/{steps()}/{dice.choice(['pause', 'promote', 'rules/undo'])}"),
        lambda: ask("POST", f"{mine}/rules/proposals/{number}/{dice.choice(['approve', 'withdraw'])}"),
        lambda: ask("POST", f"{mine}/rules/undo", json={"version": version + 1}),
        lambda: ask("POST", f"{mine}/promote", json={"company_id": OTHER}),
        lambda: ask("POST", f"{mine}/promote?preview=1&company_id={OTHER}"),
        lambda: ask("POST", f"{mine}/rules/proposals", json={**RULE, "company_id": OTHER}),
        lambda: ask("POST", f"{mine}/rules/proposals", json={"proposals": [RULE], "company_id": OTHER}),
        lambda: ask("POST", f"{mine}/pause", json={"company_id": OTHER}, params={"company_id": OTHER}),
        lambda: ask(
            "POST", "/v1/transactions", json=[transaction(OTHER, 1) | {"company_id": ME, "description": "own"}]
        ),
        lambda: ask("POST", "/v1/transactions", json=[transaction(OTHER, dice.randrange(4)) | {"amount": "2"}]),
    ]


RULE = {"source": "x", "target_sheet": "A", "target_header": "y"}


def test_a_thousand_attempts_over_http(office):
    """No answer holds anything of the other company, and no row of it is changed, whoever's ids are sent."""
    dice = random.Random(14)
    secrets, before = secrets_of(office, OTHER), office.everything_of(OTHER)
    assert len(secrets) >= 7
    seen = [each for each in secrets if each in office.ask("GET", f"/v1/companies/{OTHER}/pending").text]
    assert seen, "the secrets are what an answer to the right question holds"
    attempts = http_attempts(office, dice)
    statuses = []
    for _ in range(ATTEMPTS):
        answer = dice.choice(attempts)()
        statuses.append(answer.status_code)
        assert [each for each in secrets if each in answer.text] == [], answer.request.url
    print({status: statuses.count(status) for status in sorted(set(statuses))})
    assert set(statuses) >= {200, 404, 409, 422}
    assert max(statuses) < 500
    assert office.everything_of(OTHER) == before
    assert rows(office.database, "select count(*) from outbox where key = %s and topic <> %s", OTHER, TXNS) == [(1,)]
    assert office.ask("GET", f"/v1/companies/{OTHER}").json()["paused"] is False


def test_a_thousand_attempts_in_messages(office):
    """What names one company in its key and the other in its content is poison and changes nothing."""
    dice = random.Random(15)
    slices = {key: held for key, *held in rows(office.database, SLICES, TXNS)}
    before = {company: office.everything_of(company) for company in (ME, OTHER)}
    outbox = rows(office.database, "select count(*) from outbox")
    refused = 0
    for number in range(ATTEMPTS):
        me, other = dice.sample([ME, OTHER], 2)
        projector, event = _swapped(office, dice, slices, me, other, number)
        with pytest.raises(KyloError) as told, office.database.transaction() as tx:
            projector.apply(tx, [event])
        refused += 1
        assert f"shop {other}" not in str(told.value)
    assert refused == ATTEMPTS
    assert {company: office.everything_of(company) for company in (ME, OTHER)} == before
    assert rows(office.database, "select count(*) from outbox") == outbox


def _swapped(
    office: Office, dice: random.Random, slices: dict[str, list[str]], me: str, other: str, number: int
) -> tuple[Any, Event]:
    """A message that says `me` somewhere and `other` elsewhere."""
    at = "2026-11-21T00:00:00Z"
    batch, signature, identity = slices[other]
    slice_ = {"ingest_batch_id": int(batch), "slice_signature": signature, "batch_id": identity}
    mine, own_signature, own_identity = slices[me]
    given: list[tuple[str, str, dict[str, Any]]] = [
        # The other's slice under the own key and name: it does not hold a row of this company.
        (me, me, slice_),
        # The other's name under the own key, and the other way round.
        (me, other, slice_),
        (other, me, {"ingest_batch_id": int(mine), "slice_signature": own_signature, "batch_id": own_identity}),
        # The own slice with the signature of the other's.
        (me, me, {"ingest_batch_id": int(mine), "slice_signature": signature, "batch_id": own_identity}),
        (me, me, {"ingest_batch_id": int(batch), "slice_signature": own_signature, "batch_id": own_identity}),
        (me, f"{me},{other}", slice_),
    ]
    key, company, held = dice.choice(given)
    if dice.random() < 0.3 and key != company:
        kind, projector, body = PromoteRules.TYPE, office.promotion, {}
    else:
        kind, projector, body = TxnsBatch.TYPE, office.triage, held
    message = {"event_type": kind, "version": 1, "company_id": company, "created_at": at, **body}
    identity_of = uuid5(UUID(int=0), f"{number}")
    return projector, Event(
        topic=projector.topics[0], key=key, type=kind, raw=json.dumps(message).encode(), event_id=identity_of
    )


def test_without_the_check_of_the_key_a_message_would_reach_the_other(office, monkeypatch):
    """The planted fault: a projector that believes the message instead of its key writes for the other company."""
    monkeypatch.setattr(type(office.promotion), "_message", lambda _self, event: PromoteRules.parse(event.raw))
    before = office.everything_of(OTHER)
    message = {"event_type": "PROMOTE_RULES", "version": 1, "company_id": OTHER, "created_at": "2026-11-21T00:00:00Z"}
    event = Event(topic="t", key=ME, type="PROMOTE_RULES", raw=json.dumps(message).encode(), event_id=UUID(int=9))
    with office.database.transaction() as tx:
        office.promotion.apply(tx, [event])
    assert office.everything_of(OTHER) != before


def test_a_forgotten_condition_shows_nothing_of_the_other(office, monkeypatch):
    """The planted fault: a query without its WHERE is held by row-level security, and by nothing else."""
    everything = pending.PAGE.replace("company_id = %s", "(company_id = %s or true)")
    monkeypatch.setattr(pending, "PAGE", everything)
    shown = [office.ask("GET", f"/v1/companies/{ME}/pending").text]
    with office.database.transaction() as tx:
        tx.execute("alter table kylo.pending_txns disable row level security")
    shown.append(office.ask("GET", f"/v1/companies/{ME}/pending").text)
    assert [f"shop {OTHER}" in text for text in shown] == [False, True]
