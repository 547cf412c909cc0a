"""Filling a gap in steps: however long it takes, the loop comes round, and nothing behind it is applied before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kylo_outbox import Transient
from kylo_outbox.flows.project import Gaps, Project
from kylo_outbox.kafka.partitions import partition_among
from kylo_outbox.model.delivery import Lost, Stored
from tests.helpers.projectors import STORE, delivery


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


def stored(*numbers, key="k", unread=()):
    """A batch that an outbox has of a key, which is not complete if it is among `unread`."""
    return Stored([delivery(number, key) for number in numbers], {(STORE, "t", each) for each in unread})


def worker(source, handled, told, read):
    """A worker on this source, which fills from what `read` gives."""
    projector = SimpleNamespace(name="p", batch=1000)

    def handle(deliveries):
        handled.append([each.event.outbox_id for each in deliveries])

    projection: Any = SimpleNamespace(projector=projector, tend=lambda: None, handle=handle)
    gaps = Gaps("p", {"t": 1}, lambda _topic: read(), lambda *words: told.append(words), lambda *_: None)
    return Project(projection, source, gaps=gaps)


def test_each_turn_fills_one_batch_and_nothing_passes(handled):
    """Three batches, three turns with the partitions paused, then the record behind the gap."""
    source = Source()
    told: list[tuple[str, ...]] = []
    made = worker(source, handled, told, lambda: iter([stored(n) for n in (1, 2, 3)]))
    seen = []
    for _ in range(6):
        made.run_once()
        seen.append((len(handled), source.paused))
    assert seen[:4] == [(1, True), (2, True), (3, True), (3, True)]
    assert seen[-1] == (4, False)
    assert handled == [[1], [2], [3], [9]]
    assert len(told) == 2
    assert "3 stored events" in told[1][2]


def test_an_outage_in_the_middle_starts_the_filling_over(handled):
    """What was applied is a repeat then; the record behind the gap still waits."""
    tries = []

    def read():
        tries.append(1)
        yield stored(1)
        if len(tries) == 1:
            raise Transient("PostgreSQL is away")
        yield stored(2)

    made = worker(Source(), handled, [], read)
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
    made = worker(source, handled, [], lambda: iter([stored(2)]))
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
    gaps = Gaps("p", {"t": 1}, lambda _topic: iter([stored(1)]), lambda *w: told.append(w), print, lambda: away)
    while not gaps.close_before(source, handled.append):
        pass
    assert ("store 710: no answer" in told[-1][2]) is told_of


def fill(batches, lost=None, partitions=1):
    """What is handed over when a gap (a grown topic without `lost`) is filled from these batches, and the last word."""
    source: Any = SimpleNamespace(assigned={("t", partitions)}, lost=list)
    if lost:
        source.assigned, source.lost = {("t", 0)}, iter([[lost]] + [[]] * 9).__next__
    given: list[tuple[str, int]] = []
    told: list[tuple[str, ...]] = []
    gaps = Gaps("p", {"t": partitions}, lambda _topic: iter(batches), lambda *w: told.append(w), lambda *_: None)
    while not gaps.close_before(source, lambda part: given.extend((d.event.key, d.position[1]) for d in part)):
        pass
    return given, told[-1][2]


def test_a_key_whose_older_events_may_lie_unread_is_left_out():
    """Also in later batches, whatever became of it meanwhile: of what was passed over nothing may follow."""
    given, text = fill([stored(1, 2, unread="k"), stored(3, key="other"), stored(4)])
    assert given == [("other", 3)]
    assert "1 keys (k)" in text


AT = datetime(2026, 11, 1, tzinfo=UTC)


def dated(batch, at):
    """The batch, its first event of then."""
    batch.deliveries[0].event.created_at = at
    return batch


@pytest.mark.parametrize(
    ("behind", "same_partition", "filled"),
    [(AT, True, True), (AT - timedelta(days=1), True, False), (None, True, False), (AT, False, False)],
)
def test_what_has_left_outbox_and_log_keeps_nothing_waiting(behind, same_partition, filled):
    """The log begins behind the oldest stored event, in the partition of the key: nothing older can come any more."""
    number = partition_among("k", 2) if same_partition else 1 - partition_among("k", 2)
    given, text = fill([dated(stored(5, 6, unread="k"), AT)], Lost("t", number, 1, 9, behind), partitions=2)
    assert given == ([("k", 5), ("k", 6)] if filled else [])
    assert ("left out" in text) is not filled
