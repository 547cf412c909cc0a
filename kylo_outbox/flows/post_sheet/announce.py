"""Telling the road which tabs lack rows: after shadow mode, or after a tab was out of reach for long."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kylo_outbox.model.errors import Transient
from kylo_outbox.model.events import Event
from kylo_outbox.store import pending, sheet_posts
from kylo_outbox.store.emit import emit_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)
TABS_CHANGED = "TABS_CHANGED"


def tabs_changed(topic: str, company_id: str, tab: str = "pending") -> Event:
    """The event that makes the poster look at a company's tabs."""
    payload = {
        "event_type": TABS_CHANGED,
        "version": 1,
        "company_id": company_id,
        "tab": tab,
        "created_at": datetime.now(UTC).isoformat(),
    }
    return Event(topic=topic, key=company_id, type=TABS_CHANGED, payload=payload)


class AnnounceUnposted:
    """A scheduled job. It only emits `TABS_CHANGED`; the rows travel like any others."""

    def __init__(
        self, *, topic: str, control: Database, stores: Callable[[], Iterable[tuple[Database, Sequence[str]]]]
    ) -> None:
        self._topic, self._control, self._stores = topic, control, stores

    def run_once(self) -> list[str]:
        """Emit one event for each company with open rows that were never posted; the companies."""
        announced: list[str] = []
        for store, companies in self._stores():
            try:
                with store.transaction() as tx:
                    newest = pending.newest_open(tx, companies)
                with self._control.transaction() as tx:
                    complete = sheet_posts.complete_upto(tx, companies)
                behind = [company for company, (seq, _) in newest.items() if seq > complete.get(company, 0)]
                with store.transaction() as tx:
                    emit_many(tx, [tabs_changed(self._topic, company) for company in behind])
                announced += behind
            except Transient as away:
                log.warning("tabs of %s cannot be looked after now: %s", store.name, away)
        return announced
