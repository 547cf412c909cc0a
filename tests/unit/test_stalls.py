"""What counts as standing still: each kind from its own state, with a remedy, and nothing from a quiet one."""

from __future__ import annotations

import pytest

from kylo_outbox.model import stalls
from kylo_outbox.model.stalls import KINDS, Lasting, Progress

QUIET_LOOP = {"name": "relay s/0", "silent": 0.2, "allowed": 15.0, "waits": None, "why": "", "quota": False}
QUIET_LANE = {"store": "s", "lane": 0, "breaker": "", "queue_full": None}
QUIET = {
    "loops": [QUIET_LOOP, QUIET_LOOP | {"name": "housekeeping", "silent": 70.0, "allowed": 75.0}],
    "lanes": [QUIET_LANE],
    "stuck": [{"group": "g", "topic": "t", "partition": 0, "unread": 3, "seconds": 5.0}],
    "clock": {"difference": 0.1, "jumps": {"this machine": {"seconds": -3600.0, "ago": 400.0}}},
}


def of(state, age=0.5):
    """What a process with this state is told to suffer from."""
    return list(stalls.process("relay", "host:1", age, state))


def test_a_quiet_process_is_not_stuck():
    """Loops come round, nothing waits for long, and old troubles are forgotten."""
    assert of(QUIET) == []
    assert of({}) == []


@pytest.mark.parametrize(
    ("state", "kind", "subject"),
    [
        ({"loops": [QUIET_LOOP | {"silent": 15.0}]}, "dead_loop", "relay host:1: relay s/0"),
        ({"loops": [QUIET_LOOP | {"waits": 15.0, "why": "Kafka"}]}, "relay_waits", "relay host:1: relay s/0"),
        ({"loops": [QUIET_LOOP | {"name": "project b", "waits": 15.0}]}, "paused_partition", "relay host:1: project b"),
        (
            {"loops": [QUIET_LOOP | {"name": "project sheets", "waits": 15.0, "quota": True}]},
            "quota_wait",
            "relay host:1: project sheets",
        ),
        ({"lanes": [QUIET_LANE | {"queue_full": 16.0}]}, "full_queue", "s/0"),
        ({"lanes": [QUIET_LANE | {"breaker": "no broker"}]}, "relay_waits", "s/0"),
        (
            {"stuck": [{"group": "g", "topic": "t", "partition": 2, "unread": 3, "seconds": 14.6}]},
            "stuck_partition",
            "g t/2",
        ),
        ({"clock": {"difference": -2.5}}, "clock_jump", "relay host:1"),
        ({"clock": {"jumps": {"this machine": {"seconds": 9.0, "ago": 3.0}}}}, "clock_jump", "relay host:1"),
    ],
)
def test_each_stall_of_a_process_is_told_with_its_remedy(state, kind, subject):
    """One trouble, one stall of its kind, with a text and what to do."""
    [found] = of(state)
    assert (found.kind, found.subject) == (kind, subject)
    assert found.text
    assert found.remedy
    assert kind in KINDS


def test_reasons_are_for_those_who_may_see_them():
    """What a loop waits for may name hosts and keys: it is no part of the text that everybody may read."""
    [found] = of({"loops": [QUIET_LOOP | {"waits": 20.0, "why": "company 710"}]})
    assert "710" not in found.text + found.remedy + found.subject
    assert found.detail == "company 710"


@pytest.mark.parametrize(
    ("age", "stopped", "replaced", "told"),
    [(12.0, False, False, 1), (12.0, True, False, 0), (12.0, False, True, 0), (4000.0, False, False, 0)],
)
def test_a_process_that_fell_silent_is_a_dead_loop(age, stopped, replaced, told):
    """Unless it was stopped, has a successor, or fell silent long ago."""
    found = list(stalls.silent("projectors", "host:2", age, stopped=stopped, replaced=replaced))
    assert [each.kind for each in found] == ["dead_loop"] * told


def test_what_the_tables_tell_has_limits():
    """A takeover, a retry, a short transaction and equal clocks are no stalls; what lasts is."""
    quiet = [
        *stalls.leaderless("s", 0, 2.0),
        *stalls.held("s", "relay", "t", 3, 5.0),
        *stalls.held("s", "txns", "t", 0, 50.0),
        *stalls.transaction("session", 5.0, ""),
        *stalls.clocks("s", 1.0),
    ]
    assert quiet == []
    lasting = [
        *stalls.leaderless("s", 0, 6.0),
        *stalls.held("s", "relay", "t", 3, 11.0),
        *stalls.held("s", "txns", "t", 1, 11.0),
        *stalls.transaction("session", 25.0, ""),
        *stalls.transaction("slot", None, ""),
        *stalls.clocks("s", 3.0),
    ]
    assert [each.kind for each in lasting] == [
        "lost_lease",
        "held_key",
        "held_key",
        "old_transaction",
        "old_transaction",
        "clock_jump",
    ]
    assert "outbox release" in lasting[1].remedy
    assert "dlq release" in lasting[2].remedy
    assert stalls.notice("txns", "circuit", "most of what arrives fails").kind == "notice"


def test_only_a_partition_that_does_not_move_is_stuck():
    """Read on or read empty, it starts over; otherwise the seconds grow with each look."""
    place, other = ("g", "t", 0), ("g", "t", 1)
    progress = Progress()
    assert progress.look(0.0, {place: (10, 5), other: (10, 5)}) == []
    [moved] = progress.look(5.0, {place: (10, 6), other: (12, 5)})
    assert (moved["partition"], moved["unread"], moved["seconds"]) == (0, 6, 5.0)
    assert [each["seconds"] for each in progress.look(20.0, {place: (10, 7), other: (13, 5)})] == [20.0]
    assert progress.look(21.0, {place: (17, 0)}) == []
    assert progress.look(25.0, {place: (17, 1)}) == []
    assert [each["seconds"] for each in progress.look(26.0, {place: (17, 1)})] == [1.0]


def test_a_group_that_never_read_is_stuck_too():
    """No committed offset is an offset that does not move."""
    progress = Progress()
    progress.look(0.0, {("g", "t", 0): (None, 1)})
    assert [each["seconds"] for each in progress.look(16.0, {("g", "t", 0): (None, 4)})] == [16.0]


def test_lasting_starts_over_after_a_break():
    """Only an unbroken time counts."""
    lasting = Lasting()
    assert lasting.seconds(0.0, {("s", 0)}) == {("s", 0): 0.0}
    assert lasting.seconds(7.0, {("s", 0), ("s", 1)}) == {("s", 0): 7.0, ("s", 1): 0.0}
    assert lasting.seconds(8.0, set()) == {}
    assert lasting.seconds(9.0, {("s", 0)}) == {("s", 0): 0.0}
