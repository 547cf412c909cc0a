"""Transactional outbox between PostgreSQL, Apache Kafka and Google Sheets.

Writers save events with `emit`, `emit_many` or `emit_async` in their own transaction; readers subclass `Projector`.
"""

from kylo_outbox.model.errors import Poison, Refused, Transient
from kylo_outbox.model.events import Event
from kylo_outbox.model.projector import Projector
from kylo_outbox.store.emit import emit, emit_async, emit_many

__version__ = "0.1.0"
__all__ = ["Event", "Poison", "Projector", "Refused", "Transient", "emit", "emit_async", "emit_many"]
