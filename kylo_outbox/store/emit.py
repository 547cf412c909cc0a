"""The Python doors of `kylo.emit`: an event saved in the caller's own transaction, which they never commit.

They take a psycopg connection (sync or async) or SQLAlchemy's Connection, Session, AsyncConnection, AsyncSession.
What is promised: the event is published after the caller's commit, in commit order per topic and key, and never if the
caller rolls back. What is not: when (the relay decides), and anything about events of different keys.

With `available_at` an event is not published before that time, and normally within half a second after it while a
relay runs. Delayed events of one key come in the order of `available_at`, equal ones in the order of their emits;
between them and events without it only the moment of release counts.

One key commits at most once per commit latency, because its commits queue behind each other. Two transactions that
call `emit` one by one for the same keys in different orders can deadlock (PostgreSQL ends one); `emit_many` cannot.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from uuid import UUID, uuid4

import psycopg
import sqlalchemy as sa
from psycopg import errors as pg
from psycopg.pq import TransactionStatus
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from kylo_outbox.model.errors import Refused
from kylo_outbox.model.events import Event
from kylo_outbox.model.payloads import faults_of_event, to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

Transaction = psycopg.Connection[Any] | sa.Connection | Session
# A text, because SQLAlchemy's asyncio part needs greenlet, which only its users have.
AsyncTransaction: TypeAlias = "psycopg.AsyncConnection[Any] | AsyncConnection | AsyncSession"

EMIT = "select kylo.emit_raw(%s, %s, %s, %s::bytea, %s::jsonb, %s::uuid, %s::timestamptz)"
# Payloads travel in binary: as text each byte of an array of bytes would be escaped.
EMIT_MANY = (
    "select kylo.emit_many(%s::text[], %s::text[], %s::text[], %b::bytea[], %s::jsonb[], %s::uuid[], %s::timestamptz[])"
)
_SA_EMIT = sa.text(
    "select kylo.emit_raw(:topic, :key, :type, cast(:payload as bytea), cast(:headers as jsonb), cast(:id as uuid), "
    "cast(:available_at as timestamptz))"
)
_SA_EMIT_MANY = sa.text(
    "select kylo.emit_many(cast(:topic as text[]), cast(:key as text[]), cast(:type as text[]), "
    "cast(:payload as bytea[]), cast(:headers as jsonb[]), cast(:id as uuid[]), cast(:available_at as timestamptz[]))"
)
_MUTED: ContextVar[bool] = ContextVar("muted", default=False)
_COLUMNS = ("topic", "key", "type", "payload", "headers", "id", "available_at")
_Row: TypeAlias = "tuple[str, str, str, bytes, str | None, UUID | None, datetime | None]"
_NO_BLOCK = (
    "tx: an autocommit connection outside a transaction block would publish without your rows; "
    "open a block (`with connection.transaction():`) or turn autocommit off"
)


@contextmanager
def muted() -> Iterator[None]:
    """Within the block `emit` and `emit_many` check their events and save nothing: for applying history once more."""
    token = _MUTED.set(True)
    try:
        yield
    finally:
        _MUTED.reset(token)


def emit(
    tx: Transaction,
    *,
    topic: str,
    key: str,
    type: str,  # noqa: A002 - the public name of this column everywhere
    payload: Any,
    headers: Mapping[str, str] | None = None,
    event_id: UUID | str | None = None,
    available_at: datetime | None = None,
) -> Event:
    """Save one event in the transaction `tx`.

    Args:
        tx: psycopg Connection, SQLAlchemy Connection or Session; an autocommit connection outside a block is refused.
        topic: Any topic name; undeclared topics get defaults.
        key: Company or wallet id; decides order and partition.
        type: What happened.
        payload: dict, list, pydantic model, JSON text (kept byte for byte) or bytes (opaque).
        headers: The writer's own headers, text by text.
        event_id: Given again for the same topic it adds nothing (for `KYLO_OUTBOX_RETENTION`); None draws a new one.
        available_at: Not to be published before this time, which has a time zone; None for at once.

    Returns:
        The event with its id.

    Raises:
        Refused: naming the argument or the path inside the payload; nothing was saved. If PostgreSQL itself refused
            (a declared topic's own size limit), the transaction must be rolled back like after any SQL error.
    """
    event = Event(
        topic=topic,
        key=key,
        type=type,
        payload=payload,
        headers=headers,
        event_id=_uuid(event_id),
        available_at=available_at,
    )
    row = _row(event)
    if _MUTED.get():
        return event.saved(event.event_id or uuid4(), row[3])
    return event.saved(_run(tx, EMIT, _SA_EMIT, row), row[3])


def emit_many(tx: Transaction, events: Iterable[Event]) -> list[Event]:
    """Save many events in one statement; two concurrent calls never deadlock. Same rules as `emit`.

    Returns:
        The events in the order given, with their ids.
    """
    given = list(events)
    if not given:
        return []
    rows = [_row(event, f"events[{number}].") for number, event in enumerate(given)]
    if _MUTED.get():
        return [event.saved(event.event_id or uuid4(), row[3]) for event, row in zip(given, rows, strict=True)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    # A column in which there is nothing costs nothing on the way.
    values = tuple(None if column.count(None) == len(column) else column for column in columns)
    ids = _run(tx, EMIT_MANY, _SA_EMIT_MANY, values)
    return [event.saved(event_id, row[3]) for event, event_id, row in zip(given, ids, rows, strict=True)]


async def emit_async(
    tx: AsyncTransaction,
    *,
    topic: str,
    key: str,
    type: str,  # noqa: A002 - the public name of this column everywhere
    payload: Any,
    headers: Mapping[str, str] | None = None,
    event_id: UUID | str | None = None,
    available_at: datetime | None = None,
) -> Event:
    """`emit` for psycopg AsyncConnection, SQLAlchemy AsyncConnection and AsyncSession."""
    event = Event(
        topic=topic,
        key=key,
        type=type,
        payload=payload,
        headers=headers,
        event_id=_uuid(event_id),
        available_at=available_at,
    )
    row = _row(event)
    try:
        if isinstance(tx, psycopg.AsyncConnection):
            _refuse_autocommit(tx)
            found = await (await tx.execute(EMIT, row)).fetchone()
            return event.saved(cast("tuple[UUID]", found)[0], row[3])
        connection = await tx.connection() if hasattr(tx, "sync_session") else tx
        if connection.sync_connection is not None:
            _refuse_sa_autocommit(connection.sync_connection)
        result = await connection.execute(_SA_EMIT, dict(zip(_COLUMNS, row, strict=True)))
        return event.saved(result.scalar_one(), row[3])
    except (pg.InvalidParameterValue, DBAPIError) as error:
        raise _refusal(error) from None


def _run(tx: Transaction, sql: str, sa_sql: sa.TextClause, row: tuple[Any, ...]) -> Any:
    try:
        if isinstance(tx, psycopg.Connection):
            _refuse_autocommit(tx)
            found = tx.execute(sql, row).fetchone()
            return found[0] if found else None
        connection = tx.connection() if isinstance(tx, Session) else tx
        if not isinstance(connection, sa.Connection):
            raise Refused([f"tx: a {type(tx).__name__} is no transaction; give a psycopg or SQLAlchemy connection"])
        _refuse_sa_autocommit(connection)
        return connection.execute(sa_sql, dict(zip(_COLUMNS, row, strict=True))).scalar_one()
    except (pg.InvalidParameterValue, DBAPIError) as error:
        raise _refusal(error) from None


def _row(event: Event, where: str = "") -> _Row:
    faults = faults_of_event(event.topic, event.key, event.type, event.headers)
    if event.available_at is not None and event.available_at.utcoffset() is None:
        faults.append("available_at: has no time zone; give it one, such as datetime.UTC")
    if faults:
        raise Refused([where + fault for fault in faults])
    try:
        # An event that was received is handed on with the bytes it came with.
        payload = event.raw or to_bytes(event.payload)
    except Refused as refused:
        raise Refused([where + fault for fault in refused.faults]) from None
    headers = {**_trace_headers(), **event.headers}
    return (
        event.topic,
        event.key,
        event.type,
        payload,
        json.dumps(headers) if headers else None,
        event.event_id,
        event.available_at,
    )


def _uuid(event_id: UUID | str | None) -> UUID | None:
    try:
        return UUID(event_id) if isinstance(event_id, str) else event_id
    except ValueError:
        raise Refused(["event_id: must be a UUID"]) from None


def _refuse_autocommit(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise Refused([_NO_BLOCK])


def _refuse_sa_autocommit(connection: sa.Connection) -> None:
    level = connection.get_execution_options().get("isolation_level")
    raw = connection.connection.driver_connection
    autocommit = getattr(raw, "autocommit", False) if level is None else level == "AUTOCOMMIT"
    status = raw.info.transaction_status if isinstance(raw, (psycopg.Connection, psycopg.AsyncConnection)) else None
    if autocommit and status in {None, TransactionStatus.IDLE}:
        raise Refused([_NO_BLOCK])


def _refusal(error: Exception) -> Exception:
    cause = error.orig if isinstance(error, DBAPIError) else error
    if getattr(cause, "sqlstate", None) == "22023":
        return Refused([str(cause).splitlines()[0]])
    return cause if isinstance(cause, Exception) else error


def _trace_headers() -> dict[str, str]:
    """The W3C trace context of the writer, if OpenTelemetry is in use; the relay would have only its own."""
    carrier: dict[str, str] = {}
    if "opentelemetry" in sys.modules:
        from opentelemetry import propagate  # noqa: PLC0415 - only where the application brought it

        propagate.inject(carrier)
    return carrier
