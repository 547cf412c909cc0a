"""Mistakes that relays are written with, planted one at a time: the machinery that judges the relay finds each."""

from __future__ import annotations

import pytest

from tests.helpers import scenarios
from tests.helpers.arena import Arena
from tests.helpers.planted import no_slot_lock

# (planted fault, what gives it away); the empty name is the relay as it is.
LATE = [("by_id", {"lost"}), ("above_xmax", {"lost"}), ("late_last", {"inversions"}), ("", set())]
REFUSED = [
    ("flush_is_success", {"lost"}),
    ("held_key_passed", {"inversions"}),
    ("rewind_forgotten", {"lost"}),
    ("", set()),
]
IN_EVERY_RUN = {"by_id", "flush_is_success"}


def cases(found):
    """Most of them in the long run only, alone: what gives them away is a matter of milliseconds."""
    long = [pytest.mark.full, pytest.mark.alone]
    return [
        pytest.param(*case, id=case[0] or "as it is", marks=[] if case[0] in IN_EVERY_RUN else long) for case in found
    ]


@pytest.fixture
def make_arena(control_db, kafka_server, tmp_path):
    """Relays with a planted fault on a database of the test's own."""

    def make(planted="", **more):
        return Arena(control_db.dsn, kafka_server.bootstrap, tmp_path, planted=planted, **more)

    return make


@pytest.mark.parametrize(("planted", "found"), cases(LATE))
def test_forgetting_late_rows_is_found(make_arena, planted, found):
    """Transactions that commit below what was read: lost when not asked for, in the wrong order when asked too late."""
    assert scenarios.late_commits(make_arena(planted)).found == found


@pytest.mark.parametrize(("planted", "found"), cases(REFUSED))
def test_taking_a_refusal_lightly_is_found(make_arena, planted, found):
    """A record that the broker refuses, with successors: lost, or passed by them."""
    config = {"max.message.bytes": str(scenarios.LIMIT)}
    assert scenarios.refused(make_arena(planted, config=config)).found == found


@pytest.mark.parametrize(("planted", "found"), cases([("no_epoch", {"owned_twice"}), ("", set())]))
def test_a_lease_without_an_epoch_is_found(make_arena, planted, found):
    """A process that was stopped and wakes up touches a lane that is somebody else's."""
    assert scenarios.zombie(make_arena(planted)).found == found


@pytest.mark.full
@pytest.mark.alone
def test_two_relays_that_skip_locked_rows_are_found(make_arena):
    """SKIP LOCKED shares the rows of one key among two processes."""
    assert "inversions" in scenarios.storm(make_arena("skip_locked")).found


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.parametrize("locked", [True, False])
def test_emit_without_its_lock_is_found(make_arena, control_db, locked):
    """Only the lock of the slot makes the order of ids the order of commits."""
    if not locked:
        no_slot_lock(control_db.dsn)
    assert scenarios.storm(make_arena()).found == (set() if locked else {"inversions"})


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.parametrize(("planted", "found"), [("cursor_first", {"lost"}), ("", set())])
def test_a_cursor_that_moves_before_the_acknowledgement_is_found(control_db, own_kafka, tmp_path, planted, found):
    """Kafka and the relay die with events in hand that nobody has acknowledged."""
    arena = Arena(control_db.dsn, own_kafka.bootstrap, tmp_path, planted=planted)
    assert scenarios.outage(arena, own_kafka).found == found
