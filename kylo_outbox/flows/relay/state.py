"""What a relay tells of itself, and the two ways out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kylo_outbox.kafka.producer import NoBroker, Publisher
    from kylo_outbox.store.outbox import Row

Outlet: TypeAlias = "Publisher | NoBroker"


class Direct(Protocol):
    """Rows that are handed over in process instead of travelling over Kafka."""

    def takes(self, topic: str, key: bytes) -> bool:
        """Whether rows of this topic and key are handed over directly."""
        ...

    def catch_up(self) -> Iterator[None]:
        """Apply, step by step, what was published to Kafka and lies there unread; begun when the lane was taken."""
        ...

    def deliver(self, rows: Sequence[Row]) -> None:
        """Apply rows, in order; returns when every projector has them. Raises `Transient` for "not now"."""
        ...


@dataclass(frozen=True, slots=True)
class RelayTurn:
    """What one turn did; `pause` is how long the relay may be left alone."""

    leading: bool
    read: int = 0
    acknowledged: int = 0
    pause: float = 0.0


@dataclass(slots=True)
class RelayState:
    """What the heartbeat tells of this relay; numbers since it took the lane."""

    store: str
    lane: int
    leading: bool = False
    publishing: bool = False
    published: int = 0
    failed: int = 0
    last_success: float | None = None
    held_keys: set[tuple[str, bytes]] = field(default_factory=set)
    side_lanes: int = 0
    # Why nothing goes to Kafka just now; empty while it does.
    breaker: str = ""
    # Since when the producer has taken no more (a clock that never jumps); None while it does.
    full_since: float | None = None

    @property
    def name(self) -> str:
        """For log lines."""
        return f"relay {self.store}/{self.lane}"
