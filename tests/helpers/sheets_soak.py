"""A long time at the office in minutes: posts under faults, renames and people's edits, by a seed, and then the count.

The quota runs on a virtual clock: whoever waits moves it. People also act between the poster's look and its write.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from uuid import UUID

from kylo_outbox.flows.post_sheet import Posting, SheetsDesk
from kylo_outbox.model.errors import KyloError, Transient
from kylo_outbox.model.marks import Marks
from kylo_outbox.sheets.gateway import GoogleSheets
from kylo_outbox.sheets.pacing import Pacer
from kylo_outbox.store import sheet_tabs
from tests.helpers.tabs import Office, Standin

if TYPE_CHECKING:
    from collections.abc import Callable

    from kylo_outbox.store.engine import Database

TEXTS = ("SHOP", "=IMPORTXML(A1)", "1-2", "1E5", "00123", "é😀", "'q")
FAULTS = (("close", "after"), ("close", "before"), ("503", "after"), ("503", "before"), ("429", "before"))
MINUTE = timedelta(seconds=60)
QUOTA = 60


@dataclass
class Report:
    """What a soak came to."""

    seed: int
    posts: int = 0
    rows: int = 0
    double: int = 0
    missing: int = 0
    overwritten: int = 0
    formulas: int = 0
    differences: int = 0
    busiest: dict[str, int] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def wrong(self) -> list[str]:
        """What must not be so after any soak; nothing where all is well."""
        counts = {name: getattr(self, name) for name in ("double", "missing", "overwritten", "formulas", "differences")}
        found = [f"{count} {name}" for name, count in counts.items() if count]
        found += [f"{count} {kind}s in a minute" for kind, count in self.busiest.items() if count > QUOTA]
        return found + self.lost


class Soak:
    """Companies in a few workbooks, with everything that may happen to them."""

    def __init__(self, database: Database, url: str, seed: int, companies: int, books: int) -> None:
        self.random = random.Random(seed)
        self.report = Report(seed)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.calls: dict[str, list[datetime]] = {"read": [], "write": []}
        self.standin = Standin(url)
        self.office = Office(database, self.standin, (), lambda: UUID(int=self.random.getrandbits(128)))
        self.books: dict[str, str] = {}
        for number in range(companies):
            company, book = f"c{number:03d}", f"book-{number % books}"
            self.office.add_company(company, book)
            self.books[company] = book
        self.office.ids = list(self.books)
        pacer = Pacer(database, "soak", patience=1e9, wait=self.wait, clock=lambda: self.now)
        self.gateway = GoogleSheets(url, timeout=2.0, on_request=self._called, pace=pacer)
        self._send = self.gateway.batch_update
        self.gateway.batch_update = self._people_first
        posting = Posting(control=database, store_of=lambda _: database, gateway=self.gateway, pause=self.wait)
        self.posting = posting
        self.desk = SheetsDesk(
            control=database, posting=posting, companies=lambda: [self.office.must(own) for own in self.books]
        )
        self.ids: dict[str, list[str]] = {company: [] for company in self.books}
        self.resolved: dict[str, set[str]] = {company: set() for company in self.books}
        self.typed: dict[tuple[str, str], dict[int, Any]] = {}
        self.own: dict[str, tuple[str, str]] = {}
        self.versions = dict.fromkeys(self.books, 0)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def run(self, posts: int, tell: Callable[[int], None]) -> Report:
        """Work until so many posts were confirmed, then bring everything to rest and count."""
        while (done := self._posts()) < posts:
            tell(done)
            self.wait(self.random.random() * 3)
            for company in self.random.sample(sorted(self.books), max(1, len(self.books) * 2 // 3)):
                self._work(company)
            for _ in range(len(self.books) // 4 + 1):
                self._anybody()
            if self.random.random() < 0.4:
                mode, when = self.random.choice(FAULTS)
                self.standin.fail(mode, when)
                self.report.happened[f"{mode} {when}"] += 1
            self._post()
        self._rest()
        return self._count()

    def _posts(self) -> int:
        return int(self.office.rows("select count(*) from control.sheet_posts where state = 'posted'")[0][0])

    def _post(self) -> None:
        for book in sorted(set(self.books.values())):
            here = [self.office.must(own) for own, held in self.books.items() if held == book]
            try:
                self.posting.post(book, here)
            except Transient as away:
                self.report.happened[type(away).__name__] += 1
        for one in self.desk.aside():
            self.report.happened["set aside"] += 1
            if self.random.random() < 0.5:
                self._mend(one.company_id, one.remedy)

    def _mend(self, company: str, remedy: str) -> None:
        """Do what the remedy says."""
        try:
            if "recreate" in remedy:
                self.desk.recreate(company)
            elif "Delete the one" in remedy:
                self._delete_copies(company)
                self.desk.post([company])
            elif "adopt" in remedy:
                self.desk.adopt(company)
        except KyloError as away:
            self.report.happened[type(away).__name__] += 1

    def _work(self, company: str) -> None:
        """The tables move on."""
        ids = self.ids[company]
        ids += self.office.leave_open(self.random.randint(1, 2), company, self.random.choice(TEXTS))
        some = self.random.sample(ids, min(len(ids), 2))
        chance = self.random.random()
        if chance < 0.15:
            self.office.resolve(some)
            self.resolved[company] |= set(some)
        elif chance < 0.2:
            self.office.reopen(some)
            self.resolved[company] -= set(some)
        elif chance < 0.3:
            marks = {line: Marks(f"note {self.random.randint(0, 9)}") for line in some}
            with self.office.database.transaction() as tx:
                sheet_tabs.put_marks(tx, company, marks)
        elif chance < 0.35:
            self.versions[company] += 1
            self.office.rules(
                self.versions[company], *[f"s{n}" for n in range(self.versions[company])], company=company
            )

    def _people_first(self, spreadsheet_id: str, requests: Any) -> Any:
        if self.random.random() < 0.3:
            self._anybody()
        return self._send(spreadsheet_id, requests)

    def _anybody(self) -> None:
        """Somebody does something in some tab."""
        company = self.random.choice(sorted(self.books))
        does: list[tuple[int, Callable[[str, dict[str, Any]], None]]] = [
            (40, self._type),
            (15, self._insert),
            (15, self._sort),
            (8, self._own_line),
            (6, self._delete_line),
            (4, self._rename),
            (2, self._copy),
            (1, self._delete_tab),
            (4, self._reorder),
        ]
        act = self.random.choices([one for _, one in does], [weight for weight, _ in does])[0]
        tab = self._tab(company)
        if tab is None:
            return
        try:
            act(company, tab)
        except HTTPError as refused:
            refused.close()
        else:
            self.report.happened[act.__name__.strip("_")] += 1

    def _tab(self, company: str) -> dict[str, Any] | None:
        known = self.office.rows(
            f"select sheet_id from control.sheet_tabs where company_id = '{company}' and kind = 'pending'"
        )
        if not known:
            return None
        tabs = self.standin.ask(f"_standin/sheets/{self.books[company]}.json")["tabs"]
        return next((tab for tab in tabs if tab["sheetId"] == known[0][0]), None)

    def _people(self, company: str, *requests: dict[str, Any]) -> None:
        self.standin.people(*requests, book=self.books[company])

    def _line(self, tab: dict[str, Any]) -> tuple[int, str] | None:
        ours = [(row, line[0]) for row, line in enumerate(tab["values"]) if row and line and len(str(line[0])) == 36]
        return self.random.choice(ours) if ours else None

    def _type(self, company: str, tab: dict[str, Any]) -> None:
        found = self._line(tab)
        if found is None or Counter(line[0] for line in tab["values"] if line)[found[1]] > 1:
            return
        column, value = self.random.choice(((5, "PETTY CASH"), (6, "Food"), (8, "TRUE"), (11, "own column")))
        if column >= tab["columnCount"]:
            return
        given = {"sheetId": tab["sheetId"], "row": found[0], "column": column, "text": value}
        self.standin.ask(f"_standin/sheets/{self.books[company]}/cells", given)
        self.typed.setdefault((company, found[1]), {})[column] = True if value == "TRUE" else value

    def _insert(self, company: str, tab: dict[str, Any]) -> None:
        at = self.random.randint(1, len(tab["values"]))
        area = {"sheetId": tab["sheetId"], "dimension": "ROWS", "startIndex": at, "endIndex": at + 1}
        self._people(company, {"insertDimension": {"range": area}})

    def _sort(self, company: str, tab: dict[str, Any]) -> None:
        spec = {
            "dimensionIndex": self.random.choice((0, 2, 5, 8)),
            "sortOrder": self.random.choice(("ASCENDING", "DESCENDING")),
        }
        self._people(
            company, {"sortRange": {"range": {"sheetId": tab["sheetId"], "startRowIndex": 1}, "sortSpecs": [spec]}}
        )

    def _own_line(self, company: str, tab: dict[str, Any]) -> None:
        name, note = f"own line {self.report.happened['own_line']}", f"my note {self.random.randint(0, 99)}"
        cells = {2: name, 7: note}
        values = [{"userEnteredValue": {"stringValue": cells[n]}} if n in cells else {} for n in range(8)]
        body = {"sheetId": tab["sheetId"], "rows": [{"values": values}], "fields": "userEnteredValue"}
        self._people(company, {"appendCells": body})
        self.own[name] = (company, note)

    def _delete_line(self, company: str, tab: dict[str, Any]) -> None:
        found = self._line(tab)
        if found is None:
            return
        area = {"sheetId": tab["sheetId"], "dimension": "ROWS", "startIndex": found[0], "endIndex": found[0] + 1}
        self._people(company, {"deleteDimension": {"range": area}})
        self.typed.pop((company, found[1]), None)

    def _rename(self, company: str, tab: dict[str, Any]) -> None:
        properties = {"sheetId": tab["sheetId"], "title": f"{company} Pending {self.random.randint(0, 99)}"}
        self._people(company, {"updateSheetProperties": {"properties": properties, "fields": "title"}})

    def _reorder(self, company: str, tab: dict[str, Any]) -> None:
        properties = {"sheetId": tab["sheetId"], "index": 0}
        self._people(company, {"updateSheetProperties": {"properties": properties, "fields": "index"}})

    def _copy(self, company: str, tab: dict[str, Any]) -> None:
        self._people(company, {"duplicateSheet": {"sourceSheetId": tab["sheetId"]}})

    def _delete_tab(self, company: str, tab: dict[str, Any]) -> None:
        self._people(company, {"deleteSheet": {"sheetId": tab["sheetId"]}})
        self.typed = {key: value for key, value in self.typed.items() if key[0] != company}
        self.own = {name: held for name, held in self.own.items() if held[0] != company}

    def _delete_copies(self, company: str) -> None:
        tabs = self.standin.ask(f"_standin/sheets/{self.books[company]}.json")["tabs"]
        for tab in tabs:
            if tab["title"].startswith("Copy of") and f"{company} " in tab["title"]:
                self._people(company, {"deleteSheet": {"sheetId": tab["sheetId"]}})

    def _rest(self) -> None:
        """No more faults and nobody at work: whatever waits is mended, and all tabs are brought up to date."""
        self.standin.ask("_standin/faults", method="DELETE")
        self.gateway.batch_update = self._send
        for _ in range(10):
            for one in self.desk.aside():
                self._mend(one.company_id, one.remedy)
            if not self.desk.post():
                break

    def _count(self) -> Report:
        report = self.report
        report.posts = self._posts()
        report.busiest = {kind: _busiest(calls) for kind, calls in self.calls.items()}
        seen_own: dict[str, str] = {}
        for company, ids in self.ids.items():
            tab = self._tab(company)
            assert tab is not None
            lines = [[*line, *[""] * (12 - len(line))] for line in tab["values"][1:]]
            times = Counter(line[0] for line in lines if line[0])
            report.rows += sum(times.values())
            report.double += sum(count - 1 for count in times.values())
            report.missing += sum(times[one] == 0 for one in ids if one not in self.resolved[company])
            here: dict[str, list[Any]] = {line[0]: line for line in lines if line[0]}
            seen_own |= {line[2]: line[7] for line in lines if not line[0]}
            for (owner, line_hash), typed in self.typed.items():
                found = here.get(line_hash, [None] * 12)
                report.lost += [
                    f"{company} {line_hash}: column {column} was {value!r}, is {found[column]!r}"
                    for column, value in typed.items()
                    if owner == company and found[column] != value
                ]
        report.lost += [
            f"{company} {name}: was {note!r}, is {seen_own.get(name)!r}"
            for name, (company, note) in self.own.items()
            if seen_own.get(name) != note
        ]
        report.overwritten = len(report.lost)
        for book in set(self.books.values()):
            text = str(self.standin.ask(f"v4/spreadsheets/{book}?includeGridData=true"))
            report.formulas += text.count("formulaValue")
        report.differences = sum(len(one.findings) for one in self.desk.reconcile())
        report.happened["minutes"] = int((self.now - datetime(2026, 1, 1, tzinfo=UTC)) / MINUTE)
        return report

    def _called(self, kind: str, _code: str) -> None:
        self.calls[kind].append(self.now)


def _busiest(calls: list[datetime]) -> int:
    """The most calls that any minute holds; they are in order."""
    most = first = 0
    for last, at in enumerate(calls):
        while at - calls[first] >= MINUTE:
            first += 1
        most = max(most, last - first + 1)
    return most


def soak(
    database: Database,
    url: str,
    *,
    seed: int,
    posts: int,
    companies: int,
    books: int,
    tell: Callable[[int], None] = lambda _done: None,
) -> Report:
    """Run one soak from the beginning to the count; `tell` hears now and then how many posts are done."""
    made = Soak(database, url, seed, companies, books)
    with closing(made.gateway), closing(made.office.gateway):
        return made.run(posts, tell)
