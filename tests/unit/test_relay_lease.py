"""The lease of a lane: lengthened in time whatever the lane and its side lanes have to store."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kylo_outbox.flows.relay import Relay, RelayState, worker
from kylo_outbox.flows.relay.track import Track
from kylo_outbox.store.lanes import Cursor


class Session:
    """Notes when the lane's own row was written to; side lanes have rows of their own."""

    def __init__(self, clock):
        self._clock = clock
        self.lengthened = []

    def renew(self):
        """Lengthens the lease."""
        self.lengthened.append(self._clock[0])

    def advance(self, part, *_progress):
        """Stores a cursor, and lengthens the lease of that row."""
        if part == 0:
            self.lengthened.append(self._clock[0])


@pytest.mark.parametrize("busy", [(), (0,), (1,), (0, 1)], ids=["nobody", "lane", "side", "both"])
def test_the_lease_is_lengthened_whoever_is_busy(monkeypatch, busy):
    """Twice a second at least, also while only a side lane has something to store; at most 11 writes a second."""
    clock = [100.0]
    monkeypatch.setattr(worker.time, "monotonic", lambda: clock[0])
    relay = Relay(
        state=RelayState(store="test", lane=0),
        holder="test",
        open_session=lambda: pytest.fail("not needed"),
        open_publisher=lambda _store: pytest.fail("not needed"),
    )
    session, relay._tracks = Session(clock), [Track(0), Track(1)]
    while clock[0] < 110.0:
        for number in busy:
            relay._tracks[number].ready = (Cursor(1, "3:3:"), 5)
        relay._store_cursors(session)  # type: ignore[arg-type]
        clock[0] += 0.01
    times = session.lengthened
    assert max(later - earlier for earlier, later in pairwise(times)) < 0.5
    assert 20 <= len(times) <= 110
