"""What PostgreSQL counted between two looks: WAL, statements, writes of the cursor, dead rows."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.bench import rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

# Backends hand their counters over when they are idle, at most once a second.
_SETTLE_SECONDS = 1.5

LOOK = """
select (pg_current_wal_lsn() - '0/0'::pg_lsn)::float8,
       coalesce((select n_tup_upd from pg_stat_user_tables where relid = 'kylo.lanes'::regclass), 0)::float8,
       coalesce((select sum(calls) from pg_stat_statements), 0)::float8
"""
DEAD = """
select coalesce(sum(s.n_dead_tup), 0) from pg_stat_user_tables s
  join pg_inherits i on i.inhrelid = s.relid where i.inhparent = 'kylo.outbox_log'::regclass
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """Counters of the server, of all databases together."""

    wal: float
    cursors: float
    statements: float
    at: float

    def since(self, former: Counted) -> Counted:
        """What was added; `at` is the seconds between."""
        return Counted(
            self.wal - former.wal,
            self.cursors - former.cursors,
            self.statements - former.statements,
            self.at - former.at,
        )


def count(database: Database) -> Counted:
    """Read the counters; waits first until every backend has handed its own over."""
    time.sleep(_SETTLE_SECONDS)
    with rows.connect(database) as connection:
        wal, cursors, statements = connection.execute(LOOK).fetchone() or (0.0, 0.0, 0.0)
    return Counted(wal, cursors, statements, time.monotonic())


def dead_rows(database: Database) -> int:
    """Dead rows in the outbox's partitions."""
    time.sleep(_SETTLE_SECONDS)
    with rows.connect(database) as connection:
        [found] = connection.execute(DEAD).fetchone() or (0,)
    return int(found)


@contextmanager
def counting_statements(stage: Stage, database: Database) -> Iterator[None]:
    """Let the server count every statement, BEGIN and COMMIT included, while the block runs."""
    with_counters(database)
    stage.track_statements("all")
    try:
        yield
    finally:
        stage.track_statements("none")


def with_counters(database: Database) -> None:
    """Make the counters readable in a database."""
    with rows.connect(database) as connection:
        connection.execute("create extension if not exists pg_stat_statements")
