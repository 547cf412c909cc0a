"""The name of a store: who may use it, what a copy and a restore must do, and that it costs no event."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from kylo_outbox.model.errors import NotReady
from kylo_outbox.store import identity, lanes
from kylo_outbox.store.engine import connect
from kylo_outbox.store.outbox import Reader


def emit(connection, *keys: str) -> None:
    """Save one event for each key."""
    for key in keys:
        connection.execute(sa.text("select kylo.emit('t', :key, 'x', '{}')"), {"key": key})


def open_ids(connection) -> list[int]:
    """Ids that the view calls unprocessed."""
    return list(connection.scalars(sa.text("select id from outbox where processed_at is null order by id")))


def pretend_copy(connection) -> None:
    """What a dump restored elsewhere looks like: the name was given to another database."""
    connection.execute(sa.text("update kylo.store set database_oid = 1"))


def relay_once(dsn: str) -> list[int]:
    """Read everything that is new and store the cursor, as a relay would after the acknowledgements."""
    with connect(dsn, "test", autocommit=True) as connection:
        lane = lanes.take(connection, 0, "test")
        assert lane is not None
        turn = Reader(connection, lane).read(1000)
        assert lanes.advance(connection, lane, lane.cursor.high_water, turn.cursor, len(turn.rows))
        lanes.release(connection, lane)
        return [row[0] for row in turn.rows]


def test_own_name(control_db):
    """A migrated database has a name and may use it."""
    with control_db.begin() as connection:
        store = identity.require_own(connection)
    assert len(store.store_id) == 12
    assert store.generation == 1


def test_database_without_name(control_db):
    """Before the first migration there is none, and the remedy is said."""
    with control_db.begin() as connection:
        connection.execute(sa.text("drop schema kylo cascade"))
        with pytest.raises(NotReady, match="kylo-outbox migrate"):
            identity.require_own(connection)


def test_copy_is_refused_until_it_is_named(control_db):
    """Both ways out are in the message."""
    with control_db.begin() as connection:
        pretend_copy(connection)
        with pytest.raises(NotReady, match=r"store rename.*store adopt"):
            identity.require_own(connection)


def test_renamed_copy_publishes_nothing_of_its_origin(control_db):
    """What waited when it was copied counts as done; what is emitted later is read."""
    with control_db.begin() as connection:
        emit(connection, "a", "b")
    relay_once(control_db.dsn)
    with control_db.begin() as connection:
        emit(connection, "c", "d")
        connection.execute(sa.text("select kylo.emit('t', 'e', 'x', '{}', available_at => now())"))
        pretend_copy(connection)
        before = identity.identity(connection).store
    with control_db.begin() as connection:
        assert identity.waiting(connection) == 3
        after = identity.rename(connection)
        assert after.store_id != before.store_id
        assert after.generation == 1
        assert identity.waiting(connection) == 0
    with control_db.begin() as connection:
        assert identity.require_own(connection) == after
        assert open_ids(connection) == []
        assert connection.scalar(sa.text("select count(*) from outbox")) == 4
        emit(connection, "e")
    assert relay_once(control_db.dsn) == [5]


def test_adopted_restore_goes_on_where_it_stood(control_db):
    """Published events are not sent again, waiting ones are, under the same name and the next generation."""
    with control_db.begin() as connection:
        emit(connection, "a", "b")
    relay_once(control_db.dsn)
    with control_db.begin() as connection:
        emit(connection, "c")
        pretend_copy(connection)
        before = identity.identity(connection).store
    with control_db.begin() as connection:
        after = identity.adopt(connection)
    assert after == identity.StoreId(before.store_id, before.generation + 1)
    with control_db.begin() as connection:
        assert open_ids(connection) == [3]
    assert relay_once(control_db.dsn) == [3]


def test_adopt_after_a_dump_brings_ids_of_the_future(control_db):
    """Rows whose transaction ids this server has not reached are old ones all the same: none is sent again or lost."""
    with control_db.begin() as connection:
        emit(connection, "a", "b")
    relay_once(control_db.dsn)
    with control_db.begin() as connection:
        emit(connection, "c")
        # The other server was far ahead of this one.
        connection.execute(sa.text("update kylo.outbox_log set xid = '900000000000'::xid8 where id in (1, 3)"))
        connection.execute(sa.text("update kylo.lanes set snapshot = '900000000001:900000000001:'"))
        pretend_copy(connection)
    with control_db.begin() as connection:
        identity.adopt(connection)
    with control_db.begin() as connection:
        assert open_ids(connection) == [3]
        emit(connection, "d")
    assert relay_once(control_db.dsn) == [3, 4]


def test_adopt_holds_late_events_instead_of_losing_them(control_db):
    """An event behind the cursor that no turn has seen is set aside to be sent first."""
    with connect(control_db.dsn, "late") as late:
        late.execute("select kylo.emit('t', 'late', 'x', '{}')")
        with control_db.begin() as connection:
            emit(connection, "a")
        assert relay_once(control_db.dsn) == [2]
        late.commit()
    with control_db.begin() as connection:
        pretend_copy(connection)
        identity.adopt(connection)
    with control_db.begin() as connection:
        held = connection.execute(sa.text("select id, reason from kylo.outbox_held")).all()
        assert [row.id for row in held] == [1]
        assert "restored" in held[0].reason
        assert open_ids(connection) == [1]
        assert identity.waiting(connection) == 1


def test_adopt_fences_a_relay_that_is_still_there(control_db):
    """Whoever held the lane moves nothing any more."""
    with connect(control_db.dsn, "test", autocommit=True) as former:
        lane = lanes.take(former, 0, "former")
        assert lane is not None
        with control_db.begin() as connection:
            identity.adopt(connection)
        assert not lanes.renew(former, lane)
        assert not lanes.advance(former, lane, 0, lane.cursor, 0)


def test_place_is_the_same_for_every_connection_string(control_db):
    """Two strings for one database are recognised as one."""
    other = connect(control_db.dsn.replace("127.0.0.1", "localhost"), "test")
    with control_db.begin() as connection:
        first = identity.place(connection)
        oid = connection.scalar(sa.text("select oid from pg_database where datname = current_database()"))
    assert first[1] == oid
    other.close()
