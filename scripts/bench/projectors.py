"""The command `kylo-outbox project` as a process of its own, and what it took to read a topic to its end.

Its pace is read from the positions that it stores: events taken between the first and the last movement that were
seen, by the database's clock. Starting the interpreter and joining the group are no part of it.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from kylo_outbox.local.processes import tail_of
from scripts.bench import ledger, rows
from scripts.bench.stage import ROOT, BenchFailed, cpu_seconds, end

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

_LOOK_SECONDS = 0.02
LOOK = """
select coalesce(sum(applied), 0)::bigint, coalesce(extract(epoch from max(moved_at)), 0)::float8
  from kylo.positions where projector = %s
"""


@dataclass(slots=True)
class Running:
    """One projector process."""

    process: subprocess.Popen[str]
    log: Path
    watched: psutil.Process = field(init=False)

    def __post_init__(self) -> None:
        self.watched = psutil.Process(self.process.pid)

    def check(self) -> None:
        """Raise when it has ended."""
        if self.process.poll() is not None:
            raise BenchFailed(f"the projector ended with {self.process.returncode}{tail_of(self.log)}")


@dataclass(frozen=True, slots=True)
class Applied:
    """One catch-up: events, seconds, and CPU seconds of the process meanwhile."""

    events: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


def prepare(database: Database) -> None:
    """Make the table of the ledger."""
    with rows.connect(database) as connection:
        connection.execute(ledger.TABLE)


@contextmanager
def running(stage: Stage, database: Database, topic: str, *, moments: Path | None = None) -> Iterator[Running]:
    """A projector beside the block, in a group of its own; stopped with SIGTERM afterwards.

    With `moments` the moment at which each event was applied is noted there (`workers/recorded_project.py`).
    """
    env = stage.environment(**stage.settings(database), BENCH_TOPIC=topic, BENCH_GROUP=f"bench-{uuid.uuid4().hex[:8]}")
    argv = [sys.executable, "-m", "kylo_outbox"]
    if moments is not None:
        argv = [sys.executable, "-m", "scripts.bench.workers.recorded_project", str(moments)]
    log = stage.folder / "projector.log"
    with log.open("a") as out:
        process = subprocess.Popen(
            [*argv, "project", "scripts.bench.ledger:Ledger"],
            cwd=ROOT,
            env=env,
            text=True,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield Running(process, log)
    finally:
        end(process)


def catch_up(stage: Stage, topic: str, count: int, seconds: float = 600.0) -> Applied:
    """Let a new projector read all `count` events of a topic into a new database.

    Raises:
        BenchFailed: it ended, the time was not enough, or the table does not hold each event once.
    """
    with stage.database() as database:
        prepare(database)
        with running(stage, database, topic) as made, rows.connect(database) as connection:
            until = time.monotonic() + seconds

            def wait_for(wanted: int) -> tuple[int, float]:
                while True:
                    applied, at = connection.execute(LOOK, (ledger.NAME,)).fetchone() or (0, 0.0)
                    if applied >= wanted:
                        return applied, at
                    made.check()
                    if time.monotonic() > until:
                        raise BenchFailed(f"{applied} of {count} events were applied{tail_of(made.log)}")
                    time.sleep(_LOOK_SECONDS)

            first, begun = wait_for(1)
            cpu = cpu_seconds(made.watched)
            last, ended = wait_for(count)
            cpu = cpu_seconds(made.watched) - cpu
            [there] = connection.execute("select count(*) from public.bench_ledger").fetchone() or (0,)
    if there != count:
        raise BenchFailed(f"the table holds {there} of {count} events")
    if ended <= begun:
        raise BenchFailed(f"{count} events are too few to measure: give a larger --scale")
    return Applied(last - first, ended - begun, cpu)
