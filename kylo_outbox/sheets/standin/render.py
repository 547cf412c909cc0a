"""Workbooks as Google's Spreadsheet resource, and as the small JSON that pages and tests read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin import areas, cells

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.areas import Area
    from kylo_outbox.sheets.standin.state import Sheet, Workbook


def spreadsheet(book: Workbook, base_url: str, ranges: list[str], *, grid_data: bool) -> dict[str, Any]:
    """Return the Spreadsheet resource; with ranges only the tabs that they touch.

    Raises:
        ApiError: 400, a range names no tab.
    """
    wanted = [areas.find(book, text) for text in ranges]
    sheets = book.sheets if not ranges else [s for s in book.sheets if any(s is sheet for sheet, _ in wanted)]
    rendered = []
    for sheet in sheets:
        whole = [areas.Area(0, sheet.row_count, 0, sheet.column_count)]
        parts = [area for held, area in wanted if held is sheet] if ranges else whole
        rendered.append(_sheet(book, sheet, parts if grid_data else []))
    answer = {
        "spreadsheetId": book.spreadsheet_id,
        "properties": {"title": book.title, "locale": "en_US", "autoRecalc": "ON_CHANGE", "timeZone": "Etc/GMT"},
        "sheets": rendered,
        "spreadsheetUrl": f"{base_url}sheets/{book.spreadsheet_id}",
    }
    own = [item for item in book.metadata.values() if item["location"]["locationType"] == "SPREADSHEET"]
    return {**answer, "developerMetadata": own} if own else answer


def sheet_resource_properties(book: Workbook, sheet: Sheet) -> dict[str, Any]:
    """Return SheetProperties with id, place and sizes."""
    place = next(index for index, held in enumerate(book.sheets) if held.sheet_id == sheet.sheet_id)
    return {"sheetId": sheet.sheet_id, "index": place, **sheet.properties, "gridProperties": sheet.grid}


def plain(book: Workbook) -> dict[str, Any]:
    """Return a workbook as people look at it.

    Shape: {spreadsheetId, title, tabs: [{sheetId, title, rowCount, columnCount, frozenRows, protected: [text],
    markers: count of developer metadata, values: [[cell]]}]}; cells are texts, numbers, truth values, "" for empty.
    """
    return {
        "spreadsheetId": book.spreadsheet_id,
        "title": book.title,
        "tabs": [
            {
                "sheetId": sheet.sheet_id,
                "title": sheet.title,
                "rowCount": sheet.row_count,
                "columnCount": sheet.column_count,
                "frozenRows": sheet.frozen_rows,
                "protected": [held.get("description", "") for held in sheet.protections],
                "markers": sum(item["location"].get("sheetId") == sheet.sheet_id for item in book.metadata.values()),
                "values": [
                    [cells.unformatted(row.get(column, {})) for column in range(max(row, default=-1) + 1)]
                    for row in sheet.rows
                ],
            }
            for sheet in book.sheets
        ],
    }


def _sheet(book: Workbook, sheet: Sheet, parts: list[Area]) -> dict[str, Any]:
    resource: dict[str, Any] = {"properties": sheet_resource_properties(book, sheet)}
    if parts:
        resource["data"] = [_grid_data(sheet, area) for area in parts]
    if sheet.protections:
        resource["protectedRanges"] = sheet.protections
    if sheet.conditional_formats:
        resource["conditionalFormats"] = sheet.conditional_formats
    own = [item for item in book.metadata.values() if item["location"].get("sheetId") == sheet.sheet_id]
    if own:
        resource["developerMetadata"] = own
    return resource


def _grid_data(sheet: Sheet, area: Area) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if area.top:
        data["startRow"] = area.top
    if area.left:
        data["startColumn"] = area.left
    rows = []
    for row in sheet.rows[area.top : area.bottom]:
        last = max((column for column in row if column < area.right), default=-1)
        values = [cells.shown(row.get(column, {})) for column in range(area.left, last + 1)]
        rows.append({"values": values} if values else {})
    if rows:
        data["rowData"] = rows
    return data
