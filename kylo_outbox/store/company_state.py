"""kylo.company_state: the one row of a company that whoever changes its rules or transactions locks first.

Topics `txns` and `rules.promote.requests` have no mutual order. Ingest, promotion and undo of one company therefore
never overlap: each locks this row before it reads rules, and the version in force is read under that lock. Under
READ COMMITTED the reader sees what the former holder committed; under a stricter isolation PostgreSQL refuses a lock
on a row that changed since the snapshot, and the work is tried again. So no transaction slips between a rule and its
replay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.model.errors import Transient

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg

# In one order everywhere, so that two transactions never wait for each other crosswise.
MAKE = """
insert into kylo.company_state (company_id)
select company_id from unnest(%s::text[]) as given(company_id) order by 1
on conflict do nothing
"""
LOCK = """
select company_id, rules_version, moved_by is not null from kylo.company_state
 where company_id = any(%s) order by company_id for update
"""
VERSIONS = "select company_id, rules_version from kylo.company_state where company_id = any(%s)"
MOVED = "select moved_by is not null from kylo.company_state where company_id = %s"


def require_here(tx: psycopg.Connection[Any], company_id: str) -> None:
    """Refuse to show rows that are on their way elsewhere, or were left behind.

    Raises:
        Transient: the company is being moved or has moved away.
    """
    row = tx.execute(MOVED, (company_id,)).fetchone()
    if row is not None and row[0]:
        raise _moving([company_id])


def lock(tx: psycopg.Connection[Any], companies: Iterable[str]) -> dict[str, int]:
    """Lock companies until the end of the transaction; the rules version in force of each (0: no rules).

    Raises:
        Transient: a company is being moved or has moved to another database; its directory entry will say so.
    """
    asked = sorted(set(companies))
    tx.execute(MAKE, (asked,))
    rows = tx.execute(LOCK, (asked,)).fetchall()
    away = [company for company, _, moved in rows if moved]
    if away:
        raise _moving(away)
    return {company: version for company, version, _ in rows}


def versions(tx: psycopg.Connection[Any], companies: Iterable[str]) -> dict[str, int]:
    """The rules version in force of each company that was ever worked for, without a lock (0: no rules)."""
    return dict(tx.execute(VERSIONS, (list(companies),)).fetchall())


def _moving(companies: list[str]) -> Transient:
    return Transient(f"company {', '.join(companies)}: its rows are moving to another database; this goes on there")
