"""The HTTP side of the stand-in: routes, Google's error shape, faults, and the process."""

from __future__ import annotations

import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse, Response

from kylo_outbox.model.errors import Misconfigured
from kylo_outbox.sheets.standin import api, page, render
from kylo_outbox.sheets.standin.books import Books
from kylo_outbox.sheets.standin.errors import ApiError
from kylo_outbox.sheets.standin.faults import Desk, Fault, ShowTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from starlette.types import ASGIApp

    Endpoint = Callable[[Request], Awaitable[Response]]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def make_app(books: Books) -> ASGIApp:
    """Return the stand-in as an ASGI application.

    All work on workbooks is done between two awaits of one event loop: requests are applied one after the other.
    """
    desk = Desk()
    app = FastAPI(title="Kylo Sheets stand-in", openapi_url=None, docs_url=None, redoc_url=None)
    # A page from elsewhere must not reach a server without credentials by naming this machine in its own DNS.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    app.add_exception_handler(ApiError, _refuse)
    for method in api.METHODS:
        path = "/" + method.path.replace("{range}", "{range:path}")
        app.add_route(path, _endpoint(method, books, desk), methods=[method.http])
    _add_desk(app, books, desk)
    page.add_pages(app, books)
    return ShowTransport(app)


def run(host: str, port: int, directory: Path, strict: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, then return; prints its URL on stderr when it listens.

    Args:
        host: A loopback address; there are no credentials, so nothing else is allowed.
        port: TCP port, 0 for a free one.
        directory: Where workbooks are kept.
        strict: Answer 404 for workbooks that were not created before.

    Raises:
        Misconfigured: Not a loopback address, the port is taken, or the directory cannot be used.
    """
    listening = listen(host, port)
    try:
        books = Books(directory, strict=strict)
    except OSError as error:
        listening.close()
        raise Misconfigured(f"sheets-emulator: {error}") from error
    server = make_server(books)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn hands a signal on after its own clean stop; without this the process would then die of it.
        signal.signal(number, lambda _number, _frame: None)
    shown = f"[{host}]" if ":" in host else host
    sys.stderr.write(f"Sheets stand-in on http://{shown}:{listening.getsockname()[1]}/ (data in {directory})\n")
    sys.stderr.flush()
    try:
        server.run(sockets=[listening])
    finally:
        books.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens already, so that its port is known before the server starts.

    Raises:
        Misconfigured: Not a loopback address, or the port is taken.
    """
    if host not in _LOOPBACK:
        raise Misconfigured(f"sheets-emulator listens on this machine only ({', '.join(_LOOPBACK)}), not on {host}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise Misconfigured(f"sheets-emulator: {host}:{port} cannot be listened on: {error.strerror}") from error


def make_server(books: Books) -> uvicorn.Server:
    """Return a uvicorn server that is quiet and stops within two seconds, whoever is stalled."""
    config = uvicorn.Config(
        make_app(books), http="h11", lifespan="off", log_level="warning", timeout_graceful_shutdown=2, ws="none"
    )
    return uvicorn.Server(config)


def _endpoint(method: api.Method, books: Books, desk: Desk) -> Endpoint:
    name = method.id.removeprefix("sheets.")

    async def endpoint(request: Request) -> Response:
        raw = await request.body()
        fault = desk.next_fault(name)
        if fault is not None and fault.when == "before":
            return fault.response()
        query = {key: request.query_params.getlist(key) for key in request.query_params}
        call = api.Call(request.path_params, query, api.read_body(raw), str(request.base_url))
        answered = api.answer(method, books, call)
        if method.writes:
            desk.applied[name] += 1
        return JSONResponse(answered) if fault is None else fault.response()

    return endpoint


def _add_desk(app: FastAPI, books: Books, desk: Desk) -> None:
    async def order(request: Request) -> Response:
        desk.orders.append(Fault.read(api.read_body(await request.body())))
        return JSONResponse({"waiting": len(desk.orders)})

    async def clear(_request: Request) -> Response:
        desk.orders.clear()
        return JSONResponse({"waiting": 0})

    async def counts(_request: Request) -> Response:
        return JSONResponse(desk.counts())

    async def workbook(request: Request) -> Response:
        return JSONResponse(render.plain(books.existing(request.path_params["spreadsheet_id"])))

    async def workbooks(_request: Request) -> Response:
        listed = [{"spreadsheetId": book.spreadsheet_id, "title": book.title} for book in books.all()]
        return JSONResponse({"workbooks": listed})

    app.add_route("/_standin/faults", order, methods=["POST"])
    app.add_route("/_standin/faults", clear, methods=["DELETE"])
    app.add_route("/_standin/requests", counts, methods=["GET"])
    app.add_route("/_standin/sheets.json", workbooks, methods=["GET"])
    app.add_route("/_standin/sheets/{spreadsheet_id}.json", workbook, methods=["GET"])


async def _refuse(_request: Request, error: Any) -> Response:
    return JSONResponse(error.body, error.code)
