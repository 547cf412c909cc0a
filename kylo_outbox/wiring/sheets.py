"""Google Sheets put together: the gateway with its quota, the poster, and what people and schedules do with tabs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kylo_outbox.flows import approvals
from kylo_outbox.flows.post_sheet import Posting, ReadApprovals, SheetsDesk
from kylo_outbox.flows.post_sheet.looking import Looker
from kylo_outbox.model.approvals import Line
from kylo_outbox.model.marks import Marks
from kylo_outbox.sheets.gateway import GoogleSheets
from kylo_outbox.sheets.pacing import PER_MINUTE, Pacer
from kylo_outbox.store import companies
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.flows.post_sheet import TakeApprovals
    from kylo_outbox.model.companies import Company
    from kylo_outbox.model.marks import ApprovalLine
    from kylo_outbox.wiring.parts import Parts


TIMEOUT = 20.0
"""Seconds without a byte from Google; below what the watchdog takes for a hanging worker."""


def gateway(parts: Parts, *, modest: bool = False) -> GoogleSheets:
    """The official client under the quota that all processes share; `modest` leaves half of it to posts.

    Raises:
        Misconfigured: The credentials cannot be used.
    """
    settings = parts.settings
    made = GoogleSheets(settings.sheets_endpoint, settings.google_credentials, TIMEOUT, on_request=_count)
    limited = settings.sheets_endpoint is None or settings.sheets_reads or settings.sheets_writes
    if limited:
        pacer = Pacer(
            parts.control,
            made.quota_account,
            reads=settings.sheets_reads or PER_MINUTE,
            writes=settings.sheets_writes or PER_MINUTE,
        )
        made.pace = pacer.modest() if modest else pacer
    return made


def posting(parts: Parts) -> Posting:
    """What brings tabs up to date."""
    return Posting(control=parts.control, store_of=parts.directory.database_of, gateway=gateway(parts))


def desk(parts: Parts) -> SheetsDesk:
    """What people do about tabs."""
    return SheetsDesk(control=parts.control, posting=posting(parts), companies=lambda: all_companies(parts))


def read_approvals(parts: Parts, take: TakeApprovals | None = None) -> ReadApprovals:
    """The job that reads approvals back, and hands them to `take` (by default they become approved rules)."""
    return ReadApprovals(
        control=parts.control,
        looker=Looker(parts.control, parts.directory.database_of, gateway(parts, modest=True)),
        take=take or take_approvals(parts),
        companies=lambda: all_companies(parts),
    )


def take_approvals(parts: Parts) -> TakeApprovals:
    """What makes approved lines approved rules."""
    flow = approvals.TakeApprovals(parts.control, parts.directory.database_of)

    def take(company_id: str, lines: Sequence[ApprovalLine]) -> dict[str, Marks]:
        given = [Line(line.row, line.row_hash, line.approved, line.target_sheet, line.target_header) for line in lines]
        said: dict[str, Marks] = {}
        for out in flow.take(company_id, given):
            # Of a line that people copied, the copy with a fault is the one to talk about.
            if not (out.row_hash in said and said[out.row_hash].match_notes):
                said[out.row_hash] = Marks(out.match_notes, out.rule_id, out.processed_at)
        return said

    return take


def all_companies(parts: Parts) -> list[Company]:
    """Every company of the control database."""
    with parts.control.begin() as connection:
        return companies.all_companies(connection)


def _count(kind: str, code: str) -> None:
    metrics.SHEETS_REQUESTS.labels(kind, code).inc()
