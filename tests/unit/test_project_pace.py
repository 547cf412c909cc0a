"""How often a projector begins a transaction: at once in a backlog, less often where the machine is busy."""

from __future__ import annotations

import gc
import time
from types import SimpleNamespace
from typing import Any

import pytest

from kylo_outbox.flows.project import Project
from kylo_outbox.runtime import collector
from tests.helpers.projectors import delivery

SLOW = 0.01


class Source:
    """A member of a group with one batch to give."""

    assigned = frozenset({("t", 0)})

    def __init__(self, number):
        self.taken = [delivery(each) for each in range(1, number + 1)]

    def take(self, limit, _seconds):
        """What is there."""
        taken, self.taken = self.taken[:limit], self.taken[limit:]
        return taken

    def lost(self):
        """Nothing."""
        return []

    def commit(self, deliveries):
        """Nothing."""

    def resume(self):
        """Nothing."""


def turn(number, seconds):
    """One turn over so many records whose transaction takes so long."""
    projector = SimpleNamespace(name="p", batch=1000)
    projection: Any = SimpleNamespace(projector=projector, tend=lambda: None, handle=lambda _: time.sleep(seconds))
    source: Any = Source(number)
    return Project(projection, source).run_once()


def test_a_few_records_that_took_long_make_way_for_others():
    """The next records gather meanwhile: a transaction costs the same for few as for many."""
    found = turn(3, SLOW)
    assert found.settled == 3
    assert SLOW <= found.pause <= 0.02


@pytest.mark.parametrize(("number", "seconds"), [(1000, SLOW), (3, 0.0)])
def test_a_backlog_and_a_quick_database_are_no_reason_to_wait(number, seconds):
    """A full batch goes on at once, and so does whoever has the machine for himself."""
    assert turn(number, seconds).pause == 0.0


def test_what_stays_is_not_looked_through_again():
    """The collector leaves alone what was built at the start, and a batch of records does not start it."""
    before = gc.get_threshold()
    try:
        collector.settle()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] > 10 * 1000
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
