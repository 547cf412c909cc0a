"""An event: what a writer saves and what a projector receives, and the one header that ties both together."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from kylo_outbox.model.errors import Poison

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER = "kylo"
_VERSION = "1"
_ORIGIN = re.compile(
    r"1;([A-Za-z0-9_-]{1,64});([0-9]{1,10});([0-9]{1,19});"
    r"([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12});([^\x00-\x1f\x7f]{0,200})"
)
_MAX_GENERATION = 2**31 - 1
_MAX_ID = 2**63 - 1
_UNPARSED: Any = object()


class Event:
    """One event of one topic and key.

    Written: `Event(topic=..., key=..., type=..., payload=...)`; `event_id` is None until `emit` has saved it, unless
    the caller chose one. Received: `payload` is parsed from `raw` at its first use.

    Attributes:
        topic: Name of the topic.
        key: Company or wallet id, as text; events of one topic and key keep their commit order.
        type: What happened, such as `TXNS_BATCH`.
        headers: The writer's own headers, text by text.
        event_id: Stable over repeats, replays and rebuilds.
        outbox_id: Number of the outbox row; None for records of other producers.
        created_at: When the writer emitted it (for received events: the record's time stamp).
        available_at: Not to be published before; None for at once, and for received events.
    """

    __slots__ = (
        *("_created_at", "_event_id", "_payload", "_raw", "available_at", "headers", "key", "outbox_id"),
        *("topic", "type"),
    )

    def __init__(
        self,
        *,
        topic: str,
        key: str,
        type: str,  # noqa: A002 - the public name of this column everywhere
        payload: Any = _UNPARSED,
        headers: Mapping[str, str] | None = None,
        event_id: UUID | None = None,
        raw: bytes | None = None,
        outbox_id: int | None = None,
        created_at: datetime | None = None,
        available_at: datetime | None = None,
    ) -> None:
        self.topic = topic
        self.key = key
        self.type = type
        self.headers: dict[str, str] = dict(headers or {})
        self.outbox_id = outbox_id
        self.available_at = available_at
        self._event_id: UUID | str | None = event_id
        self._created_at: datetime | int | None = created_at
        self._payload = payload
        self._raw = raw

    @classmethod
    def received(
        cls,
        topic: str,
        key: str,
        kind: str,
        headers: dict[str, str],
        event_id: str | None,
        raw: bytes,
        outbox_id: int | None,
        at: datetime | int | None,
    ) -> Event:
        """An event that was read. Made for every record of a catch-up, so what few ask for is computed when asked.

        `event_id` is the text of a UUID; `at` may be milliseconds since 1970, whatever number a producer wrote.
        """
        event = cls.__new__(cls)
        event.topic, event.key, event.type, event.headers = topic, key, kind, headers
        event.outbox_id, event.available_at = outbox_id, None
        event._event_id, event._created_at = event_id, at  # noqa: SLF001 - its own class
        event._payload, event._raw = _UNPARSED, raw  # noqa: SLF001
        return event

    @property
    def event_id(self) -> UUID | None:
        """Stable over repeats, replays and rebuilds."""
        if isinstance(self._event_id, str):
            self._event_id = UUID(self._event_id)
        return self._event_id

    @event_id.setter
    def event_id(self, value: UUID | None) -> None:
        self._event_id = value

    @property
    def created_at(self) -> datetime | None:
        """When the writer emitted it; None where nobody can tell."""
        if isinstance(self._created_at, int):
            self._created_at = _time_of(self._created_at)
        return self._created_at

    @created_at.setter
    def created_at(self, value: datetime | None) -> None:
        self._created_at = value

    @property
    def payload(self) -> Any:
        """The parsed payload; numbers with a fraction are floats, so money travels as text or minor units.

        Raises:
            Poison: if the bytes are not JSON that can be read (`raw` still has them).
        """
        if self._payload is _UNPARSED:
            try:
                self._payload = json.loads(self.raw)
            except (ValueError, RecursionError) as unreadable:
                raise Poison(f"payload: not readable as JSON ({type(unreadable).__name__})") from None
        return self._payload

    @property
    def raw(self) -> bytes:
        """The payload's bytes as published; empty for an event that was never saved."""
        return b"" if self._raw is None else self._raw

    def saved(self, event_id: UUID, raw: bytes) -> Event:
        """The same event with the id and the bytes under which it was stored."""
        event = self.with_content(raw, self._payload)
        event.event_id = event_id
        return event

    def with_content(self, raw: bytes, payload: Any = _UNPARSED) -> Event:
        """The same event with other bytes; with `payload` they are not parsed."""
        return Event(
            topic=self.topic,
            key=self.key,
            type=self.type,
            payload=payload,
            headers=self.headers,
            event_id=self.event_id,
            raw=raw,
            outbox_id=self.outbox_id,
            created_at=self.created_at,
            available_at=self.available_at,
        )

    def __repr__(self) -> str:
        return f"Event({self.topic} {self.key} {self.type} {self.event_id} #{self.outbox_id})"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record was born: store, generation of its ids, row, event id and type. One header carries it."""

    store_id: str
    generation: int
    outbox_id: int
    event_id: UUID
    type: str

    def header(self) -> bytes:
        """The value of the header `kylo`."""
        return f"{_VERSION};{self.store_id};{self.generation};{self.outbox_id};{self.event_id};{self.type}".encode()


def origin_of(header: bytes) -> Origin | None:
    """Read the header `kylo`; None if it is not one of ours (then the record counts as another producer's)."""
    found = read_origin(header)
    if found is None:
        return None
    store_id, generation, outbox_id, event_id, kind = found
    return Origin(store_id, generation, outbox_id, UUID(event_id), kind)


def read_origin(header: bytes) -> tuple[str, int, int, str, str] | None:
    """The same without an object: (store id, generation, outbox id, text of the event id, type).

    Numbers that no store can have given out are not believed: they would end up in columns too small for them.
    """
    try:
        found = _ORIGIN.fullmatch(header.decode())
    except UnicodeDecodeError:
        return None
    if found is None:
        return None
    store_id, digits, number, event_id, kind = found.groups()
    generation, outbox_id = int(digits), int(number)
    if generation > _MAX_GENERATION or outbox_id > _MAX_ID:
        return None
    return store_id, generation, outbox_id, event_id, kind


def _time_of(milliseconds: int) -> datetime | None:
    # A producer may write any number as the time of its record.
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
