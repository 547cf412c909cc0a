"""Slices, rules and the state of companies, written and read without the product's doors where a test compares them."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.normalise import normalise
from kylo_outbox.model.rules import Rule
from kylo_outbox.model.transactions import txn_uid
from kylo_outbox.store import company_state, pending, proposals, rules

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from kylo_outbox.store.engine import Database


def staged(company: str, txn_id: str, description: str, batch: int = 1, cents: int = 100) -> pending.Staged:
    """One transaction of one slice."""
    return pending.Staged(
        batch,
        company,
        txn_uid(company, txn_id),
        txn_id,
        date(2025, 8, 26),
        cents,
        description,
        normalise(description),
    )


def ingest(database: Database, rows: Iterable[pending.Staged]) -> dict[tuple[str, int], tuple[int, int, int]]:
    """Triage slices; (company, batch) -> (matched, unmatched, version)."""
    with database.transaction() as tx:
        runs = pending.triage(tx, list(rows))
    return {(run.company_id, run.batch): (run.matched, run.unmatched, run.rules_version) for run in runs}


def promote(database: Database, company: str, *new: Rule | tuple[str, str, str]) -> rules.Promotion:
    """Propose, approve and promote."""
    with database.transaction() as tx:
        version = company_state.lock(tx, [company])[company]
        if new:
            made, _ = proposals.propose(
                tx, company, [Rule(*rule) if isinstance(rule, tuple) else rule for rule in new], "t"
            )
            proposals.approve(tx, company, [each.proposal for each in made], "t")
        return rules.promote(tx, company, version, request_id=None, asked_by="t")


def undo(database: Database, company: str) -> rules.Promotion:
    """Undo the version in force."""
    with database.transaction() as tx:
        return rules.undo(tx, company, company_state.lock(tx, [company])[company], asked_by="t")


def rows(database: Database, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """The answer of one query."""
    with database.transaction() as tx:
        return tx.execute(sql, values).fetchall()


def open_items(database: Database, company: str) -> set[UUID]:
    """What is open."""
    ask = "select txn_uid from kylo.pending_txns where company_id = %s and status = 'open'"
    return {row[0] for row in rows(database, ask, company)}


def sorted_items(database: Database, company: str) -> dict[UUID, tuple[str, str]]:
    """What a rule decided, and where it belongs; a transaction that stands twice is an error."""
    ask = "select txn_uid, target_sheet, target_header from kylo.sort_queue where company_id = %s"
    found = rows(database, ask, company)
    assert len({row[0] for row in found}) == len(found), "a transaction was sorted twice"
    return {row[0]: (row[1], row[2]) for row in found}
