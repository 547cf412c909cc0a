"""How long it took after each fault until everything flowed again: from commits behind the fault to their effect."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.helpers.broker import Seen
    from tests.soak.faults import Fault
    from tests.soak.load import Note

_APPLIED = "select event_id::text, extract(epoch from at)::float8 from soak_journal where topic = %s"
_SERVERS = ("kill PostgreSQL", "kill Kafka")
# What else went on shortly after a server came back is its doing too.
_AFTER = 3.0


class Recovery(NamedTuple):
    """Seconds over the faults of one kind that were measured; `until` names what was waited for."""

    kind: str
    faults: int
    measured: int
    until: str
    median: float
    worst: float


class _Firsts:
    """For each part of the road (a partition), when events of at least some commit time first arrived."""

    def __init__(self, arrivals: Iterable[tuple[object, float, float]]) -> None:
        """Of (part, committed at, arrived at)."""
        parts: dict[object, list[tuple[float, float]]] = defaultdict(list)
        for part, committed, arrived in arrivals:
            parts[part].append((committed, arrived))
        self._parts = []
        for pairs in parts.values():
            pairs.sort()
            earliest = [arrived for _, arrived in pairs]
            for place in range(len(earliest) - 2, -1, -1):
                earliest[place] = min(earliest[place], earliest[place + 1])
            self._parts.append(([committed for committed, _ in pairs], earliest))

    def after(self, moment: float) -> float | None:
        """When the last part had got something committed after `moment`; None if one never has."""
        last = moment
        for committed, earliest in self._parts:
            place = bisect_left(committed, moment)
            if place == len(committed):
                return None
            last = max(last, earliest[place])
        return last


def recoveries(
    dsn: str, topic: str, faults: Sequence[Fault], log: Sequence[Seen], notes: Mapping[str, Note]
) -> list[Recovery]:
    """By kind of fault. A fault during another one's outage of a server is counted and not measured."""
    with psycopg.connect(dsn) as tx:
        applied: dict[str, float] = dict(tx.execute(_APPLIED, (topic,)).fetchall())
    records = {record.event_id: record for record in reversed(log) if record.event_id in notes}
    published = _Firsts((r.partition, notes[event].at, r.at) for event, r in records.items())
    effects = _Firsts(
        (records[event].partition, notes[event].at, at) for event, at in applied.items() if event in records
    )
    outages = [(f.at, (f.mended or f.at) + _AFTER, f) for f in faults if f.kind in _SERVERS]
    kinds: dict[str, list[float | None]] = defaultdict(list)
    for fault in faults:
        begun = fault.mended or fault.at if fault.kind in _SERVERS else fault.at
        end = (published if _is_about_relays(fault.kind) else effects).after(begun)
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
