"""Checks of the broker: topics as declared, partitions with leaders, groups with members that keep up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kylo_outbox.flows.doctor.finding import Finding
from kylo_outbox.kafka import groups as consumer_groups
from kylo_outbox.kafka.lag import Lag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kylo_outbox.kafka.client import KafkaAddress
    from kylo_outbox.kafka.topics import Topics
    from kylo_outbox.model.topics import Topic

_BEHIND: Final = 60.0


def topics(broker: Topics, declared: Sequence[Topic]) -> Iterator[Finding]:
    """Declared topics against the real ones, and partitions that nobody leads."""
    for drift in broker.verify(declared):
        cause = f"{drift.what} is {drift.found}, declared is {drift.expected}"
        yield Finding("error", "topics", drift.topic, cause, drift.remedy)
    for state in broker.describe(topic.name for topic in declared).values():
        if state.leaderless:
            cause = f"{state.leaderless} of {state.partitions} partitions have no leader: their keys wait"
            yield Finding("error", "topics", state.name, cause, "start the brokers that hold them")


def groups(address: KafkaAddress, topics_of: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Projectors' groups: whether anybody is in them, and how far they are behind."""
    known = consumer_groups.groups(address)
    lag = Lag(address)
    try:
        # The lag of a group that never was is everything, and asking for it would wait for a coordinator.
        parts = lag.of({group: names for group, names in topics_of.items() if group in known})
    finally:
        lag.close()
    for group in topics_of:
        unread = sum(part.messages for part in parts if part.group == group)
        oldest = max((part.seconds or 0.0 for part in parts if part.group == group), default=0.0)
        if not known.get(group):
            told = f"{unread} records are unread" if group in known else "it has never read anything"
            cause = f"nobody is in this group, {told}"
            yield Finding("error", "groups", group, cause, "start `kylo-outbox project --all`")
        elif oldest > _BEHIND:
            cause = f"{unread} records are unread, the oldest for {oldest:.0f} s"
            remedy = "`kylo-outbox lag` shows where; the projectors' log says what they wait for"
            yield Finding("error", "groups", group, cause, remedy)
