"""The Pending tab: plan what is missing, claim the post, one batchUpdate with its marker inside, confirm.

No Google call happens inside a transaction. What Google answered decides nothing alone: after a time-out or a dropped
connection the marker in the workbook tells whether the post took effect, and only then is the same post sent again.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Protocol

from kylo_outbox.model.errors import Poison, Transient, UnknownOutcome
from kylo_outbox.model.events import Event
from kylo_outbox.model.projector import EffectProjector
from kylo_outbox.model.tabs import PendingRow, post_marker
from kylo_outbox.sheets.planner import PostPlan, plan_pending
from kylo_outbox.store import pending, sheet_posts
from kylo_outbox.store.emit import emit_many
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from kylo_outbox.model.companies import Company
    from kylo_outbox.sheets.tab import TabContents, TabInfo
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.sheet_posts import Claim

log = logging.getLogger(__name__)
TABS_CHANGED = "TABS_CHANGED"


class Gateway(Protocol):
    """Google Sheets, or something that behaves like it."""

    def tabs(self, spreadsheet_id: str) -> Mapping[str, TabInfo]: ...  # noqa: D102
    def contents(self, spreadsheet_id: str, title: str) -> TabContents: ...  # noqa: D102
    def find_marker(self, spreadsheet_id: str, marker: str) -> bool: ...  # noqa: D102
    def batch_update(self, spreadsheet_id: str, requests: Sequence[dict[str, Any]]) -> Any: ...  # noqa: D102


class PostSheet(EffectProjector):
    """Projector `sheets`. With `gateway=None` (shadow mode) it calls nobody and writes no `sheet_posts` row."""

    name: ClassVar[str] = "sheets"
    # An event says that a tab is behind, not what to write: the next one of the company makes good for this one.
    on_poison = "skip"

    def __init__(
        self,
        *,
        topics: Sequence[str],
        control: Database,
        store_of: Callable[[str], Database],
        company_of: Callable[[str], Company | None],
        gateway: Gateway | None,
    ) -> None:
        self.topics = tuple(topics)
        self._control, self._store_of, self._company_of = control, store_of, company_of
        self._gateway = gateway

    def perform(self, events: Sequence[Event]) -> None:
        """Bring the tabs of the companies named by `events` up to date; many events of a company are one post."""
        if self._gateway is None:
            return
        for company_id in dict.fromkeys(event.key for event in events):
            company = self._company_of(company_id)
            if company is None:
                raise Poison(f"unknown company {company_id}; `kylo-outbox company add` makes it known")
            while self._post(self._gateway, company):
                pass

    def _post(self, gateway: Gateway, company: Company) -> bool:
        """One post of this tab; True if it makes sense to look again at once."""
        title = company.tab_pending
        with self._control.transaction() as tx:
            claim = sheet_posts.open_claim(tx, company.company_id, title)
            ordinal = claim.ordinal if claim else sheet_posts.next_ordinal(tx, company.company_id, title)
        if claim is not None and self._found(gateway, company, claim):
            return True
        with self._store_of(company.company_id).transaction() as tx:
            rows = pending.open_rows(tx, company.company_id)
        # A post that was begun is sent again exactly as it was claimed, so that Google itself refuses a second effect.
        chosen = rows if claim is None else [row for row in rows if row.txn_uid in set(claim.row_hashes)]
        plan = self._plan(gateway, company, ordinal, chosen)
        if claim is not None and (plan is None or plan.signature != claim.signature):
            self._withdraw(claim)
            return True
        if plan is None:
            return False
        post = claim or self._claim(company, plan, upto=None if plan.remaining else max(row.seq for row in rows))
        self._send(gateway, company, plan, post)
        return claim is not None or plan.remaining > 0

    def _plan(
        self, gateway: Gateway, company: Company, ordinal: int, rows: Iterable[pending.OpenRow]
    ) -> PostPlan | None:
        tab = gateway.tabs(company.spreadsheet_id).get(company.tab_pending)
        contents = gateway.contents(company.spreadsheet_id, company.tab_pending) if tab is not None else None
        wanted = [
            PendingRow(row.txn_uid, row.occurred_at.isoformat(), row.description, company.company_id, row.amount_cents)
            for row in rows
        ]
        return plan_pending(
            company_id=company.company_id,
            title=company.tab_pending,
            ordinal=ordinal,
            tab=tab,
            contents=contents,
            wanted=wanted,
        )

    def _send(self, gateway: Gateway, company: Company, plan: PostPlan, post: Claim) -> None:
        try:
            gateway.batch_update(company.spreadsheet_id, plan.requests)
        except UnknownOutcome:
            with self._control.transaction() as tx:
                sheet_posts.mark_unknown(tx, post)
            metrics.SHEETS_POSTS.labels("pending", "unknown").inc()
            raise
        except Poison:
            # Refused as a whole. A repeat of what is there already is refused as well: then it is simply confirmed.
            if self._found(gateway, company, post):
                return
            self._withdraw(post)
            metrics.SHEETS_POSTS.labels("pending", "refused").inc()
            raise
        except Transient:
            self._withdraw(post)
            raise
        self._confirm(company, post, "posted")

    def _claim(self, company: Company, plan: PostPlan, upto: int | None) -> Claim:
        with self._control.transaction() as tx:
            return sheet_posts.claim(
                tx,
                company_id=company.company_id,
                tab=company.tab_pending,
                spreadsheet_id=company.spreadsheet_id,
                ordinal=plan.ordinal,
                signature=plan.signature,
                row_hashes=plan.hashes,
                upto=upto,
            )

    def _found(self, gateway: Gateway, company: Company, post: Claim) -> bool:
        if not gateway.find_marker(company.spreadsheet_id, post_marker(post.ordinal, post.signature)):
            return False
        self._confirm(company, post, "found")
        return True

    def _confirm(self, company: Company, post: Claim, outcome: str) -> None:
        with self._control.transaction() as tx:
            sheet_posts.confirm(tx, post)
        metrics.SHEETS_POSTS.labels("pending", outcome).inc()
        log.info("tab %s: %d rows %s", company.tab_pending, len(post.row_hashes), outcome)

    def _withdraw(self, post: Claim) -> None:
        with self._control.transaction() as tx:
            sheet_posts.withdraw(tx, post)


class AnnounceUnposted:
    """Tells the road which tabs lack rows: after shadow mode, or after a tab was out of reach for long.

    It only emits `TABS_CHANGED`; the rows travel like any others.
    """

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
                    emit_many(tx, [self._event(company) for company in behind])
                announced += behind
            except Transient as away:
                log.warning("tabs of %s cannot be looked after now: %s", store.name, away)
        return announced

    def _event(self, company_id: str) -> Event:
        at = datetime.now(UTC).isoformat()
        payload = {
            "event_type": TABS_CHANGED,
            "version": 1,
            "company_id": company_id,
            "tab": "pending",
            "created_at": at,
        }
        return Event(topic=self._topic, key=company_id, type=TABS_CHANGED, payload=payload)
