"""The projectors of a soak; each run has topics, groups and tables of its own.

The ledger is the product's own example. The journal keeps every event that it was given, without any rule that would
refuse a repeat, so that it shows each mistake of the runtime; the balances add up, so that a repeat shows in a sum.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from kylo_outbox import Poison, Projector, emit
from kylo_outbox.testing import ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox import Event

RUN = "SOAK_RUN"
TABLES = f"""
{ledger.TABLE};
create table soak_journal (
    n bigserial primary key, at timestamptz not null default clock_timestamp(),
    event_id uuid not null, topic text not null, key text not null, outbox_id bigint not null, number bigint
);
create table soak_balances (account text primary key, cents bigint not null, moves bigint not null);
create table soak_cured (event_id uuid primary key);
"""
# Every so many moves of a ledger an event is emitted by the projector itself, in the transaction of its effect.
ECHO_EVERY = 10
BAD, CURABLE = "BAD", "CURABLE"

_WRITE = """
insert into soak_journal (event_id, topic, key, outbox_id, number)
select * from unnest(%s::uuid[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
"""
_ADD = """
insert into soak_balances (account, cents, moves)
select account, sum(cents), count(*) from unnest(%s::text[], %s::bigint[]) as m(account, cents)
 group by account order by account
on conflict (account) do update
   set cents = soak_balances.cents + excluded.cents, moves = soak_balances.moves + excluded.moves
"""


def topics(run: str) -> dict[str, str]:
    """The topics of a run by what they are for: `small` takes no large records, `echoes` come from a projector."""
    return {name: f"soak-{name}-{run}" for name in ("events", "moves", "small", "echoes")}


def _mine(name: str) -> str:
    return f"soak-{name}-{os.environ.get(RUN, 'none')}"


class Ledger(ledger.Ledger):
    """Holds a ledger behind a move that it cannot book."""

    name: ClassVar[str] = _mine("ledger")
    topics: Sequence[str] = (_mine("moves"),)


class Journal(Projector):
    """Holds a key behind a bad event; a curable one passes once a person has cured it."""

    name: ClassVar[str] = _mine("journal")
    topics: Sequence[str] = (_mine("events"), _mine("small"), _mine("echoes"))

    def apply(self, tx: Any, events: Sequence[Event]) -> None:
        """One row an event."""
        sick = [event.event_id for event in events if event.type in {BAD, CURABLE}]
        if sick:
            cured = {row[0] for row in tx.execute("select event_id from soak_cured where event_id = any(%s)", (sick,))}
            if set(sick) - cured:
                raise Poison("this event is sick")
        rows = [(e.event_id, e.topic, e.key, e.outbox_id, e.payload.get("number")) for e in events]
        tx.execute(_WRITE, [list(column) for column in zip(*rows, strict=True)])


class Balances(Projector):
    """Adds moves up and lets later ones pass a bad one; says every so often how far a ledger is."""

    name: ClassVar[str] = _mine("balances")
    topics: Sequence[str] = (_mine("moves"),)
    on_poison = "skip"

    def apply(self, tx: Any, events: Sequence[Event]) -> None:
        """One statement for all of them, then the echoes."""
        accounts: list[str] = []
        cents: list[int] = []
        for event in events:
            move = event.payload
            if move["cents"] <= 0:
                raise Poison("cents: must be above 0")
            accounts += [f"{event.key}/{move['from']}", f"{event.key}/{move['to']}"]
            cents += [-move["cents"], move["cents"]]
        tx.execute(_ADD, (accounts, cents))
        for event in events:
            number = event.payload["number"]
            if number % ECHO_EVERY == 0:
                echo = {"of": str(event.event_id), "number": number}
                emit(tx, topic=_mine("echoes"), key=event.key, type="ECHO", payload=echo)
