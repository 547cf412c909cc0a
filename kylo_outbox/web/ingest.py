"""The doors for transactions: Kylo's old webhook, the API with a key and formats, and the page of a batch."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.requests import Request  # noqa: TC002 - FastAPI reads annotations at run time
from starlette.responses import Response  # noqa: TC002

from kylo_outbox.model.bodies import format_of, read_rows
from kylo_outbox.model.errors import Refused
from kylo_outbox.model.transactions import FIELDS, parse_request
from kylo_outbox.web.problems import problem

if TYPE_CHECKING:
    from kylo_outbox.flows.ingest import Accepted, Ingest
    from kylo_outbox.flows.trace import Trace
    from kylo_outbox.web.signature import Signatures

WEBHOOK = "/webhook/txns.ingest"
_ROW = {
    "type": "object",
    "required": list(FIELDS),
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "minLength": 1, "maxLength": 200},
        "company_id": {"type": "string", "minLength": 1, "maxLength": 50},
        "date": {"type": "string", "format": "date"},
        "amount": {"type": ["string", "number"], "description": "At most two decimals; exact."},
        "description": {"type": ["string", "null"], "maxLength": 50_000},
    },
}
_LIST = {"type": "array", "items": _ROW}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        {"type": "object", "required": ["transactions"], "properties": {"transactions": _LIST}},
                        _LIST,
                    ]
                }
            },
            "application/x-ndjson": {"schema": {"type": "string", "description": "One transaction a line."}},
            "text/csv": {"schema": {"type": "string", "description": f"Header line: {','.join(FIELDS)}"}},
        },
    },
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/problem+json": {}}}
    for status, text in {
        400: "The body cannot be read",
        409: "An id is stored with other content, or the key was used for other content",
        413: "The body is too large",
        415: "A type or encoding that is not read",
        422: "Every fault with its path; unknown companies with the remedy",
        429: "Too much at a time, or events of a company have waited for Kafka too long; Retry-After",
        503: "PostgreSQL is away; Retry-After",
    }.items()
}


def routes(ingest: Ingest, trace: Trace, signatures: Signatures) -> APIRouter:
    """Build the routes; `signatures` guards the webhook, and the API as far as a message is signed."""
    router = APIRouter(tags=["ingest"])

    @router.post(WEBHOOK, summary="Transactions, as Kylo's webhook took them", openapi_extra=_BODY, responses=_REFUSALS)
    async def webhook(request: Request) -> Response:
        body = await request.body()
        if signatures.required:
            signatures.check(request.headers, body)
        accepted = await run_in_threadpool(_accept, ingest, request, body, "webhook")
        return JSONResponse({"ok": True, "items_published": len(accepted.companies)})

    @router.post(
        "/v1/transactions",
        summary="Transactions, with an Idempotency-Key and an answer for each",
        status_code=202,
        openapi_extra=_BODY,
        responses=_REFUSALS,
    )
    async def transactions(request: Request) -> Response:
        body = await request.body()
        if signatures.required and "webhook-signature" in request.headers:
            signatures.check(request.headers, body)
        accepted = await run_in_threadpool(_accept, ingest, request, body, "api")
        return JSONResponse(accepted.as_json(), 202, {"Location": f"/v1/batches/{accepted.batch_id}"})

    @router.get("/v1/batches/{batch_id}", summary="How far each company's slice of a batch has come")
    def batch(batch_id: str) -> Response:
        found = trace.batch(parsed) if (parsed := _uuid(batch_id)) else None
        return problem(404, "There is no such batch.") if found is None else JSONResponse(found)

    return router


def _accept(ingest: Ingest, request: Request, body: bytes, source: str) -> Accepted:
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1:
        raise Refused(["Idempotency-Key: given more than once"])
    kinds = request.headers.getlist("content-type")
    rows = read_rows(body, format_of(kinds[0] if kinds else None))
    return ingest.accept(parse_request(rows.rows, rows.lines), source=source, idempotency_key=keys[0] if keys else None)


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
