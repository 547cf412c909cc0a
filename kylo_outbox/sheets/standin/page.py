"""Pages on which a person can look at the tabs; plain HTML, nothing from elsewhere, nothing inline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined

from kylo_outbox.sheets.standin import areas, cells

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
    """Return what the template shows of a tab; each cell is (text, css class)."""
    width = min(sheet.column_count, max((max(row, default=-1) + 1 for row in sheet.rows), default=0) or 1)
    rows = sheet.rows[:SHOWN_ROWS]
    return {
        "id": sheet.sheet_id,
        "title": sheet.title,
        "frozen": sheet.frozen_rows,
        "grid": f"{sheet.row_count} x {sheet.column_count}",
        "filled": len(sheet.rows),
        "hidden": max(0, len(sheet.rows) - SHOWN_ROWS),
        "protections": [held.get("description") or "protected range" for held in sheet.protections],
        "letters": [areas.letters(column) for column in range(width)],
        "rows": [[_cell(row.get(column, {})) for column in range(width)] for row in rows],
    }


def _cell(cell: dict[str, Any]) -> tuple[str, str]:
    value = cells.value_of(cell)
    kind = {str: "text", bool: "truth", float: "number", int: "number"}.get(type(value), "")
    if cell.get("userEnteredFormat", {}).get("textFormat", {}).get("bold"):
        kind = f"{kind} bold".strip()
    return cells.formatted(cell), kind
