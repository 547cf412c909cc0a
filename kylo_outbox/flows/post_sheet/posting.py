"""One turn at a workbook: what was begun is settled, then everything that its companies lack goes out in one batch."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kylo_outbox.flows.post_sheet.looking import BookLook, Looker
from kylo_outbox.flows.post_sheet.planning import Post, posts_of
from kylo_outbox.flows.post_sheet.sending import Sender, too_large
from kylo_outbox.model.errors import Transient
from kylo_outbox.sheets.errors import TabProblem
from kylo_outbox.sheets.plan import MAX_CELLS, batches
from kylo_outbox.sheets.repairing import NOTHING, keep
from kylo_outbox.store import sheet_posts, sheet_tabs, workbook_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.flows.post_sheet.looking import Gateway, Look
    from kylo_outbox.model.companies import Company
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.sheet_posts import Claim
    from kylo_outbox.store.workbook_lock import Held

log = logging.getLogger(__name__)
TURN_SECONDS = 20.0
"""After so long a turn gives its worker back to the watchdog, between two rounds."""
_ROUNDS = 8
"""Rounds after which lines that people keep moving are left to the next turn."""


class MoreToPost(Transient):
    """A turn was long enough; calling again at once goes on."""


@dataclass
class _Turn:
    """What one turn has to remember between its rounds."""

    spreadsheet_id: str
    repair: bool
    companies: dict[str, Company]
    repairs: int = 0


class Posting:
    """Brings tabs up to date. Safe to share between threads and processes: a workbook has one poster at a time."""

    def __init__(
        self,
        *,
        control: Database,
        store_of: Callable[[str], Database],
        gateway: Gateway,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._control = control
        self.looker = Looker(control, store_of, gateway)
        self._sender = Sender(control, gateway, pause)

    def post(self, spreadsheet_id: str, companies: Sequence[Company], *, repair: bool = False) -> None:
        """Bring the tabs of these companies of one workbook up to date.

        A company with a problem is set aside, and so is one whose own database is away.

        Raises:
            MoreToPost: Some companies have more rows.
            Transient: Not now, because of Google or the control database; calling again is harmless and goes on where
                this ended.
        """
        until = time.monotonic() + TURN_SECONDS
        turn = _Turn(spreadsheet_id, repair, {company.company_id: company for company in companies})
        with workbook_lock.held(self._control, spreadsheet_id) as held:
            try:
                self._sender.settle(spreadsheet_id, list(turn.companies))
                while turn.companies and turn.repairs < _ROUNDS:
                    self._round(held, turn)
                    if turn.companies and time.monotonic() > until:
                        raise MoreToPost(f"workbook {spreadsheet_id}: more rows follow")
            except TabProblem as problem:
                for company_id in turn.companies:
                    self._sender.set_aside(company_id, spreadsheet_id, problem)

    def settle(self, spreadsheet_id: str, companies: Sequence[str]) -> None:
        """Confirm posts that were begun and whose markers are there; the workbook's lock must be held."""
        self._sender.settle(spreadsheet_id, companies)

    def _round(self, held: Held, turn: _Turn) -> None:
        """Look, plan and send once. Companies that are done leave the turn."""
        book = self.looker.look(turn.spreadsheet_id, list(turn.companies.values()))
        for company_id, away in book.away.items():
            self._sender.set_aside(
                company_id, turn.spreadsheet_id, TabProblem(sheet_tabs.AWAY, _wait(company_id, away))
            )
        posts = self._plan(book, turn)
        unfinished = self._send(held, turn, posts)
        turn.companies = {own: company for own, company in turn.companies.items() if own in unfinished}
        turn.repairs += not any(post.plan.hashes for post in posts)

    def _plan(self, book: BookLook, turn: _Turn) -> list[Post]:
        """What is to be sent; a company that has a problem, or no room in the workbook, is set aside."""
        posts: list[Post] = []
        room = MAX_CELLS - book.cells
        for look in book.looks:
            own = look.company.company_id
            try:
                found, gone = self._posts_of(look, turn)
            except TabProblem as problem:
                look.problem = problem
                found, gone = [], []
            grown = sum(post.plan.grown for post in found)
            if look.problem is None and grown > room:
                look.problem = too_large(own)
            if look.problem is not None:
                self._sender.set_aside(own, turn.spreadsheet_id, look.problem)
                continue
            room -= grown
            self._withdraw(gone)
            posts += found
            if all(post.part is not look.pending for post in found):
                self._is_complete(look, turn)
            if not found:
                self._nothing_missing(look, turn)
        return posts

    def _posts_of(self, look: Look, turn: _Turn) -> tuple[list[Post], list[Claim]]:
        if look.problem is not None:
            return [], []
        return posts_of(look, repair=turn.repair)

    def _send(self, held: Held, turn: _Turn, posts: Sequence[Post]) -> set[str]:
        """Send everything in as few batches as fit; the companies that must be looked at once more."""
        unfinished: set[str] = set()
        aside: set[str] = set()
        for part in batches([(post.plan.size, bool(post.plan.before)) for post in posts]):
            batch = [posts[position] for position in part]
            self._guard(turn, batch)
            aside |= self._sender.send(held, turn.spreadsheet_id, batch)
            for post in batch:
                if post.plan.fixes or post.plan.remaining or post.claim is not None:
                    unfinished.add(post.company_id)
        self._go_on({post.company_id for post in posts} - aside)
        return unfinished - aside

    def _guard(self, turn: _Turn, batch: Sequence[Post]) -> None:
        """Before anything is written by its place, keep what people typed in those columns."""
        with self._control.transaction() as tx:
            for post in batch:
                part = post.part
                if post.plan.fixes and part.tab is not None and part.contents is not None:
                    place = (turn.spreadsheet_id, part.tab.sheet_id, part.title)
                    sheet_tabs.remember(tx, post.company_id, part.kind, *place)
                    kept = keep(part.contents, post.look.kept, post.plan.fixes)
                    sheet_tabs.guard(tx, post.company_id, kept.to_json())

    def _go_on(self, companies: set[str]) -> None:
        with self._control.transaction() as tx:
            back = sheet_tabs.go_on(tx, sorted(companies))
        for company_id in back:
            log.info("company %s goes on: its tabs can be written again", company_id)

    def _is_complete(self, look: Look, turn: _Turn) -> None:
        """The Pending tab holds every open row, whoever wrote them there."""
        own, part = look.company.company_id, look.pending
        if part.tab is not None:
            with self._control.transaction() as tx:
                sheet_tabs.remember(tx, own, part.kind, turn.spreadsheet_id, part.tab.sheet_id, part.title)
                if look.newest:
                    sheet_posts.complete(tx, own, part.title, look.newest)
                    sheet_tabs.complete(tx, own, look.newest)

    def _nothing_missing(self, look: Look, turn: _Turn) -> None:
        own, part = look.company.company_id, look.active
        self._go_on({own})
        with self._control.transaction() as tx:
            if look.kept != NOTHING:
                sheet_tabs.guard(tx, own, None)
            if part.tab is not None:
                sheet_tabs.remember(tx, own, part.kind, turn.spreadsheet_id, part.tab.sheet_id, part.title)

    def _withdraw(self, claims: Sequence[Claim]) -> None:
        if claims:
            with self._control.transaction() as tx:
                sheet_posts.withdraw(tx, [claim.id for claim in claims])


def _wait(company_id: str, away: Transient) -> str:
    return f"Mend what is away ({away}); company {company_id} goes on by itself within a minute after."
