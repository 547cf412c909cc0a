"""How long a relay rests: until the bell where every writer rings, a little where others need the machine."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kylo_outbox.flows.relay.rest import Rest

NEVER_BUSY = 0.0005
BUSY = 0.002


class Session:
    """A lane's connection whose bell rings when told to."""

    def __init__(self, *, rings=True):
        self.rings, self.sleeps, self.rung = rings, False, False
        self.waits: list[float] = []

    def awake(self):
        """Writers need not ring."""
        self.sleeps = False

    def asleep(self):
        """Writers ring from now on."""
        self.sleeps = True
        return True

    def wait(self, seconds):
        """Note for how long, and wait for nothing."""
        self.waits.append(seconds)
        return self.rung


def made(*, rings=True) -> Any:
    """A connection."""
    return Session(rings=rings)


class Outlet:
    """A client that is asked for answers."""

    polled = 0

    def poll(self, _seconds):
        """Nothing comes."""
        self.polled += 1


@pytest.fixture
def outlet() -> Any:
    """A client without answers."""
    return Outlet()


def turn(rest, session, outlet, found=0, *, took=NEVER_BUSY, full=False):
    """One look and the rest after it."""
    rest.looked(took)
    rest.read(session, found, full=full)
    return 0.0 if full else rest.after(session, outlet, in_flight=False)


def fall_asleep(rest, session, outlet):
    """Empty looks until writers ring."""
    for _ in range(20):
        turn(rest, session, outlet)
        if session.sleeps:
            return
    pytest.fail("it never fell asleep")


def test_after_some_empty_looks_it_sleeps_and_waits_for_the_bell_alone(outlet):
    """Once asleep it looks once more; then, after whatever it finds, it waits as long as it ever does."""
    rest, session = Rest(None), made()
    fall_asleep(rest, session, outlet)
    before = len(session.waits)
    assert session.waits[:3] == sorted(session.waits[:3])
    turn(rest, session, outlet)
    turn(rest, session, outlet, found=1)
    assert session.waits[before:] == [0.1, 0.1]


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(("found", "sleeps"), [(4, False), (3, True)])
def test_several_events_in_one_look_keep_it_awake(outlet, found, sleeps, full):
    """Also in a backlog, where nothing waits: writers would pay for calls that nobody needs."""
    rest, session = Rest(None), made()
    fall_asleep(rest, session, outlet)
    turn(rest, session, outlet, found=found, full=full)
    assert session.sleeps is sleeps


def test_many_rings_in_a_row_keep_it_awake(outlet):
    """Looking without pause is cheaper than so many notifications."""
    rest, session = Rest(None), made()
    fall_asleep(rest, session, outlet)
    session.rung = True
    for _ in range(50):
        turn(rest, session, outlet, found=1)
    assert not session.sleeps


@pytest.mark.parametrize(
    ("took", "found", "full", "over"),
    [(BUSY, 1, False, False), (BUSY, 1, True, True), (BUSY, 0, False, True), (NEVER_BUSY, 1, False, True)],
    ids=["others work", "a backlog", "nothing found", "nobody else works"],
)
def test_a_look_that_took_long_makes_way_for_others(outlet, took, found, full, over):
    """Only where something was found, and not while more is known to wait."""
    rest, session = Rest(None), made()
    rest.looked(took)
    rest.read(session, found, full=full)
    assert rest.over() is over
    if not over:
        assert 0 < rest.after(session, outlet, in_flight=False) <= 0.02


def test_nobody_makes_way_for_long(outlet):
    """However slow the database is."""
    rest, session = Rest(None), made()
    assert turn(rest, session, outlet, found=1, took=30.0) <= 0.02


def test_with_a_fixed_interval_nothing_else_decides(outlet):
    """No bell, no doubling: the next look is due then."""
    rest, session = Rest(0.05), made()
    assert 0 < turn(rest, session, outlet, found=1) <= 0.05
    time.sleep(0.06)
    assert rest.over()
    assert rest.after(session, outlet, in_flight=False) == 0.0
    assert (session.waits, session.sleeps) == ([], False)


def test_without_a_bell_it_looks_every_twenty_milliseconds(outlet):
    """Where transactions can be prepared nobody rings."""
    rest, session = Rest(None), made(rings=False)
    pauses = [turn(rest, session, outlet) for _ in range(10)]
    assert (pauses[-1], session.waits) == (0.02, [])


def test_while_kafka_owes_an_answer_it_is_asked_for(outlet):
    """The bell waits."""
    rest, session = Rest(None), made()
    rest.read(session, 1, full=False)
    assert rest.after(session, outlet, in_flight=True) == 0.0
    assert (outlet.polled, session.waits) == (1, [])
