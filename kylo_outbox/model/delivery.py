"""One event on its way to a projector: the event, and the coordinates by which a repeat is recognised."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from kylo_outbox.model.events import HEADER, Event, Origin, read_origin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

PositionKey = tuple[str, str, str]
"""(store id, topic, key). Records of other producers: ("", topic, "@partition")."""
PositionAt = tuple[int, int]
"""(generation, outbox id). Records of other producers: (0, offset). Compared as pairs."""

NOWHERE: PositionAt = (-1, -1)


def clean(text: str) -> str:
    """Text as PostgreSQL can store it: NUL characters are written out."""
    return text.replace("\x00", "\\x00")


class Lost(NamedTuple):
    """Offsets from `first` up to (not with) `end` that left the log before they were read."""

    topic: str
    partition: int
    first: int
    end: int


class Delivery(NamedTuple):
    """An event with its position and, if it came over Kafka, where it lies there.

    A tuple, because one is made for every record: a dataclass that cannot be changed costs five times as much.
    """

    event: Event
    position_key: PositionKey
    position: PositionAt
    partition: int | None = None
    offset: int | None = None

    @property
    def store_id(self) -> str:
        """The store that wrote it; empty for other producers."""
        return self.position_key[0]

    @property
    def hold_key(self) -> PositionKey | None:
        """What waits behind this event if it cannot be applied; None: nothing does.

        Events of ours wait by their key. So do records of other producers, though their position is the partition's;
        without a key there is nobody to wait.
        """
        if self.store_id:
            return self.position_key
        return ("", self.event.topic, clean(self.event.key)) if self.event.key else None


def from_record(
    *,
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    at: datetime | int | None,
) -> Delivery:
    """Read any record, whoever wrote it; what cannot be read shows when a projector asks for the payload.

    `at` may be milliseconds since 1970, whatever number a producer wrote.
    """
    own = None
    others: dict[str, str] = {}
    for name, content in headers:
        if name == HEADER and content is not None:
            own = read_origin(content)
        else:
            others[name] = (content or b"").decode("utf-8", "backslashreplace")
    if own is None:
        text = _text(key or b"")
        event = Event.received(topic, text, others.get("ce_type", ""), others, None, value or b"", None, at)
        return Delivery(event, ("", topic, f"@{partition}"), (0, offset), partition, offset)
    store_id, generation, outbox_id, event_id, kind = own
    place = _place_of(store_id, topic, key or b"")
    if "\x00" in place[2]:
        event = Event.received(topic, place[2], kind, others, event_id, value or b"", None, at)
        return Delivery(event, ("", topic, f"@{partition}"), (0, offset), partition, offset)
    event = Event.received(place[1], place[2], kind, others, event_id, value or b"", outbox_id, at)
    return Delivery(event, place, (generation, outbox_id), partition, offset)


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")


@lru_cache(maxsize=8192)
def _place_of(store_id: str, topic: str, key: bytes) -> PositionKey:
    # One object for all records of a key: dictionaries find it by identity, and its texts are hashed once.
    return store_id, topic, _text(key)


def from_outbox(
    *,
    origin: Origin,
    topic: str,
    key: bytes,
    payload: bytes,
    headers: Mapping[str, str],
    at: datetime,
) -> Delivery:
    """The same event as `from_record` would give it, without the journey."""
    text = key.decode()
    event = Event(
        topic=topic,
        key=text,
        type=origin.type,
        headers=headers,
        event_id=origin.event_id,
        raw=payload,
        outbox_id=origin.outbox_id,
        created_at=at,
    )
    return Delivery(event, (origin.store_id, topic, text), (origin.generation, origin.outbox_id))


def place(key: PositionKey, at: PositionAt) -> Delivery:
    """A delivery that stands for its coordinates alone; nothing of its content is known."""
    return Delivery(Event.received(key[1], key[2], "", {}, None, b"", at[1], None), key, at)
