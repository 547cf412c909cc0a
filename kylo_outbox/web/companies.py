"""Companies over HTTP: which there are, what is open, and holding one's flow. Connection strings are shown redacted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query

from kylo_outbox.model.transactions import amount_text
from kylo_outbox.web.problems import REFUSALS
from kylo_outbox.web.shapes import company_shape

if TYPE_CHECKING:
    from kylo_outbox.flows.companies import Companies
    from kylo_outbox.flows.rules import Rules

Limit = Annotated[int, Query(ge=1, le=1000)]
After = Annotated[int, Query(ge=0, le=2**63 - 1)]


def routes(companies: Companies, rules: Rules) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1/companies", tags=["companies"], responses=REFUSALS)

    @router.get("", summary="Every company, paused ones included")
    def listed() -> dict[str, Any]:
        return {"companies": [company_shape(company) for company in companies.all()]}

    @router.get("/{company_id}", summary="One company")
    def one(company_id: str) -> dict[str, Any]:
        return company_shape(companies.get(company_id))

    @router.get("/{company_id}/pending", summary="Open transactions, in the order in which they were left open")
    def open_items(company_id: str, limit: Limit = 100, after: After = 0) -> dict[str, Any]:
        found = rules.open_items(company_id, after, limit + 1)
        items = [
            {
                "txn_uid": row.txn_uid,
                "date": row.occurred_at.isoformat(),
                "description": row.description,
                "amount": amount_text(row.amount_cents),
            }
            for row in found[:limit]
        ]
        more = None
        if len(found) > limit:
            more = f"/v1/companies/{quote(company_id, safe='')}/pending?limit={limit}&after={found[limit - 1].seq}"
        return {"company_id": company_id, "items": items, "next": more}

    @router.post("/{company_id}/pause", summary="Hold a company's flow; nothing is lost; twice is once")
    def pause(company_id: str) -> dict[str, Any]:
        return company_shape(companies.pause(company_id))

    @router.post("/{company_id}/resume", summary="Let a company's flow go on; twice is once")
    def resume(company_id: str) -> dict[str, Any]:
        return company_shape(companies.resume(company_id))

    return router
