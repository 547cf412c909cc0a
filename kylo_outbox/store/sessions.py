"""Who keeps transactions open in the whole cluster: sessions, prepared transactions, replication slots.

None of them stops the relay. They keep PostgreSQL from cleaning up, and make every snapshot of the relay longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from kylo_outbox.model.statements import without_values

if TYPE_CHECKING:
    import psycopg

# Other users' statements are shown by PostgreSQL to superusers and members of pg_read_all_stats alone.
_SESSIONS = """
select pid, usename::text, datname::text, application_name, coalesce(state, ''),
       extract(epoch from clock_timestamp() - xact_start)::float8, coalesce(query, '')
  from pg_stat_activity
 where xact_start < clock_timestamp() - make_interval(secs => %(older)s) and pid <> pg_backend_pid()
   and backend_type = 'client backend'
 order by xact_start
 limit %(limit)s
"""
_PREPARED = """
select gid, owner::text, database::text, extract(epoch from clock_timestamp() - prepared)::float8
  from pg_prepared_xacts
 where prepared < clock_timestamp() - make_interval(secs => %(older)s)
 order by prepared
 limit %(limit)s
"""
# A slot knows no time, only how many transactions it lags behind.
_SLOTS = """
select slot_name::text, database::text, active, greatest(age(xmin), age(catalog_xmin))
  from pg_replication_slots
 where greatest(age(xmin), age(catalog_xmin)) > %(lag)s
 order by 4 desc
 limit %(limit)s
"""
OLD: Final = 60.0
"""Seconds after which an open transaction is worth naming."""
_LIMIT = 20
_SLOT_LAG = 1_000_000

Kind = Literal["session", "prepared transaction", "replication slot"]


class Holder(NamedTuple):
    """Something that holds back transactions.

    `age` is in seconds; None for a slot, which counts `lag` (transactions) instead. `name` is the application, the
    prepared transaction's id or the slot. `query` is the last statement without its values; empty where there is none.
    """

    kind: Kind
    name: str
    user: str
    database: str
    pid: int | None = None
    state: str = ""
    age: float | None = None
    lag: int | None = None
    query: str = ""

    @property
    def line(self) -> str:
        """For people, with the statement."""
        who = f"pid {self.pid}" if self.pid is not None else self.name
        where = f"user {self.user or '-'}, database {self.database or '-'}"
        if self.pid is not None and self.name:
            where += f", application {self.name}"
        since = f"{self.lag} transactions behind" if self.age is None else f"open for {self.age:.0f} s"
        return f"{self.kind} {who} ({where}{', ' + self.state if self.state else ''}) {since}" + (
            f": {self.query}" if self.query else ""
        )


def holders(tx: psycopg.Connection[Any], older_than: float) -> list[Holder]:
    """What is older than `older_than` seconds, oldest first, at most twenty of a kind.

    Args:
        tx: A connection to any database of the cluster.
        older_than: Seconds.
    """
    values = {"older": older_than, "limit": _LIMIT, "lag": _SLOT_LAG}
    sessions = [
        Holder("session", application, user or "", database or "", pid, state, age, query=without_values(query))
        for pid, user, database, application, state, age, query in tx.execute(_SESSIONS, values)
    ]
    prepared = [
        Holder("prepared transaction", gid, owner, database, age=age)
        for gid, owner, database, age in tx.execute(_PREPARED, values)
    ]
    slots = [
        Holder("replication slot", name, "", database or "", state="" if active else "inactive", lag=lag)
        for name, database, active, lag in tx.execute(_SLOTS, values)
    ]
    return sessions + prepared + slots
