"""Companies, rules, proposals and promotions as JSON: the same shapes over HTTP and in `--json`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from kylo_outbox.store.dsn import shown

if TYPE_CHECKING:
    from kylo_outbox.flows.rules import Requested
    from kylo_outbox.model.companies import Company
    from kylo_outbox.store.proposals import Proposal
    from kylo_outbox.store.rules import ActiveSet, Preview, Promotion


def company_shape(company: Company) -> dict[str, Any]:
    """A company as JSON; its connection string is redacted."""
    return {
        "company_id": company.company_id,
        "db_dsn_rw": shown(company.dsn_ref),
        "db_schema": company.schema,
        "spreadsheet_id": company.spreadsheet_id,
        "tab_pending": company.tab_pending,
        "tab_active": company.tab_active,
        "paused": company.paused,
    }


def active_shape(company_id: str, found: ActiveSet) -> dict[str, Any]:
    """The rules in force as JSON."""
    rules = [
        {
            "rule_id": str(rule.rule_id) if rule.rule_id else None,
            "source": rule.source,
            "target_sheet": rule.target_sheet,
            "target_header": rule.target_header,
            "match_notes": rule.match_notes,
            "created_at": rule.created_at.isoformat(),
        }
        for rule in found.rules
    ]
    return {
        "company_id": company_id,
        "version": found.version,
        "effective_at": _plain(found.effective_at),
        "rules": rules,
    }


def proposal_shape(proposal: Proposal) -> dict[str, Any]:
    """A proposal as JSON."""
    return {name: _plain(value) for name, value in proposal._asdict().items()}


def promotion_shape(promotion: Promotion) -> dict[str, Any]:
    """A promotion or an undo as JSON."""
    return {name: _plain(value) for name, value in promotion._asdict().items()}


def preview_shape(company_id: str, seen: Preview) -> dict[str, Any]:
    """A preview as JSON."""
    added = [
        {"source": rule.source, "target_sheet": rule.target_sheet, "target_header": rule.target_header}
        for rule in seen.added
    ]
    return {"company_id": company_id, "version": seen.version, "added": added, "would_resolve": seen.would_resolve}


def requested_shape(requested: Requested) -> dict[str, Any]:
    """A request as JSON."""
    return {"company_id": requested.company_id, "request_id": str(requested.request_id)}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value
