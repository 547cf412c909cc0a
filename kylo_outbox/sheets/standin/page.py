"""Pages on which a person can look at the tabs; plain HTML, nothing from elsewhere, nothing inline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined

from kylo_outbox.sheets.standin import areas, cells
from kylo_outbox.sheets.standin.errors import Refusal
from kylo_outbox.sheets.standin.guarding import guard
from kylo_outbox.sheets.standin.typing_in import entered

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

    from kylo_outbox.sheets.standin.books import Books
    from kylo_outbox.sheets.standin.state import Sheet

SHOWN_ROWS = 500
"""Rows of a tab on its page; the rest is counted, and whole in the JSON."""

_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'"


def add_pages(app: FastAPI, books: Books) -> None:
    """Add `/` (all workbooks), `/sheets/{id}` (the tabs of one as grids) and their static files."""
    templates = Environment(
        loader=PackageLoader("kylo_outbox.sheets.standin"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def show(name: str, **values: Any) -> Response:
        text = templates.get_template(name).render(**values)
        return HTMLResponse(text, headers={"content-security-policy": _POLICY, "cache-control": "no-store"})

    async def workbooks(_request: Request) -> Response:
        return show("workbooks.html", books=books.all())

    async def workbook(request: Request) -> Response:
        book = books.existing(request.path_params["spreadsheet_id"])
        return show("workbook.html", book=book, tabs=[_tab(sheet) for sheet in book.sheets])

    app.add_route("/", workbooks, methods=["GET"])
    app.add_route("/sheets/{spreadsheet_id}", workbook, methods=["GET"])
    app.mount("/_standin/static", StaticFiles(packages=[("kylo_outbox.sheets.standin", "static")]))


def _tab(sheet: Sheet) -> dict[str, Any]:
    """Return what the template shows of a tab, one column and row beyond what is filled."""
    width = min(sheet.column_count, max((max(row, default=-1) + 2 for row in sheet.rows), default=1))
    height = min(sheet.row_count, len(sheet.rows) + 1, SHOWN_ROWS)
    return {
        "id": sheet.sheet_id,
        "title": sheet.title,
        "frozen": sheet.frozen_rows,
        "grid": f"{sheet.row_count} x {sheet.column_count}",
        "filled": len(sheet.rows),
        "hidden": max(0, len(sheet.rows) - SHOWN_ROWS),
        "protections": [held.get("description") or "protected range" for held in sheet.protections],
        "letters": [areas.letters(column) for column in range(width)],
        "rows": [[_cell(sheet, row, column) for column in range(width)] for row in range(height)],
    }


def _cell(sheet: Sheet, row: int, column: int) -> dict[str, Any]:
    """Return one cell: its text, css class, whether it is a box to tick, and whether the person may edit it."""
    cell = sheet.row(row).get(column, {})
    value = cells.value_of(cell)
    kind = {str: "text", bool: "truth", float: "number", int: "number"}.get(type(value), "")
    if cell.get("userEnteredFormat", {}).get("textFormat", {}).get("bold"):
        kind = f"{kind} bold".strip()
    try:
        guard(sheet, "person", areas.Area(row, row + 1, column, column + 1))
        locked = False
    except Refusal:
        locked = True
    box = cell.get("dataValidation", {}).get("condition", {}).get("type") == "BOOLEAN"
    text = cells.formatted(cell)
    return {"text": text, "kind": kind, "box": box, "ticked": value is True, "locked": locked, "raw": _raw(value, text)}


def _raw(value: Any, text: str) -> str:
    """What the editor begins with: typing it again must give the same value."""
    if not isinstance(value, str) or not value:
        return text
    again = entered(value)
    return value if again == {"stringValue": value} else f"'{value}"
