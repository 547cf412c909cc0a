"""Lanes and side lanes: every event once, in order, however the slots are cut and whoever holds them."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from kylo_outbox import Event, emit, emit_many
from kylo_outbox.flows import holds
from kylo_outbox.flows.relay import RelayState
from kylo_outbox.model.errors import Fatal, Misconfigured
from kylo_outbox.store import lanes, sides
from kylo_outbox.store.engine import connect
from kylo_outbox.store.outbox import PLANS, Reader
from kylo_outbox.store.session import LaneSession
from tests.helpers.broker import first_appearances, inversions, make_topic, read_all
from tests.helpers.pipeline import wait_until
from tests.helpers.writers import Writers


@pytest.fixture
def topic(kafka_server):
    """A topic of this test's own."""
    return make_topic(kafka_server.bootstrap)


def fill(database, topic, keys, count, start=0):
    """Emit `count` events, the keys in turn."""
    with database.transaction() as tx:
        events = [Event(topic=topic, key=keys[n % len(keys)], type="T", payload={"n": start + n}) for n in range(count)]
        return {str(event.event_id) for event in emit_many(tx, events)}


def open_rows(database):
    """How many events nobody has acknowledged."""
    with database.transaction() as tx:
        [count] = tx.execute("select count(*) from outbox where processed_at is null").fetchone()
    return count


def taken(connection, number):
    """A lane that is free."""
    lane = lanes.take(connection, number, "test")
    assert lane is not None
    return lane


def test_a_sleeper_that_goes_leaves_the_lane_to_its_new_holder(control_db):
    """A lane taken over by time is its new holder's alone: the former one's connection may end, by now or later."""
    with (
        closing(connect(control_db.dsn, "sleeper", autocommit=True)) as sleeper,
        closing(connect(control_db.dsn, "holder", autocommit=True)) as holder,
        closing(connect(control_db.dsn, "newcomer", autocommit=True)) as newcomer,
    ):
        taken(sleeper, 0)
        assert lanes.take(newcomer, 0, "test") is None
        newcomer.execute("update kylo.lanes set lease_until = now() - interval '1 second'")
        held = taken(holder, 0)
        sleeper.close()
        wait_until(lambda: not sessions_of(newcomer, "sleeper"), 30, "the sleeper's connection is gone")
        assert lanes.take(newcomer, 0, "test") is None
        assert lanes.renew(holder, held)
        # Its own end is noticed at once, long before its lease is over.
        holder.close()
        wait_until(lambda: not sessions_of(newcomer, "holder"), 30, "the holder's connection is gone")
        assert taken(newcomer, 0).epoch == held.epoch + 1


def test_an_operator_who_raises_the_epoch_gives_the_lane_to_nobody(control_db):
    """Until the holder has noticed, its client may have records on their way that the next one must not overtake."""
    with (
        closing(connect(control_db.dsn, "holder", autocommit=True)) as holder,
        closing(connect(control_db.dsn, "newcomer", autocommit=True)) as newcomer,
    ):
        held = taken(holder, 0)
        # `start_over` of store/holds.py does this.
        newcomer.execute("update kylo.lanes set epoch = epoch + 1")
        assert lanes.take(newcomer, 0, "test") is None
        assert not lanes.renew(holder, held)
        holder.close()
        wait_until(lambda: not sessions_of(newcomer, "holder"), 30, "the holder's connection is gone")
        assert taken(newcomer, 0).epoch == held.epoch + 2


def sessions_of(connection, name):
    """How many connections of that name there are to this database."""
    sql = "select from pg_stat_activity where application_name = %s and datname = current_database()"
    return len(connection.execute(sql, (f"kylo-outbox {name}",)).fetchall())


def test_each_lane_reads_its_own_slots_and_together_they_read_all(control_db):
    """Three lanes cut the slots without gap or overlap; each row is read by exactly one."""
    with control_db.transaction() as tx:
        cut = sides.set_lanes(tx, 3)
    assert [(first, end) for _, first, end in cut] == [(0, 320), (320, 704), (704, 1024)]
    fill(control_db, "t", [f"k{n}" for n in range(100)], 500)
    with closing(connect(control_db.dsn, "read", autocommit=True)) as connection:
        connection.execute(PLANS)
        read = [
            [row[0] for row in Reader(connection, taken(connection, number)).read(1000).rows]
            for number in lanes.numbers(connection)
        ]
    assert all(read)
    assert sorted(number for rows in read for number in rows) == list(range(1, 501))


@pytest.mark.parametrize("count", [0, 17])
def test_a_number_of_lanes_that_cannot_be_is_refused(control_db, count):
    """1 to 16, and nothing is changed."""
    with control_db.transaction() as tx, pytest.raises(Misconfigured, match="lanes: must be 1 to 16"):
        sides.set_lanes(tx, count)


def test_new_lanes_begin_where_every_former_lane_had_been(control_db):
    """A late row that only the slower lane's snapshot misses is still read after the lanes became one."""
    with control_db.transaction() as tx:
        sides.set_lanes(tx, 2)
        # Emit's locks are taken by slot: the writers that go on need other slots than the one that stays open.
        [(keys, others)] = tx.execute(
            "select array_agg(k) filter (where slot % 2 = 0), array_agg(k) filter (where slot % 2 = 1) from "
            "(select 'k' || n as k, kylo.slot_of('t', convert_to('k' || n, 'UTF8')) as slot "
            "from generate_series(1, 60) n) s"
        ).fetchall()
    with (
        closing(connect(control_db.dsn, "read", autocommit=True)) as connection,
        closing(connect(control_db.dsn, "late")) as late,
    ):
        late.execute("set idle_in_transaction_session_timeout = 0")
        for key in keys:
            emit(late, topic="t", key=key, type="LATE", payload={})
        fill(control_db, "t", others, 50)
        first, second = (taken(connection, number) for number in (0, 1))
        # The first lane has seen the snapshot in which `late` was running; the second one reads after its commit.
        for lane, before in ((first, None), (second, late)):
            if before is not None:
                before.commit()
            reader = Reader(connection, lane)
            turn = reader.read(1000)
            assert lanes.advance(connection, lane, lane.cursor.high_water, reader.cursor, len(turn.rows))
        with control_db.transaction() as tx:
            sides.set_lanes(tx, 1)
        assert not lanes.renew(connection, first), "the former lanes are over"
        whole = taken(connection, 0)
        late_keys = {row[2].decode() for row in Reader(connection, whole).read(1000).rows if row[3] == "LATE"}
    with control_db.transaction() as tx:
        of_first = tx.execute(
            "select convert_from(key, 'UTF8') from kylo.outbox_log where type = 'LATE' and slot < %s",
            (first.slots.end,),
        ).fetchall()
    assert {key for (key,) in of_first} <= late_keys


def test_what_was_published_stays_published_when_the_lanes_change(
    control_db, kafka_server, topic, make_relay, run_until
):
    """The view's processed_at survives a new cut; nothing is sent again that every lane had passed."""
    fill(control_db, topic, ["a", "b", "c"], 300)
    relay = make_relay()
    run_until(relay, lambda: open_rows(control_db) == 0)
    relay.close()
    with control_db.transaction() as tx:
        sides.set_lanes(tx, 4)
        assert tx.execute("select count(*), count(processed_at) from outbox").fetchone() == (300, 300)
    relays = [make_relay(state=RelayState(store="test", lane=lane)) for lane in range(4)]
    fill(control_db, topic, ["a", "b", "c"], 300)
    deadline = time.monotonic() + 60
    while open_rows(control_db):
        assert time.monotonic() < deadline
        for each in relays:
            each.run_once()
    records = read_all(kafka_server.bootstrap, topic)
    assert (len(records), inversions(records)) == (600, 0)


@pytest.mark.parametrize("act", [holds.discard, holds.dead_letter])
def test_what_was_taken_out_stays_out_when_the_lanes_change(control_db, act):
    """A lane has passed a held event that is taken out, another lane is far behind: the new cut begins before both."""
    with control_db.transaction() as tx:
        sides.set_lanes(tx, 2)
        keys = {tx.execute("select kylo.slot_of('t', %s) < 512", (f"k{n}",)).fetchone()[0]: f"k{n}" for n in range(20)}
        fast, slow = keys[True], keys[False]
    fill(control_db, "t", [slow, fast], 6)
    with control_db.transaction() as tx:
        [gone] = tx.execute(
            "insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, headers, reason) "
            "select id, event_id, created_at, slot, topic, key, type, payload, headers, 'X: y' from kylo.outbox_log "
            "where id = (select max(id) from kylo.outbox_log where key = convert_to(%s, 'UTF8')) returning id",
            (fast,),
        ).fetchone()
        tx.execute("update kylo.lanes set high_water = 6, snapshot = pg_current_snapshot() where lane = 0")
    with control_db.transaction() as tx:
        assert act(tx, "t", fast, reason="by hand", who="me").ids == (gone,)
    with control_db.transaction() as tx:
        sides.set_lanes(tx, 1)
    with closing(LaneSession(control_db.dsn, "test")) as session:
        assert session.take(0, "test")
        read = []
        while (turn := session.read(0, 2)).rows or turn.full:
            read += [row[0] for row in turn.rows if row[1] == "t"]
        assert read == [number for number in range(1, 7) if number != gone]
        session.advance(0, turn.cursor, len(read))
    assert open_rows(control_db) == 0


def test_lanes_change_under_fire_and_nothing_is_lost_or_reordered(
    control_db, kafka_server, topic, make_relay, run_until
):
    """Writers with late commits and rollbacks go on while 1 lane becomes 4, then 2, then 1."""
    relays = {lane: make_relay(state=RelayState(store="test", lane=lane)) for lane in range(4)}

    def turn_all(until):
        deadline = time.monotonic() + 60
        while not until():
            assert time.monotonic() < deadline
            for relay in relays.values():
                try:
                    relay.run_once()
                except Fatal:
                    continue  # its lane was cut anew; it takes it again

    with Writers(control_db.dsn, topic, keys=40).running() as writers:
        for count in (4, 2, 1):
            goal = len(writers.committed) + 300
            turn_all(lambda goal=goal: len(writers.committed) >= goal)
            with control_db.transaction() as tx:
                sides.set_lanes(tx, count)
    assert writers.failed == []
    turn_all(lambda: open_rows(control_db) == 0)
    records = read_all(kafka_server.bootstrap, topic)
    assert {record.event_id for record in first_appearances(records)} == {str(each) for each in writers.committed}
    assert inversions(records) == 0


def test_a_long_backlog_of_one_key_does_not_keep_others_waiting(control_db, kafka_server, topic, make_relay, run_until):
    """With 60,000 rows of one key before it, another key's row is published when most of them still wait."""
    fill(control_db, topic, ["hog"], 60_000)
    with control_db.transaction() as tx:
        single = emit(tx, topic=topic, key="single", type="T", payload={})
    relay = make_relay(batch=500)
    run_until(relay, lambda: is_done(control_db, single.event_id), seconds=120)
    assert relay.state.side_lanes == 1
    assert open_rows(control_db) > 20_000
    # The backlog is drained, the side joins its lane again, and the order is kept over both steps.
    run_until(relay, lambda: open_rows(control_db) == 0, seconds=240)
    fill(control_db, topic, ["hog", "single"], 10)
    run_until(relay, lambda: relay.state.side_lanes == 0 and open_rows(control_db) == 0, seconds=60)
    records = read_all(kafka_server.bootstrap, topic)
    assert len(first_appearances(records)) == 60_011
    assert inversions(records) == 0


def is_done(database, event_id):
    """Whether an event counts as processed."""
    with database.transaction() as tx:
        [at] = tx.execute("select processed_at from outbox where event_id = %s", (event_id,)).fetchone()
    return at is not None


def test_a_side_lane_survives_a_takeover(control_db, kafka_server, topic, make_relay, run_until):
    """A relay dies with a side lane in use; the next one goes on with both, in order, and joins them."""
    fill(control_db, topic, ["hog"], 30_000)
    fill(control_db, topic, [f"k{n}" for n in range(10)], 200)
    first = make_relay(batch=300)
    run_until(first, lambda: first.state.side_lanes == 1, seconds=120)
    first._session._connection.close()  # kill -9: no draining, no last cursor
    first._drop()
    second = make_relay()
    run_until(second, lambda: open_rows(control_db) == 0 and second.state.side_lanes == 0, seconds=240)
    records = read_all(kafka_server.bootstrap, topic)
    assert len(first_appearances(records)) == 30_200
    assert inversions(records) == 0


def test_rows_that_commit_while_a_slot_is_cut_off_and_joined_are_read_once(control_db):
    """Late rows of the slot and of others around both steps: each is read exactly once, by the part that has it."""
    session = LaneSession(control_db.dsn, "test")
    try:
        assert session.take(0, "test")
        read: list[int] = []

        def drain(part, upto=None):
            while True:
                turn = session.read(part, 100, upto)
                read.extend(row[0] for row in turn.rows)
                session.advance(part, turn.cursor, len(turn.rows))
                if not turn.full:
                    return turn

        with closing(connect(control_db.dsn, "1")) as early, closing(connect(control_db.dsn, "2")) as later:
            emit(early, topic="t", key="hog", type="T", payload={})
            emit(later, topic="t", key="other", type="T", payload={})
            fill(control_db, "t", ["x", "y"], 10)
            drain(0)
            side = session.split("t", b"hog")
            assert side is not None
            early.commit()
            fill(control_db, "t", ["x", "hog"], 10)
            drain(side)
            lane = drain(0)
            later.commit()
            drain(side, lane.cursor)
            assert session.together(side)
            session.join(side)
            fill(control_db, "t", ["x", "hog"], 10)
            drain(0)
        assert sorted(read) == list(range(1, 33))
    finally:
        session.close()
    assert open_rows(control_db) == 0
