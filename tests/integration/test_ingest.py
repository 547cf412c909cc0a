"""Ingest against PostgreSQL: all or nothing, once, whatever comes at the same time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from kylo_outbox.flows.ingest import Accepted, Ingest
from kylo_outbox.model.errors import Conflict, Refused
from kylo_outbox.model.messages import TxnsBatch
from kylo_outbox.model.transactions import parse_request, slice_signature
from kylo_outbox.store import intake

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database

TOPIC = "txns.company.batches"


def txn(txn_id: str, company_id: str = "710", amount: str = "1.00", description: str = "X") -> dict[str, Any]:
    """One row."""
    return {
        "id": txn_id,
        "company_id": company_id,
        "date": "2025-08-26",
        "amount": amount,
        "description": description,
    }


RUNBOOK = [txn("t1", amount="-12.34"), txn("t2", "711", "45.67"), txn("t3", amount="10.00")]


def counts(database: Database) -> tuple[int, int, int, int]:
    """Batches, transactions, slices and events that are stored."""
    with database.transaction() as tx:
        row = tx.execute(
            "select (select count(*) from intake.batches), (select count(*) from intake.transactions), "
            "(select count(*) from intake.slices), (select count(*) from outbox)"
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2]), int(row[3])


@pytest.fixture
def ingest(control_db):
    """The door, with companies 710 and 711."""
    with control_db.transaction() as tx:
        for company in ("710", "711"):
            tx.execute(
                "insert into control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, "
                "tab_active) values (%s, 'env:PG_DSN_RW', 'app_' || %s, 'S', %s || ' Pending', %s || ' Active')",
                (company, company, company, company),
            )
    return Ingest(control_db, TOPIC)


def accept(ingest: Ingest, rows: list[dict[str, Any]], key: str | None = None) -> Accepted:
    """Check and store rows."""
    return ingest.accept(parse_request(rows), source="test", idempotency_key=key)


def test_a_request_is_stored_and_announced_per_company(control_db, ingest):
    """One batch, every row, and one event per company that says which slice waits."""
    accepted = accept(ingest, RUNBOOK)
    assert [(part.company_id, part.rows) for part in accepted.companies] == [("710", 2), ("711", 1)]
    assert accepted.items == (("t1", "710", True), ("t3", "710", True), ("t2", "711", True))
    with control_db.transaction() as tx:
        events = tx.execute("select key, type, topic, event_id::text, payload from outbox order by id").fetchall()
        slices = intake.read_slices(tx, [(accepted.ingest_batch_id, "710"), (accepted.ingest_batch_id, "711")] * 2)
    assert [event[:3] for event in events] == [("710", "TXNS_BATCH", TOPIC), ("711", "TXNS_BATCH", TOPIC)]
    assert [event[3] for event in events] == [part.event_id for part in accepted.companies]
    message = TxnsBatch.parse(events[0][4])
    assert (message.batch_id, message.ingest_batch_id) == (accepted.batch_id, accepted.ingest_batch_id)
    assert message.slice_signature == slice_signature(parse_request([RUNBOOK[2], RUNBOOK[0]]).transactions)
    assert [(row.company_id, row.txn_id, row.amount_cents) for row in slices] == [
        *(("710", "t1", -1234), ("710", "t3", 1000), ("711", "t2", 4567))
    ]


def test_an_identical_request_gets_the_first_answer_and_adds_nothing(control_db, ingest):
    """The same content in another order, from another door, under another key: the same batch."""
    first = accept(ingest, RUNBOOK)
    before = counts(control_db)
    assert accept(ingest, [*RUNBOOK[::-1], RUNBOOK[0]]) == first
    assert accept(ingest, RUNBOOK, key="k1") == first
    assert counts(control_db) == before


def test_a_key_belongs_to_its_content(control_db, ingest):
    """The same key with the same content is a repeat, with other content a conflict that stores nothing."""
    first = accept(ingest, RUNBOOK, key="k1")
    assert accept(ingest, RUNBOOK, key="k1") == first
    before = counts(control_db)
    with pytest.raises(Conflict, match="Idempotency-Key"):
        accept(ingest, [txn("new")], key="k1")
    assert counts(control_db) == before
    for bad in ("", "k" * 201, "k\n", "é"):
        with pytest.raises(Refused, match="Idempotency-Key"):
            accept(ingest, [txn("new")], key=bad)


def test_a_known_transaction_in_new_content_is_in_the_new_slice_and_stored_once(control_db, ingest):
    """What came before belongs to the new batch too, is told as known, and is not stored again."""
    accept(ingest, RUNBOOK)
    second = accept(ingest, [RUNBOOK[0], txn("t9")])
    assert second.items == (("t1", "710", False), ("t9", "710", True))
    with control_db.transaction() as tx:
        assert [row.txn_id for row in intake.read_slices(tx, [(second.ingest_batch_id, "710")])] == ["t1", "t9"]
    assert counts(control_db)[1] == 4
    assert accept(ingest, [txn("t9"), RUNBOOK[0]]) == second


def test_other_content_under_a_stored_id_is_refused_whole(control_db, ingest):
    """Each clashing id is named with its path, and none of the request is stored."""
    accept(ingest, RUNBOOK)
    before = counts(control_db)
    with pytest.raises(Conflict) as conflict:
        accept(ingest, [txn("t7"), txn("t3", amount="10.01"), txn("t1", "711")])
    assert [fault.split(":")[0] for fault in conflict.value.faults] == ["transactions[1].id"]
    assert "'t3' of company '710'" in conflict.value.faults[0]
    assert counts(control_db) == before


def test_unknown_companies_are_named_with_the_remedy(control_db, ingest):
    """Each unknown company is named once, where it stands first, and nothing is stored."""
    with pytest.raises(Refused) as refused:
        accept(ingest, [txn("a"), txn("b", "999"), txn("c", "999"), txn("d", "it's")])
    ours, quoted = refused.value.faults
    assert ours == (
        "transactions[1].company_id: unknown company '999'; add it with `kylo-outbox company add 999 --spreadsheet ID`"
    )
    assert quoted.startswith("transactions[3].company_id: ")
    assert quoted.endswith("""`kylo-outbox company add 'it'"'"'s' --spreadsheet ID`""")
    assert counts(control_db) == (0, 0, 0, 0)


def test_an_empty_request_is_an_empty_batch(control_db, ingest):
    """Nothing to do is no error: a batch without slices, and no event."""
    accepted = accept(ingest, [])
    assert (accepted.companies, accepted.items) == ((), ())
    assert counts(control_db) == (1, 0, 0, 0)


def at_once(jobs: list[Any]) -> list[Any]:
    """Run jobs in threads that start together; results or errors in order."""
    start = threading.Barrier(len(jobs))

    def run(job: Any) -> Any:
        start.wait()
        try:
            return job()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs))


def test_identical_requests_at_the_same_moment_make_one_batch(control_db, ingest):
    """Whoever comes second waits, and all get the same answer."""
    rows = [txn(f"t{number}") for number in range(300)]
    answers = at_once([lambda: accept(ingest, rows, key="k")] * 6)
    assert len(set(answers)) == 1
    assert counts(control_db) == (1, 300, 1, 1)


def test_overlapping_requests_at_the_same_moment_lose_and_block_nothing(control_db, ingest):
    """Requests that share rows in opposite orders neither deadlock nor lose a row."""
    pool = [txn(f"t{number}", str(710 + number % 2)) for number in range(120)]

    def job(turn: int) -> Any:
        rows = pool[turn * 10 : turn * 10 + 60]
        return lambda: accept(ingest, rows if turn % 2 else rows[::-1])

    answers = at_once([job(turn) for turn in range(6)])
    assert all(isinstance(answer, Accepted) for answer in answers)
    assert counts(control_db)[:3] == (6, 110, 12)
    assert sum(first for answer in answers for *_, first in answer.items) == 110


def test_clashing_requests_at_the_same_moment_leave_one_winner(control_db, ingest):
    """Two contents for one id cannot both be stored, however close they come."""
    answers = at_once([lambda text=text: accept(ingest, [txn("t1", description=text)]) for text in "ABCD"])
    assert sorted(type(answer).__name__ for answer in answers) == ["Accepted", "Conflict", "Conflict", "Conflict"]
    assert counts(control_db) == (1, 1, 1, 1)


def test_one_key_for_different_contents_at_the_same_moment_has_one_winner(control_db, ingest):
    """A key is taken once."""
    answers = at_once([lambda name=name: accept(ingest, [txn(name)], key="k") for name in "abcd"])
    assert sorted(type(answer).__name__ for answer in answers) == ["Accepted", "Conflict", "Conflict", "Conflict"]
    assert counts(control_db)[0] == 1


def test_what_fails_late_leaves_nothing(control_db, ingest, monkeypatch):
    """If the announcement cannot be written, the rows are not there either."""

    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("kylo_outbox.flows.ingest.emit_many", broken)
    with pytest.raises(RuntimeError):
        accept(ingest, RUNBOOK)
    assert counts(control_db) == (0, 0, 0, 0)


def test_thousands_of_companies_in_one_request_are_checked(ingest):
    """More ids than one statement takes parameters are no error of ours."""
    with pytest.raises(Refused, match="unknown company"):
        accept(ingest, [txn("t", f"c{number}") for number in range(70_000)])
