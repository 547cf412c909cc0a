"""Sub-requests about rows and columns: append, insert, delete, move, sort and resize them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin import areas, cells
from kylo_outbox.sheets.standin.errors import Refusal
from kylo_outbox.sheets.standin.guarding import guard
from kylo_outbox.sheets.standin.shifting import shift_everything

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.state import Cell, Draft, Row, Sheet


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
    guard(sheet, draft.user, _band(sheet, start, end, rows=rows))
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


def _move(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    """Rows only; what is tied to rows stays where it is, which is enough for values."""
    given = body.get("source", {})
    sheet = draft.writable(given.get("sheetId", 0))
    if not _is_rows(given):
        raise Refusal("the local stand-in moves rows only")
    start, end = areas.of_dimension(given, sheet.row_count)
    to = body.get("destinationIndex", 0)
    if start <= to <= end or to > sheet.row_count:
        raise Refusal(f"Cannot move rows {start} to {end} to index {to}")
    guard(sheet, draft.user, _band(sheet, min(start, to), max(end, to), rows=True))
    rows = [sheet.row(index) for index in range(max(len(sheet.rows), end, to))]
    moved = rows[start:end]
    del rows[start:end]
    at = to if to < start else to - (end - start)
    rows[at:at] = moved
    sheet.rows = _trimmed(rows)
    return {}


def _sort(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    """Whole rows of a range by their values: numbers, texts, truth values, then empty cells; cells move whole."""
    given = body.get("range", {})
    sheet = draft.writable(given.get("sheetId", 0))
    area = areas.of_grid_range(sheet, given)
    guard(sheet, draft.user, area)
    span = range(area.left, area.right)
    lines = [
        {column: cell for column, cell in sheet.row(index).items() if column in span}
        for index in range(area.top, min(area.bottom, len(sheet.rows)))
    ]
    for spec in reversed(body.get("sortSpecs", [])):
        falling = spec.get("sortOrder") == "DESCENDING"
        column = spec.get("dimensionIndex", 0)
        lines.sort(key=lambda line: _sort_key(line.get(column, {}), falling=falling), reverse=falling)
    for index, line in enumerate(lines, start=area.top):
        kept = {column: cell for column, cell in sheet.row(index).items() if column not in span}
        sheet.put_row(index, {**kept, **line})
    sheet.rows = _trimmed(sheet.rows)
    return {}


def _sort_key(cell: Cell, *, falling: bool) -> tuple[int, Any]:
    value = cells.value_of(cell)
    if value is None:
        return (-1 if falling else 9, 0)  # empty cells come last either way
    if isinstance(value, bool):
        return (2, value)
    return (1, value.casefold()) if isinstance(value, str) else (0, value)


def _trimmed(rows: list[Row]) -> list[Row]:
    end = len(rows)
    while end and not rows[end - 1]:
        end -= 1
    return rows[:end]


def _band(sheet: Sheet, start: int, end: int, *, rows: bool) -> areas.Area:
    """Whole rows or columns as an area."""
    return areas.Area(start, end, 0, sheet.column_count) if rows else areas.Area(0, sheet.row_count, start, end)


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
    "moveDimension": _move,
    "sortRange": _sort,
    "autoResizeDimensions": _resize,
}
