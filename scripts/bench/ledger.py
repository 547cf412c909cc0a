"""The projector of the benches: an append-only ledger, one row an event, in the way that the guide recommends.

`kylo-outbox project scripts.bench.ledger:Ledger`, with the topic and the group in BENCH_TOPIC and BENCH_GROUP.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from kylo_outbox import Projector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kylo_outbox import Event

NAME = "bench-ledger"
TABLE = "create table public.bench_ledger (outbox_id bigint primary key, key text not null, payload text not null)"
COPY = "copy public.bench_ledger (outbox_id, key, payload) from stdin"


def copy_in(tx: Any, rows: Iterable[tuple[Any, ...]]) -> None:
    """Append rows; nothing is looked up, because none of them was applied before."""
    with tx.cursor() as cursor, cursor.copy(COPY) as copy:
        for row in rows:
            copy.write_row(row)


class Ledger(Projector):
    """Appends the events of a batch."""

    name: ClassVar[str] = NAME

    def __init__(self) -> None:
        self.topics = (os.environ["BENCH_TOPIC"],)
        self.group = os.environ["BENCH_GROUP"]

    def apply(self, tx: Any, events: Sequence[Event]) -> None:
        """One COPY."""
        copy_in(tx, [(event.outbox_id, event.key, event.raw) for event in events])
