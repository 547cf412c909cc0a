"""A company moves to another database: nothing lost and nothing applied twice, whatever crashes."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress

import pytest

from kylo_outbox.flows.companies import Companies
from kylo_outbox.flows.ingest import Ingest
from kylo_outbox.flows.move import MoveCompany
from kylo_outbox.flows.rules import Rules
from kylo_outbox.model.companies import new_company
from kylo_outbox.model.errors import Conflict, NotFound, Transient
from kylo_outbox.model.topics import declared
from kylo_outbox.model.transactions import parse_request
from kylo_outbox.runtime.stop import Stop
from kylo_outbox.settings import load
from kylo_outbox.store import carrying, company_state, moves, pending, rules
from kylo_outbox.store.engine import Database
from kylo_outbox.store.isolation import company_transaction
from kylo_outbox.wiring import parts
from kylo_outbox.wiring.relays import RelayProcess
from tests.helpers.pipeline import transaction, wait_until
from tests.helpers.rules import ingest, open_items, promote, rows, sorted_items, staged, undo

TOPICS = declared("txns.company.batches", "rules.promote.requests")
READERS = {"txns": "txns.company.batches", "promote": "rules.promote.requests"}
TABLES = (
    "transactions",
    "pending_txns",
    "rules_active",
    "rules_versions",
    "rules_proposals",
    "sort_queue",
    "promotions",
)


@pytest.fixture
def other_db(make_database):
    """The database where the company goes."""
    return make_database()


@pytest.fixture
def environ(control_db, other_db):
    """What references are looked up in."""
    return {
        "PG_DSN_RW": control_db.dsn,
        "OTHER": other_db.dsn,
        "SAME": control_db.dsn.replace("127.0.0.1", "localhost"),
    }


@pytest.fixture
def mover(control_db, environ):
    """Moves companies of this control database."""
    return MoveCompany(control_db, environ, TOPICS, READERS, patience=5.0)


@pytest.fixture
def company(control_db, environ):
    """Company 710 with transactions, rules, resolved and open items; and 711, which stays."""
    flow = Companies(control_db, environ, TOPICS)
    for company_id in ("710", "711"):
        flow.add(new_company(company_id, "book"))
        ingest(control_db, [staged(company_id, f"t{n}", f"shop {n}") for n in range(20)])
        promote(control_db, company_id, ("shop 1", "A", "x"), ("shop 2", "A", "x"))
        promote(control_db, company_id, ("shop 3", "A", "x"))
        undo(control_db, company_id)
    with control_db.transaction() as tx:
        tx.execute(
            "insert into kylo.positions (projector, store_id, topic, key, generation, outbox_id, applied) "
            "values ('txns', 's', 't', '710', 1, 77, 5), ('sheets', 's', 't', '710', 1, 5, 5)"
        )
    return flow


def content(database, company_id="710"):
    """Every row of a company, table by table."""
    return {
        table: sorted(map(str, rows(database, f"select * from kylo.{table} where company_id = %s", company_id)))
        for table in TABLES
    }


def positions(database, company_id="710"):
    """(projector, outbox id) of the company's key."""
    return rows(database, "select projector, outbox_id from kylo.positions where key = %s order by 1", company_id)


def test_everything_travels_and_nothing_stays(control_db, other_db, mover, company):
    """Rows, versions, history and positions are in the new home, and gone from the old one; 711 was not touched."""
    before, neighbour = content(control_db), content(control_db, "711")
    moved = mover.move("710", "env:OTHER")
    assert (moved.company.dsn_ref, moved.company.paused, moved.left) == ("env:OTHER", False, "")
    assert moved.rows["transactions"] == 20
    assert content(other_db) == before
    assert content(control_db) == {table: [] for table in TABLES}
    assert content(control_db, "711") == neighbour
    assert (positions(other_db), positions(control_db)) == ([("txns", 77)], [("sheets", 5)])
    assert rows(other_db, "select count(*) from app_710.pending_txns where status = 'open'") == [(18,)]
    assert rows(control_db, "select count(*) from pg_namespace where nspname = 'app_710'") == [(0,)]
    assert {row[0] for row in rows(other_db, "select key from outbox where topic = 'tabs.changed'")} == {"710"}
    # What comes next is numbered above what came along, and an undo still finds its way.
    highest = rows(other_db, "select max(seq) from kylo.pending_txns")[0][0]
    ingest(other_db, [staged("710", "new", "new shop", 2)])
    assert rows(other_db, "select max(seq) > %s from kylo.pending_txns", highest) == [(True,)]
    assert undo(other_db, "710").reopened == 2
    assert mover.move("710", "env:OTHER").rows == {}


def test_there_and_back_again(control_db, other_db, mover, company):
    """The way back works alike, and the other projectors' positions in the old home were never touched."""
    before = content(control_db)
    mover.move("710", "env:OTHER")
    mover.move("710", "env:PG_DSN_RW")
    assert content(control_db) == before
    assert content(other_db)["transactions"] == []
    assert positions(control_db) == [("sheets", 5), ("txns", 77)]
    with control_db.transaction() as tx:
        assert company_state.lock(tx, ["710"]) == {"710": 1}


def test_whoever_believes_in_the_old_home_is_told_to_wait(control_db, mover, company):
    """A handler with an old directory changes nothing and shows nothing there; 711 goes on."""
    mover.move("710", "env:OTHER")
    late = [staged("710", "late", "shop 1", 9)]
    with pytest.raises(Transient, match="company 710: its rows are moving"):
        ingest(control_db, late)
    with pytest.raises(Transient), control_db.transaction() as tx:
        rules.in_force(tx, "710")
    with pytest.raises(Transient), control_db.transaction() as tx:
        pending.open_rows(tx, "710")
    with pytest.raises(Transient), company_transaction(control_db, "710"):
        pass
    assert content(control_db)["transactions"] == []
    assert ingest(control_db, [staged("711", "late", "shop 1", 9)]) == {("711", 9): (1, 0, 1)}


def test_without_the_fence_a_late_handler_would_lose_its_rows(control_db, other_db, mover, company, monkeypatch):
    """The planted fault: rows that are not frozen are written in the old home after the copy, and are lost."""
    copy = carrying.copy

    def careless(tx, companies):
        asked = sorted(set(companies))
        tx.execute(company_state.MAKE, (asked,))
        return dict.fromkeys(asked, 0)

    def copy_and_write(*given):
        copied = copy(*given)
        ingest(control_db, [staged("710", "late", "late shop", 9)])
        return copied

    monkeypatch.setattr(company_state, "lock", careless)
    monkeypatch.setattr(carrying, "copy", copy_and_write)
    mover.move("710", "env:OTHER")
    everywhere = content(other_db)["transactions"] + content(control_db)["transactions"]
    assert len(everywhere) == 20, "the late row survived without the fence"


class Crash(BaseException):
    """The process is gone."""


@contextmanager
def crashing(monkeypatch, number, *, before):
    """Fail at the end of the transaction with this number, before or after its commit."""
    seen = [0]
    begin = Database.begin

    @contextmanager
    def counting(self):
        seen[0] += 1
        mine = seen[0]
        with begin(self) as connection:
            yield connection
            if before and mine == number:
                raise Crash
        if not before and mine == number:
            raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(Database, "begin", counting)
        yield seen


@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_any_point_loses_and_doubles_nothing(control_db, other_db, mover, company, monkeypatch, before):
    """Killed before or after each single commit, the same command goes on; the content is the same every time."""
    expected = content(control_db)
    homes = [("env:PG_DSN_RW", control_db), ("env:OTHER", other_db)]
    for number in range(1, 60):
        (_, here), (reference, there) = homes
        homes.reverse()
        with crashing(monkeypatch, number, before=before) as seen:
            try:
                mover.move("710", reference)
            except Crash:
                pass
            else:
                assert seen[0] < number
                break
        # In between the company is whole in one of the two homes.
        assert expected in (content(here), content(there))
        mover.move("710", reference)
        assert content(there) == expected
        assert content(here)["transactions"] == []
        assert not company.get("710").paused
        assert ("txns", 77) in positions(there)
    else:
        pytest.fail("the move has no end")
    assert number > 10


def test_cancelling_at_any_point_stays_in_the_old_home(control_db, other_db, mover, company, monkeypatch):
    """As long as the new home is not in force: the rows are untouched, the flow goes on, the copy is gone."""
    expected = content(control_db)
    cancelled = 0
    for number in range(1, 60):
        with crashing(monkeypatch, number, before=False), suppress(Crash):
            mover.move("710", "env:OTHER")
        if rows(control_db, "select count(*) from control.company_moves where step = 'switched'") == [(1,)]:
            with pytest.raises(Conflict, match="finished"):
                mover.cancel("710")
            break
        mover.cancel("710")
        if company.get("710").dsn_ref == "env:OTHER":
            break
        cancelled += 1
        assert not company.get("710").paused
        assert content(control_db) == expected
        assert content(other_db)["transactions"] == []
        ingest(control_db, [])
        with control_db.transaction() as tx:
            company_state.lock(tx, ["710"])
    assert cancelled > 5
    mover.move("710", "env:OTHER")
    assert content(other_db) == expected


def test_a_paused_company_stays_paused(mover, company):
    """The pause of a person outlives the move's own."""
    company.pause("710")
    assert mover.move("710", "env:OTHER").company.paused


def test_another_name_of_the_same_database_moves_nothing(control_db, mover, company):
    """Localhost and 127.0.0.1 are one store: only the reference and the schema change."""
    before = content(control_db)
    moved = mover.move("710", "env:SAME", "app_new")
    assert (moved.rows, moved.company.schema) == ({}, "app_new")
    assert content(control_db) == before
    assert rows(control_db, "select count(*) from app_new.transactions") == [(20,)]


def test_what_stands_in_the_way_is_told(control_db, mover, company, environ):
    """An unknown company, dead letters, another move, events that nobody applied: one line with the remedy."""
    with pytest.raises(NotFound):
        mover.move("999", "env:OTHER")
    with control_db.transaction() as tx:
        tx.execute(
            "insert into kylo.dead_letters (stage, topic, key, store_id, generation, payload, headers, reason,"
            " error_class, attempts) values ('txns', 't', '710', 's', 1, '', '{}', 'r', 'E', 1)"
        )
    with pytest.raises(Conflict, match="1 dead letters; settle them"):
        mover.move("710", "env:OTHER")
    assert not company.get("710").paused
    with control_db.transaction() as tx:
        tx.execute("update kylo.dead_letters set settled_at = now()")
        tx.execute("select kylo.emit('txns.company.batches', '710', 'TXNS_BATCH', '{}'::jsonb)")
        tx.execute("insert into kylo.marks (lane, low, high, since, at) values (0, 1, 9, now(), now())")
    with control_db.transaction() as tx:
        tx.execute("update kylo.lanes set high_water = 9, snapshot = pg_current_snapshot()")
    mover._patience = 0.3
    with pytest.raises(Transient, match=r"txns.company.batches are not applied yet.*stays paused"):
        mover.move("710", "env:OTHER")
    assert company.get("710").paused
    with pytest.raises(Conflict, match="on its way to env:OTHER"):
        mover.move("710", "env:PG_DSN_RW", "app_x")
    with pytest.raises(Conflict, match="being moved"):
        company.change("710", dsn_ref="env:OTHER")
    assert not mover.cancel("710").paused
    with control_db.transaction() as tx:
        assert moves.open_move(tx, "710") is None


def keep_posting(control_db, built, posted, over):
    """Post transactions of two companies, and ask for a promotion now and then, until it is over."""
    door = Ingest(control_db, "txns.company.batches")
    flow = Rules(control_db, "rules.promote.requests", built.directory.company, built.directory.database_of)
    while not over.wait(0.05):
        posted[0] += 1
        body = [
            transaction(posted[0] + 100, each, amount="1.00", description=f"SHOP {posted[0] % 7}")
            for each in ("710", "711")
        ]
        door.accept(parse_request(body), source="test")
        if posted[0] % 5 == 0:
            flow.request("710", "test")


def test_moving_while_a_relay_delivers(control_db, other_db, environ, mover, company):
    """Posts and promotions go on during moves there and back; each transaction is applied once, in one home."""
    built = parts.build(load(environ | {"ROUTE_VIA_KAFKA": "0", "KYLO_LOG_LEVEL": "WARNING"}))
    stop, over = Stop(), threading.Event()
    relay = threading.Thread(target=RelayProcess(built).run, args=(stop,))
    posted = [0]
    poster = threading.Thread(target=keep_posting, args=(control_db, built, posted, over))
    relay.start()
    poster.start()
    try:
        for reference, home in (("env:OTHER", other_db), ("env:PG_DSN_RW", control_db), ("env:OTHER", other_db)):
            mover._patience = 120.0
            mover.move("710", reference)
            promote(home, "710", (f"shop {posted[0] % 7}", "A", reference))
        over.set()
        poster.join(60)
        everything = "select count(*) from intake.transactions where company_id = '710'"
        wait_until(
            lambda: (
                rows(other_db, "select count(*) from kylo.transactions where company_id = '710'")[0][0]
                == rows(control_db, everything)[0][0] + 20
            ),
            120,
            "everything is applied in the new home",
        )
    finally:
        over.set()
        stop.set()
        relay.join(60)
        poster.join(60)
        built.close()
    assert content(control_db)["transactions"] == []
    uids = {row[0] for row in rows(other_db, "select txn_uid from kylo.transactions where company_id = '710'")}
    assert open_items(other_db, "710") | sorted_items(other_db, "710").keys() == uids
    assert rows(other_db, "select count(*) from kylo.triage_runs where company_id = '710'") == [(posted[0],)]
    for database in (control_db, other_db):
        assert rows(database, "select count(*) from kylo.dead_letters") == [(0,)]
    stuck = """
        select count(*) from kylo.pending_txns p join app.rules_active r on r.source_norm = p.description_norm
         where p.status = 'open'
    """
    assert rows(other_db, stuck) == [(0,)]
