"""Publishing with acks from all: batches in flight, one shared callback each, and an honest answer for each batch.

The producer is idempotent and gapless: a record that the broker refuses stops its successors, the client is fatal then
and is built anew by `rebuild`; nobody counts callbacks of a broken client. `message.timeout.ms=0`: an outage is waited
out in order and costs no record.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Producer

from kylo_outbox.kafka.client import (
    KafkaAddress,
    KafkaFatal,
    build,
    classify,
    client_config,
    error_of,
    guarded,
    record_errors,
)
from kylo_outbox.kafka.partitions import Partitions
from kylo_outbox.model.events import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_Rows: TypeAlias = "Iterator[tuple[tuple[Any, ...], Callable[..., None]]]"

BATCH_BYTES: Final = 1_000_000
# Below what is left of a lease when a turn begins: the relay must go on renewing it.
_ROOM: Final = 0.2
_SMALLEST_BATCH: Final = 16_384
_TOO_LARGE: Final = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE}
)
_TOO_LARGE_TEXTS: Final = frozenset(KafkaError(code).str() for code in _TOO_LARGE)
# What the client's own gap-less stop says of a record that the broker will never take.
_GAPLESS = "_GAPLESS_GUARANTEE"

# It is a choice, explained above; once a client is enough said nowhere.
logging.getLogger("kylo_outbox.kafka.librdkafka").addFilter(
    lambda record: "gapless.guarantee is experimental" not in record.getMessage()
)


class Ticket:
    """One batch in flight. `done` once every record is acknowledged; `failure` as soon as one is refused.

    A tracked one (given the ids of its rows) also knows which of them are not acknowledged.
    """

    __slots__ = ("_missing", "acknowledged", "expected", "failure")

    def __init__(self, expected: int, ids: Iterable[int] | None = None) -> None:
        self.expected = expected
        self.acknowledged = 0
        self.failure: KafkaError | None = None
        self._missing = None if ids is None else set(ids)

    def __call__(self, error: KafkaError | None, _message: Any) -> None:
        """Delivery report: only noted, because nothing may be raised here."""
        if error is None:
            self.acknowledged += 1
        elif self.failure is None:
            self.failure = error

    def report(self, number: int, error: KafkaError | None, _message: Any) -> None:
        """Delivery report of one row of a tracked batch."""
        if error is None and self._missing is not None:
            self._missing.discard(number)
        self(error, _message)

    def missing(self) -> set[int]:
        """Ids of the rows without an acknowledgement.

        Raises:
            ValueError: the batch was sent without `tracked`; nobody knows which row an acknowledgement was for.
        """
        if self._missing is None:
            raise ValueError("only a batch that was sent with tracked=True knows its rows")
        return set(self._missing)

    def failed(self, error: KafkaError | None, _message: Any) -> None:
        """Delivery report inside a transaction: only a refusal counts, acceptance comes with the commit."""
        if error is not None and self.failure is None:
            self.failure = error

    def complete(self) -> None:
        """Everything is acknowledged: the transaction around it is committed."""
        self.acknowledged = self.expected
        if self._missing is not None:
            self._missing.clear()

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

    def refused_for_size(self, fatal: KafkaFatal | None) -> bool:
        """Whether a limit of size was in the way: of one record, or of a whole batch of innocent ones.

        The broker measures the batch that the client has put together, which `Publisher.rebuild(smaller=True)` makes
        smaller.
        """
        if self.failure is not None and self.failure.code() in _TOO_LARGE:
            return True
        return fatal is not None and fatal.code == _GAPLESS and any(text in str(fatal) for text in _TOO_LARGE_TEXTS)


def names_missing_topic(reason: str) -> bool:
    """Whether a refusal is about a topic that is not there: such a one ends by itself once it is."""
    return any(text in reason for text in ("Unknown topic", "UNKNOWN_TOPIC"))


class NoBroker:
    """Stands where a publisher would while no Kafka is configured: every topic is missing, so its events are held."""

    def exists(self, _topic: str) -> bool:
        """No topic exists."""
        return False

    def partition_of(self, _topic: str, _key: bytes) -> int | None:
        """No topic, no partition."""
        return None

    def leaderless(self, _topic: str) -> frozenset[int]:
        """No topic, no partition."""
        return frozenset()

    def answers(self) -> bool:
        """Nobody does."""
        return False

    def send(self, rows: Sequence[tuple[Any, ...]], *, tracked: bool = False) -> Ticket:
        """Never called with rows, because no topic exists."""
        return Ticket(len(rows), [row[0] for row in rows] if tracked else None)

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

    def rebuild(self, *, smaller: bool = False) -> None:
        """Nothing to build."""

    @property
    def full_since(self) -> float | None:
        """There is no queue."""
        return None

    @property
    def smallest(self) -> bool:
        """There are no batches."""
        return True

    def close(self) -> None:
        """Nothing to close."""


class Publisher:
    """A producer for one lane. Not safe to share between threads.

    `batch_bytes` bounds what the client puts together for one partition; a larger record still goes, alone.
    `full_since` tells since when the client has had no room for what was sent (a clock that never jumps), None while
    it has; whoever looks at it before sending more keeps the line short.
    """

    def __init__(self, address: KafkaAddress, store_id: str, *, batch_bytes: int = BATCH_BYTES) -> None:
        self._config = {
            **client_config(address),
            "enable.idempotence": True,
            **self._guarantee(),
            "acks": "all",
            "message.timeout.ms": 0,
            # Long enough to fill batches under load; `hurry` sends at once when there is no load.
            "linger.ms": 20,
            "batch.size": batch_bytes,
            # Topics have limits of their own; this one only must not be smaller than theirs.
            "message.max.bytes": 4_200_000,
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": 1_048_576,
            "partitioner": "murmur2_random",
            # The topic was there a moment ago: one that was deleted since must not hold the others up for long.
            "topic.metadata.propagation.max.ms": 5000,
        }
        self._prefix = f"1;{store_id};"
        self._fatal: KafkaFatal | None = None
        # Batches of which the client had no room for all rows, in order.
        self._line: deque[tuple[_Rows, Ticket]] = deque()
        self.full_since: float | None = None
        self._open()

    def _guarantee(self) -> dict[str, Any]:
        # A refused record makes the client fatal before a successor of it is sent.
        return {"enable.gapless.guarantee": True}

    def _open(self) -> None:
        self._producer = build(Producer, self._config)
        self._partitions = Partitions(self._producer)

    def exists(self, topic: str) -> bool:
        """Whether the broker knows the topic; raises `KafkaFault` while nobody answers and it was never seen."""
        return self._partitions.exists(topic)

    def partition_of(self, topic: str, key: bytes) -> int | None:
        """The partition that a key goes to; None before `exists` was true for the topic."""
        return self._partitions.partition_of(topic, key)

    def leaderless(self, topic: str) -> frozenset[int]:
        """Partitions of a topic that nobody leads, at most a second old."""
        return self._partitions.leaderless(topic)

    def answers(self) -> bool:
        """Whether a broker answers within a moment."""
        return self._partitions.answers()

    def send(self, rows: Sequence[tuple[Any, ...]], *, tracked: bool = False) -> Ticket:
        """Hand rows of the outbox to the client, in order; returns within a moment, whether it had room or not.

        A record refused on the spot ends the batch there (`failure` is set), so that no later record passes it.
        `tracked` costs a callable for each record; the ticket then tells which rows are not acknowledged.
        """
        ticket = Ticket(len(rows), [row[0] for row in rows] if tracked else None)
        reports = (partial(ticket.report, row[0]) for row in rows) if tracked else repeat(ticket)
        self._hand_over(rows, ticket, reports)
        return ticket

    def _hand_over(
        self, rows: Sequence[tuple[Any, ...]], ticket: Ticket, reports: Iterable[Callable[..., None]]
    ) -> None:
        """Give rows to the client; from the first one for which it has no room they wait in line (see `_go_on`)."""
        self._line.append((zip(rows, reports, strict=False), ticket))
        self._go_on(_ROOM)

    def _go_on(self, patience: float = 0.0) -> None:
        """Hand over what waits in line, as far as the client has or gets room within `patience` seconds."""
        until = time.monotonic() + patience
        while self._line:
            rows, ticket = self._line.popleft()
            if rest := self._give(rows, ticket):
                self._line.appendleft((rest, ticket))
                if (left := until - time.monotonic()) <= 0:
                    self.full_since = self.full_since or time.monotonic()
                    return
                self._serve(self._producer.poll, min(left, 0.05))
        self.full_since = None

    def _give(self, rows: _Rows, ticket: Ticket) -> _Rows | None:
        """Give rows to the client; those from the first one on for which it has no room, None if there are none."""
        produce = self._producer.produce
        prefix = self._prefix
        for each in rows:
            (number, topic, key, kind, payload, headers, event_id, _, generation), report = each
            origin = f"{prefix}{generation};{number};{event_id};{kind}"
            records: list[tuple[str, str | bytes | None]] = [(HEADER, origin)]
            if headers is not None:
                records.extend(json.loads(headers).items())
            try:
                # By position (partition, callback, on_delivery, timestamp, headers), because names cost a fifth of the
                # call. The first of the two callbacks counts, also where it is None.
                produce(topic, payload, key, -1, report, report, 0, records)
            except BufferError:
                return chain([each], rows)
            except KafkaException as refused:
                # Nothing that waits behind it may pass: it is read again when the refusal has been dealt with.
                self._line.clear()
                self._refused(error_of(refused), ticket)
                return None
        return None

    def _refused(self, error: KafkaError | None, ticket: Ticket) -> None:
        if error is None or classify(error) != "fatal":
            ticket.failure = error
            return
        # The client broke over an earlier record and says no more here; its reports and `poll` say which and why.
        self._serve(self._producer.poll, 0)
        if self._fatal is None:
            self._fatal = KafkaFatal(f"Kafka: {error.name()}: {error.str()}", error.name())

    @property
    def fatal(self) -> KafkaFatal | None:
        """Why the client can do no more and must be built anew; None while it works."""
        return self._fatal

    def poll(self, seconds: float = 0.0) -> None:
        """Serve delivery reports for up to `seconds`."""
        self._serve(self._producer.poll, seconds)
        self._go_on()

    def hurry(self) -> None:
        """Send what waits for company at once: nothing else is coming."""
        self._serve(self._producer.flush, 0.001)
        self._go_on()

    def drain(self, seconds: float) -> int:
        """Wait up to `seconds` for everything in flight; how many records are left, or one more if some are in line."""
        until = time.monotonic() + seconds
        self._go_on(seconds)
        self._serve(self._producer.flush, max(0.0, until - time.monotonic()))
        return len(self._producer) + bool(self._line)

    @property
    def smallest(self) -> bool:
        """Whether `rebuild(smaller=True)` would make no difference."""
        return bool(self._config["batch.size"] <= _SMALLEST_BATCH)

    def rebuild(self, *, smaller: bool = False) -> None:
        """Throw the client away with everything it has not sent, and build a new one.

        `smaller` makes the batches that the client puts together four times smaller, down to 16 KiB, until the process
        starts again: a topic whose limit is below them refuses whole batches of innocent records.
        """
        self.close()
        if smaller:
            self._config["batch.size"] = max(_SMALLEST_BATCH, self._config["batch.size"] // 4)
        self._open()
        self._fatal = None

    def close(self) -> None:
        """Drop what is not sent; call `drain` before to wait for it."""
        self._line.clear()
        self.full_since = None
        self._serve(self._producer.purge)
        self._serve(self._producer.poll, 0)

    def _serve(self, call: Callable[..., Any], *args: Any) -> None:
        # A fatal error shows here while delivery reports are served, and some reports never come then.
        try:
            guarded(call, *args)
        except KafkaFatal as fatal:
            self._fatal = fatal
