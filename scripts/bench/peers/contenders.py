"""The relays of a comparison behind one face: make the table, fill it, run, and the statement that adds one event."""

from __future__ import annotations

import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kylo_outbox.local.processes import tail_of
from scripts.bench import pace, relays, rows
from scripts.bench.peers import reference
from scripts.bench.stage import ROOT, BenchFailed, Stage, end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from kylo_outbox.store.engine import Database


_WARM_SECONDS = 300.0


class Contender(ABC):
    """A relay that takes part. `insert` adds one event, with `topic`, `key` and `payload` (text) as values."""

    name: str
    insert: str

    def prepare(self, stage: Stage, database: Database, topic: str) -> None:
        """Make what it reads from, once a database; the outbox is there already."""
        del stage, database, topic

    @abstractmethod
    def fill(self, database: Database, topic: str, count: int) -> None:
        """Add a backlog."""

    @abstractmethod
    def running(self, stage: Stage, database: Database, topic: str) -> Any:
        """Run it beside a block that is given a function which raises when it is dead."""

    def warm(self, stage: Stage, database: Database, topic: str, check: Callable[[], None]) -> None:
        """Wait until a first event has come through, and so everything is up. Its payload has no number."""
        until = time.monotonic() + _WARM_SECONDS
        with pace.consumer(stage) as look, rows.connect(database) as connection:
            before = pace.records(look, topic)
            connection.execute(self.insert, {"topic": topic, "key": "first", "payload": "{}"})
            while pace.records(look, topic) == before:
                check()
                if time.monotonic() > until:
                    raise BenchFailed(f"{self.name} sent nothing within {_WARM_SECONDS:.0f} s")
                time.sleep(0.1)


class Ours(Contender):
    """The product's own command."""

    name = "kylo-outbox"
    insert = "select kylo.emit(%(topic)s, %(key)s, 'BENCH', %(payload)s::text)"

    def fill(self, database: Database, topic: str, count: int) -> None:
        """Rows in the outbox."""
        rows.fill(database, topic, count)

    @contextmanager
    def running(self, stage: Stage, database: Database, topic: str) -> Iterator[Callable[[], None]]:
        """`kylo-outbox relay`."""
        del topic
        with relays.running(stage, database) as relay:
            yield relay.check


class Reference(Contender):
    """One of the styles of `reference`."""

    insert = reference.INSERT

    def __init__(self, style: str, name: str) -> None:
        self.style, self.name = style, name

    def prepare(self, stage: Stage, database: Database, topic: str) -> None:
        """Its table."""
        del stage, topic
        with rows.connect(database) as connection:
            reference.prepare(connection, self.style)

    def fill(self, database: Database, topic: str, count: int) -> None:
        """Rows in its table, with the statistics that a table of some age has."""
        with rows.connect(database) as connection:
            values = {"topic": topic, "count": count, "keys": rows.KEYS, "size": rows.PAYLOAD}
            connection.execute(reference.FILL, values)
            connection.execute("analyze public.bench_outbox")

    @contextmanager
    def running(self, stage: Stage, database: Database, topic: str) -> Iterator[Callable[[], None]]:
        """`scripts.bench.peers.reference`."""
        del topic
        argv = [sys.executable, "-m", "scripts.bench.peers.reference"]
        argv += [f"--style={self.style}", f"--dsn={database.dsn}", f"--brokers={stage.kafka.bootstrap}"]
        with program(argv, stage.folder / f"{self.style}.log", stage.environment()) as check:
            yield check


TEXTBOOK = Reference("row", "textbook relay, row by row")
BATCHED = Reference("batch", "textbook relay, our batch size")
BEST = Reference("best", "best relay that marks by update")


def asked_for(stage: Stage) -> Sequence[Contender]:
    """The programs of others that this run was told to compare with."""
    from scripts.bench.peers import debezium, faststream  # noqa: PLC0415 - they know contenders

    known: dict[str, Contender] = {"debezium": debezium.Debezium(), "faststream": faststream.FastStream()}
    return [known[name] for name in sorted(stage.options.peers)]


@contextmanager
def named(contender: Contender) -> Iterator[None]:
    """Whatever fails in the block says whose failure it is."""
    try:
        yield
    except BenchFailed as failed:
        raise BenchFailed(f"{contender.name}: {failed}") from None


@contextmanager
def program(argv: Sequence[str], log: Path, env: dict[str, str], *, cwd: Path = ROOT) -> Iterator[Callable[[], None]]:
    """A program beside the block, ended with it; the block is given a function that raises when it is dead."""
    with log.open("a", encoding="utf-8") as out:
        process = subprocess.Popen(argv, cwd=cwd, env=env, text=True, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def check() -> None:
        if process.poll() is not None:
            raise BenchFailed(f"{argv[0]} ended with {process.returncode}{tail_of(log)}")

    try:
        yield check
    finally:
        end(process)
