"""Who owned which lane when: a trigger of the test's own on kylo.lanes writes down every change and who made it.

The owner of a lane is the session that raised its epoch. From then on nobody else may move its cursor or its lease,
until somebody raises the epoch again. The order of the notes is the order of the changes, because both are made under
the lane's row lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

_WATCH = """
create table lane_notes (
    n bigserial primary key, op text not null, lane smallint not null, parent smallint,
    former_epoch bigint, epoch bigint, former_high bigint, high bigint,
    holder text, session integer not null default pg_backend_pid(), at timestamptz not null default clock_timestamp()
);
create function note_lane() returns trigger language plpgsql as $$
begin
    insert into lane_notes (op, lane, parent, former_epoch, epoch, former_high, high, holder)
    values (tg_op, coalesce(new.lane, old.lane), coalesce(new.parent, old.parent),
            old.epoch, new.epoch, old.high_water, new.high_water, new.holder);
    return null;
end $$;
create trigger note_lane after insert or update or delete on kylo.lanes for each row execute function note_lane();
"""
_NOTES = """
select lane, op, parent, former_epoch, epoch, former_high, high, session, n from lane_notes order by n
"""


@dataclass
class _Owned:
    epoch: int
    session: int | None


def watch(dsn: str) -> None:
    """Begin to take notes."""
    with psycopg.connect(dsn) as connection:
        connection.execute(_WATCH)


def owned_twice(dsn: str) -> list[str]:
    """What speaks against one owner at a time; empty when all is well."""
    with psycopg.connect(dsn) as connection:
        notes = connection.execute(_NOTES).fetchall()
    owners: dict[int, _Owned] = {}
    return [fault for note in notes if (fault := _look(owners, *note))]


def _look(owners: dict[int, _Owned], lane: int, op: str, parent: int | None, *change: Any) -> str:
    former_epoch, epoch, former_high, high, session, n = change
    if op == "DELETE":
        return ""
    known = owners.get(lane)
    if op == "INSERT":
        # A side lane begins under its parent's owner; a lane that is cut anew has none until it is taken.
        owners[lane] = _Owned(epoch, session if parent is not None else None)
        late = known is not None and parent is None and epoch <= known.epoch
        return f"note {n}: lane {lane} was cut anew without a new epoch" if late else ""
    if epoch < former_epoch:
        return f"note {n}: the epoch of lane {lane} fell from {former_epoch} to {epoch}"
    if epoch > former_epoch:
        owners[lane] = _Owned(epoch, session)
    elif known is None or known.session != session:
        return f"note {n}: session {session} moved lane {lane} in epoch {epoch}, which it does not own"
    elif high < former_high:
        return f"note {n}: the cursor of lane {lane} went back from {former_high} to {high}"
    return ""
