"""How long one event of one company waits while another company has a backlog, and a backlog of five million."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg

from scripts.bench import pace, relays, rows
from scripts.bench.figures import Figure
from scripts.bench.peers.contenders import Ours
from scripts.bench.rounds import interleaved
from scripts.bench.stage import BenchFailed
from scripts.bench.workers.writer import payload

if TYPE_CHECKING:
    from scripts.bench.stage import Stage

BACKLOG = 100_000
BACKLOG_FULL = 1_000_000
LARGE = 5_000_000
_LONGEST = 900.0


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """One company's backlog first, then one event of another, while the relay runs."""
    backlog = max(20_000, int((BACKLOG_FULL if stage.options.full else BACKLOG) * scale))
    waited = interleaved(rounds, {"waits": lambda: _wait(stage, backlog)})["waits"]
    figures = [
        Figure(
            f"one event behind {backlog:,} of another company waits",
            "s",
            tuple(each[0] for each in waited),
            note="from its commit to the broker's log",
        ),
        Figure(
            "the same / the time of the whole backlog",
            "x",
            tuple(each[0] / each[1] for each in waited),
            note="1 means no fair share: it waits for all of it",
        ),
    ]
    if not stage.options.full:
        return [*figures, Figure("drain of 5,000,000 rows", "events/s", missing="part of --full")]
    return [*figures, _large(stage, scale)]


def _wait(stage: Stage, backlog: int) -> tuple[float, float]:
    """(seconds the single event waited, seconds until everything was out)."""
    with stage.database() as database, stage.topic() as topic, stage.topic(partitions=1) as single:
        rows.fill(database, topic, backlog, keys=1)
        with relays.running(stage, database) as relay, psycopg.connect(database.dsn, autocommit=True) as connection:
            relay.wait_until_leading()
            values = {"topic": single, "key": "company-small", "payload": payload(1)}
            connection.execute(Ours.insert, values)
            begun, until = time.monotonic(), time.monotonic() + _LONGEST
            with pace.consumer(stage) as look:
                while pace.records(look, single, 1) == 0:
                    relay.check()
                    if time.monotonic() > until:
                        raise BenchFailed(f"the single event did not come within {_LONGEST:.0f} s")
                    time.sleep(0.01)
            waited = time.monotonic() - begun
            while rows.progress(connection).acknowledged < backlog + 1:
                relay.check()
                time.sleep(0.05)
            return waited, time.monotonic() - begun


def _large(stage: Stage, scale: float) -> Figure:
    count = int(LARGE * scale)
    with stage.database() as database, stage.topic() as topic:
        rate = relays.drain_backlog(stage, database, topic, count).rate
    return Figure(f"drain of {count:,} rows", "events/s", (rate,), note="one round")
