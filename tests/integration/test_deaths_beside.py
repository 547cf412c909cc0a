"""Records that end the process while a gap is filled in: found by marks written before each portion."""

from __future__ import annotations

import pytest

from kylo_outbox import Transient
from kylo_outbox.flows.project import Beside, Gaps
from kylo_outbox.model.delivery import Lost
from tests.helpers.projectors import STORE, Collects, KilledError, applied, ask, delivery, on

KILLER = 137


class Kills(Collects):
    """Dies over one record."""

    def apply(self, tx, events):
        """Die before anything else."""
        if any(event.outbox_id == KILLER for event in events):
            raise KilledError
        super().apply(tx, events)


class Member:
    """A member of a group in front of a gap."""

    assigned = frozenset({("t", 0)})

    def __init__(self):
        self.gap = [Lost("t", 0, 1, 9)]

    def lost(self):
        """The gap, once for each life."""
        gap, self.gap = self.gap, []
        return gap


def batches(store=STORE):
    """Three hundred stored events of seven keys, in three batches."""
    return [[delivery(n, f"k{n % 7}", store=store) for n in range(first, first + 100)] for first in (1, 101, 201)]


def live(home, stored, projector=None):
    """One life of a process: it fills the gap, or dies over it."""
    projection = on(home, projector or Kills("t"))
    beside = Beside(home, "collects", projection.bury)
    gaps = Gaps("collects", {"t": 1}, lambda _topic: iter(stored), lambda *_: None, print, beside=beside)
    member = Member()
    while not gaps.close_before(member, projection.handle):
        pass


def lives(home, stored):
    """How many processes die before the gap is filled."""
    for deaths in range(10):
        try:
            live(home, stored)
        except KilledError:
            continue
        return deaths
    return 10


def marks(home):
    """What is written down now."""
    return ask(home, "select topic, partition_number, first_offset, last_offset, deaths from kylo.in_hand")


def test_a_record_that_kills_while_a_gap_is_filled_is_set_aside(home):
    """Once within its batch, three times alone; everything else is applied once and in order."""
    assert lives(home, batches()) == 4
    [letter] = ask(home, "select outbox_id, reason, attempts from kylo.dead_letters")
    assert letter == (KILLER, "the process died 3 times with this record alone in hand", 3)
    held = {number for number in range(KILLER + 1, 301) if number % 7 == KILLER % 7}
    assert [number for _, number in applied(home)] == [n for n in range(1, 301) if n != KILLER and n not in held]
    assert marks(home) == []


def test_another_store_is_not_blamed_for_its_id(home):
    """The same ids in two outboxes: only the store in which the process died is looked at one by one."""
    place = f"t of {STORE}"
    for _ in range(4):
        with pytest.raises(KilledError):
            live(home, batches())
    assert marks(home) == [(place, 0, KILLER, 200, 3)]
    live(home, [*batches("other"), *batches()], Collects("t"))
    assert ask(home, "select store_id, outbox_id from kylo.dead_letters") == [(STORE, KILLER)]


def test_not_now_is_no_death(home):
    """Whatever was raised: the process lived, so nobody is blamed, and a suspect keeps the deaths that it had."""
    with pytest.raises(KilledError):
        live(home, batches())
    [before] = marks(home)
    assert before == (f"t of {STORE}", 0, 101, 200, 0)
    for _ in range(5):
        waits = Collects("t")
        waits.fail_after_effect = Transient("away")
        with pytest.raises(Transient):
            live(home, batches()[1:], waits)
        assert marks(home) == [before]
    live(home, batches(), Collects("t"))
    assert len(applied(home)) == 300
    assert ask(home, "select count(*) from kylo.dead_letters") == [(0,)]
    assert marks(home) == []


def test_a_filling_that_is_interrupted_leaves_no_mark(home):
    """An outage in a batch that nobody died over."""
    waits = Collects("t")
    waits.fail_after_effect = Transient("away")
    with pytest.raises(Transient):
        live(home, batches(), waits)
    assert marks(home) == []


def test_suspects_that_come_in_a_later_batch_stay_suspects(home):
    """The batches of the next life need not be those of the one that died."""
    with pytest.raises(KilledError):
        live(home, batches())
    live(home, [batches()[1][:20]], Collects("t"))
    assert marks(home) == [(f"t of {STORE}", 0, 121, 200, 0)]
    live(home, [batches()[1][20:]], Collects("t"))
    assert marks(home) == []
