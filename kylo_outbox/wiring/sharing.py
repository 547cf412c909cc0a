"""Sharing the lanes of a store among relay processes: whoever leads more than its share gives one away at a time.

A lane that is free is taken by whoever sees it first, so one process may lead them all after a restart. Every process
tells in its heartbeat which lanes it leads; from that each one computes its own share, without asking anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kylo_outbox.store.heartbeats import Heartbeat

# A process that has not written for so long may be stopped or stalled: it gets no share.
_ALIVE = 3.0


def leads_too_many(store: str, leading: int, beats: Iterable[Heartbeat]) -> bool:
    """Whether a process that leads `leading` lanes of a store has more than its share of them.

    `beats` are those of all relay processes, its own among them. With more processes than lanes a share is one lane,
    so nothing is handed round in circles.
    """
    served = [
        lanes for beat in beats if beat.part == "relay" and beat.age < _ALIVE and (lanes := _lanes(beat.state, store))
    ]
    if len(served) <= 1:
        return False
    count = max(len(lanes) for lanes in served)
    return leading > -(-count // len(served))


def _lanes(state: Mapping[str, Any], store: str) -> list[Any]:
    return [lane for lane in state.get("lanes", ()) if lane.get("store") == store]
