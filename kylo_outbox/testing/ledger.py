"""A ledger as the house writes them, small enough to copy: double entry, appended and never changed, sums checked.

Each move is two entries that add up to zero, so the sum over all accounts is zero whatever happened; a lost move, a
doubled one and a half one each show as a difference. Balances are not stored: they are sums of entries. Amounts are
whole minor units. One statement writes a whole batch.

    kylo-outbox project kylo_outbox.testing.ledger:Ledger
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kylo_outbox.model.errors import Poison
from kylo_outbox.model.projector import Effect, Projector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kylo_outbox.model.events import Event

TABLE = """
create table if not exists ledger_entries (
    entry bigint generated always as identity primary key,
    event_id uuid not null,
    ledger text not null,
    account text not null,
    cents bigint not null check (cents <> 0),
    number bigint not null,
    unique (event_id, account)
)
"""
APPEND = """
insert into ledger_entries (event_id, ledger, account, cents, number)
select * from unnest(%s::uuid[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
"""
# One effect for each pair of entries. The entry number grows in the order of writing: a key is written by one
# transaction at a time.
EFFECTS = """
select event_id, min(entry), count(*), count(*) filter (where cents < 0), sum(cents)
  from ledger_entries where event_id = any(%s) group by event_id
"""
_CHECK = """
select ledger, count(*), sum(cents), count(distinct event_id),
       (array_agg(number order by entry)) = (array_agg(number order by number, entry))
  from ledger_entries group by ledger
"""


class Ledger(Projector):
    """Reads `ledger-moves`: {"from": account, "to": account, "cents": whole number, "number": of the move}."""

    name: ClassVar[str] = "ledger"
    topics: Sequence[str] = ("ledger-moves",)
    tables: Sequence[str] = ("ledger_entries",)

    def apply(self, tx: Any, events: Sequence[Event]) -> None:
        """Append two entries for each move."""
        entries = [entry for event in events for entry in self._entries(event)]
        tx.execute(APPEND, [list(column) for column in zip(*entries, strict=True)])

    def effects(self, tx: Any, events: Sequence[Event]) -> Iterable[Effect]:
        """A move is there once if there are two entries of it."""
        for event_id, entry, entries, given, total in tx.execute(EFFECTS, ([event.event_id for event in events],)):
            whole = entries == 2 * given and total == 0
            for _ in range(max(1, given)):
                yield Effect(event_id, entry, "" if whole else f"{entries} entries that sum up to {total}")

    @staticmethod
    def _entries(event: Event) -> Iterable[tuple[Any, ...]]:
        move = event.payload
        if not isinstance(move, dict) or not isinstance(move.get("cents"), int) or move["cents"] <= 0:
            raise Poison("cents: must be a whole number above 0")
        if move.get("from") == move.get("to") or not isinstance(move.get("number"), int):
            raise Poison("a move needs two accounts and its number")
        for account, cents in ((move["from"], -move["cents"]), (move["to"], move["cents"])):
            yield event.event_id, event.key, str(account), cents, move["number"]


@dataclass(frozen=True, slots=True)
class Sums:
    """What the entries say: moves by ledger, ledgers that do not add up to zero, and ledgers out of order."""

    moves: dict[str, int] = field(default_factory=dict)
    unbalanced: dict[str, int] = field(default_factory=dict)
    disordered: list[str] = field(default_factory=list)


def check(tx: Any) -> Sums:
    """Add everything up."""
    found = Sums()
    for ledger, entries, total, moves, in_order in tx.execute(_CHECK):
        found.moves[ledger] = moves
        if total != 0 or entries != 2 * moves:
            found.unbalanced[ledger] = int(total)
        if not in_order:
            found.disordered.append(ledger)
    return found
