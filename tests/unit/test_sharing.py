"""Relay processes share the lanes of a store by what they tell of themselves."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kylo_outbox.store.heartbeats import Heartbeat
from kylo_outbox.wiring.sharing import leads_too_many


def beat(lanes, *, age=0.5, part="relay", store="s"):
    """A process that knows so many lanes of a store."""
    state = {"lanes": [{"store": store, "lane": lane, "leader": False} for lane in range(lanes)]}
    return Heartbeat(part, "x", datetime.now(UTC), age, state, [])


@pytest.mark.parametrize(
    ("leading", "beats", "too_many"),
    [
        (4, [beat(4)], False),
        (4, [beat(4), beat(4)], True),
        (2, [beat(4), beat(4)], False),
        (2, [beat(3), beat(3)], False),
        (3, [beat(3), beat(3)], True),
        (1, [beat(2)] * 5, False),
        (4, [beat(4), beat(4, age=60)], False),
        (4, [beat(4), beat(4, part="projectors")], False),
        (4, [beat(4), beat(4, store="elsewhere")], False),
        (4, [], False),
    ],
)
def test_a_share_is_the_lanes_by_the_processes_that_live(leading, beats, too_many):
    """Only living relay processes that serve the store count; a share is rounded up."""
    assert leads_too_many("s", leading, beats) is too_many
