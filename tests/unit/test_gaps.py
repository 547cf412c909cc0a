"""Filling a gap in steps: however long it takes, the loop comes round, and nothing behind it is applied before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kylo_outbox import Transient
from kylo_outbox.flows.project import Gaps, Project
from kylo_outbox.model.delivery import Lost
from tests.helpers.projectors import delivery


class Source:
    """A member of a group that has met a gap and has one record in hand."""

    assigned = frozenset({("t", 0)})

    def __init__(self):
        self.paused, self.taken, self.gap = False, [delivery(9)], [Lost("t", 0, 1, 9)]

    def lost(self):
        """The gap, once."""
        gap, self.gap = self.gap, []
        return gap

    def take(self, _limit, _seconds):
        """The record, once."""
        taken, self.taken = self.taken, []
        return taken

    def commit(self, deliveries):
        """Nothing."""

    def pause(self):
        """Fetch no more."""
        self.paused = True

    def resume(self):
        """Go on."""
        self.paused = False


@pytest.fixture
def handled():
    """Outbox ids in the order in which they were handled."""
    return []


def worker(source, handled, told, stored):
    """A worker on this source, which fills from `stored`."""
    projector = SimpleNamespace(name="p", batch=1000)

    def handle(deliveries):
        handled.append([each.event.outbox_id for each in deliveries])

    projection: Any = SimpleNamespace(projector=projector, tend=lambda: None, handle=handle)
    gaps = Gaps("p", {"t": 1}, lambda _topic: stored(), lambda *words: told.append(words), lambda *_: None)
    return Project(projection, source, gaps=gaps)


def test_each_turn_fills_one_batch_and_nothing_passes(handled):
    """Three batches, three turns with the partitions paused, then the record behind the gap."""
    source = Source()
    told: list[tuple[str, ...]] = []
    made = worker(source, handled, told, lambda: iter([[delivery(n)] for n in (1, 2, 3)]))
    seen = []
    for _ in range(6):
        made.run_once()
        seen.append((len(handled), source.paused))
    assert seen[:4] == [(1, True), (2, True), (3, True), (3, True)]
    assert seen[-1] == (4, False)
    assert handled == [[1], [2], [3], [9]]
    assert len(told) == 2
    assert "3 events" in told[1][2]


def test_an_outage_in_the_middle_starts_the_filling_over(handled):
    """What was applied is a repeat then; the record behind the gap still waits."""
    tries = []

    def stored():
        tries.append(1)
        yield [delivery(1)]
        if len(tries) == 1:
            raise Transient("PostgreSQL is away")
        yield [delivery(2)]

    made = worker(Source(), handled, [], stored)
    made.run_once()
    with pytest.raises(Transient):
        made.run_once()
    for _ in range(5):
        made.run_once()
    assert handled == [[1], [1], [2], [9]]


def test_what_is_in_hand_is_settled_before_a_gap_behind_it_is_filled(handled):
    """A record that had to wait for its database comes before the gap that the next look meets."""
    source = Source()
    source.taken, source.gap = [delivery(1)], []
    made = worker(source, handled, [], lambda: iter([[delivery(2)]]))
    projection: Any = made._projection
    settle = projection.handle

    def away(_deliveries):
        source.taken, source.gap, projection.handle = [delivery(9)], [Lost("t", 0, 2, 9)], settle
        raise Transient("PostgreSQL is away")

    projection.handle = away
    with pytest.raises(Transient):
        made.run_once()
    for _ in range(5):
        made.run_once()
    assert handled == [[1], [2], [9]]


@pytest.mark.parametrize(("away", "told_of"), [(["store 710: no answer"], True), ([], False)])
def test_an_outbox_that_cannot_be_asked_is_named(handled, away, told_of):
    """What it alone still has is passed over: a person has to know."""
    source = Source()
    told: list[tuple[str, ...]] = []
    gaps = Gaps("p", {"t": 1}, lambda _topic: iter([[delivery(1)]]), lambda *w: told.append(w), print, lambda: away)
    while not gaps.close_before(source, handled.append):
        pass
    assert ("store 710: no answer" in told[-1][2]) is told_of
