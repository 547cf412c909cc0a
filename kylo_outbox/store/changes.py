"""What the running transaction has changed so far, as PostgreSQL itself counts it."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import psycopg

CHANGED = r"""
select schemaname || '.' || relname, n_tup_ins, n_tup_upd, n_tup_del
  from pg_stat_xact_user_tables
 where n_tup_ins + n_tup_upd + n_tup_del > 0 and not starts_with(schemaname, 'pg_temp_')
 order by 1
"""
KINDS = ("inserted", "updated", "deleted")
Counts = dict[str, tuple[int, int, int]]


class _TakeBackError(Exception):
    """Ends the transaction of a trial."""


@contextmanager
def trial(
    transaction: AbstractContextManager[psycopg.Connection[Any]], *, keep: bool = False
) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that is taken back at the end of the block, unless `keep`."""
    with suppress(_TakeBackError), transaction as tx:
        yield tx
        if not keep:
            raise _TakeBackError


def counts(tx: psycopg.Connection[Any]) -> Counts:
    """Rows inserted, updated and deleted by table, as this session has not reported them yet; no temporary tables."""
    return {name: (inserted, updated, deleted) for name, inserted, updated, deleted in tx.execute(CHANGED)}


def changed_rows(tx: psycopg.Connection[Any], before: Counts) -> dict[str, dict[str, int]]:
    """Rows by table since `before`: {table: {"inserted": n, "updated": n, "deleted": n}}.

    What was rolled back to a savepoint counts too.
    """
    changed = {
        name: [now - then for now, then in zip(found, before.get(name, (0, 0, 0)), strict=True)]
        for name, found in counts(tx).items()
    }
    return {name: dict(zip(KINDS, rows, strict=True)) for name, rows in changed.items() if any(rows)}
