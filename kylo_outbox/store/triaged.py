"""What is left of slices that were triaged, for the verifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import psycopg

_NOTED = """
select r.ingest_batch_id, r.company_id
  from kylo.triage_runs r
  join unnest(%s::bigint[], %s::text[]) as g(ingest_batch_id, company_id) using (ingest_batch_id, company_id)
"""
_MISSING = """
select g.ingest_batch_id, g.company_id, g.txn_uid
  from unnest(%s::bigint[], %s::text[], %s::uuid[]) as g(ingest_batch_id, company_id, txn_uid)
 where not exists (select from kylo.transactions t where t.company_id = g.company_id and t.txn_uid = g.txn_uid)
    or (not exists (select from kylo.pending_txns p where p.company_id = g.company_id and p.txn_uid = g.txn_uid)
        and not exists (select from kylo.sort_queue q where q.company_id = g.company_id and q.txn_uid = g.txn_uid))
"""

Slice = tuple[int, str]
"""(ingest batch, company)."""


def noted(tx: psycopg.Connection[Any], slices: Sequence[Slice]) -> list[Slice]:
    """Which slices were triaged."""
    return tx.execute(_NOTED, [[each[column] for each in slices] for column in range(2)]).fetchall()


def missing(tx: psycopg.Connection[Any], rows: Sequence[tuple[int, str, UUID]]) -> dict[Slice, list[UUID]]:
    """Transactions of slices that are gone, or in neither of the tables in which triage leaves them."""
    found: dict[Slice, list[UUID]] = {}
    for batch, company, uid in tx.execute(_MISSING, [[row[column] for row in rows] for column in range(3)]):
        found.setdefault((batch, company), []).append(uid)
    return found
