"""Topics on the broker: what is there, how it differs from what is declared, and the corrections that do no harm.

Partition counts are never changed: keys would move to other partitions and lose their order.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from confluent_kafka import TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stubs do not re-export what it offers
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from kylo_outbox.kafka.admin import Admin
from kylo_outbox.model.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kylo_outbox.kafka.client import KafkaAddress
    from kylo_outbox.model.topics import Topic

BATCH_OVERHEAD: Final = 48_588
"""What the broker's limit must exceed a record's own by: it counts the batch around it, too (Kafka's own default)."""
_WANTED_REPLICAS: Final = 3
_SAFE_REPLICAS: Final = 2
_SETTLE_SECONDS: Final = 10.0

What = Literal["topic", "partitions", "retention", "size limit", "cleanup policy", "replication", "in-sync replicas"]


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the broker has it. `leaderless` counts partitions that nobody leads now; limits are in bytes."""

    name: str
    partitions: int
    replication: int
    retention_ms: int
    retention_bytes: int
    max_message_bytes: int
    min_isr: int
    cleanup_policy: str
    leaderless: int = 0


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between what is declared and what is there, and what a person can do about it."""

    topic: str
    what: What
    expected: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.what} is {self.found}, declared is {self.expected}: {self.remedy}"


@dataclass(frozen=True, slots=True)
class Change:
    """One correction. `loses` tells that the broker may delete records which it keeps now."""

    topic: str
    what: What
    before: str
    after: str
    loses: bool = False


class Topics:
    """The admin door. Safe to share between threads; connects at the first question.

    Every method raises `Unreachable` when no broker answers within `seconds`, and `KafkaFault` when the broker
    refuses (rights).
    """

    def __init__(self, address: KafkaAddress, seconds: float = 5.0) -> None:
        self._admin = Admin(address, seconds)

    def describe(self, names: Iterable[str] | None = None) -> dict[str, TopicState]:
        """What the broker has, by name; missing topics are left out. Without names: all but Kafka's internal ones."""
        asked = None if names is None else set(names)
        known = {
            name: topic
            for name, topic in self._admin.metadata().topics.items()
            if topic.error is None and (name in asked if asked is not None else not name.startswith("__"))
        }
        found = {}
        for name, config in self._configs(sorted(known)).items():
            partitions = known[name].partitions
            found[name] = TopicState(
                name=name,
                partitions=len(partitions),
                replication=min((len(each.replicas) for each in partitions.values()), default=0),
                retention_ms=int(config["retention.ms"]),
                retention_bytes=int(config["retention.bytes"]),
                max_message_bytes=int(config["max.message.bytes"]),
                min_isr=int(config["min.insync.replicas"]),
                cleanup_policy=config["cleanup.policy"],
                leaderless=sum(each.leader < 0 for each in partitions.values()),
            )
        return found

    def verify(self, declared: Sequence[Topic], replication: int | None = None) -> list[Drift]:
        """Compare the broker with what is declared; an empty list means that everything fits.

        Args:
            declared: What must be there.
            replication: How many copies at least; None asks for three, or as many as there are brokers.
        """
        found = self.describe(topic.name for topic in declared)
        copies = self._copies(replication)
        drifts: list[Drift] = []
        for topic in declared:
            state = found.get(topic.name)
            if state is None:
                drifts.append(Drift(topic.name, "topic", "there", "missing", "run `kylo-outbox topics apply`"))
            else:
                drifts += _drifts(topic, state, copies)
        return drifts

    def plan(self, declared: Sequence[Topic], replication: int | None = None) -> list[Change]:
        """What `apply` would do; nothing is changed."""
        found = self.describe(topic.name for topic in declared)
        copies = self._copies(replication)
        changes: list[Change] = []
        for topic in declared:
            state = found.get(topic.name)
            if state is None:
                changes.append(
                    Change(topic.name, "topic", "missing", f"{topic.partitions} partitions, {copies} copies")
                )
            else:
                changes += _corrections(topic, state)
        return changes

    def apply(self, declared: Sequence[Topic], replication: int | None = None) -> list[Change]:
        """Create what is missing and correct retention and limits; returns what was done.

        A second call finds nothing to do. What must not be changed (partitions, cleanup policy, copies) stays as it
        is; `verify` tells it. When this returns, the brokers show the changes and each new partition has a leader.

        Raises:
            NotReady: the brokers did not show the changes within ten seconds.
        """
        changes = self.plan(declared, replication)
        by_name = {topic.name: topic for topic in declared}
        missing = [by_name[change.topic] for change in changes if change.what == "topic"]
        if missing:
            self._create(missing, self._copies(replication))
        corrected = sorted({change.topic for change in changes if change.what != "topic"})
        if corrected:
            resources = [_resource(by_name[name], changes) for name in corrected]
            self._admin.ask(lambda: self._admin.client.incremental_alter_configs(resources))
        self._settle(declared, replication, {topic.name for topic in missing})
        return changes

    def watermarks(self, topic: str) -> dict[int, tuple[int, int]]:
        """For each partition: the oldest offset that is stored, and the next one to be written.

        Raises:
            NotReady: there is no such topic.
        """
        return self.watermarks_of([topic])[topic]

    def watermarks_of(self, topics: Sequence[str]) -> dict[str, dict[int, tuple[int, int]]]:
        """`watermarks` of several topics in two requests a broker."""
        known = self._admin.metadata().topics
        for name in topics:
            if name not in known or known[name].error is not None:
                raise NotReady(f"topic {name} does not exist; `kylo-outbox topics ls` shows those that do")
        pairs = [(name, number) for name in topics for number in known[name].partitions]
        low = self._offsets(pairs, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        high = self._offsets(pairs, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        found: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in topics}
        for name, number in pairs:
            found[name][number] = (low[name, number], high[name, number])
        return found

    def _offsets(self, pairs: Sequence[tuple[str, int]], spec: OffsetSpec) -> dict[tuple[str, int], int]:
        if not pairs:
            return {}
        asked = {TopicPartition(name, number): spec for name, number in pairs}
        seconds = self._admin.seconds
        answered = self._admin.ask(lambda: self._admin.client.list_offsets(asked, request_timeout=seconds))
        return {(each.topic, each.partition): result.offset for each, result in answered.items()}

    def _configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        seconds = self._admin.seconds
        answered = self._admin.ask(lambda: self._admin.client.describe_configs(resources, request_timeout=seconds))
        return {
            resource.name: {name: str(entry.value) for name, entry in entries.items()}
            for resource, entries in answered.items()
        }

    def _copies(self, replication: int | None) -> int:
        return replication or min(_WANTED_REPLICAS, max(1, len(self._admin.metadata().brokers)))

    def _create(self, missing: Sequence[Topic], copies: int) -> None:
        new = [
            NewTopic(topic.name, topic.partitions, copies, config={**_config(topic), **_isr(copies)})
            for topic in missing
        ]
        seconds = self._admin.seconds
        self._admin.ask(
            lambda: self._admin.client.create_topics(new, request_timeout=seconds), unless="TOPIC_ALREADY_EXISTS"
        )

    def _settle(self, declared: Sequence[Topic], replication: int | None, new: set[str]) -> None:
        """Wait until the brokers show what was done: they learn it a moment after the controller."""
        until = time.monotonic() + _SETTLE_SECONDS
        while not self._led(new) or self.plan(declared, replication):
            if time.monotonic() > until:
                raise NotReady("topics: the changes are made, but the brokers do not show them yet; verify again")
            time.sleep(0.05)

    def _led(self, names: set[str]) -> bool:
        known = self._admin.metadata().topics
        try:
            return all(
                known[name].error is None and all(each.leader >= 0 for each in known[name].partitions.values())
                for name in names
            )
        except KeyError:
            return False


def _config(topic: Topic) -> dict[str, str]:
    return {
        "retention.ms": str(topic.retention_ms),
        "max.message.bytes": str(topic.max_bytes + BATCH_OVERHEAD),
        "cleanup.policy": "delete",
    }


def _isr(copies: int) -> dict[str, str]:
    # With acks from all, two in-sync copies are what makes an acknowledgement outlive one broker.
    return {"min.insync.replicas": "2"} if copies > _SAFE_REPLICAS else {}


def _drifts(topic: Topic, state: TopicState, copies: int) -> list[Drift]:
    drifts = []
    if state.partitions != topic.partitions:
        remedy = (
            "a change would move keys and lose their order: make a topic of another name with the declared count and "
            "name it in the settings, or delete this one when everything in it is applied"
        )
        drifts.append(Drift(topic.name, "partitions", str(topic.partitions), str(state.partitions), remedy))
    drifts += [
        Drift(topic.name, change.what, change.after, change.before, "run `kylo-outbox topics apply`")
        for change in _corrections(topic, state)
    ]
    if state.cleanup_policy != "delete":
        remedy = "compaction drops events: set cleanup.policy=delete with your broker's tools"
        drifts.append(Drift(topic.name, "cleanup policy", "delete", state.cleanup_policy, remedy))
    if state.replication < copies:
        remedy = "reassign its partitions with your broker's tools, or say --replication"
        drifts.append(Drift(topic.name, "replication", f"{copies} or more", str(state.replication), remedy))
    return drifts


def _corrections(topic: Topic, state: TopicState) -> list[Change]:
    changes = []
    if state.retention_ms != topic.retention_ms:
        shorter = state.retention_ms < 0 or state.retention_ms > topic.retention_ms
        before, after = f"{state.retention_ms} ms", f"{topic.retention_ms} ms"
        changes.append(Change(topic.name, "retention", before, after, loses=shorter))
    if state.retention_bytes >= 0:
        changes.append(Change(topic.name, "retention", f"{state.retention_bytes} bytes a partition", "by time alone"))
    limit = topic.max_bytes + BATCH_OVERHEAD
    if state.max_message_bytes < limit:
        changes.append(Change(topic.name, "size limit", str(state.max_message_bytes), str(limit)))
    if state.replication > _SAFE_REPLICAS and state.min_isr < _SAFE_REPLICAS:
        changes.append(Change(topic.name, "in-sync replicas", str(state.min_isr), str(_SAFE_REPLICAS)))
    return changes


def _resource(topic: Topic, changes: Sequence[Change]) -> ConfigResource:
    wanted = {
        "retention": {"retention.ms": str(topic.retention_ms), "retention.bytes": "-1"},
        "size limit": {"max.message.bytes": str(topic.max_bytes + BATCH_OVERHEAD)},
        "in-sync replicas": {"min.insync.replicas": str(_SAFE_REPLICAS)},
    }
    values: dict[str, str] = {}
    for change in changes:
        if change.topic == topic.name:
            values |= wanted.get(change.what, {})
    entries: list[Any] = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in values.items()
    ]
    return ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)
