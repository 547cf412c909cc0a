"""Reading as a member of a consumer group: batches, offsets committed afterwards, partitions paused while waiting."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, TopicPartition

from kylo_outbox.kafka.client import KafkaAddress, KafkaFault, build, classify, client_config, guarded, raise_for
from kylo_outbox.model.delivery import Delivery, Lost, from_record
from kylo_outbox.model.errors import KyloError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

log = logging.getLogger(__name__)
_ANSWER = 5.0
# The client itself gives up to say goodbye after five.
_LEAVE = 7.0
# A commit is a record that the broker appends and a round trip of the client: too much for each handful of events.
_COMMIT_EVERY = 0.1


def reading(address: KafkaAddress, group: str) -> dict[str, Any]:
    """Settings of a member of a group that stores its offsets itself, after the effect."""
    return {
        **client_config(address),
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 1500,
        "max.poll.interval.ms": 600_000,
        # The default of a second starves a catch-up once the local queue was full for a moment.
        "fetch.queue.backoff.ms": 10,
        "queued.min.messages": 20_000,
        "isolation.level": "read_committed",
    }


class Subscription:
    """One member of a group, used by one thread at a time.

    Offsets are committed for the lag tools of the ecosystem and as the place to begin; what was applied is decided by
    positions in PostgreSQL, so an offset that is behind costs repeats and nothing else.
    """

    def __init__(
        self,
        address: KafkaAddress,
        group: str,
        topics: Sequence[str],
        changes: Mapping[str, Any] | None = None,
        *,
        read_before: Collection[str] = (),
    ) -> None:
        """Join the group.

        Args:
            address: Where the brokers are.
            group: Its id.
            topics: What to read.
            changes: Settings of librdkafka in the place of ours; for tests.
            read_before: Topics that the group has read before. Without a committed offset there (it expires a while
                after the last member has left) whatever is gone from the log counts as lost unread.
        """
        self._consumer = build(Consumer, reading(address, group) | dict(changes or {}))
        self._read_before = frozenset(read_before)
        self._assigned: set[tuple[str, int]] = set()
        self._next: dict[tuple[str, int], int] = {}
        self._taken: list[Delivery] = []
        self._lost: list[Lost] = []
        self._paused = False
        self._settled: dict[tuple[str, int | None], int | None] = {}
        self._told = 0.0
        self._consumer.subscribe(
            list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    @property
    def assigned(self) -> frozenset[tuple[str, int]]:
        """(topic, partition) of what is ours now."""
        return frozenset(self._assigned)

    def take(self, limit: int, seconds: float) -> list[Delivery]:
        """Up to `limit` records, waiting up to `seconds` for the first; while paused only membership is served.

        Records on both sides of a gap never come together: it lies before the first of them, see `lost`.

        Raises:
            KafkaFault: while no broker answers or the topic is missing.
            KafkaFatal: if the client must be built anew.
        """
        first = guarded(self._consumer.poll, 0 if self._taken else seconds)
        if first is not None:
            room = limit - 1 - len(self._taken)
            more = guarded(self._consumer.consume, room, 0) if room > 0 and first.error() is None else []
            self._taken += [
                as_delivery(message)
                for message in (first, *more)
                if message.error() is None or self._is_record(message)
            ]
        # What was taken is kept until the look for gaps has had its answer.
        number = min(limit, self._before_gap())
        taken, self._taken = self._taken[:number], self._taken[number:]
        if not taken:
            self._send_offsets()
        return taken

    def lost(self) -> list[Lost]:
        """What left the log before the last records taken; told once."""
        lost, self._lost = self._lost, []
        return lost

    def _before_gap(self) -> int:
        """How many records come before the next gap, if there is none at the beginning.

        Each offset is compared with the one that was to come: the committed one after an assignment.
        """
        upcoming = self._next
        for before, (event, _, _, number, at) in enumerate(self._taken):
            place, offset = (event.topic, number or 0), at or 0
            if upcoming.get(place) == offset:
                upcoming[place] = offset + 1
                continue
            if place not in self._next:
                [committed] = guarded(self._consumer.committed, [TopicPartition(*place)], _ANSWER)
                nowhere = 0 if event.topic in self._read_before else offset
                self._next[place] = committed.offset if committed.offset >= 0 else nowhere
            expected = self._next[place]
            if offset > expected:
                # Also aborted transactions and compaction leave holes; what was removed lies below the low watermark.
                low, _ = guarded(self._consumer.get_watermark_offsets, TopicPartition(*place), _ANSWER)
                if low > expected and before:
                    return before
                if low > expected:
                    self._lost.append(Lost(*place, expected, min(low, offset)))
            self._next[place] = max(offset + 1, expected)
        return len(self._taken)

    def commit(self, deliveries: Sequence[Delivery]) -> None:
        """Commit the offsets behind `deliveries`, at most ten times a second, without waiting for the answer.

        What is left over follows as soon as nothing more comes, when a partition goes, and with `close`.
        """
        # The last one of a partition counts: one that is too low costs repeats and nothing else.
        self._settled.update({(event.topic, number): offset for event, _, _, number, offset in deliveries})
        if time.monotonic() - self._told >= _COMMIT_EVERY:
            self._send_offsets()

    def _send_offsets(self) -> None:
        if not self._settled:
            return
        settled, self._settled = self._settled, {}
        self._told = time.monotonic()
        offsets = [
            TopicPartition(topic, number, offset + 1)
            for (topic, number), offset in settled.items()
            if number is not None and offset is not None and (topic, number) in self._assigned
        ]
        if offsets:
            guarded(self._consumer.commit, offsets=offsets, asynchronous=True)

    def pause(self) -> None:
        """Fetch nothing more, but stay a member."""
        if not self._paused:
            self._paused = True
            guarded(self._consumer.pause, guarded(self._consumer.assignment))

    def resume(self) -> None:
        """Go on fetching."""
        if self._paused:
            self._paused = False
            guarded(self._consumer.resume, guarded(self._consumer.assignment))

    def close(self) -> None:
        """Leave the group at once, so that others need not wait for the session to end.

        While a rebalance waits for a member that is busy, the coordinator answers nothing else to us, and the client
        waits a minute for the answer to a commit. Nobody else does: after some seconds the client is left alone with
        it, and the group notices by the end of the session.
        """
        failed: list[KyloError] = []

        def leave() -> None:
            try:
                try:
                    self._send_offsets()
                finally:
                    guarded(self._consumer.close)
            except KyloError as error:
                failed.append(error)

        leaving = threading.Thread(target=leave, name="leave the group", daemon=True)
        leaving.start()
        leaving.join(_LEAVE)
        if leaving.is_alive():
            log.warning("the consumer group does not answer; it will notice by itself that this member is gone")
        for error in failed:
            raise error

    def _on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        if self._paused:
            consumer.incremental_assign(partitions)
            consumer.pause(partitions)
        places = {(partition.topic, partition.partition) for partition in partitions}
        self._assigned |= places
        for place in places:
            self._next.pop(place, None)

    def _on_revoke(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        try:
            self._send_offsets()
        finally:
            self._on_lost(consumer, partitions)

    def _on_lost(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        # The client remembers the pause beyond the membership: should they come back, nobody would wake them again.
        if self._paused:
            consumer.resume(partitions)
        self._assigned.difference_update((partition.topic, partition.partition) for partition in partitions)

    @staticmethod  # noqa: RET503 - it ends in NoReturn
    def _is_record(message: Any) -> bool:
        error: KafkaError = message.error()
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's public name of this code
            return False
        if classify(error) == "record":
            raise KafkaFault(
                f"Kafka: {error.str()}; is the topic declared (`kylo-outbox topics apply`)?", "record", error.name()
            )
        raise_for(error)


def as_delivery(message: Any) -> Delivery:
    """A record of the client, read; never fails."""
    return from_record(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        key=message.key(),
        value=message.value(),
        headers=message.headers() or (),
        at=_at(*message.timestamp()),
    )


def _at(kind: int, milliseconds: int) -> int | None:
    return None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds
