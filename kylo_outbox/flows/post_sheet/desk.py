"""What people do about tabs: look what would change, post, compare and repair, adopt or recreate a tab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kylo_outbox.flows.post_sheet.comparing import Finding, compare
from kylo_outbox.flows.post_sheet.planning import posts_of
from kylo_outbox.flows.post_sheet.posting import MoreToPost
from kylo_outbox.model.errors import Refused
from kylo_outbox.model.tabs import PENDING_COLUMNS
from kylo_outbox.sheets.errors import TabProblem
from kylo_outbox.store import companies as company_table
from kylo_outbox.store import sheet_posts, sheet_tabs, workbook_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kylo_outbox.flows.post_sheet.looking import Look
    from kylo_outbox.flows.post_sheet.posting import Posting
    from kylo_outbox.model.companies import Company
    from kylo_outbox.sheets.tab import TabInfo
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.sheet_tabs import Aside


@dataclass(frozen=True, slots=True)
class Compared:
    """What one company's tabs have and should not, or the other way round; `problem` says why nobody could look."""

    company_id: str
    findings: tuple[Finding, ...] = ()
    problem: str | None = None
    remedy: str | None = None


class SheetsDesk:
    """The verbs `sheets ...`. Every method takes company ids; none means all of them."""

    def __init__(self, *, control: Database, posting: Posting, companies: Callable[[], Sequence[Company]]) -> None:
        self._control, self._posting, self._companies = control, posting, companies

    def plan(self, only: Sequence[str] = ()) -> list[dict[str, Any]]:
        """What a post would change, company by company; nothing is written or claimed.

        Raises:
            Refused: An id is unknown.
            Transient: Google or a database is away.
        """
        return [_planned(look) for look in self._looks(only)]

    def post(self, only: Sequence[str] = ()) -> list[Aside]:
        """Bring tabs up to date now; the companies among them that are set aside afterwards.

        Raises:
            Refused: An id is unknown.
            Transient: Not now; calling again goes on where this ended.
        """
        return self._post(only, repair=False)

    def reconcile(self, only: Sequence[str] = (), *, repair: bool = False) -> list[Compared]:
        """Compare tabs with tables; with `repair`, first mend what can be mended without touching people's work.

        Raises:
            Refused: An id is unknown.
            Transient: Not now.
        """
        if repair:
            self._post(only, repair=True)
        return [
            Compared(look.company.company_id, problem=look.problem.detail, remedy=look.problem.remedy)
            if look.problem
            else Compared(look.company.company_id, tuple(compare(look)))
            for look in self._looks(only, whole=True)
        ]

    def aside(self) -> list[Aside]:
        """Every company that waits for a person, or for its own database."""
        with self._control.transaction() as tx:
            return sheet_tabs.all_aside(tx)

    def adopt(self, company_id: str, *, tab: str | None = None) -> dict[str, str]:
        """Go on with the tabs as people left them: a new name is taken over, or another tab becomes the company's.

        Args:
            company_id: Whose tabs.
            tab: Title of the tab that is to be the Pending tab; None takes what is there.

        Returns:
            The titles by kind.

        Raises:
            Refused: Unknown company, or there is no such tab.
            Transient: Not now; nothing was changed.
        """
        company = self._chosen([company_id])[0]
        with workbook_lock.held(self._control, company.spreadsheet_id):
            tabs = self._posting.looker.gateway.tabs(company.spreadsheet_id)
            self._settle(company)
            with self._control.transaction() as tx:
                known = sheet_tabs.known_tabs(tx, [company_id])
            found = {
                kind: _taken(tabs, known.get((company_id, kind)), title, wanted)
                for kind, title, wanted in (
                    ("pending", company.tab_pending, tab),
                    ("active", company.tab_active, None),
                )
            }
            if found["pending"] is None:
                raise Refused([f"tab: there is no tab {tab or company.tab_pending!r}; `sheets recreate` makes one"])
            self._take_over(company, {kind: held for kind, held in found.items() if held is not None})
        self.post([company_id])
        return {kind: held.title for kind, held in found.items() if held is not None}

    def recreate(self, company_id: str) -> list[str]:
        """Make tabs that are gone anew, with every open row and the rules in force; the kinds that were made.

        Raises:
            Refused: Unknown company, or no tab of it is missing.
            Transient: Not now.
        """
        company = self._chosen([company_id])[0]
        with workbook_lock.held(self._control, company.spreadsheet_id):
            ids = {tab.sheet_id for tab in self._posting.looker.gateway.tabs(company.spreadsheet_id).values()}
            self._settle(company)
            with self._control.transaction() as tx:
                known = sheet_tabs.known_tabs(tx, [company_id])
                gone = [kind for (_, kind), held in known.items() if held.sheet_id not in ids]
                if not gone:
                    raise Refused([f"company_id: no tab of {company_id!r} is missing"])
                sheet_tabs.forget(tx, company_id, gone)
                sheet_posts.forget_progress(tx, company_id)
        self.post([company_id])
        return sorted(gone)

    def _take_over(self, company: Company, found: Mapping[str, TabInfo]) -> None:
        own = company.company_id
        titles = {f"tab_{kind}": tab.title for kind, tab in found.items()}
        with self._control.begin() as connection:
            company_table.set_fields(connection, own, **titles)
        with self._control.transaction() as tx:
            sheet_posts.forget_progress(tx, own)
            for kind, tab in found.items():
                sheet_tabs.remember(tx, own, kind, company.spreadsheet_id, tab.sheet_id, tab.title)

    def _settle(self, company: Company) -> None:
        """Confirm what was begun and arrived; what did not is compared with the tab anew."""
        self._posting.settle(company.spreadsheet_id, [company.company_id])
        with self._control.transaction() as tx:
            left = sheet_posts.open_claims(tx, [company.company_id])
            sheet_posts.withdraw(tx, [claim.id for claim in left])

    def _post(self, only: Sequence[str], *, repair: bool) -> list[Aside]:
        chosen = self._chosen(only)
        for spreadsheet_id, companies in _by_book(chosen):
            self._post_all(spreadsheet_id, companies, repair=repair)
        ids = {company.company_id for company in chosen}
        return [aside for aside in self.aside() if aside.company_id in ids]

    def _post_all(self, spreadsheet_id: str, companies: Sequence[Company], *, repair: bool) -> None:
        while True:
            try:
                return self._posting.post(spreadsheet_id, companies, repair=repair)
            except MoreToPost:
                continue

    def _looks(self, only: Sequence[str], *, whole: bool = False) -> Iterator[Look]:
        for spreadsheet_id, companies in _by_book(self._chosen(only)):
            try:
                book = self._posting.looker.look(spreadsheet_id, companies, whole=whole)
            except TabProblem as problem:
                yield from (self._posting.looker.unseen(company, problem) for company in companies)
                continue
            for away in book.away.values():
                raise away
            yield from book.looks

    def _chosen(self, only: Sequence[str]) -> list[Company]:
        known = {company.company_id: company for company in self._companies()}
        if unknown := sorted(set(only) - known.keys()):
            raise company_table.unknown(unknown[0])
        return [known[own] for own in dict.fromkeys(only)] if only else list(known.values())


def _by_book(companies: Sequence[Company]) -> list[tuple[str, list[Company]]]:
    books: dict[str, list[Company]] = {}
    for company in companies:
        books.setdefault(company.spreadsheet_id, []).append(company)
    return list(books.items())


def _taken(
    tabs: Mapping[str, TabInfo], known: sheet_tabs.KnownTab | None, title: str, wanted: str | None
) -> TabInfo | None:
    if wanted is not None:
        return tabs.get(wanted)
    same = (tab for tab in tabs.values() if known is not None and tab.sheet_id == known.sheet_id)
    return next(same, None) or tabs.get(title)


def _planned(look: Look) -> dict[str, Any]:
    own = look.company.company_id
    said: dict[str, Any] = {"company_id": own, "spreadsheet_id": look.company.spreadsheet_id}
    try:
        posts = [] if look.problem else posts_of(look)[0]
    except TabProblem as problem:
        look.problem, posts = problem, []
    if look.problem is not None:
        return {**said, "problem": look.problem.detail, "remedy": look.problem.remedy, "changes": []}
    sources = {row.txn_uid: row.description for row in look.open_rows + look.claimed_rows}
    changes: list[dict[str, Any]] = []
    for post in posts:
        title = post.part.title
        if post.part.tab is None:
            changes.append({"tab": title, "change": "make the tab"})
        if post.version is not None:
            former = look.posted_version
            changes.append(
                {"tab": title, "change": "rewrite", "from_version": former, "to_version": post.version}
                | {"rules": len(look.rules)}
            )
            continue
        changes += [
            {"tab": title, "change": "append", "row_hash": line, "source": sources.get(line, "")}
            for line in post.plan.hashes
        ]
        lines = post.part.contents.lines if post.part.contents else ()
        changes += [
            {
                "tab": title,
                "change": "write",
                "row": fix.row + 1,
                "column": PENDING_COLUMNS[fix.column],
                "from": _cell(lines, fix.row - 1, fix.column),
                "to": fix.text,
            }
            for fix in post.plan.fixes
        ]
        if post.plan.remaining:
            changes.append({"tab": title, "change": "append", "more_rows": post.plan.remaining})
    return {**said, "problem": None, "remedy": None, "changes": changes}


def _cell(lines: Sequence[Sequence[Any]], row: int, column: int) -> Any:
    return lines[row][column] if row < len(lines) and column < len(lines[row]) else ""
