"""One admin client, with the errors people understand: which address did not answer, and what to look at."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from confluent_kafka.admin import AdminClient

from kylo_outbox.kafka.client import KafkaFault, build, client_config, guarded
from kylo_outbox.kafka.reasons import Heard
from kylo_outbox.model.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]

    from kylo_outbox.kafka.client import KafkaAddress

K = TypeVar("K")

_MARGIN: Final = 1.0
_AGAIN: Final = 0.05
_SILENT: Final = frozenset({"_TRANSPORT", "_TIMED_OUT", "_RESOLVE", "_ALL_BROKERS_DOWN", "_SSL", "_AUTHENTICATION"})
# The cluster is moving something; the same question has an answer in a moment.
_MOVING: Final = frozenset(
    {
        "NOT_LEADER_FOR_PARTITION",
        "LEADER_NOT_AVAILABLE",
        "NOT_COORDINATOR",
        "COORDINATOR_NOT_AVAILABLE",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "NOT_CONTROLLER",
        "UNKNOWN_LEADER_EPOCH",
        "FENCED_LEADER_EPOCH",
    }
)


class Admin:
    """Asks the cluster. `client` is the raw admin client, whose futures go through `result`."""

    def __init__(self, address: KafkaAddress, seconds: float) -> None:
        self.seconds = seconds
        self._brokers = address.brokers
        self._heard = Heard()
        self.client: AdminClient = build(AdminClient, {**client_config(address), **self._heard.settings})

    def metadata(self) -> ClusterMetadata:
        """Brokers and topics as the cluster sees them now.

        Raises:
            Unreachable: nobody answered in time; names the address and what to look at.
        """
        try:
            found: ClusterMetadata = guarded(self.client.list_topics, timeout=self.seconds)
        except KafkaFault as fault:
            self.explain(fault)
        self._heard.clear()
        return found

    def ask(self, request: Callable[[], Mapping[K, Future[Any]]], *, unless: str = "") -> dict[K, Any]:
        """Send a request and wait for all its answers; asked again while the cluster moves leaders.

        Args:
            request: Calls the raw client; called anew for each attempt, so it must do no harm twice.
            unless: An error with this code counts as the answer None.

        Raises:
            Unreachable: no answer in time.
            KafkaFault: the broker refuses.
        """
        until = time.monotonic() + self.seconds + _MARGIN
        while True:
            try:
                return {key: self._wait(future, unless) for key, future in request().items()}
            except KafkaFault as fault:
                if fault.code not in _MOVING or time.monotonic() > until:
                    if fault.kind == "record":
                        raise
                    self.explain(fault)
            time.sleep(_AGAIN)

    def _wait(self, future: Future[Any], unless: str) -> Any:
        try:
            return guarded(future.result, timeout=self.seconds + _MARGIN)
        except KafkaFault as fault:
            if fault.code == unless:
                return None
            raise
        except TimeoutError:
            raise KafkaFault("no answer", "broker", "_TIMED_OUT") from None

    def explain(self, fault: KafkaFault) -> NoReturn:
        """Raise what people should read for an outage.

        Raises:
            Unreachable: with the reason, as far as the client knows it.
        """
        guarded(self.client.poll, 0)
        why, remedy = self._heard.why()
        self._heard.clear()
        if fault.code not in _SILENT:
            why, remedy = str(fault), "Look at the broker's log; is KAFKA_BROKERS right?"
        raise Unreachable("Kafka", f"{self._brokers}: {why}", remedy) from None
