"""Transactions of companies and their triage, set-based: moved, matched against the rules in force, left open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kylo_outbox.store import company_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date
    from uuid import UUID

    import psycopg

STAGE = """
create temporary table if not exists kylo_slice (
    batch bigint, company_id text, txn_uid uuid, txn_id text, occurred_at date, amount_cents bigint,
    description text, description_norm text
) on commit delete rows
"""
COPY_STAGE = """
copy kylo_slice (batch, company_id, txn_uid, txn_id, occurred_at, amount_cents, description, description_norm)
from stdin
"""
MOVE = """
insert into kylo.transactions (company_id, txn_uid, txn_id, occurred_at, amount_cents, description, description_norm,
                               first_seen_batch, last_seen_batch)
select distinct on (company_id, txn_uid) company_id, txn_uid, txn_id, occurred_at, amount_cents, description,
       description_norm, batch, max(batch) over (partition by company_id, txn_uid)
  from kylo_slice
 order by company_id, txn_uid, batch
on conflict (company_id, txn_uid) do update
   set last_seen_batch = greatest(kylo.transactions.last_seen_batch, excluded.last_seen_batch)
"""
# The rules in force that match anything here; among duplicate sources the last one wins. One look-up in the index a
# description: a join of two tables whose sizes the planner does not know yet may compare each row with each rule
# (`+ 0`: not by walking the rules in the order of their positions either).
RULES = """
create temporary table if not exists kylo_rules (
    company_id text, source_norm text, target_sheet text, target_header text, version integer,
    primary key (company_id, source_norm)
) on commit delete rows
"""
LOAD_RULES = """
insert into kylo_rules
select s.company_id, s.description_norm, r.target_sheet, r.target_header, r.version
  from (select distinct company_id, description_norm from kylo_slice) s
  join unnest(%s::text[], %s::integer[]) as in_force(company_id, version) using (company_id)
  cross join lateral (
      select target_sheet, target_header, version from kylo.rules_active r
       where r.company_id = s.company_id and r.version = in_force.version and r.source_norm = s.description_norm
       order by r.position + 0 desc limit 1) r
"""
# A transaction that a rule has sorted already, by whatever way, is not sorted twice.
MATCHED = """
insert into kylo.sort_queue (company_id, txn_uid, reason, batch_id, target_sheet, target_header, rules_version)
select distinct on (s.company_id, s.txn_uid) s.company_id, s.txn_uid, 'feed.updated', s.batch::text, r.target_sheet,
       r.target_header, r.version
  from kylo_slice s join kylo_rules r on r.company_id = s.company_id and r.source_norm = s.description_norm
 where not exists (select from kylo.sort_queue q where q.company_id = s.company_id and q.txn_uid = s.txn_uid)
 order by s.company_id, s.txn_uid, s.batch
on conflict do nothing
"""
# A repeat refreshes when it was last seen and nothing else: an item that was resolved stays resolved.
UNMATCHED = """
insert into kylo.pending_txns (company_id, txn_uid, first_seen_batch, last_seen_batch, occurred_at, description,
                               description_norm, amount_cents)
select company_id, txn_uid, batch, last_batch, occurred_at, description, description_norm, amount_cents
  from (select distinct on (s.company_id, s.txn_uid) s.*,
               max(s.batch) over (partition by s.company_id, s.txn_uid) as last_batch
          from kylo_slice s
         where not exists (select from kylo_rules r
                            where r.company_id = s.company_id and r.source_norm = s.description_norm)
         order by s.company_id, s.txn_uid, s.batch) open_items
 order by company_id, batch, txn_id
on conflict (company_id, txn_uid) do update
   set last_seen_batch = greatest(kylo.pending_txns.last_seen_batch, excluded.last_seen_batch)
"""
COUNTS = """
select s.batch, s.company_id, count(*) filter (where r.company_id is not null),
       count(*) filter (where r.company_id is null)
  from kylo_slice s
  left join kylo_rules r on r.company_id = s.company_id and r.source_norm = s.description_norm
 group by s.batch, s.company_id
"""
REMEMBER = """
insert into kylo.triage_runs (company_id, ingest_batch_id, batch_id, rules_version, matched, unmatched)
values (%s, %s, %s, %s, %s, %s) on conflict do nothing
"""
OPEN_ROWS = """
select txn_uid::text, seq, occurred_at, description, amount_cents
  from kylo.pending_txns where company_id = %s and status = 'open' order by seq
"""
PAGE = """
select txn_uid::text, seq, occurred_at, description, amount_cents from kylo.pending_txns
 where company_id = %s and status = 'open' and seq > %s order by seq limit %s
"""
NEWEST_OPEN = """
select company_id, max(seq), count(*) from kylo.pending_txns
 where status = 'open' and company_id = any(%s) group by company_id
"""


class Staged(NamedTuple):
    """One transaction of one slice."""

    batch: int
    company_id: str
    txn_uid: UUID
    txn_id: str
    occurred_at: date
    amount_cents: int
    description: str
    description_norm: str


class Triaged(NamedTuple):
    """What one slice came to."""

    batch: int
    company_id: str
    matched: int
    unmatched: int
    rules_version: int


class OpenRow(NamedTuple):
    """One open item, in the order in which items were first left open."""

    txn_uid: str
    seq: int
    occurred_at: date
    description: str
    amount_cents: int


def triage(tx: psycopg.Connection[Any], rows: Sequence[Staged]) -> list[Triaged]:
    """Move `rows` into the companies' tables and triage them; a repeat gives equal counts and adds no rows.

    Raises:
        Transient: a company's rows are on their way to another database.
    """
    versions = company_state.lock(tx, (row.company_id for row in rows))
    tx.execute(STAGE)
    tx.execute(RULES)
    with tx.cursor() as cursor, cursor.copy(COPY_STAGE) as copy:
        for row in rows:
            copy.write_row(row)
    tx.execute(LOAD_RULES, (list(versions), list(versions.values())))
    for statement in (MOVE, MATCHED, UNMATCHED):
        tx.execute(statement)
    return [
        Triaged(batch, company, matched, unmatched, versions[company])
        for batch, company, matched, unmatched in tx.execute(COUNTS).fetchall()
    ]


def remember_runs(tx: psycopg.Connection[Any], runs: Iterable[tuple[Triaged, UUID]]) -> None:
    """Keep when each slice was triaged, under which rules, and how it came out; the first time counts."""
    values = [
        (run.company_id, run.batch, batch_id, run.rules_version, run.matched, run.unmatched) for run, batch_id in runs
    ]
    with tx.cursor() as cursor:
        cursor.executemany(REMEMBER, values)


def open_rows(tx: psycopg.Connection[Any], company_id: str) -> list[OpenRow]:
    """The open items of one company.

    Raises:
        Transient: its rows are moving or have moved to another database.
    """
    company_state.require_here(tx, company_id)
    return [OpenRow(*row) for row in tx.execute(OPEN_ROWS, (company_id,)).fetchall()]


def page(tx: psycopg.Connection[Any], company_id: str, after: int, limit: int) -> list[OpenRow]:
    """Open items of one company behind the item `after` (its seq), at most `limit`."""
    return [OpenRow(*row) for row in tx.execute(PAGE, (company_id, after, limit)).fetchall()]


def newest_open(tx: psycopg.Connection[Any], companies: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Per company with open items: (newest seq, how many)."""
    return {row[0]: (row[1], row[2]) for row in tx.execute(NEWEST_OPEN, (list(companies),)).fetchall()}
