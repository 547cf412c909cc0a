"""What a person types into a cell, and what becomes of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin import areas
from kylo_outbox.sheets.standin.errors import ApiError, Refusal, invalid
from kylo_outbox.sheets.standin.guarding import guard

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.books import Books
    from kylo_outbox.sheets.standin.guarding import User
    from kylo_outbox.sheets.standin.state import Cell

_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_FIELDS = {"sheetId": int, "row": int, "column": int, "text": str}


def type_in(books: Books, spreadsheet_id: str, given: Any, user: User = "person") -> None:
    """Put typed text into one cell (row and column from 0): a number, a truth value, a formula, or a text.

    A leading apostrophe makes a text, as at Google; dates stay texts, which is simpler than at Google.

    Raises:
        ApiError: 404 no such workbook; 400 not understood or against the cell's strict rule; 403 protected.
    """
    book = books.existing(spreadsheet_id)
    if not isinstance(given, dict) or set(given) != set(_FIELDS):
        raise invalid(f"An edit is an object of {', '.join(_FIELDS)}")
    if any(not isinstance(given[name], kind) or isinstance(given[name], bool) for name, kind in _FIELDS.items()):
        raise invalid("sheetId, row and column are whole numbers, text is a text")
    sheet = book.sheet(given["sheetId"])
    if sheet is None or not (0 <= given["row"] < sheet.row_count and 0 <= given["column"] < sheet.column_count):
        raise invalid("There is no such cell")
    row, column = given["row"], given["column"]
    try:
        guard(sheet, user, areas.Area(row, row + 1, column, column + 1))
    except Refusal as refusal:
        raise ApiError(403, str(refusal)) from refusal
    value = entered(given["text"])
    _check_rule(sheet.row(row).get(column, {}), value)
    start = {"sheetId": sheet.sheet_id, "rowIndex": row, "columnIndex": column}
    cell = {"userEnteredValue": value} if value else {}
    update = {"start": start, "rows": [{"values": [cell]}], "fields": "userEnteredValue"}
    books.update(spreadsheet_id, [{"updateCells": update}], user)


def entered(text: str) -> dict[str, Any]:
    """Return the ExtendedValue of typed text; empty for none."""
    if not text:
        return {}
    if text.startswith("'"):
        return {"stringValue": text[1:]} if len(text) > 1 else {}
    if text.startswith("="):
        return {"formulaValue": text}
    if text.strip().upper() in {"TRUE", "FALSE"}:
        return {"boolValue": text.strip().upper() == "TRUE"}
    return {"numberValue": float(text)} if _NUMBER.fullmatch(text.strip()) else {"stringValue": text}


def _check_rule(cell: Cell, value: dict[str, Any]) -> None:
    rule = cell.get("dataValidation", {})
    boolean = rule.get("condition", {}).get("type") == "BOOLEAN"
    if boolean and rule.get("strict") and value and "boolValue" not in value:
        raise invalid("The data you entered in this cell violates the data validation rules set on this cell.")
