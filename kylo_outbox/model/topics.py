"""The topics of the product and the defaults of every other one. Partition counts are fixed: a change moves keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from kylo_outbox.model.errors import Misconfigured

OnPoison = Literal["hold", "skip"]

DAY_MS: Final = 86_400_000
MAX_BYTES: Final = 1_000_000
"""What one record may weigh unless its topic says otherwise; `kylo.emit` refuses more."""
DEAD_LETTER_MAX_BYTES: Final = 2_000_000
"""A dead letter carries its source's record and the headers that say why: it needs more room than its source."""
PENDING_READY: Final = "pending.ready"
TABS_CHANGED: Final = "tabs.changed"
_DEAD_LETTER_DAYS: Final = 30
_OLD_DEAD_LETTERS: Final = {"wallet-events": "wallet-events-dlq"}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it must be.

    Attributes:
        name: Its name on the broker.
        partitions: How many; never changed later, because keys would move and lose their order.
        retention_ms: How long the broker keeps a record, in milliseconds.
        max_bytes: Limit of one record with key and headers, in bytes.
        ordered: Whether events of one key keep the order of their commits.
        on_poison: What happens to a key whose record can never be applied: later ones wait (`hold`) or go on (`skip`).
        dead_letter: Name of its dead letter topic; a dead letter topic is its own.
    """

    name: str
    partitions: int
    retention_ms: int
    max_bytes: int = MAX_BYTES
    ordered: bool = True
    on_poison: OnPoison = "hold"
    dead_letter: str = ""

    def __post_init__(self) -> None:
        if not self.dead_letter:
            object.__setattr__(self, "dead_letter", dead_letter_name(self.name))


def dead_letter_name(topic: str) -> str:
    """Name of the dead letter topic of `topic`, declared or not; a dead letter topic is its own."""
    if topic.endswith(".dlq") or topic in _OLD_DEAD_LETTERS.values():
        return topic
    return _OLD_DEAD_LETTERS.get(topic, f"{topic}.dlq")


def dead_letter_of(source: Topic) -> Topic:
    """The dead letter topic of `source`: as many partitions (so that a key keeps its own), 30 days, more room."""
    return Topic(
        name=source.dead_letter,
        partitions=source.partitions,
        retention_ms=_DEAD_LETTER_DAYS * DAY_MS,
        max_bytes=max(DEAD_LETTER_MAX_BYTES, 2 * source.max_bytes),
        on_poison="skip",
        dead_letter=source.dead_letter,
    )


def default_topic(name: str) -> Topic:
    """What holds for a topic that nobody declared; 0 partitions and retention: they are the broker's to say."""
    return Topic(name=name, partitions=0, retention_ms=0)


def declared(topic_txns: str, topic_promote: str) -> tuple[Topic, ...]:
    """Every topic that the product needs, sources first, then their dead letter topics.

    Args:
        topic_txns: `KAFKA_TOPIC_TXNS`, by default `txns.company.batches`.
        topic_promote: `KAFKA_TOPIC_PROMOTE`, by default `rules.promote.requests`.

    Raises:
        Misconfigured: two of the topics would have one name.
    """
    week = 7 * DAY_MS
    sources = (
        Topic(topic_txns, partitions=16, retention_ms=week),
        Topic(topic_promote, partitions=8, retention_ms=week),
        Topic(PENDING_READY, partitions=16, retention_ms=week),
        Topic(TABS_CHANGED, partitions=16, retention_ms=week),
    )
    topics = (*sources, *(dead_letter_of(source) for source in sources))
    names = [topic.name for topic in topics]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Misconfigured(f"KAFKA_TOPIC_TXNS, KAFKA_TOPIC_PROMOTE: {', '.join(twice)} would be two topics at once")
    return topics
