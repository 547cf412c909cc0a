"""Transactional outbox between PostgreSQL, Apache Kafka and Google Sheets.

Writers save events with `emit`, `emit_many` or `emit_async` in their own transaction; readers subclass `Projector`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kylo_outbox.model.errors import Poison, Refused, Transient
    from kylo_outbox.model.events import Event
    from kylo_outbox.model.projector import Effect, Projector
    from kylo_outbox.store.emit import emit, emit_async, emit_many

__version__ = "0.1.0"
__all__ = ["Effect", "Event", "Poison", "Projector", "Refused", "Transient", "emit", "emit_async", "emit_many"]

_HOMES = {
    "Effect": "model.projector",
    "Event": "model.events",
    "Poison": "model.errors",
    "Projector": "model.projector",
    "Refused": "model.errors",
    "Transient": "model.errors",
    "emit": "store.emit",
    "emit_async": "store.emit",
    "emit_many": "store.emit",
}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use, so that a command that needs no database does not wait for its drivers."""
    if name in _HOMES:
        return getattr(import_module(f"kylo_outbox.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
