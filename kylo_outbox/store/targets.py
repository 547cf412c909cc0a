"""control.rule_targets: the sheets and headers that rules of a company may point to; without any, anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    import psycopg

    from kylo_outbox.model.rules import Targets

READ = "select target_sheet, target_header from control.rule_targets where company_id = %s"
ADD = """
insert into control.rule_targets (company_id, target_sheet, target_header)
select %s, * from unnest(%s::text[], %s::text[]) on conflict do nothing
"""
REMOVE = """
delete from control.rule_targets t using unnest(%s::text[], %s::text[]) as gone(target_sheet, target_header)
 where t.company_id = %s and (t.target_sheet, t.target_header) = (gone.target_sheet, gone.target_header)
"""


def read(tx: psycopg.Connection[Any], company_id: str) -> Targets:
    """(sheet, header) pairs of a company; header "" means every header of the sheet."""
    return frozenset(tx.execute(READ, (company_id,)).fetchall())


def add(tx: psycopg.Connection[Any], company_id: str, targets: Collection[tuple[str, str]]) -> None:
    """Allow targets; those that are allowed already stay."""
    tx.execute(ADD, (company_id, [sheet for sheet, _ in targets], [header for _, header in targets]))


def remove(tx: psycopg.Connection[Any], company_id: str, targets: Collection[tuple[str, str]]) -> None:
    """No longer allow targets; rules that point there stay as they are."""
    tx.execute(REMOVE, ([sheet for sheet, _ in targets], [header for _, header in targets], company_id))
