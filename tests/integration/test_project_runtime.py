"""What a projector survives: a store that is away, most records failing, a record that kills, long waits, odd bytes."""

from __future__ import annotations

import itertools
import time
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kylo_outbox import Poison, Transient
from kylo_outbox.flows.project import Aside, Deaths, Project, Projection
from kylo_outbox.model.delivery import from_record
from kylo_outbox.model.errors import CircuitOpen, Unreachable
from kylo_outbox.model.topics import dead_letter_name
from kylo_outbox.store.engine import Database
from tests.helpers.odd_records import records
from tests.helpers.projectors import TABLE, Collects, delivery

BAD = b'{"poison": true}'


@pytest.fixture
def make_home(make_database):
    """Databases with the table of `Collects`."""

    def make():
        database = make_database()
        with database.transaction() as tx:
            tx.execute(TABLE)
        return database

    return make


@pytest.fixture
def home(make_home):
    """One of them."""
    return make_home()


def applied(database):
    """What was applied there, in order: (key, outbox id)."""
    with database.transaction() as tx:
        return tx.execute("select key, outbox_id from applied order by n").fetchall()


def ask(database, sql):
    """The answer of one query."""
    with database.transaction() as tx:
        return tx.execute(sql).fetchall()


def on(database, **more):
    """A projection on one database."""
    return Projection(Collects("t"), lambda _delivery: database, dead_letter_name, databases=lambda: [database], **more)


class Switch(Database):
    """A database that can be taken away."""

    away = False

    def begin(self):
        """Refuse while away."""
        if self.away:
            raise Unreachable("PostgreSQL", "no answer", "Wait")
        return super().begin()


@pytest.fixture
def stores(make_home):
    """The control database, and the databases of companies `a` and `b`; b's can be taken away."""
    control, first, second = make_home(), make_home(), make_home()
    gone = Switch(second.dsn, name="b")
    yield control, {"a": first, "b": gone}, gone
    gone.close()


def company_projection(control, homes, patience=0.0):
    """A projection whose effects lie in the company's database."""
    aside = Aside(control, "collects", patience=patience, every=0.0)
    return Projection(
        Collects("t"),
        lambda each: homes[each.event.key],
        dead_letter_name,
        aside=aside,
        databases=lambda: list(homes.values()),
    )


def test_one_store_away_holds_only_its_companies(stores):
    """Its records lie in order in the control store, others go on; back again, everything is applied in order once."""
    control, homes, gone = stores
    projection = company_projection(control, homes)
    projection.handle([delivery(1, "a"), delivery(2, "b")])
    gone.away = True
    projection.handle([delivery(3, "a"), delivery(4, "b"), delivery(5, "b")])
    projection.tend(at_once=True)
    projection.handle([delivery(6, "a"), delivery(7, "b")])
    assert [number for _, number in applied(homes["a"])] == [1, 3, 6]
    assert ask(control, "select key, outbox_id from kylo.held_events order by n") == [("b", 4), ("b", 5), ("b", 7)]
    gone.away = False
    projection.handle([delivery(8, "b")])
    assert [number for _, number in applied(gone)] == [2], "8 must not overtake what waits"
    projection.tend(at_once=True)
    projection.handle([delivery(9, "b"), delivery(4, "b")])
    assert [number for _, number in applied(gone)] == [2, 4, 5, 7, 8, 9]
    assert ask(control, "select count(*) from kylo.holds") == [(0,)]


def test_a_crash_while_handing_over_repeats_nothing(stores, monkeypatch):
    """Applied in the company's store but still queued in the control store: the repeat is absorbed there."""
    control, homes, gone = stores
    projection = company_projection(control, homes)
    gone.away = True
    projection.handle([delivery(1, "b"), delivery(2, "b")])
    gone.away = False
    projection.settle(gone, [delivery(1, "b")])
    projection.tend(at_once=True)
    assert [number for _, number in applied(gone)] == [1, 2]


def test_a_short_outage_waits_in_place(stores):
    """Within the patience nothing is set aside: the batch stays in hand."""
    control, homes, gone = stores
    projection = company_projection(control, homes, patience=3600.0)
    gone.away = True
    with pytest.raises(Transient):
        projection.handle([delivery(1, "b")])
    assert ask(control, "select count(*) from kylo.held_events") == [(0,)]
    gone.away = False
    projection.handle([delivery(1, "b")])
    assert applied(gone) == [("b", 1)]


def test_not_now_of_a_store_that_answers_is_not_an_outage(stores):
    """A projector that says "not now" while its database answers waits in place, whoever else is away."""
    control, homes, _ = stores
    projection = company_projection(control, homes)
    projection.projector.fail_after_effect = Transient("a lock is taken")
    with pytest.raises(Transient, match="a lock"):
        projection.handle([delivery(1, "a")])
    assert ask(control, "select count(*) from kylo.held_events") == [(0,)]


def test_the_circuit_opens_when_most_fails_and_buries_nothing(home):
    """Failures of forty keys are no dead letters: the projector says why, waits, and goes on once they pass."""
    told = []
    projection = on(home, notices=lambda kind, _subject, text: bool(told.append((kind, text))))
    batch = [delivery(n, f"k{n}", BAD) for n in range(1, 41)]
    for _ in range(3):
        with pytest.raises(CircuitOpen, match="most of what arrives fails"):
            projection.handle(batch)
    assert ask(home, "select count(*) from kylo.dead_letters") == [(0,)]
    assert told[0][0] == "circuit"
    projection.handle([delivery(n, f"k{n}") for n in range(1, 41)])
    assert len(applied(home)) == 40
    assert told[-1] == ("circuit", None)


def test_the_circuit_stays_closed_for_one_key_or_a_few_records(home):
    """One key that fails alone, and bad records that come first among good ones, are set aside as usual."""
    projection = on(home)
    projection.projector.on_poison = "skip"
    projection.handle([delivery(n, "bad", BAD) for n in range(1, 41)])
    assert ask(home, "select count(*) from kylo.dead_letters") == [(40,)]
    fresh = on(home)
    fresh.handle([delivery(n, f"k{n}", BAD if n < 130 else b"{}") for n in range(100, 200)])
    assert ask(home, "select count(*) from kylo.dead_letters") == [(70,)]
    assert len(applied(home)) == 70


def test_an_accepted_circuit_buries(home):
    """Once a person has said so, everything that fails is set aside."""
    projection = on(home, notices=lambda *_: True)
    projection.handle([delivery(n, f"k{n}", BAD) for n in range(1, 41)])
    assert ask(home, "select count(*) from kylo.dead_letters") == [(40,)]


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


class KilledError(BaseException):
    """Stands for the end of the process: nothing catches it, nothing is cleaned up."""


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
        projection = Projection(Kills("t"), lambda _: home, dead_letter_name)
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


class Computes(Collects):
    """Computes for longer than a transaction of ours may be idle."""

    seconds: ClassVar[float] = 1.5

    def apply(self, tx, events):
        """Idle inside the transaction."""
        tx.execute("select 1")
        time.sleep(self.seconds)  # what is measured is exactly this: idle time inside a transaction
        super().apply(tx, events)


def test_a_slow_apply_gets_its_time_by_declaration(home):
    """With too short a session time the transaction is ended and the error names the remedy; declared, it passes."""
    projection = Projection(Computes("t"), lambda _: home, dead_letter_name)
    projection.projector.session_timeout = 0.5
    with pytest.raises(Transient, match="session_timeout"):
        projection.handle([delivery(1)])
    projection.projector.session_timeout = 60.0
    projection.handle([delivery(1)])
    assert applied(home) == [("k", 1)]


class Lifted(Collects):
    """Reads only version 3 of T."""

    upcasters: ClassVar = {
        ("T", 1): lambda old: {"cents": old["amount"] * 100},
        ("T", 2): lambda old: {**old, "currency": "EUR"},
    }

    def apply(self, _tx, events):
        """Remember payloads."""
        self.seen = [event.payload for event in events]
        if any(event.payload["version"] > 3 for event in events):
            raise Poison("version: from the future")


def test_older_versions_are_lifted_when_they_are_read(home):
    """Versions 1 and 2 arrive as 3 with their bytes untouched; one that cannot be lifted is a dead letter."""
    projection = Projection(Lifted("t"), lambda _: home, dead_letter_name)
    projection.handle([delivery(1, payload=b'{"amount": 5}'), delivery(2, payload=b'{"version": 2, "cents": 7}')])
    newest = {"version": 3, "currency": "EUR"}
    assert projection.projector.seen == [{"cents": 500, **newest}, {"cents": 7, **newest}]
    for number, payload in enumerate((b'{"version": "x"}', b'{"version": 9}', b'{"amount": null}'), 3):
        projection.handle([delivery(number, f"k{number}", payload)])
    assert ask(home, "select count(*) from kylo.dead_letters") == [(3,)]


def check_decoding(home, examples):
    """Handle generated records in batches: none is lost, none stops the rest."""
    numbers = itertools.count()
    projection = on(home, notices=lambda *_: True)
    projection.projector.upcasters = {("T", 1): lambda old: old}
    total = [0]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(st.lists(records, min_size=10, max_size=30), st.sampled_from(["hold", "skip"]))
    def handle(batch, policy):
        projection.projector.on_poison = policy
        taken = [from_record(**record, topic="t", offset=next(numbers), at=None) for record in batch]
        projection.handle(taken)
        projection.handle(taken)
        total[0] += len(taken)

    handle()
    [(counted, repeats)] = ask(home, "select sum(applied), sum(duplicates) from kylo.positions")
    where = "select (select count(*) from applied), (select count(*) from kylo.dead_letters), count(*)"
    [(done, dead, waiting)] = ask(home, where + " from kylo.held_events")
    assert done + dead + waiting == counted
    # Every record was seen twice; ids that were generated twice or in the wrong order are repeats as well.
    assert counted + repeats == 2 * total[0]
    assert repeats >= total[0]
    assert min(done, dead, waiting) > 0
    assert ask(home, "select count(*) from kylo.dead_letters where reason = ''") == [(0,)]
    return total[0]


def test_no_record_whatsoever_stops_a_partition(home):
    """Generated records: each applied, set aside with a reason, or waiting behind one."""
    assert check_decoding(home, 10) > 100


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_no_record_whatsoever_stops_a_partition_at_full_size(home):
    """The same with ten thousand of them; `tests/unit/test_decoding.py` reads 200,000."""
    assert check_decoding(home, 700) > 10_000
