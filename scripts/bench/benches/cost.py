"""P4 and the idle half of P6: what the relay costs the database, under load, at a slow pace, and with nothing to do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.bench import database as counters
from scripts.bench import relays, rows
from scripts.bench.figures import Figure, Goal
from scripts.bench.peers.contenders import Ours
from scripts.bench.rounds import interleaved

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

ROWS = 100_000
IDLE_SECONDS = 8.0
SLOW_SECONDS = 5.0
_SLOW_RATE = 200


@dataclass(frozen=True, slots=True)
class Idle:
    """A relay with nothing to do: share of a core in percent, statements and bytes of WAL a second."""

    cpu: float
    statements: float
    wal: float


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """One database through all rounds: history lies behind the cursor as in real life."""
    count = max(20_000, int(ROWS * scale))
    with stage.database() as database, stage.topic() as topic:
        counters.with_counters(database)
        drains = interleaved(
            rounds,
            {
                "plain": lambda: _wal_of_drain(stage, database, topic, count, checkpoint=False),
                "checkpoint": lambda: _wal_of_drain(stage, database, topic, count, checkpoint=True),
            },
        )
        slow = interleaved(rounds, {"slow": lambda: _cursors(stage, database, topic, scale)})["slow"]
        dead = counters.dead_rows(database)
        idle = interleaved(rounds, {"idle": lambda: _idle(stage, database, scale)})["idle"]
    return [
        Figure(
            "WAL while draining",
            "B per event",
            tuple(drains["plain"]),
            Goal("P4", 5, at_least=False),
            note="the whole server's WAL, writers stopped",
        ),
        Figure(
            "WAL while draining, after a checkpoint",
            "B per event",
            tuple(drains["checkpoint"]),
            note="a checkpoint between writing and reading: with checksums the first reader of a page, whoever it is, "
            "notes there that its rows are committed, and PostgreSQL logs the page once",
        ),
        Figure(f"cursor writes at {_SLOW_RATE} commits/s", "per second", tuple(slow), Goal("P4", 10, at_least=False)),
        Figure("dead rows in the outbox", "rows", (float(dead),), Goal("P4", 0, at_least=False)),
        Figure(
            "idle: CPU of the relay", "% of a core", tuple(each.cpu for each in idle), Goal("P6", 3, at_least=False)
        ),
        Figure(
            "idle: statements",
            "per second",
            tuple(each.statements for each in idle),
            Goal("P6", 60, at_least=False),
            note="of the whole process, its heartbeat and look for stores included; BEGIN and COMMIT count",
        ),
        Figure("idle: WAL", "B per second", tuple(each.wal for each in idle)),
    ]


def _wal_of_drain(stage: Stage, database: Database, topic: str, count: int, *, checkpoint: bool) -> float:
    rows.fill(database, topic, count)
    if checkpoint:
        with rows.connect(database) as connection:
            connection.execute("checkpoint")
    before = counters.count(database)
    with relays.running(stage, database) as relay:
        relays.drain(relay, count)
    return counters.count(database).since(before).wal / count


def _cursors(stage: Stage, database: Database, topic: str, scale: float) -> float:
    """Cursor writes a second while single events come."""
    seconds = max(3.0, SLOW_SECONDS * scale)
    with relays.running(stage, database) as relay:
        relay.wait_until_leading()
        before = counters.count(database)
        words = {"dsn": database.dsn, "topic": topic, "rate": _SLOW_RATE, "seconds": seconds}
        stage.worker("writer", **words, insert=Ours.insert, out=stage.folder / "slow-commits")
        found = counters.count(database).since(before)
        relay.check()
    return found.cursors / found.at


def _idle(stage: Stage, database: Database, scale: float) -> Idle:
    seconds = max(3.0, IDLE_SECONDS * scale)
    with counters.counting_statements(stage, database), relays.running(stage, database) as relay:
        relay.wait_until_leading()
        before, cpu = counters.count(database), relay.cpu()
        time.sleep(seconds)
        # The look at the counters waits a little first: the CPU of that time belongs to it.
        found = counters.count(database).since(before)
        cpu = relay.cpu() - cpu
        relay.check()
    return Idle(100 * cpu / found.at, found.statements / found.at, found.wal / found.at)
