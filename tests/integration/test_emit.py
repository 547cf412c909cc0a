"""`kylo.emit` and its Python doors: in the caller's transaction, in order, and nothing that Kafka would refuse."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from decimal import Decimal

import psycopg
import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from kylo_outbox import Event, Refused, emit, emit_async, emit_many
from kylo_outbox.store import lanes
from kylo_outbox.store.engine import Database, connect
from kylo_outbox.store.outbox import Reader


def rows(database: Database) -> list[tuple[object, ...]]:
    """Every event of the view, in order."""
    with database.transaction() as tx:
        return tx.execute("select topic, key, type, payload, headers, event_id from outbox order by id").fetchall()


def test_a_committed_event_is_there_and_a_rolled_back_one_is_not(control_db):
    """What rolls back leaves no event."""
    with control_db.transaction() as tx:
        kept = emit(tx, topic="a.b", key="710", type="T", payload={"n": 1}, headers={"h": "v"})
    with pytest.raises(RuntimeError), control_db.transaction() as tx:
        emit(tx, topic="a.b", key="710", type="T", payload={"n": 2})
        raise RuntimeError
    assert rows(control_db) == [("a.b", "710", "T", '{"n":1}', {"h": "v"}, kept.event_id)]


@pytest.mark.parametrize("kind", ["Connection", "Session"])
def test_sqlalchemy_transactions_are_taken(control_db, kind):
    """A SQLAlchemy Connection and a Session carry the event in their own transaction."""
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(control_db.dsn))
    tx = engine.connect() if kind == "Connection" else Session(engine)
    event = emit(tx, topic="a.b", key="k", type="T", payload=[1, "ü"])
    assert rows(control_db) == []
    tx.commit()
    tx.close()
    engine.dispose()
    assert rows(control_db) == [("a.b", "k", "T", '[1,"ü"]', {}, event.event_id)]


def test_async_transactions_are_taken(control_db):
    """Psycopg's AsyncConnection and SQLAlchemy's AsyncSession and AsyncConnection carry events too."""

    async def story() -> None:
        async with await psycopg.AsyncConnection.connect(control_db.dsn) as connection:
            await emit_async(connection, topic="a", key="1", type="T", payload={})
        engine = create_async_engine(
            "postgresql+psycopg://", async_creator=lambda: psycopg.AsyncConnection.connect(control_db.dsn)
        )
        async with AsyncSession(engine) as session, session.begin():
            await emit_async(session, topic="a", key="2", type="T", payload={})
        async with engine.begin() as sa_connection:
            await emit_async(sa_connection, topic="a", key="3", type="T", payload={})
        await engine.dispose()

    asyncio.run(story())
    assert [row[1] for row in rows(control_db)] == ["1", "2", "3"]


def test_an_autocommit_connection_is_taken_inside_a_block_only(control_db):
    """Outside a block the event would be published without the caller's rows."""
    with connect(control_db.dsn, "test", autocommit=True) as connection:
        with pytest.raises(Refused, match="autocommit"):
            emit(connection, topic="a", key="k", type="T", payload={})
        with connection.transaction():
            emit(connection, topic="a", key="k", type="T", payload={})
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(control_db.dsn))
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as sa_connection,
        pytest.raises(Refused, match="autocommit"),
    ):
        emit(sa_connection, topic="a", key="k", type="T", payload={})
    engine.dispose()
    assert len(rows(control_db)) == 1


class Paid(BaseModel):
    """A payload of somebody's."""

    amount: Decimal


@pytest.mark.parametrize(
    ("payload", "stored"),
    [
        ({"a": Decimal("1.10")}, '{"a":"1.10"}'),
        ('{ "kept":  "byte for byte" }', '{ "kept":  "byte for byte" }'),
        (Paid(amount=Decimal("2.50")), '{"amount":"2.50"}'),
        (b"\x00\xff", "base64:AP8="),
    ],
)
def test_payload_forms(control_db, payload, stored):
    """Dicts, JSON text, pydantic models and bytes are published as promised."""
    with control_db.transaction() as tx:
        emit(tx, topic="a", key="k", type="T", payload=payload)
    assert rows(control_db)[0][3] == stored


def deep(levels: int) -> list[object]:
    """A list in a list in a list."""
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"payload": {"items": [1, {"price": float("nan")}]}}, "payload.items[1].price: nan"),
        ({"payload": {"a": float("inf")}}, "payload.a: inf"),
        ({"payload": {"a": "x\x00y"}}, "payload.a: holds a NUL"),
        ({"payload": {"a": "\ud800"}}, "payload.a: holds a lone surrogate"),
        ({"payload": deep(200)}, "nested deeper than 128"),
        ({"payload": '{"a": NaN}'}, "payload: NaN"),
        ({"payload": "{not json"}, "payload: not JSON"),
        ({"payload": {"a": object()}}, "payload.a: a object"),
        ({"payload": None}, "payload: a NoneType"),
        ({"key": ""}, "key: must be"),
        ({"key": "k" * 1025}, "key: 1025 bytes"),
        ({"key": "a\x00"}, "key: holds a NUL"),
        ({"topic": "no spaces"}, "topic: must be"),
        ({"type": ""}, "type: must be"),
        ({"headers": {"kylo": "x"}}, "headers['kylo']"),
        ({"headers": {"a": 1}}, "headers['a']"),
        ({"payload": {"a": "x" * 1_000_000}}, "payload: 1000"),
    ],
)
def test_what_would_be_refused_later_is_refused_now_with_its_path(control_db, change, named):
    """Bad input is named by its path and nothing is saved."""
    event = {"topic": "a", "key": "k", "type": "T", "payload": {}} | change
    with pytest.raises(Refused) as refused, control_db.transaction() as tx:
        emit(tx, **event)
    assert named in str(refused.value)
    assert rows(control_db) == []


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("select kylo.emit('a', 'k', 'T', '{\"a\": \"\\u0000\"}')", "payload:"),
        ("select kylo.emit('a', 'k', 'T', '{\"a\": \"\\ud800\"}')", "payload:"),
        ("select kylo.emit('a', 'k', 'T', 'no json')", "payload:"),
        ("select kylo.emit('a', null, 'T', '{}')", "key:"),
        ("select kylo.emit('a', 'k', 'T', null::text)", "payload:"),
        ("select kylo.emit('a', 'k', 'T', repeat('[', 200) || repeat(']', 200))", "payload: nested"),
        ("select kylo.emit('a', 'k', 'T', '{}', '{\"h\": 1}')", "headers:"),
        ("select kylo.emit('a', 'k', 'T', to_jsonb(repeat('x', 1000000)))", "payload: 10003"),
    ],
)
def test_sql_refuses_the_same(control_db, statement, named):
    """The SQL door names the argument as well."""
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refused, control_db.transaction() as tx:
        tx.execute(statement)
    assert named in str(refused.value)


def test_sql_payload_types(control_db):
    """A bare literal is text and kept byte for byte; jsonb, json and bytea are taken too."""
    with control_db.transaction() as tx:
        for payload in ("'{ \"a\":1}'", "'{\"a\":1}'::jsonb", "'{ \"a\":1}'::json", "'\\x01'::bytea"):
            tx.execute(f"select kylo.emit('a', 'k', 'T', {payload})")
    assert [row[3] for row in rows(control_db)] == ['{ "a":1}', '{"a": 1}', '{ "a":1}', "\x01"]


def test_a_table_can_emit_its_changes(control_db):
    """`kylo.emit_on_change` saves an event for each changed row, in the changing transaction."""
    with control_db.transaction() as tx:
        tx.execute("create table account (id text, cents bigint)")
        tx.execute("select kylo.emit_on_change('account', 'accounts', 'id')")
        tx.execute("insert into account values ('a', 1), ('b', 2)")
        tx.execute("update account set cents = 3 where id = 'a'")
        tx.execute("delete from account where id = 'b'")
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="no column"), tx.transaction():
            tx.execute("select kylo.emit_on_change('account', 'accounts', 'nothing')")
    found = [(row[1], row[2], json.loads(str(row[3]))["after"]) for row in rows(control_db)]
    assert found == [
        ("a", "account.insert", {"id": "a", "cents": 1}),
        ("b", "account.insert", {"id": "b", "cents": 2}),
        ("a", "account.update", {"id": "a", "cents": 3}),
        ("b", "account.delete", None),
    ]


def test_the_same_event_id_adds_nothing(control_db):
    """An event id given again for the same topic comes back and adds no row; for another topic it does."""
    chosen = uuid.uuid4()
    with control_db.transaction() as tx:
        assert emit(tx, topic="a", key="k", type="T", payload={}, event_id=chosen).event_id == chosen
        assert emit(tx, topic="a", key="k", type="T", payload={"later": 1}, event_id=str(chosen)).event_id == chosen
        emit(tx, topic="b", key="k", type="T", payload={}, event_id=chosen)
        given = [Event(topic="a", key="k", type="T", payload={}, event_id=i) for i in (chosen, None, None)]
        ids = [event.event_id for event in emit_many(tx, given)]
    assert ids[0] == chosen
    assert len(set(ids)) == 3
    assert [row[0] for row in rows(control_db)] == ["a", "b", "a", "a"]


def test_emit_many_keeps_the_order_given(control_db):
    """Ids are drawn in the order of the list."""
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic="a", key=str(n % 7), type="T", payload={"n": n}) for n in range(500)])
    assert [json.loads(str(row[3]))["n"] for row in rows(control_db)] == list(range(500))


def test_emit_many_names_the_faulty_event(control_db):
    """The index of the faulty event is part of the path."""
    events = [Event(topic="a", key="k", type="T", payload={}), Event(topic="a", key="", type="T", payload={})]
    with pytest.raises(Refused, match=r"events\[1\].key"), control_db.transaction() as tx:
        emit_many(tx, events)


def test_commits_of_one_key_queue_behind_each_other(control_db):
    """A second writer of the key draws its id only after the first one's commit is visible."""
    first = connect(control_db.dsn, "first")
    emit(first, topic="a", key="k", type="first", payload={})
    started, done = threading.Event(), threading.Event()

    def second() -> None:
        with connect(control_db.dsn, "second") as connection:
            started.set()
            emit(connection, topic="a", key="k", type="second", payload={})
        done.set()

    thread = threading.Thread(target=second)
    thread.start()
    started.wait(5)
    assert not done.wait(0.3)
    first.commit()
    first.close()
    assert done.wait(5)
    thread.join()
    assert [row[2] for row in rows(control_db)] == ["first", "second"]


def test_synchronous_commit_is_switched_on(control_db):
    """A published event must survive a crash of the server, so its transaction waits for the disk."""
    with psycopg.connect(control_db.dsn, options="-c synchronous_commit=off") as connection:
        emit(connection, topic="a", key="k", type="T", payload={})
        assert connection.execute("show synchronous_commit").fetchone() == ("on",)
        connection.commit()
        assert connection.execute("show synchronous_commit").fetchone() == ("off",)


def test_the_view_answers_the_question_in_peoples_fingers(control_db):
    """The count of open rows is true without any relay, also for a user named kylo."""
    with control_db.transaction() as tx:
        emit(tx, topic="a", key="k", type="T", payload={})
        assert tx.execute("SELECT COUNT(*) FROM outbox WHERE processed_at IS NULL;").fetchone() == (1,)
        tx.execute("set search_path to public")
        assert tx.execute("SELECT COUNT(*) FROM outbox WHERE processed_at IS NULL;").fetchone() == (1,)


def test_topics_without_order_do_not_queue(control_db):
    """Two transactions of one key commit side by side where order was given up, and nothing of theirs is lost."""
    with control_db.transaction() as tx:
        tx.execute(
            "insert into kylo.topics (topic, partitions, retention_ms, max_bytes, ordered, dead_letter_topic) "
            "values ('loose', 1, 1000, 10000, false, 'loose.dlq')"
        )
    late, early = connect(control_db.dsn, "late"), connect(control_db.dsn, "early")
    early.execute("set lock_timeout = '5s'")
    emit(late, topic="loose", key="k", type="late", payload={})
    emit(early, topic="loose", key="k", type="early", payload={})
    emit_many(early, [Event(topic="loose", key="k", type="early", payload={})])
    early.commit()
    with pytest.raises(psycopg.errors.LockNotAvailable):
        early.execute("set local lock_timeout = '50ms'")
        emit(late, topic="strict", key="k", type="late", payload={})
        emit(early, topic="strict", key="k", type="early", payload={})
    early.rollback()
    with connect(control_db.dsn, "reader", autocommit=True) as connection:
        lane = lanes.take(connection, 0, "test")
        assert lane is not None
        reader = Reader(connection, lane)
        assert [row[3] for row in reader.read(100).rows] == ["early", "early"]
        late.commit()
        assert [row[1] for row in reader.read(100).rows] == ["loose", "strict"]
    late.close()
    early.close()
