"""Who is a member of a consumer group, asked with the admin client: for verbs that answer and leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kylo_outbox.kafka.admin import Admin

if TYPE_CHECKING:
    from collections.abc import Collection

    from kylo_outbox.kafka.client import KafkaAddress


def members(address: KafkaAddress, groups: Collection[str], seconds: float = 5.0) -> dict[str, int]:
    """How many members each group has now; 0 for a group that the broker does not know.

    Raises:
        Unreachable: no broker answers.
    """
    admin = Admin(address, seconds)
    asked = admin.ask(
        lambda: admin.client.describe_consumer_groups(list(groups), request_timeout=seconds),
        unless="GROUP_ID_NOT_FOUND",
    )
    return {group: 0 if found is None else len(found.members) for group, found in asked.items()}
