"""Two relay processes: who leads after a kill, a stop, a long sleep and a clean end, and what is sent twice."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from functools import partial

import psycopg
import pytest

from kylo_outbox import Event, emit_many
from tests.helpers.arena import Arena
from tests.helpers.broker import read_all
from tests.helpers.pipeline import wait_until
from tests.helpers.writers import Writers

# Generous, because the machine may be busy; what was measured is printed.
SOON = 20.0


@pytest.fixture
def arena(control_db, kafka_server, tmp_path):
    """Two relays on the session's broker."""
    return Arena(control_db.dsn, kafka_server.bootstrap, tmp_path)


@pytest.fixture
def own_arena(control_db, own_kafka, tmp_path):
    """Two relays on a broker that may be stopped."""
    return Arena(control_db.dsn, own_kafka.bootstrap, tmp_path)


@contextmanager
def silent(kafka):
    """A broker that neither answers nor goes away."""
    process = kafka.handle().process()
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def commit(arena, prefix, count, size=10):
    """Commit events of 20 keys in one transaction; their ids."""
    events = [Event(topic=arena.topic, key=f"k{n % 20}", type=prefix, payload=b"x" * size) for n in range(count)]
    with psycopg.connect(arena.dsn) as connection:
        return {str(event.event_id) for event in emit_many(connection, events)}


def says(relay, words):
    """Whether a relay has said something in its present life."""
    return words in relay.said()


def until_in_hand(arena, relay):
    """Wait until a relay says that it has read something and waits for Kafka."""
    sql = "select count(*) from control.heartbeats where instance like %s and (state ->> 'publishing')::boolean"
    with psycopg.connect(arena.dsn, autocommit=True) as connection:
        wait_until(
            lambda: connection.execute(sql, (f"%:{relay.pid}:%",)).fetchone() != (0,), 60, "the relay has read a batch"
        )


def until_led_by(arena, relay):
    """Wait until a relay leads and has published something under its own epoch; seconds."""
    begun, before = time.monotonic(), arena.lanes()[0]

    def publishes():
        lane = arena.lanes()[0]
        return lane.pid == relay.pid and lane.acknowledged > before.acknowledged

    wait_until(publishes, 120, "the other relay publishes")
    return time.monotonic() - begun


@pytest.mark.parametrize("asleep", [3.0, pytest.param(10.0, marks=pytest.mark.full)])
def test_a_leader_that_slept_publishes_only_what_it_had_read(own_arena, own_kafka, asleep):
    """Stopped with events in hand and woken after its lease: repeats of those, no cursor, no newer event, a standby."""
    arena = own_arena
    with arena.running():
        ledger = commit(arena, "before", 20)
        arena.drain()
        sleeper = arena.leader()
        other = arena.other(sleeper)
        with silent(own_kafka):
            # More than the client may have on its way, so that it wakes up with records that nobody has seen.
            in_hand = commit(arena, "in hand", 8000, size=2000)
            until_in_hand(arena, sleeper)
            sleeper.stop()
        begun = time.monotonic()
        took = until_led_by(arena, other)
        later = commit(arena, "later", 500)
        arena.drain()
        time.sleep(max(0.0, asleep - (time.monotonic() - begun)))
        ends = len(read_all(arena.bootstrap, arena.topic))
        sleeper.go_on()
        wait_until(lambda: "was taken over" in sleeper.said(), 60, "it knows that its lane is gone")
        later |= commit(arena, "last", 100)
        arena.drain()
        assert arena.lanes()[0].pid == other.pid
        verdict = arena.judge(ledger | in_hand | later)
        repeats = verdict.records - ends - 100
        print(f"the standby published after {took:.2f} s; {repeats} records of the sleeper after it woke; {verdict}")
        assert took < SOON
        assert verdict.found == set()
        seen = [record.event_id for record in read_all(arena.bootstrap, arena.topic) if record.event_id in later]
        assert len(seen) == len(later)
        # It stands by again and is of use.
        other.kill()
        commit(arena, "after", 20)
        until_led_by(arena, sleeper)


def test_the_standby_goes_on_after_a_kill(arena):
    """Kill -9 of the leader under load, twice: the other publishes, nothing is lost, order is kept."""
    writers = Writers(arena.dsn, arena.topic, keys=20, wallets=True)
    with arena.running():
        with writers.running():
            for _ in range(2):
                victim = arena.leader()
                victim.kill()
                took = until_led_by(arena, arena.other(victim))
                print(f"publishing again {took:.2f} s after kill -9")
                assert took < SOON
                victim.start()
                arena.until_up(victim)
        arena.drain()
    assert writers.failed == []
    assert arena.judge(writers).found == set()


def test_a_clean_stop_under_load_repeats_nothing(arena):
    """SIGTERM of the leader while writers write, three times: the other goes on at once and no record is sent twice."""
    writers = Writers(arena.dsn, arena.topic, keys=20, wallets=True)
    with arena.running():
        with writers.running():
            for _ in range(3):
                leaving = arena.leader()
                leaving.signal(signal.SIGTERM)
                took = until_led_by(arena, arena.other(leaving))
                print(f"publishing again {took:.2f} s after SIGTERM")
                assert took < SOON
                assert leaving.wait() == 0
                leaving.start()
                arena.until_up(leaving)
        arena.drain()
        assert [relay.end() for relay in arena.relays] == [0, 0]
    verdict = arena.judge(writers)
    assert writers.failed == []
    assert (verdict.found, verdict.duplicates) == (set(), 0)


def test_a_stop_waits_for_a_slow_broker_and_a_second_signal_does_not(own_arena, own_kafka):
    """The lease is kept while the stop waits for acknowledgements; whoever cannot wait sends the signal twice."""
    arena = own_arena
    with arena.running():
        ledger = commit(arena, "before", 20)
        arena.drain()
        leaving = arena.leader()
        other = arena.other(leaving)
        with silent(own_kafka):
            ledger |= commit(arena, "in hand", 500)
            until_in_hand(arena, leaving)
            leaving.signal(signal.SIGTERM)
            # More than a lease: a standby that took the lane now would send the same again.
            time.sleep(3.0)
            assert leaving.runs
            assert arena.lanes()[0].pid == leaving.pid
        assert leaving.wait() == 0
        arena.drain()
        verdict = arena.judge(ledger)
        assert (verdict.found, verdict.duplicates) == (set(), 0)
        wait_until(lambda: arena.lanes()[0].pid == other.pid, 60, "the other leads")
        for number in (signal.SIGTERM, signal.SIGINT):
            # Its client has seen the topic, so that it takes events while the broker is silent.
            ledger |= commit(arena, "between", 20)
            arena.drain()
            with silent(own_kafka):
                hurried = arena.leader()
                ledger |= commit(arena, "in hand", 500)
                until_in_hand(arena, hurried)
                hurried.signal(signal.SIGTERM)
                wait_until(partial(says, hurried, "stopping"), 30, "it is stopping")
                begun = time.monotonic()
                hurried.signal(number)
                assert hurried.wait(SOON) == 128 + number
                print(f"gone {time.monotonic() - begun:.2f} s after the second signal ({number.name})")
            hurried.start()
            arena.until_up(hurried)
        arena.drain()
    assert arena.judge(ledger).found == set()
