"""What may be in flight: by number for small rows, by bytes for large ones."""

from __future__ import annotations

import pytest

from kylo_outbox.flows.relay.track import Batch, Track
from kylo_outbox.flows.relay.window import BATCHES, Window
from kylo_outbox.store.lanes import Cursor

MIB = 1024 * 1024


def rows(number, size):
    """Rows as the relay reads them; only the payload matters here."""
    return [(n, "t", b"k", "T", b"x" * size, None, "", 0.0, 1) for n in range(number)]


def fill(window, size, *, side=False):
    """How many turns of one row of this size go out before the first is acknowledged."""
    track = Track(0)
    while window.has_room(track, side=side):
        turn = rows(1, size)
        track.add(Batch(None, turn, [], Cursor(1, "1:1:"), 1, delivered=False, size=window.weigh(turn)))
    return len(track.batches)


@pytest.mark.parametrize(
    ("size", "side", "turns"),
    [(10, False, BATCHES), (10, True, BATCHES // 2), (4 * MIB, False, 16), (4 * MIB, True, 8)],
)
def test_small_rows_are_bounded_by_number_and_large_ones_by_bytes(size, side, turns):
    """64 MiB, or 32 turns; half of that for a side lane."""
    assert fill(Window(), size, side=side) == turns


def test_turns_shrink_while_rows_are_large():
    """Behind a turn of 1 MiB rows at most 8 of them are read at once; behind small ones as many as before."""
    window = Window()
    assert window.rows(1000) == 1000
    window.weigh(rows(10, MIB))
    assert window.rows(1000) == 8
    window.weigh(rows(1, 20 * MIB))
    assert window.rows(1000) == 1
    window.weigh([])
    assert window.rows(1000) == 1
    window.weigh(rows(100, 500))
    assert window.rows(1000) == 1000
    assert window.rows(4) == 4


def test_what_is_acknowledged_makes_room():
    """Only what is not done counts."""
    window, track = Window(), Track(0)
    fill(window, 10)
    while window.has_room(track):
        track.add(Batch(None, [], [], Cursor(1, "1:1:"), 1, delivered=False, size=0))
    track.batches[0].delivered = True
    assert window.has_room(track)
