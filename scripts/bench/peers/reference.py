"""Three relays as the world writes them, over a table with a column `published_at`: what ours is held against.

row    the textbook: lock a hundred rows that nobody locked, and for each: send, wait, mark
batch  the same with as many rows as ours reads at once: send all, wait once, mark all with one statement
best   all we know of marking by update: no index on the mark (updates stay in their page), a lower bound kept in
       memory so that nothing published is read again, and the next rows read while the former are on their way
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections import deque
from typing import Any

import psycopg

from scripts.bench.workers.raw import Reports, producer

BATCH = 1_000
_TEXTBOOK_ROWS = 100
_IDLE_SECONDS = 0.005
_SETTLE_SECONDS = 0.1

TABLE = """
create table public.bench_outbox (
    id bigint generated always as identity primary key,
    topic text not null,
    key text not null,
    payload text not null,
    created_at timestamptz not null default now(),
    published_at timestamptz
) with (fillfactor = {fillfactor})
"""
OPEN_INDEX = "create index bench_outbox_open on public.bench_outbox (id) where published_at is null"
FILL = """
insert into public.bench_outbox (topic, key, payload)
select %(topic)s, 'company-' || n %% %(keys)s,
       rpad('{"n":' || n || ',"text":"', %(size)s - 2, repeat(md5(n::text), %(size)s / 32 + 1)) || '"}'
  from generate_series(1, %(count)s::bigint) n
"""
INSERT = "insert into public.bench_outbox (topic, key, payload) values (%(topic)s, %(key)s, %(payload)s)"
LOCK = """
select id, topic, key, payload from public.bench_outbox where published_at is null
 order by id limit %s for update skip locked
"""
AHEAD = """
select id, topic, key, payload from public.bench_outbox
 where id > %s and published_at is null and (id > %s or id <> all(%s::bigint[])) order by id limit %s
"""
HORIZON = """
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint
"""
MARK = "update public.bench_outbox set published_at = now() where id = %s"
MARK_ALL = "update public.bench_outbox set published_at = now() where id = any(%s)"

stopping = threading.Event()


def prepare(connection: psycopg.Connection[Any], style: str) -> None:
    """Make the table as a style wants it."""
    connection.execute(TABLE.format(fillfactor=50 if style == "best" else 100))
    if style != "best":
        connection.execute(OPEN_INDEX)


class Sender:
    """Sends rows with one header, as ours does, and tells when all are acknowledged."""

    def __init__(self, brokers: str) -> None:
        self._client = producer(brokers)
        self._sent = 0
        self._reports = Reports()

    def send(self, found: list[tuple[Any, ...]]) -> None:
        """Hand rows to the client."""
        for number, topic, key, payload in found:
            headers: list[Any] = [("id", str(number).encode())]
            self._client.produce(topic, payload, key, on_delivery=self._reports, headers=headers)
        self._sent += len(found)
        self._client.poll(0)

    def wait(self) -> None:
        """Wait for every acknowledgement.

        Raises:
            RuntimeError: one failed.
        """
        self._client.flush()
        if self._reports.good != self._sent:
            raise RuntimeError(f"{self._reports.good} of {self._sent} acknowledged; {self._reports.failed}")


def row_by_row(connection: psycopg.Connection[Any], sender: Sender) -> int:
    """One turn of the textbook; how many rows."""
    with connection.transaction():
        found = connection.execute(LOCK, (_TEXTBOOK_ROWS,)).fetchall()
        for row in found:
            sender.send([row])
            sender.wait()
            connection.execute(MARK, (row[0],))
    return len(found)


def batch(connection: psycopg.Connection[Any], sender: Sender) -> int:
    """One turn with one wait and one mark; how many rows."""
    with connection.transaction():
        found = connection.execute(LOCK, (BATCH,)).fetchall()
        if found:
            sender.send(found)
            sender.wait()
            connection.execute(MARK_ALL, ([row[0] for row in found],))
    return len(found)


class Best:
    """The state of the third style: the lower bound, and the rows on their way.

    Ids become visible out of order, so the bound follows only when every transaction that ran a moment after a read
    has ended; what is newer is looked at again.
    """

    def __init__(self) -> None:
        self._bound = 0
        # What was read, when, and (a moment later) the newest transaction that was open then.
        self._read: deque[tuple[float, int]] = deque()
        self._waits: tuple[int, int] | None = None
        self._waiting: list[int] = []

    def __call__(self, connection: psycopg.Connection[Any], sender: Sender) -> int:
        """One turn; how many rows."""
        self._raise_bound(connection)
        found = connection.execute(
            AHEAD, (self._bound, max(self._waiting, default=0), self._waiting, 2 * BATCH)
        ).fetchall()
        if found:
            self._read.append((time.monotonic(), found[-1][0]))
        if self._waiting:
            sender.wait()
            connection.execute(MARK_ALL, (self._waiting,))
        sender.send(found)
        self._waiting = [row[0] for row in found]
        return len(found)

    def _raise_bound(self, connection: psycopg.Connection[Any]) -> None:
        oldest, newest = connection.execute(HORIZON).fetchone() or (0, 0)
        if self._waits is not None and oldest >= self._waits[0]:
            self._bound, self._waits = max(self._bound, self._waits[1]), None
        if self._waits is None and self._read and time.monotonic() - self._read[0][0] > _SETTLE_SECONDS:
            passed = [self._read.popleft()]
            while self._read and time.monotonic() - self._read[0][0] > _SETTLE_SECONDS:
                passed.append(self._read.popleft())
            # Rows of the last two turns are not marked yet: they stay above the bound.
            top = max(number for _, number in passed)
            self._waits = (newest, min([top, *(number - 1 for number in self._waiting)]))


def main() -> int:
    """Run one style until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--style", choices=("row", "batch", "best"), required=True)
    for name in ("dsn", "brokers"):
        parser.add_argument(f"--{name}", required=True)
    words = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    turn: Any = {"row": row_by_row, "batch": batch, "best": Best()}[words.style]
    sender = Sender(words.brokers)
    with psycopg.connect(words.dsn, autocommit=True, application_name="bench reference") as connection:
        while not stopping.is_set():
            if not turn(connection, sender):
                stopping.wait(_IDLE_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
