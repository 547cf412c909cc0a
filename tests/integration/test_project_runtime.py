"""What a projector survives: a store that is away, most records failing, long waits, odd bytes."""

from __future__ import annotations

import itertools
import time
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kylo_outbox import Poison, Transient
from kylo_outbox.flows.project import Aside, Projection
from kylo_outbox.model.delivery import from_record
from kylo_outbox.model.errors import CircuitOpen
from kylo_outbox.model.topics import dead_letter_name
from kylo_outbox.store import keyholds, notices
from tests.helpers.away import Switch
from tests.helpers.odd_records import records
from tests.helpers.projectors import STORE, Collects, applied, ask, delivery, on

BAD = b'{"poison": true}'


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


def test_records_whose_store_nobody_knows_are_set_aside_too(stores):
    """A company whose database the directory cannot name (not migrated, no connection string) holds only itself."""
    control, homes, gone = stores
    lost = True

    def database_of(each):
        if lost and each.event.key == "b":
            raise Transient("company b: not migrated")
        return homes[each.event.key]

    projection = company_projection(control, homes)
    projection._database_of = database_of
    projection.handle([delivery(1, "b"), delivery(2, "a"), delivery(3, "b")])
    projection.tend(at_once=True)
    assert ask(control, "select outbox_id from kylo.held_events order by n") == [(1,), (3,)]
    lost = False
    projection.tend(at_once=True)
    assert [number for _, number in applied(gone)] == [1, 3]
    assert [number for _, number in applied(homes["a"])] == [2]


def test_a_crash_while_handing_over_repeats_nothing(stores):
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


def test_an_answer_counts_for_the_circuit_that_it_was_given_to(home):
    """The process that opened it is gone, a person accepted it, a new process finds all well: next time it asks."""

    def tell(kind, subject, text):
        with home.transaction() as tx:
            if text is None:
                notices.end(tx, "collects", kind, subject)
                return False
            return notices.tell(tx, "collects", kind, subject, text)

    with pytest.raises(CircuitOpen):
        on(home, notices=tell).handle([delivery(n, f"k{n}", BAD) for n in range(1, 41)])
    with home.transaction() as tx:
        assert len(notices.accept(tx, "collects")) == 1
        assert notices.tell(tx, "collects", "circuit", "", "the same goes on")
    on(home, notices=tell).handle([delivery(n, f"k{n}") for n in range(1, 41)])
    assert ask(home, "select count(*) from kylo.notices") == [(0,)]
    with pytest.raises(CircuitOpen):
        on(home, notices=tell).handle([delivery(n, f"k{n}", BAD) for n in range(41, 81)])


def test_records_that_are_lost_again_are_told_again(home):
    """What a person has accepted was the loss before."""
    with home.transaction() as tx:
        assert not notices.tell(tx, "p", "lost", "t/0", "5 records")
        notices.accept(tx, "p")
        assert not notices.tell(tx, "p", "lost", "t/0", "7 records")
        assert [each.accepted_at for each in notices.read(tx)] == [None]


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


def test_one_store_away_keeps_no_release_elsewhere_waiting(stores):
    """A released key of a store that answers goes on, whichever store is asked first."""
    control, homes, gone = stores
    projection = company_projection(control, {"b": gone, "a": homes["a"]})
    projection.handle([delivery(1, "a", BAD), delivery(2, "a")])
    with homes["a"].transaction() as tx:
        tx.execute("update kylo.dead_letters set payload = '{}'")
        assert keyholds.release(tx, keyholds.Hold("collects", "dead", (STORE, "t", "a")))
    gone.away = True
    projection.tend(at_once=True)
    assert [number for _, number in applied(homes["a"])] == [1, 2]
