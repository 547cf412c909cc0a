"""Cost must not grow with history: what is asked often never touches published events, whatever the planner thinks."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from kylo_outbox import emit
from kylo_outbox.store import held, lanes, outbox, sides
from kylo_outbox.store.engine import connect

HISTORY = 50_000


@pytest.fixture
def with_history(control_db):
    """A store with 50,000 published events behind its cursor, one late row, and two new ones."""
    with closing(connect(control_db.dsn, "late")) as late:
        emit(late, topic="t", key="late", type="T", payload={})
        with control_db.transaction() as tx:
            tx.execute(
                "insert into kylo.outbox_log (xid, event_id, created_at, slot, topic, key, type, payload) "
                "select pg_current_xact_id(), gen_random_uuid(), now(), n %% 1024, 't', 'k', 'T', '{}' "
                "from generate_series(1, %s) n",
                (HISTORY,),
            )
        with control_db.transaction() as tx:
            tx.execute("update kylo.lanes set high_water = %s, snapshot = pg_current_snapshot()", (HISTORY + 1,))
            tx.execute(
                "insert into kylo.marks (lane, low, high, since, at) values (0, 1, %s, now(), now())", (HISTORY + 1,)
            )
        late.commit()
    with control_db.transaction() as tx:
        for _ in range(2):
            emit(tx, topic="t", key="new", type="T", payload={})
    with control_db.transaction() as tx:
        tx.execute("analyze")
    return control_db


def visited(plan):
    """How many rows a plan touched, those it threw away included."""
    own = (
        plan.get("Actual Rows", 0)
        + plan.get("Rows Removed by Filter", 0)
        + plan.get("Rows Removed by Index Recheck", 0)
    )
    return own * plan.get("Actual Loops", 1) + sum(visited(child) for child in plan.get("Plans", ()))


def explained(tx, sql, values=None):
    """Rows visited by a statement."""
    [[plan]] = tx.execute("explain (analyze, format json) " + sql, values).fetchone()
    return visited(plan["Plan"])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT COUNT(*) FROM outbox WHERE processed_at IS NULL",
        "SELECT * FROM outbox WHERE processed_at IS NULL LIMIT 10",
        "select * from outbox where id = 777",
    ],
)
def test_open_rows_are_counted_without_history(with_history, sql):
    """The question in people's fingers costs what is open, not what was published."""
    with with_history.transaction() as tx:
        assert tx.execute("SELECT COUNT(*) FROM outbox WHERE processed_at IS NULL").fetchone() == (3,)
        assert explained(tx, sql) < 500


@pytest.mark.parametrize("statistics", ["as they are", "none", "one writer"])
def test_a_turn_of_the_relay_reads_no_history(with_history, statistics):
    """One late and two new rows are found beside 50,000 published ones, whatever the sample of the statistics met."""
    with closing(connect(with_history.dsn, "plan", autocommit=True)) as connection:
        if statistics == "none":
            connection.execute("delete from pg_statistic where starelid::regclass::text like 'kylo.outbox_log%'")
        if statistics == "one writer":
            connection.execute("alter table kylo.outbox_log_1 alter xid set (n_distinct = 1)")
            connection.execute("analyze kylo.outbox_log_1")
        connection.execute(outbox.PLANS)
        lane = lanes.take(connection, 0, "test")
        assert lane is not None
        whole = outbox.Reader(connection, lane)
        part = outbox.Reader(connection, replace(lane, slots=lanes.Slots(0, 1024, (7,))))
        for reader in (whole, part):
            [(now,)] = connection.execute("select pg_current_snapshot()::text").fetchall()
            values = reader._values(100, now) | {"upto": 2**62}
            assert explained(connection, reader._late_sql, values) < 500
            assert explained(connection, reader._new_sql, values) < 500
            assert explained(connection, reader._turn_sql, values | {"lane": 0}) < 500
            assert [row[2] for row in reader.read(100).rows] == [b"late", b"new", b"new"]


@pytest.mark.parametrize("analyzed", [True, False])
def test_held_events_and_what_was_taken_out_are_looked_up_by_their_ids(with_history, analyzed):
    """A hundred of each, one of them late, beside 50,000 published events, with the relay's own settings."""
    with closing(connect(with_history.dsn, "plan", autocommit=True)) as connection:
        connection.execute(
            "insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, reason, retry) "
            "select id, event_id, created_at, slot, topic, key, type, payload, 'paused', true from kylo.outbox_log "
            "where key = 'k' order by id limit 100"
        )
        connection.execute("insert into kylo.verify_gaps select id from kylo.outbox_log where id = 1 or id > 49903")
        if analyzed:
            connection.execute("analyze")
        else:
            connection.execute("delete from pg_statistic where starelid::regclass::text like 'kylo.outbox_log%'")
        connection.execute(outbox.PLANS)
        ready = {"topics": ["t"], "keys": [b"k"], "limit": 1000}
        assert explained(connection, held.READY, ready) < 2_000
        assert len(held.ready(connection, [("t", b"k")], 1000)) == 100
        assert explained(connection, sides.LEFT_OUT, {"lane": 0}) < 2_000
        assert len(sides.left_out(connection, 0)) == 3
