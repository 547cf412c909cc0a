"""How much of a batch is worked on together: all of it once every partition is known, little of a new one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest

from kylo_outbox.flows.project import deaths
from tests.helpers.projectors import delivery

OLD, NEW = ("t", 0), ("t", 1)


@pytest.fixture
def written(monkeypatch):
    """Marks that are written down, by partition; nothing was left by others."""
    marks = {}
    monkeypatch.setattr(deaths.in_hand, "read", lambda *_: {})
    monkeypatch.setattr(deaths.in_hand, "write", lambda _tx, _name, new: marks.update({m.place: m for m in new}))
    monkeypatch.setattr(deaths.in_hand, "clear", lambda _tx, _name, places: [marks.pop(each) for each in places])
    return marks


class Control:
    """The control store, whose tables are patched away."""

    @contextmanager
    def transaction(self):
        """No transaction."""
        yield None


def of(place, number):
    """Deliveries of a partition."""
    return [delivery(each)._replace(partition=place[1], offset=each) for each in range(number)]


@pytest.fixture
def known(written):
    """Deaths that have settled something of the old partition."""
    control: Any = Control()
    made = deaths.Deaths(control, "p")
    first = of(OLD, 10)
    assert made.begin(first, {OLD}) == 10
    assert written.keys() == {OLD}
    made.done(first)
    assert not written
    return made


def test_once_every_partition_is_known_nothing_is_written_down(known, written):
    """A whole batch at once."""
    assert known.begin(of(OLD, 1000), {OLD}) == 1000
    assert not written


def test_a_new_partition_in_a_backlog_does_not_cut_what_comes_before_it(known, written):
    """What is known goes together; the new one comes next, its first records written down before."""
    assert known.begin([*of(OLD, 700), *of(NEW, 300)], {OLD, NEW}) == 700
    assert not written
    known.done(of(OLD, 700))
    assert known.begin(of(NEW, 300), {OLD, NEW}) == 200
    assert (written[NEW].first, written[NEW].last) == (0, 199)
    known.done(of(NEW, 200))
    assert not written
    assert known.begin(of(NEW, 100), {OLD, NEW}) == 100
    assert not written


def test_a_partition_that_went_and_came_back_is_new(known, written):
    """Somebody else may have died over it meanwhile."""
    known.begin(of(NEW, 1), {NEW})
    known.done(of(NEW, 1))
    assert known.begin(of(OLD, 500), {OLD, NEW}) == 200
    assert written.keys() == {OLD}
