"""P13: the whole road at a pace: written, published, applied, for as long as it takes to see whether the lag grows."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from scripts.bench import ledger, projectors, relays, rows
from scripts.bench.figures import Figure, Goal, percentile
from scripts.bench.peers.contenders import Ours
from scripts.bench.rounds import interleaved
from scripts.bench.stage import BenchFailed

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

# A little above what is asked for, so that a pause of the writer does not decide.
BATCHES, SINGLES = 20_500, 2_100
SECONDS, SECONDS_FULL = 20.0, 600.0
_WARM_SECONDS = 4.0
_LOOK_SECONDS = 0.2
_LOOK = """
select (select coalesce(max(id), 0) from kylo.outbox_log),
       (select coalesce(sum(applied), 0)::bigint from kylo.positions where projector = %s)
"""


@dataclass(frozen=True, slots=True)
class Driven:
    """One drive: events applied a second, the lag in seconds, and by how many seconds it grew in a minute."""

    rate: float
    p50: float
    p99: float
    growth: float


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """In batches and as single commits, in turn; with `--full` one drive of ten minutes each."""
    seconds = SECONDS_FULL if stage.options.full else max(8.0, SECONDS * scale)
    turns = 1 if stage.options.full else rounds
    found = interleaved(
        turns,
        {
            "batches": partial(_drive, stage, "paced_batches", BATCHES, seconds),
            "singles": partial(_drive, stage, "writer", SINGLES, seconds),
        },
    )
    return [
        *_figures("in batches of 1,000", 20_000, seconds, found["batches"]),
        *_figures("as single commits", 2_000, seconds, found["singles"]),
    ]


def _figures(how: str, goal: float, seconds: float, drives: Sequence[Driven]) -> list[Figure]:
    flat = Goal("P13", 1.0, at_least=False)
    return [
        Figure(f"applied while written, {how}", "events/s", tuple(each.rate for each in drives), Goal("P13", goal)),
        Figure(
            f"growth of the lag, {how}",
            "s per minute",
            tuple(each.growth for each in drives),
            flat,
            note=f"slope over {seconds:.0f} s; flat is up to one",
        ),
        Figure(f"lag, p50, {how}", "ms", tuple(each.p50 * 1e3 for each in drives)),
        Figure(f"lag, p99, {how}", "ms", tuple(each.p99 * 1e3 for each in drives)),
    ]


def _drive(stage: Stage, worker: str, rate: float, seconds: float) -> Driven:
    with stage.database() as database, stage.topic() as topic:
        projectors.prepare(database)
        with (
            relays.running(stage, database) as relay,
            projectors.running(stage, database, topic) as projector,
        ):
            relay.wait_until_leading()
            _wait_until_reading(database, topic, projector)
            words: dict[str, Any] = {"dsn": database.dsn, "topic": topic, "rate": rate}
            if worker == "writer":
                words |= {"insert": Ours.insert, "out": stage.folder / "commits", "first": 10_000_000}
            with stage.working(worker, **words, seconds=seconds + _WARM_SECONDS) as process:
                looks = _looks(database, seconds, [relay.check, projector.check, partial(_check, process)])
    return judged(looks)


def judged(looks: Sequence[tuple[float, int, int]]) -> Driven:
    """What looks (seconds, written, applied) say: a lag is the seconds for which the unapplied ones were written."""
    (began, written, applied), (ended, last_written, last_applied) = looks[0], looks[-1]
    pace = (last_written - written) / (ended - began)
    if pace <= 0:
        raise BenchFailed("nothing was written")
    lags = [(there - done) / pace for _, there, done in looks]
    slope = statistics.linear_regression([at for at, _, _ in looks], lags).slope
    rate = (last_applied - applied) / (ended - began)
    return Driven(rate, percentile(lags, 0.5), percentile(lags, 0.99), max(0.0, slope * 60))


def _looks(database: Database, seconds: float, checks: Sequence[Any]) -> list[tuple[float, int, int]]:
    time.sleep(_WARM_SECONDS / 2)
    found = []
    until = time.monotonic() + seconds
    with rows.connect(database) as connection:
        while (now := time.monotonic()) < until:
            written, applied = connection.execute(_LOOK, (ledger.NAME,)).fetchone() or (0, 0)
            found.append((now, int(written), int(applied)))
            for check in checks:
                check()
            time.sleep(_LOOK_SECONDS)
    return found


def _check(writer: subprocess.Popen[str]) -> None:
    if writer.poll() is not None:
        raise BenchFailed(f"the writer ended with {writer.returncode}")


def _wait_until_reading(database: Database, topic: str, projector: projectors.Running) -> None:
    """One event all the way proves that the group has its partitions."""
    rows.fill(database, topic, 1)
    until = time.monotonic() + 60
    with rows.connect(database) as connection:
        while not (connection.execute(projectors.LOOK, (ledger.NAME,)).fetchone() or (0,))[0]:
            projector.check()
            if time.monotonic() > until:
                raise BenchFailed("the projector does not read")
            time.sleep(_LOOK_SECONDS)
