"""P8: the time of a claim, with history behind the cursor, a snapshot held, an idle writer elsewhere, and without.

A claim is what the relay does for a thousand rows: one read and one write of the cursor, through its own session.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from scripts.bench import rows
from scripts.bench.claims import claiming
from scripts.bench.figures import Figure, Goal, percentile, ratios
from scripts.bench.rounds import interleaved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

BEHIND = 1_000_000
BEHIND_FULL = 10_000_000
_CLAIMS = 30
_BATCH = 1_000
_HELD_SECONDS = 600
_WRITES_A_SECOND = 10


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """Two databases, one without history and one with; both get the same new rows each round."""
    behind = int((BEHIND_FULL if stage.options.full else BEHIND) * scale)
    writes = int(_HELD_SECONDS * _WRITES_A_SECOND * scale)
    with stage.database() as old, stage.database() as held, stage.topic() as topic:
        rows.fill(old, topic, behind)
        rows.mark_published(old)
        found = interleaved(
            rounds,
            {
                "fresh": lambda: _fresh(stage, topic),
                "old": lambda: _claim(old, topic),
                "idle writer": lambda: _beside_idle_writer(stage, topic),
            },
        )
        with _snapshot(held):
            _wear(stage, held, writes)
            pinned = interleaved(rounds, {"fresh": lambda: _fresh(stage, topic), "held": lambda: _claim(held, topic)})
    waited = f"{_HELD_SECONDS} s" if stage.options.full else "no time"
    return [
        Figure(
            f"claim with {behind:,} published rows behind / with none",
            "x",
            ratios(found["old"], found["fresh"]),
            Goal("P8", 1.2, at_least=False),
        ),
        Figure(
            "claim under a held snapshot / without",
            "x",
            ratios(pinned["held"], pinned["fresh"]),
            Goal("P8", 2, at_least=False),
            note=f"{writes:,} cursor writes, as many as ten minutes bring, were made in {waited} under the snapshot",
        ),
        Figure(
            "claim beside an idle writer in another database / without",
            "x",
            ratios(found["idle writer"], found["fresh"]),
            Goal("P8", 1.2, at_least=False),
        ),
        Figure("claim of 1,000 rows, nothing behind", "ms", tuple(found["fresh"])),
        Figure(f"claim of 1,000 rows, {behind:,} behind", "ms", tuple(found["old"])),
        Figure("claim of 1,000 rows under a held snapshot", "ms", tuple(pinned["held"])),
    ]


def _claim(database: Database, topic: str) -> float:
    """Milliseconds of one claim, the middle of many."""
    rows.fill(database, topic, _BATCH * _CLAIMS)
    took = []
    with claiming(database.dsn) as claims:
        for _ in range(_CLAIMS):
            begun = time.perf_counter()
            claims.store(claims.read(_BATCH))
            took.append((time.perf_counter() - begun) * 1e3)
    return percentile(took, 0.5)


def _fresh(stage: Stage, topic: str) -> float:
    """A claim in a database that has nothing else."""
    with stage.database() as database:
        return _claim(database, topic)


def _beside_idle_writer(stage: Stage, topic: str) -> float:
    """The same while a transaction of another database has written and does nothing more."""
    with stage.database() as elsewhere, psycopg.connect(elsewhere.dsn) as idle:
        idle.execute("create table idle (n integer)")
        return _fresh(stage, topic)


@contextmanager
def _snapshot(database: Database) -> Iterator[None]:
    """A snapshot held open: nothing that dies from now on can be cleaned away."""
    with psycopg.connect(database.dsn) as holder:
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select count(*) from kylo.lanes")
        yield


def _wear(stage: Stage, database: Database, writes: int) -> None:
    """Write the cursor as often as the relay would; with `--full` in the time that it takes."""
    with claiming(database.dsn) as claims:
        for _ in range(writes):
            claims.store(claims.read(1))
            if stage.options.full:
                time.sleep(1 / _WRITES_A_SECOND)
