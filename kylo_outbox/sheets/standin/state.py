"""Workbooks in memory. A batch works on a draft; parts that it does not touch are shared with the original.

Rows and cells are never changed in place, only replaced: so a draft costs one list copy for each sheet it writes,
throwing it away undoes everything, and the storage finds what changed by comparing identities.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin.errors import Refusal

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.guarding import User

Cell = dict[str, Any]
"""The user's part of a CellData: userEnteredValue, userEnteredFormat, dataValidation, note ..."""

Row = dict[int, Cell]
"""Filled cells by column (0 = A)."""

MAX_CELLS = 10_000_000
DEFAULT_ROWS = 1_000
DEFAULT_COLUMNS = 26


@dataclass(eq=False)
class Sheet:
    """One tab. `rows` ends with the last row that was ever filled; the grid goes on to `row_count`.

    `properties` are Google's SheetProperties without index and without the sizes, which stand beside them.
    """

    sheet_id: int
    properties: dict[str, Any]
    row_count: int = DEFAULT_ROWS
    column_count: int = DEFAULT_COLUMNS
    rows: list[Row] = field(default_factory=list)
    protections: list[dict[str, Any]] = field(default_factory=list)
    conditional_formats: list[dict[str, Any]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Name of the tab."""
        return str(self.properties["title"])

    @property
    def grid(self) -> dict[str, Any]:
        """GridProperties as Google shows them; zeros are left out, as in its JSON."""
        held = {name: value for name, value in self.properties.get("gridProperties", {}).items() if value}
        return {"rowCount": self.row_count, "columnCount": self.column_count, **held}

    @property
    def frozen_rows(self) -> int:
        """Rows that stay on top when people scroll."""
        return int(self.properties.get("gridProperties", {}).get("frozenRowCount", 0))

    def row(self, index: int) -> Row:
        """Return a row to look at; an empty one beyond the last filled."""
        return self.rows[index] if index < len(self.rows) else {}

    def put_row(self, index: int, row: Row) -> None:
        """Replace one row, filling the gap before it."""
        while len(self.rows) <= index:
            self.rows.append({})
        self.rows[index] = row

    def fork(self) -> Sheet:
        """Return a copy that may be written; rows and cells are shared."""
        return replace(
            self,
            properties=copy.deepcopy(self.properties),
            rows=list(self.rows),
            protections=list(self.protections),
            conditional_formats=list(self.conditional_formats),
        )


@dataclass(eq=False)
class Workbook:
    """A spreadsheet: properties, sheets in the order people see them, developer metadata by id."""

    spreadsheet_id: str
    title: str
    sheets: list[Sheet] = field(default_factory=list)
    metadata: dict[int, dict[str, Any]] = field(default_factory=dict)

    def sheet(self, sheet_id: int) -> Sheet | None:
        """Return a sheet to look at."""
        return next((sheet for sheet in self.sheets if sheet.sheet_id == sheet_id), None)

    def sheet_named(self, title: str) -> Sheet | None:
        """Return a sheet by its exact title."""
        return next((sheet for sheet in self.sheets if sheet.title == title), None)


class Draft:
    """A workbook in the middle of a batch: applied by taking `book`, undone by forgetting it."""

    def __init__(self, original: Workbook, user: User = "api") -> None:
        self.user = user
        self.book = replace(original, sheets=list(original.sheets), metadata=dict(original.metadata))
        self._forked: set[int] = set()

    def writable(self, sheet_id: int) -> Sheet:
        """Return a sheet that may be written.

        Raises:
            Refusal: No such sheet.
        """
        for position, sheet in enumerate(self.book.sheets):
            if sheet.sheet_id == sheet_id:
                if sheet_id not in self._forked:
                    self._forked.add(sheet_id)
                    self.book.sheets[position] = sheet.fork()
                return self.book.sheets[position]
        raise Refusal(f"No grid with id: {sheet_id}")

    def add(self, sheet: Sheet, position: int) -> None:
        """Put a new sheet at a position."""
        self._forked.add(sheet.sheet_id)
        self.book.sheets.insert(position, sheet)

    def check_cells(self) -> None:
        """Refuse a workbook of more cells than Google allows."""
        cells = sum(sheet.row_count * sheet.column_count for sheet in self.book.sheets)
        if cells > MAX_CELLS:
            raise Refusal(
                f"This action would increase the number of cells in the workbook above the limit of {MAX_CELLS} cells."
            )


def new_workbook(spreadsheet_id: str, title: str) -> Workbook:
    """Return a workbook as Google makes one: a single empty "Sheet1" with the id 0."""
    return Workbook(spreadsheet_id, title, [Sheet(0, sheet_properties("Sheet1"))])


def sheet_properties(title: str) -> dict[str, Any]:
    """Return the properties of a plain new tab."""
    return {"title": title, "sheetType": "GRID"}
