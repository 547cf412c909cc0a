"""The relay process: one supervised relay a store, found in the directory every few seconds, and the upkeep jobs."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from kylo_outbox.flows.delayed import DelayedEvents
from kylo_outbox.flows.direct import DirectDelivery
from kylo_outbox.flows.housekeeping import Housekeeping
from kylo_outbox.flows.relay import Relay, RelayState
from kylo_outbox.flows.witnesses import Witnesses
from kylo_outbox.kafka.contact import BrokerContact
from kylo_outbox.kafka.fenced import FencedPublisher
from kylo_outbox.kafka.lag import Lag
from kylo_outbox.kafka.producer import NoBroker, Publisher
from kylo_outbox.model.errors import Transient
from kylo_outbox.runtime.schedule import Schedule
from kylo_outbox.store import heartbeats, lanes
from kylo_outbox.store.history import moment, published_rows
from kylo_outbox.store.identity import require_own
from kylo_outbox.store.pauses import Pauses
from kylo_outbox.store.session import LaneSession
from kylo_outbox.telemetry import metrics
from kylo_outbox.wiring.history import Outbox, missing
from kylo_outbox.wiring.lagging import LAG_EVERY, LagWatch
from kylo_outbox.wiring.parts import Heart, Parts, kafka_address, require_schema
from kylo_outbox.wiring.projectors import (
    NAMES,
    RETURNED_EVERY,
    TELLING,
    announce_unposted,
    groups,
    kylo_topics,
    named,
    projection,
)
from kylo_outbox.wiring.sharing import leads_too_many
from kylo_outbox.wiring.verify import verifier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kylo_outbox.flows.direct import Settles
    from kylo_outbox.flows.unread import Unread
    from kylo_outbox.runtime.stop import Stop
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.history import Moment

log = logging.getLogger(__name__)
_ANSWERS = 10.0


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
        self._stop: Stop | None = None
        direct = [] if settings.all_via_kafka else [named(parts, name) for name in NAMES]
        self._projections = [projection(parts, each, self._is_stopping) for each in direct]
        self._company_topics = frozenset(kylo_topics(settings))
        self._witnesses = Witnesses(self._databases)
        self._states: dict[tuple[str, int], RelayState] = {}
        self._relays: dict[tuple[str, int], Relay] = {}
        self._directs: dict[tuple[str, int], DirectDelivery] = {}
        self._progress = LagWatch()

    def check(self) -> None:
        """Refuse to start without schema and, where anything travels over it, a broker."""
        require_schema(self._parts)
        with self._parts.control.begin() as connection:
            require_own(connection)
        if self._contact is not None and self._parts.settings.route_via_kafka:
            self._contact.require()

    def run(self, stop: Stop) -> None:
        """Run until `stop`; then drain what is in flight, store the cursors and give the lanes up."""
        self._stop = stop
        schedule = Schedule(stop)
        heart = Heart(self._parts.control, "relay", self._state, schedule)
        delayed = DelayedEvents(self._databases)
        upkeep = Housekeeping(self._databases, self._parts.settings.outbox_retention)
        schedule.every(5.0, "stores", partial(self._look_for_stores, schedule))
        schedule.every(1.0, "heartbeat", heart.beat)
        schedule.every(5.0, "lanes", self._share_lanes, at_once=False)
        schedule.every(3600.0, "old heartbeats", heart.prune)
        schedule.every(0.2, "delayed events", delayed.run_once)
        schedule.every(60.0, "housekeeping", upkeep.run_once)
        schedule.every(10.0, "witnesses", self._witnesses.run_once)
        if every := self._parts.settings.verify_every:
            own = [named(self._parts, name) for name in TELLING]
            schedule.every(
                every, "verify", partial(verifier(self._parts, own, stop.is_set).run_job, every), at_once=False
            )
        if self._projections and self._contact is not None:
            schedule.every(300.0, "keys that stay on Kafka", self._look_again, at_once=False)
        for each in self._projections:
            schedule.every(1.0, f"released keys of {each.projector.name}", each.tend)
        if self._projections and self._parts.settings.sheets_post:
            # Where no projectors' process runs, nobody else would.
            schedule.every(RETURNED_EVERY, "tabs of stores that are back", announce_unposted(self._parts).returned)
        if self._contact is not None:
            schedule.every(3.0, "broker contact", self._contact.ask)
        if self._address is not None:
            watched = groups(self._parts.settings)
            schedule.every(LAG_EVERY, "lag", partial(self._measure_lag, Lag(self._address), watched))
        schedule.start()
        stop.wait()
        schedule.stop()
        heart.stop()
        delayed.close()

    def states(self) -> list[RelayState]:
        """What each relay of this process says of itself, one a lane of each store."""
        return list(self._states.values())

    def _is_stopping(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    def _look_for_stores(self, schedule: Schedule) -> None:
        for database in self._databases():
            try:
                with database.transaction() as tx:
                    numbers = lanes.numbers(tx)
            except Transient as away:
                log.warning("no relay for %s yet: %s", database.name, away)
                continue
            for lane in numbers:
                if (database.dsn, lane) not in self._states:
                    state = self._states[database.dsn, lane] = RelayState(store=database.name, lane=lane)
                    schedule.keep_running(state.name, partial(self._relay, database, state))

    def _share_lanes(self) -> None:
        leading = [place for place, state in self._states.items() if state.leading]
        several = [dsn for dsn, number in Counter(dsn for dsn, _ in leading).items() if number > 1]
        if not several:
            return
        with self._parts.control.transaction() as tx:
            beats = heartbeats.read(tx)
        for dsn in several:
            mine = [place for place in leading if place[0] == dsn]
            if leads_too_many(self._states[mine[0]].store, len(mine), beats):
                log.info("%s goes to another relay process", self._states[mine[-1]].name)
                self._relays[mine[-1]].step_down()

    def _look_again(self) -> None:
        """Lanes with keys that stay on Kafka are taken anew where the broker answers: they may be read by now."""
        age = self._contact.age() if self._contact else None
        if age is None or age > _ANSWERS:
            return
        for place, direct in list(self._directs.items()):
            if direct.on_kafka and self._states[place].leading:
                self._relays[place].step_down()

    def _measure_lag(self, lag: Lag, of: Mapping[str, Sequence[str]]) -> None:
        # On the direct path what lies in Kafka is not read, on purpose.
        self._progress.look(lag.of(of), judge=self._parts.settings.route_via_kafka)

    def _databases(self) -> list[Database]:
        return [store.database for store in self._parts.directory.stores() if not store.problem]

    def _relay(self, database: Database, state: RelayState) -> Relay:
        settings = self._parts.settings
        with database.begin() as connection:
            own = require_own(connection)
        direct = None
        if self._projections:
            direct = self._directs[database.dsn, state.lane] = self._direct(database, own.store_id)
        relay = self._relays[database.dsn, state.lane] = Relay(
            state=state,
            holder=self._holder,
            open_session=partial(self._session, database),
            open_publisher=partial(self._publisher, state.lane),
            direct=direct,
            interval=settings.relay_interval,
            is_paused=partial(self._is_paused, Pauses(database)),
        )
        return relay

    def _direct(self, database: Database, store_id: str) -> DirectDelivery:
        settings = self._parts.settings

        def is_direct(company: str) -> bool:
            return not settings.via_kafka(company)

        def from_log(applies: Settles, topic: str, at: Moment) -> Unread:
            return missing(self._parts, applies, topic, [Outbox(database, store_id, at)], is_direct)

        return DirectDelivery(
            store_id=store_id,
            topics=kylo_topics(settings),
            is_direct=is_direct,
            projections=self._projections,
            moment=partial(moment, database),
            published_rows=lambda topics, at: published_rows(database, topics, at=at),
            missing=None if self._address is None else from_log,
        )

    def _session(self, database: Database) -> LaneSession:
        self._witnesses.check(database)
        return LaneSession(database.dsn, database.name)

    def _is_paused(self, pauses: Pauses, topic: str, key: bytes) -> bool:
        if pauses.covers(topic, key):
            return True
        if topic not in self._company_topics:
            return False
        company = self._parts.directory.company(key.decode())
        return company is not None and company.paused

    def _publisher(self, lane: int, store_id: str) -> Publisher | NoBroker:
        if self._address is None:
            return NoBroker()
        if self._parts.settings.relay_fencing == "kafka":
            return FencedPublisher(self._address, store_id, lane)
        return Publisher(self._address, store_id)

    def _state(self) -> dict[str, Any]:
        states = list(self._states.values())
        for state in states:
            metrics.RELAY_IS_LEADER.labels(state.store, str(state.lane)).set(state.leading)
            metrics.RELAY_BREAKER_OPEN.labels(state.store, str(state.lane)).set(bool(state.breaker))
            if state.last_success:
                metrics.RELAY_LAST_SUCCESS.labels(state.store).set(state.last_success)
        return {
            "leader": any(state.leading for state in states),
            "publishing": any(state.publishing for state in states),
            "via_kafka": self._parts.settings.route_via_kafka,
            "broker_contact_age_seconds": self._contact.age() if self._contact else None,
            "published": sum(state.published for state in states),
            "failed": sum(state.failed for state in states),
            "stuck": self._progress.stuck,
            "last_success": max((state.last_success for state in states if state.last_success), default=None),
            "lanes": [
                {
                    "store": state.store,
                    "lane": state.lane,
                    "leader": state.leading,
                    "published": state.published,
                    "held_keys": len(state.held_keys),
                    "side_lanes": state.side_lanes,
                    "breaker": state.breaker,
                    "on_kafka": direct.on_kafka if (direct := self._directs.get(place)) else 0,
                    "queue_full": None if state.full_since is None else time.monotonic() - state.full_since,
                }
                for place, state in list(self._states.items())
            ],
        }
