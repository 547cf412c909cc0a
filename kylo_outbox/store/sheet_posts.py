"""What was posted to which tab: a claim before the call to Google, confirmed after it, never two open at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.errors import UniqueViolation

from kylo_outbox.model.errors import Transient

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

OPEN_CLAIMS = """
select id, company_id, tab_name, ordinal, batch_signature, row_hashes, upto, sheet_id, ruleset_version, state
  from control.sheet_posts where company_id = any(%s) and state <> 'posted'
"""
NEXT_ORDINALS = """
select company_id, tab_name, max(ordinal) + 1 from control.sheet_posts
 where company_id = any(%s) group by company_id, tab_name
"""
CLAIM = """
insert into control.sheet_posts (company_id, tab_name, spreadsheet_id, batch_signature, row_count, ordinal, state,
                                 row_hashes, upto, sheet_id, ruleset_version)
values (%s, %s, %s, %s, %s, %s, 'sending', %s, %s, %s, %s)
returning id, company_id, tab_name, ordinal, batch_signature, row_hashes, upto, sheet_id, ruleset_version, state
"""
CONFIRM = """
update control.sheet_posts set state = 'posted', posted_at = clock_timestamp(), row_hashes = null where id = any(%s)
"""
UNKNOWN = "update control.sheet_posts set state = 'unknown' where id = any(%s) and state = 'sending'"
WITHDRAW = "delete from control.sheet_posts where id = any(%s) and state <> 'posted'"
COMPLETE = """
update control.sheet_posts set upto = greatest(upto, %(upto)s)
 where id = (select max(id) from control.sheet_posts
              where company_id = %(company)s and tab_name = %(tab)s and state = 'posted' and ruleset_version is null)
"""
INCOMPLETE = "update control.sheet_posts set upto = null, ruleset_version = null where company_id = %s"
POSTED_VERSIONS = """
select distinct on (p.company_id, p.tab_name) p.company_id, p.tab_name, p.ruleset_version
  from control.sheet_posts p left join control.company_config c using (company_id)
 where p.company_id = any(%s) and p.state = 'posted' and p.ruleset_version is not null
   and p.spreadsheet_id = coalesce(c.spreadsheet_id, p.spreadsheet_id)
 order by p.company_id, p.tab_name, p.ordinal desc
"""

ACTIVE_VERSIONS = """
select distinct on (p.company_id) p.company_id, p.ruleset_version
  from control.sheet_posts p
  join control.company_config c
    on (c.company_id, c.spreadsheet_id, c.tab_active) = (p.company_id, p.spreadsheet_id, p.tab_name)
 where p.company_id = any(%s) and p.state = 'posted' and p.ruleset_version is not null
 order by p.company_id, p.ordinal desc
"""


class Claim(NamedTuple):
    """A post that was begun and is not confirmed; `row_hashes` are its rows, in order."""

    id: int
    company_id: str
    tab: str
    ordinal: int
    signature: str
    row_hashes: list[str]
    upto: int | None
    sheet_id: int | None
    version: int | None
    state: str


def open_claims(tx: psycopg.Connection[Any], companies: Sequence[str]) -> list[Claim]:
    """The unconfirmed posts of these companies, at most one a tab."""
    return [Claim(*row) for row in tx.execute(OPEN_CLAIMS, (list(companies),)).fetchall()]


def next_ordinals(tx: psycopg.Connection[Any], companies: Sequence[str]) -> dict[tuple[str, str], int]:
    """The number of the next post by company and tab; 1 where there is none yet."""
    return {(row[0], row[1]): row[2] for row in tx.execute(NEXT_ORDINALS, (list(companies),)).fetchall()}


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
    sheet_id: int | None = None,
    version: int | None = None,
) -> Claim:
    """Write down what is about to be sent.

    Raises:
        Transient: another poster's claim of this tab is open.
    """
    values = (company_id, tab, spreadsheet_id, signature, len(row_hashes), ordinal, list(row_hashes), upto)
    try:
        row: Any = tx.execute(CLAIM, (*values, sheet_id, version)).fetchone()
    except UniqueViolation:
        raise Transient(f"tab {tab}: another poster is at it") from None
    return Claim(*row)


def confirm(tx: psycopg.Connection[Any], posts: Iterable[int]) -> None:
    """The posts are in their tabs."""
    tx.execute(CONFIRM, (list(posts),))


def mark_unknown(tx: psycopg.Connection[Any], posts: Iterable[int]) -> None:
    """Nobody knows whether the posts are in their tabs; their markers will tell."""
    tx.execute(UNKNOWN, (list(posts),))


def withdraw(tx: psycopg.Connection[Any], posts: Iterable[int]) -> None:
    """The posts are certainly not in their tabs."""
    tx.execute(WITHDRAW, (list(posts),))


def complete(tx: psycopg.Connection[Any], company_id: str, tab: str, upto: int) -> None:
    """Every open row up to this one counts as posted by the newest post of the tab: it was read and holds them."""
    tx.execute(COMPLETE, {"company": company_id, "tab": tab, "upto": upto})


def forget_progress(tx: psycopg.Connection[Any], company_id: str) -> None:
    """The company's tabs may lack what was posted before: the next look compares again."""
    tx.execute(INCOMPLETE, (company_id,))


def posted_versions(tx: psycopg.Connection[Any], companies: Sequence[str]) -> dict[tuple[str, str], int]:
    """By company and tab: the version of the set of rules that was posted last."""
    return {(row[0], row[1]): row[2] for row in tx.execute(POSTED_VERSIONS, (list(companies),)).fetchall()}


def active_versions(tx: psycopg.Connection[Any], companies: Sequence[str]) -> dict[str, int]:
    """Per company: the version of the rules that its Active tab, as configured now, shows."""
    return dict(tx.execute(ACTIVE_VERSIONS, (list(companies),)).fetchall())
