"""One store, several lives: promoted, recovered, restored, copied. Nothing is skipped, nothing counts twice."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from kylo_outbox import Event, emit, emit_many
from kylo_outbox.flows.witnesses import Witnesses
from kylo_outbox.local.postgres import LocalPostgres
from kylo_outbox.model.delivery import from_outbox
from kylo_outbox.model.errors import NotReady, Transient
from kylo_outbox.model.events import Origin
from kylo_outbox.store import fixtures, identity, positions
from kylo_outbox.store.engine import Database, connect, psycopg_of
from kylo_outbox.store.session import LaneSession
from tests.helpers.lives import caught_up, cold_copy_of, relay_once, server_in, standby_of


@pytest.fixture
def folder(own_folder):
    """A folder whose servers end with the test, started or not by their own names."""
    yield own_folder
    for pgdata in own_folder.glob("*/pgdata"):
        LocalPostgres(pgdata.parent, 1, log_file=own_folder / "end.log").kill()


def store_on(server) -> str:
    """A started server's first store."""
    server.start()
    fixtures.ensure_template(server.dsn("postgres"), server.dsn("life"), "life")
    return server.dsn("life")


def write(dsn, *numbers):
    """Emit one event of one key for each number, each in its own transaction."""
    with closing(connect(dsn, "writer")) as connection:
        for n in numbers:
            emit(connection, topic="t", key="k", type="T", payload={"n": n})
            connection.commit()


def applied(database, records):
    """Numbers of the records that a projector takes for new, in order; what it takes for repeats is left out."""
    deliveries = {
        n: from_outbox(
            origin=Origin("one", generation, number, uuid4(), "T"),
            topic="t",
            key=b"k",
            payload=b"{}",
            headers={},
            at=datetime.now(UTC),
        )
        for generation, number, n in records
    }
    with database.transaction() as tx:
        split = positions.split(tx, "p", list(deliveries.values()))
        positions.move(tx, "p", split.fresh, split.seen)
    return [n for n, delivery in deliveries.items() if delivery in split.fresh]


def test_a_promoted_standby_goes_on_as_a_new_generation(folder, control_db, caplog):
    """What the old primary published counts once, what it lost is lost, and new ids that repeat lost ones are new."""
    primary = server_in(folder, "primary")
    dsn = store_on(primary)
    write(dsn, 1, 2, 3)
    log = relay_once(dsn)
    write(dsn, 4, 5)
    log += relay_once(dsn, stored=False)
    with closing(connect(dsn, "two phases", autocommit=True)) as connection:
        connection.execute("begin")
        emit(connection, topic="t", key="prepared", type="T", payload={"n": "prepared"})
        connection.execute("prepare transaction 'carried over'")
    standby = standby_of(primary, folder)
    after = standby.dsn("life")
    caught_up(dsn, after)
    with closing(LaneSession(after, "test")) as session, pytest.raises(Transient, match="standby"):
        session.identity()
    standby.stop()
    with closing(connect(dsn, "writer")) as connection:
        emit_many(connection, [Event(topic="t", key="k", type="T", payload={"n": n}) for n in range(1000, 1100)])
        connection.commit()
    log += relay_once(dsn)
    assert applied(control_db, log) == [1, 2, 3, 4, 5, *range(1000, 1100)]
    primary.kill()

    standby.start()
    with closing(connect(after, "test", autocommit=True)) as connection:
        assert connection.execute("select pg_promote(true, 60)").fetchone() == (True,)
        write(after, "before any relay")
        connection.execute("commit prepared 'carried over'")
    found = relay_once(after, stored=False)
    assert "goes on as generation 2" in caplog.text
    write(after, "after")
    found = relay_once(after)
    assert [(generation, n) for generation, _, n in found] == [
        (1, 4), (1, 5), (1, "prepared"), (2, "before any relay"), (2, "after")
    ]  # fmt: skip
    mine = [record for record in found if record[2] != "prepared"]
    assert {number for _, number, _ in mine[2:]} <= {number for _, number, _ in log}
    # Known by their ids alone they would have been lost.
    assert applied(control_db, [(1, number, n) for _, number, n in mine]) == []
    assert applied(control_db, mine) == ["before any relay", "after"]
    with closing(LaneSession(after, "test")) as session:
        assert session.identity().generation == 2


def test_a_backup_that_is_recovered_goes_on_as_a_new_generation(folder, control_db):
    """The data directory as it was, recovered to the end of its own log: ids start again, and are known as new."""
    origin = server_in(folder, "origin")
    dsn = store_on(origin)
    write(dsn, 1, 2)
    log = relay_once(dsn)
    write(dsn, 3)
    origin.stop()
    copy = cold_copy_of(origin, folder)
    origin.start()
    write(dsn, *range(1000, 1050))
    assert applied(control_db, log + relay_once(dsn)) == [1, 2, 3, *range(1000, 1050)]
    origin.kill()

    pgdata = copy.data_dir / "pgdata"
    (pgdata / "recovery.signal").touch()
    with (pgdata / "postgresql.auto.conf").open("a") as settings:
        settings.write("restore_command = 'false'\n")
    copy.start()
    after = copy.dsn("life")
    with closing(connect(after, "test", autocommit=True)) as connection:
        waiting = "select pg_is_in_recovery()"
        while connection.execute(waiting).fetchone() == (True,):
            pass
    write(after, "new")
    found = relay_once(after)
    assert [(generation, n) for generation, _, n in found] == [(1, 3), (2, "new")]
    assert applied(control_db, found) == ["new"]
    with closing(connect(after, "test")) as connection:
        assert connection.execute("select generation, timeline from kylo.store").fetchone() == (2, 2)


def test_a_dump_restored_elsewhere_is_refused_until_adopted(folder, postgres_server, control_db):
    """Real `pg_dump` and `pg_restore` into another cluster, whose transaction ids are far behind."""
    origin = server_in(folder, "origin")
    dsn = store_on(origin)
    with closing(connect(dsn, "test", autocommit=True)) as connection:
        for _ in range(3000):
            connection.execute("select pg_current_xact_id()")
    write(dsn, 1, 2)
    log = relay_once(dsn)
    write(dsn, 3)
    dump = folder / "dump"
    origin._tool("pg_dump", *origin._address(), "-Fc", "-f", dump, "life")
    write(dsn, *range(1000, 1010))
    assert applied(control_db, log + relay_once(dsn)) == [1, 2, 3, *range(1000, 1010)]
    origin.kill()

    target = server_in(folder, "target")
    target.start()
    target.create_database("life")
    with closing(connect(target.dsn("life"), "test", autocommit=True)) as connection:
        # Roles belong to the cluster and are in no dump of a database.
        connection.execute("create role kylo_company nologin")
    target._tool("pg_restore", *target._address(), "-d", "life", dump)
    after = target.dsn("life")
    with pytest.raises(NotReady, match=r"store rename.*store adopt"):
        relay_once(after)
    database = Database(after, name="restored")
    with database.begin() as connection:
        assert identity.adopt(connection).generation == 2
    write(after, "new")
    found = relay_once(after)
    assert [(generation, n) for generation, _, n in found] == [(1, 3), (2, "new")]
    assert applied(control_db, found) == ["new"]
    assert relay_once(after) == []
    database.close()


def test_a_copied_database_is_refused_until_it_has_a_name_of_its_own(postgres_server, control_db, request):
    """`create database ... template` beside the origin, with an event that the origin publishes."""
    write(control_db.dsn, 1)
    name = f"copy_{uuid4().hex[:10]}"
    control_db.close()
    postgres_server.create_database(name, template=control_db.dsn.rpartition("/")[2])
    request.addfinalizer(lambda: fixtures.drop(postgres_server.dsn("postgres"), name))
    copy = Database(postgres_server.dsn(name), name="copy")
    with pytest.raises(NotReady, match="copy"):
        relay_once(copy.dsn)
    with copy.begin() as connection:
        identity.rename(connection)
        assert identity.enter(psycopg_of(connection)).generation == 1
    write(copy.dsn, "own")
    assert [n for _, _, n in relay_once(copy.dsn)] == ["own"]
    assert [n for _, _, n in relay_once(control_db.dsn)] == [1]
    copy.close()


def test_a_store_that_was_put_back_is_noticed_by_another(folder, control_db, caplog):
    """A data directory copied and started as it is: same server, same timeline, ids that were published before."""
    origin = server_in(folder, "origin")
    dsn = store_on(origin)
    write(dsn, 1, 2)
    log = relay_once(dsn)
    write(dsn, 3)
    origin.stop()
    copy = cold_copy_of(origin, folder)
    origin.start()
    write(dsn, *range(1000, 1050))
    stores = [control_db, Database(dsn, name="company")]
    watch = Witnesses(lambda: stores)
    watch.run_once()
    watch.check(stores[1])
    assert applied(control_db, log + relay_once(dsn)) == [1, 2, 3, *range(1000, 1050)]
    stores.pop().close()
    origin.kill()

    copy.start()
    after = copy.dsn("life")
    write(after, "new")
    stores.append(Database(after, name="company"))
    watch.check(stores[1])
    assert "put back to an earlier time: it goes on as generation 2" in caplog.text
    watch.run_once()
    watch.check(stores[1])
    found = relay_once(after)
    assert [(generation, n) for generation, _, n in found] == [(1, 3), (2, "new")]
    assert found[1][1] in {number for _, number, _ in log}.union(range(4, 1000))
    assert applied(control_db, found) == ["new"]
    with stores[1].begin() as connection:
        assert identity.require_own(connection).generation == 2
    stores.pop().close()


def test_a_witness_that_is_away_stops_nobody(control_db, make_database):
    """Neither does a store that is away, nor one alone."""
    gone = Database("postgresql://nobody@127.0.0.1:1/none", name="gone")
    other = make_database()
    stores: list[Database] = []
    watch = Witnesses(lambda: stores)
    for now in ([], [control_db], [control_db, gone], [gone, control_db], [control_db, gone, other]):
        stores[:] = now
        watch.run_once()
        for store in stores:
            watch.check(store)
    with control_db.transaction() as tx:
        assert tx.execute("select count(*) from kylo.witnesses").fetchone() == (1,)
