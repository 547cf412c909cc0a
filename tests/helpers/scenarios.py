"""Short schedules, each of which a certain mistake in a relay does not survive."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import psycopg

from kylo_outbox import Event, emit, emit_many
from tests.helpers.lane_watch import owned_twice
from tests.helpers.pipeline import wait_until
from tests.helpers.writers import Writers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kylo_outbox.local.kafka import LocalKafka
    from tests.helpers.arena import Arena
    from tests.helpers.verdict import Verdict

_MARKED = "select (select count(*) from kylo.outbox_log) - (select count(*) from planted_marks)"
# The topic of `refused` takes no batch above this; a batch of the client is a million bytes.
LIMIT = 400_000


def storm(arena: Arena) -> Verdict:
    """Two relays and eight badly behaved writers on twelve keys."""
    writers = Writers(arena.dsn, arena.topic, keys=12, most=3)
    with arena.running():
        with writers.running():
            wait_until(lambda: len(writers.committed) > 1500 or bool(writers.failed), 120, "1,500 events committed")
        if arena.relays[0].planted == "skip_locked":
            with psycopg.connect(arena.dsn, autocommit=True) as connection:
                wait_until(lambda: connection.execute(_MARKED).fetchone() == (0,), 120, "every row is marked")
        else:
            arena.drain()
    assert writers.failed == []
    return arena.judge(writers)


def late_commits(arena: Arena) -> Verdict:
    """A transaction begun later commits first, its id is read, and the earlier one commits just before its key goes on.

    The pauses are of the length of the relay's own, so that in some rounds it looks at just the wrong moment; what
    commits last it finds together, because it is stopped meanwhile.
    """
    dice, ledger = random.Random(1), set()
    [relay, _] = arena.relays
    with arena.running(1), psycopg.connect(arena.dsn) as one, psycopg.connect(arena.dsn) as two:
        for number in range(80):
            late, early = f"late-{number}", _apart(two, arena.topic, f"late-{number}", f"early-{number}")
            # `one` draws the older transaction id and `two` the older event id.
            one.execute("select pg_current_xact_id()")
            ledger.add(_emit(two, arena.topic, late))
            ledger.add(_emit(one, arena.topic, early))
            one.commit()
            time.sleep(dice.random() * 0.04)
            relay.stop()
            two.commit()
            ledger.add(_emit(one, arena.topic, late))
            one.commit()
            relay.go_on()
        arena.drain()
    return arena.judge(ledger)


def refused(arena: Arena) -> Verdict:
    """Now and then the broker refuses a record for its size, with others of its key and of other keys around it."""
    ledger: set[str] = set()
    with arena.running(1), psycopg.connect(arena.dsn) as connection:
        for number in range(5):
            big = f"big-{number}"
            events = [_event(arena, "innocent", 10) for _ in range(20)]
            # The first batch of the client ends among the successors of the refused record; the second could pass.
            events += [_event(arena, big, 10), _event(arena, big, 600_000)]
            events += [_event(arena, big, 90_000) for _ in range(7)]
            ledger |= _commit(connection, events)
            arena.drain()
            ledger |= _commit(connection, [_event(arena, key, 10) for key in (big, "innocent")])
            arena.drain()
    return arena.judge(ledger)


def outage(arena: Arena, kafka: LocalKafka) -> Verdict:
    """Kafka dies, events are committed, the relay dies, both come back."""
    [relay, _] = arena.relays
    with arena.running(1), psycopg.connect(arena.dsn) as connection:
        ledger = _commit(connection, [_event(arena, "before", 10)])
        arena.drain()
        kafka.kill()
        ledger |= _commit(connection, [_event(arena, f"key-{number}", 10) for number in range(200)])
        # Long enough to read them, and for a cursor that has no right to move.
        until = time.monotonic() + 5
        while arena.open_events() and time.monotonic() < until:
            time.sleep(0.05)
        relay.kill()
        kafka.start()
        relay.start()
        arena.drain()
    return arena.judge(ledger)


def zombie(arena: Arena) -> Verdict:
    """The leader is stopped until the other leads, and wakes up."""
    with arena.running(), psycopg.connect(arena.dsn) as connection:
        leader = arena.leader()
        ledger = _commit(connection, [_event(arena, "before", 10)])
        arena.drain()
        leader.stop()
        wait_until(lambda: arena.lanes()[0].pid == arena.other(leader).pid, 30, "the other leads")
        ledger |= _commit(connection, [_event(arena, "between", 10)])
        arena.drain()
        leader.go_on()
        wait_until(
            lambda: "was taken over" in leader.said() or bool(owned_twice(arena.dsn)), 30, "the zombie does something"
        )
        ledger |= _commit(connection, [_event(arena, "after", 10)])
        arena.drain()
    return arena.judge(ledger)


def _event(arena: Arena, key: str, size: int) -> Event:
    return Event(topic=arena.topic, key=key, type="WRITTEN", payload=b"x" * size)


def _emit(connection: psycopg.Connection[Any], topic: str, key: str) -> str:
    return str(emit(connection, topic=topic, key=key, type="WRITTEN", payload={}).event_id)


def _apart(connection: psycopg.Connection[Any], topic: str, key: str, other: str) -> str:
    """A name like `other` with a lock of its own: two transactions of one thread must not wait for each other."""
    sql = "select kylo.slot_of(%(topic)s, %(key)s) = kylo.slot_of(%(topic)s, %(other)s)"
    while connection.execute(sql, {"topic": topic, "key": key.encode(), "other": other.encode()}).fetchone() == (True,):
        other += "'"
    connection.commit()
    return other


def _commit(connection: psycopg.Connection[Any], events: Iterable[Event]) -> set[str]:
    with connection.transaction():
        return {str(event.event_id) for event in emit_many(connection, events)}
