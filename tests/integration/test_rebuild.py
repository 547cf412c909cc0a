"""Rebuilding beside the live tables: from the outbox, compared by count, digest and rows, swapped, undone."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from kylo_outbox import Event, Projector, emit, emit_many
from kylo_outbox.cli import app
from kylo_outbox.flows.housekeeping import Housekeeping
from kylo_outbox.flows.mend import Mend
from kylo_outbox.flows.project import Projection
from kylo_outbox.flows.rebuild import Rebuild
from kylo_outbox.model.errors import Poison, Refused, Transient
from kylo_outbox.model.projector import EffectProjector
from kylo_outbox.model.topics import dead_letter_name
from kylo_outbox.store import dead_letters, desk
from kylo_outbox.store.deliveries import stored_delivery
from kylo_outbox.store.history import stored_rows
from kylo_outbox.store.identity import require_own
from kylo_outbox.store.shadow import Shadow
from kylo_outbox.testing import ledger

TOPIC = "ledger-moves"


class Telling(ledger.Ledger):
    """A ledger that emits what it wrote."""

    def apply(self, tx, events):
        """Write and tell."""
        super().apply(tx, events)
        emit_many(tx, [Event(topic="told", key=each.key, type="TOLD", payload={}) for each in events])


class Sly(ledger.Ledger):
    """Writes a table that it does not name."""

    def apply(self, tx, _events):
        """Write elsewhere."""
        tx.execute("insert into elsewhere values (1)")


class Again(Telling):
    """One that may be applied again: it replaces what is there; a move of 8 cents fails."""

    tables = ()
    repeatable = True

    def apply(self, tx, events):
        """Write anew."""
        if any(each.payload["cents"] == 8 for each in events):
            raise Poison("eight")
        tx.execute("delete from ledger_entries where event_id = any(%s)", ([each.event_id for each in events],))
        super().apply(tx, events)


class Forgiving(Telling):
    """One whose fault is mended: it takes the move of -1 cent as one of 1."""

    def apply(self, tx, events):
        """Write the amount without its sign."""
        for event in events:
            event.payload["cents"] = abs(event.payload["cents"])
        super().apply(tx, events)


@pytest.fixture
def books(control_db):
    """A ledger with 40 moves on 4 keys, one of them a dead letter, and two that wait behind it."""
    with control_db.transaction() as tx:
        tx.execute(ledger.TABLE)
        for number in range(40):
            cents = -1 if number == 33 else number + 1
            payload = {"from": "a", "to": "b", "cents": cents, "number": number}
            emit(tx, topic=TOPIC, key=f"k{number % 4}", type="MOVED", payload=payload)
    project(control_db, Telling())
    return control_db


def history(database):
    """The stored events of the topic."""
    with database.begin() as connection:
        own = require_own(connection)
    for rows in stored_rows(database, [TOPIC]):
        yield [stored_delivery(row, own.store_id) for row in rows]


def project(database, projector):
    """What the running projector would do."""
    projection = Projection(projector, lambda _delivery: database, dead_letter_name)
    for batch in history(database):
        projection.handle(batch)


def rebuild(database, projector=None):
    """A rebuild from the outbox."""
    return Rebuild(projector or Telling(), database, [lambda: history(database)])


def ask(database, sql):
    """The answer of one query."""
    with database.transaction() as tx:
        return tx.execute(sql).fetchall()


def entries(database):
    """The ledger without what the database makes."""
    return ask(database, "select event_id, account, cents, number from ledger_entries order by number, account")


def test_a_rebuild_equals_the_live_tables_and_emits_nothing(books):
    """Same rows, dead letter and waiting events left out as live; nothing emitted, nothing changed without a swap."""
    before, told = entries(books), ask(books, "select count(*) from outbox where topic = 'told'")
    done = rebuild(books).run(swap=False)
    assert [(each.live, each.rebuilt, each.equal) for each in done.tables] == [(len(before), len(before), True)]
    assert done.events == len(before) // 2 == 38
    assert entries(books) == before
    assert ask(books, "select count(*) from outbox where topic = 'told'") == told
    assert ask(books, "select to_regnamespace('kylo_shadow_ledger')") == [(None,)]


def test_damage_is_found_mended_and_undone(books):
    """A deleted and a changed row differ; the swap restores them in one transaction; undo brings the damage back."""
    whole = entries(books)
    with books.transaction() as tx:
        tx.execute("delete from ledger_entries where number = 3")
        tx.execute("update ledger_entries set cents = cents * 2 where number = 5")
    damaged = entries(books)
    [table] = rebuild(books).run(swap=False).tables
    assert (table.only_live, table.only_rebuilt) == (2, 4)
    assert rebuild(books).run(swap=True).swapped
    assert entries(books) == whole
    rebuild(books).undo()
    assert entries(books) == damaged
    with pytest.raises(Refused, match="nothing was swapped"):
        rebuild(books).undo()


def test_effects_that_are_gone_are_applied_again_in_place(books):
    """Gone and half gone ones, not those that are dead or wait; one that fails stops no other; nothing is emitted."""
    whole, told = entries(books), ask(books, "select count(*) from outbox where topic = 'told'")
    with books.transaction() as tx:
        tx.execute("delete from ledger_entries where number in (3, 7) or number = 5 and account = 'a'")
    damaged = entries(books)
    histories = [lambda: history(books), lambda: history(books)]
    noted = []
    for keep, after in ((False, damaged), (True, [each for each in whole if each[3] != 7])):
        done = Mend(
            Again(), books, histories, note=lambda _tx, events: noted.append([e.outbox_id for e in events])
        ).run(keep=keep)
        assert (done.events, [each.outbox_id for each in done.lacking]) == (38, [4, 6, 8])
        assert [(each.outbox_id, reason) for each, reason in done.failed] == [(8, "eight")]
        assert done.changes == {"kylo.ledger_entries": {"inserted": 4, "updated": 0, "deleted": 1}}
        assert entries(books) == after
    assert ask(books, "select count(*) from outbox where topic = 'told'") == told
    assert noted == [[4, 6], [4, 6]], "what failed is not among what was mended"
    with pytest.raises(Refused, match="may do more than mend"):
        Mend(Telling(), books, histories)


def test_the_projector_goes_on_after_a_swap(books):
    """New events are appended with fresh entry numbers; undo would lose them and is refused."""
    rebuild(books).run(swap=True)
    with books.transaction() as tx:
        emit(tx, topic=TOPIC, key="k0", type="MOVED", payload={"from": "a", "to": "b", "cents": 7, "number": 90})
    project(books, Telling())
    assert len(entries(books)) == 78
    with pytest.raises(Refused, match="applied more since"):
        rebuild(books).undo()
    with books.transaction() as tx:
        assert ledger.check(tx).unbalanced == {}


def test_incomplete_history_swaps_nothing(books):
    """With rows gone from the outbox and no log, count and digest do not agree: refused with the keys."""
    with books.transaction() as tx:
        tx.execute("delete from kylo.outbox_log where id <= 6")
    before = entries(books)
    with pytest.raises(Refused, match="history is incomplete for 4 keys"):
        rebuild(books).run(swap=True)
    assert entries(books) == before


def test_what_cannot_be_rebuilt_is_refused(books):
    """Outside effects, projectors without declared tables, undeclared writes, tables that do not exist."""

    class Outside(EffectProjector):
        name, topics = "outside", (TOPIC,)

    class Nameless(Projector):
        name, topics = "nameless", (TOPIC,)

    class Missing(ledger.Ledger):
        tables = ("nowhere",)

    with books.transaction() as tx:
        tx.execute("create table elsewhere (n int)")
    for projector, fault in (
        (Outside(), "outside the database"),
        (Nameless(), "names no tables"),
        (Missing(), "nowhere is no table"),
        (Sly(), "writes .*elsewhere"),
    ):
        with pytest.raises(Refused, match=fault):
            rebuild(books, projector).run(swap=True)
    assert ask(books, "select count(*) from elsewhere") == [(0,)]


def test_the_command(books, monkeypatch, tmp_path):
    """--dry-run compares and tells differences by its exit code; --yes swaps and is audited; --undo takes it back."""
    monkeypatch.setenv("PG_DSN_RW", books.dsn)
    for name in ("KAFKA_BROKERS", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        result = CliRunner().invoke(app, ["rebuild", "kylo_outbox.testing.ledger:Ledger", *words])
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    run(code=2)
    assert json.loads(run("--dry-run", "--json").stdout)["events"] == 38
    with books.transaction() as tx:
        tx.execute("delete from ledger_entries where number = 3")
    run("--dry-run", code=1)
    run("--yes")
    run("--undo", "--yes")
    run("--dry-run", code=1)
    verbs = ask(books, "select verb, reason from kylo.audit order by id")
    assert verbs == [("rebuild", "ledger"), ("rebuild undo", "ledger")]


def interrupted(database, act):
    """A history that does something else after its first batch."""
    batches = history(database)
    first = next(batches)
    yield first[:20]
    act()
    yield first[20:]
    yield from batches


def test_one_rebuild_at_a_time(books):
    """While one runs, a second one, a trial and an undo are refused and spoil nothing; afterwards they may."""
    rebuild(books).run(swap=True)
    whole = entries(books)

    def others():
        for act in (lambda: rebuild(books).run(swap=False), rebuild(books).undo):
            with pytest.raises(Refused, match="another rebuild"):
                act()

    done = Rebuild(Telling(), books, [lambda: interrupted(books, others)]).run(swap=True)
    assert (done.events, entries(books)) == (38, whole)
    assert rebuild(books).run(swap=False).tables[0].equal


@pytest.mark.parametrize("when", ["between two batches", "at the end"])
def test_the_shadow_of_another_run_is_never_swapped(books, when):
    """Should the lock be lost, a shadow that somebody else made is neither written nor put in place."""
    whole = entries(books)

    def other():
        with books.transaction() as tx:
            Shadow("ledger", ("ledger_entries",)).make(tx)

    def at_the_end():
        yield from history(books)
        other()

    histories = [at_the_end if when == "at the end" else lambda: interrupted(books, other)]
    with pytest.raises(Refused, match="took the place of this one"):
        Rebuild(Telling(), books, histories).run(swap=True)
    assert entries(books) == whole
    assert ask(books, "select count(*) from kylo_shadow_ledger.ledger_entries") == [(0,)]


def tend(database):
    """What the running projector does with what was let go, its fault mended."""
    made = Projection(Forgiving(), lambda _delivery: database, dead_letter_name, databases=lambda: [database])
    made.tend(at_once=True)


def release(database):
    """The cause is mended: the dead letter and what waits behind it are let go and applied."""
    with database.transaction() as tx:
        letters = desk.find(tx, desk.Filter())
        assert desk.release(tx, letters, who="me", reason=None).ids == [letter.id for letter in letters]
    Projection(Forgiving(), lambda _delivery: database, dead_letter_name, databases=lambda: [database]).tend(
        at_once=True
    )


def test_undo_is_refused_after_a_release(books):
    """A release moves no position; the former rows would come back without its effects."""
    rebuild(books).run(swap=True)
    release(books)
    assert len(entries(books)) == 80
    with pytest.raises(Refused, match="applied more since"):
        rebuild(books).undo()
    assert len(entries(books)) == 80


def test_what_is_released_during_a_rebuild_is_in_it(books):
    """A pass that skipped what is applied by its end is made anew, so that the order of the key stays."""
    first = iter([True])

    def once():
        if next(first, False):
            release(books)

    done = Rebuild(Forgiving(), books, [lambda: interrupted(books, once)]).run(swap=True)
    assert (done.events, [each.equal for each in done.tables]) == (40, [True])
    assert len(entries(books)) == 80


def test_releases_without_an_end_swap_nothing(books):
    """Another one during each pass: not now, and nothing is changed."""
    numbers = [1, 2, 3]
    with books.transaction() as tx:
        for delivery in [each for batch in history(books) for each in batch if each.event.outbox_id in numbers]:
            dead_letters.bury(tx, "ledger", delivery, Poison("no"), 1, dead_letter_name(TOPIC))
    whole = entries(books)

    def one():
        with books.transaction() as tx:
            settled = "update kylo.dead_letters set settled_at = now(), outcome = 'applied' where outbox_id = %s"
            tx.execute(settled, (numbers.pop(),))

    with pytest.raises(Transient, match="again and again"):
        Rebuild(Telling(), books, [lambda: interrupted(books, one)]).run(swap=True)
    assert (numbers, entries(books)) == ([], whole)


def a_month_later(database):
    """Housekeeping finds everything that is settled 31 days old; the outbox keeps what it has."""
    with database.transaction() as tx:
        tx.execute("update kylo.dead_letters set settled_at = settled_at - interval '31 days'")
    Housekeeping(lambda: [database], 365 * 86_400.0).run_once()


def test_what_was_discarded_is_left_out_for_ever(books):
    """Also when its dead letter is old and its cause is mended; what was behind it is there."""
    with books.transaction() as tx:
        assert desk.discard(tx, desk.find(tx, desk.Filter()), who="me", reason="twice").ids == [1]
    tend(books)
    whole = entries(books)
    a_month_later(books)
    done = rebuild(books, Forgiving()).run(swap=True)
    assert (done.events, [each.equal for each in done.tables], entries(books)) == (39, [True], whole)
    assert Mend(Again(), books, [lambda: history(books)]).run(keep=False).events == 39


def test_an_edited_event_is_rebuilt_and_mended_as_it_was_applied(books):
    """With the payload that took the place of its own, also when its dead letter is old."""

    class Lifted(Again):
        upcasters: ClassVar = {("MOVED", 1): refuse_negative}

    with books.transaction() as tx:
        [letter] = desk.find(tx, desk.Filter())
        assert desk.edit(tx, letter, b'{"from": "a", "to": "b", "cents": 50, "number": 33}', who="me", reason="typo")
    release(books)
    whole = entries(books)
    assert ("a", -50) in {(account, cents) for _, account, cents, number in whole if number == 33}
    for _ in range(2):
        done = rebuild(books).run(swap=True)
        assert (done.events, done.tables[0].equal, entries(books)) == (40, True, whole)
        with books.transaction() as tx:
            tx.execute("delete from ledger_entries where number = 33")
        mended = Mend(Lifted(), books, [lambda: history(books)]).run(keep=True)
        assert (mended.events, len(mended.lacking), mended.failed, entries(books)) == (40, 1, [], whole)
        a_month_later(books)


def refuse_negative(payload):
    """To version 2: no amount below zero."""
    if payload["cents"] < 0:
        raise Poison("negative")
    return payload
