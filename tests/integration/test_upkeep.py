"""Keeping the outbox in shape: partitions ahead of the writers, and dropped behind the cursors, never too early."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import closing

import psycopg
import pytest

from kylo_outbox import Event, emit, emit_many
from kylo_outbox.flows.housekeeping import Housekeeping
from kylo_outbox.store import lanes, upkeep
from kylo_outbox.store.engine import connect
from kylo_outbox.store.outbox import Reader
from tests.helpers.writers import Writers


def partitions(database):
    """Names of the outbox's partitions."""
    with database.transaction() as tx:
        return {name for (name,) in tx.execute("select partition from kylo.outbox_partitions").fetchall()}


def tables(database):
    """Names of every table that is or was a partition."""
    with database.transaction() as tx:
        sql = "select 'kylo.' || relname from pg_class where relname ~ '^outbox_log_([0-9]+|last)$' and relkind = 'r'"
        return {name for (name,) in tx.execute(sql).fetchall()}


@pytest.fixture
def narrow(control_db):
    """Partitions of 100 ids, so that a few events fill several."""
    with control_db.transaction() as tx:
        for name in partitions(control_db):
            tx.execute(f"alter table kylo.outbox_log detach partition {name}")
            tx.execute(f"drop table {name}")
        tx.execute("select kylo.extend_outbox(350, 100)")
    return control_db


@pytest.fixture
def keeper(control_db):
    """The connection of housekeeping."""
    with closing(connect(control_db.dsn, "keeper", autocommit=True)) as connection:
        yield connection


def write(database, count=250):
    """Save so many events in one transaction."""
    with database.transaction() as tx:
        emit_many(tx, [Event(topic="t", key="k", type="T", payload={}) for _ in range(count)])


def read_all(database):
    """Ids of everything unread, as a relay would read and acknowledge it."""
    with connect(database.dsn, "test", autocommit=True) as connection:
        lane = lanes.take(connection, 0, "test")
        assert lane is not None
        reader = Reader(connection, lane)
        ids = []
        while rows := reader.read(1000).rows:
            ids += [row[0] for row in rows]
        assert lanes.advance(connection, lane, lane.cursor.high_water, reader.cursor, 0)
        lanes.release(connection, lane)
        return ids


def extend(keeper):
    """As housekeeping does, with narrow partitions."""
    return upkeep.extend(keeper, 350, 100)


def test_partitions_follow_the_writers(narrow, keeper):
    """Enough for the ids to come, and no more."""
    assert len(partitions(narrow)) == 5
    write(narrow)
    assert extend(keeper) == 2
    assert extend(keeper) == 0


def test_a_writer_far_ahead_of_the_upkeep_is_never_stopped_and_the_outbox_recovers(narrow, keeper):
    """Rows in the last partition are served; then it is given an end, and leaves like any other."""
    write(narrow, 450)
    with narrow.transaction() as tx:
        assert tx.execute("select count(*) from kylo.outbox_log_last").fetchone() == (50,)
    assert read_all(narrow) == list(range(1, 451))
    assert extend(keeper) == 2
    with narrow.transaction() as tx:
        assert tx.execute("select count(*) from kylo.outbox_log_401").fetchone() == (50,)
        assert tx.execute("select count(*) from kylo.outbox_log_last").fetchone() == (0,)
    write(narrow, 10)
    assert read_all(narrow) == list(range(451, 461))
    assert upkeep.roll(keeper, 0.0)
    write(narrow, 1)
    read_all(narrow)
    assert "kylo.outbox_log_401" in upkeep.drop_published(keeper, 0.0)
    assert extend(keeper) > 0


def test_the_last_partition_is_made_anew_when_it_is_missing(narrow, keeper):
    """Whoever took it away by hand gets it back behind the others."""
    with narrow.transaction() as tx:
        tx.execute("alter table kylo.outbox_log detach partition kylo.outbox_log_last")
        tx.execute("drop table kylo.outbox_log_last")
    assert extend(keeper) == 0
    assert "kylo.outbox_log_last" in partitions(narrow)


def test_published_partitions_leave_and_others_stay(narrow, keeper):
    """Only partitions wholly behind the cursor and older than the retention are dropped."""
    write(narrow)
    assert upkeep.drop_published(keeper, 0.0) == []
    read_all(narrow)
    assert upkeep.drop_published(keeper, 3600.0) == []
    assert upkeep.drop_published(keeper, 0.0) == ["kylo.outbox_log_1", "kylo.outbox_log_101"]
    with narrow.transaction() as tx:
        assert tx.execute("select count(*), min(id) from outbox").fetchone() == (50, 201)
    assert tables(narrow) == partitions(narrow)


def test_each_partition_is_told_of_once_before_it_leaves(narrow, keeper):
    """The place for totals: in one transaction with the decision, its rows still readable, and once for all."""
    write(narrow)
    read_all(narrow)
    told = []

    def before(tx, partition):
        told.append((partition, tx.execute("select count(*) from outbox").fetchone()[0]))
        if len(told) == 1:
            raise psycopg.errors.LockNotAvailable

    assert upkeep.drop_published(keeper, 0.0, before) == []
    assert len(upkeep.drop_published(keeper, 0.0, before)) == 2
    assert told == [("kylo.outbox_log_1", 250), ("kylo.outbox_log_1", 250), ("kylo.outbox_log_101", 150)]


def test_a_partition_with_a_late_row_stays(narrow, keeper):
    """A row that committed late and is not published yet keeps its partition."""
    with connect(narrow.dsn, "late") as late:
        emit(late, topic="t", key="late", type="T", payload={})
        write(narrow)
        read_all(narrow)
        late.commit()
    assert upkeep.drop_published(keeper, 0.0) == []
    with narrow.transaction() as tx:
        assert tx.execute("select count(*) from outbox where processed_at is null").fetchone() == (1,)
    assert read_all(narrow) == [1]
    assert len(upkeep.drop_published(keeper, 0.0)) == 2


def test_a_row_that_commits_while_its_partition_is_looked_at_is_not_lost(narrow, keeper, monkeypatch):
    """Nobody who may still commit a row of it is at work when the decision is made."""
    late = connect(narrow.dsn, "late")
    emit(late, topic="t", key="late", type="T", payload={})
    write(narrow)
    read_all(narrow)
    looked = upkeep._value

    def commits_meanwhile(connection, sql, *values):
        found = looked(connection, sql, *values)
        if "kylo.lanes" in sql:
            late.commit()
        return found

    monkeypatch.setattr(upkeep, "_value", commits_meanwhile)
    monkeypatch.setattr(upkeep, "_SOON", 0.2)
    assert upkeep.drop_published(keeper, 0.0) == []
    late.commit()
    late.close()
    assert read_all(narrow) == [1]


def test_writers_go_on_while_somebody_reads_for_long(narrow, keeper, monkeypatch):
    """With an old transaction on the outbox nothing is dropped or extended, and no writer waits for the attempt."""
    monkeypatch.setattr(upkeep, "_SOON", 0.2)
    write(narrow, 390)
    read_all(narrow)
    with closing(connect(narrow.dsn, "dump")) as dump:
        dump.execute("set idle_in_transaction_session_timeout = 0")
        dump.execute("set transaction isolation level repeatable read")
        dump.execute("select count(*) from kylo.outbox_log")
        with Writers(narrow.dsn, "t", writers=2).running() as writers:
            until = time.monotonic() + 60
            while len(writers.committed) < 50 and time.monotonic() < until:
                assert upkeep.drop_published(keeper, 0.0) == []
                assert extend(keeper) == 0
        assert writers.failed == []
        assert len(writers.committed) >= 50
        dump.rollback()
    read_all(narrow)
    assert extend(keeper) > 0
    assert len(upkeep.drop_published(keeper, 0.0)) >= 3


def test_a_writer_waits_a_moment_at_most_for_the_locks_of_upkeep(narrow, keeper, monkeypatch):
    """Where the gate in front is missed by a hair, the lock time-out still ends the wait."""
    monkeypatch.setattr(upkeep, "_users_gone", lambda _: True)
    write(narrow, 390)
    waits = []
    with closing(connect(narrow.dsn, "reader")) as reader, closing(connect(narrow.dsn, "writer")) as writer:
        reader.execute("select count(*) from kylo.outbox_log")
        thread = threading.Thread(target=extend, args=(keeper,))
        thread.start()
        while thread.is_alive():
            began = time.monotonic()
            emit(writer, topic="t", key="k", type="T", payload={})
            writer.commit()
            waits.append(time.monotonic() - began)
        thread.join()
    assert waits
    assert max(waits) < 5.0


def test_an_interrupted_detach_is_finished_by_a_later_round(narrow, keeper, monkeypatch):
    """Detached half way, or detached and not dropped: the next round goes on from there."""
    write(narrow)
    read_all(narrow)
    monkeypatch.setattr(upkeep, "_users_gone", lambda _: True)
    with closing(connect(narrow.dsn, "reader")) as reader:
        reader.execute("select count(*) from kylo.outbox_log")
        assert upkeep.drop_published(keeper, 0.0) == []
        with narrow.transaction() as tx:
            pending = tx.execute("select partition from kylo.outbox_partitions where leaving").fetchall()
            assert pending == [("kylo.outbox_log_1",)]
            emit(tx, topic="t", key="k", type="T", payload={})
        assert upkeep.drop_published(keeper, 0.0) == []
    assert upkeep.drop_published(keeper, 0.0) == ["kylo.outbox_log_1", "kylo.outbox_log_101"]
    assert tables(narrow) == partitions(narrow)


def test_a_quiet_store_starts_the_next_partition_by_itself(narrow, keeper):
    """Rows do not outlive the retention for want of new ones; ids only rise and nothing is lost on the way."""
    write(narrow, 3)
    assert not upkeep.roll(keeper, 7 * 3600.0)
    assert upkeep.roll(keeper, 0.0)
    assert not upkeep.roll(keeper, 0.0)
    write(narrow, 2)
    assert read_all(narrow) == [1, 2, 3, 102, 103]
    assert upkeep.drop_published(keeper, 0.0) == ["kylo.outbox_log_1"]
    assert extend(keeper) > 0


def test_a_store_rolls_only_when_no_writer_can_draw_an_older_id(narrow, keeper, monkeypatch):
    """A writer with an id in hand makes it wait: the number would otherwise jump back."""
    monkeypatch.setattr(upkeep, "_SOON", 0.1)
    write(narrow, 3)
    with closing(connect(narrow.dsn, "writer")) as writer:
        emit(writer, topic="t", key="k", type="T", payload={})
        assert not upkeep.roll(keeper, 0.0)
        monkeypatch.setattr(upkeep, "_users_gone", lambda _: True)
        assert not upkeep.roll(keeper, 0.0)
        writer.commit()
    assert upkeep.roll(keeper, 0.0)


def test_event_ids_are_forgotten_after_the_retention(control_db, keeper, monkeypatch):
    """In pieces, and not before a delayed event with that id is released."""
    monkeypatch.setattr(upkeep, "TRIM_EVENT_IDS", upkeep.TRIM_EVENT_IDS.replace("10000", "10"))
    monkeypatch.setattr(upkeep, "_CHUNK", 10)
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic="t", key="k", type="T", payload={}, event_id=uuid.uuid4()) for _ in range(35)])
        tx.execute("select kylo.emit('t', 'k', 'T', '{}', '{}', gen_random_uuid(), now() + interval '1 day')")
    upkeep.trim(keeper, 3600.0)
    assert keeper.execute("select count(*) from kylo.event_ids").fetchone() == (36,)
    upkeep.trim(keeper, 0.0)
    assert keeper.execute("select count(*) from kylo.event_ids").fetchone() == (1,)


def test_the_job_does_all_of_it_and_one_process_at_a_time(narrow, keeper, caplog):
    """A round over the stores; while somebody else is at it, the round is left out."""
    caplog.set_level("INFO")
    write(narrow)
    read_all(narrow)
    job = Housekeeping(lambda: [narrow], 0.0)
    assert upkeep.alone(keeper)
    job.run_once()
    assert "kylo.outbox_log_1" in partitions(narrow)
    keeper.execute("select pg_advisory_unlock_all()")
    job.run_once()
    assert "kylo.outbox_log_1" not in partitions(narrow)
    assert "dropped kylo.outbox_log_1, kylo.outbox_log_101" in caplog.text
