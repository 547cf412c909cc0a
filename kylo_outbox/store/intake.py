"""What was received (schema `intake` of the control store): batches, transactions once each, and the slices.

Set-based: a request costs the same few statements whatever its size. Every writer inserts transactions in the order
of (company_id, txn_id), so overlapping requests wait for each other and never deadlock; who waits sees afterwards
what the other has stored, so no row is lost and none is stored twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID  # noqa: TC003 - class_row and NamedTuple name it at run time

from psycopg.rows import class_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date, datetime

    import psycopg

    from kylo_outbox.model.transactions import Transaction

_CLAIM = """
insert into intake.batches (batch_id, request_digest, idempotency_key, source, answer)
values (kylo.uuid_v7(), %s, %s, %s, '{}')
on conflict do nothing
returning ingest_batch_id, batch_id, received_at
"""
_FIND = """
select ingest_batch_id, batch_id, request_digest, received_at, answer
  from intake.batches
 where request_digest = %(digest)s or idempotency_key = %(key)s
 order by (idempotency_key = %(key)s) is not true
 limit 1
"""
_SAVE = """
insert into intake.transactions (company_id, txn_id, txn_uid, content_digest, occurred_at, amount_cents, description,
                                 description_norm, first_batch)
select company_id, txn_id, txn_uid, content_digest, occurred_at, amount_cents, description, description_norm, %s
  from unnest(%s::text[], %s::text[], %s::uuid[], %s::bytea[], %s::date[], %s::bigint[], %s::text[], %s::text[])
       with ordinality as given(company_id, txn_id, txn_uid, content_digest, occurred_at, amount_cents, description,
                                description_norm, n)
 order by n
on conflict do nothing
"""
_KNOWN = """
select stored.company_id, stored.txn_id, stored.content_digest <> given.content_digest
  from unnest(%s::text[], %s::text[], %s::bytea[]) as given(company_id, txn_id, content_digest)
  join intake.transactions stored using (company_id, txn_id)
 where stored.first_batch <> %s
"""
_ITEMS = """
insert into intake.batch_items (ingest_batch_id, company_id, txn_id)
select %s, company_id, txn_id from unnest(%s::text[], %s::text[]) as given(company_id, txn_id)
"""
_SLICES = """
insert into intake.slices (ingest_batch_id, company_id, event_id, slice_signature, rows)
select %s, * from unnest(%s::text[], %s::uuid[], %s::text[], %s::integer[])
"""
# The events of this very transaction are found by its xid: that index is cheap, one on event_id does not exist.
_ANSWER = """
update intake.batches
   set answer = %(answer)s::jsonb || jsonb_build_object('outbox_ids', (
           select coalesce(jsonb_object_agg(event_id, id), '{}') from kylo.outbox_log
            where xid = pg_current_xact_id() and event_id = any(%(events)s)))
 where ingest_batch_id = %(batch)s
"""
_RESULTS = """
select i.company_id, i.txn_id, t.first_batch = i.ingest_batch_id
  from intake.batch_items i join intake.transactions t using (company_id, txn_id)
 where i.ingest_batch_id = %s
"""
_READ_SLICES = """
select i.ingest_batch_id, t.company_id, t.txn_uid, t.txn_id, t.occurred_at, t.amount_cents, t.description,
       t.description_norm, t.content_digest
  from (select distinct * from unnest(%s::bigint[], %s::text[])) as asked(ingest_batch_id, company_id)
  join intake.batch_items i using (ingest_batch_id, company_id)
  join intake.transactions t using (company_id, txn_id)
 order by i.ingest_batch_id, t.company_id, t.txn_id
"""
_STATUS = "select ingest_batch_id, batch_id, received_at from intake.batches where batch_id = %s"
_STATUS_SLICES = """
select s.company_id, s.event_id, s.rows, ((b.answer -> 'outbox_ids') ->> s.event_id::text)::bigint as outbox_id
  from intake.slices s join intake.batches b using (ingest_batch_id)
 where s.ingest_batch_id = %s
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that this transaction has just begun."""

    ingest_batch_id: int
    batch_id: UUID
    received_at: datetime


@dataclass(frozen=True, slots=True)
class FormerBatch:
    """A batch stored earlier, with the digest of its request and the answer that was given."""

    ingest_batch_id: int
    batch_id: UUID
    request_digest: bytes
    received_at: datetime
    answer: dict[str, Any]


class SliceRow(NamedTuple):
    """One transaction as a member of one slice."""

    ingest_batch_id: int
    company_id: str
    txn_uid: UUID
    txn_id: str
    occurred_at: date
    amount_cents: int
    description: str
    description_norm: str
    content_digest: bytes


class SliceSaved(NamedTuple):
    """One company's part of a batch: the event that announced it, its content's signature, its number of rows."""

    company_id: str
    event_id: UUID
    signature: str
    rows: int


@dataclass(frozen=True, slots=True)
class SliceStatus:
    """One slice as its batch page shows it; `outbox_id` is the row of the event in the control store's outbox."""

    company_id: str
    event_id: UUID
    rows: int
    outbox_id: int | None


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """A batch and its slices, in the order of company ids."""

    ingest_batch_id: int
    batch_id: UUID
    received_at: datetime
    slices: tuple[SliceStatus, ...]


def claim_batch(
    conn: psycopg.Connection[Any], digest: bytes, idempotency_key: str | None, source: str
) -> Batch | FormerBatch:
    """Begin a batch for a request, or return the one that has its content or its key.

    Of identical requests at the same time one begins the batch; the others wait here for its end. When content and
    key lead to different batches, the key's one is returned: its digest then tells of the misuse.
    """
    while True:
        begun = conn.execute(_CLAIM, (digest, idempotency_key, source)).fetchone()
        if begun:
            return Batch(*begun)
        with conn.cursor(row_factory=class_row(FormerBatch)) as cursor:
            former = cursor.execute(_FIND, {"digest": digest, "key": idempotency_key}).fetchone()
        if former:
            return former
        # The one we waited for was just removed: then the place is free.


def is_known(conn: psycopg.Connection[Any], digest: bytes) -> bool:
    """Whether a request of this content is stored, so that a repeat adds nothing."""
    return conn.execute("select from intake.batches where request_digest = %s", (digest,)).fetchone() is not None


def save_transactions(
    conn: psycopg.Connection[Any], batch: Batch, transactions: Sequence[Transaction]
) -> list[tuple[str, str, bool]]:
    """Store what is new and make all of them members of the batch.

    Args:
        conn: A connection inside the ingest's transaction, at READ COMMITTED.
        batch: From `claim_batch`.
        transactions: Each identity once.

    Returns:
        (company_id, txn_id, whether its stored content differs) of those that an earlier batch brought. If any
        differs, the caller must roll back.
    """
    ordered = sorted(transactions, key=lambda txn: (txn.company_id, txn.txn_id))
    companies, ids = [txn.company_id for txn in ordered], [txn.txn_id for txn in ordered]
    digests = [txn.content_digest for txn in ordered]
    saved = conn.execute(
        _SAVE,
        (
            batch.ingest_batch_id,
            companies,
            ids,
            [txn.txn_uid for txn in ordered],
            digests,
            [txn.occurred_at for txn in ordered],
            [txn.amount_cents for txn in ordered],
            [txn.description for txn in ordered],
            [txn.description_norm for txn in ordered],
        ),
    )
    conn.execute(_ITEMS, (batch.ingest_batch_id, companies, ids))
    if saved.rowcount == len(ordered):
        return []
    return conn.execute(_KNOWN, (companies, ids, digests, batch.ingest_batch_id)).fetchall()


def save_slices(conn: psycopg.Connection[Any], batch: Batch, slices: Sequence[SliceSaved]) -> None:
    """Record the slices, which events announce them, and the answer that an identical repeat gets."""
    columns = [list(column) for column in zip(*slices, strict=True)] or [[], [], [], []]
    conn.execute(_SLICES, (batch.ingest_batch_id, *columns))
    answer = {
        "companies": [
            {"company_id": part.company_id, "rows": part.rows, "event_id": str(part.event_id)} for part in slices
        ]
    }
    conn.execute(
        _ANSWER,
        {
            "answer": json.dumps(answer),
            "events": [part.event_id for part in slices],
            "batch": batch.ingest_batch_id,
        },
    )


def read_results(conn: psycopg.Connection[Any], ingest_batch_id: int) -> list[tuple[str, str, bool]]:
    """(company_id, txn_id, whether this batch brought it first) of each member, sorted by code points."""
    return sorted(conn.execute(_RESULTS, (ingest_batch_id,)).fetchall())


def read_slices(conn: psycopg.Connection[Any], slices: Iterable[tuple[int, str]]) -> list[SliceRow]:
    """The rows of many slices in one query.

    Args:
        conn: A connection to the control store.
        slices: (ingest_batch_id, company_id) of each; a pair given twice counts once, an unknown one brings no row.

    Returns:
        Rows by batch, company and id. A transaction that two batches brought appears once for each of them.
    """
    asked = list(slices)
    with conn.cursor() as cursor:
        cursor.execute(_READ_SLICES, ([batch for batch, _ in asked], [company for _, company in asked]))
        return [SliceRow(*row) for row in cursor]


def batch_status(conn: psycopg.Connection[Any], batch_id: UUID) -> BatchStatus | None:
    """A batch with its slices, or None if there is no such batch."""
    found = conn.execute(_STATUS, (batch_id,)).fetchone()
    if found is None:
        return None
    with conn.cursor(row_factory=class_row(SliceStatus)) as cursor:
        slices = cursor.execute(_STATUS_SLICES, (found[0],)).fetchall()
    return BatchStatus(found[0], found[1], found[2], tuple(sorted(slices, key=lambda part: part.company_id)))
