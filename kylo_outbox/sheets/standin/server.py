"""The HTTP side of the stand-in: routes, Google's error shape, faults, and the process."""

from __future__ import annotations

import signal
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse, Response

from kylo_outbox.model.errors import Misconfigured
from kylo_outbox.sheets.standin import api, desk, page
from kylo_outbox.sheets.standin.books import Books
from kylo_outbox.sheets.standin.errors import ApiError
from kylo_outbox.sheets.standin.faults import Desk, ShowTransport
from kylo_outbox.sheets.standin.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from starlette.types import ASGIApp

    Endpoint = Callable[[Request], Awaitable[Response]]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def make_app(books: Books, per_minute: int | None = None) -> ASGIApp:
    """Return the stand-in as an ASGI application.

    All work on workbooks is done between two awaits of one event loop: requests are applied one after the other.
    """
    desk_orders, limits = Desk(), Limits(per_minute)
    app = FastAPI(title="Kylo Sheets stand-in", openapi_url=None, docs_url=None, redoc_url=None)
    # A page from elsewhere must not reach a server without credentials by naming this machine in its own DNS.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    app.add_exception_handler(ApiError, desk.refuse)
    for method in api.METHODS:
        path = "/" + method.path.replace("{range}", "{range:path}")
        app.add_route(path, _endpoint(method, books, desk_orders, limits), methods=[method.http])
    desk.add_faults(app, desk_orders, limits)
    desk.add_books(app, books, limits)
    page.add_pages(app, books)
    return ShowTransport(app)


def run(host: str, port: int, directory: Path, *, strict: bool = False, per_minute: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then return; prints its URL on stderr when it listens.

    Args:
        host: A loopback address; there are no credentials, so nothing else is allowed.
        port: TCP port, 0 for a free one.
        directory: Where workbooks are kept.
        strict: Answer 404 for workbooks that were not created before.
        per_minute: Answer 429 to more reads, and to more writes, in a minute; None for no quota.

    Raises:
        Misconfigured: Not a loopback address, the port is taken, or the directory cannot be used.
    """
    listening = listen(host, port)
    try:
        books = Books(directory, strict=strict)
    except OSError as error:
        listening.close()
        raise Misconfigured(f"sheets-emulator: {error}") from error
    server = make_server(books, per_minute)
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


def make_server(books: Books, per_minute: int | None = None) -> uvicorn.Server:
    """Return a uvicorn server that is quiet and stops within two seconds, whoever is stalled."""
    config = uvicorn.Config(
        make_app(books, per_minute),
        http="h11",
        lifespan="off",
        log_level="warning",
        timeout_graceful_shutdown=2,
        ws="none",
    )
    return uvicorn.Server(config)


def _endpoint(method: api.Method, books: Books, orders: Desk, limits: Limits) -> Endpoint:
    name = method.id.removeprefix("sheets.")

    async def endpoint(request: Request) -> Response:
        raw = await request.body()
        fault = orders.next_fault(name)
        if fault is not None and fault.when == "before":
            return fault.response()
        limits.admit(request.path_params.get("spreadsheetId"), write=method.writes)
        query = {key: request.query_params.getlist(key) for key in request.query_params}
        call = api.Call(request.path_params, query, api.read_body(raw), str(request.base_url))
        answered = api.answer(method, books, call)
        if method.writes:
            orders.applied[name] += 1
        return JSONResponse(answered) if fault is None else fault.response()

    return endpoint
