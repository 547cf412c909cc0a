"""Sub-requests about rows and columns: appendDimension, insertDimension, deleteDimension, autoResizeDimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin import areas
from kylo_outbox.sheets.standin.errors import Refusal
from kylo_outbox.sheets.standin.shifting import shift_everything

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.state import Draft, Row, Sheet


def _append(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    sheet = draft.writable(body.get("sheetId", 0))
    length = body.get("length", 0)
    if length < 1:
        raise Refusal("length must be positive")
    if _is_rows(body):
        sheet.row_count += length
    else:
        sheet.column_count += length
    return {}


def _insert(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("range", {})
    sheet = draft.writable(given.get("sheetId", 0))
    rows = _is_rows(given)
    start, end = given.get("startIndex", 0), given.get("endIndex", 0)
    size = sheet.row_count if rows else sheet.column_count
    if start < 0 or end <= start:
        raise Refusal("Invalid range: the end index must be after the start index")
    if start > size or (start == size and not body.get("inheritFromBefore")):
        raise Refusal(f"range.startIndex[{start}] is after last row/column index in the grid[{size - 1}]")
    if start == 0 and body.get("inheritFromBefore"):
        raise Refusal("inheritFromBefore cannot be true if inserting at index 0")
    count = end - start
    if rows:
        if start < len(sheet.rows):
            sheet.rows[start:start] = [{} for _ in range(count)]
        sheet.row_count += count
    else:
        sheet.rows = [_spread(row, start, count) for row in sheet.rows]
        sheet.column_count += count
    shift_everything(draft.book, sheet, rows=rows, at=start, by=count)
    return {}


def _delete(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("range", {})
    sheet = draft.writable(given.get("sheetId", 0))
    rows = _is_rows(given)
    size = sheet.row_count if rows else sheet.column_count
    start, end = areas.of_dimension(given, size)
    frozen = sheet.frozen_rows if rows else sheet.properties.get("gridProperties", {}).get("frozenColumnCount", 0)
    _check_what_stays(size, start, end, frozen, "rows" if rows else "columns")
    if rows:
        del sheet.rows[start:end]
        sheet.row_count -= end - start
        _thaw(sheet, "frozenRowCount", frozen, start, end)
    else:
        sheet.rows = [_close(row, start, end) for row in sheet.rows]
        sheet.column_count -= end - start
        _thaw(sheet, "frozenColumnCount", frozen, start, end)
    shift_everything(draft.book, sheet, rows=rows, at=start, by=start - end)
    return {}


def _resize(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    """Widths are not kept, so that this is checked and changes nothing."""
    given = body.get("dimensions", {})
    sheet = draft.writable(given.get("sheetId", 0))
    areas.of_dimension(given, sheet.row_count if _is_rows(given) else sheet.column_count)
    return {}


def _is_rows(given: dict[str, Any]) -> bool:
    dimension = given.get("dimension")
    if dimension not in {"ROWS", "COLUMNS"}:
        raise Refusal("dimension must be ROWS or COLUMNS")
    return bool(dimension == "ROWS")


def _check_what_stays(size: int, start: int, end: int, frozen: int, what: str) -> None:
    if end - start == size:
        raise Refusal(f"You can't delete all the {what} on the sheet.")
    if start <= frozen and end == size:
        raise Refusal(f"You can't delete all non-frozen {what} on the sheet.")


def _thaw(sheet: Sheet, name: str, frozen: int, start: int, end: int) -> None:
    gone = max(0, min(end, frozen) - start)
    if gone:
        grid = {**sheet.properties.get("gridProperties", {}), name: frozen - gone}
        sheet.properties = {**sheet.properties, "gridProperties": grid}


def _spread(row: Row, at: int, count: int) -> Row:
    if not any(column >= at for column in row):
        return row
    return {column + count if column >= at else column: cell for column, cell in row.items()}


def _close(row: Row, start: int, end: int) -> Row:
    if not any(column >= start for column in row):
        return row
    kept = {column: cell for column, cell in row.items() if not start <= column < end}
    return {column - (end - start) if column >= end else column: cell for column, cell in kept.items()}


HANDLERS = {
    "appendDimension": _append,
    "insertDimension": _insert,
    "deleteDimension": _delete,
    "autoResizeDimensions": _resize,
}
