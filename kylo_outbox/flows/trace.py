"""Where a batch is: saved, published, applied, posted, for each company of it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.errors import NotReady, Transient
from kylo_outbox.store import intake, stages

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)


class Trace:
    """Follows batches. Safe to share between threads.

    Args:
        control: The control store.
        store_of: The store in which a company lives, None if it is unknown by now; may raise `Transient`.
    """

    def __init__(self, control: Database, store_of: Callable[[str], Database | None]) -> None:
        self._control = control
        self._store_of = store_of

    def batch(self, batch_id: UUID) -> dict[str, Any] | None:
        """The stages that each company's slice has reached, or None if there is no such batch.

        `{batch_id, received_at, companies: [{company_id, event_id, rows, stages: [{stage, at}]}]}`; stages are
        `saved`, `published`, `applied`, `posted` in this order, later ones missing until reached. A slice without
        open rows is never posted (`unmatched` is 0 then). `at` is None where the time was forgotten (a published row
        whose partition was dropped). A company whose store does not answer carries `note` and ends before `applied`.
        """
        with self._control.transaction() as conn:
            status = intake.batch_status(conn, batch_id)
            if status is None:
                return None
            ids = [part.outbox_id for part in status.slices if part.outbox_id is not None]
            taken = stages.published(conn, ids)
        companies = []
        for part in status.slices:
            reached: list[dict[str, Any]] = [{"stage": "saved", "at": _iso(status.received_at)}]
            shown: dict[str, Any] = {"company_id": part.company_id, "event_id": str(part.event_id), "rows": part.rows}
            sent = taken.get(part.outbox_id) if part.outbox_id is not None else None
            if sent and sent.done:
                reached.append({"stage": "published", "at": _iso(sent.at)})
            shown.update(self._later(status.ingest_batch_id, part.company_id, reached), stages=reached)
            companies.append(shown)
        return {"batch_id": str(batch_id), "received_at": _iso(status.received_at), "companies": companies}

    def _later(self, ingest_batch_id: int, company_id: str, reached: list[dict[str, Any]]) -> dict[str, Any]:
        """Add what the company's own store and the posts tell; what else is to be shown of the company."""
        try:
            store = self._store_of(company_id)
            if store is None:
                return {"note": "the company is not configured any more"}
            with store.transaction() as conn:
                run = stages.applied(conn, ingest_batch_id, [company_id]).get(company_id)
        except (Transient, NotReady) as away:
            log.warning("batch page: store of company %s: %s", company_id, away)
            return {"note": "the company's store does not answer"}
        if run is None:
            return {}
        reached.append({"stage": "applied", "at": _iso(run.at)})
        if run.newest_seq is not None:
            with self._control.transaction() as conn:
                at = stages.posted(conn, company_id, run.newest_seq)
            if at is not None:
                reached.append({"stage": "posted", "at": _iso(at)})
        return {"matched": run.matched, "unmatched": run.unmatched}


def _iso(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else None
