"""Which mistakes a soak can be run with, and how it is tempted to show them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tests.soak.load import SOME_CURABLE, SOME_LARGE

if TYPE_CHECKING:
    from collections.abc import Mapping

_KILLS = {"kill a relay": 3, "kill a projector": 4, "cut PostgreSQL": 2, "end the relays' sessions": 1}
# Not all of them at the same time: a zombie does harm when others have gone on without it.
_STOPS = {"stop a projector inside its transaction for long": 1, "kill a relay": 3, "end the relays' sessions": 3}


@dataclass(frozen=True)
class Plant:
    """Where a mistake (`tests.helpers.planted`) is planted, and the mix of faults that brings it to light."""

    where: Literal["relay", "projector", "database"]
    # Whichever of these it shows, it is found.
    shows: frozenset[str]
    mix: Mapping[str, int] = field(default_factory=lambda: _KILLS)
    # Seconds under fire, and those that are waited at most until nothing moves any more.
    seconds: float = 12.0
    patience: float = 42.0
    # The share of records that are refused for their size (`Load`).
    large: float = SOME_LARGE
    # The share of events that are dead until a person cures them.
    curable: float = SOME_CURABLE


_LOST = frozenset({"lost"})
_DOUBLED = frozenset({"doubled", "invented"})
_REORDERED = frozenset({"reordered"})

PLANTS: dict[str, Plant] = {
    # Projectors. Where nothing may be there twice (the ledger), a repeat shows as a dead letter that nobody expected.
    "no_position": Plant("projector", _DOUBLED, patience=5.0),
    "offsets": Plant("projector", _DOUBLED, patience=5.0),
    "position_first": Plant("projector", _LOST),
    "commit_first": Plant("projector", _LOST, seconds=24.0),
    "no_hold": Plant("projector", _REORDERED, patience=10.0, curable=0.005),
    "no_fence": Plant("projector", _DOUBLED, _STOPS, seconds=30.0, patience=10.0),
    # Relays.
    "by_id": Plant("relay", _LOST),
    "above_xmax": Plant("relay", _LOST),
    "late_last": Plant("relay", _REORDERED, patience=10.0),
    "skip_locked": Plant("relay", _REORDERED, patience=10.0),
    "cursor_first": Plant("relay", _LOST, {"kill Kafka": 1, "kill a relay": 2}),
    "no_epoch": Plant("relay", frozenset({"owned twice"}), {"stop a relay": 1}, patience=5.0),
    "flush_is_success": Plant("relay", _LOST, large=0.01),
    # The database.
    "no_slot_lock": Plant("database", _REORDERED, patience=10.0),
}
