"""TXNS_BATCH: move a company's slice into its tables, match it against its rules, leave the rest open for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID, uuid5

from kylo_outbox.model.errors import Poison
from kylo_outbox.model.events import Event
from kylo_outbox.model.messages import PendingReady, TxnsBatch
from kylo_outbox.model.projector import Effect, Projector
from kylo_outbox.model.transactions import slice_signature
from kylo_outbox.store import pending, triaged
from kylo_outbox.store.emit import emit_many
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kylo_outbox.store.intake import SliceRow

_ANNOUNCED = UUID("6f0f6f0a-6d0e-5d0c-9a55-0d4e7d1f7a10")


class Triage(Projector):
    """Projector `txns`. The slice is read from the control store; effect and position are the company store's."""

    name: ClassVar[str] = "txns"
    store = "company"
    repeatable = True

    def __init__(
        self,
        *,
        topic: str,
        group: str,
        pending_ready_topic: str,
        read_slices: Callable[[list[tuple[int, str]]], list[SliceRow]],
        is_known: Callable[[str], bool],
    ) -> None:
        self.topics = (topic,)
        self.group = group
        self._pending_ready_topic = pending_ready_topic
        self._read_slices = read_slices
        self._is_known = is_known

    def apply(self, tx: Any, events: Sequence[Event]) -> None:
        """Triage all slices in one set of statements; announce `pending.ready` once per slice with open items."""
        batches = {(message.ingest_batch_id, message.company_id): message for message in map(self._message, events)}
        rows = self._read_slices(list(batches))
        self._check_slices(batches, rows)
        runs = pending.triage(
            tx,
            [
                pending.Staged(
                    row.ingest_batch_id,
                    row.company_id,
                    row.txn_uid,
                    row.txn_id,
                    row.occurred_at,
                    row.amount_cents,
                    row.description,
                    row.description_norm,
                )
                for row in rows
            ],
        )
        runs.sort(key=lambda run: run.batch)
        pending.remember_runs(tx, [(run, batches[run.batch, run.company_id].batch_id) for run in runs])
        emit_many(tx, [self._announcement(run, batches[run.batch, run.company_id]) for run in runs if run.unmatched])
        for run in runs:
            metrics.TRIAGE_TRANSACTIONS.labels("matched").inc(run.matched)
            metrics.TRIAGE_TRANSACTIONS.labels("unmatched").inc(run.unmatched)

    def effects(self, tx: Any, events: Sequence[Event]) -> Iterable[Effect]:
        """A slice was triaged if that was noted, and each of its transactions is there and open, resolved or sorted.

        The tables do not tell in which order slices came: positions do.
        """
        places = {(message.ingest_batch_id, message.company_id): event for event in events if (message := _of(event))}
        rows = self._read_slices(list(places))
        asked = [(row.ingest_batch_id, row.company_id, row.txn_uid) for row in rows]
        missing = triaged.missing(tx, asked)
        for place in triaged.noted(tx, list(places)):
            event_id = places[place].event_id
            if event_id is not None:
                gone = missing.get(place, [])
                fault = f"{len(gone)} transactions are gone, the first of them {gone[0]}" if gone else ""
                yield Effect(event_id, fault=fault)

    def _message(self, event: Event) -> TxnsBatch:
        message = TxnsBatch.parse(event.raw)
        if event.key != message.company_id:
            raise Poison(f"TXNS_BATCH: the record's key is {event.key!r}, its company_id is another one")
        if not self._is_known(message.company_id):
            raise Poison(f"TXNS_BATCH: unknown company {message.company_id}; `kylo-outbox company add` makes it known")
        return message

    def _check_slices(self, batches: dict[tuple[int, str], TxnsBatch], rows: Sequence[SliceRow]) -> None:
        found: dict[tuple[int, str], list[SliceRow]] = {}
        for row in rows:
            found.setdefault((row.ingest_batch_id, row.company_id), []).append(row)
        for place, message in batches.items():
            if place not in found:
                raise Poison(f"TXNS_BATCH: ingest {place[0]} has no slice of company {place[1]} in the control store")
            if slice_signature(found[place]) != message.slice_signature:
                raise Poison(f"TXNS_BATCH: the slice of ingest {place[0]} is not the one that was announced")

    def _announcement(self, run: pending.Triaged, batch: TxnsBatch) -> Event:
        message = PendingReady(
            company_id=run.company_id,
            batch_id=batch.batch_id,
            ingest_batch_id=run.batch,
            unmatched=run.unmatched,
            created_at=datetime.now(UTC),
        )
        return Event(
            topic=self._pending_ready_topic,
            key=run.company_id,
            type=PendingReady.TYPE,
            payload=message.payload(),
            # The same slice is announced once, also when an operator has it triaged again.
            event_id=uuid5(_ANNOUNCED, f"{run.company_id}|{batch.batch_id}"),
        )


def _of(event: Event) -> TxnsBatch | None:
    try:
        return TxnsBatch.parse(event.raw)
    except Poison:
        return None  # it cannot have been applied
