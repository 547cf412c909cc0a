"""values.get, batchGet and batchGetByDataFilter: ranges as lists of plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin import areas, cells
from kylo_outbox.sheets.standin.errors import Refusal, invalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from kylo_outbox.sheets.standin.areas import Area
    from kylo_outbox.sheets.standin.state import Cell, Sheet, Workbook

_RENDERERS: dict[str, Callable[[Cell], Any]] = {
    "FORMATTED_VALUE": cells.formatted,
    "UNFORMATTED_VALUE": cells.unformatted,
    "FORMULA": cells.unformatted,
}


def value_range(book: Workbook, text: str, *, render: str, dimension: str) -> dict[str, Any]:
    """Return a ValueRange; empty cells and rows at the end are left out, "values" too when nothing is there.

    Args:
        book: The workbook.
        text: A1 notation.
        render: A ValueRenderOption.
        dimension: ROWS or COLUMNS: what an inner list is.

    Raises:
        ApiError: 400, the range cannot be found.
    """
    sheet, area = areas.find(book, text)
    return of_area(sheet, area, render=render, dimension=dimension)


def filtered(book: Workbook, data_filter: dict[str, Any], *, render: str, dimension: str) -> dict[str, Any]:
    """Return the ValueRange of a data filter that names a range.

    Raises:
        ApiError: 400, no such tab or range, or a filter by metadata, which the stand-in does not do for values.
    """
    if "a1Range" in data_filter:
        return value_range(book, data_filter["a1Range"], render=render, dimension=dimension)
    if "gridRange" not in data_filter:
        raise invalid("the local stand-in reads values by a1Range or gridRange only")
    given = data_filter["gridRange"]
    sheet = book.sheet(given.get("sheetId", 0))
    if sheet is None:
        raise invalid(f"No grid with id: {given.get('sheetId', 0)}")
    try:
        area = areas.of_grid_range(sheet, given)
    except Refusal as refusal:
        raise invalid(str(refusal)) from refusal
    return of_area(sheet, area, render=render, dimension=dimension)


def of_area(sheet: Sheet, area: Area, *, render: str, dimension: str) -> dict[str, Any]:
    """Return the ValueRange of an area."""
    shown = _RENDERERS[render]
    rows = [
        [shown(row[column]) if column in row else "" for column in range(area.left, area.right)]
        for row in sheet.rows[area.top : area.bottom]
    ]
    if dimension == "COLUMNS":
        rows = [list(column) for column in zip(*rows, strict=True)]
    trimmed = _trim([_trim(row, "") for row in rows], [])
    answer = {"range": areas.show(sheet, area), "majorDimension": dimension}
    return {**answer, "values": trimmed} if trimmed else answer


def _trim(items: list[Any], empty: Any) -> list[Any]:
    end = len(items)
    while end and items[end - 1] == empty:
        end -= 1
    return items[:end]
