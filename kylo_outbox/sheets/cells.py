"""Cells as Google takes them: typed values, so that no text of anybody can become a formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kylo_outbox.model.tabs import Cell
    from kylo_outbox.sheets.tab import Fix


def row_data(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return cells as a RowData of typed values; a text is always a stringValue, so it can never become a formula."""
    return {"values": [cell_data(cell) for cell in cells]}


def cell_data(cell: Cell) -> dict[str, Any]:
    """Return one CellData; an empty cell is {}."""
    if cell is None or cell == "":
        return {}
    if isinstance(cell, bool):
        return {"userEnteredValue": {"boolValue": cell}}
    if isinstance(cell, str):
        return {"userEnteredValue": {"stringValue": cell}}
    return {"userEnteredValue": {"numberValue": cell}}


def fix_requests(sheet_id: int, fixes: Iterable[Fix]) -> list[dict[str, Any]]:
    """Return the sub-requests that write single cells; neighbours below each other share one."""
    requests: list[dict[str, Any]] = []
    end: tuple[int, int] | None = None
    for fix in sorted(fixes, key=lambda fix: (fix.column, fix.row)):
        cell = row_data([fix.text])
        if end == (fix.row, fix.column):
            requests[-1]["updateCells"]["rows"].append(cell)
        else:
            start = {"sheetId": sheet_id, "rowIndex": fix.row, "columnIndex": fix.column}
            requests.append({"updateCells": {"start": start, "rows": [cell], "fields": "userEnteredValue"}})
        end = (fix.row + 1, fix.column)
    return requests
