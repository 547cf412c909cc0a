"""What left the outbox: by key, how far it was published; and readings from which something leaves meanwhile."""

from __future__ import annotations

from contextlib import closing

import pytest

from kylo_outbox import Event, emit_many
from kylo_outbox.flows import holds
from kylo_outbox.flows.housekeeping import Housekeeping
from kylo_outbox.model.errors import Transient
from kylo_outbox.store import left, upkeep, verify_state
from kylo_outbox.store.engine import connect
from kylo_outbox.store.history import moment, published_and_left, published_rows
from kylo_outbox.store.identity import rename
from tests.helpers.projectors import ask

_PASSED = "update kylo.lanes set high_water = (select max(id) from kylo.outbox_log), snapshot = pg_current_snapshot()"
_HELD = """
insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, reason, waits)
select id, event_id, created_at, slot, topic, key, type, payload, 'refused', false
  from kylo.outbox_log where key = 'a' and id >= 3
"""


def do(database, *statements):
    """Run statements."""
    with database.transaction() as tx:
        for statement in statements:
            tx.execute(statement)


def save(database, keys):
    """One event for each key."""
    with database.transaction() as tx:
        emit_many(tx, [Event(topic="t", key=key, type="T", payload={}) for key in keys])


def keep(database):
    """One round of housekeeping that lets go whatever may go."""
    Housekeeping(lambda: [database], 0.0).run_once()


def newest(database, chunk=1000):
    """What is said of each key."""
    return {key: at for found in published_and_left(database, ["t"], chunk) for (_, key), at in found.items()}


@pytest.fixture
def outbox(control_db):
    """Ids 1 to 6, of a and b in turn, have gone out and left; a was held from 3 on."""
    save(control_db, "ababab")
    do(control_db, _HELD, _PASSED)
    keep(control_db)
    assert ask(control_db, "select count(*) from kylo.outbox_log") == [(0,)]
    return control_db


def test_what_was_held_when_it_left_was_not_published(outbox):
    """A reader that has taken everything up to the first held event is behind with nothing."""
    assert newest(outbox) == {"a": (1, 1), "b": (1, 6)}
    assert newest(outbox, chunk=1) == newest(outbox)
    keep(outbox)
    assert newest(outbox) == {"a": (1, 1), "b": (1, 6)}


def test_what_is_let_go_afterwards_counts_as_published(outbox):
    """At once, and after housekeeping has moved it into the totals."""
    do(outbox, "delete from kylo.outbox_held where id = 3")
    assert newest(outbox)["a"] == (1, 3)
    keep(outbox)
    assert newest(outbox)["a"] == (1, 3)
    assert ask(outbox, "select id from kylo.outbox_left_held") == [(5,)]


@pytest.mark.parametrize("act", [holds.discard, holds.dead_letter])
def test_what_is_taken_out_afterwards_was_never_published(outbox, act):
    """Nobody gets it, so nobody is behind with it."""
    with outbox.transaction() as tx:
        assert act(tx, "t", "a", row_id=5, reason="test", who="me").ids == (5,)
    assert newest(outbox)["a"] == (1, 1)
    keep(outbox)
    assert newest(outbox)["a"] == (1, 1)
    assert ask(outbox, "select id from kylo.outbox_left_held") == [(3,)]


def test_a_later_partition_raises_what_is_known(outbox):
    """And never lowers it."""
    save(outbox, "ac")
    do(outbox, _PASSED)
    [(first, second)] = ask(outbox, "select min(id), max(id) from kylo.outbox_log")
    keep(outbox)
    assert newest(outbox) == {"a": (1, first), "b": (1, 6), "c": (1, second)}


def test_another_topic_is_not_asked_for(outbox):
    """Only the topics that were named."""
    assert list(published_and_left(outbox, ["other"])) == []


def test_what_left_the_origin_of_a_copy_is_not_the_copys(outbox):
    """Its own readers begin with nothing."""
    with outbox.begin() as connection:
        rename(connection)
    assert newest(outbox) == {}
    keep(outbox)
    assert newest(outbox) == {}


def test_the_verifier_of_a_copy_begins_anew_and_keeps_what_is_known(control_db):
    """Its totals are the origin's; what the copy itself has published since is not."""
    with control_db.begin() as connection:
        rename(connection)
    save(control_db, "ab")
    do(control_db, _PASSED)
    keep(control_db)
    with control_db.transaction() as tx:
        verify_state.begin(tx)
    assert newest(control_db) == {"a": (1, 1), "b": (1, 2)}
    assert ask(control_db, "select sum(events), sum(digest) from kylo.outbox_left") == [(0, 0)]
    assert ask(control_db, "select count(*) from kylo.verify_keys") == [(0,)]


def test_a_reading_from_which_something_leaves_is_broken_off(control_db):
    """What left was asked for at the beginning: rows that leave after it would be missing without a word."""
    save(control_db, "ab" * 3)
    do(control_db, _PASSED)
    reading = published_rows(control_db, ["t"], chunk=4, at=moment(control_db, ["t"]))
    late = published_rows(control_db, ["t"], at=moment(control_db, ["t"]))
    assert [row[0] for row in next(reading)] == [1, 2, 3, 4]
    keep(control_db)
    for broken in (reading, late):
        with pytest.raises(Transient, match="left while it was read"):
            next(broken)
    assert list(published_rows(control_db, ["t"], at=moment(control_db, ["t"]))) == []


def test_a_partition_that_is_half_detached_has_left(control_db, monkeypatch):
    """It is listed until the last of those who read it have gone, but nobody new reads it."""
    save(control_db, "ab")
    do(control_db, _PASSED)
    reading = published_rows(control_db, ["t"], at=moment(control_db, ["t"]))
    monkeypatch.setattr(upkeep, "_users_gone", lambda _: True)
    with closing(connect(control_db.dsn, "reader")) as reader:
        reader.execute("select count(*) from kylo.outbox_log")
        keep(control_db)
        assert ask(control_db, "select count(*) from kylo.outbox_partitions where leaving") == [(1,)]
        with pytest.raises(Transient, match="left while it was read"):
            next(reading)


def test_totals_are_as_before(outbox):
    """What the verifier compares with counts held events, too: they are published in the end."""
    assert ask(outbox, "select key, events, outbox_id from kylo.outbox_left order by key") == [("a", 3, 5), ("b", 3, 6)]
    with outbox.transaction() as tx:
        assert list(left.published(tx, ["t"], ("", ""), 1)) == [(("t", "a"), (1, 1))]
