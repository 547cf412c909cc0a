"""The projector `sheets`: events of the road become turns at workbooks, many events of a company one post."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from kylo_outbox.flows.post_sheet.posting import TURN_SECONDS, MoreToPost
from kylo_outbox.model.errors import Poison, Transient
from kylo_outbox.model.projector import EffectProjector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from kylo_outbox.flows.post_sheet.posting import Posting
    from kylo_outbox.model.companies import Company
    from kylo_outbox.model.events import Event


class PostSheet(EffectProjector):
    """Posts. With `posting=None` (shadow mode) it calls nobody and writes no `sheet_posts` row."""

    name: ClassVar[str] = "sheets"
    # An event says that a tab is behind, not what to write: the next one of the company makes good for this one.
    on_poison = "skip"

    def __init__(
        self,
        *,
        topics: Sequence[str],
        company_of: Callable[[str], Company | None],
        posting: Posting | None,
    ) -> None:
        self.topics = tuple(topics)
        self._company_of = company_of
        self._posting = posting
        # The newest event of a company that was served; spares Google's quota when a batch is tried again.
        self._served: dict[str, UUID] = {}

    def perform(self, events: Sequence[Event]) -> None:
        """Bring the tabs of the companies named by `events` up to date, workbook by workbook.

        Raises:
            Poison: An event names no company of ours.
            Transient: Not now, for some workbook; the others were brought up to date.
        """
        if self._posting is None:
            return
        newest = {event.key: event.event_id for event in events}
        books: dict[str, list[Company]] = {}
        for company_id, event_id in newest.items():
            if event_id is not None and self._served.get(company_id) == event_id:
                continue
            company = self._company_of(company_id)
            if company is None:
                raise Poison(f"unknown company {company_id}; `kylo-outbox company add` makes it known")
            books.setdefault(company.spreadsheet_id, []).append(company)
        failed: list[Transient] = []
        until = time.monotonic() + TURN_SECONDS
        for spreadsheet_id, companies in books.items():
            if time.monotonic() > until:
                failed.append(MoreToPost("more workbooks follow"))
                break
            try:
                self._posting.post(spreadsheet_id, companies)
            except Transient as away:
                failed.append(away)
            else:
                own = [company.company_id for company in companies]
                self._served |= {company: found for company in own if (found := newest[company]) is not None}
        if failed:
            raise max(failed, key=lambda away: float(getattr(away, "retry_after", 0.0)))
