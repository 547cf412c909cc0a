"""kylo.sheet_approvals: which row of the Pending tab approved which proposal; written under the company's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime
    from uuid import UUID

    import psycopg

ITEMS = """
select txn_uid, status = 'open', description, rule_id, resolved_at from kylo.pending_txns
 where company_id = %s and txn_uid = any(%s)
"""
TAKEN = """
select a.txn_uid, a.proposal, p.rule_id, p.state, p.approved_by
  from kylo.sheet_approvals a join kylo.rules_proposals p using (company_id, proposal)
 where a.company_id = %s
"""
REMEMBER = """
insert into kylo.sheet_approvals (company_id, txn_uid, proposal)
select %s, * from unnest(%s::uuid[], %s::integer[])
on conflict (company_id, txn_uid) do update set proposal = excluded.proposal, taken_at = now()
"""
FORGET = "delete from kylo.sheet_approvals where company_id = %s and txn_uid = any(%s)"


class Item(NamedTuple):
    """A transaction that is or was open, and the rule that resolved it when."""

    is_open: bool
    description: str
    rule_id: UUID | None
    resolved_at: datetime | None


class Taken(NamedTuple):
    """A row that was read as approved before: its proposal, what that says, and what became of it."""

    proposal: int
    rule_id: UUID
    state: str
    approved_by: str | None


def items(tx: psycopg.Connection[Any], company_id: str, uids: Collection[UUID]) -> dict[UUID, Item]:
    """The company's transactions among `uids` that are or were open."""
    return {row[0]: Item(*row[1:]) for row in tx.execute(ITEMS, (company_id, list(uids))).fetchall()}


def taken(tx: psycopg.Connection[Any], company_id: str) -> dict[UUID, Taken]:
    """Every row that counts as approved."""
    return {row[0]: Taken(*row[1:]) for row in tx.execute(TAKEN, (company_id,)).fetchall()}


def remember(tx: psycopg.Connection[Any], company_id: str, approvals: Mapping[UUID, int]) -> None:
    """These rows approve these proposals."""
    tx.execute(REMEMBER, (company_id, list(approvals), list(approvals.values())))


def forget(tx: psycopg.Connection[Any], company_id: str, uids: Collection[UUID]) -> None:
    """These rows approve nothing any more."""
    tx.execute(FORGET, (company_id, list(uids)))
