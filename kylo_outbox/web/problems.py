"""Every refusal as `application/problem+json` (RFC 9457): what is wrong, where, and what to do."""

from __future__ import annotations

import json
import logging
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from kylo_outbox.model.bodies import BrokenBody, UnknownFormat
from kylo_outbox.model.errors import Conflict, KyloError, NotFound, NotReady, Overloaded, Refused, Transient

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI
    from starlette.requests import Request

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER = "2"
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {MEDIA_TYPE: {}}}
    for status, text in {
        400: "The body cannot be read",
        404: "There is no such company",
        409: "It contradicts what is stored",
        422: "Every fault with its path",
        503: "A database is away, or the company is being moved; Retry-After",
    }.items()
}
"""What routes without refusals of their own may answer, for the description of the API."""


class Denied(KyloError):  # noqa: N818 - the HTTP answer to it, 401 or 403, says which
    """The caller may not do this; `status` is 401 (who are you?) or 403 (not you)."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[str] | None = None,
    headers: Mapping[str, str] | None = None,
    instance: str | None = None,
) -> Response:
    """Build the answer.

    Args:
        status: HTTP status.
        detail: One sentence for people; never a secret.
        errors: One line a fault, each beginning with its path.
        headers: Further headers, such as Retry-After.
        instance: What names this occurrence in the log.
    """
    body: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body["detail"] = detail
    if errors is not None:
        body["errors"] = list(errors)
    if instance is not None:
        body["instance"] = instance
    # ASCII only, so that whatever a sender wrote (lone surrogates too) can be answered.
    return Response(json.dumps(body).encode(), status, headers, MEDIA_TYPE)


def of_error(error: KyloError) -> Response:
    """The answer to an error of ours."""
    match error:
        case Denied(status=401):
            answer = problem(401, str(error), headers={"WWW-Authenticate": "Bearer"})
        case Denied(status=status):
            answer = problem(status, str(error))
        case BrokenBody():
            answer = problem(400, str(error))
        case UnknownFormat():
            answer = problem(415, str(error))
        case Conflict():
            answer = problem(409, "It contradicts what is stored; nothing was stored.", errors=error.faults)
        case NotFound():
            answer = problem(404, "There is no such thing here.", errors=error.faults)
        case Refused():
            answer = problem(422, "It is not acceptable; nothing was stored.", errors=error.faults)
        case Overloaded():
            headers = {"Retry-After": str(max(1, round(error.retry_after)))}
            answer = problem(429, "Too much waits already; nothing was stored.", errors=error.faults, headers=headers)
        case Transient() | NotReady():
            answer = problem(503, f"{error}. Try again later.", headers={"Retry-After": _RETRY_AFTER})
        case _:
            answer = _unexpected(error)
    return answer


def install(app: FastAPI) -> None:
    """Make every error of `app` answer as a problem, those of the framework too."""

    async def ours(_: Request, error: Exception) -> Response:
        return of_error(error) if isinstance(error, KyloError) else _unexpected(error)

    async def framework(_: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return _unexpected(error)
        return problem(error.status_code, str(error.detail), headers=error.headers)

    async def invalid(_: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            return _unexpected(error)
        faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        return problem(422, "It is not acceptable; nothing was stored.", errors=faults)

    async def unexpected(_: Request, error: Exception) -> Response:
        return _unexpected(error)

    app.add_exception_handler(KyloError, ours)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unexpected)


def _unexpected(error: Exception) -> Response:
    instance = f"urn:uuid:{uuid.uuid4()}"
    log.error("%s: %s", instance, type(error).__name__, exc_info=error)
    return problem(500, "An error of ours; the log knows it by `instance`.", instance=instance)
