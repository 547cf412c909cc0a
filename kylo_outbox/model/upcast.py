"""Older versions of an event, lifted to the newest one when they are read. What is stored is never rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.model.errors import Poison

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kylo_outbox.model.events import Event

_MOST = 100


def lift(event: Event, upcasters: Mapping[tuple[str, int], Callable[[Any], Any]]) -> Event:
    """The event as its newest version: `upcasters` applied one after the other, as long as there is one for it.

    Raises:
        Poison: the versions never come to an end, or `version` is no number.
    """
    if not any(kind == event.type for kind, _ in upcasters):
        return event
    payload = event.payload
    for _ in range(_MOST):
        version = payload.get("version", 1) if isinstance(payload, dict) else 1
        if not isinstance(version, int):
            raise Poison(f"version: {version!r} is no number")
        upcaster = upcasters.get((event.type, version))
        if upcaster is None:
            return event if payload is event.payload else event.with_content(event.raw, payload)
        payload = upcaster(payload)
        if isinstance(payload, dict):
            payload = {**payload, "version": version + 1}
    raise Poison(f"version: more than {_MOST} upcasters in a row for {event.type}")
