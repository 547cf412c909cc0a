"""Where the lanes of a store stand: who holds them, how far they are. For people; nothing here is locked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import psycopg

_STANDING = """
select lane, parent, slot_from, slot_to, epoch, leader,
       case when leased > clock_timestamp() then extract(epoch from leased - clock_timestamp()) else 0
       end::float8, high_water, acknowledged, extract(epoch from clock_timestamp() - moved_at)::float8
  from (select l.*, coalesce(p.holder, l.holder) as leader, coalesce(p.lease_until, l.lease_until) as leased
          from kylo.lanes l left join kylo.lanes p on p.lane = l.parent) lanes
 order by coalesce(parent, lane), parent nulls first, lane
"""


class Standing(NamedTuple):
    """One lane; times in seconds.

    `parent` is the lane that a side lane belongs to. `lease_left` is 0 where nobody leads. `high_water` is the id up to
    which it is acknowledged, `acknowledged` how many events ever were, `moved_ago` the age of the stored cursor.
    """

    lane: int
    parent: int | None
    slot_from: int
    slot_to: int
    epoch: int
    holder: str | None
    lease_left: float
    high_water: int
    acknowledged: int
    moved_ago: float

    @property
    def led(self) -> bool:
        """Whether somebody holds its lease now."""
        return self.lease_left > 0


def standing(tx: psycopg.Connection[Any]) -> list[Standing]:
    """Every lane of the store, side lanes behind their parents."""
    return [Standing(*row) for row in tx.execute(_STANDING)]
