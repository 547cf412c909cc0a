"""Reading back what people approved in the Pending tabs, on a schedule and on demand.

It writes no cell itself: what lines should say is stored, and an event makes the poster write it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from kylo_outbox.model.errors import KyloError
from kylo_outbox.model.marks import approval_line
from kylo_outbox.model.messages import tabs_changed
from kylo_outbox.store import sheet_tabs
from kylo_outbox.store.emit import emit_many

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kylo_outbox.flows.post_sheet.looking import Look, Looker
    from kylo_outbox.model.companies import Company
    from kylo_outbox.model.marks import ApprovalLine, Marks
    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)


class TakeApprovals(Protocol):
    """What is done with the lines of one company: checked, taken as approved rules, answered line by line."""

    def __call__(self, company_id: str, lines: Sequence[ApprovalLine]) -> Mapping[str, Marks]:
        """Take the lines and return what each should say, by Row_Hash; a line without an answer says nothing.

        Called again with the same lines it changes nothing and answers the same.
        """
        ...


class ReadApprovals:
    """A scheduled job, and `sheets approvals`.

    Args:
        control: Where it is kept what lines should say.
        looker: Reads tabs; give it a modest pacer, so that posts come first.
        take: Who decides about the lines.
        companies: Every company that is posted to Google.
    """

    def __init__(
        self,
        *,
        control: Database,
        looker: Looker,
        take: TakeApprovals,
        companies: Callable[[], Sequence[Company]],
    ) -> None:
        self._control, self._looker = control, looker
        self._take, self._companies = take, companies

    def run_once(self, only: Sequence[str] = ()) -> dict[str, int]:
        """Read all companies' tabs, or only some; how many lines each one's approvals changed.

        A workbook that cannot be read now, and a company whose lines cannot be taken, are left to the next time.
        """
        books: dict[str, list[Company]] = {}
        for company in self._companies():
            if not company.paused and (not only or company.company_id in only):
                books.setdefault(company.spreadsheet_id, []).append(company)
        changed: dict[str, int] = {}
        for spreadsheet_id, companies in books.items():
            try:
                looks = self._looker.look(spreadsheet_id, companies).looks
            except KyloError as away:
                log.warning("approvals of workbook %s cannot be read now: %s", spreadsheet_id, away)
                continue
            for look in looks:
                if look.problem is None and look.pending.contents is not None:
                    changed[look.company.company_id] = self._read(look)
        return changed

    def _read(self, look: Look) -> int:
        own = look.company.company_id
        lines = lines_of(look)
        try:
            marks = self._take(own, lines)
            with self._control.transaction() as tx:
                changed = sheet_tabs.put_marks(tx, own, marks)
                if changed:
                    emit_many(tx, [tabs_changed(own, "pending")])
        except KyloError as refused:
            log.warning("approvals of %s cannot be taken now: %s", own, refused)
            return 0
        return changed


def lines_of(look: Look) -> list[ApprovalLine]:
    """The lines of a Pending tab that are ours, as people left them; one that people copied comes twice."""
    contents = look.pending.contents
    return [
        approval_line(index + 2, line)
        for index, line in enumerate(contents.lines if contents is not None else ())
        if line and str(line[0]) in look.states
    ]
