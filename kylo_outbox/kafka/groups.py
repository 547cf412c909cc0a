"""Which consumer groups have members, asked with the admin client: for verbs that answer and leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from confluent_kafka import ConsumerGroupState

from kylo_outbox.kafka.admin import Admin

if TYPE_CHECKING:
    from kylo_outbox.kafka.client import KafkaAddress

_WITHOUT: Final = frozenset({ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD})


def groups(address: KafkaAddress, seconds: float = 5.0) -> dict[str, bool]:
    """The groups that the brokers know, each with whether anybody is in it.

    Raises:
        Unreachable: no broker answers.
    """
    admin = Admin(address, seconds)
    answer = admin.ask(lambda: {"": admin.client.list_consumer_groups(request_timeout=seconds)})[""]
    return {found.group_id: found.state not in _WITHOUT for found in answer.valid}
