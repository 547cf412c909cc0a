"""Holding: after a dead letter the key waits in order on disk; released, it goes on in order, and nothing strands."""

from __future__ import annotations

import threading

import pytest

from kylo_outbox import Poison, Transient
from kylo_outbox.flows.project.release import Releases
from kylo_outbox.model.delivery import from_record
from kylo_outbox.model.projector import EffectProjector
from kylo_outbox.store import dead_letters, keyholds, positions
from tests.helpers.projectors import STORE, TABLE, Collects, ask, delivery, on, wait_for_lock

BAD = b'{"poison": true}'


@pytest.fixture
def applied(control_db):
    """What was applied, in order: (key, outbox id)."""
    with control_db.transaction() as tx:
        tx.execute(TABLE)

    def read():
        with control_db.transaction() as tx:
            return tx.execute("select key, outbox_id from applied order by n").fetchall()

    return read


@pytest.fixture
def projection(control_db, applied):
    """A projection of `Collects` that tends its database."""
    return on(control_db)


def waiting(database):
    """(key, outbox id) of what waits, in order."""
    return ask(database, "select key, outbox_id from kylo.held_events order by n")


def release(database, key="k", store=STORE):
    """What `dlq release` does in the database."""
    with database.transaction() as tx:
        assert keyholds.release(tx, keyholds.Hold("collects", "dead", (store, "t", key)))


def cure(database):
    """Make the dead letters good, as `dlq edit` would."""
    with database.transaction() as tx:
        tx.execute("update kylo.dead_letters set payload = '{}' where settled_at is null")


def test_later_events_of_the_key_wait_and_no_other(control_db, projection, applied):
    """Behind a dead letter the key's events queue in order, in the same batch and later; other keys go on."""
    projection.handle([delivery(1), delivery(2, payload=BAD), delivery(3), delivery(4, "other"), delivery(5)])
    projection.handle([delivery(6), delivery(7, "other")])
    assert applied() == [("k", 1), ("other", 4), ("other", 7)]
    assert waiting(control_db) == [("k", 3), ("k", 5), ("k", 6)]
    [row] = ask(control_db, "select outbox_id, applied, digest from kylo.positions where key = 'k'")
    assert row == (6, 5, 1 + 2 + 3 + 5 + 6)


def test_repeats_of_what_waits_are_absorbed(control_db, projection, applied):
    """A position counts what waits as taken: the same records again add nothing to the queue."""
    batch = [delivery(1, payload=BAD), delivery(2), delivery(3)]
    for _ in range(3):
        projection.handle(batch)
    assert waiting(control_db) == [("k", 2), ("k", 3)]
    assert ask(control_db, "select count(*) from kylo.dead_letters") == [(1,)]
    cure(control_db)
    release(control_db)
    projection.tend(at_once=True)
    projection.handle(batch)
    assert applied() == [("k", 1), ("k", 2), ("k", 3)]


def test_skip_lets_later_events_pass(control_db, projection, applied):
    """With `skip` nobody waits."""
    projection.projector.on_poison = "skip"
    projection.handle([delivery(1, payload=BAD), delivery(2)])
    assert applied() == [("k", 2)]
    assert waiting(control_db) == []
    assert ask(control_db, "select count(*) from kylo.holds") == [(0,)]


def test_released_keys_go_on_in_order(control_db, projection, applied):
    """The dead letter first, then what waited, in order; later events pass again."""
    projection.handle([delivery(1, payload=BAD), *(delivery(n) for n in range(2, 40))])
    cure(control_db)
    release(control_db)
    projection.tend(at_once=True)
    projection.handle([delivery(40)])
    assert applied() == [("k", n) for n in range(1, 41)]
    assert ask(control_db, "select outcome, settled_at is not null from kylo.dead_letters") == [("applied", True)]
    assert ask(control_db, "select count(*) from kylo.holds") == [(0,)]


def test_a_release_in_vain_holds_again(control_db, projection, applied):
    """What is still poison stays a dead letter with one attempt more; nothing behind it moves."""
    projection.handle([delivery(1, payload=BAD), delivery(2)])
    release(control_db)
    projection.tend(at_once=True)
    assert applied() == []
    assert waiting(control_db) == [("k", 2)]
    assert ask(control_db, "select releases, settled_at from kylo.dead_letters") == [(1, None)]
    projection.tend(at_once=True)
    assert ask(control_db, "select releases from kylo.dead_letters") == [(1,)]


def test_poison_among_what_waits_becomes_the_next_dead_letter(control_db, projection, applied):
    """Those before it are applied, it is a dead letter with its record, those behind it wait on."""
    bad = {1, 30}
    projection.handle([delivery(n, payload=BAD if n in bad else b"{}") for n in range(1, 51)])
    cure(control_db)
    release(control_db)
    projection.tend(at_once=True)
    assert applied() == [("k", n) for n in range(1, 30)]
    assert waiting(control_db) == [("k", n) for n in range(31, 51)]
    assert ask(control_db, "select outbox_id from kylo.dead_letters where settled_at is null") == [(30,)]
    assert ask(control_db, "select count(*) from outbox where topic = 't.dlq'") == [(2,)]
    cure(control_db)
    release(control_db)
    projection.tend(at_once=True)
    assert applied() == [("k", n) for n in range(1, 51)]


def test_records_of_others_wait_by_key_and_never_without_one(control_db, projection, applied):
    """Another producer's records with a key are held by it; without a key nobody waits."""

    def foreign(offset, key, value=b"{}"):
        return from_record(topic="t", partition=1, headers=[], at=None, offset=offset, key=key, value=value)

    projection.handle(
        [
            foreign(1, b"x", BAD),
            foreign(2, b"y"),
            foreign(3, b"x"),
            foreign(4, None, BAD),
            foreign(5, None),
            foreign(6, b"y"),
        ]
    )
    assert [key for key, _ in applied()] == ["y", "", "y"]
    assert ask(control_db, "select key, partition_offset from kylo.held_events") == [("x", 3)]
    cure(control_db)
    release(control_db, "x", store="")
    projection.tend(at_once=True)
    assert [key for key, _ in applied()] == ["y", "", "y", "x", "x"]


class Gate(Collects):
    """Stops inside `apply` until told to go on."""

    session_timeout = 120.0

    def __init__(self, topic):
        super().__init__(topic)
        self.inside, self.go_on = threading.Event(), threading.Event()

    def apply(self, tx, events):
        """Wait in the middle of the transaction."""
        super().apply(tx, events)
        self.inside.set()
        assert self.go_on.wait(60)


def test_queueing_waits_for_a_release_that_is_at_work(control_db, projection, applied):
    """Forced: the drain has emptied the queue but not committed; an event comes and must not queue behind nobody."""
    projection.handle([delivery(1, payload=BAD), delivery(2)])
    cure(control_db)
    release(control_db)
    gate = Gate("t")
    drainer = threading.Thread(target=on(control_db, gate).tend, kwargs={"at_once": True})
    drainer.start()
    assert gate.inside.wait(60)
    live = threading.Thread(target=projection.handle, args=([delivery(3)],))
    live.start()
    wait_for_lock(control_db)
    gate.go_on.set()
    live.join(60)
    drainer.join(60)
    on(control_db).tend(at_once=True)
    assert applied() == [("k", 1), ("k", 2), ("k", 3)]
    assert waiting(control_db) == []


def test_a_release_waits_for_queueing_that_is_at_work(control_db, projection, applied, monkeypatch):
    """Forced: an event is queued but not committed while the drain wants to end the hold; it is drained as well."""
    projection.handle([delivery(1, payload=BAD)])
    cure(control_db)
    release(control_db)
    projection.projector.session_timeout = 120.0
    queued, go_on = threading.Event(), threading.Event()
    move = positions.move

    def slow_move(*args):
        queued.set()
        assert go_on.wait(60)
        move(*args)

    monkeypatch.setattr(positions, "move", slow_move)
    live = threading.Thread(target=projection.handle, args=([delivery(2)],))
    live.start()
    assert queued.wait(60)
    drainer = threading.Thread(target=on(control_db).tend, kwargs={"at_once": True})
    drainer.start()
    wait_for_lock(control_db)
    go_on.set()
    live.join(60)
    drainer.join(60)
    monkeypatch.undo()
    on(control_db).tend(at_once=True)
    assert applied() == [("k", 1), ("k", 2)]
    assert waiting(control_db) == []


def test_two_drains_apply_once(control_db, projection, applied, monkeypatch):
    """Two processes that find the same released key, one of them taken for dead, do its work once, in order."""
    monkeypatch.setattr("kylo_outbox.store.retries.LEFT_ALONE", 0.0)
    projection.handle([delivery(1, payload=BAD), *(delivery(n) for n in range(2, 6))])
    cure(control_db)
    release(control_db)
    gate = Gate("t")
    first = threading.Thread(target=on(control_db, gate).tend, kwargs={"at_once": True})
    first.start()
    assert gate.inside.wait(60)
    second = threading.Thread(target=on(control_db).tend, kwargs={"at_once": True})
    second.start()
    wait_for_lock(control_db)
    gate.go_on.set()
    first.join(60)
    second.join(60)
    assert applied() == [("k", n) for n in range(1, 6)]


def test_a_crash_in_the_middle_of_a_release_repeats_nothing(control_db, projection, applied):
    """Effect and queue are one transaction: a failure after the effect leaves the queue as it was."""
    projection.handle([delivery(1, payload=BAD), delivery(2)])
    cure(control_db)
    release(control_db)
    projection.projector.fail_after_effect = Transient("killed after the effect")
    projection.tend(at_once=True)
    assert applied() == []
    projection.tend(at_once=True)
    assert applied() == [("k", 1), ("k", 2)]


class Tabs(EffectProjector):
    """An outside effect; what it was called with."""

    name = "collects"
    topics = ("t",)

    def __init__(self):
        self.calls = []
        self.refuse = {2}

    def perform(self, events):
        """Remember, or refuse."""
        if any(event.outbox_id in self.refuse for event in events):
            raise Poison("refused")
        self.calls.append([event.outbox_id for event in events])


def test_outside_effects_wait_and_go_on_as_well(control_db):
    """A projector without a transaction of its own: the same order, called once for each that waited."""
    projection = on(control_db, Tabs())
    projection.handle([delivery(n) for n in range(1, 5)])
    assert projection.projector.calls == [[1]]
    projection.projector.refuse = set()
    release(control_db)
    projection.tend(at_once=True)
    assert projection.projector.calls == [[1], [2, 3, 4]]
    assert ask(control_db, "select count(*) from kylo.holds") == [(0,)]


def test_bisecting_costs_a_few_statements(control_db, projection, applied):
    """One bad record among 512 costs about two transactions for each halving."""
    calls = []
    apply = projection.projector.apply
    projection.projector.apply = lambda tx, events: (calls.append(len(events)), apply(tx, events))[1]
    projection.handle([delivery(n, f"k{n}", BAD if n == 300 else b"{}") for n in range(1, 513)])
    assert len(applied()) == 511
    assert len(calls) <= 2 * 9 + 1


def test_a_dead_letter_is_tried_once_more_without_its_key(control_db, projection, applied):
    """`replay` of a dead letter that was skipped applies it once, however often it is asked for."""
    projection.projector.on_poison = "skip"
    projection.handle([delivery(1, payload=BAD), delivery(2)])
    cure(control_db)
    for _ in range(2):
        with control_db.transaction() as tx:
            tx.execute("update kylo.dead_letters set retry_at = now()")
        projection.tend(at_once=True)
    assert applied() == [("k", 2), ("k", 1)]


def test_the_record_tells_everything(control_db, projection, applied):
    """Row and record are born together; the record has the original bytes, key, headers and all `dlq-*` headers."""
    projection.handle([delivery(1, payload=BAD)])
    [(key, payload, headers)] = ask(control_db, "select key, payload, headers from outbox where topic = 't.dlq'")
    assert (key, payload) == ("k", BAD.decode())
    names = ("reason", "error-class", "attempts", "topic", "partition", "offset", "stage", "at")
    assert {f"dlq-{name}" for name in names} <= headers.keys()
    assert headers["dlq-topic"] == "t"


def test_a_dead_letter_that_cannot_be_emitted_is_no_dead_letter(control_db, projection, applied, monkeypatch):
    """Without its record there is no row: both are one transaction."""
    monkeypatch.setattr(dead_letters, "emit", lambda *_args, **_named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        projection.handle([delivery(1, payload=BAD)])
    assert ask(control_db, "select count(*) from kylo.dead_letters") == [(0,)]


def test_a_stopped_owner_blocks_its_successor_for_the_session_time_only(control_db, projection, applied):
    """Stopped inside its transaction it holds the key's lock until PostgreSQL ends it; awake, it changes nothing."""
    gate = Gate("t")
    gate.session_timeout = 1.0
    failed = []

    def stopped():
        try:
            on(control_db, gate).handle([delivery(1), delivery(2)])
        except Transient as ended:
            failed.append(ended)

    owner = threading.Thread(target=stopped)
    owner.start()
    assert gate.inside.wait(60)
    projection.handle([delivery(1), delivery(2), delivery(3)])
    gate.go_on.set()
    owner.join(60)
    assert len(failed) == 1
    assert applied() == [("k", 1), ("k", 2), ("k", 3)]


def test_a_release_that_another_process_tried_in_vain_is_not_tried_again(control_db, projection, applied):
    """Found by two processes, failed in the first: the second finds it held again and leaves it."""
    projection.handle([delivery(1, payload=BAD), delivery(2)])
    release(control_db)
    late = Releases("collects", projection.attempt, projection._release_failed, projection._count, projection._retries)
    with control_db.transaction() as tx:
        [found] = keyholds.released(tx, "collects")
    projection.tend(at_once=True)
    late._drain(control_db, found)
    assert ask(control_db, "select releases from kylo.dead_letters") == [(1,)]


def test_a_key_that_must_wait_keeps_no_other_from_going_on(control_db, applied):
    """One company is being moved: it is told to wait at every try, while the keys behind it in line are drained."""

    class Moving(Collects):
        def apply(self, tx, events):
            if any(event.key == "moving" for event in events) and not self.arrived:
                raise Transient("company moving: its rows are moving to another database")
            super().apply(tx, events)

        arrived = True

    collects = Moving("t")
    projection = on(control_db, collects)
    for number, key in ((1, "moving"), (3, "other")):
        projection.handle([delivery(number, key, BAD), delivery(number + 1, key)])
    with control_db.transaction() as tx:
        tx.execute("update kylo.dead_letters set payload = '{}'")
    collects.arrived = False
    release(control_db, "moving")
    release(control_db, "other")
    projection.tend(at_once=True)
    assert applied() == [("other", 3), ("other", 4)]
    collects.arrived = True
    projection.tend(at_once=True)
    assert applied() == [("other", 3), ("other", 4), ("moving", 1), ("moving", 2)]
