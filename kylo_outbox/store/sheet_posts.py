"""What was posted to which tab: a claim before the call to Google, confirmed after it, never two open at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.errors import UniqueViolation

from kylo_outbox.model.errors import Transient

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

OPEN_CLAIM = """
select id, ordinal, batch_signature, row_hashes, upto from control.sheet_posts
 where company_id = %s and tab_name = %s and state <> 'posted'
"""
NEXT_ORDINAL = "select coalesce(max(ordinal), 0) + 1 from control.sheet_posts where company_id = %s and tab_name = %s"
CLAIM = """
insert into control.sheet_posts (company_id, tab_name, spreadsheet_id, batch_signature, row_count, ordinal, state,
                                 row_hashes, upto)
values (%s, %s, %s, %s, %s, %s, 'sending', %s, %s) returning id
"""
CONFIRM = "update control.sheet_posts set state = 'posted', posted_at = now(), row_hashes = null where id = %s"
UNKNOWN = "update control.sheet_posts set state = 'unknown' where id = %s and state = 'sending'"
WITHDRAW = "delete from control.sheet_posts where id = %s and state <> 'posted'"
UPTO = """
select company_id, max(upto) from control.sheet_posts
 where state = 'posted' and upto is not null and company_id = any(%s) group by company_id
"""


class Claim(NamedTuple):
    """A post that was begun and is not confirmed; `row_hashes` are its rows, in order."""

    id: int
    ordinal: int
    signature: str
    row_hashes: list[str]
    upto: int | None


def open_claim(tx: psycopg.Connection[Any], company_id: str, tab: str) -> Claim | None:
    """The one unconfirmed post of this tab, if there is one."""
    row = tx.execute(OPEN_CLAIM, (company_id, tab)).fetchone()
    return Claim(*row) if row else None


def next_ordinal(tx: psycopg.Connection[Any], company_id: str, tab: str) -> int:
    """The number of the next post of this tab."""
    row: Any = tx.execute(NEXT_ORDINAL, (company_id, tab)).fetchone()
    return int(row[0])


def claim(
    tx: psycopg.Connection[Any],
    *,
    company_id: str,
    tab: str,
    spreadsheet_id: str,
    ordinal: int,
    signature: str,
    row_hashes: Sequence[str],
    upto: int | None,
) -> Claim:
    """Write down what is about to be sent.

    Raises:
        Transient: another poster's claim of this tab is open.
    """
    values = (company_id, tab, spreadsheet_id, signature, len(row_hashes), ordinal, list(row_hashes), upto)
    try:
        row: Any = tx.execute(CLAIM, values).fetchone()
    except UniqueViolation:
        raise Transient(f"tab {tab}: another poster is at it") from None
    return Claim(int(row[0]), ordinal, signature, list(row_hashes), upto)


def confirm(tx: psycopg.Connection[Any], post: Claim) -> None:
    """The post is in the tab."""
    tx.execute(CONFIRM, (post.id,))


def mark_unknown(tx: psycopg.Connection[Any], post: Claim) -> None:
    """Nobody knows whether the post is in the tab; its marker will tell."""
    tx.execute(UNKNOWN, (post.id,))


def withdraw(tx: psycopg.Connection[Any], post: Claim) -> None:
    """The post is certainly not in the tab."""
    tx.execute(WITHDRAW, (post.id,))


def complete_upto(tx: psycopg.Connection[Any], companies: Sequence[str]) -> dict[str, int]:
    """Per company: the newest `pending_txns.seq` up to which its tab is complete."""
    return {row[0]: int(row[1]) for row in tx.execute(UPTO, (list(companies),)).fetchall()}
