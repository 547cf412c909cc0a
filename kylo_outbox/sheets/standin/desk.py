"""The stand-in's own doors under `/_standin`: orders to fail, quota, sharing, people's edits, and what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse, Response

from kylo_outbox.sheets.standin import api, render
from kylo_outbox.sheets.standin.errors import ApiError, invalid
from kylo_outbox.sheets.standin.faults import Desk, Fault
from kylo_outbox.sheets.standin.schema import check
from kylo_outbox.sheets.standin.typing_in import type_in

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

    from kylo_outbox.sheets.standin.books import Books
    from kylo_outbox.sheets.standin.limits import Limits


async def body_of(request: Request) -> Any:
    """Return the JSON that was sent.

    Raises:
        ApiError: 400; also for a body that is not declared as JSON: a page from elsewhere can send such a one without
            being asked first.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise invalid("content-type: application/json belongs here")
    return api.read_body(await request.body())


def add_faults(app: FastAPI, desk: Desk, limits: Limits) -> None:
    """Add `/_standin/faults`, `/_standin/requests` and `/_standin/quota`."""

    async def order(request: Request) -> Response:
        desk.orders.append(Fault.read(await body_of(request)))
        return JSONResponse({"waiting": len(desk.orders)})

    async def clear(_request: Request) -> Response:
        desk.orders.clear()
        return JSONResponse({"waiting": 0})

    async def counts(_request: Request) -> Response:
        busiest = {"read": limits.busiest[False], "write": limits.busiest[True]}
        return JSONResponse({**desk.counts(), "busiest_minute": busiest})

    async def quota(request: Request) -> Response:
        limits.set_quota(await body_of(request))
        return JSONResponse({"per_minute": limits.per_minute})

    app.add_route("/_standin/faults", order, methods=["POST"])
    app.add_route("/_standin/faults", clear, methods=["DELETE"])
    app.add_route("/_standin/requests", counts, methods=["GET"])
    app.add_route("/_standin/quota", quota, methods=["PUT"])


def add_books(app: FastAPI, books: Books, limits: Limits) -> None:
    """Add what people do: type into cells, change tabs as the owner, share; and the tabs as JSON."""

    async def workbook(request: Request) -> Response:
        return JSONResponse(render.plain(books.existing(_name(request))))

    async def workbooks(_request: Request) -> Response:
        listed = [{"spreadsheetId": book.spreadsheet_id, "title": book.title} for book in books.all()]
        return JSONResponse({"workbooks": listed})

    async def edit(request: Request) -> Response:
        type_in(books, _name(request), await body_of(request))
        return JSONResponse({})

    async def owner(request: Request) -> Response:
        given = await body_of(request)
        check("BatchUpdateSpreadsheetRequest", given)
        return JSONResponse({"replies": books.update(_name(request), given.get("requests", []), "owner")})

    async def share(request: Request) -> Response:
        limits.share(_name(request), await body_of(request))
        return JSONResponse({})

    app.add_route("/_standin/sheets.json", workbooks, methods=["GET"])
    app.add_route("/_standin/sheets/{spreadsheet_id}.json", workbook, methods=["GET"])
    app.add_route("/_standin/sheets/{spreadsheet_id}/cells", edit, methods=["POST"])
    app.add_route("/_standin/people/{spreadsheet_id}", owner, methods=["POST"])
    app.add_route("/_standin/sharing/{spreadsheet_id}", share, methods=["PUT"])


def _name(request: Request) -> str:
    return str(request.path_params["spreadsheet_id"])


async def refuse(_request: Request, error: Any) -> Response:
    """Answer an `ApiError` as Google does."""
    if not isinstance(error, ApiError):
        raise error
    return JSONResponse(error.body, error.code)
