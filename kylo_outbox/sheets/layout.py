"""The shape of a tab: header, frozen row, protected columns; written where it is missing and never again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.errors import TabProblem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.sheets.tab import TabInfo

NEW_TAB_ROWS = 100
"""Rows of a new tab. Appending grows a tab by itself, and every empty row counts against the 10,000,000 cells of a
workbook that hundreds of companies may share; the 2,000 of the old system bought nothing."""

PENDING_PROTECTED = {0: "kylo: Row_Hash", 10: "kylo: Processed_At"}
"""Columns that only the system writes (0 = A), with the description under which people find the protection."""

_POSITIVE_INT32 = 0x7FFFFFFF


def new_sheet_id(signature: str) -> int:
    """Return a sheet id of our own choice, so that later sub-requests of the same batch can name the new tab."""
    return int(signature[8:16], 16) & _POSITIVE_INT32 or 1


def new_tab(sheet_id: int, title: str, columns: Sequence[str], *, protected: dict[int, str]) -> list[dict[str, Any]]:
    """Return the sub-requests that make a tab and give it its shape."""
    grid = {"rowCount": NEW_TAB_ROWS, "columnCount": len(columns), "frozenRowCount": 1}
    properties = {"sheetId": sheet_id, "title": title, "gridProperties": grid}
    return [
        {"addSheet": {"properties": properties}},
        _header(sheet_id, columns),
        *(_protection(sheet_id, column, text) for column, text in protected.items()),
    ]


def missing_shape(
    tab: TabInfo, header: Sequence[str], columns: Sequence[str], *, protected: dict[int, str]
) -> list[dict[str, Any]]:
    """Return the sub-requests for what an existing tab lacks; none when it lacks nothing.

    Raises:
        TabProblem: The first row holds something else: a person moved or renamed columns, or it is another tab.
    """
    requests: list[dict[str, Any]] = []
    if tab.column_count < len(columns):
        length = len(columns) - tab.column_count
        requests.append({"appendDimension": {"sheetId": tab.sheet_id, "dimension": "COLUMNS", "length": length}})
    if not any(header):
        requests.append(_header(tab.sheet_id, columns))
    else:
        _check_header(tab.title, header, columns)
    if tab.frozen_rows < 1:
        properties = {"sheetId": tab.sheet_id, "gridProperties": {"frozenRowCount": 1}}
        requests.append(
            {"updateSheetProperties": {"properties": properties, "fields": "gridProperties.frozenRowCount"}}
        )
    requests += [
        _protection(tab.sheet_id, column, text)
        for column, text in protected.items()
        if not any(held.covers(column) for held in tab.protections)
    ]
    return requests


def _check_header(title: str, header: Sequence[str], columns: Sequence[str]) -> None:
    for position, name in enumerate(columns):
        found = header[position].strip() if position < len(header) else ""
        if found != name:
            letter = chr(ord("A") + position)
            raise TabProblem(
                f"Tab {title!r}: cell {letter}1 holds {found!r} where {name!r} belongs",
                f"Put the columns back in this order: {', '.join(columns)}; own columns may follow to the right.",
            )


def _header(sheet_id: int, columns: Sequence[str]) -> dict[str, Any]:
    bold = {"textFormat": {"bold": True}}
    values = [{"userEnteredValue": {"stringValue": name}, "userEnteredFormat": bold} for name in columns]
    return {
        "updateCells": {
            "start": {"sheetId": sheet_id, "rowIndex": 0, "columnIndex": 0},
            "rows": [{"values": values}],
            "fields": "userEnteredValue,userEnteredFormat.textFormat.bold",
        }
    }


def _protection(sheet_id: int, column: int, description: str) -> dict[str, Any]:
    area = {"sheetId": sheet_id, "startColumnIndex": column, "endColumnIndex": column + 1}
    return {"addProtectedRange": {"protectedRange": {"range": area, "description": description}}}
