"""What every process shares: the control database, the directory of stores, Kafka's address, readiness at the start."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from tenacity import Retrying, retry_if_exception_type, wait_exponential

from kylo_outbox.flows.rules import Rules
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.model.errors import Misconfigured, NotReady, Transient
from kylo_outbox.model.topics import declared
from kylo_outbox.runtime.clocks import ClockWatch
from kylo_outbox.store import heartbeats, migrate
from kylo_outbox.store.directory import Directory
from kylo_outbox.store.dsn import resolve
from kylo_outbox.store.engine import Database
from kylo_outbox.store.isolation import require_unbound
from kylo_outbox.store.server import clock
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from kylo_outbox.kafka.contact import BrokerContact
    from kylo_outbox.runtime.schedule import Schedule
    from kylo_outbox.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """Built once per process; `close` gives the connections back."""

    settings: Settings
    control: Database
    directory: Directory

    def close(self) -> None:
        """Close every connection of every store."""
        self.directory.close()


def build(settings: Settings, *, pool_size: int = 5) -> Parts:
    """Build the shared parts; nothing is connected yet.

    Raises:
        Misconfigured: without PG_DSN_RW, or if it cannot be read.
    """
    control = Database(control_dsn(settings), name="the control database", pool_size=pool_size)
    return Parts(settings, control, Directory(control, settings.environ))


def control_dsn(settings: Settings) -> str:
    """The control database's connection string.

    Raises:
        Misconfigured: without PG_DSN_RW, or if it cannot be read.
    """
    if settings.pg_dsn_rw is None:
        raise Misconfigured("PG_DSN_RW is not set; start a local stack (`kylo-outbox up`) or point it to a database")
    return resolve(settings.pg_dsn_rw, settings.environ, "PG_DSN_RW")


def kafka_address(settings: Settings) -> KafkaAddress:
    """Where the brokers are.

    Raises:
        Misconfigured: without KAFKA_BROKERS.
    """
    if settings.kafka_brokers is None:
        raise Misconfigured("KAFKA_BROKERS is not set; start a local stack (`kylo-outbox up`) or point it to a broker")
    return KafkaAddress(
        brokers=settings.kafka_brokers,
        client_id=settings.kafka_client_id,
        security_protocol=settings.kafka_security_protocol,
        sasl_mechanism=settings.kafka_sasl_mechanism,
        sasl_username=settings.kafka_sasl_username,
        sasl_password=settings.kafka_sasl_password,
        ssl_cafile=settings.kafka_ssl_cafile,
        ssl_certfile=settings.kafka_ssl_certfile,
        ssl_keyfile=settings.kafka_ssl_keyfile,
        ssl_key_password=settings.kafka_ssl_key_password,
    )


def rules_of(parts: Parts) -> Rules:
    """What people do with rules, on these stores."""
    directory = parts.directory
    return Rules(parts.control, parts.settings.topic_promote, directory.company, directory.database_of)


def require_schema(parts: Parts) -> None:
    """Refuse to start on a schema that is not this release's.

    Raises:
        Unreachable, NotReady: in one line with the remedy.
    """
    migrate.require_head(parts.control, "store")
    migrate.require_head(parts.control, "control")
    with parts.control.begin() as connection:
        require_unbound(connection)


def require_topics(settings: Settings, contact: BrokerContact, topics: Sequence[str]) -> None:
    """Refuse to start reading topics that do not exist, or declared ones whose partition count was changed.

    Raises:
        Unreachable, NotReady: in one line with the remedy.
    """
    contact.require()
    found = contact.partitions(topics)
    missing = sorted(set(topics) - found.keys())
    if missing:
        raise NotReady(f"topics missing: {', '.join(missing)}; run `kylo-outbox topics apply`")
    for topic in declared(settings.topic_txns, settings.topic_promote):
        if topic.name in found and found[topic.name] != topic.partitions:
            raise NotReady(
                f"{topic.name} has {found[topic.name]} partitions, declared are {topic.partitions}: keys have moved; "
                "`kylo-outbox topics verify` tells what can be done"
            )


def when_ready(check: Callable[[], None], *, wait: bool, tell: Callable[[str], None]) -> None:
    """Run the start-up checks; with `wait`, again and again until they pass, telling why each time it changes."""
    told: list[str] = []

    def attempt() -> None:
        try:
            check()
        except (Transient, NotReady) as not_yet:
            if wait and told[-1:] != [str(not_yet)]:
                told.append(str(not_yet))
                tell(f"waiting: {not_yet}")
            raise

    if not wait:
        attempt()
        return
    Retrying(
        retry=retry_if_exception_type((Transient, NotReady)), wait=wait_exponential(multiplier=0.2, max=2), reraise=True
    )(attempt)


class Heart:
    """Writes this process' heartbeat: what it does, how its loops and its clock go, and what it counted."""

    def __init__(
        self, control: Database, part: str, state: Callable[[], Mapping[str, Any]], schedule: Schedule
    ) -> None:
        self._control, self._part, self._state, self._schedule = control, part, state, schedule
        self._clocks = ClockWatch()
        self._started = datetime.now(UTC)
        self._instance = f"{socket.gethostname()}:{os.getpid()}:{self._started:%H%M%S}"

    def beat(self) -> None:
        """Write the row."""
        with self._control.transaction() as tx:
            clocks = self._clocks.look(partial(clock, tx))
            self._write(tx, {**self._state(), "loops": self._schedule.report(), "clock": clocks})

    def stop(self) -> None:
        """Say that this process ends as it was asked to; while the database is away nobody can be told."""
        try:
            with self._control.transaction() as tx:
                self._write(tx, {"stopped": True})
        except Transient as away:
            log.info("the end is not noted: %s", away)

    def _write(self, tx: Any, state: Mapping[str, Any]) -> None:
        heartbeats.beat(tx, self._part, self._instance, self._started, state, metrics.samples())

    def prune(self) -> None:
        """Fold processes that have been silent for a day into one row."""
        with self._control.transaction() as tx:
            heartbeats.prune(tx, 86400.0)
