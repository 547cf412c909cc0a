"""A projector's tables once more, beside the live ones, and how their rows change places in one transaction.

Rows change places, not tables: views, keys, grants and triggers that hang on the live tables stay what they are, and
readers are never blocked; they see the old rows until the commit. The price is that the projector waits while the
rows are copied.
"""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from psycopg import sql

from kylo_outbox.model.errors import Refused
from kylo_outbox.store.decided import NOT_APPLIED
from kylo_outbox.store.engine import as_ours, connect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg

    from kylo_outbox.model.delivery import PositionAt, PositionKey
    from kylo_outbox.store.engine import Database

_ALONE = "select pg_try_advisory_lock(hashtextextended('kylo rebuild ' || %s, 0))"
_OWN = "select pg_advisory_xact_lock(hashtextextended('kylo shadow ' || %s, 0))"
_MADE_BY = "select obj_description(to_regnamespace(%s), 'pg_namespace')"
_LIVE = """
select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.oid = to_regclass(%s) and c.relkind in ('r', 'p')
"""
_COLUMNS = """
select attname, attidentity <> '' or atthasdef as made_here, pg_get_serial_sequence(%s, attname)
  from pg_attribute
 where attrelid = %s::regclass and attnum > 0 and not attisdropped and attgenerated = ''
 order by attnum
"""
_POSITIONS = """
select store_id, topic, key, generation, outbox_id, applied, digest from kylo.positions where projector = %s
"""
_SAME_POSITIONS = """
select not exists (
    (select store_id, topic, key, generation, outbox_id, applied from kylo.positions where projector = %s)
    except select store_id, topic, key, generation, outbox_id, applied from {former}.kylo_positions)
"""
# Releases and replays move no position.
_APPLIED_SINCE = """
select exists (
    select store_id, topic, key, generation, outbox_id from {former}.kylo_not_applied except ({not_applied}))
"""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a projector: where it lives and its columns."""

    schema: str
    name: str
    columns: tuple[str, ...]
    compared: tuple[str, ...]
    sequences: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One table, live against rebuilt; columns that the database fills in are not compared."""

    table: str
    live: int
    rebuilt: int
    only_live: int
    only_rebuilt: int

    @property
    def equal(self) -> bool:
        """Whether both hold the same rows."""
        return not self.only_live and not self.only_rebuilt


@dataclass(frozen=True, slots=True)
class Taken:
    """How far a key is and what it took: number of events and the sum of their ids."""

    at: PositionAt
    number: int
    digest: int


class Shadow:
    """The shadow of one projector in one database."""

    def __init__(self, projector: str, tables: Sequence[str]) -> None:
        plain = re.sub(r"[^a-z0-9_]", "_", projector.lower())[:40]
        self.schema, self.former = f"kylo_shadow_{plain}", f"kylo_former_{plain}"
        self._projector, self._names = projector, tuple(tables)
        self._run = ""

    @contextmanager
    def alone(self, database: Database) -> Iterator[None]:
        """Keep every other rebuild and undo of the projector in this database away while the block runs.

        A lock of a connection of its own: it falls with its process. Should that connection break, `enter` and
        `require_own` notice another run's shadow.

        Raises:
            Refused: somebody else is at it.
            Transient: PostgreSQL is away.
        """
        with as_ours(database.name), closing(connect(database.dsn, "rebuild", autocommit=True)) as connection:
            connection.execute("set idle_session_timeout = 0")
            [got] = connection.execute(_ALONE, (self.schema,)).fetchone() or (False,)
            if not got:
                raise Refused(
                    [f"{self._projector}: another rebuild of it runs in this database; wait until it is done"]
                )
            yield

    def make(self, tx: psycopg.Connection[Any]) -> list[Table]:
        """Empty tables like the live ones, in place of whatever an earlier run left.

        Raises:
            Refused: a declared table does not exist.
        """
        found = self.tables(tx)
        tx.execute(_OWN, (self.schema,))
        tx.execute(_sql("drop schema if exists {} cascade", self.schema))
        tx.execute(_sql("create schema {}", self.schema))
        self._run = uuid4().hex
        tx.execute(sql.SQL("comment on schema {} is {}").format(sql.Identifier(self.schema), sql.Literal(self._run)))
        for table in found:
            live, copy = sql.Identifier(table.schema, table.name), sql.Identifier(self.schema, table.name)
            tx.execute(sql.SQL("create table {} (like {} including all)").format(copy, live))
        return found

    def tables(self, tx: psycopg.Connection[Any]) -> list[Table]:
        """The live tables."""
        found = []
        for name in self._names:
            row = tx.execute(_LIVE, (name,)).fetchone()
            if row is None:
                raise Refused([f"tables: {name} is no table on the search path of this database"])
            qualified = sql.Identifier(*row).as_string(tx)
            columns = tx.execute(_COLUMNS, (qualified, qualified)).fetchall()
            found.append(
                Table(
                    schema=row[0],
                    name=row[1],
                    columns=tuple(column for column, _, _ in columns),
                    compared=tuple(column for column, made_here, _ in columns if not made_here),
                    sequences=tuple((column, sequence) for column, _, sequence in columns if sequence),
                )
            )
        return found

    def require_own(self, tx: psycopg.Connection[Any]) -> None:
        """Make sure that the shadow is the one that `make` made, and that it stays so until the transaction ends.

        Raises:
            Refused: another run put its own in its place.
        """
        tx.execute(_OWN, (self.schema,))
        [made_by] = tx.execute(_MADE_BY, (self.schema,)).fetchone() or (None,)
        if made_by != self._run:
            raise Refused([f"{self._projector}: another rebuild took the place of this one; nothing was changed"])

    def enter(self, tx: psycopg.Connection[Any]) -> None:
        """Let unqualified names mean the shadow, until the transaction ends; raises `Refused` like `require_own`."""
        self.require_own(tx)
        path = "select set_config('search_path', quote_ident(%s) || ', ' || current_setting('search_path'), true)"
        tx.execute(path, (self.schema,))

    def lock(self, tx: psycopg.Connection[Any], tables: Sequence[Table]) -> None:
        """Keep writers away from the live tables until the transaction ends; readers go on."""
        for table in sorted(tables, key=lambda each: (each.schema, each.name)):
            live = sql.Identifier(table.schema, table.name)
            tx.execute(sql.SQL("lock table {} in exclusive mode").format(live))

    def compare(self, tx: psycopg.Connection[Any], tables: Sequence[Table]) -> list[Difference]:
        """Live against rebuilt rows."""
        found = []
        for table in tables:
            live, copy = sql.Identifier(table.schema, table.name), sql.Identifier(self.schema, table.name)
            columns = sql.SQL(", ").join(map(sql.Identifier, table.compared))
            query = sql.SQL(
                "select (select count(*) from {live}), (select count(*) from {copy}), "
                "(select count(*) from (select {columns} from {live} except all select {columns} from {copy}) l), "
                "(select count(*) from (select {columns} from {copy} except all select {columns} from {live}) c)"
            ).format(live=live, copy=copy, columns=columns)
            row = tx.execute(query).fetchone() or (0, 0, 0, 0)
            found.append(Difference(f"{table.schema}.{table.name}", *row))
        return found

    def swap(self, tx: psycopg.Connection[Any], tables: Sequence[Table]) -> None:
        """The rebuilt rows take the place of the live ones, which are kept for `undo`; the shadow is gone."""
        tx.execute(_sql("drop schema if exists {} cascade", self.former))
        tx.execute(_sql("create schema {}", self.former))
        for table in tables:
            live, kept = sql.Identifier(table.schema, table.name), sql.Identifier(self.former, table.name)
            tx.execute(sql.SQL("create table {} as table {}").format(kept, live))
            self._replace(tx, table, self.schema)
        positions = sql.Identifier(self.former, "kylo_positions")
        keep = sql.SQL("create table {} as select * from kylo.positions where projector = {}")
        tx.execute(keep.format(positions, sql.Literal(self._projector)))
        waiting = sql.Identifier(self.former, "kylo_not_applied")
        tx.execute(sql.SQL("create table {} as {}").format(waiting, self._not_applied()))
        self.drop(tx)

    def undo(self, tx: psycopg.Connection[Any]) -> None:
        """The rows from before the last swap come back.

        Raises:
            Refused: there was no swap, or the projector has applied something since.
        """
        [exists] = tx.execute("select to_regnamespace(%s) is not null", (self.former,)).fetchone() or (False,)
        if not exists:
            raise Refused([f"{self._projector}: nothing was swapped that could be undone"])
        tables = self.tables(tx)
        self.lock(tx, tables)
        same = sql.SQL(_SAME_POSITIONS).format(former=sql.Identifier(self.former))
        [unchanged] = tx.execute(same, (self._projector,)).fetchone() or (False,)
        since = sql.SQL(_APPLIED_SINCE).format(former=sql.Identifier(self.former), not_applied=self._not_applied())
        [released] = tx.execute(since).fetchone() or (True,)
        if released or not unchanged:
            raise Refused([f"{self._projector}: it has applied more since the swap; undoing would lose that"])
        for table in tables:
            self._replace(tx, table, self.former)
        tx.execute(_sql("drop schema {} cascade", self.former))

    def drop(self, tx: psycopg.Connection[Any]) -> None:
        """Remove the shadow."""
        tx.execute(_sql("drop schema if exists {} cascade", self.schema))

    def _not_applied(self) -> sql.SQL:
        return sql.SQL(NOT_APPLIED % {"name": sql.Literal(self._projector).as_string()})

    @staticmethod
    def _replace(tx: psycopg.Connection[Any], table: Table, source: str) -> None:
        live, origin = sql.Identifier(table.schema, table.name), sql.Identifier(source, table.name)
        columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
        tx.execute(sql.SQL("delete from {}").format(live))
        move = sql.SQL("insert into {} ({}) overriding system value select {} from {}")
        tx.execute(move.format(live, columns, columns, origin))
        for column, sequence in table.sequences:
            newest = sql.SQL("select setval({}, coalesce(max({}), 1), max({}) is not null) from {}")
            name = sql.Identifier(column)
            tx.execute(newest.format(sql.Literal(sequence), name, name, live))


def live_positions(tx: psycopg.Connection[Any], projector: str) -> dict[PositionKey, Taken]:
    """What the live projector has taken, by key."""
    return {
        (store_id, topic, key): Taken((generation, number), applied, int(digest))
        for store_id, topic, key, generation, number, applied, digest in tx.execute(_POSITIONS, (projector,))
    }


def _sql(text: str, schema: str) -> sql.Composed:
    return sql.SQL(text).format(sql.Identifier(schema))
