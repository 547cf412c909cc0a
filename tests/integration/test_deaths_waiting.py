"""Events that end the process while they wait behind a hold or as dead letters: found by marks and set aside."""

from __future__ import annotations

import threading
import time

import pytest

from kylo_outbox import Transient
from kylo_outbox.flows.project import Aside
from kylo_outbox.model.errors import Stopping
from kylo_outbox.model.projector import EffectProjector
from kylo_outbox.store import desk, keyholds, retries
from tests.helpers.away import Switch
from tests.helpers.pipeline import wait_until
from tests.helpers.projectors import STORE, Collects, KilledError, applied, ask, delivery, on, wait_for_lock

BAD = b'{"poison": true}'
KILLER = 5
DIED = "the process died 3 times with this record alone in hand"
_OLD = "select tried_at < clock_timestamp() - interval '0.5 s' from kylo.holds"


class Kills(Collects):
    """Dies over one record, if it is told to; `sizes` says how many were in hand each time."""

    deadly = True

    def __init__(self):
        super().__init__("t")
        self.sizes = []

    def apply(self, tx, events):
        """Die before anything else."""
        self.sizes.append(len(events))
        if self.deadly and any(event.outbox_id == KILLER for event in events):
            raise KilledError
        super().apply(tx, events)


@pytest.fixture
def at_once(monkeypatch):
    """A mark of another process is that of a dead one without waiting."""
    monkeypatch.setattr(retries, "LEFT_ALONE", 0.0)


def outlive(make, goal, most=12):
    """Start one process after another until `goal`; how many died."""
    for deaths in range(most):
        projection = make()
        try:
            while not goal():
                projection.tend(at_once=True)
        except KilledError:
            continue
        return deaths
    raise AssertionError(f"{most} processes died")


def released(home, *numbers):
    """A dead letter of key k with more behind it, cured and let go."""
    first, *others = numbers
    on(home, Collects("t")).handle([delivery(first, payload=BAD), *map(delivery, others)])
    with home.transaction() as tx:
        tx.execute("update kylo.dead_letters set payload = '{}'")
        assert keyholds.release(tx, keyholds.Hold("collects", "dead", (STORE, "t", "k")))


def letters(home):
    """(id in the outbox, reason) of what is open."""
    return ask(home, "select outbox_id, reason from kylo.dead_letters where settled_at is null order by id")


def test_what_waits_behind_a_hold_and_kills_becomes_the_next_dead_letter(home, at_once):
    """Once with others in hand, three times alone: those before it are applied once, those behind it wait again."""
    released(home, *range(1, 10))
    deaths = outlive(lambda: on(home, Kills()), lambda: (KILLER, DIED) in letters(home))
    assert deaths == 4
    assert letters(home) == [(KILLER, DIED)]
    assert [number for _, number in applied(home)] == [1, 2, 3, 4]
    assert ask(home, "select outbox_id from kylo.held_events order by n") == [(6,), (7,), (8,), (9,)]
    assert ask(home, "select released_at, tried_by, deaths from kylo.holds") == [(None, None, 0)]


def test_a_dead_letter_that_kills_when_it_is_released_waits_again(home, at_once):
    """The letter itself is in front: nothing behind it passes, and the release ends."""
    released(home, KILLER, 6)
    deaths = outlive(lambda: on(home, Kills()), lambda: ask(home, "select released_at from kylo.holds") == [(None,)])
    assert deaths == 4
    assert letters(home) == [(KILLER, DIED)]
    assert applied(home) == []


def test_a_dead_letter_that_nobody_waits_behind_and_that_kills_is_left(home, at_once):
    """Tried alone from the first time on: three deaths."""
    projector = Collects("t")
    projector.on_poison = "skip"
    on(home, projector).handle([delivery(KILLER, payload=BAD)])
    with home.transaction() as tx:
        tx.execute("update kylo.dead_letters set payload = '{}', retry_at = now()")
    deaths = outlive(
        lambda: on(home, Kills()), lambda: ask(home, "select retry_at from kylo.dead_letters") == [(None,)]
    )
    assert deaths == 3
    assert letters(home) == [(KILLER, DIED)]
    assert ask(home, "select tried_by, deaths from kylo.dead_letters") == [(None, 0)]
    with home.transaction() as tx:
        tx.execute("update kylo.dead_letters set retry_at = now()")
    on(home, Collects("t")).tend(at_once=True)
    assert [number for _, number in applied(home)] == [KILLER], "what is cured later begins without its deaths"


def test_what_waited_for_its_database_and_kills_is_set_aside(make_home, at_once):
    """Its company's database was away: it alone becomes a dead letter there, and the key goes on."""
    control, gone = make_home(), make_home()
    switch = Switch(gone.dsn, name="b")

    def make():
        aside = Aside(control, "collects", patience=0.0, every=0.0)
        projector = Kills()
        projector.on_poison = "skip"
        return on(switch, projector, aside=aside)

    try:
        switch.away = True
        make().handle([delivery(number) for number in range(1, 10)])
        assert ask(control, "select count(*) from kylo.held_events") == [(9,)]
        switch.away = False
        deaths = outlive(make, lambda: ask(control, "select count(*) from kylo.holds") == [(0,)])
    finally:
        switch.close()
    assert deaths == 4
    assert letters(gone) == [(KILLER, DIED)]
    assert [number for _, number in applied(gone)] == [1, 2, 3, 4, 6, 7, 8, 9]


def test_a_worker_that_is_at_it_is_left_alone(home):
    """Another one passes the key over while the mark is young, and counts no death."""
    released(home, 1, KILLER, 6)
    with pytest.raises(KilledError):
        on(home, Kills()).tend(at_once=True)
    on(home, Kills()).tend(at_once=True)
    assert ask(home, "select deaths from kylo.holds") == [(0,)]
    assert applied(home) == []


@pytest.mark.parametrize("failure", [Transient("not now"), ValueError("never")])
def test_a_failure_is_no_death(home, at_once, failure):
    """Whoever lives takes the mark back, whatever it was that failed."""

    class Fails(Collects):
        def apply(self, _tx, _events):
            raise failure

    released(home, 1, 2)
    on(home, Fails("t")).tend(at_once=True)
    assert ask(home, "select tried_by, deaths from kylo.holds") == [(None, 0)]


class Long(EffectProjector):
    """Takes its time, as posts to a tab do."""

    name, topics = "collects", ("t",)

    def __init__(self):
        self.inside, self.go_on = threading.Event(), threading.Event()

    def perform(self, _events):
        """Wait for the word."""
        self.inside.set()
        assert self.go_on.wait(60)


def test_who_takes_long_is_alive(home, monkeypatch):
    """The mark is renewed while an attempt lasts: others pass the key over and count no death."""
    monkeypatch.setattr(retries, "LEFT_ALONE", 2.5)
    monkeypatch.setattr("kylo_outbox.flows.project.retries._RENEW", 0.05)
    released(home, 1, 2)
    long = Long()
    at_it = threading.Thread(target=on(home, long).tend, kwargs={"at_once": True})
    at_it.start()
    assert long.inside.wait(60)
    until = time.monotonic() + 4.0
    while time.monotonic() < until:
        on(home, Kills()).tend(at_once=True)
    assert ask(home, "select deaths from kylo.holds") == [(0,)]
    long.go_on.set()
    at_it.join(60)
    assert ask(home, "select count(*) from kylo.holds") == [(0,)]
    assert applied(home) == []


def test_who_waited_for_a_long_transaction_counts_no_death(home, monkeypatch):
    """The row was locked while the mark grew old; with the effect it is young again."""
    monkeypatch.setattr(retries, "LEFT_ALONE", 0.5)
    monkeypatch.setattr("kylo_outbox.flows.project.retries._RENEW", 60.0)
    monkeypatch.setattr("kylo_outbox.flows.project.release.BATCH", 1)
    released(home, 1, 2, 3)
    inside, go_on, sizes = threading.Event(), threading.Event(), []

    class Holds(Collects):
        def apply(self, tx, events):
            if not inside.is_set():
                inside.set()
                assert go_on.wait(60)
            sizes.append(ask(home, "select deaths from kylo.holds"))
            super().apply(tx, events)

    at_it = threading.Thread(target=on(home, Holds("t")).tend, kwargs={"at_once": True})
    at_it.start()
    assert inside.wait(60)
    wait_until(lambda: ask(home, _OLD) == [(True,)], 60, "the mark is old")
    other = threading.Thread(target=on(home, Collects("t")).tend, kwargs={"at_once": True})
    other.start()
    wait_for_lock(home)
    go_on.set()
    at_it.join(60)
    other.join(60)
    assert sizes == [[(0,)]] * 3
    assert [number for _, number in applied(home)] == [1, 2, 3]


@pytest.mark.parametrize("act", ["discard", "edit"])
def test_who_changes_what_is_in_front_clears_its_deaths(home, at_once, act):
    """A person was faster than the last attempt: the next one in line is tried, not blamed."""
    released(home, KILLER, 6)
    for _ in range(4):
        with pytest.raises(KilledError):
            on(home, Kills()).tend(at_once=True)
    with home.transaction() as tx:
        [letter] = desk.find(tx, desk.Filter())
        if act == "discard":
            desk.discard(tx, [letter], who="me", reason="kills")
        else:
            desk.edit(tx, letter, b"{}", who="me", reason="cured")
    on(home, Collects("t")).tend(at_once=True)
    assert [number for _, number in applied(home)] == ([6] if act == "discard" else [KILLER, 6])


def test_an_edited_letter_begins_without_its_deaths(home, at_once):
    """What killed three processes has other content now: it is tried, not blamed."""
    projector = Collects("t")
    projector.on_poison = "skip"
    on(home, projector).handle([delivery(KILLER, payload=BAD)])
    with home.transaction() as tx:
        tx.execute("update kylo.dead_letters set payload = '{}', retry_at = now()")
    for _ in range(3):
        with pytest.raises(KilledError):
            on(home, Kills()).tend(at_once=True)
    with home.transaction() as tx:
        [letter] = desk.find(tx, desk.Filter())
        desk.edit(tx, letter, b"{}", who="me", reason="cured")
    on(home, Collects("t")).tend(at_once=True)
    assert [number for _, number in applied(home)] == [KILLER]


def test_what_was_discarded_while_it_was_tried_is_not_applied(home):
    """A person holds the letter when the projector looks: nothing is found, and nothing may be called applied."""
    projector = Collects("t")
    projector.on_poison = "skip"
    on(home, projector).handle([delivery(1, payload=BAD)])
    with home.transaction() as tx:
        tx.execute("update kylo.dead_letters set payload = '{}', retry_at = now()")
    person, begin = home.transaction(), retries.begin

    def then_a_person(tx, subject, worker):
        found = begin(tx, subject, worker)
        tx.commit()
        with person as other:
            [letter] = desk.find(other, desk.Filter())
            desk.discard(other, [letter], who="me", reason="by hand")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "begin", then_a_person)
        on(home, Collects("t")).tend(at_once=True)
    assert applied(home) == []
    assert ask(home, "select outcome from kylo.dead_letters") == [("discarded",)]


def test_after_a_death_the_line_goes_one_by_one_and_then_together_again(home, at_once, monkeypatch):
    """A process that was killed for another reason costs one spell of single events."""
    monkeypatch.setattr("kylo_outbox.flows.project.retries.BATCH", 3)
    released(home, *range(1, 10))
    with pytest.raises(KilledError):
        on(home, Kills()).tend(at_once=True)
    projector = Kills()
    projector.deadly = False
    on(home, projector).tend(at_once=True)
    assert projector.sizes == [1, 1, 1, 6]
    assert [number for _, number in applied(home)] == list(range(1, 10))


def test_outside_effects_are_watched_as_well(home, at_once):
    """An effect that is performed between two transactions kills: it becomes a dead letter again."""

    class Outside(EffectProjector):
        name, topics = "collects", ("t",)

        def perform(self, events):
            if any(event.outbox_id == KILLER for event in events):
                raise KilledError

    released(home, 1, KILLER, 6)
    deaths = outlive(lambda: on(home, Outside()), lambda: (KILLER, DIED) in letters(home))
    assert deaths == 4
    assert letters(home) == [(KILLER, DIED)]


def test_a_stop_breaks_off_between_two_batches(home, monkeypatch):
    """A long line is no reason to stay: what is applied is applied, the rest goes on with the next start."""
    monkeypatch.setattr("kylo_outbox.flows.project.release.BATCH", 2)
    released(home, 1, 2, 3, 4)
    stops = iter([False, False, True])
    projection = on(home, Collects("t"), stopping=lambda: next(stops, True))
    projection.tend(at_once=True)
    assert [number for _, number in applied(home)] == [1, 2]
    on(home, Collects("t")).tend(at_once=True)
    assert [number for _, number in applied(home)] == [1, 2, 3, 4]


def test_a_stop_breaks_off_the_search_for_bad_records(home):
    """Nothing of the search is stored: whoever comes next begins it anew."""
    asked: list[int] = []
    projection = on(home, Collects("t"), stopping=lambda: len(asked) > 2 or bool(asked.append(1)))
    batch = [delivery(number, f"k{number % 3}", BAD if number == 9 else b"{}") for number in range(1, 17)]
    with pytest.raises(Stopping):
        projection.handle(batch)
    assert letters(home) == []
    on(home, Collects("t")).handle(batch)
    assert [number for number, _ in letters(home)] == [9]
    assert len(applied(home)) + len(ask(home, "select from kylo.held_events")) == 15


def test_a_search_that_was_broken_off_opens_no_circuit(home):
    """What passed before the stop passes as a repeat afterwards: most of the batch is well."""
    batch = [delivery(number, f"k{number}", BAD if number > 40 else b"{}") for number in range(1, 61)]
    asked: list[int] = []
    projection = on(home, Collects("t"), stopping=lambda: len(asked) > 2 or bool(asked.append(1)))
    with pytest.raises(Stopping):
        projection.handle(batch)
    assert len(applied(home)) > 20
    on(home, Collects("t")).handle(batch)
    assert len(applied(home)) == 40
    assert len(letters(home)) == 20
