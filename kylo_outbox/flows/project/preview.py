"""What a release would change: the events tried in order in a transaction that is rolled back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.projector import EffectProjector
from kylo_outbox.store import dead_letters, keyholds
from kylo_outbox.store.changes import changed_rows, counts, trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.flows.project.settle import Projection
    from kylo_outbox.model.delivery import Delivery
    from kylo_outbox.store.engine import Database


@dataclass(slots=True)
class Preview:
    """Events in the order in which they would be tried, each with why it would fail (None: it would pass).

    `tried` is False for effects outside the database, which cannot be taken back; `changes` counts rows by table:
    {table: {"inserted": n, "updated": n, "deleted": n}}.
    """

    events: list[tuple[Delivery, str | None]] = field(default_factory=list)
    changes: dict[str, dict[str, int]] = field(default_factory=dict)
    tried: bool = True


def preview(projection: Projection, database: Database, letter: int, hold: keyholds.Hold, limit: int) -> Preview:
    """Try the dead letter and at most `limit` events behind it; nothing is stored.

    Raises:
        Transient: not now.
    """
    found = Preview()
    with trial(projection.transaction(database)) as tx:
        head = dead_letters.looked_at(tx, letter)
        line = [head] if head is not None else []
        line += [delivery for _, delivery in keyholds.waiting(tx, hold, limit)]
        if isinstance(projection.projector, EffectProjector):
            found.tried = False
            found.events = [(delivery, None) for delivery in line]
        else:
            _try(projection, tx, line, found)
    return found


def _try(projection: Projection, tx: Any, line: Sequence[Delivery], found: Preview) -> None:
    before = counts(tx)
    for number, delivery in enumerate(line):
        try:
            with tx.transaction():
                projection.projector.apply(tx, projection.events([delivery]))
        except Exception as failed:  # noqa: BLE001 - whatever a projector raises is what the preview is for
            found.events.append((delivery, dead_letters.reason_of(failed)[0]))
            found.events += [(behind, "it would wait") for behind in line[number + 1 :]]
            break
        found.events.append((delivery, None))
    found.changes = changed_rows(tx, before)
