"""A store, one topic and a projector that is behind: what lies unread where can be chosen."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from uuid import uuid4

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from kylo_outbox import Event, emit_many
from kylo_outbox.flows.direct import DirectDelivery
from kylo_outbox.flows.housekeeping import Housekeeping
from kylo_outbox.flows.project import Gaps, Project
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.consumer import Subscription
from kylo_outbox.settings import load
from kylo_outbox.store.history import moment, published_rows
from kylo_outbox.store.identity import require_own
from kylo_outbox.wiring import history, parts
from tests.helpers.broker import make_topic
from tests.helpers.projectors import TABLE, Collects, applied, ask, on

_HOLD = """
insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, reason, retry)
select id, event_id, created_at, slot, topic, key, type, payload, 'paused', true
  from kylo.outbox_log order by id desc limit 1
"""
_PASS = """
update kylo.lanes
   set high_water = (select max(id) from kylo.outbox_log), snapshot = pg_current_snapshot(), epoch = epoch + 1
"""


class Behind:
    """A store, one topic of the broker, a projector of its own group, and what stands between them."""

    def __init__(self, database, server, make_relay, run_until, partitions=1):
        self.database, self.server, self.run_until = database, server, run_until
        self.topic, self.group = make_topic(server.bootstrap, partitions=partitions), f"g-{uuid4().hex[:8]}"
        self.address = KafkaAddress(brokers=server.bootstrap)
        self.make_relay, self.told = make_relay, []
        projector = Collects(self.topic)
        projector.group = self.group
        self.applies = on(database, projector)
        self.parts = parts.build(load({"PG_DSN_RW": database.dsn, "KAFKA_BROKERS": server.bootstrap}))
        with database.begin() as connection:
            self.store = require_own(connection).store_id
        with database.transaction() as tx:
            tx.execute(TABLE)

    def save(self, keys):
        """Save one event for each key."""
        with self.database.transaction() as tx:
            emit_many(tx, [Event(topic=self.topic, key=key, type="T", payload={}) for key in keys])

    def relay(self, number):
        """A relay publishes so many."""
        with closing(self.make_relay()) as relay:
            self.run_until(relay, lambda: relay.state.published == number)

    def publish(self, keys):
        """Save one event for each key, and relay them."""
        self.save(keys)
        self.relay(len(keys))

    def let_leave(self):
        """Housekeeping lets everything go that may go; the rows that are stored after it."""
        Housekeeping(lambda: [self.database], 0.0).run_once()
        assert ask(self.database, "select count(*) from kylo.outbox_log") == [(0,)]

    def hold_newest(self):
        """The newest event is held, and the relay has passed it."""
        for statement in (_HOLD, _PASS):
            with self.database.transaction() as tx:
                tx.execute(statement)

    def worker(self, partitions=1):
        """A member of the group that fills gaps; what it tells is kept."""
        gaps = Gaps(
            "collects",
            {self.topic: partitions},
            lambda topic: history.published_events(self.parts, self.applies, topic),
            lambda *words: self.told.append(words),
            lambda *_: None,
        )
        return Project(self.applies, Subscription(self.address, self.group, [self.topic]), gaps=gaps)

    def read(self, number, partitions=1):
        """Such a member reads until so many events were applied."""
        with closing(self.worker(partitions)) as worker:
            # A gap is told of twice: when it is met, and when it is filled.
            self.run_until(
                worker, lambda: len(applied(self.database)) == number and len(self.told) % 2 == 0, seconds=60
            )

    def direct(self, around=None):
        """The direct path over this store; `around` has other settings."""

        def missing(projection, topic, at):
            outbox = history.Outbox(self.database, self.store, at)
            return history.missing(around or self.parts, projection, topic, [outbox])

        return DirectDelivery(
            store_id=self.store,
            topics=[self.topic],
            is_direct=lambda _key: True,
            projections=[self.applies],
            moment=partial(moment, self.database),
            published_rows=lambda topics, at: published_rows(self.database, topics, at=at),
            missing=missing,
        )

    @property
    def ids(self):
        """Outbox ids by key, as they were applied."""
        found: dict[str, list[int]] = {}
        for key, number in applied(self.database):
            found.setdefault(key, []).append(number)
        return found


def remove(road, offset, partition=0):
    """The log begins at this offset from now on."""
    admin = AdminClient({"bootstrap.servers": road.server.bootstrap})
    [removed] = admin.delete_records([TopicPartition(road.topic, partition, offset)]).values()
    removed.result(60)


def far_behind(database, server, make_relay, run_until):
    """Four events of k were applied; six more lie on the log and left the outbox; three more are stored as well."""
    made = Behind(database, server, make_relay, run_until)
    made.publish("k" * 4)
    made.read(4)
    made.publish("k" * 6)
    made.let_leave()
    made.publish("k" * 3)
    return made
