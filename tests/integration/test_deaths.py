"""Records that end the process: found by marks stored before the work, set aside after three deaths."""

from __future__ import annotations

import pytest

from kylo_outbox import Transient
from kylo_outbox.flows.project import Deaths, Project
from tests.helpers.projectors import Collects, KilledError, applied, ask, delivery, on


class Records:
    """A source of given records that begins again behind the last commit, as a group would."""

    assigned = frozenset({("t", 0)})

    def __init__(self, records):
        self.records, self.at, self.committed, self.paused = records, 0, 0, 0

    def begin_again(self):
        """A new owner starts where the last one committed."""
        self.at = self.committed
        return self

    def take(self, limit, _seconds):
        """The next ones."""
        found = self.records[self.at : self.at + limit]
        self.at += len(found)
        return found

    def commit(self, deliveries):
        """Remember."""
        self.committed += len(deliveries)

    def lost(self):
        """Nothing."""
        return []

    def pause(self):
        """Count."""
        self.paused += 1

    def resume(self):
        """Nothing to do."""

    def close(self):
        """Nothing to do."""


class Kills(Collects):
    """Dies over one record."""

    def apply(self, tx, events):
        """Die before anything else."""
        if any(event.outbox_id == 137 for event in events):
            raise KilledError
        super().apply(tx, events)


def test_a_record_that_kills_is_set_aside_after_three_deaths_alone(home):
    """Narrowed from a range to one record; the others are applied once, in order, and the marks are gone."""
    source = Records([delivery(n, f"k{n % 7}") for n in range(1, 301)])
    deaths = 0
    while source.committed < 300:
        projection = on(home, Kills("t"))
        worker = Project(projection, source.begin_again(), deaths=Deaths(home, "collects"))
        try:
            while source.committed < 300:
                worker.run_once()
        except KilledError:
            deaths += 1
            assert deaths < 10
    assert deaths == 4, "once within a range, three times alone"
    [letter] = ask(home, "select outbox_id, reason, attempts from kylo.dead_letters")
    assert letter == (137, "the process died 3 times with this record alone in hand", 3)
    held = {number for number in range(138, 301) if number % 7 == 137 % 7}
    assert [number for _, number in applied(home)] == [n for n in range(1, 301) if n != 137 and n not in held]
    assert ask(home, "select count(*) from kylo.in_hand") == [(0,)]


def test_marks_cost_nothing_after_the_first_batch(home):
    """One mark and its removal after a start; every later batch writes none."""
    writes = []

    class Counts(Deaths):
        def _write(self, marks):
            writes.append(len(marks))
            super()._write(marks)

    source = Records([delivery(n) for n in range(1, 1001)])
    worker = Project(on(home), source, batch=50, deaths=Counts(home, "collects"))
    while source.committed < 1000:
        worker.run_once()
    assert writes == [1]
    assert len(applied(home)) == 1000


def test_a_stop_that_is_no_death_accuses_nobody(home):
    """A worker that closes with records in hand takes its marks away."""
    source = Records([delivery(n) for n in range(1, 11)])
    projection = on(home)
    worker = Project(projection, source, deaths=Deaths(home, "collects"))
    projection.projector.fail_after_effect = Transient("not now")
    with pytest.raises(Transient):
        worker.run_once()
    assert ask(home, "select first_offset, last_offset from kylo.in_hand") == [(1, 10)]
    worker.close()
    assert ask(home, "select count(*) from kylo.in_hand") == [(0,)]
