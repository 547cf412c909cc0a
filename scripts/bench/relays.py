"""The product's relay as a process of its own, and what one drain of a backlog took.

What is measured is the command `kylo-outbox relay` itself. Its pace is read from the cursors that it stores: rows
acknowledged between the first and the last movement, by the database's clock. Starting the interpreter is no part of
it; the last movement comes up to a tenth of a second after the last acknowledgement and counts against the relay.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from kylo_outbox.local.processes import tail_of
from scripts.bench import rows
from scripts.bench.stage import ROOT, BenchFailed, Stage, cpu_seconds, end

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kylo_outbox.store.engine import Database
    from scripts.bench.rows import Progress

_LOOK_SECONDS = 0.02
_READY_SECONDS = 60.0
_BACKENDS = """
select pid from pg_stat_activity where application_name like 'kylo-outbox relay%' and datname = current_database()
"""
_LEADS = """
select count(*) filter (where holder is not null and lease_until > clock_timestamp()), count(*)
  from kylo.lanes where parent is null
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds of the relay, of the PostgreSQL processes that serve it, and of the broker."""

    relay: float
    database: float
    broker: float

    def since(self, former: Spent) -> Spent:
        """What was added."""
        return Spent(self.relay - former.relay, self.database - former.database, self.broker - former.broker)

    @property
    def total(self) -> float:
        """All three."""
        return self.relay + self.database + self.broker


@dataclass(slots=True)
class Relay:
    """One running relay process."""

    process: subprocess.Popen[str]
    database: Database
    log: Path
    broker: psutil.Process | None
    watched: psutil.Process = field(init=False)

    def __post_init__(self) -> None:
        self.watched = psutil.Process(self.process.pid)

    def spent(self) -> Spent:
        """CPU seconds so far of everyone who works on a drain."""
        broker = cpu_seconds(self.broker) if self.broker is not None else 0.0
        return Spent(self.cpu(), self.database_cpu(), broker)

    def cpu(self) -> float:
        """CPU seconds of the process so far."""
        return cpu_seconds(self.watched)

    def database_cpu(self) -> float:
        """CPU seconds so far of the PostgreSQL processes that serve relays of this database."""
        with rows.connect(self.database) as connection:
            pids = [pid for [pid] in connection.execute(_BACKENDS)]
        total = 0.0
        for pid in pids:
            with suppress(psutil.Error):
                total += cpu_seconds(psutil.Process(pid))
        return total

    def check(self) -> None:
        """Raise when the process has ended."""
        if self.process.poll() is not None:
            raise BenchFailed(f"the relay ended with {self.process.returncode}{tail_of(self.log)}")

    def wait_until_leading(self) -> None:
        """Wait until every lane of the database is held."""
        until = time.monotonic() + _READY_SECONDS
        with rows.connect(self.database) as connection:
            while True:
                held, lanes = connection.execute(_LEADS).fetchone() or (0, 1)
                if held == lanes:
                    return
                self.check()
                if time.monotonic() > until:
                    raise BenchFailed(f"no relay took the lane{tail_of(self.log)}")
                time.sleep(_LOOK_SECONDS)


@dataclass(frozen=True, slots=True)
class Drained:
    """One drain: how many rows in how many seconds, and the CPU seconds of everyone meanwhile."""

    rows: int
    seconds: float
    cpu: Spent

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


@contextmanager
def running(stage: Stage, database: Database, *, brokers: str = "", acks: Path | None = None) -> Iterator[Relay]:
    """A relay beside the block; stopped with SIGTERM afterwards.

    Args:
        stage: Where it runs.
        database: Its control database.
        brokers: Another door of the broker than the ordinary one.
        acks: Where to note the moment of each acknowledgement (`workers/recorded_relay.py`): the same command, with
            the client's delivery reports passing through a recorder.
    """
    door = {"KAFKA_BROKERS": brokers} if brokers else {}
    env = stage.environment(**stage.settings(database) | door)
    argv = [sys.executable, "-m", "kylo_outbox", "relay"]
    if acks is not None:
        argv = [sys.executable, "-m", "scripts.bench.workers.recorded_relay", str(acks)]
    log = stage.folder / "relay.log"
    with log.open("a") as out:
        process = subprocess.Popen(argv, cwd=ROOT, env=env, text=True, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        broker = stage.kafka.handle()
        yield Relay(process, database, log, broker.process() if broker else None)
    finally:
        end(process)


def drain(relay: Relay, count: int, *, begun: int | None = None, seconds: float = 1_200.0) -> Drained:
    """Wait until `count` more rows are acknowledged; what it took between the first and the last cursor.

    `begun` is how many were acknowledged before, if the relay may have worked since.

    Raises:
        BenchFailed: the relay ended, or the time was not enough.
    """
    until = time.monotonic() + seconds
    with rows.connect(relay.database) as connection:
        begun = rows.progress(connection).acknowledged if begun is None else begun

        def wait_for(acknowledged: int) -> Progress:
            while (now := rows.progress(connection)).acknowledged < acknowledged:
                relay.check()
                if time.monotonic() > until:
                    raise BenchFailed(f"{now.acknowledged - begun} of {count} rows after {seconds:.0f} s")
                time.sleep(_LOOK_SECONDS)
            return now

        first = wait_for(begun + 1)
        cpu = relay.spent()
        last = wait_for(begun + count)
        cpu = relay.spent().since(cpu)
    if last.at <= first.at:
        raise BenchFailed(f"{count} rows are too few to measure: give a larger --scale")
    return Drained(last.acknowledged - first.acknowledged, last.at - first.at, cpu)


def drain_backlog(stage: Stage, database: Database, topic: str, count: int, *, brokers: str = "") -> Drained:
    """Fill a backlog, start a relay on it, and wait until it is gone."""
    rows.fill(database, topic, count)
    with running(stage, database, brokers=brokers) as relay:
        return drain(relay, count)
