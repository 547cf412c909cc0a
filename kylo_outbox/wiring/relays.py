"""The relay process: one supervised relay a store, found in the directory every few seconds, and the upkeep jobs."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from kylo_outbox.flows.direct import DirectDelivery
from kylo_outbox.flows.housekeeping import Housekeeping
from kylo_outbox.flows.relay import Relay, RelayState
from kylo_outbox.kafka.contact import BrokerContact
from kylo_outbox.kafka.lag import Lag
from kylo_outbox.kafka.producer import NoBroker, Publisher
from kylo_outbox.runtime.backoff import Idling
from kylo_outbox.runtime.schedule import Schedule
from kylo_outbox.store.identity import require_own
from kylo_outbox.store.outbox import stored_rows
from kylo_outbox.store.session import LaneSession
from kylo_outbox.telemetry import metrics
from kylo_outbox.wiring.parts import Heart, Parts, kafka_address, require_schema
from kylo_outbox.wiring.projectors import NAMES, groups, kylo_topics, named, projection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kylo_outbox.runtime.stop import Stop
    from kylo_outbox.store.engine import Database


def _measure_lag(lag: Lag, of: Mapping[str, Sequence[str]]) -> None:
    """Show how far each group is behind; asked for by relays, because the API needs no broker."""
    oldest: dict[tuple[str, str], float] = {}
    for part in lag.of(of):
        metrics.CONSUMER_LAG_MESSAGES.labels(part.group, part.topic, str(part.partition)).set(part.messages)
        place = (part.group, part.topic)
        oldest[place] = max(oldest.get(place, 0.0), part.seconds or 0.0)
    for place, seconds in oldest.items():
        metrics.CONSUMER_LAG_SECONDS.labels(*place).set(seconds)


class RelayProcess:
    """`kylo-outbox relay`. Any number may run: each lane has one leader, the others stand by."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        settings = parts.settings
        # Without Kafka at all the direct companies are still served; what is for Kafka is held until there is one.
        self._needs_kafka = settings.route_via_kafka or settings.kafka_brokers is not None
        self._address = kafka_address(settings) if self._needs_kafka else None
        self._contact = BrokerContact(self._address) if self._address else None
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._projections = [] if settings.all_via_kafka else [projection(parts, named(parts, name)) for name in NAMES]
        self._company_topics = frozenset(kylo_topics(settings))
        self._states: dict[str, RelayState] = {}

    def check(self) -> None:
        """Refuse to start without schema and, where anything travels over it, a broker."""
        require_schema(self._parts)
        with self._parts.control.begin() as connection:
            require_own(connection)
        if self._contact is not None and self._parts.settings.route_via_kafka:
            self._contact.require()

    def run(self, stop: Stop) -> None:
        """Run until `stop`; then drain what is in flight, store the cursors and give the lanes up."""
        schedule = Schedule(stop)
        heart = Heart(self._parts.control, "relay", self._state)
        upkeep = Housekeeping(self._databases, self._parts.settings.outbox_retention)
        schedule.every(5.0, "stores", partial(self._look_for_stores, schedule))
        schedule.every(1.0, "heartbeat", heart.beat)
        schedule.every(3600.0, "old heartbeats", heart.prune)
        schedule.every(60.0, "housekeeping", upkeep.run_once)
        for each in self._projections:
            schedule.every(1.0, f"released keys of {each.projector.name}", each.tend)
        if self._contact is not None:
            schedule.every(3.0, "broker contact", self._contact.ask)
        if self._address is not None:
            schedule.every(10.0, "lag", partial(_measure_lag, Lag(self._address), groups(self._parts.settings)))
        schedule.start()
        stop.wait()
        schedule.stop()

    def _look_for_stores(self, schedule: Schedule) -> None:
        for database in self._databases():
            if database.dsn not in self._states:
                state = self._states[database.dsn] = RelayState(store=database.name, lane=0)
                schedule.keep_running(f"relay {database.name}", partial(self._relay, database, state))

    def _databases(self) -> list[Database]:
        return [store.database for store in self._parts.directory.stores() if not store.problem]

    def _relay(self, database: Database, state: RelayState) -> Relay:
        settings = self._parts.settings
        with database.begin() as connection:
            own = require_own(connection)
        direct = None
        if self._projections:
            direct = DirectDelivery(
                store=(own.store_id, own.generation),
                topics=kylo_topics(settings),
                is_direct=lambda company: not settings.via_kafka(company),
                projections=self._projections,
                stored_rows=partial(stored_rows, database),
            )
        idling = Idling()
        return Relay(
            state=state,
            holder=self._holder,
            open_session=lambda: LaneSession(database.dsn, database.name),
            open_publisher=self._publisher,
            direct=direct,
            interval=settings.relay_interval,
            idle=lambda worked: idling.pause(worked=worked),
            is_paused=self._is_paused,
        )

    def _is_paused(self, topic: str, key: bytes) -> bool:
        if topic not in self._company_topics:
            return False
        company = self._parts.directory.company(key.decode())
        return company is not None and company.paused

    def _publisher(self, store_id: str, generation: int) -> Publisher | NoBroker:
        return Publisher(self._address, store_id, generation) if self._address else NoBroker()

    def _state(self) -> dict[str, Any]:
        states = list(self._states.values())
        for state in states:
            metrics.RELAY_IS_LEADER.labels(state.store, str(state.lane)).set(state.leading)
            if state.last_success:
                metrics.RELAY_LAST_SUCCESS.labels(state.store).set(state.last_success)
        return {
            "leader": any(state.leading for state in states),
            "publishing": any(state.publishing for state in states),
            "via_kafka": self._parts.settings.route_via_kafka,
            "broker_contact_age_seconds": self._contact.age() if self._contact else None,
            "published": sum(state.published for state in states),
            "failed": sum(state.failed for state in states),
            "last_success": max((state.last_success for state in states if state.last_success), default=None),
            "lanes": [
                {"store": state.store, "lane": state.lane, "leader": state.leading, "held_keys": len(state.held_keys)}
                for state in states
            ],
        }
