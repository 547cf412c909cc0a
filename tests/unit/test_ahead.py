"""Reading ahead: the next batch comes while this one is applied, in order, whole, and never by two threads at once."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from kylo_outbox import Transient
from kylo_outbox.flows.project import Project
from kylo_outbox.flows.project.ahead import Ahead
from tests.helpers.projectors import delivery

BATCH = 10


class Source:
    """A member of a group with a backlog; it notices when two threads use it at once."""

    assigned = frozenset({("t", 0)})

    def __init__(self, number):
        self.left = [delivery(each) for each in range(1, number + 1)]
        self.takes: list[int] = []
        self.read = threading.Semaphore(0)
        self.fails: Exception | None = None
        self.gap: list[tuple[str, int, int, int]] = []
        self.alone = threading.Lock()

    def take(self, limit, _seconds):
        """The next ones."""
        assert self.alone.acquire(blocking=False), "two threads at once"
        try:
            self.takes.append(limit)
            failure, self.fails = self.fails, None
            if failure:
                raise failure
            taken, self.left = self.left[:limit], self.left[limit:]
            return taken
        finally:
            self.alone.release()
            self.read.release()

    def lost(self):
        """What was lost before the last records, once."""
        gap, self.gap = self.gap, []
        return gap

    def _quiet(self, *_):
        assert self.alone.acquire(blocking=False), "two threads at once"
        self.alone.release()

    commit = pause = resume = close = _quiet


def worker(source, handle):
    """A worker that has this done with each batch."""
    projector = SimpleNamespace(name="p", batch=BATCH)
    projection: Any = SimpleNamespace(projector=projector, tend=lambda: None, handle=handle)
    return Project(projection, source)


def numbers(deliveries):
    """Their outbox ids."""
    return [each.event.outbox_id for each in deliveries]


def test_the_next_batch_is_read_while_this_one_is_applied():
    """Each but the last is applied only after the source was asked again; all of them come once and in order."""
    source: Any = Source(3 * BATCH)
    handled: list[int] = []

    def handle(deliveries):
        source.read.acquire()
        assert source.read.acquire(timeout=20), "nobody read on"
        source.read.release()
        handled.extend(numbers(deliveries))

    made = worker(source, handle)
    for _ in range(3):
        assert made.run_once().settled == BATCH
    made.close()
    assert handled == list(range(1, 3 * BATCH + 1))


def test_few_records_are_not_worth_a_thread():
    """Without a backlog the source is asked once a turn."""
    source: Any = Source(3)
    worker(source, lambda _: None).run_once()
    assert source.takes == [BATCH]


def test_what_fails_in_the_background_is_raised_by_the_next_look_and_loses_nothing():
    """The batch in hand is settled first; the failure says "not now"; then it goes on where it was."""
    source: Any = Source(2 * BATCH)
    handled: list[int] = []
    ahead = Ahead(source)
    handled += numbers(ahead.take(BATCH, 0.0, in_hand=False))
    source.fails = Transient("no broker answers")
    ahead.begin(BATCH)
    ahead.commit([])
    ahead.begin(BATCH)
    with pytest.raises(Transient, match="no broker"):
        ahead.take(BATCH, 0.0, in_hand=False)
    handled += numbers(ahead.take(BATCH, 0.0, in_hand=False))
    assert handled == list(range(1, 2 * BATCH + 1))
    ahead.close()


def test_a_batch_in_hand_is_never_above_its_limit():
    """What was read ahead is handed out as asked for, whatever the source gave."""
    source: Any = Source(3 * BATCH)
    ahead = Ahead(source)
    ahead.begin(BATCH)
    found = [numbers(ahead.take(limit, 0.0, in_hand=False)) for limit in (4, 0, 4, BATCH, BATCH)]
    assert [len(each) for each in found] == [4, 0, 4, 2, BATCH]
    assert [number for each in found for number in each] == list(range(1, 2 * BATCH + 1))
    ahead.close()


def test_a_paused_member_is_served_although_enough_was_read_ahead():
    """A database that is away for long must not cost the membership."""
    source: Any = Source(3 * BATCH)
    ahead = Ahead(source)
    ahead.begin(BATCH)
    ahead.pause()
    before = len(source.takes)
    assert numbers(ahead.take(1, 0.0, in_hand=True)) == [1]
    assert len(source.takes) == before + 1
    ahead.close()


def test_what_lies_behind_a_gap_waits_until_everything_before_it_is_settled():
    """Who fills a gap while earlier records are in hand would move positions past them."""
    source: Any = Source(2 * BATCH)
    ahead = Ahead(source)
    first = ahead.take(BATCH, 0.0, in_hand=False)
    source.gap = [("t", 0, 11, 12)]
    ahead.begin(BATCH)
    assert ahead.take(4, 0.0, in_hand=True) == []
    assert ahead.lost() == [], "nobody may fill it yet"
    behind = ahead.take(4, 0.0, in_hand=False)
    assert ahead.lost() == [("t", 0, 11, 12)]
    behind += ahead.take(BATCH, 0.0, in_hand=True)
    assert ahead.lost() == []
    assert numbers(first + behind) == list(range(1, 2 * BATCH + 1))
    ahead.close()


def test_two_reads_with_a_gap_between_them_are_not_handed_out_as_one():
    """The second begins a batch of its own."""
    source: Any = Source(8)
    ahead = Ahead(source)
    ahead.pause()
    assert ahead.take(0, 0.0, in_hand=True) == []
    source.gap = [("t", 0, 1, 2)]
    assert numbers(ahead.take(BATCH, 0.0, in_hand=False)) == [1]
    assert ahead.lost() == []
    assert numbers(ahead.take(BATCH, 0.0, in_hand=False)) == list(range(2, 9))
    assert ahead.lost() == [("t", 0, 1, 2)]
    ahead.close()


@pytest.mark.parametrize("call", ["commit", "pause", "resume", "close"])
def test_the_source_is_used_by_one_thread_at_a_time(call):
    """Whoever asks for something else while it is being read waits for the end of it."""
    source: Any = Source(BATCH)
    entered, gate = threading.Event(), threading.Event()
    look = source.take

    def slow(limit, seconds):
        with source.alone:
            entered.set()
            gate.wait(20)
        return look(limit, seconds)

    source.take = slow
    ahead = Ahead(source)
    ahead.begin(BATCH)
    assert entered.wait(20)
    threading.Timer(0.05, gate.set).start()
    getattr(ahead, call)(*([[]] if call == "commit" else []))
    ahead.close()
