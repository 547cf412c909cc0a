"""Reading what one workbook's companies should show and what their tabs show: few calls, however many companies."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from kylo_outbox.model.errors import Transient, Unreachable
from kylo_outbox.sheets import layout, locating
from kylo_outbox.sheets.errors import TabProblem
from kylo_outbox.sheets.reading import first_of_each, text
from kylo_outbox.sheets.repairing import NOTHING, Kept
from kylo_outbox.sheets.tab import GridArea, TabContents
from kylo_outbox.store import sheet_posts, sheet_tabs, tab_rows
from kylo_outbox.store.pending import OpenRow, open_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kylo_outbox.model.companies import Company
    from kylo_outbox.model.marks import Marks
    from kylo_outbox.model.tabs import ActiveRow
    from kylo_outbox.sheets.tab import TabInfo
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.sheet_posts import Claim
    from kylo_outbox.store.sheet_tabs import KnownTab

log = logging.getLogger(__name__)
ROWS_A_READ = 100_000
"""Grid rows of one read at most; a larger workbook is read in several."""


class Gateway(Protocol):
    """Google Sheets, or something that behaves like it."""

    def tabs(self, spreadsheet_id: str) -> Mapping[str, TabInfo]: ...  # noqa: D102
    def grids(self, spreadsheet_id: str, areas: Sequence[GridArea]) -> list[list[list[Any]]]: ...  # noqa: D102
    def find_markers(self, spreadsheet_id: str, markers: Sequence[str]) -> Mapping[str, set[int]]: ...  # noqa: D102
    def batch_update(self, spreadsheet_id: str, requests: Sequence[dict[str, Any]]) -> Any: ...  # noqa: D102


@dataclass
class TabLook:
    """One tab: what should be there and what is. `tab` None: it is to be made."""

    kind: str
    title: str
    tab: TabInfo | None = None
    contents: TabContents | None = None
    claim: Claim | None = None
    ordinal: int = 1


@dataclass
class Look:
    """One company's tables and tabs; `problem` says why nothing may be written there."""

    company: Company
    pending: TabLook
    active: TabLook
    open_rows: list[OpenRow] = field(default_factory=list)
    claimed_rows: list[OpenRow] = field(default_factory=list)
    marks: dict[str, Marks] = field(default_factory=dict)
    states: dict[str, Marks | None] = field(default_factory=dict)
    version: int | None = None
    posted_version: int | None = None
    rules: list[ActiveRow] = field(default_factory=list)
    kept: Kept = NOTHING
    problem: TabProblem | None = None

    @property
    def newest(self) -> int:
        """The newest `seq` of the open rows; 0 without any."""
        return max((row.seq for row in self.open_rows), default=0)


@dataclass
class BookLook:
    """A workbook at one moment. `away` names companies whose tables cannot be read now."""

    spreadsheet_id: str
    tabs: Mapping[str, TabInfo]
    looks: list[Look]
    away: dict[str, Transient] = field(default_factory=dict)

    @property
    def cells(self) -> int:
        """What the workbook counts against Google's limit."""
        return sum(tab.cells for tab in self.tabs.values())


class Looker:
    """Reads. Safe to share between threads."""

    def __init__(self, control: Database, store_of: Callable[[str], Database], gateway: Gateway) -> None:
        self._control, self._store_of, self.gateway = control, store_of, gateway

    def look(self, spreadsheet_id: str, companies: Sequence[Company], *, whole: bool = False) -> BookLook:
        """Look at the companies' tabs and tables; with `whole`, at every cell of the Active tabs too.

        Raises:
            SheetUnavailable: The workbook does not exist or is not shared.
            Transient: Not now, because of Google or the control database.
        """
        tabs = self.gateway.tabs(spreadsheet_id)
        looks = self._located(tabs, spreadsheet_id, companies)
        self._read_tabs(spreadsheet_id, tabs, [look for look in looks if look.problem is None], whole=whole)
        found = BookLook(spreadsheet_id, tabs, looks)
        self._read_tables([look for look in looks if look.problem is None], found.away)
        found.looks = [look for look in looks if look.company.company_id not in found.away]
        return found

    @staticmethod
    def unseen(company: Company, problem: TabProblem) -> Look:
        """The look at a company whose workbook cannot be opened."""
        parts = TabLook("pending", company.tab_pending), TabLook("active", company.tab_active)
        return Look(company, *parts, problem=problem)

    def _located(self, tabs: Mapping[str, TabInfo], spreadsheet_id: str, companies: Sequence[Company]) -> list[Look]:
        ids = [company.company_id for company in companies]
        with self._control.transaction() as tx:
            known = sheet_tabs.known_tabs(tx, ids)
            claims = {(claim.company_id, claim.tab): claim for claim in sheet_posts.open_claims(tx, ids)}
            ordinals = sheet_posts.next_ordinals(tx, ids)
            versions = sheet_posts.posted_versions(tx, ids)
        looks = []
        for company in companies:
            own = company.company_id
            look = Look(company, TabLook("pending", company.tab_pending), TabLook("active", company.tab_active))
            look.kept = _kept(known.get((own, "pending")), spreadsheet_id)
            look.posted_version = versions.get((own, company.tab_active))
            for part in (look.pending, look.active):
                part.claim = claims.get((own, part.title))
                part.ordinal = part.claim.ordinal if part.claim else ordinals.get((own, part.title), 1)
                try:
                    before = _known(known.get((own, part.kind)), spreadsheet_id)
                    part.tab = locating.locate(tabs, company_id=own, title=part.title, known=before)
                except TabProblem as problem:
                    look.problem = look.problem or problem
            looks.append(look)
        return looks

    def _read_tabs(
        self, spreadsheet_id: str, tabs: Mapping[str, TabInfo], looks: Sequence[Look], *, whole: bool
    ) -> None:
        wanted: list[GridArea] = []
        copies: dict[str, list[TabInfo]] = {}
        for look in looks:
            if look.pending.tab is not None:
                copies[look.company.company_id] = locating.may_be_copies(tabs, look.pending.tab)
                for tab in (look.pending.tab, *copies[look.company.company_id]):
                    wanted += _areas(tab, len(layout.PENDING.columns), whole=True)
            if look.active.tab is not None:
                wanted += _areas(look.active.tab, len(layout.ACTIVE.columns), whole=whole)
        grids: dict[GridArea, list[list[Any]]] = {}
        for part in _chunks(wanted):
            grids.update(zip(part, self.gateway.grids(spreadsheet_id, part), strict=True))
        for look in looks:
            for one, shape in ((look.pending, layout.PENDING), (look.active, layout.ACTIVE)):
                if one.tab is not None:
                    one.contents = _contents(one.tab, len(shape.columns), grids)
            others = copies.get(look.company.company_id, ())
            held = [(tab, _contents(tab, len(layout.PENDING.columns), grids)) for tab in others]
            look.problem = _problem_of(look, held)

    def _read_tables(self, looks: Sequence[Look], away: dict[str, Transient]) -> None:
        """Read company by company; those whose own database is away are added to `away`."""
        silent: dict[int, Transient] = {}
        for look in looks:
            own = look.company.company_id
            why = self._read_store(look, silent)
            if why is not None:
                log.warning("tables of %s cannot be read now: %s", own, why)
                away[own] = why
                continue
            with self._control.transaction() as tx:
                look.marks = sheet_tabs.marks_of(tx, own, _lines(look))

    def _read_store(self, look: Look, silent: dict[int, Transient]) -> Transient | None:
        """Read from the company's database, or say why not; `silent` are those that did not answer a moment ago."""
        own = look.company.company_id
        claimed = look.pending.claim.row_hashes if look.pending.claim else []
        try:
            store = self._store_of(own)
        except Transient as why:
            return why
        if id(store) in silent:
            # Not to be answered takes seconds: once for all companies of a database, not once for each.
            return silent[id(store)]
        try:
            with store.transaction() as tx:
                look.open_rows = open_rows(tx, own)
                look.claimed_rows = tab_rows.rows_of(tx, own, claimed) if claimed else []
                look.states = tab_rows.states_of(tx, own, _lines(look))
                look.version, look.rules = tab_rows.active_rules(tx, own)
        except Transient as why:
            if store is self._control:
                raise  # nobody can go on without it
            if isinstance(why, Unreachable):
                silent[id(store)] = why
            return why
        return None


def _lines(look: Look) -> list[str]:
    """What column A of the Pending tab holds, without empty cells."""
    return [line for line in (look.pending.contents.hashes if look.pending.contents else ()) if line]


def _known(found: KnownTab | None, spreadsheet_id: str) -> locating.Known | None:
    """A tab of another workbook says nothing: the company was moved."""
    if found is None or found.spreadsheet_id != spreadsheet_id:
        return None
    return locating.Known(found.sheet_id, found.title)


def _kept(found: KnownTab | None, spreadsheet_id: str) -> Kept:
    same = found is not None and found.spreadsheet_id == spreadsheet_id
    return Kept.from_json(found.guards) if found is not None and same else NOTHING


def _areas(tab: TabInfo, width: int, *, whole: bool) -> list[GridArea]:
    width = min(width, tab.column_count)
    header = GridArea(tab.sheet_id, 0, 1, 0, width)
    return [header, GridArea(tab.sheet_id, 1, tab.row_count, 0, width)] if whole else [header]


def _chunks(areas: Sequence[GridArea]) -> Iterable[list[GridArea]]:
    part: list[GridArea] = []
    rows = 0
    for area in areas:
        if part and rows + area.bottom - area.top > ROWS_A_READ:
            yield part
            part, rows = [], 0
        part.append(area)
        rows += area.bottom - area.top
    if part:
        yield part


def _contents(tab: TabInfo, width: int, grids: Mapping[GridArea, list[list[Any]]]) -> TabContents:
    header, body = _areas(tab, width, whole=True)
    first = grids.get(header) or [[]]
    lines = grids.get(body, [])
    return TabContents(tuple(map(text, first[0])), first_of_each(lines), tuple(map(tuple, lines)))


def _problem_of(look: Look, copies: Sequence[tuple[TabInfo, TabContents]]) -> TabProblem | None:
    try:
        for one, shape in ((look.pending, layout.PENDING), (look.active, layout.ACTIVE)):
            if one.tab is not None and one.contents is not None:
                layout.check(one.tab, one.contents.header, shape)
        if look.pending.tab is not None and look.pending.contents is not None:
            locating.check_copies(look.company.company_id, look.pending.tab, look.pending.contents, copies)
    except TabProblem as problem:
        return problem
    return None
