"""Which tab is whose by Google's id, which companies are set aside, and what lines of Pending tabs should say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from psycopg.types.json import Jsonb

from kylo_outbox.model.marks import Marks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import psycopg

Kind = Literal["pending", "active"]

KNOWN = """
select company_id, kind, spreadsheet_id, sheet_id, title, guards from control.sheet_tabs where company_id = any(%s)
"""
REMEMBER = """
insert into control.sheet_tabs (company_id, kind, spreadsheet_id, sheet_id, title) values (%s, %s, %s, %s, %s)
on conflict (company_id, kind) do update
   set spreadsheet_id = excluded.spreadsheet_id, sheet_id = excluded.sheet_id, title = excluded.title, seen_at = now(),
       upto = case when (sheet_tabs.spreadsheet_id, sheet_tabs.sheet_id) = (excluded.spreadsheet_id, excluded.sheet_id)
                   then sheet_tabs.upto end
 where (sheet_tabs.spreadsheet_id, sheet_tabs.sheet_id, sheet_tabs.title)
       is distinct from (excluded.spreadsheet_id, excluded.sheet_id, excluded.title)
"""
COMPLETE = """
update control.sheet_tabs set upto = %(upto)s
 where company_id = %(company)s and kind = 'pending' and (upto is null or upto < %(upto)s)
"""
UPTO = """
select t.company_id, t.upto
  from control.sheet_tabs t left join control.company_config c using (company_id)
 where t.kind = 'pending' and t.upto is not null and t.company_id = any(%s)
   and t.spreadsheet_id = coalesce(c.spreadsheet_id, t.spreadsheet_id) and t.title = coalesce(c.tab_pending, t.title)
"""
GUARD = "update control.sheet_tabs set guards = %s where company_id = %s and kind = 'pending'"
FORGET = "delete from control.sheet_tabs where company_id = %s and kind = any(%s)"
SET_ASIDE = """
insert into control.sheets_aside (company_id, spreadsheet_id, reason, remedy) values (%s, %s, %s, %s)
on conflict (company_id) do update
   set spreadsheet_id = excluded.spreadsheet_id, reason = excluded.reason, remedy = excluded.remedy,
       times = sheets_aside.times + 1,
       since = case when sheets_aside.reason = excluded.reason then sheets_aside.since else now() end
returning times
"""
AWAY = "Its own database cannot be read now"
"""The reason of companies that nobody needs to act for: they go on as soon as their database is back."""
WITHOUT_TABLES = "select company_id, since, times from control.sheets_aside where reason = %s"
RETURNED = "delete from control.sheets_aside where company_id = %s and reason = %s and (since, times) = (%s, %s)"
GO_ON = "delete from control.sheets_aside where company_id = any(%s) returning company_id"
ASIDE = """
select company_id, spreadsheet_id, reason, remedy, since, times from control.sheets_aside order by company_id
"""
MARKS = """
select row_hash, match_notes, rule_id, processed_at from control.sheet_marks
 where company_id = %s and row_hash = any(%s)
"""
PUT_MARKS = """
with given as (
    select * from unnest(%(hashes)s::text[], %(notes)s::text[], %(rules)s::text[], %(times)s::text[])
             as g(row_hash, match_notes, rule_id, processed_at)
), gone as (
    delete from control.sheet_marks m where company_id = %(company)s
       and not exists (select from given where given.row_hash = m.row_hash) returning 1
), written as (
    insert into control.sheet_marks (company_id, row_hash, match_notes, rule_id, processed_at)
    select %(company)s, g.* from given g
    on conflict (company_id, row_hash) do update
       set match_notes = excluded.match_notes, rule_id = excluded.rule_id, processed_at = excluded.processed_at
     where (sheet_marks.match_notes, sheet_marks.rule_id, sheet_marks.processed_at)
           is distinct from (excluded.match_notes, excluded.rule_id, excluded.processed_at)
    returning 1
)
select (select count(*) from gone) + (select count(*) from written)
"""


class KnownTab(NamedTuple):
    """The tab that a company's rows were written to."""

    spreadsheet_id: str
    sheet_id: int
    title: str
    guards: dict[str, Any] | None


class Aside(NamedTuple):
    """A company whose tabs wait for a person, or (`reason` is `AWAY`) for its own database."""

    company_id: str
    spreadsheet_id: str
    reason: str
    remedy: str
    since: datetime
    times: int


def known_tabs(tx: psycopg.Connection[Any], companies: Sequence[str]) -> dict[tuple[str, str], KnownTab]:
    """The tabs by company and kind."""
    rows = tx.execute(KNOWN, (list(companies),)).fetchall()
    return {(row[0], row[1]): KnownTab(*row[2:]) for row in rows}


def remember(
    tx: psycopg.Connection[Any], company_id: str, kind: str, spreadsheet_id: str, sheet_id: int, title: str
) -> None:
    """This tab is the company's own from now on; what is known of its rows stays if it only got another name."""
    tx.execute(REMEMBER, (company_id, kind, spreadsheet_id, sheet_id, title))


def complete(tx: psycopg.Connection[Any], company_id: str, upto: int) -> None:
    """The Pending tab that is remembered holds every open row up to this one."""
    tx.execute(COMPLETE, {"company": company_id, "upto": upto})


def complete_upto(tx: psycopg.Connection[Any], companies: Sequence[str]) -> dict[str, int]:
    """Per company: the newest `pending_txns.seq` up to which its Pending tab, as configured now, is complete."""
    return dict(tx.execute(UPTO, (list(companies),)).fetchall())


def guard(tx: psycopg.Connection[Any], company_id: str, guards: dict[str, Any] | None) -> None:
    """Keep what people typed in system columns of a Pending tab until it is sure that it is still there."""
    tx.execute(GUARD, (Jsonb(guards) if guards is not None else None, company_id))


def forget(tx: psycopg.Connection[Any], company_id: str, kinds: Sequence[str] = ("pending", "active")) -> None:
    """Take the tab by its title the next time."""
    tx.execute(FORGET, (company_id, list(kinds)))


def set_aside(tx: psycopg.Connection[Any], company_id: str, spreadsheet_id: str, reason: str, remedy: str) -> bool:
    """Leave a company out until a person acts or its database is back; True if it was not so before."""
    row: Any = tx.execute(SET_ASIDE, (company_id, spreadsheet_id, reason, remedy)).fetchone()
    return bool(row[0] == 1)


def go_on(tx: psycopg.Connection[Any], companies: Sequence[str]) -> list[str]:
    """Nothing is wrong (any more) with these; those of them that were set aside."""
    return [row[0] for row in tx.execute(GO_ON, (list(companies),)).fetchall()]


def without_tables(tx: psycopg.Connection[Any]) -> dict[str, tuple[datetime, int]]:
    """The companies that wait for their own database: (since when, how many times set aside)."""
    return {row[0]: (row[1], row[2]) for row in tx.execute(WITHOUT_TABLES, (AWAY,)).fetchall()}


def returned(tx: psycopg.Connection[Any], company_id: str, since: datetime, times: int) -> None:
    """The database is back and the tabs are announced; does nothing if the company was set aside again meanwhile."""
    tx.execute(RETURNED, (company_id, AWAY, since, times))


def all_aside(tx: psycopg.Connection[Any]) -> list[Aside]:
    """Every company that is set aside."""
    return [Aside(*row) for row in tx.execute(ASIDE).fetchall()]


def marks_of(tx: psycopg.Connection[Any], company_id: str, hashes: Sequence[str]) -> dict[str, Marks]:
    """What these lines should say about approvals; lines without a row say nothing."""
    rows = tx.execute(MARKS, (company_id, list(hashes))).fetchall()
    return {row[0]: Marks(*row[1:]) for row in rows}


def put_marks(tx: psycopg.Connection[Any], company_id: str, marks: Mapping[str, Marks]) -> int:
    """Keep what every line of a company should say; lines that are not named say nothing. How many changed."""
    kept = {line: found for line, found in marks.items() if found != Marks()}
    values = list(kept.values())
    given = {
        "company": company_id,
        "hashes": list(kept),
        "notes": [found.match_notes for found in values],
        "rules": [found.rule_id for found in values],
        "times": [found.processed_at for found in values],
    }
    row: Any = tx.execute(PUT_MARKS, given).fetchone()
    return int(row[0])
