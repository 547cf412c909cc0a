"""What each running process says of itself (control.heartbeats): its state and a copy of its metric samples.

A process writes its own row, at most once a second. Counters of processes that ended are folded into one row a part
(instance `ENDED`), so that their sums never fall: Prometheus would take a fall for a restart and count it again.

Keys of `state` that others read: for part `relay` they are `leader` (bool), `publishing` (bool: records are being
sent at this moment), `via_kafka` (bool: something is routed over Kafka) and `broker_contact_age_seconds` (since the
broker last answered, None for never). Ages and not times, so that no two clocks are compared. For every part:
`loops`, `stuck` and `clock` (`model/stalls.py` reads them), and `stopped` once it has ended as it was asked to.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kylo_outbox.telemetry.samples import add_up, only_added

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import psycopg

    from kylo_outbox.telemetry.metrics import Sample

ENDED: Final = "(ended)"
FRESH: Final = 10.0
"""Seconds after which a process that has not written its row counts as dead."""

_LOCK = 1802068084
_BEAT = """
insert into control.heartbeats (part, instance, started_at, at, state, samples)
values (%s, %s, coalesce(%s, clock_timestamp()), clock_timestamp(), %s::jsonb, %s::jsonb)
on conflict (part, instance) do update
   set started_at = excluded.started_at, at = excluded.at, state = excluded.state, samples = excluded.samples
"""
_READ = """
select part, instance, started_at, greatest(0, extract(epoch from clock_timestamp() - at))::float8, state, samples
  from control.heartbeats
 order by part, instance
"""
_TAKE_OLD = """
delete from control.heartbeats
 where instance <> %s and at < clock_timestamp() - make_interval(secs => %s)
returning part, samples
"""
_ENDED = "select samples from control.heartbeats where part = %s and instance = %s"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One process as it last described itself, `age` seconds ago by the database's clock."""

    part: str
    instance: str
    started_at: datetime
    age: float
    state: dict[str, Any]
    samples: list[Sample]

    @property
    def alive(self) -> bool:
        """Whether the process wrote its row within `FRESH` seconds."""
        return self.instance != ENDED and self.age < FRESH


def beat(
    conn: psycopg.Connection[Any],
    part: str,
    instance: str,
    started_at: datetime,
    state: Mapping[str, Any],
    samples: Sequence[Sample],
) -> None:
    """Write one process' row; the database's clock gives the time.

    Args:
        conn: A connection to the control store; autocommit is fine.
        part: What it is (`relay`, `projectors`, `api`).
        instance: Which one; unique among running processes of the part.
        started_at: When it started.
        state: Anything JSON; see the module for keys that others read.
        samples: From `telemetry.metrics.samples()`; values that are not finite are left out (JSON has none).
    """
    finite = [sample for sample in samples if math.isfinite(sample[5])]
    conn.execute(_BEAT, (part, instance, started_at, json.dumps(dict(state)), json.dumps(finite)))


def read(conn: psycopg.Connection[Any]) -> list[Heartbeat]:
    """Every row: of living and of dead processes, and what ended ones had counted (instance `ENDED`)."""
    return [
        Heartbeat(part, instance, started_at, age, state, [_sample(sample) for sample in samples])
        for part, instance, started_at, age, state, samples in conn.execute(_READ)
    ]


def prune(conn: psycopg.Connection[Any], older_than: float) -> int:
    """Remove processes silent for `older_than` seconds and keep their counters; returns how many were removed.

    To be called in a transaction. A process that was only stopped for so long and goes on counts twice from then on.
    """
    conn.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
    old = conn.execute(_TAKE_OLD, (ENDED, older_than)).fetchall()
    for part in sorted({part for part, _ in old}):
        former = conn.execute(_ENDED, (part, ENDED)).fetchone()
        groups = [samples for name, samples in old if name == part] + ([former[0]] if former else [])
        counted = add_up(only_added(map(_sample, samples)) for samples in groups)
        conn.execute(_BEAT, (part, ENDED, None, "{}", json.dumps(counted)))
    return len(old)


def _sample(stored: Sequence[Any]) -> Sample:
    family, kind, text, name, labels, value = stored
    return family, kind, text, name, labels, value
