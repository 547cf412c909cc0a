"""Dead letters and held keys as operators look at them and act on them. Every act writes its audit row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.errors import Refused
from kylo_outbox.store import audit, dead_letters, keyholds, relay_dead

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    import psycopg

LOOP = 3
"""A dead letter that was tried again so often in vain is left out by acts on many."""
GONE_ON = (
    "the relay has gone on with its key, so nothing waits for it; `kylo-outbox dlq replay {0}` sends it again behind "
    "what came since, `dlq edit {0}` corrects it first, `dlq discard {0}` gives it up"
)
"""Why one of the relay is not released."""
SENT = "it was sent again already; if Kafka refuses it once more, that is a dead letter or a held key of its own"
_FIELDS = """
l.id, l.stage, l.topic, l.key, l.event_id, l.outbox_id, l.reason, l.error_class, l.attempts, l.at,
(select count(*) from kylo.held_events e
  where e.projector = h.projector and e.kind = h.kind and e.store_id = h.store_id and e.topic = h.topic
    and e.key = h.key) as waiting_behind,
l.type, l.policy, l.outcome, l.settled_at, l.releases, l.retry_at is not null or h.released_at is not null as released,
l.store_id, l.generation, l.partition_number, l.partition_offset
"""
_FROM = """
from kylo.dead_letters l
left join kylo.holds h on h.projector = l.stage and h.kind = 'dead' and h.dead_letter_id = l.id
"""
FIND = f"""
select {_FIELDS} {_FROM}
 where (%(settled)s or l.settled_at is null)
   and (%(ids)s::bigint[] is null or l.id = any(%(ids)s))
   and (%(stage)s::text is null or l.stage = %(stage)s)
   and (%(topic)s::text is null or l.topic = %(topic)s)
   and (%(key)s::text is null or l.key = %(key)s)
   and (%(like)s::text is null or strpos(lower(l.error_class || ': ' || l.reason), lower(%(like)s)) > 0)
   and (%(since)s::timestamptz is null or l.at >= %(since)s)
   and (%(until)s::timestamptz is null or l.at < %(until)s)
 order by l.id limit %(limit)s
"""
WHOLE = f"select {_FIELDS}, l.payload, l.original, l.headers, l.detail, l.created_at {_FROM} where l.id = %s"
HELD = """
select h.projector, h.kind, h.topic, h.key, h.store_id, h.reason, h.dead_letter_id, h.since, h.released_at,
       count(e.n), min(e.created_at)
  from kylo.holds h
  left join kylo.held_events e using (projector, kind, store_id, topic, key)
 where (%(stage)s::text is null or h.projector = %(stage)s)
   and (%(topic)s::text is null or h.topic = %(topic)s)
   and (%(key)s::text is null or h.key = %(key)s)
 group by h.projector, h.kind, h.topic, h.key, h.store_id
 order by h.since, h.projector, h.topic, h.key
"""
ASK_AGAIN = "update kylo.dead_letters set retry_at = clock_timestamp() where id = %s and retry_at is null"
EDIT = """
update kylo.dead_letters set original = coalesce(original, payload), payload = %s, deaths = 0 where id = %s
"""
GONE = "it was settled so long ago that its payload is gone; the audit has that of a discarded one"
_HAS_PAYLOAD = "select payload is not null from kylo.dead_letters where id = %s"
_LOCK = "select outcome, settled_at is not null from kylo.dead_letters where id = %s for update"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters; None means any. `like` is looked for in class and text of the reason."""

    ids: Sequence[int] | None = None
    stage: str | None = None
    topic: str | None = None
    key: str | None = None
    like: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    settled: bool = False
    limit: int = 100

    def values(self) -> dict[str, Any]:
        """For FIND."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {**found, "ids": None if self.ids is None else list(self.ids)}


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter in a list; `waiting_behind` counts the events of its key that wait for it."""

    id: int
    stage: str
    topic: str
    key: str
    event_id: UUID | None
    outbox_id: int | None
    reason: str
    error_class: str
    attempts: int
    at: datetime
    waiting_behind: int
    type: str
    policy: str
    outcome: str | None
    settled_at: datetime | None
    releases: int
    released: bool
    store_id: str
    generation: int
    partition: int | None
    offset: int | None

    @property
    def of_relay(self) -> bool:
        """Whether it never reached Kafka: no projector knows of it, and its key has gone on."""
        return self.stage == relay_dead.STAGE

    @property
    def holds(self) -> keyholds.Hold:
        """The hold of its key."""
        return keyholds.Hold(self.stage, "dead", (self.store_id, self.topic, self.key))


@dataclass(frozen=True, slots=True)
class WholeLetter:
    """One with everything; `original` is set if an operator edited the payload.

    Long after it was settled there is no payload, and `original` is empty.
    """

    letter: Letter
    payload: bytes | None
    original: bytes | None
    headers: dict[str, str]
    detail: str | None
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key that waits: behind a dead letter (`dead`), or because its store is away (`away`)."""

    projector: str
    kind: keyholds.Kind
    topic: str
    key: str
    store_id: str
    reason: str
    dead_letter_id: int | None
    since: datetime
    released_at: datetime | None
    waiting: int
    oldest: datetime | None


@dataclass(slots=True)
class Done:
    """What an act did, by id; `left` tells why others were left alone."""

    ids: list[int] = field(default_factory=list)
    left: dict[int, str] = field(default_factory=dict)


def find(tx: psycopg.Connection[Any], wanted: Filter) -> list[Letter]:
    """Dead letters, the oldest first."""
    return [Letter(*row) for row in tx.execute(FIND, wanted.values())]


def whole(tx: psycopg.Connection[Any], letter_id: int) -> WholeLetter | None:
    """One dead letter with its payload; None if it is not there (any more)."""
    row = tx.execute(WHOLE, (letter_id,)).fetchone()
    if row is None:
        return None
    *fields, payload, original, headers, detail, created_at = row
    return WholeLetter(Letter(*fields), _bytes(payload), _bytes(original), headers, detail, created_at)


def held(tx: psycopg.Connection[Any], wanted: Filter) -> list[HeldKey]:
    """Keys that wait, the longest waiting first."""
    values = {"stage": wanted.stage, "topic": wanted.topic, "key": wanted.key}
    return [HeldKey(*row) for row in tx.execute(HELD, values)]


def release(tx: psycopg.Connection[Any], letters: Sequence[Letter], *, who: str, reason: str | None) -> Done:
    """Ask the projector to try these once more and to go on with their keys, in order.

    Those of the relay are left alone: their keys wait for nothing.
    """
    done = Done()
    for letter in letters:
        if _settled(tx, letter):
            done.left[letter.id] = "it is settled"
        elif letter.of_relay:
            done.left[letter.id] = GONE_ON.format(letter.id)
        elif keyholds.release(tx, letter.holds) or tx.execute(ASK_AGAIN, (letter.id,)).rowcount:
            done.ids.append(letter.id)
            _told(tx, "dlq release", letter, who, reason)
        else:
            done.left[letter.id] = "it is released already"
    return done


def discard(tx: psycopg.Connection[Any], letters: Sequence[Letter], *, who: str, reason: str) -> Done:
    """Give these up for good, a declared gap; what waits behind them goes on."""
    done = Done()
    for letter in letters:
        keyholds.lock(tx, letter.holds)
        if _settled(tx, letter):
            done.left[letter.id] = "it is settled"
            continue
        found = whole(tx, letter.id)
        dead_letters.settle(tx, letter.id, "discarded")
        keyholds.release(tx, letter.holds)
        keyholds.clear_deaths(tx, letter.holds)
        done.ids.append(letter.id)
        _told(tx, "dlq discard", letter, who, reason, payload=_text(found), headers=found.headers if found else None)
    return done


def edit(tx: psycopg.Connection[Any], letter: Letter, payload: bytes, *, who: str, reason: str | None) -> bool:
    """Put another payload in the place of the letter's, which is kept; False if it is settled."""
    if _settled(tx, letter):
        return False
    former = whole(tx, letter.id)
    tx.execute(EDIT, (payload, letter.id))
    keyholds.clear_deaths(tx, letter.holds)
    _told(tx, "dlq edit", letter, who, reason, payload=_text(former))
    return True


def replay(tx: psycopg.Connection[Any], letters: Sequence[Letter], *, who: str, reason: str | None) -> Done:
    """Ask the projector to try these once more, alone: also discarded ones. What was applied stays as it is.

    Those of the relay are saved in the outbox anew and published behind what their keys have had since.
    """
    done = Done()
    for letter in letters:
        row = tx.execute(_LOCK, (letter.id,)).fetchone()
        outcome, settled = row or (None, True)
        if outcome == "applied":
            done.left[letter.id] = SENT if letter.of_relay else "it is applied: once more would change nothing"
        elif tx.execute(_HAS_PAYLOAD, (letter.id,)).fetchone() == (False,):
            done.left[letter.id] = GONE
        elif letter.of_relay:
            _send_again(tx, letter, done, who, reason, outcome)
        elif not settled and letter.policy == "hold":
            done.left[letter.id] = "its key waits for it: release it, so that the order is kept"
        elif tx.execute(ASK_AGAIN, (letter.id,)).rowcount:
            done.ids.append(letter.id)
            _told(tx, "dlq replay", letter, who, reason, outcome=outcome)
        else:
            done.left[letter.id] = "it is to be tried already"
    return done


def _send_again(
    tx: psycopg.Connection[Any], letter: Letter, done: Done, who: str, reason: str | None, outcome: str | None
) -> None:
    try:
        relay_dead.send_again(tx, letter.id)
    except Refused as refused:
        done.left[letter.id] = f"the outbox refuses it ({refused}); `kylo-outbox dlq edit {letter.id}` corrects it"
        return
    dead_letters.settle(tx, letter.id, "applied")
    done.ids.append(letter.id)
    _told(tx, "dlq replay", letter, who, reason, outcome=outcome)


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _text(found: WholeLetter | None) -> str | None:
    return found.payload.decode("utf-8", "backslashreplace") if found and found.payload is not None else None


def _settled(tx: psycopg.Connection[Any], letter: Letter) -> bool:
    row = tx.execute(_LOCK, (letter.id,)).fetchone()
    return row is None or bool(row[1])


def _told(tx: psycopg.Connection[Any], verb: str, letter: Letter, who: str, reason: str | None, **before: Any) -> None:
    ids = None if letter.outbox_id is None else [letter.outbox_id]
    found = {"dead_letter": letter.id, "stage": letter.stage, "because": letter.reason, "releases": letter.releases}
    audit.write(
        tx, who=who, verb=verb, topic=letter.topic, key=letter.key, ids=ids, reason=reason, before={**found, **before}
    )
