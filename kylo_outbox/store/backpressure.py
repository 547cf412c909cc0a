"""Which companies have waited too long for Kafka: asked before new transactions are taken, so cheap at any backlog.

Ids rise with the time of the emit, and a key's events are published in order. So a company has an old unpublished
event exactly if its newest old one is still ahead of its lane's cursor. Old events are read once each, in the order of
ids, in bounded pieces; while the cursor is young the first of them answers for all. Held ones are looked up by key.

Not seen: an event whose transaction stayed open until its id was passed here. The company's next one counts.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from kylo_outbox.model.errors import Transient

if TYPE_CHECKING:
    from collections.abc import Collection

    import psycopg

    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)

FRESH: Final = 1.0
"""Seconds for which an answer holds."""
_PIECE: Final = 10_000
_BUDGET: Final = 0.1
_MANY: Final = 10_000

_PATIENCE = "select set_config('statement_timeout', '1s', true), set_config('jit', 'off', true)"
_LANES = "select slot_from, slot_to, except_slots, high_water from kylo.lanes"
_FIRST = """
select created_at < clock_timestamp() - make_interval(secs => %(limit)s)
  from kylo.outbox_log where id > %(after)s order by id limit 1
"""
_OLD = """
with piece as materialized (
    select id, slot, topic, key, created_at from kylo.outbox_log where id > %(after)s order by id limit %(piece)s
), edge as (
    select coalesce(max(id), %(after)s) as id from piece
     where created_at < clock_timestamp() - make_interval(secs => %(limit)s)
)
select edge.id, edge.id = (select max(id) from piece), o.slot, convert_from(o.key, 'UTF8'), o.id
  from edge
  left join (select slot, key, max(piece.id) as id from piece, edge
              where topic = %(topic)s and piece.id <= edge.id group by slot, key) o on true
"""
# Events of a paused company are old on purpose: it was paused so that nothing is lost, so nothing is refused.
_HELD = """
select c.company
  from unnest(%(companies)s::text[]) c(company)
 cross join lateral (select created_at from kylo.outbox_held h
                      where h.topic = %(topic)s and h.key = convert_to(c.company, 'UTF8') order by h.id limit 1) oldest
 where oldest.created_at < clock_timestamp() - make_interval(secs => %(limit)s)
"""
_PAUSED = """
select company_id from control.company_config where paused and company_id = any(%(companies)s)
union
select c.company
  from unnest(%(companies)s::text[]) c(company)
  join kylo.paused_keys p on p.topic = %(topic)s and (p.key is null or p.key = convert_to(c.company, 'UTF8'))
"""


class Backpressure:
    """Answers for one topic of the control store whose keys are companies. Safe to share between threads.

    Args:
        database: The control store.
        topic: The topic of `TXNS_BATCH`.
        limit: Seconds that a company's oldest unpublished event may be old.
    """

    def __init__(self, database: Database, topic: str, limit: float) -> None:
        self._database, self._topic, self.limit = database, topic, limit
        self._lock = threading.Lock()
        self._looked_at: float | None = None
        self._read_upto = 0
        # The newest old event ahead of the cursor of each company, and its slot.
        self._old: dict[str, tuple[int, int]] = {}
        self._held: dict[str, tuple[float, bool]] = {}
        self._told = False

    def late(self, companies: Collection[str]) -> list[str]:
        """Which of the companies have an unpublished event older than the limit; paused ones are never among them.

        An answer may be a second old. While PostgreSQL does not answer in time, nobody is late.
        """
        with self._lock:
            try:
                self._look(companies)
            except Transient as away:
                self._give_up(companies, away)
            late = sorted(company for company in companies if company in self._old or self._held[company][1])
        return self._without_paused(late) if late else []

    def _look(self, companies: Collection[str]) -> None:
        now = time.monotonic()
        if len(self._held) > _MANY:
            self._held.clear()
        unknown = [company for company in companies if self._held.get(company, (0.0, False))[0] < now]
        due = self._looked_at is None or now - self._looked_at >= FRESH
        if not unknown and not due:
            return
        with self._database.transaction() as tx:
            tx.execute(_PATIENCE)
            if due:
                self._read_old(tx)
            values = {"companies": unknown, "topic": self._topic, "limit": self.limit}
            held = {company for (company,) in tx.execute(_HELD, values)}
        if due:
            self._looked_at = now
        self._held |= {company: (now + FRESH, company in held) for company in unknown}
        self._told = False

    def _give_up(self, companies: Collection[str], away: Transient) -> None:
        """Let everybody pass for a moment: whoever stores something next meets the outage itself."""
        if not self._told:
            log.warning("backpressure: nobody is refused while it is not known who is late: %s", away)
        self._told = True
        self._looked_at = time.monotonic()
        self._old.clear()
        self._held |= dict.fromkeys(companies, (self._looked_at + FRESH, False))
        # What was forgotten is read again.
        self._read_upto = 0

    def _read_old(self, tx: psycopg.Connection[Any]) -> None:
        lanes = tx.execute(_LANES).fetchall()
        self._forget_published(lanes)
        self._read_upto = max(self._read_upto, min((high_water for *_, high_water in lanes), default=0))
        until = time.monotonic() + _BUDGET
        more = tx.execute(_FIRST, {"after": self._read_upto, "limit": self.limit}).fetchone() == (True,)
        while more and time.monotonic() < until:
            values = {"after": self._read_upto, "piece": _PIECE, "limit": self.limit, "topic": self._topic}
            found = tx.execute(_OLD, values).fetchall()
            read_upto, more = found[0][0], found[0][1] and found[0][0] > self._read_upto
            self._read_upto = read_upto
            self._old |= {company: (slot, newest) for _, _, slot, company, newest in found if company is not None}
        self._forget_published(lanes)

    def _forget_published(self, lanes: list[tuple[int, int, list[int], int]]) -> None:
        if self._old:
            cursor = {
                slot: high_water
                for first, end, without, high_water in lanes
                for slot in range(first, end)
                if slot not in without
            }
            self._old = {
                company: (slot, newest) for company, (slot, newest) in self._old.items() if newest > cursor[slot]
            }

    def _without_paused(self, late: list[str]) -> list[str]:
        try:
            with self._database.transaction() as tx:
                found = tx.execute(_PAUSED, {"companies": late, "topic": self._topic}).fetchall()
        except Transient:
            return []
        paused = {company for (company,) in found}
        return [company for company in late if company not in paused]
