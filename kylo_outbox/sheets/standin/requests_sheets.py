"""Sub-requests about whole tabs: addSheet, duplicateSheet, deleteSheet, updateSheetProperties."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin.errors import Refusal
from kylo_outbox.sheets.standin.guarding import guard_tab
from kylo_outbox.sheets.standin.masks import merge, update_mask
from kylo_outbox.sheets.standin.render import sheet_resource_properties
from kylo_outbox.sheets.standin.state import DEFAULT_COLUMNS, DEFAULT_ROWS, Sheet

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.state import Draft, Workbook

_SIZES = ("rowCount", "columnCount")


def _add(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    given = dict(body.get("properties", {}))
    if given.pop("sheetType", "GRID") != "GRID":
        raise Refusal("the local stand-in knows tabs of the type GRID only")
    sheet_id = given.pop("sheetId", None)
    if sheet_id is None:
        sheet_id = secrets.randbelow(2**31 - 1) + 1
    elif sheet_id < 0:
        raise Refusal(f"sheetId must be non-negative: {sheet_id}")
    elif draft.book.sheet(sheet_id) is not None:
        raise Refusal(f'A sheet with the id "{sheet_id}" already exists. Please enter another id.')
    title = given.pop("title", "") or _free_title(draft.book)
    _check_title(draft.book, title)
    position = min(max(given.pop("index", len(draft.book.sheets)), 0), len(draft.book.sheets))
    grid = dict(given.pop("gridProperties", {}))
    sheet = Sheet(
        sheet_id,
        {"title": title, "sheetType": "GRID", **given, "gridProperties": _without_sizes(grid)},
        row_count=grid.get("rowCount", DEFAULT_ROWS),
        column_count=grid.get("columnCount", DEFAULT_COLUMNS),
    )
    _check_grid(sheet)
    draft.add(sheet, position)
    return {"properties": sheet_resource_properties(draft.book, sheet)}


def _duplicate(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    """Cells, protections and formats are copied. Markers are too, under new ids: the harder reading of Google."""
    source = draft.writable(body.get("sourceSheetId", 0))
    sheet_id = body.get("newSheetId") or secrets.randbelow(2**31 - 1) + 1
    if draft.book.sheet(sheet_id) is not None:
        raise Refusal(f'A sheet with the id "{sheet_id}" already exists. Please enter another id.')
    title = body.get("newSheetName") or _copy_title(draft.book, source.title)
    _check_title(draft.book, title)
    copy = source.fork()
    copy.sheet_id = sheet_id
    copy.properties["title"] = title
    copy.protections = [
        {**held, "protectedRangeId": secrets.randbelow(2**31 - 1) + 1, "range": {**held["range"], "sheetId": sheet_id}}
        for held in source.protections
    ]
    copy.conditional_formats = []
    draft.add(copy, min(max(body.get("insertSheetIndex", 0), 0), len(draft.book.sheets)))
    for item in list(draft.book.metadata.values()):
        if item["location"].get("sheetId") == source.sheet_id:
            metadata_id = secrets.randbelow(2**31 - 1) + 1
            location = {**item["location"], "sheetId": sheet_id}
            draft.book.metadata[metadata_id] = {**item, "metadataId": metadata_id, "location": location}
    return {"properties": sheet_resource_properties(draft.book, copy)}


def _copy_title(book: Workbook, title: str) -> str:
    wanted, number = f"Copy of {title}", 1
    while book.sheet_named(wanted) is not None:
        number += 1
        wanted = f"Copy of {title} {number}"
    return wanted


def _delete(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    sheet = draft.writable(body.get("sheetId", 0))
    guard_tab(sheet, draft.user)
    if len(draft.book.sheets) == 1:
        raise Refusal("You can't remove all the sheets in a document.")
    draft.book.sheets.remove(sheet)
    for metadata_id, item in list(draft.book.metadata.items()):
        location = item["location"]
        if location.get("sheetId", location.get("dimensionRange", {}).get("sheetId")) == sheet.sheet_id:
            del draft.book.metadata[metadata_id]
    return {}


def _update(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("properties", {})
    tree = update_mask(body.get("fields"), "SheetProperties")
    sheet = draft.writable(given.get("sheetId", 0))
    if "sheetId" in tree:
        raise Refusal("the id of a sheet cannot be changed")
    now = sheet_resource_properties(draft.book, sheet)
    now = merge(now, {**given, "sheetId": sheet.sheet_id}, tree)
    title = now.get("title", "")
    if title != sheet.title:
        guard_tab(sheet, draft.user)
        _check_title(draft.book, title)
    grid = now.get("gridProperties", {})
    sheet.row_count, sheet.column_count = grid.get("rowCount", 0), grid.get("columnCount", 0)
    kept = {name: value for name, value in now.items() if name not in {"sheetId", "index", "gridProperties"}}
    sheet.properties = {**kept, "gridProperties": _without_sizes(grid)}
    _check_grid(sheet)
    _crop(sheet)
    if "index" in tree or "*" in tree:
        _move(draft, sheet, given.get("index", 0))
    return {}


def _move(draft: Draft, sheet: Sheet, index: int) -> None:
    sheets = draft.book.sheets
    old = sheets.index(sheet)
    if index < 0 or index > len(sheets):
        raise Refusal(f"Invalid sheet index: {index}")
    sheets.remove(sheet)
    # Google counts the place before the tab is taken out: moving right by one needs index + 2.
    sheets.insert(index - 1 if index > old else index, sheet)


def _crop(sheet: Sheet) -> None:
    del sheet.rows[sheet.row_count :]
    for number, row in enumerate(sheet.rows):
        if any(column >= sheet.column_count for column in row):
            sheet.rows[number] = {column: cell for column, cell in row.items() if column < sheet.column_count}


def _check_grid(sheet: Sheet) -> None:
    if sheet.row_count < 1 or sheet.column_count < 1:
        raise Refusal("A sheet must have at least one row and one column")
    frozen_columns = sheet.properties.get("gridProperties", {}).get("frozenColumnCount", 0)
    if sheet.frozen_rows >= sheet.row_count or frozen_columns >= sheet.column_count:
        raise Refusal("You can't freeze all visible rows or columns on the sheet.")


def _check_title(book: Workbook, title: str) -> None:
    if not title or len(title) > 100:  # noqa: PLR2004 - Google's limit
        raise Refusal("The name of a sheet must have 1 to 100 characters")
    if any(sheet.title.casefold() == title.casefold() for sheet in book.sheets):
        raise Refusal(f'A sheet with the name "{title}" already exists. Please enter another name.')


def _free_title(book: Workbook) -> str:
    number = len(book.sheets) + 1
    while book.sheet_named(f"Sheet{number}") is not None:
        number += 1
    return f"Sheet{number}"


def _without_sizes(grid: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in grid.items() if name not in _SIZES}


HANDLERS = {
    "addSheet": _add,
    "duplicateSheet": _duplicate,
    "deleteSheet": _delete,
    "updateSheetProperties": _update,
}
