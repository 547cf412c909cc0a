"""Delayed events: not before their time, in order, once, and never at the cost of what is not delayed."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from typer.testing import CliRunner

from kylo_outbox import Event, Refused, emit, emit_async, emit_many
from kylo_outbox.cli import app
from kylo_outbox.flows.delayed import DelayedEvents
from kylo_outbox.store.backlog import read_backlog
from kylo_outbox.store.delayed import Releaser
from kylo_outbox.store.engine import Database, connect

NOW = datetime.now(UTC)
PAST = NOW - timedelta(minutes=5)
TOMORROW = NOW + timedelta(days=1)


@pytest.fixture
def releaser(control_db):
    """What the job uses for one store."""
    with closing(Releaser(control_db.dsn, "test")) as made:
        yield made


def released(database):
    """(key, number) of what lies in the outbox, in its order."""
    with database.transaction() as tx:
        rows = tx.execute("select key, payload from outbox order by id").fetchall()
    return [(key, json.loads(payload).get("n")) for key, payload in rows]


def waiting(database):
    """How many events wait for their time."""
    with database.transaction() as tx:
        return tx.execute("select count(*) from kylo.outbox_delayed").fetchone()[0]


def let_time_pass(database):
    """Everything that waits is due."""
    with database.transaction() as tx:
        tx.execute("update kylo.outbox_delayed set available_at = available_at - interval '2 days'")


def later(tx, key, n, at=TOMORROW, **more):
    """Emit one delayed event."""
    return emit(tx, topic="t", key=key, type="T", payload={"n": n}, available_at=at, **more)


def test_an_event_is_not_published_before_its_time(control_db, releaser):
    """Until then it is in no outbox; then it gets the next id, with everything it was given."""
    with control_db.transaction() as tx:
        saved = later(tx, "k", 1, headers={"h": "v"})
        emit(tx, topic="t", key="k", type="T", payload={"n": 2})
    assert releaser.release() == 0
    assert released(control_db) == [("k", 2)]
    let_time_pass(control_db)
    assert releaser.release() == 1
    assert released(control_db) == [("k", 2), ("k", 1)]
    with control_db.transaction() as tx:
        row = tx.execute("select event_id, headers, created_at > %s from outbox where id = 2", (NOW,)).fetchone()
        assert row == (saved.event_id, {"h": "v"}, True)
    assert waiting(control_db) == 0


def test_the_order_is_that_of_the_times_and_then_of_the_emits(control_db, releaser):
    """Also when their time was over at the emit."""
    with control_db.transaction() as tx:
        later(tx, "k", 3, PAST + timedelta(seconds=2))
        given = [(1, PAST), (4, PAST + timedelta(seconds=3)), (2, PAST), (None, None)]
        emit_many(tx, [Event(topic="t", key="k", type="T", payload={"n": n}, available_at=at) for n, at in given])
    assert released(control_db) == [("k", None)]
    assert releaser.release() == 4
    assert [n for _, n in released(control_db)] == [None, 1, 2, 3, 4]


def test_every_door_takes_a_time(control_db, releaser):
    """SQL, the asynchronous door and SQLAlchemy."""

    async def story():
        async with await psycopg.AsyncConnection.connect(control_db.dsn) as connection:
            await emit_async(connection, topic="t", key="async", type="T", payload={}, available_at=PAST)

    asyncio.run(story())
    with control_db.begin() as connection:
        emit(connection, topic="t", key="sqlalchemy", type="T", payload={}, available_at=PAST)
    with control_db.transaction() as tx:
        for payload in ("'{}'", "'{}'::jsonb", "'{}'::json", "'{}'::bytea"):
            tx.execute(f"select kylo.emit('t', 'sql', 'T', {payload}, available_at => now())")
    assert released(control_db) == []
    assert releaser.release() == 6


def test_what_is_rolled_back_is_never_released(control_db, releaser):
    """A delayed event is part of the caller's transaction like any other."""
    with pytest.raises(RuntimeError), control_db.transaction() as tx:
        later(tx, "k", 1, PAST)
        raise RuntimeError
    assert releaser.release() == 0
    assert waiting(control_db) == 0


@pytest.mark.parametrize(
    ("at", "said"),
    [(datetime(2030, 1, 1), "no time zone"), ("'infinity'", "a point in time")],  # noqa: DTZ001
)
def test_a_time_that_is_none_is_refused(control_db, at, said):
    """The argument is named and nothing is saved."""
    with pytest.raises((Refused, psycopg.errors.InvalidParameterValue), match=said), control_db.transaction() as tx:
        if isinstance(at, str):
            tx.execute(f"select kylo.emit('t', 'k', 'T', '{{}}', available_at => {at})")
        later(tx, "k", 1, at)
    assert waiting(control_db) == 0


def test_an_event_id_counts_once_delayed_or_not(control_db, releaser):
    """A second emit of the id adds nothing, before and after the release."""
    chosen = uuid.uuid4()
    with control_db.transaction() as tx:
        later(tx, "k", 1, event_id=chosen)
        emit(tx, topic="t", key="k", type="T", payload={"n": 2}, event_id=chosen)
        same = Event(topic="t", key="k", type="T", payload={"n": 3}, event_id=chosen, available_at=PAST)
        assert emit_many(tx, [same])[0].event_id == chosen
    let_time_pass(control_db)
    assert releaser.release() == 1
    with control_db.transaction() as tx:
        later(tx, "k", 4, PAST, event_id=chosen)
    assert releaser.release() == 0
    assert released(control_db) == [("k", 1)]


def test_a_delayed_event_can_be_taken_back(control_db, releaser):
    """Cancelled it is never released, and its id is free; what is released already cannot be taken back."""
    chosen = uuid.uuid4()
    with control_db.transaction() as tx:
        later(tx, "k", 1, event_id=chosen)
        assert tx.execute("select kylo.cancel_delayed(%s)", (chosen,)).fetchone() == (True,)
        assert tx.execute("select kylo.cancel_delayed(%s)", (chosen,)).fetchone() == (False,)
        later(tx, "k", 2, PAST, event_id=chosen)
    assert releaser.release() == 1
    with control_db.transaction() as tx:
        assert tx.execute("select kylo.cancel_delayed(%s)", (chosen,)).fetchone() == (False,)
    assert released(control_db) == [("k", 2)]


def test_a_crash_in_the_middle_of_a_release_changes_nothing(control_db, releaser):
    """Moving is one transaction: what was not committed waits as before and is released once."""
    with control_db.transaction() as tx:
        for n in range(10):
            later(tx, "k", n, PAST)
    with closing(connect(control_db.dsn, "crashing")) as crashing:
        assert crashing.execute("select released from kylo.release_delayed(5)").fetchone() == (5,)
        with control_db.transaction() as tx:
            tx.execute("select pg_terminate_backend(%s, 20000)", (crashing.info.backend_pid,))
    assert released(control_db) == []
    assert releaser.release() == 10
    assert [n for _, n in released(control_db)] == list(range(10))


def test_two_releasers_release_each_event_once_and_in_order(control_db):
    """However many processes run: one works at a time, the others find nothing to do."""
    with control_db.transaction() as tx:
        given = [(f"k{n % 7}", n) for n in range(5000)]
        emit_many(tx, [Event(topic="t", key=key, type="T", payload={"n": n}, available_at=PAST) for key, n in given])
    counts, failed = [], []

    def work():
        try:
            with closing(Releaser(control_db.dsn, "test")) as own:
                while waiting(control_db):
                    counts.append(own.release())
        except Exception as error:  # noqa: BLE001 - told to the test, which fails
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    assert sum(counts) == 5000
    assert released(control_db) == given


def test_an_open_transaction_holds_back_its_own_key_only(control_db, releaser):
    """A writer that sleeps with a key's lock, and more events of that key than a chunk takes."""
    with control_db.transaction() as tx:
        for n in range(3):
            later(tx, "busy", n, PAST)
        later(tx, "free", 1, PAST + timedelta(seconds=1))
    with closing(connect(control_db.dsn, "sleeper")) as sleeper:
        emit(sleeper, topic="t", key="busy", type="T", payload={})
        assert releaser.release() == 1
        assert released(control_db) == [("free", 1)]
        sleeper.rollback()
    assert releaser.release() == 3
    assert released(control_db) == [("free", 1), ("busy", 0), ("busy", 1), ("busy", 2)]


def test_a_cancellation_under_way_holds_back_what_is_behind_it(control_db, releaser):
    """Until it is known whether the first of a key is taken back nothing overtakes it; other keys go on."""
    with control_db.transaction() as tx:
        first = later(tx, "k", 1, PAST)
        later(tx, "k", 2, PAST + timedelta(seconds=1))
        later(tx, "other", 3, PAST + timedelta(seconds=2))
    with closing(connect(control_db.dsn, "undecided")) as undecided:
        undecided.execute("select kylo.cancel_delayed(%s)", (first.event_id,))
        assert releaser.release() == 1
        undecided.rollback()
    assert releaser.release() == 2
    assert released(control_db) == [("other", 3), ("k", 1), ("k", 2)]


def test_the_job_serves_every_store_and_leaves_out_one_that_is_away(control_db, make_database, caplog):
    """One line is said about it, and the others are released."""
    other = make_database()
    gone = Database("postgresql://nobody@127.0.0.1:1/none", name="gone")
    for database in (control_db, other):
        with database.transaction() as tx:
            later(tx, "k", 1, PAST)
    job = DelayedEvents(lambda: [gone, control_db, other])
    assert job.run_once() == 2
    assert job.run_once() == 0
    job.close()
    assert sum("gone" in record.message for record in caplog.records) == 1


def test_people_see_what_waits_for_its_time(control_db, monkeypatch, tmp_path):
    """`outbox ls --delayed` lists it; the backlog counts it from the moment it is due."""
    monkeypatch.setenv("PG_DSN_RW", control_db.dsn)
    monkeypatch.chdir(tmp_path)
    with control_db.transaction() as tx:
        later(tx, "710", 1)
        later(tx, "711", 2, PAST)
    listed = CliRunner().invoke(app, ["outbox", "ls", "--delayed", "--key", "710", "--json"])
    shown = json.loads(listed.stdout)
    assert (shown["delayed"], shown["events"][0]["key"]) == (1, "710")
    assert "2 events wait for their time" in CliRunner().invoke(app, ["outbox", "ls", "--delayed"]).stderr
    with control_db.transaction() as tx:
        backlog = read_backlog(tx, {})
    assert backlog.unprocessed["t"] == 1
    assert 200 < backlog.oldest_age < 4000
