"""The stage of soaks: a real PostgreSQL and a real Kafka behind doors, databases and topics for one run each."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kylo_outbox.local import paths
from kylo_outbox.local.kafka import LocalKafka
from kylo_outbox.local.postgres import LocalPostgres
from kylo_outbox.store import fixtures
from tests.soak.door import Door

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TEMPLATE = "kylo_template"
_POSTGRES = {"max_connections": "100", "shared_buffers": "64MB", "max_prepared_transactions": "10"}
# A killed broker may register again as soon as the session of its former life is over.
_KAFKA = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "400"}


class Stage:
    """Servers whose whole state lies in `folder`.

    `postgres.dsn()` and `kafka.bootstrap` are the back doors, for whoever looks on; everybody else comes through
    `doors`, also after the broker has told its address.
    """

    def __init__(self, folder: Path) -> None:
        """Choose ports; nothing runs before `start`."""
        self.folder = folder
        self.postgres = LocalPostgres(
            folder / "postgres", paths.free_port(), log_file=folder / "postgres.log", settings=_POSTGRES
        )
        port, controller, behind = (paths.free_port() for _ in range(3))
        self.doors = {"PostgreSQL": Door(self.postgres.port), "Kafka": Door(behind)}
        here, front = paths.LOOPBACK, self.doors["Kafka"].port
        self.kafka = LocalKafka(
            folder / "kafka",
            port,
            controller,
            log_file=folder / "kafka.log",
            heap="384m",
            settings=_KAFKA
            | {
                "listeners": f"PLAINTEXT://{here}:{port},FRONT://{here}:{behind},CONTROLLER://{here}:{controller}",
                "advertised.listeners": f"PLAINTEXT://{here}:{port},FRONT://{here}:{front}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,FRONT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            },
        )

    @contextmanager
    def running(self) -> Iterator[Stage]:
        """Start both servers and open their doors; all of it is gone at the end of the block."""
        for door in self.doors.values():
            door.open()
        try:
            self.postgres.start()
            self.kafka.start()
            fixtures.ensure_template(self.postgres.dsn("postgres"), self.postgres.dsn(_TEMPLATE), _TEMPLATE)
            yield self
        finally:
            self.kafka.kill()
            self.postgres.kill()
            for door in self.doors.values():
                door.close()

    @property
    def front_bootstrap(self) -> str:
        """The broker through its door."""
        return f"{paths.LOOPBACK}:{self.doors['Kafka'].port}"

    def front_dsn(self, database: str) -> str:
        """A database through its server's door."""
        return self.postgres.dsn(database).replace(f":{self.postgres.port}/", f":{self.doors['PostgreSQL'].port}/")

    @contextmanager
    def database(self) -> Iterator[str]:
        """The name of a migrated database of one run; dropped afterwards."""
        name = f"soak_{uuid.uuid4().hex[:8]}"
        fixtures.clone(self.postgres.dsn("postgres"), self.postgres.dsn(name), _TEMPLATE, name).close()
        try:
            yield name
        finally:
            fixtures.drop(self.postgres.dsn("postgres"), name)
