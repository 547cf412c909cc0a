"""Rules over HTTP: what holds, proposals and their approval, promotion of one company or of all, and undo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from kylo_outbox.model.errors import Refused
from kylo_outbox.model.rules import FIELDS
from kylo_outbox.web.asked import By, JsonBody, Key, fields
from kylo_outbox.web.problems import REFUSALS
from kylo_outbox.web.shapes import active_shape, preview_shape, promotion_shape, proposal_shape, requested_shape

if TYPE_CHECKING:
    from kylo_outbox.flows.rules import Rules

State = Literal["proposed", "approved", "promoted", "undone", "withdrawn"]
_COMPANY = "/companies/{company_id}"
Number = Annotated[int, Query(ge=1, le=1000)]
_RULE = {
    "type": "object",
    "required": list(FIELDS[:3]),
    "additionalProperties": False,
    "properties": {
        "source": {"type": "string", "minLength": 1, "maxLength": 50_000},
        "target_sheet": {"type": "string", "minLength": 1, "maxLength": 100},
        "target_header": {"type": "string", "minLength": 1, "maxLength": 100},
        "match_notes": {"type": ["string", "null"], "maxLength": 1000},
    },
}


def _body(schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


_PROPOSALS = _body(
    {
        "oneOf": [
            _RULE,
            {
                "type": "object",
                "required": ["proposals"],
                "properties": {"proposals": {"type": "array", "minItems": 1, "maxItems": 10_000, "items": _RULE}},
            },
        ]
    },
    required=True,
)
_VERSION = _body({"type": "object", "properties": {"version": {"type": "integer", "minimum": 1}}}, required=False)


def routes(rules: Rules) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1", tags=["rules"], responses=REFUSALS)
    _add_looking(router, rules)
    _add_proposing(router, rules)
    _add_promoting(router, rules)
    return router


def _add_looking(router: APIRouter, rules: Rules) -> None:
    @router.get(_COMPANY + "/rules", summary="The rules in force, one for a source")
    def active(company_id: str) -> dict[str, Any]:
        return active_shape(company_id, rules.active(company_id))

    @router.get(_COMPANY + "/rules/history", summary="What was promoted and undone, newest first")
    def history(company_id: str, limit: Number = 50) -> dict[str, Any]:
        return {"company_id": company_id, "history": [promotion_shape(x) for x in rules.history(company_id, limit)]}

    @router.get(_COMPANY + "/rules/proposals", summary="Proposed rules and what became of them")
    def proposals(company_id: str, state: State | None = None) -> dict[str, Any]:
        found = rules.proposals(company_id, [state] if state else None)
        return {"company_id": company_id, "proposals": [proposal_shape(each) for each in found]}


def _add_proposing(router: APIRouter, rules: Rules) -> None:
    @router.post(
        _COMPANY + "/rules/proposals",
        summary="Propose rules, all or none; what is proposed already is found again (then 200)",
        status_code=201,
        openapi_extra=_PROPOSALS,
    )
    def propose(company_id: str, body: JsonBody, by: By) -> JSONResponse:
        rows = body.get("proposals") if isinstance(body, dict) and set(body) == {"proposals"} else [body]
        made, new = rules.propose(company_id, rows, by)
        answer = {"company_id": company_id, "proposals": [proposal_shape(each) for each in made]}
        return JSONResponse(answer, 201 if new else 200)

    @router.post(_COMPANY + "/rules/proposals/{proposal}/approve", summary="Approve a proposal; twice is once")
    def approve(company_id: str, proposal: int, body: JsonBody, by: By) -> dict[str, Any]:
        fields(body)
        return proposal_shape(rules.approve(company_id, [proposal], by)[0])

    @router.post(_COMPANY + "/rules/proposals/{proposal}/withdraw", summary="Withdraw a proposal; twice is once")
    def withdraw(company_id: str, proposal: int, body: JsonBody) -> dict[str, Any]:
        fields(body)
        return proposal_shape(rules.withdraw(company_id, [proposal])[0])


def _add_promoting(router: APIRouter, rules: Rules) -> None:
    @router.post(
        _COMPANY + "/rules/undo",
        summary="Put the former version in force again; with `version` a repeat is answered alike",
        openapi_extra=_VERSION,
    )
    def undo(company_id: str, body: JsonBody, by: By) -> dict[str, Any]:
        version = fields(body, "version").get("version")
        if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
            raise Refused(["version: must be a whole number"])
        return promotion_shape(rules.undo(company_id, by, version))

    @router.post(
        _COMPANY + "/promote",
        summary="Ask that what is approved becomes the next version; with preview=1 tell what that would do",
        status_code=202,
    )
    def promote(company_id: str, body: JsonBody, by: By, key: Key, *, preview: bool = False) -> JSONResponse:
        fields(body)
        if preview:
            return JSONResponse(preview_shape(company_id, rules.preview(company_id)))
        return JSONResponse(requested_shape(rules.request(company_id, by, key)), 202)

    @router.post("/promote", summary="The same for every company", status_code=202)
    def promote_all(body: JsonBody, by: By, key: Key) -> JSONResponse:
        fields(body)
        made = rules.request_all(by, key)
        answer = {"ok": True, "items_published": len(made), "requests": [requested_shape(each) for each in made]}
        return JSONResponse(answer, 202)
