"""Dead letters made at the relay: a refused event leaves the held ones with its bytes, and its key goes on."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from kylo_outbox import emit
from kylo_outbox.store import relay_dead
from kylo_outbox.store.engine import connect
from kylo_outbox.store.relay_dead import bury, bury_refused

ALL_SLOTS = (0, 1024)


@pytest.fixture
def session(control_db):
    """A connection as the relay has one: autocommit, not durable."""
    with closing(connect(control_db.dsn, "test", autocommit=True, durable=False)) as connection:
        yield connection


def refuse(session, topic, number=3, *, passed=True):
    """Events of one key of which the first was refused, held as the relay holds them."""
    with session.transaction():
        for n in range(number):
            emit(session, topic=topic, key="k", type="T", payload=json.dumps({"n": n}), headers={"who": "me"})
    session.execute(
        "insert into kylo.outbox_held "
        "(id, event_id, created_at, slot, topic, key, type, payload, headers, reason, waits) "
        "select id, event_id, created_at, slot, topic, key, type, payload, headers, "
        "case id when 1 then 'MSG_SIZE_TOO_LARGE: too large' else 'waits' end, id > 1 "
        "from kylo.outbox_log where topic = %s",
        (topic,),
    )
    upto = number if passed else 0
    session.execute("update kylo.lanes set high_water = %s, snapshot = pg_current_snapshot()", (upto,))


def test_a_refused_event_becomes_a_dead_letter_and_its_key_goes_on(session):
    """The row, the record and the release of the next event are one step; the second call changes nothing."""
    refuse(session, "t")
    buried = bury(session, 1, reason="MSG_SIZE_TOO_LARGE: too large", error_class="MSG_SIZE_TOO_LARGE")
    assert buried == (1, "t", "k", True, "MSG_SIZE_TOO_LARGE")
    assert bury(session, 1, reason="again", error_class="X") is None
    letters = session.execute(
        "select stage, topic, key, outbox_id, convert_from(payload, 'UTF8'), reason, error_class from kylo.dead_letters"
    ).fetchall()
    assert letters == [
        ("relay", "t", "k", 1, '{"n": 0}', "MSG_SIZE_TOO_LARGE: too large", "MSG_SIZE_TOO_LARGE"),
    ]
    [(key, payload, headers)] = session.execute(
        "select key, payload, headers from outbox where topic = 't.dlq'"
    ).fetchall()
    assert (key, payload, headers["who"], headers["dlq-stage"]) == ("k", '{"n": 0}', "me", "relay")
    assert session.execute("select id, waits from kylo.outbox_held order by id").fetchall() == [(2, True), (3, True)]


def test_an_event_that_the_cursor_has_not_passed_stays(session):
    """Buried too early it would be read once more, and published behind its own dead letter."""
    refuse(session, "t", passed=False)
    assert bury(session, 1, reason="refused", error_class="X") is None
    assert session.execute("select count(*) from kylo.outbox_held").fetchone() == (3,)


def test_a_late_event_stays_until_its_transaction_is_seen(session, control_db):
    """Its id is behind the cursor, its transaction is not: the relay has yet to read it."""
    with closing(connect(control_db.dsn, "late")) as late:
        emit(late, topic="t", key="k", type="T", payload={})
        session.execute("update kylo.lanes set high_water = 1, snapshot = pg_current_snapshot()")
        late.commit()
    session.execute(
        "insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, headers, reason) "
        "select id, event_id, created_at, slot, topic, key, type, payload, headers, 'X: y' from kylo.outbox_log"
    )
    assert bury(session, 1, reason="X: y", error_class="X") is None
    session.execute("update kylo.lanes set snapshot = pg_current_snapshot()")
    assert bury(session, 1, reason="X: y", error_class="X") is not None


def test_only_topics_whose_policy_says_so_are_buried(session):
    """By default a key is held; an operator's choice goes before the declaration, and innocents are never buried."""
    refuse(session, "t")
    assert bury_refused(session, ALL_SLOTS) == []
    relay_dead.set_policy(session, "t", "skip", "me")
    assert bury_refused(session, (0, 0)) == []
    assert [each.outbox_id for each in bury_refused(session, ALL_SLOTS)] == [1]
    assert bury_refused(session, ALL_SLOTS) == []
    assert relay_dead.policy(session, "t").on_poison == "skip"


def test_a_dead_letter_topic_does_not_feed_itself(session):
    """What a dead letter topic refuses is a row alone; otherwise it would come back for ever."""
    refuse(session, "t.dlq", number=1)
    relay_dead.set_policy(session, "t.dlq", "skip", "me")
    assert [each.recorded for each in bury_refused(session, ALL_SLOTS)] == [False]
    assert session.execute("select count(*) from outbox where processed_at is null").fetchone() == (0,)


def test_what_its_dead_letter_topic_cannot_take_is_a_row_alone(session):
    """The record is too large with its reasons: the letter is kept all the same."""
    refuse(session, "t", number=1)
    session.execute("insert into kylo.topics values ('t.dlq', 1, 1, 100, true, 'skip', 't.dlq')")
    buried = bury(session, 1, reason="X: y", error_class="X")
    assert buried is not None
    assert not buried.recorded
    assert session.execute("select count(*) from kylo.dead_letters").fetchone() == (1,)


def refuse_keys(session, keys):
    """One refused event of topic t for each key, behind the cursor, in a topic whose policy is `skip`."""
    with session.transaction():
        for key in keys:
            emit(session, topic="t", key=key, type="T", payload={})
    session.execute(
        "insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, headers, reason) "
        "select id, event_id, created_at, slot, topic, key, type, payload, headers, 'X: y' from kylo.outbox_log"
    )
    session.execute("update kylo.lanes set high_water = %s, snapshot = pg_current_snapshot()", (len(keys),))
    relay_dead.set_policy(session, "t", "skip", "me")


def test_an_open_transaction_keeps_its_own_dead_letter_waiting_only(session, control_db):
    """It has emitted where the record must go: that event stays held, another key's is buried, nobody is waited for."""
    refuse_keys(session, ["k", "free"])
    session.execute("set lock_timeout = '10s'")
    with closing(connect(control_db.dsn, "sleeper")) as sleeper:
        emit(sleeper, topic="t.dlq", key="k", type="T", payload={})
        assert [each.key for each in bury_refused(session, ALL_SLOTS)] == ["free"]
        assert session.execute("select convert_from(key, 'UTF8') from kylo.outbox_held").fetchall() == [("k",)]
        assert session.execute("select count(*) from kylo.dead_letters").fetchone() == (1,)
        sleeper.rollback()
    assert [each.key for each in bury_refused(session, ALL_SLOTS)] == ["k"]
    assert session.execute("show lock_timeout").fetchone() == ("10s",)


def test_a_round_waits_for_few_open_transactions(session, control_db, monkeypatch):
    """An import has the slots of twenty dead letters: the lane must not wait for each of them in turn."""
    keys = [f"k{n}" for n in range(20)]
    refuse_keys(session, keys)
    tried = []
    really = relay_dead.bury
    monkeypatch.setattr(relay_dead, "bury", lambda *given, **named: tried.append(given[1]) or really(*given, **named))
    with closing(connect(control_db.dsn, "import")) as sleeper:
        for key in keys:
            emit(sleeper, topic="t.dlq", key=key, type="T", payload={})
        assert bury_refused(session, ALL_SLOTS) == []
        assert len(tried) == 3
    assert len(bury_refused(session, ALL_SLOTS)) == 20
