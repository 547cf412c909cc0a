"""What one pass of the verifier leaves for the next: what was behind, away, in doubt, or of another life."""

from __future__ import annotations

from kylo_outbox.flows import holds
from kylo_outbox.model.errors import Transient
from kylo_outbox.store import verify_state
from tests.helpers.verifying import Home

AWAY = "store 711: no answer"


def long_ago(road):
    """A time before everything."""
    return road.ask("select now() - interval '1 hour'")[0][0]


def test_what_the_projector_had_not_taken_yet_is_looked_at_later(road):
    """A pass meets events that wait for the projector; the next one looks for their effects."""
    road.save(3)
    road.publish()
    [store] = road.verify().stores
    assert (store.effects["ledger"].behind, store.effects["ledger"].events, store.open) == (3, 0, [])
    road.apply()
    road.do("delete from ledger_entries where number = 1")
    assert road.found() == [("effects", "lost", "711", (2,))]


def test_effects_in_a_database_that_is_away_are_looked_at_later(road):
    """Its keys wait, the others are compared."""

    def database_of(_projector, key):
        if key == "711":
            raise Transient(AWAY)
        return road.database

    road.flow(3)
    road.do("delete from ledger_entries")
    lost = [("effects", "lost", key, (number,)) for number, key in enumerate(("710", "711", "712"), 1)]
    assert road.found(database_of=database_of) == [lost[0], lost[2]]
    assert sorted(road.found(), key=lambda each: each[3]) == lost


def test_a_dead_letter_that_was_applied_late_is_not_in_the_wrong_order(road):
    """Its effect lies behind those of later events, which somebody wanted."""
    road.flow(6)
    road.do(
        "insert into kylo.dead_letters (stage, topic, key, store_id, generation, outbox_id, event_id, headers, reason, "
        "error_class, attempts, settled_at, outcome) select 'ledger', topic, '710', s.store_id, o.generation, id, "
        "event_id, '{}', 'r', 'E', 1, now(), 'applied' from kylo.outbox_log o, kylo.store s where id = 1",
        "with gone as (delete from ledger_entries where number = 0 returning *) "
        "insert into ledger_entries (event_id, ledger, account, cents, number) "
        "select event_id, ledger, account, cents, number from gone",
    )
    assert road.found() == []
    road.do("delete from kylo.dead_letters")
    assert road.found(since=long_ago(road)) == [("effects", "reordered", "710", (4, 1))]


def test_a_position_is_right_again_when_what_it_passed_is_declared_a_gap(road):
    """Nothing was written to the position since: it is looked at because it differed."""
    road.flow(3)
    road.relay.close()
    road.save(6)
    road.do(
        "insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, reason) "
        "select id, event_id, created_at, slot, topic, key, type, payload, 'refused' from kylo.outbox_log where id = 4",
        "update kylo.positions set outbox_id = 4 where key = '710'",
    )
    assert road.found() == [("positions", "lost", "710", (4,)), ("effects", "lost", "710", (4,))]
    road.do("update kylo.lanes set high_water = 4, snapshot = pg_current_snapshot(), epoch = epoch + 1")
    with road.database.transaction() as tx:
        assert holds.discard(tx, road.topic, "710", reason="test", who="me").ids == (4,)
    # As if nothing had been open on this server at the first pass, so that no position looks as if it were new.
    now = "pg_snapshot_xmax(pg_current_snapshot())"
    road.do(f"update kylo.verify_reads set snapshot = ({now} || ':' || {now} || ':')::pg_snapshot")
    assert [each for each in road.found() if each[0] == "positions"] == []


def test_what_was_taken_in_a_life_that_was_given_up_is_no_difference(road):
    """The store was put back to a time before its newest events, which the projector has: forgiven, once."""
    road.flow(6)
    assert road.found() == []
    road.relay.close()
    road.do("delete from kylo.outbox_log where id > 3", "update kylo.store set generation = 2")
    assert [each for each in road.found() if each[0] == "positions"] == []
    assert [each for each in road.found(since=long_ago(road)) if each[0] == "positions"] == []
    road.do("update kylo.positions set outbox_id = 50, applied = applied + 1, digest = digest + 50 where key = '710'")
    assert [each for each in road.found() if each[0] == "positions"] == [("positions", "aborted read", "710", (50,))]


def test_one_looks_for_the_effects_of_a_projector_at_a_time(road):
    """A second one is told so and stores nothing."""
    road.flow(3)
    with road.database.transaction() as tx:
        assert verify_state.alone(tx, "effects of ledger")
        verdict = road.verify()
    assert verdict.problems == ["ledger: somebody else looks for its effects at the moment"]
    assert road.ask("select count(*) from kylo.verify_reads where reader = 'effects of ledger'") == [(0,)]
    [store] = road.verify().stores
    assert store.effects["ledger"].events == 3


def test_whoever_is_furthest_counts_for_what_was_handed_over_directly(road, make_database):
    """A company that moved left an older position in its former home."""
    other = make_database()
    road.relay.close()
    road.save(4)
    road.do("update kylo.lanes set high_water = 4, snapshot = pg_current_snapshot(), epoch = epoch + 1")
    road.apply()
    [[own]] = road.ask("select store_id from kylo.store")
    with other.transaction() as tx:
        tx.execute(
            "insert into kylo.positions (projector, store_id, topic, key, generation, outbox_id, applied, digest) "
            "values ('former', %s, %s, '710', 1, 1, 1, 1)",
            (own, road.topic),
        )
    for homes in ([Home(road.database), Home(other)], [Home(other), Home(road.database)]):
        verdict = road.verify(
            long_ago(road), stores=lambda homes=homes: homes, directly=lambda _topic, _key: "if taken", projectors=()
        )
        assert [each.finding.line() for _, each in verdict.differences] == []
        assert [each.log.direct for each in verdict.stores if each.store == own] == [4]
