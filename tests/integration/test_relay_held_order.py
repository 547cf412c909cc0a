"""A held event never passes an earlier one of its key that is not acknowledged yet, wherever that one is on its way."""

from __future__ import annotations

import time

import pytest

from kylo_outbox import emit
from kylo_outbox.flows.relay import holding
from kylo_outbox.kafka.producer import NoBroker, Ticket


class Slow(NoBroker):
    """A broker that has every topic and acknowledges when it is told to."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._tickets: list[Ticket] = []

    def exists(self, _topic):
        """Every topic does."""
        return True

    def send(self, rows, *, tracked=False):
        """Take rows and owe the answer."""
        ticket = super().send(rows, tracked=tracked)
        self.ids += [row[0] for row in rows]
        self._tickets.append(ticket)
        return ticket

    def answer(self):
        """Acknowledge everything."""
        for ticket in self._tickets:
            ticket.complete()


class Handed:
    """A direct path for the key `direct` that remembers what it was given."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def takes(self, _topic, key):
        """One key."""
        return key == b"direct"

    def catch_up(self):
        """Nothing lies in Kafka."""
        return iter(())

    def deliver(self, rows):
        """Take rows, in order."""
        self.ids += [row[0] for row in rows]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Held events are tried at every turn."""
    monkeypatch.setattr(holding, "RETRY_EVERY", 0.0)


@pytest.fixture
def save(control_db):
    """Emit one event of a key."""

    def emitted(key):
        with control_db.transaction() as tx:
            emit(tx, topic="t", key=key, type="T", payload={})

    return emitted


def rows(database, sql):
    """The answer of one query."""
    with database.transaction() as tx:
        return tx.execute(sql).fetchall()


def open_rows(database):
    """How many events nobody has acknowledged."""
    return rows(database, "select count(*) from outbox where processed_at is null")[0][0]


def held_ids(database):
    """What is copied out."""
    return [number for [number] in rows(database, "select id from kylo.outbox_held order by id")]


def paused_behind(control_db, save, make_relay, run_until, key):
    """1 is in flight, 2 of `key` behind it, 3 of `key` is copied out by a pause that is over."""
    slow, handed, paused = Slow(), Handed(), set()

    def build():
        return make_relay(
            open_publisher=lambda _store: slow, direct=handed, is_paused=lambda _topic, key: key in paused, batch=1
        )

    relay = build()
    save("other")
    run_until(relay, lambda: slow.ids == [1])
    save(key)
    run_until(relay, lambda: sum(len(track.batches) for track in relay._tracks) == 2)
    paused.add(key.encode())
    save(key)
    run_until(relay, lambda: held_ids(control_db) == [3])
    paused.clear()
    return relay, slow, handed, build


def turns(relay, number=10):
    """Some turns of a relay."""
    for _ in range(number):
        time.sleep(relay.run_once().pause)


def test_a_resumed_direct_key_waits_for_its_event_behind_a_slow_batch(control_db, save, make_relay, run_until):
    """Event 2 waits for Kafka to answer for event 1: event 3 must not be applied before it, or 2 is lost."""
    relay, slow, handed, _ = paused_behind(control_db, save, make_relay, run_until, "direct")
    turns(relay)
    assert (handed.ids, slow.ids) == ([], [1])
    slow.answer()
    run_until(relay, lambda: open_rows(control_db) == 0)
    assert (handed.ids, slow.ids) == ([2, 3], [1])


@pytest.mark.parametrize("key", ["direct", "kafka"])
def test_the_next_relay_reads_what_is_not_acknowledged_before_what_is_held(
    control_db, save, make_relay, run_until, key
):
    """The relay is gone before anything is acknowledged: its successor must not begin with the held event."""
    relay, slow, handed, build = paused_behind(control_db, save, make_relay, run_until, key)
    relay._drop()
    slow.ids.clear()
    second = build()

    def all_done():
        slow.answer()
        return open_rows(control_db) == 0

    run_until(second, all_done)
    went = {"direct": handed.ids, "kafka": [number for number in slow.ids if number != 1]}[key]
    assert went == [2, 3]


def test_in_doubt_held_events_and_the_lane_take_turns(control_db, save, make_relay, run_until):
    """Of two batches in flight nobody can say whose the refused record is: while it is looked for, there is one."""
    slow, paused = Slow(), {b"held"}
    relay = make_relay(open_publisher=lambda _store: slow, is_paused=lambda _topic, key: key in paused)
    save("held")
    run_until(relay, lambda: held_ids(control_db) == [1])
    turns(relay, 3)
    paused.clear()
    relay._caution.doubt()
    save("other")
    most = 0

    def all_done():
        nonlocal most
        in_flight = [ticket for ticket in slow._tickets if not ticket.done]
        most = max(most, len(in_flight))
        if in_flight and len(slow.ids) + most > 1:
            in_flight[0].complete()
        return open_rows(control_db) == 0

    run_until(relay, all_done)
    assert (sorted(slow.ids), most) == ([1, 2], 1)
