"""From Google's answers to what the planner reads; and areas as Google wants them."""

from __future__ import annotations

from typing import Any

from kylo_outbox.sheets.tab import MARKER_KEY, GridArea, Marker, Protection, TabInfo

TAB_FIELDS = (
    "sheets(properties(sheetId,title,index,gridProperties(rowCount,columnCount,frozenRowCount)),"
    "protectedRanges(protectedRangeId,description,range,requestingUserCanEdit,warningOnly),"
    "developerMetadata(metadataId,metadataKey,metadataValue))"
)


def quoted(title: str) -> str:
    """Return a tab title as A1 notation wants it, whatever characters it has."""
    return "'" + title.replace("'", "''") + "'"


def first_of_each(rows: list[list[Any]]) -> tuple[str, ...]:
    """Return the first cell of each row as text."""
    return tuple(text(row[0]) if row else "" for row in rows)


def text(value: Any) -> str:
    """Return a cell as text."""
    return value if isinstance(value, str) else str(value)


def tab_info(sheet: dict[str, Any]) -> TabInfo:
    """Return the shape of a tab from a Sheet resource cut to `TAB_FIELDS`."""
    properties = sheet["properties"]
    grid = properties.get("gridProperties", {})
    return TabInfo(
        sheet_id=properties.get("sheetId", 0),
        title=properties["title"],
        index=properties.get("index", 0),
        row_count=grid.get("rowCount", 0),
        column_count=grid.get("columnCount", 0),
        frozen_rows=grid.get("frozenRowCount", 0),
        protections=tuple(_protection(found) for found in sheet.get("protectedRanges", ())),
        markers=tuple(
            Marker(found["metadataId"], found.get("metadataValue", ""))
            for found in sheet.get("developerMetadata", ())
            if found.get("metadataKey") == MARKER_KEY
        ),
    )


def _protection(found: dict[str, Any]) -> Protection:
    area = found.get("range", {})
    columns = None
    if "startColumnIndex" in area or "endColumnIndex" in area:
        columns = (area.get("startColumnIndex", 0), area.get("endColumnIndex", 1 << 31))
    return Protection(
        protected_range_id=found.get("protectedRangeId", 0),
        description=found.get("description", ""),
        columns=columns,
        whole_height="endRowIndex" not in area and area.get("startRowIndex", 0) <= 1,
        can_edit=bool(found.get("requestingUserCanEdit") or found.get("warningOnly")),
    )


def grid_range(area: GridArea) -> dict[str, int]:
    """Return an area as a GridRange."""
    return {
        "sheetId": area.sheet_id,
        "startRowIndex": area.top,
        "endRowIndex": area.bottom,
        "startColumnIndex": area.left,
        "endColumnIndex": area.right,
    }


def by_area(answer: dict[str, Any]) -> dict[GridArea, list[list[Any]]]:
    """Return the values of a batchGetByDataFilter by the area that was asked for; JSON leaves zeros out."""
    found: dict[GridArea, list[list[Any]]] = {}
    for part in answer.get("valueRanges", ()):
        for asked in part.get("dataFilters", ()):
            given = asked["gridRange"]
            area = GridArea(
                given.get("sheetId", 0),
                given.get("startRowIndex", 0),
                given["endRowIndex"],
                given.get("startColumnIndex", 0),
                given["endColumnIndex"],
            )
            found[area] = part["valueRange"].get("values", [])
    return found


def marked_tabs(answer: dict[str, Any]) -> dict[str, set[int]]:
    """Return the tabs on which each marker of a metadata search lies."""
    found: dict[str, set[int]] = {}
    for match in answer.get("matchedDeveloperMetadata", ()):
        item = match["developerMetadata"]
        sheet_id = item.get("location", {}).get("sheetId", 0)
        found.setdefault(item.get("metadataValue", ""), set()).add(sheet_id)
    return found
