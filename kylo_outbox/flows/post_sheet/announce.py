"""Telling the road which tabs lack rows: after shadow mode, or after a tab or its tables were out of reach."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kylo_outbox.model.errors import Transient
from kylo_outbox.model.messages import tabs_changed
from kylo_outbox.store import company_state, pending, sheet_posts, sheet_tabs
from kylo_outbox.store.emit import emit_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)


class AnnounceUnposted:
    """Two scheduled jobs. They only emit `TABS_CHANGED`; the rows travel like any others."""

    def __init__(self, *, control: Database, stores: Callable[[], Iterable[tuple[Database, Sequence[str]]]]) -> None:
        self._control, self._stores = control, stores

    def run_once(self) -> list[str]:
        """Emit one event for each company whose tabs lack open rows or the rules in force; the companies."""
        announced: list[str] = []
        for store, companies in self._stores():
            try:
                with store.transaction() as tx:
                    newest = pending.newest_open(tx, companies)
                    versions = company_state.versions(tx, companies)
                with self._control.transaction() as tx:
                    complete = sheet_tabs.complete_upto(tx, companies)
                    shown = sheet_posts.active_versions(tx, companies)
                behind = {company for company, (seq, _) in newest.items() if seq > complete.get(company, 0)}
                behind |= {company for company, version in versions.items() if version != shown.get(company, 0)}
                with store.transaction() as tx:
                    emit_many(tx, [tabs_changed(company, "pending") for company in sorted(behind)])
                announced += sorted(behind)
            except Transient as away:
                log.warning("tabs of %s cannot be looked after now: %s", store.name, away)
        return announced

    def returned(self) -> list[str]:
        """Emit one event for each company that was left out because of its own database, which is back; the companies.

        Their earlier events count as done, so this one is stored before the company stops being set aside.
        """
        with self._control.transaction() as tx:
            waiting = sheet_tabs.without_tables(tx)
        announced: list[str] = []
        for store, companies in self._stores() if waiting else ():
            back = sorted(waiting.keys() & set(companies))
            if not back:
                continue
            try:
                with store.transaction() as tx:
                    emit_many(tx, [tabs_changed(company, "pending") for company in back])
            except Transient as away:
                log.debug("%s is still away: %s", store.name, away)
                continue
            with self._control.transaction() as tx:
                for company in back:
                    sheet_tabs.returned(tx, company, *waiting[company])
            log.info("tabs of %s are looked after again: %s", store.name, ", ".join(back))
            announced += back
        return announced
