"""Sub-requests about cells: updateCells, appendCells, repeatCell, setDataValidation, addConditionalFormatRule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin import areas, cells
from kylo_outbox.sheets.standin.errors import Refusal
from kylo_outbox.sheets.standin.guarding import guard
from kylo_outbox.sheets.standin.masks import Tree, merge, update_mask

if TYPE_CHECKING:
    from kylo_outbox.sheets.standin.areas import Area
    from kylo_outbox.sheets.standin.state import Cell, Draft, Sheet


def _update(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    tree = update_mask(body.get("fields"), "CellData")
    rows = body.get("rows", [])
    if "range" in body and "start" in body:
        raise Refusal("Only one of 'start' and 'range' can be set")
    if "range" in body:
        sheet = draft.writable(body["range"].get("sheetId", 0))
        area = areas.of_grid_range(sheet, body["range"])
        _check_inside(rows, area)
        guard(sheet, draft.user, area)
        # Cells of the range that no row speaks of are cleared of the masked fields.
        _write(sheet, area, rows, tree)
    elif "start" in body:
        start = body["start"]
        sheet = draft.writable(start.get("sheetId", 0))
        for number, data in enumerate(rows):
            width = len(data.get("values", []))
            if width:
                top, left = start.get("rowIndex", 0) + number, start.get("columnIndex", 0)
                line = {"startRowIndex": top, "endRowIndex": top + 1}
                line |= {"startColumnIndex": left, "endColumnIndex": left + width}
                area = areas.of_grid_range(sheet, line)
                guard(sheet, draft.user, area)
                _write(sheet, area, [data], tree)
    else:
        raise Refusal("One of 'start' and 'range' must be set")
    return {}


def _append(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    if "tableId" in body:
        raise Refusal("the local stand-in knows no tables")
    tree = update_mask(body.get("fields"), "CellData")
    sheet = draft.writable(body.get("sheetId", 0))
    rows = body.get("rows", [])
    width = max((len(data.get("values", [])) for data in rows), default=0)
    if width > sheet.column_count:
        # Google documents growth downward only; a plan must not rely on more.
        raise Refusal(f"Row data has {width} cells, the sheet has {sheet.column_count} columns")
    top = next((i for i in range(len(sheet.rows), 0, -1) if cells.row_filled(sheet.rows[i - 1])), 0)
    sheet.row_count = max(sheet.row_count, top + len(rows))
    draft.check_cells()
    if rows and width:
        guard(sheet, draft.user, areas.Area(top, top + len(rows), 0, width))
        _write(sheet, areas.Area(top, top + len(rows), 0, width), rows, tree, clear=False)
    return {}


def _repeat(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    tree = update_mask(body.get("fields"), "CellData")
    given = body.get("range", {})
    sheet = draft.writable(given.get("sheetId", 0))
    area = areas.of_grid_range(sheet, given)
    guard(sheet, draft.user, area)
    _fill(sheet, area, body.get("cell", {}), tree)
    return {}


def _validate(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("range", {})
    sheet = draft.writable(given.get("sheetId", 0))
    area = areas.of_grid_range(sheet, given)
    guard(sheet, draft.user, area)
    cell = {"dataValidation": body["rule"]} if "rule" in body else {}
    _fill(sheet, area, cell, {"dataValidation": {}})
    return {}


def _conditional(draft: Draft, body: dict[str, Any]) -> dict[str, Any]:
    rule = body.get("rule", {})
    ranges = rule.get("ranges", [])
    if not ranges or len({given.get("sheetId", 0) for given in ranges}) != 1:
        raise Refusal("A conditional format rule needs ranges, all of the same sheet")
    sheet = draft.writable(ranges[0].get("sheetId", 0))
    for given in ranges:
        areas.check_loose(sheet, given)
    index = body.get("index", 0)
    if index > len(sheet.conditional_formats):
        raise Refusal(f"No place {index} among {len(sheet.conditional_formats)} conditional format rules")
    sheet.conditional_formats.insert(index, rule)
    return {}


def _check_inside(rows: list[dict[str, Any]], area: Area) -> None:
    width = max((len(data.get("values", [])) for data in rows), default=0)
    if len(rows) > area.bottom - area.top or width > area.right - area.left:
        raise Refusal("Tried writing to cells outside of the given range")


def _fill(sheet: Sheet, area: Area, cell: Cell, tree: Tree) -> None:
    line = {"values": [cell] * (area.right - area.left)}
    _write(sheet, area, [line] * (area.bottom - area.top), tree)


def _write(sheet: Sheet, area: Area, rows: list[dict[str, Any]], tree: Tree, *, clear: bool = True) -> None:
    """Put rows of CellData into an area; with `clear` the rest of the area loses the masked fields."""
    last = area.bottom if clear and rows else area.top + len(rows)
    last = min(area.bottom, max(len(sheet.rows), area.top + len(rows))) if clear else last
    for number in range(area.top, last):
        offset = number - area.top
        given = rows[offset].get("values", []) if offset < len(rows) else []
        row = dict(sheet.row(number))
        for column in range(area.left, area.right if clear else area.left + len(given)):
            place = column - area.left
            new = given[place] if place < len(given) else {}
            cell = cells.written(merge(row.get(column, {}), new, tree))
            if cell:
                row[column] = cell
            else:
                row.pop(column, None)
        sheet.put_row(number, row)
    while sheet.rows and not sheet.rows[-1]:
        sheet.rows.pop()


HANDLERS = {
    "updateCells": _update,
    "appendCells": _append,
    "repeatCell": _repeat,
    "setDataValidation": _validate,
    "addConditionalFormatRule": _conditional,
}
