"""The verifier's comparisons: each anomaly by its name and ids, and nothing where nothing is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from kylo_outbox.model.appearances import Appearances, LogRecord, Met, StoredEvent
from kylo_outbox.model.projector import Effect
from kylo_outbox.model.verifying import (
    NONE,
    Effects,
    Source,
    Standing,
    Taken,
    Totals,
    base_of,
    compare_position,
    counts,
)

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def event_id(number: int) -> UUID:
    """The id of the event of a row."""
    return UUID(int=number)


def record(number: int, *, key: str = "k", generation: int = 1, event: int | None = None) -> LogRecord:
    """A record of ours."""
    return LogRecord("s", "t", key, 0, number, NOW, generation, number, event_id(number if event is None else event))


def row(number: int, *, key: str = "k", generation: int = 1, at: datetime = NOW) -> StoredEvent:
    """Its row."""
    return StoredEvent(generation, event_id(number), "t", key, at)


def look(*numbers: int, known=None, waiting=(), oldest: int = 1, **more):
    """Records of one key, all of which are stored: (anomaly, ids) of what was found, and what looked."""
    seen = Appearances(waiting=waiting, **more)
    stored = {number: row(number) for number in numbers}
    found = seen.take([record(number) for number in numbers], stored, known or {}, oldest)
    return [(each.anomaly, each.outbox_ids) for each in found], seen


def test_records_in_order_are_fine_and_repeats_are_counted():
    """A relay that was killed sends its last batch again: counted, not an error."""
    found, seen = look(1, 2, 3, 2, 3, 4)
    assert found == []
    assert (seen.records, seen.repeats) == (6, 2)


def test_a_first_appearance_behind_a_later_one_is_reordered():
    """Named with the one that passed it."""
    found, _ = look(1, 3, 2, 4)
    assert found == [("reordered", (2, 3))]


def test_between_two_partitions_there_is_no_order():
    """A topic that got more of them has a key in two; what was waited for and comes late is late anywhere."""
    seen = Appearances(waiting={1})
    stored = {number: row(number) for number in (1, 2, 3)}
    moved = [record(3)._replace(partition=1), record(2)]
    assert seen.take(moved, stored, {}, 1) == []
    assert seen.newest == {("t", "k"): (1, 3)}
    [late] = seen.take([record(1)._replace(partition=2)], stored, {("t", "k"): (1, 3)}, 1)
    assert (late.anomaly, late.outbox_ids) == ("reordered", (1, 3))


def test_what_earlier_looks_met_is_a_repeat_and_what_they_missed_is_not():
    """2 was met before; 3 was waited for and comes behind 5."""
    found, seen = look(2, 3, 6, known={("t", "k"): (1, 5)}, waiting={3})
    assert found == [("reordered", (3, 5))]
    assert seen.repeats == 1
    assert (1, 2) in seen.again
    assert (1, 3) not in seen.again


def test_a_topic_without_order_has_none():
    """Nothing is reordered there."""
    assert look(1, 3, 2, unordered={"t"})[0] == []


def test_nothing_is_said_of_the_order_of_what_may_have_appeared_before():
    """Where the log begins in sight with the repeats of a relay that was killed."""
    assert look(3, 1, 2, 3, 4, begins={("t", 0): NOW})[0] == []
    assert look(3, 1, begins={("t", 0): NOW - timedelta(seconds=1)})[0] == [("reordered", (1, 3))]


def test_a_record_that_no_outbox_has_is_an_aborted_read():
    """Its transaction was rolled back; below the oldest row nobody can know."""
    seen = Appearances()
    found = seen.take([record(4), record(5)], {}, {}, oldest=5)
    assert [(each.anomaly, each.outbox_ids, each.event_ids) for each in found] == [
        ("aborted read", (5,), (event_id(5),))
    ]
    assert seen.unknown == 1


def test_another_event_under_the_same_id_is_inconsistent():
    """Two events must never share an id; a record of a life that was given up is nothing new."""
    seen = Appearances()
    found = seen.take([record(1, event=9), record(2)], {1: row(1), 2: row(2, generation=2)}, {}, 1)
    assert [(each.anomaly, each.outbox_ids) for each in found] == [("inconsistent", (1,))]
    assert seen.unknown == 1
    [ahead] = Appearances().take([record(1, generation=2)], {1: row(1)}, {}, 1)
    assert ahead.anomaly == "aborted read"


def test_a_set_of_positions_knows_its_members():
    """Across pages and generations."""
    met = Met()
    assert [met.add((1, number)) for number in (1, 65_535, 65_536, 1)] == [True, True, True, False]
    assert ((1, 65_536) in met, (2, 65_536) in met, (1, 2) in met) == (True, False, False)


def standing(events: int, digest: int, at: int = 3) -> Standing:
    """A position of projector p."""
    return Standing("p", "t", "k", (1, at), Totals(events, digest))


SOURCE = Source(Totals(3, 1 + 2 + 3), (1, 3))


@pytest.mark.parametrize(
    ("taken", "found"),
    [
        (standing(3, 6), None),
        (standing(2, 4), ("lost", (2,))),
        (standing(1, 1), ("lost", ())),
        (standing(4, 8), ("duplicated", (2,))),
        (standing(3, 7), ("inconsistent", ())),
        (standing(3, 6, at=4), ("aborted read", (4,))),
    ],
)
def test_a_position_agrees_with_the_outbox_or_names_what_is_wrong(taken, found):
    """One event more or less is told by its id."""
    difference = compare_position(taken, SOURCE, NONE)
    assert (difference and (difference.anomaly, difference.outbox_ids)) == found
    if difference:
        assert (difference.projector, difference.topic, difference.key) == ("p", "t", "k")


def test_what_is_still_to_come_is_no_difference():
    """The projector is behind by one event."""
    assert compare_position(standing(2, 3, at=2), SOURCE, Totals(1, 3)) is None


def test_a_late_start_is_forgiven_once_and_a_loss_is_not():
    """A projector that began when two events had left has not taken them; more than what left is never forgiven."""
    late = Source(SOURCE.all, SOURCE.newest, left=2)
    base = base_of(standing(1, 3), late, NONE, uncounted=False)
    assert base == Totals(-2, -3)
    assert compare_position(standing(1, 3), late, NONE, base) is None
    lost = compare_position(standing(0, 0), late, NONE, base)
    assert lost is not None
    assert (lost.anomaly, lost.outbox_ids) == ("lost", (3,))
    assert base_of(standing(0, 0), late, NONE, uncounted=False) == NONE
    assert base_of(standing(9, 99), SOURCE, NONE, uncounted=True) == Totals(6, 93)


def taken(*numbers: int, ordered: bool = True) -> list[Taken]:
    """Events of one key that were taken."""
    return [Taken("t", "k", (1, number), event_id(number), ordered) for number in numbers]


def judged(events: list[Taken], *effects: tuple[int, int]) -> list[tuple[str, tuple[int, ...]]]:
    """(anomaly, ids) for events and effects (event, place)."""
    found = Effects("p").compare(events, [Effect(event_id(number), place) for number, place in effects])
    return [(each.anomaly, each.outbox_ids) for each in found]


def test_each_event_has_one_effect_in_its_turn():
    """Lost, duplicated and reordered effects are told by their events."""
    assert judged(taken(1, 2, 3), (1, 10), (2, 20), (3, 30)) == []
    assert judged(taken(1, 2, 3), (1, 10), (3, 30)) == [("lost", (2,))]
    assert judged(taken(1, 2), (1, 10), (2, 20), (2, 21)) == [("duplicated", (2,))]
    assert judged(taken(1, 2, 3), (1, 20), (2, 10), (3, 30)) == [("reordered", (2, 1))]


def test_order_is_compared_over_batches_and_not_for_what_was_applied_by_hand():
    """A dead letter that was released later lies behind; effects without a place have no order."""
    effects = Effects("p")
    assert effects.compare(taken(1), [Effect(event_id(1), 20)]) == []
    [found] = effects.compare(taken(2), [Effect(event_id(2), 10)])
    assert found.anomaly == "reordered"
    assert judged([*taken(1, ordered=False), *taken(2)], (1, 20), (2, 10)) == []
    assert Effects("p").compare(taken(1, 2), [Effect(event_id(1)), Effect(event_id(2))]) == []


def test_an_effect_that_is_not_whole_counts_as_lost():
    """With what the projector says about it."""
    [found] = Effects("p").compare(taken(1), [Effect(event_id(1), 1, "2 transactions are gone")])
    assert (found.anomaly, found.detail) == ("lost", "2 transactions are gone")


def test_a_line_names_key_and_ids():
    """What a person needs to look further."""
    [found] = Effects("p").compare(taken(7), [])
    assert found.line() == f"effects of p: lost: t k #7 ({event_id(7)}): it was taken, but its effect is not there"
    assert counts([found])["effects", "lost"] == 1
    assert sum(counts([]).values()) == 0
