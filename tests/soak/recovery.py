"""How long it took after each fault until everything flowed again, on every part of the road."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.helpers.broker import Seen
    from tests.soak.faults import Fault
    from tests.soak.load import Load

_APPLIED = "select key, extract(epoch from at)::float8 from soak_journal where topic = %s"
_SERVERS = ("kill PostgreSQL", "kill Kafka")
# What else went on shortly after a server came back is its doing too.
_AFTER = 3.0
# What had left a process before it was killed arrives a moment later.
_IN_FLIGHT = 0.1
# The slots of `emit`, in parts that fit into whatever lanes there are.
_SLOTS, _LANES = 1024, 6


class Recovery(NamedTuple):
    """Seconds over the faults of one kind that were measured; `until` names what was waited for."""

    kind: str
    faults: int
    measured: int
    until: str
    median: float
    worst: float


class Flow:
    """When something arrived, for each part of the road that may stand still by itself."""

    def __init__(self, arrivals: Iterable[tuple[object, float]]) -> None:
        """Of (part, seconds since 1970)."""
        parts: dict[object, list[float]] = defaultdict(list)
        for part, at in arrivals:
            parts[part].append(at)
        self._parts = [sorted(times) for times in parts.values()]

    def again(self, moment: float) -> float | None:
        """When the last part has gone on after `moment`; None if one never has."""
        last = moment
        for times in self._parts:
            place = bisect_left(times, moment + _IN_FLIGHT)
            if place == len(times):
                return None
            last = max(last, times[place])
        return last


def recoveries(dsn: str, load: Load, faults: Sequence[Fault], log: Sequence[Seen]) -> list[Recovery]:
    """By kind of fault, from the log of the topic `events`; what falls into the outage of a server is not measured."""
    with psycopg.connect(dsn) as tx:
        applied = tx.execute(_APPLIED, (load.topics["events"],)).fetchall()
    lanes = {key.name: key.slot * _LANES // _SLOTS for key in load.keys if key.topic == load.topics["events"]}
    partitions = {record.key: record.partition for record in log}
    published = Flow((lanes[record.key], record.at) for record in log)
    effects = Flow((partitions.get(key), at) for key, at in applied)
    outages = [(f.at, (f.mended or f.at) + _AFTER, f) for f in faults if f.kind in _SERVERS]
    kinds: dict[str, list[float | None]] = defaultdict(list)
    for fault in faults:
        begun = fault.mended or fault.at if fault.kind in _SERVERS else fault.at
        end = (published if _is_about_relays(fault.kind) else effects).again(begun)
        met = end is None or any(f is not fault and fault.at < until and since < end for since, until, f in outages)
        kinds[fault.kind].append(None if met or end is None else end - begun)
    return [_summed(kind, times) for kind, times in sorted(kinds.items())]


def _is_about_relays(kind: str) -> bool:
    return any(word in kind for word in ("relay", "standby", "lanes"))


def _summed(kind: str, times: Sequence[float | None]) -> Recovery:
    measured = [time for time in times if time is not None]
    until = "published" if _is_about_relays(kind) else "applied"
    if not measured:
        return Recovery(kind, len(times), 0, until, 0.0, 0.0)
    return Recovery(kind, len(times), len(measured), until, median(measured), max(measured))
