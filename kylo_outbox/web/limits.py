"""Bodies are read here, before the application sees a request: bounded in size, time and sum.

A declared length over the limit is refused before a byte is read; a body without one as soon as it grows too long.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import Headers

from kylo_outbox.web.problems import problem

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_CLOSE: Final = {"Connection": "close"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of one body and of all bodies in work at a time; seconds for a whole body and between two pieces."""

    body: int = 16 * 1024 * 1024
    all_bodies: int = 128 * 1024 * 1024
    read_seconds: float = 60.0
    idle_seconds: float = 10.0


class _Over(Exception):  # noqa: N818 - control flow within this file
    """The body must not be read on; `answer` says why."""

    def __init__(self, answer: Response) -> None:
        self.answer = answer


class BodyLimits:
    """ASGI middleware: reads the body within `limits` and hands it on whole, or answers 408, 413, 415 or 429."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] in _WITHOUT_BODY:
            await self._app(scope, receive, send)
            return
        taken = _Taken(self)
        try:
            self._check_headers(Headers(scope=scope))
            async with asyncio.timeout(self._limits.read_seconds):
                body = await self._read(receive, taken)
            if body is not None:
                await self._app(scope, _replay(body, receive), send)
        except _Over as over:
            await over.answer(scope, receive, send)
        except TimeoutError:
            await problem(408, "The body did not arrive in time.", headers=_CLOSE)(scope, receive, send)
        finally:
            taken.give_back()

    def _check_headers(self, headers: Headers) -> None:
        if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
            raise _Over(problem(415, "Content-Encoding: none is accepted; send the body as it is.", headers=_CLOSE))
        length = headers.get("content-length")
        if length is None:
            return
        if not (length.isascii() and length.isdigit()):
            raise _Over(problem(400, "Content-Length: must be a number.", headers=_CLOSE))
        # Compared by digits first: a length of thousands of digits is no number that Python turns into one.
        if len(length.lstrip("0")) > len(str(self._limits.body)) or int(length) > self._limits.body:
            raise self._too_large()

    async def _read(self, receive: Receive, taken: _Taken) -> bytes | None:
        """The whole body; None if the sender is gone."""
        pieces: list[bytes] = []
        size = 0
        more = True
        while more:
            async with asyncio.timeout(self._limits.idle_seconds):
                message = await receive()
            if message["type"] != "http.request":
                return None
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._limits.body:
                raise self._too_large()
            taken.take(len(piece))
            pieces.append(piece)
            more = message.get("more_body", False)
        return b"".join(pieces)

    def _too_large(self) -> _Over:
        return _Over(
            problem(413, f"The body is over {self._limits.body} bytes; send several requests.", headers=_CLOSE)
        )

    def take(self, size: int) -> None:
        """Count bytes in work; raises when all bodies together are too many."""
        if self._in_work + size > self._limits.all_bodies:
            raise _Over(problem(429, "Too much at a time.", headers={"Retry-After": "1", **_CLOSE}))
        self._in_work += size

    def give_back(self, size: int) -> None:
        """Bytes that are done."""
        self._in_work -= size


class _Taken:
    """What one request holds of the common budget."""

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._size = 0

    def take(self, size: int) -> None:
        self._limits.take(size)
        self._size += size

    def give_back(self) -> None:
        self._limits.give_back(self._size)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
