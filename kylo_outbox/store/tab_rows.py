"""What the tables say that a company's tabs should show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from kylo_outbox.model.marks import Marks
from kylo_outbox.model.tabs import ActiveRow
from kylo_outbox.store.pending import OpenRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

ROWS = """
select txn_uid::text, seq, occurred_at, description, amount_cents
  from kylo.pending_txns where company_id = %s and txn_uid = any(%s::uuid[])
"""
STATES = """
select p.txn_uid::text, p.status, to_char(p.resolved_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
       coalesce(p.rule_id::text, 'ruleset ' || p.rules_version)
  from kylo.pending_txns p where p.company_id = %s and p.txn_uid = any(%s::uuid[])
"""
ACTIVE = """
select version, to_char(max(created_at) over () at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), source,
       target_sheet, target_header, coalesce(match_notes, ''),
       to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
  from app.rules_active where company_id = %s order by source_norm, source, target_sheet, target_header
"""


def rows_of(tx: psycopg.Connection[Any], company_id: str, hashes: Sequence[str]) -> list[OpenRow]:
    """The items of these ids, open or resolved, in the order given."""
    rows = {row[0]: OpenRow(*row) for row in tx.execute(ROWS, (company_id, list(hashes))).fetchall()}
    return [rows[line] for line in hashes if line in rows]


def states_of(tx: psycopg.Connection[Any], company_id: str, hashes: Iterable[str]) -> dict[str, Marks | None]:
    """The items among these texts: None for an open one, for a resolved one what its line says by itself."""
    ids = [line for line in hashes if _is_uuid(line)]
    rows = tx.execute(STATES, (company_id, ids)).fetchall()
    return {
        row[0]: Marks(rule_id=row[3] or "", processed_at=row[2] or "") if row[1] == "resolved" else None for row in rows
    }


def active_rules(tx: psycopg.Connection[Any], company_id: str) -> tuple[int | None, list[ActiveRow]]:
    """(version in force, its rules as the Active tab shows them); no version where there were never any."""
    rows = [
        ActiveRow(version, effective, company_id, source, sheet, header, notes, created)
        for version, effective, source, sheet, header, notes, created in tx.execute(ACTIVE, (company_id,)).fetchall()
    ]
    return (rows[0].ruleset_version if rows else None), rows


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
