"""Reading the outbox: late commits, gaps and open transactions elsewhere lose nothing and invert nothing."""

from __future__ import annotations

from contextlib import closing

import pytest

from kylo_outbox import Event, emit, emit_many
from kylo_outbox.store import lanes, outbox
from kylo_outbox.store.engine import connect
from kylo_outbox.store.outbox import Reader
from tests.helpers.writers import Writers


@pytest.fixture
def reader_of(control_db):
    """A reader of the whole lane, from its beginning."""
    with closing(connect(control_db.dsn, "reader", autocommit=True)) as connection:
        lane = lanes.take(connection, 0, "test")
        assert lane is not None
        yield lambda: Reader(connection, lane)


def drain(reader, limit=100):
    """Everything that is committed now, as (key, id)."""
    found = []
    while rows := reader.read(limit).rows:
        found += [(row[2].decode(), row[0]) for row in rows]
    return found


def test_a_late_commit_is_read(control_db, reader_of):
    """A row whose id was passed while its transaction was open is read once it commits."""
    reader = reader_of()
    with closing(connect(control_db.dsn, "late")) as late, closing(connect(control_db.dsn, "early")) as early:
        emit(late, topic="t", key="late", type="T", payload={})
        emit(early, topic="t", key="early", type="T", payload={})
        early.commit()
        assert drain(reader) == [("early", 2)]
        late.commit()
        assert drain(reader) == [("late", 1)]
        assert drain(reader) == []


def test_reading_by_id_alone_would_lose_it(control_db):
    """The planted fault `id > last` misses the late row: this is what the snapshot is for."""
    with closing(connect(control_db.dsn, "late")) as late, closing(connect(control_db.dsn, "early")) as early:
        emit(late, topic="t", key="late", type="T", payload={})
        emit(early, topic="t", key="early", type="T", payload={})
        early.commit()
        with control_db.transaction() as tx:
            [last] = tx.execute("select max(id) from kylo.outbox_log").fetchone()
        late.commit()
        with control_db.transaction() as tx:
            assert tx.execute("select id from kylo.outbox_log where id > %s", (last,)).fetchall() == []


def test_transactions_above_the_snapshots_xmax_are_not_forgotten(control_db, reader_of, monkeypatch):
    """A transaction that runs above the newest completed one is in no list; leaving the range out loses its row."""

    def story(reader):
        with closing(connect(control_db.dsn, "late")) as late:
            emit(late, topic="t", key="late", type="T", payload={})
            # Nothing completes after it began, so it is at or above xmax of the next snapshot; the id is passed by a
            # row that was committed before and gets its number only now.
            emit_past(reader)
            first = drain(reader)
            late.commit()
            return first, drain(reader)

    def emit_past(reader):
        # The cursor may pass an id without reading it: an aborted or foreign number above it does the same.
        reader._at = lanes.Cursor(10, reader._at.snapshot)

    reader = reader_of()
    drain(reader)
    assert story(reader)[1] == [("late", 1)]

    blind = outbox.LATE.replace("where xid >= %(xmax)s::xid8", "where false and xid >= %(xmax)s::xid8")
    assert blind != outbox.LATE
    monkeypatch.setattr(outbox, "LATE", blind)
    with control_db.transaction() as tx:
        tx.execute("truncate kylo.outbox_log restart identity")
    reader = reader_of()
    drain(reader)
    assert story(reader)[1] == []


def test_late_rows_of_several_turns_keep_their_order(control_db, reader_of):
    """More late rows than a turn takes are read in order, before anything new, and none twice."""
    reader = reader_of()
    with closing(connect(control_db.dsn, "late")) as late:
        emit_many(late, [Event(topic="t", key=f"k{n % 3}", type="T", payload={}) for n in range(25)])
        with control_db.transaction() as tx:
            emit(tx, topic="t", key="other", type="T", payload={})
        assert drain(reader, 10) == [("other", 26)]
        late.commit()
        with control_db.transaction() as tx:
            emit(tx, topic="t", key="k0", type="T", payload={})
        assert [number for _, number in drain(reader, 10)] == [*range(1, 26), 27]


def test_without_the_lock_of_emit_commits_would_invert(control_db, reader_of):
    """With the lock taken out of the function, two commits of one key are read in the wrong order."""
    with control_db.transaction() as tx:
        [body] = tx.execute("select pg_get_functiondef('kylo.emit_raw'::regproc)").fetchone()
        unlocked = body.replace("perform pg_advisory_xact_lock(1802068079, v_slot);", "null;")
        assert unlocked != body
        tx.execute(unlocked)
    reader = reader_of()
    with closing(connect(control_db.dsn, "first")) as first, closing(connect(control_db.dsn, "second")) as second:
        emit(first, topic="t", key="k", type="T", payload={})
        emit(second, topic="t", key="k", type="T", payload={})
        second.commit()
        read = drain(reader)
        first.commit()
        assert read + drain(reader) == [("k", 2), ("k", 1)]


def test_a_prepared_transaction_stops_nothing(control_db, reader_of):
    """A transaction prepared and left lying holds back its own rows only, until it is committed."""
    reader = reader_of()
    with closing(connect(control_db.dsn, "two phases", autocommit=True)) as connection:
        connection.execute("begin")
        emit(connection, topic="t", key="prepared", type="T", payload={})
        connection.execute("prepare transaction 'left_lying'")
        with control_db.transaction() as tx:
            emit(tx, topic="t", key="other", type="T", payload={})
        assert drain(reader) == [("other", 2)]
        connection.execute("commit prepared 'left_lying'")
        assert drain(reader) == [("prepared", 1)]


def test_badly_behaved_writers_lose_nothing_and_invert_nothing(control_db, make_database, reader_of):
    """8 writers, 20 keys, sleeps, 20 % rollbacks, and an idle transaction in another database of the cluster."""
    elsewhere = make_database()
    reader = reader_of()
    read: list[tuple[str, int]] = []
    turns_with_rows = 0
    with closing(connect(elsewhere.dsn, "idle")) as idle:
        idle.execute("set idle_in_transaction_session_timeout = 0")
        idle.execute("select pg_current_xact_id()")
        with Writers(control_db.dsn, "t").running() as writers:
            while len(read) < 3000:
                rows = drain(reader)
                turns_with_rows += bool(rows)
                read += rows
        read += drain(reader)
    assert writers.failed == []
    assert len(read) == len(set(read)) == len(writers.committed)
    newest: dict[str, int] = {}
    for key, number in read:
        assert number > newest.get(key, 0), f"{key} inverted"
        newest[key] = number
    assert turns_with_rows > 20
