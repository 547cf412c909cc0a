"""Keeping the outbox in shape: partitions ahead of the writers, and dropped behind the cursors, never too early."""

from __future__ import annotations

import pytest

from kylo_outbox import Event, emit, emit_many
from kylo_outbox.store import lanes, upkeep
from kylo_outbox.store.engine import connect
from kylo_outbox.store.outbox import Reader


def partitions(database):
    """Names of the outbox's partitions."""
    with database.transaction() as tx:
        sql = "select inhrelid::regclass::text from pg_inherits where inhparent = 'kylo.outbox_log'::regclass"
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


def publish_all(database):
    """Move the cursor over everything, as a relay would after the acknowledgements."""
    with connect(database.dsn, "test", autocommit=True) as connection:
        lane = lanes.take(connection, 0, "test")
        assert lane is not None
        reader = Reader(connection, lane)
        while reader.read(1000).rows:
            pass
        assert lanes.advance(connection, lane, lane.cursor.high_water, reader.cursor, 0)
        lanes.release(connection, lane)


def test_partitions_are_made_ahead_and_the_last_one_takes_the_rest(narrow):
    """A writer far ahead of the upkeep finds a partition all the same; its rows are served from there."""
    assert len(partitions(narrow)) == 5
    with narrow.transaction() as tx:
        emit_many(tx, [Event(topic="t", key="k", type="T", payload={}) for _ in range(450)])
        assert tx.execute("select count(*) from kylo.outbox_log_last").fetchone() == (50,)
        assert tx.execute("select kylo.extend_outbox(350, 100)").fetchone() == (0,)
        assert tx.execute("select count(*) from outbox").fetchone() == (450,)


def test_partitions_follow_the_writers(narrow):
    """While the last partition is empty, new ones are put before it."""
    with narrow.transaction() as tx:
        emit_many(tx, [Event(topic="t", key="k", type="T", payload={}) for _ in range(250)])
        assert tx.execute("select kylo.extend_outbox(350, 100)").fetchone() == (2,)
        assert tx.execute("select kylo.extend_outbox(350, 100)").fetchone() == (0,)


def test_published_partitions_leave_and_others_stay(narrow):
    """Only partitions wholly behind the cursor and older than the retention are dropped."""
    with narrow.transaction() as tx:
        emit_many(tx, [Event(topic="t", key="k", type="T", payload={}) for _ in range(250)])
    with narrow.transaction() as tx:
        assert upkeep.drop_published(tx, 0.0) == []
    publish_all(narrow)
    with narrow.transaction() as tx:
        assert upkeep.drop_published(tx, 3600.0) == []
        assert len(upkeep.drop_published(tx, 0.0)) == 2
        assert tx.execute("select count(*), min(id) from outbox").fetchone() == (50, 201)
        upkeep.trim(tx, 0.0)


def test_a_partition_with_a_late_row_stays(narrow):
    """A row that committed late and is not published yet keeps its partition."""
    with connect(narrow.dsn, "late") as late:
        emit(late, topic="t", key="late", type="T", payload={})
        with narrow.transaction() as tx:
            emit_many(tx, [Event(topic="t", key="k", type="T", payload={}) for _ in range(250)])
        publish_all(narrow)
        late.commit()
    with narrow.transaction() as tx:
        assert upkeep.drop_published(tx, 0.0) == []
        assert tx.execute("select count(*) from outbox where processed_at is null").fetchone() == (1,)
    publish_all(narrow)
    with narrow.transaction() as tx:
        assert len(upkeep.drop_published(tx, 0.0)) == 2


def test_a_busy_table_is_left_to_the_next_round(narrow):
    """Upkeep never waits for long behind a writer's lock."""
    with narrow.transaction() as tx:
        emit_many(tx, [Event(topic="t", key="k", type="T", payload={}) for _ in range(250)])
    publish_all(narrow)
    with connect(narrow.dsn, "busy") as busy:
        busy.execute("lock table kylo.outbox_log in access share mode")
        with narrow.transaction() as tx:
            assert upkeep.drop_published(tx, 0.0) == []
            assert upkeep.extend(tx) == 0
