"""Posts to Google: claimed, sent once, confirmed; a refused batch is halved until the bad part is alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kylo_outbox.model.errors import Transient, UnknownOutcome
from kylo_outbox.model.tabs import post_marker
from kylo_outbox.sheets.errors import Rejected, TabProblem
from kylo_outbox.sheets.plan import MAX_CELLS, position_of
from kylo_outbox.store import sheet_posts, sheet_tabs
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.flows.post_sheet.looking import Gateway
    from kylo_outbox.flows.post_sheet.planning import Post
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.sheet_posts import Claim
    from kylo_outbox.store.workbook_lock import Held

log = logging.getLogger(__name__)
_SECOND_LOOK = 1.0


class Sender:
    """Sends posts of one workbook while its lock is held."""

    def __init__(self, control: Database, gateway: Gateway, pause: Callable[[float], None]) -> None:
        self._control, self._gateway, self._pause = control, gateway, pause

    def settle(self, spreadsheet_id: str, companies: Sequence[str]) -> None:
        """Look for the markers of posts that were begun; confirm what is found and leave the rest open.

        Raises:
            Transient: The markers cannot be looked for now.
        """
        with self._control.transaction() as tx:
            claims = sheet_posts.open_claims(tx, companies)
        if not claims:
            return
        left = self._confirm_found(spreadsheet_id, claims)
        if left:
            # Not found may mean: still on its way. Only the second look counts.
            self._pause(_SECOND_LOOK)
            self._confirm_found(spreadsheet_id, left)

    def send(self, held: Held, spreadsheet_id: str, posts: Sequence[Post]) -> set[str]:
        """Send posts as one batch, or in parts when Google refuses it; the companies that were set aside.

        Raises:
            Transient: Not now, or the outcome is not known; the claims say which.
        """
        held.require()
        claims = self._claim(spreadsheet_id, posts)
        return self._send(held, spreadsheet_id, list(zip(posts, claims, strict=True)), looked=False)

    def set_aside(self, company_id: str, spreadsheet_id: str, problem: TabProblem) -> None:
        """Leave a company out until a person acts; others go on."""
        reason, remedy = problem.detail, problem.remedy
        with self._control.transaction() as tx:
            new = sheet_tabs.set_aside(tx, company_id, spreadsheet_id, reason, remedy)
        if new:
            metrics.SHEETS_POSTS.labels("-", "aside").inc()
            log.error("company %s is set aside: %s. %s", company_id, reason, remedy)

    def _send(self, held: Held, spreadsheet_id: str, batch: Sequence[tuple[Post, Claim]], *, looked: bool) -> set[str]:
        held.require()
        try:
            for post, _ in batch:
                for part in post.plan.before:
                    self._gateway.batch_update(spreadsheet_id, part)
                    held.require()
            requests = [request for post, _ in batch for request in post.plan.requests]
            self._gateway.batch_update(spreadsheet_id, requests)
        except UnknownOutcome:
            with self._control.transaction() as tx:
                sheet_posts.mark_unknown(tx, [claim.id for _, claim in batch])
            self._count(batch, "unknown")
            raise
        except Rejected as refused:
            return self._refused(held, spreadsheet_id, batch, refused, looked=looked)
        except TabProblem as problem:
            # The workbook itself: every company in it waits.
            self._withdraw(batch)
            aside = {post.company_id for post, _ in batch}
            for company_id in aside:
                self.set_aside(company_id, spreadsheet_id, problem)
            return aside
        except Transient:
            # Certainly not applied. A post of an earlier call whose outcome was not known stays open all the same.
            self._withdraw([(post, claim) for post, claim in batch if post.claim is None])
            raise
        self._confirm(spreadsheet_id, batch, "posted")
        return set()

    def _refused(
        self,
        held: Held,
        spreadsheet_id: str,
        batch: Sequence[tuple[Post, Claim]],
        refused: Rejected,
        *,
        looked: bool,
    ) -> set[str]:
        """Google refused the batch whole; a repeat of what is there is refused as well, and then it is confirmed."""
        left = list(batch)
        if not looked:
            found = self._gateway.find_markers(spreadsheet_id, [post.plan.marker for post, _ in batch])
            there = [(post, claim) for post, claim in batch if post.plan.sheet_id in found.get(post.plan.marker, ())]
            self._confirm(spreadsheet_id, there, "found")
            left = [one for one in batch if one not in there]
        if len(left) == len(batch) == 1:
            self._withdraw(left)
            self._count(left, "refused")
            self.set_aside(left[0][0].company_id, spreadsheet_id, _in_plain_words(left[0][0], refused))
            return {left[0][0].company_id}
        aside: set[str] = set()
        for part in _parts(left, refused, whole=len(left) == len(batch)):
            aside |= self._send(held, spreadsheet_id, part, looked=True)
        return aside

    def _claim(self, spreadsheet_id: str, posts: Sequence[Post]) -> list[Claim]:
        with self._control.transaction() as tx:
            return [post.claim or self._new_claim(tx, spreadsheet_id, post) for post in posts]

    def _new_claim(self, tx: object, spreadsheet_id: str, post: Post) -> Claim:
        return sheet_posts.claim(
            tx,  # type: ignore[arg-type]
            company_id=post.company_id,
            tab=post.part.title,
            spreadsheet_id=spreadsheet_id,
            ordinal=post.plan.ordinal,
            signature=post.plan.signature,
            row_hashes=post.plan.hashes,
            upto=post.upto,
            sheet_id=post.plan.sheet_id,
            version=post.version,
        )

    def _confirm_found(self, spreadsheet_id: str, claims: Sequence[Claim]) -> list[Claim]:
        markers = {claim.id: post_marker(claim.ordinal, claim.signature) for claim in claims}
        found = self._gateway.find_markers(spreadsheet_id, list(markers.values()))
        # On its own tab: a copy of a tab may carry the markers of the original.
        there = [
            claim
            for claim in claims
            if (on := found.get(markers[claim.id])) and (claim.sheet_id is None or claim.sheet_id in on)
        ]
        with self._control.transaction() as tx:
            sheet_posts.confirm(tx, [claim.id for claim in there])
        for claim in there:
            kind = "pending" if claim.version is None else "active"
            metrics.SHEETS_POSTS.labels(kind, "found").inc()
            log.info("tab %s: %d rows found", claim.tab, len(claim.row_hashes))
        return [claim for claim in claims if claim not in there]

    def _confirm(self, spreadsheet_id: str, batch: Sequence[tuple[Post, Claim]], outcome: str) -> None:
        if not batch:
            return
        with self._control.transaction() as tx:
            sheet_posts.confirm(tx, [claim.id for _, claim in batch])
            for post, claim in batch:
                sheet_tabs.remember(
                    tx, post.company_id, post.part.kind, spreadsheet_id, post.plan.sheet_id, post.part.title
                )
                if claim.upto is not None:
                    sheet_tabs.complete(tx, post.company_id, claim.upto)
        self._count(batch, outcome)
        for post, _ in batch:
            log.info("tab %s: %d rows %s", post.part.title, len(post.plan.hashes), outcome)

    def _withdraw(self, batch: Sequence[tuple[Post, Claim]]) -> None:
        with self._control.transaction() as tx:
            sheet_posts.withdraw(tx, [claim.id for _, claim in batch])

    def _count(self, batch: Sequence[tuple[Post, Claim]], outcome: str) -> None:
        for post, _ in batch:
            metrics.SHEETS_POSTS.labels(post.part.kind, outcome).inc()


def _parts(left: list[tuple[Post, Claim]], refused: Rejected, *, whole: bool) -> list[list[tuple[Post, Claim]]]:
    """What to send next: the part that Google named apart from the others, else two halves."""
    if not whole:
        return [left] if left else []
    named = None
    if refused.index is not None:
        named = position_of([len(post.plan.requests) for post, _ in left], refused.index)
    if named is not None:
        return [[left[named]], left[:named] + left[named + 1 :]]
    middle = len(left) // 2
    return [left[:middle], left[middle:]]


def _in_plain_words(post: Post, refused: Rejected) -> TabProblem:
    company = post.company_id
    if "number of cells" in refused.message:
        return too_large(company)
    if "protected cell" in refused.message:
        return TabProblem(
            f"Tab {post.part.title!r}: a protection keeps us from writing",
            "Add the account in use to its editors, or remove it (Data > Protect sheets and ranges).",
        )
    return TabProblem(
        f"Tab {post.part.title!r}: Google refused the post ({refused.message})",
        f"Mend what it names, then `kylo-outbox sheets post {company}`.",
    )


def too_large(company_id: str) -> TabProblem:
    """The problem of a workbook that has no room for a company's rows."""
    return TabProblem(
        f"The workbook has reached Google's limit of {MAX_CELLS:,} cells, empty ones included",
        "Delete empty rows and columns or tabs that nobody needs, or give the company a workbook of its own: "
        f"`kylo-outbox company set {company_id} --spreadsheet ID`.",
    )
