"""Companies with tabs in a stand-in: what people and faults do there, and what then stands where."""

from __future__ import annotations

import json
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kylo_outbox.flows.post_sheet import Posting, PostSheet, SheetsDesk
from kylo_outbox.model.companies import Company, new_company
from kylo_outbox.model.events import Event
from kylo_outbox.sheets.gateway import GoogleSheets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from uuid import UUID

    from kylo_outbox.store.engine import Database

BOOK = "book"
ADD = """
insert into kylo.pending_txns (company_id, txn_uid, first_seen_batch, last_seen_batch, occurred_at, description,
                               description_norm, amount_cents)
select %s, u, 1, 1, '2025-08-26', %s, 'shop', 1 from unnest(%s::uuid[]) u
"""
CONFIG = """
insert into control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active)
values (%s, 'env:PG_DSN_RW', 'app', %s, %s, %s) on conflict do nothing
"""
RULES = """
with version as (
    insert into kylo.rules_versions (company_id, version, former) values (%s, %s, 0)
    on conflict (company_id, version) do nothing
), in_force as (
    insert into kylo.company_state (company_id, rules_version) values (%s, %s)
    on conflict (company_id) do update set rules_version = excluded.rules_version
)
insert into kylo.rules_active (company_id, version, position, source, source_norm, target_sheet, target_header)
select %s, %s, n, s, lower(s), 'PETTY CASH', 'Food' from unnest(%s::text[]) with ordinality as g(s, n)
"""


class Standin:
    """The desk of a running stand-in."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Send JSON (or nothing) and return the JSON that comes back; refusals raise."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{path}", data, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def fail(self, mode: str, when: str = "before", **more: Any) -> None:
        """Make the next batchUpdate fail."""
        self.ask("_standin/faults", {"mode": mode, "when": when, "method": "batchUpdate", **more})

    def people(self, *requests: dict[str, Any], book: str = BOOK) -> None:
        """Do what the owner of the workbook may do."""
        self.ask(f"_standin/people/{book}", {"requests": list(requests)})

    def type_in(self, tab: str, row: int, column: str, text: str, book: str = BOOK) -> None:
        """Type into a cell as a person, row and column as people see them."""
        given = {"sheetId": self.tab(tab, book)["sheetId"], "row": row - 1, "column": ord(column) - ord("A")}
        self.ask(f"_standin/sheets/{book}/cells", {**given, "text": text})

    def tab(self, title: str, book: str = BOOK) -> dict[str, Any]:
        """A tab as JSON."""
        tabs = self.ask(f"_standin/sheets/{book}.json")["tabs"]
        return next(tab for tab in tabs if tab["title"] == title)

    def lines(self, title: str, book: str = BOOK) -> list[list[Any]]:
        """Lines below the header, each with eleven cells."""
        return [[*line, *[""] * (11 - len(line))] for line in self.tab(title, book)["values"][1:]]

    def hashes(self, title: str, book: str = BOOK) -> list[str]:
        """Column A below the header, without empty cells."""
        return [line[0] for line in self.lines(title, book) if line[0]]

    def writes(self) -> int:
        """How many batchUpdates came in."""
        return int(self.ask("_standin/requests")["received"].get("spreadsheets.batchUpdate", 0))

    def reads(self) -> int:
        """How many other requests came in."""
        received = self.ask("_standin/requests")["received"]
        return sum(count for method, count in received.items() if method != "spreadsheets.batchUpdate")


class Office:
    """Companies, their tables and a poster."""

    def __init__(
        self,
        database: Database,
        standin: Standin,
        companies: Sequence[str] = ("710",),
        new_id: Callable[[], UUID] = uuid4,
        homes: Mapping[str, Database] | None = None,
    ) -> None:
        self._new_id = new_id
        self._homes = homes or {}
        self.database, self.standin = database, standin
        self.ids = list(companies)
        for company_id in companies:
            self.add_company(company_id)
        self.gateway = GoogleSheets(standin.url, timeout=5.0)
        self.posting = Posting(control=database, store_of=self.home_of, gateway=self.gateway, pause=lambda _: None)
        self.poster = PostSheet(topics=("pending.ready",), company_of=self.company, posting=self.posting)
        self.desk = SheetsDesk(
            control=database, posting=self.posting, companies=lambda: [self.must(own) for own in self.ids]
        )

    def home_of(self, company_id: str) -> Database:
        """Where a company's tables are: its own database if it was given one."""
        return self._homes.get(company_id, self.database)

    def add_company(self, company_id: str, book: str = BOOK) -> None:
        """Configure a company."""
        company = new_company(company_id, book)
        with self.database.transaction() as tx:
            tx.execute(CONFIG, (company_id, book, company.tab_pending, company.tab_active))

    def company(self, company_id: str) -> Company | None:
        """A company as it is configured now."""
        with self.database.transaction() as tx:
            row = tx.execute(
                "select spreadsheet_id, tab_pending, tab_active from control.company_config where company_id = %s",
                (company_id,),
            ).fetchone()
        return new_company(company_id, row[0], tab_pending=row[1], tab_active=row[2]) if row else None

    def must(self, company_id: str) -> Company:
        """A company that is configured."""
        company = self.company(company_id)
        assert company is not None
        return company

    def leave_open(self, count: int, company: str = "710", description: str = "SHOP") -> list[str]:
        """Leave transactions open; their ids."""
        ids = [str(self._new_id()) for _ in range(count)]
        with self.home_of(company).transaction() as tx:
            tx.execute(ADD, (company, description, ids))
        return ids

    def resolve(self, ids: Sequence[str]) -> None:
        """Resolve transactions as a promotion does."""
        with self.database.transaction() as tx:
            tx.execute(
                "update kylo.pending_txns set status = 'resolved', resolved_at = now() where txn_uid = any(%s::uuid[])",
                (list(ids),),
            )

    def reopen(self, ids: Sequence[str]) -> None:
        """Open transactions again as an undo does."""
        with self.database.transaction() as tx:
            tx.execute(
                "update kylo.pending_txns set status = 'open', resolved_at = null where txn_uid = any(%s::uuid[])",
                (list(ids),),
            )

    def rules(self, version: int, *sources: str, company: str = "710") -> None:
        """Put a version of the rules in force."""
        with self.database.transaction() as tx:
            tx.execute(RULES, (*(company, version) * 3, list(sources)))

    def post(self, *companies: str) -> None:
        """One turn of the projector for these companies."""
        self.poster.perform([ready(company) for company in companies or self.ids])

    def rows(self, sql: str) -> list[Any]:
        """The answer of a query."""
        with self.database.transaction() as tx:
            return tx.execute(sql).fetchall()

    def aside(self) -> dict[str, tuple[str, str]]:
        """(reason, remedy) of each company that waits for a person."""
        return {one.company_id: (one.reason, one.remedy) for one in self.desk.aside()}


def ready(company: str, event_id: UUID | None = None) -> Event:
    """The event that says that something is open."""
    return Event(topic="pending.ready", key=company, type="PENDING_READY", payload={}, event_id=event_id)


def office(
    database: Database, url: str, companies: Sequence[str] = ("710",), homes: Mapping[str, Database] | None = None
) -> Iterator[Office]:
    """An office whose connections are closed afterwards, for fixtures."""
    made = Office(database, Standin(url), companies, homes=homes)
    with closing(made.gateway):
        yield made
