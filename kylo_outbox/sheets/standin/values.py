"""values.get and values.batchGet: ranges as lists of plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin import areas, cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from kylo_outbox.sheets.standin.state import Cell, Workbook

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
