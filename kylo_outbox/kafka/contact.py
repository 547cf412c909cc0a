"""Whether a broker answers: asked from time to time, so that the age of the last answer can be told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from kylo_outbox.kafka.client import KafkaAddress, KafkaFault, build, client_config, guarded
from kylo_outbox.kafka.reasons import Heard
from kylo_outbox.model.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Collection


class BrokerContact:
    """One connection that only asks for metadata. Safe to share between threads."""

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address
        self._heard = Heard()
        self._client = build(Producer, {**client_config(address), **self._heard.settings})
        self._at: float | None = None

    def ask(self, seconds: float = 2.0) -> bool:
        """Ask for metadata; whether somebody answered within `seconds`."""
        try:
            guarded(self._client.list_topics, timeout=seconds)
        except KafkaFault:
            guarded(self._client.poll, 0)
            return False
        self._heard.clear()
        self._at = time.monotonic()
        return True

    def age(self) -> float | None:
        """Seconds since the last answer; None before the first."""
        return None if self._at is None else time.monotonic() - self._at

    def require(self, seconds: float = 5.0) -> None:
        """Refuse to start without a broker.

        Raises:
            Unreachable: naming the address, why nobody answers, and the setting to look at.
        """
        if not self.ask(seconds):
            why, remedy = self._heard.why()
            raise Unreachable("Kafka", f"{self._address.brokers}: {why}", remedy)

    def partitions(self, topics: Collection[str]) -> dict[str, int]:
        """How many partitions each of `topics` has; one that the broker does not know is left out."""
        known = guarded(self._client.list_topics, timeout=5.0).topics
        return {name: len(known[name].partitions) for name in topics if name in known and known[name].error is None}
