"""Ingest: bank transactions in, one saved batch and one announcement per company out, in one transaction.

What is promised: after `accept` returns, every row is stored and every company's slice will be announced once; if it
raises, nothing is stored. An identical request (same content, in any order) gets the first answer again and adds
nothing, also when both arrive at the same moment.

A known transaction that comes again inside other content belongs to the new batch's slice too, but is stored once.
An Idempotency-Key is remembered with the batch it made: the same key with other content is a conflict. A key whose
content was already there under another key (or none) gets that first answer and is not remembered.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.errors import Conflict, Overloaded, Refused
from kylo_outbox.model.events import Event
from kylo_outbox.model.messages import TxnsBatch
from kylo_outbox.model.transactions import MAX_LISTED, shown, slice_signature
from kylo_outbox.store import companies, intake
from kylo_outbox.store.emit import emit_many
from kylo_outbox.store.engine import psycopg_of
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from uuid import UUID

    from kylo_outbox.model.transactions import Request, Transaction
    from kylo_outbox.store.backpressure import Backpressure
    from kylo_outbox.store.engine import Database

_MAX_KEY = 200
_LONGEST_WAIT = 30.0
_ASKED_AT_ONCE = 10_000  # far under the number of parameters that a statement may have


@dataclass(frozen=True, slots=True)
class AcceptedSlice:
    """One company's part of an accepted batch: how many rows, and the event that announces them."""

    company_id: str
    rows: int
    event_id: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to an ingest; an identical repeat gets an equal one.

    `items` holds (id, company_id, whether this batch brought it first), by company and id.
    """

    batch_id: UUID
    ingest_batch_id: int
    companies: tuple[AcceptedSlice, ...]
    items: tuple[tuple[str, str, bool], ...]

    def as_json(self) -> dict[str, Any]:
        """The shape of `POST /v1/transactions` and `ingest --json`."""
        return {
            "batch_id": str(self.batch_id),
            "ingest_batch_id": self.ingest_batch_id,
            "companies": [
                {"company_id": part.company_id, "rows": part.rows, "event_id": part.event_id} for part in self.companies
            ],
            "items": [
                {"id": txn_id, "company_id": company_id, "result": "accepted" if first else "known"}
                for txn_id, company_id, first in self.items
            ],
        }


class Ingest:
    """The door for transactions. Safe to share between threads.

    Args:
        database: The control store.
        topic_txns: Where `TXNS_BATCH` goes, keyed by company.
        backpressure: Which companies' events have waited too long already; None takes whatever comes.
    """

    def __init__(self, database: Database, topic_txns: str, backpressure: Backpressure | None = None) -> None:
        self._database = database
        self._topic = topic_txns
        self._backpressure = backpressure

    def accept(self, request: Request, *, source: str, idempotency_key: str | None = None) -> Accepted:
        """Store a request and announce it.

        Args:
            request: From `parse_request`; an empty one makes an empty batch.
            source: Who brought it (`webhook`, `api`, `cli`), for people.
            idempotency_key: 1 to 200 printable ASCII characters, or None.

        Raises:
            Refused: a company is unknown, with the remedy; or the key is not acceptable.
            Conflict: an id is stored with other content, or the key was used for other content.
            Overloaded: a company's events have waited for Kafka too long; a repeat of what is stored is answered still.
            Transient: PostgreSQL is away; nothing was stored, unless the commit's own answer was lost: then a repeat
                gets the first answer.
        """
        _check_key(idempotency_key)
        digest = request.digest
        asked = sorted({txn.company_id for txn in request.transactions})
        self._refuse_late(asked, digest)
        with self._database.begin() as connection:
            conn = psycopg_of(connection)
            batch = intake.claim_batch(conn, digest, idempotency_key, source)
            if isinstance(batch, intake.FormerBatch):
                if batch.request_digest != digest:
                    raise Conflict(
                        ["Idempotency-Key: was used before, for other content; use a new key for new content"]
                    )
                return _former_answer(conn, batch)
            for start in range(0, len(asked), _ASKED_AT_ONCE):
                some = asked[start : start + _ASKED_AT_ONCE]
                _refuse_unknown(request, set(some) - companies.known(connection, some))
            known = intake.save_transactions(conn, batch, request.transactions)
            _refuse_clashes(request, [(company_id, txn_id) for company_id, txn_id, differs in known if differs])
            return self._announce(conn, batch, request, {(company_id, txn_id) for company_id, txn_id, _ in known})

    def _refuse_late(self, asked: list[str], digest: bytes) -> None:
        if self._backpressure is None:
            return
        late = self._backpressure.late(asked)
        if not late:
            return
        with self._database.transaction() as conn:
            if intake.is_known(conn, digest):
                return
        metrics.INGEST_REFUSED.labels(reason="backpressure").inc()
        limit = self._backpressure.limit
        raise Overloaded(
            [
                f"company_id: events of {shown(company)} have waited for Kafka for over {limit:g} s; send again later"
                for company in late[:MAX_LISTED]
            ],
            retry_after=min(_LONGEST_WAIT, limit / 10),
        )

    def _announce(self, conn: Any, batch: intake.Batch, request: Request, known: set[tuple[str, str]]) -> Accepted:
        """One event per company, in the same transaction, and the slices that the events speak of."""
        ordered = sorted(request.transactions, key=_identity)
        slices = [(company, list(rows)) for company, rows in groupby(ordered, key=lambda txn: txn.company_id)]
        messages = [
            TxnsBatch(
                batch_id=batch.batch_id,
                company_id=company_id,
                ingest_batch_id=batch.ingest_batch_id,
                slice_signature=slice_signature(rows),
                created_at=batch.received_at,
            )
            for company_id, rows in slices
        ]
        events = emit_many(
            conn,
            [
                Event(topic=self._topic, key=message.company_id, type=message.event_type, payload=message.payload())
                for message in messages
            ],
        )
        saved = [
            intake.SliceSaved(message.company_id, _saved_id(event), message.slice_signature, len(rows))
            for message, event, (_, rows) in zip(messages, events, slices, strict=True)
        ]
        intake.save_slices(conn, batch, saved)
        return Accepted(
            batch.batch_id,
            batch.ingest_batch_id,
            tuple(AcceptedSlice(part.company_id, part.rows, str(part.event_id)) for part in saved),
            tuple((txn.txn_id, txn.company_id, _identity(txn) not in known) for txn in ordered),
        )


def _identity(txn: Transaction) -> tuple[str, str]:
    return txn.company_id, txn.txn_id


def _saved_id(event: Event) -> UUID:
    if event.event_id is None:
        raise TypeError("emit_many returned an event without its id")
    return event.event_id


def _former_answer(conn: Any, former: intake.FormerBatch) -> Accepted:
    return Accepted(
        former.batch_id,
        former.ingest_batch_id,
        tuple(AcceptedSlice(**part) for part in former.answer["companies"]),
        tuple(
            (txn_id, company_id, first)
            for company_id, txn_id, first in intake.read_results(conn, former.ingest_batch_id)
        ),
    )


def _refuse_unknown(request: Request, unknown: set[str]) -> None:
    """Name each unknown company once, where it stands first, with what to do."""
    if not unknown:
        return
    first: dict[str, int] = {}
    for txn, index in zip(request.transactions, request.positions, strict=True):
        first.setdefault(txn.company_id, index)
    faults = [
        f"transactions[{first[company_id]}].company_id: unknown company {shown(company_id)}; add it with "
        f"`kylo-outbox company add {shlex.quote(company_id)} --spreadsheet ID`"
        for company_id in sorted(unknown, key=first.__getitem__)
    ]
    raise Refused(faults[:MAX_LISTED])


def _refuse_clashes(request: Request, clashes: list[tuple[str, str]]) -> None:
    paths = request.paths() if clashes else {}
    faults = sorted(
        f"{paths[company_id, txn_id]}.id: {shown(txn_id)} of company {shown(company_id)} is stored with other content; "
        "one id names one transaction, and a stored one never changes"
        for company_id, txn_id in clashes
    )
    if faults:
        raise Conflict(faults[:MAX_LISTED])


def _check_key(key: str | None) -> None:
    if key is not None and not (0 < len(key) <= _MAX_KEY and key.isascii() and key.isprintable()):
        raise Refused([f"Idempotency-Key: must be 1 to {_MAX_KEY} printable ASCII characters"])
