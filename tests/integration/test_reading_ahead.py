"""Asking for the next rows while the last ones are sent: nothing lost, nothing for a lane that is somebody else's."""

from __future__ import annotations

from contextlib import closing

import pytest

from kylo_outbox import Event, emit, emit_many
from kylo_outbox.model.errors import Fatal, Transient
from kylo_outbox.store import outbox
from kylo_outbox.store.engine import connect
from kylo_outbox.store.session import LaneSession


@pytest.fixture
def session(control_db):
    """A session that holds the lane."""
    with closing(LaneSession(control_db.dsn, "test")) as made:
        assert made.take(0, "test")
        yield made


@pytest.fixture
def backlog(control_db):
    """Fifty rows of three keys."""
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic="t", key=f"k{n % 3}", type="T", payload={}) for n in range(50)])


@pytest.fixture
def looks(monkeypatch):
    """How often the clock of transactions was looked at."""
    seen, look = [], outbox.Reader._read_at_once

    def counted(reader, limit):
        seen.append(reader)
        return look(reader, limit)

    monkeypatch.setattr(outbox.Reader, "_read_at_once", counted)
    return seen


def ids(turn):
    """What was read."""
    return [row[0] for row in turn.rows]


@pytest.mark.usefixtures("backlog")
def test_the_rows_asked_for_are_the_next_ones(session, looks):
    """Each row once, in order, with one look for several turns; behind the last one there is nothing to ask for."""
    found = ids(session.read(0, 10))
    for _ in range(4):
        session.read_ahead(10)
        found += ids(session.read(0, 10))
    assert found == list(range(1, 51))
    assert len(looks) == 1
    session.read_ahead(10)
    assert ids(session.read(0, 10)) == []
    session.read_ahead(10)
    assert session._asked is None or session._asked._pipeline is None, "not behind a turn that was not full"


def test_a_late_row_is_read_as_soon_as_the_snapshot_is_a_new_one(control_db, session, monkeypatch):
    """What commits below the cursor while rows are asked for ahead comes with the next look, before anything newer."""
    with closing(connect(control_db.dsn, "late")) as late:
        emit(late, topic="t", key="late", type="T", payload={})
        with control_db.transaction() as tx:
            emit_many(tx, [Event(topic="t", key="k", type="T", payload={}) for _ in range(30)])
        assert ids(session.read(0, 10)) == list(range(2, 12))
        late.commit()
        with control_db.transaction() as tx:
            emit(tx, topic="t", key="late", type="T", payload={})
        session.read_ahead(10)
        turn = session.read(0, 10)
        assert ids(turn) == list(range(12, 22)), "the same snapshot: the late row is invisible, and so is its successor"
        session.advance(0, turn.cursor, 20)
        monkeypatch.setattr(outbox, "_SAME_SNAPSHOT", 0.0)
        rest = [number for _ in range(3) for number in ids(session.read(0, 10))]
    assert sorted(rest) == [1, *range(22, 33)]
    assert rest.index(1) < rest.index(32)


@pytest.mark.usefixtures("backlog")
def test_a_restart_behind_rows_asked_for_ahead_reads_them_again(control_db, session):
    """Only what was advanced over is behind the cursor; what was asked for and not sent comes again."""
    turn = session.read(0, 10)
    session.read_ahead(10)
    session.advance(0, turn.cursor, 10)
    session.read_ahead(10)
    session.rewind()
    assert ids(session.read(0, 10)) == list(range(11, 21))
    session.read_ahead(10)
    session.close()
    with closing(LaneSession(control_db.dsn, "next")) as successor:
        assert successor.take(0, "next")
        assert ids(successor.read(0, 10)) == list(range(11, 21))


@pytest.mark.usefixtures("backlog")
def test_a_lane_that_was_lost_gives_no_more_rows(control_db, session):
    """Asked before, taken over meanwhile: the statement itself finds nothing, and the next look says why."""
    session.read(0, 10)
    with control_db.transaction() as tx:
        tx.execute("update kylo.lanes set epoch = epoch + 1")
    session.read_ahead(10)
    with pytest.raises(Fatal, match="taken over"):
        session.read(0, 10)


@pytest.mark.usefixtures("backlog")
def test_without_the_epoch_in_the_statement_a_lost_lane_would_be_read(control_db, session, monkeypatch):
    """The planted fault: the condition taken out, rows of a lane that is somebody else's are handed out."""
    blind = outbox.AHEAD.replace("and epoch = %(epoch)s", "")
    assert blind != outbox.AHEAD
    monkeypatch.setattr(outbox, "AHEAD", blind)
    session.rewind()
    session.read(0, 10)
    with control_db.transaction() as tx:
        tx.execute("update kylo.lanes set epoch = epoch + 1")
    session.read_ahead(10)
    assert ids(session.read(0, 10)) == list(range(11, 21))


@pytest.mark.usefixtures("backlog")
def test_other_statements_take_the_answer_first(session):
    """Storing a cursor, lengthening the lease and holding keys between question and answer disturb nothing."""
    turn = session.read(0, 10)
    session.read_ahead(10)
    session.advance(0, turn.cursor, 10)
    session.renew()
    assert session.held_keys() == set()
    assert ids(session.read(0, 10)) == list(range(11, 21))


@pytest.mark.usefixtures("backlog")
def test_a_connection_that_ends_meanwhile_is_not_now(control_db, session):
    """The answer never comes: the session says so, and closing it is no further error."""
    session.read(0, 10)
    session.read_ahead(10)
    with control_db.transaction() as tx:
        ours = "datname = current_database() and application_name like '%relay test'"
        tx.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where {ours}")
    with pytest.raises(Transient):
        while True:  # the answer may have been sent already
            session.read_ahead(10)
            session.read(0, 10)
    assert session.broken
    session.close()


def test_a_process_that_is_stopped_while_reading_ahead_holds_nothing_for_ever(control_db, session):
    """From PostgreSQL 17 on the server ends its transaction by itself."""
    del session
    with control_db.transaction() as tx:
        [version] = tx.execute("select current_setting('server_version_num')::int").fetchone()
    with closing(LaneSession(control_db.dsn, "limits")) as made:
        limit = made._connection.execute("select current_setting('transaction_timeout', true)").fetchone()
    assert limit == (("10s",) if version >= 170000 else (None,))
