"""Publishing with acks from all: batches in flight, one shared callback each, and an honest answer for each batch.

The producer is idempotent and gapless: a record that the broker refuses stops its successors, the client is fatal then
and is built anew by `rebuild`; nobody counts callbacks of a broken client. `message.timeout.ms=0`: an outage is waited
out in order and costs no record.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Producer

from kylo_outbox.kafka.client import (
    KafkaAddress,
    KafkaFatal,
    KafkaFault,
    build,
    classify,
    client_config,
    error_of,
    guarded,
    record_errors,
)
from kylo_outbox.model.events import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_REFRESH = 60.0
# What the client's own gap-less stop says of a record that the broker will never take.
_GAPLESS = "_GAPLESS_GUARANTEE"

# It is a choice, explained above; once a client is enough said nowhere.
logging.getLogger("kylo_outbox.kafka.librdkafka").addFilter(
    lambda record: "gapless.guarantee is experimental" not in record.getMessage()
)


class Ticket:
    """One batch in flight. `done` once every record is acknowledged; `failure` as soon as one is refused."""

    __slots__ = ("acknowledged", "expected", "failure")

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.acknowledged = 0
        self.failure: KafkaError | None = None

    def __call__(self, error: KafkaError | None, _message: Any) -> None:
        """Delivery report: only noted, because nothing may be raised here."""
        if error is None:
            self.acknowledged += 1
        elif self.failure is None:
            self.failure = error

    @property
    def done(self) -> bool:
        """Whether Kafka has acknowledged every record of the batch."""
        return self.acknowledged == self.expected

    @property
    def reason(self) -> str:
        """What the client said of the failure; empty while there is none."""
        return f"{self.failure.name()}: {self.failure.str()}" if self.failure else ""

    def refuses_record(self, fatal: KafkaFatal | None) -> bool:
        """Whether the failure is about a record (too large, invalid, not allowed) and not about the broker."""
        if self.failure is not None and classify(self.failure) == "record":
            return True
        # Delivery reports may never come after the gap-less stop; then only its text names the broker's answer.
        return fatal is not None and fatal.code == _GAPLESS and any(text in str(fatal) for text in record_errors())


def names_missing_topic(reason: str) -> bool:
    """Whether a refusal is about a topic that is not there: such a one ends by itself once it is."""
    return any(text in reason for text in ("Unknown topic", "UNKNOWN_TOPIC"))


class NoBroker:
    """Stands where a publisher would while no Kafka is configured: every topic is missing, so its events are held."""

    def exists(self, _topic: str) -> bool:
        """No topic exists."""
        return False

    def send(self, rows: Sequence[tuple[Any, ...]]) -> Ticket:
        """Never called with rows, because no topic exists."""
        return Ticket(len(rows))

    def poll(self, seconds: float = 0.0) -> None:
        """Nothing is in flight."""

    def hurry(self) -> None:
        """Nothing is in flight."""

    def drain(self, _seconds: float) -> int:
        """Nothing is in flight."""
        return 0

    @property
    def fatal(self) -> KafkaFatal | None:
        """Nothing can break."""
        return None

    def rebuild(self) -> None:
        """Nothing to build."""

    def close(self) -> None:
        """Nothing to close."""


class Publisher:
    """A producer for one lane. Not safe to share between threads."""

    def __init__(self, address: KafkaAddress, store_id: str, generation: int) -> None:
        self._config = {
            **client_config(address),
            "enable.idempotence": True,
            "enable.gapless.guarantee": True,
            "acks": "all",
            "message.timeout.ms": 0,
            # Long enough to fill batches under load; `hurry` sends at once when there is no load.
            "linger.ms": 20,
            "batch.size": 1_000_000,
            # Topics have limits of their own; this one only must not be smaller than theirs.
            "message.max.bytes": 4_200_000,
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": 1_048_576,
            "partitioner": "murmur2_random",
        }
        self._prefix = f"1;{store_id};{generation};"
        self._producer = build(Producer, self._config)
        self._known: dict[str, float] = {}
        self._fatal: KafkaFatal | None = None

    def exists(self, topic: str) -> bool:
        """Whether the broker knows the topic (asked again after a minute; a missing one is asked for each time).

        Raises:
            KafkaFault: while no broker answers.
        """
        now = time.monotonic()
        if self._known.get(topic, -_REFRESH) > now - _REFRESH:
            return True
        try:
            found = guarded(self._producer.list_topics, topic, 5.0)
        except KafkaFault:
            if topic in self._known:
                return True  # it was there before the outage; what is sent waits in order
            raise
        if found.topics[topic].error is not None:
            self._known.pop(topic, None)
            return False
        self._known[topic] = now
        return True

    def send(self, rows: Sequence[tuple[Any, ...]]) -> Ticket:
        """Hand rows of the outbox to the client, in order; returns at once.

        A record refused on the spot ends the batch there (`failure` is set), so that no later record passes it.
        """
        ticket = Ticket(len(rows))
        produce = self._producer.produce
        prefix = self._prefix
        for number, topic, key, kind, payload, headers, event_id, _ in rows:
            records: list[tuple[str, str | bytes | None]] = [(HEADER, f"{prefix}{number};{event_id};{kind}".encode())]
            if headers is not None:
                records.extend(json.loads(headers).items())
            while True:
                try:
                    produce(topic, payload, key, on_delivery=ticket, headers=records)
                except BufferError:
                    self.poll(0.05)
                    continue
                except KafkaException as refused:
                    ticket.failure = error_of(refused)
                    return ticket
                break
        return ticket

    @property
    def fatal(self) -> KafkaFatal | None:
        """Why the client can do no more and must be built anew; None while it works."""
        return self._fatal

    def poll(self, seconds: float = 0.0) -> None:
        """Serve delivery reports for up to `seconds`."""
        self._serve(self._producer.poll, seconds)

    def hurry(self) -> None:
        """Send what waits for company at once: nothing else is coming."""
        self._serve(self._producer.flush, 0.001)

    def drain(self, seconds: float) -> int:
        """Wait up to `seconds` for everything in flight; how many records are left."""
        self._serve(self._producer.flush, seconds)
        return len(self._producer)

    def rebuild(self) -> None:
        """Throw the client away with everything it has not sent, and build a new one."""
        self.close()
        self._producer = build(Producer, self._config)
        self._known.clear()
        self._fatal = None

    def close(self) -> None:
        """Drop what is not sent; call `drain` before to wait for it."""
        self._serve(self._producer.purge)
        self._serve(self._producer.poll, 0)

    def _serve(self, call: Callable[..., Any], *args: Any) -> None:
        # A fatal error shows here while delivery reports are served, and some reports never come then.
        try:
            guarded(call, *args)
        except KafkaFatal as fatal:
            self._fatal = fatal
