"""How far a batch has come: the times of its stages, each read where it is true. For a page, not for a hot path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import psycopg

# A row that is gone was published: partitions are dropped behind the cursor only. Its mark may still tell when.
_PUBLISHED = """
select asked.id, o.id is null or o.processed_at is not null,
       coalesce(o.processed_at, case when o.id is null then (
           select max(m.at) from kylo.marks m where asked.id between m.low and m.high) end)
  from unnest(%s::bigint[]) as asked(id)
  left join (select id, processed_at from kylo.outbox where id = any(%s)) o using (id)
"""
_APPLIED = """
select r.company_id, r.at, r.matched, r.unmatched,
       (select max(p.seq) from kylo.pending_txns p
         where p.company_id = r.company_id and (p.first_seen_batch = r.ingest_batch_id
                                                or p.last_seen_batch = r.ingest_batch_id))
  from kylo.triage_runs r
 where r.ingest_batch_id = %s and r.company_id = any(%s)
"""
_POSTED = """
select min(p.posted_at)
  from control.company_config c
  join control.sheet_posts p on p.company_id = c.company_id and p.tab_name = c.tab_pending
 where c.company_id = %s and p.state = 'posted' and p.upto >= %s
"""


class Published(NamedTuple):
    """Whether an outbox row was taken, and when as far as that is still known."""

    done: bool
    at: datetime | None


class Applied(NamedTuple):
    """When a slice was triaged, how it came out, and the newest `pending_txns.seq` that it touched (None: none)."""

    at: datetime
    matched: int
    unmatched: int
    newest_seq: int | None


def published(conn: psycopg.Connection[Any], outbox_ids: Sequence[int]) -> dict[int, Published]:
    """For each outbox id of the store of `conn`, whether Kafka (or the direct path) has taken it."""
    asked = list(outbox_ids)
    return {row: Published(done, at) for row, done, at in conn.execute(_PUBLISHED, (asked, asked))}


def applied(conn: psycopg.Connection[Any], ingest_batch_id: int, companies: Sequence[str]) -> dict[str, Applied]:
    """For each company of this store whose slice of the batch was triaged: when, and how it came out."""
    found = conn.execute(_APPLIED, (ingest_batch_id, list(companies)))
    return {company: Applied(at, matched, unmatched, seq) for company, at, matched, unmatched, seq in found}


def posted(conn: psycopg.Connection[Any], company_id: str, seq: int) -> datetime | None:
    """When the company's tab first held every open row up to `seq`; None if it does not yet (control store)."""
    row = conn.execute(_POSTED, (company_id, seq)).fetchone()
    return row[0] if row else None
