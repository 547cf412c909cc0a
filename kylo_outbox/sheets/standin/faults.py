"""Failing on request, and counting what came in: `/_standin/faults` and `/_standin/requests`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from fastapi.responses import JSONResponse, Response

from kylo_outbox.sheets.standin.errors import ApiError, invalid, quota_exceeded

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

Mode = Literal["close", "stall", "429", "503"]
When = Literal["before", "after"]

_TRANSPORT = "standin.transport"


@dataclass
class Fault:
    """An order to fail: the next `count` requests, of one method (last part of its id, `batchUpdate`) or of any.

    `close` drops the connection without an answer, `stall` never answers, `429` and `503` answer that. `after` means
    after the request was applied and is on disk; `retry_after` in seconds becomes a header.
    """

    mode: Mode
    when: When = "before"
    count: int = 1
    method: str | None = None
    retry_after: float | None = None

    @classmethod
    def read(cls, given: Any) -> Fault:
        """Read an order from JSON.

        Raises:
            ApiError: 400, naming what is wrong.
        """
        if not isinstance(given, dict) or set(given) - set(cls.__dataclass_fields__):
            raise invalid(f"A fault is an object of {', '.join(cls.__dataclass_fields__)}")
        fault = cls(**{"mode": "", **given})
        fault.mode = str(fault.mode)  # type: ignore[assignment]  # 429 may come as a number; checked just below
        if fault.mode not in get_args(Mode) or fault.when not in get_args(When):
            raise invalid(f"mode is one of {', '.join(get_args(Mode))}; when is before or after")
        if not isinstance(fault.count, int) or fault.count < 1:
            raise invalid("count is a positive whole number")
        if fault.mode == "429" and fault.when == "after":
            raise invalid("429 means not applied: it cannot come after")
        return fault

    def response(self) -> Response:
        """Return what the client gets instead of the answer."""
        if self.mode == "close":
            return _Hangup()
        if self.mode == "stall":
            return _Silence()
        error = quota_exceeded() if self.mode == "429" else ApiError(503, "The service is currently unavailable.")
        headers = {} if self.retry_after is None else {"retry-after": f"{self.retry_after:g}"}
        return JSONResponse(error.body, error.code, headers)


class Desk:
    """Orders not yet carried out, and counts since the start or the last reset."""

    def __init__(self) -> None:
        self.orders: list[Fault] = []
        self.received: Counter[str] = Counter()
        self.applied: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def next_fault(self, method: str) -> Fault | None:
        """Count a request and return the order that concerns it, if any; first come, first served."""
        self.received[method] += 1
        for fault in self.orders:
            if fault.method is None or method.endswith(f".{fault.method}"):
                fault.count -= 1
                if not fault.count:
                    self.orders.remove(fault)
                self.failed[fault.mode] += 1
                return fault
        return None

    def counts(self) -> dict[str, dict[str, int]]:
        """Return counts by method id; `applied` has writes only, `failed` is by mode."""
        return {"received": dict(self.received), "applied": dict(self.applied), "failed": dict(self.failed)}


class ShowTransport:
    """ASGI wrapper, to be the outermost: lets a response drop its connection, which ASGI itself cannot express."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the transport beside the request."""
        # uvicorn's `send` is a method of the object that owns the connection; a test fails if that changes.
        scope[_TRANSPORT] = getattr(getattr(send, "__self__", None), "transport", None)
        await self._app(scope, receive, send)


class _Silence(Response):
    """Answers nothing until the client leaves."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        while (await receive())["type"] != "http.disconnect":
            pass


class _Hangup(_Silence):
    """Closes the connection without one byte of an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_TRANSPORT].close()
        await super().__call__(scope, receive, send)
