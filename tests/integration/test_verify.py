"""The verifier on real PostgreSQL and Kafka: a clean pipeline differs in nothing, each planted difference is named."""

from __future__ import annotations


def test_a_clean_pipeline_differs_in_nothing_and_the_second_pass_reads_the_new_only(road):
    """First pass: everything; second pass: nothing; third pass: the three new ones."""
    road.flow(12)
    first = road.verify()
    [store] = first.stores
    assert (first.differences, first.problems) == ([], [])
    assert (store.log.events, store.log.records, store.log.repeats, store.log.waiting) == (12, 12, 0, 0)
    assert (store.positions.positions, store.effects["ledger"].events) == (3, 12)
    [store] = road.verify().stores
    assert (store.log.events, store.log.records, store.effects["ledger"].events) == (0,) * 3
    # What other tests have open on this server makes a pass look at positions again: only what is surely old is left.
    road.run_until(road.relay, lambda: [each.positions.positions for each in road.verify().stores] == [0])
    road.flow(3)
    [store] = road.verify().stores
    assert (store.log.events, store.log.records, store.positions.positions) == (3, 3, 3)
    assert store.effects["ledger"].events == 3
    assert store.open == []


def test_a_deleted_effect_a_doubled_one_and_a_swapped_pair_are_named(road):
    """Each with its key and the outbox ids of its events; mended, they are gone; the exit is the caller's."""
    road.flow(12)
    ids = dict(road.ask("select event_id, id from kylo.outbox_log"))
    events = {number: event for event, number in ids.items()}
    road.do(
        f"delete from ledger_entries where event_id = '{events[2]}'",
        "alter table ledger_entries drop constraint ledger_entries_event_id_account_key",
        f"insert into ledger_entries (event_id, ledger, account, cents, number) "
        f"select event_id, ledger, account, cents, number from ledger_entries where event_id = '{events[4]}'",
        f"update ledger_entries set event_id = case event_id when '{events[6]}' then '{events[9]}'::uuid "
        f"else '{events[6]}'::uuid end where event_id in ('{events[6]}', '{events[9]}')",
    )
    wanted = [
        ("effects", "lost", "711", (2,)),
        ("effects", "duplicated", "710", (4,)),
        ("effects", "reordered", "712", (9, 6)),
    ]
    assert road.found() == wanted
    _, first = road.verify().differences[0]
    assert first.finding.event_ids == (events[2],)
    assert road.found() == wanted, "they stay open until they are gone"
    road.do(
        f"insert into ledger_entries (event_id, ledger, account, cents, number) "
        f"values ('{events[2]}', '711', 'a', -5, 1), ('{events[2]}', '711', 'b', 5, 1)"
    )
    assert road.found() == wanted[1:]


def test_an_effect_deleted_later_is_found_by_looking_back(road):
    """A pass reads what is new; `since` looks at everything again, and from then on each pass does."""
    road.flow(6)
    assert road.found() == []
    road.do("delete from ledger_entries where number = 3")
    assert road.found() == []
    [[long_ago]] = road.ask("select now() - interval '1 hour'")
    assert road.found(since=long_ago) == [("effects", "lost", "710", (4,))]
    assert road.found() == [("effects", "lost", "710", (4,))]


def test_an_event_behind_the_cursor_that_never_went_to_kafka_is_lost(road):
    """The cursor passed it; it is named on the log, and at the position that has gone past it."""
    road.flow(6)
    road.relay.close()
    road.save(1)
    road.do("update kylo.lanes set high_water = 7, snapshot = pg_current_snapshot(), epoch = epoch + 1")
    assert road.found() == [("log", "lost", "710", (7,))]
    assert road.found() == [("log", "lost", "710", (7,))]


def test_a_position_that_is_ahead_of_its_effects_is_named(road):
    """It says that it took event 8, and never did; the id follows from the sums."""
    road.flow(6)
    assert road.found() == []
    road.save(3)
    road.publish()
    road.do("update kylo.positions set outbox_id = 8 where key = '711'")
    assert road.found() == [("positions", "lost", "711", (8,)), ("effects", "lost", "711", (8,))]
    assert [each.finding.projector for _, each in road.verify().differences] == ["ledger", "ledger"]


def test_a_position_beyond_everything_that_was_saved_is_an_aborted_read(road):
    """It took an event that the outbox never had."""
    road.flow(3)
    road.do("update kylo.positions set outbox_id = 50, applied = applied + 1, digest = digest + 50 where key = '710'")
    assert road.found() == [("positions", "aborted read", "710", (50,))]


def test_an_event_committed_after_a_later_one_of_its_key_is_told_everywhere(road):
    """What the lock of `emit` excludes: late on the log, taken for a repeat by the projector, without an effect."""
    road.ask("select nextval('kylo.outbox_log_id_seq')")
    road.flow(3)
    assert road.found() == []
    road.do(
        "insert into kylo.outbox_log (id, xid, event_id, created_at, slot, topic, key, type, payload, generation) "
        "overriding system value select 1, pg_current_xact_id(), gen_random_uuid(), now(), slot, topic, key, type, "
        "payload, generation from kylo.outbox_log where id = 2"
    )
    road.publish()
    road.apply()
    wanted = [(part, anomaly, "710", (1,)) for part, anomaly in (("log", "reordered"), ("positions", "lost"))]
    assert road.found() == [*wanted, ("effects", "lost", "710", (1,))]
