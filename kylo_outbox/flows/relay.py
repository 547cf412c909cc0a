"""The relay: committed outbox rows to Kafka, in commit order per key, moving a cursor over what Kafka acknowledged.

One `run_once` is one turn: settle what was acknowledged, store the cursor, read the next rows, send them. Several
batches are in flight; the cursor moves over the acknowledged prefix only, so a crash repeats and never loses. A row
that Kafka refuses is copied out with everything of its key behind it; all other keys go on.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from kylo_outbox.kafka.client import KafkaFatal
from kylo_outbox.kafka.producer import names_missing_topic
from kylo_outbox.model.errors import Fatal, Transient
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kylo_outbox.kafka.producer import NoBroker, Publisher, Ticket
    from kylo_outbox.store.lanes import Cursor
    from kylo_outbox.store.outbox import Row, Turn
    from kylo_outbox.store.session import LaneSession

Outlet: TypeAlias = "Publisher | NoBroker"

log = logging.getLogger(__name__)

_CURSOR_EVERY = 0.1
_RENEW_EVERY = 0.4
_RETRY_HELD_EVERY = 5.0
# Waiting longer for one answer would let the lease end.
_LEASE_SAFE = 0.8
_STANDBY = 0.2


class Direct(Protocol):
    """Rows that are handed over in process instead of travelling over Kafka."""

    def takes(self, topic: str, key: bytes) -> bool:
        """Whether rows of this topic and key are handed over directly."""
        ...

    def catch_up(self) -> Iterator[None]:
        """Apply, step by step, what was published to Kafka and lies there unread; begun when the lane was taken."""
        ...

    def deliver(self, rows: Sequence[Row]) -> None:
        """Apply rows, in order; returns when every projector has them. Raises `Transient` for "not now"."""
        ...


@dataclass(slots=True)
class _Batch:
    """What one turn read: in flight to Kafka, still to be handed over directly, and the cursor once all is done."""

    ticket: Ticket | None
    published: list[Row]
    direct: list[Row]
    cursor: Cursor
    count: int
    delivered: bool

    @property
    def done(self) -> bool:
        """Whether everything of it is acknowledged and handed over."""
        return self.delivered and (self.ticket is None or self.ticket.done)


@dataclass(frozen=True, slots=True)
class RelayTurn:
    """What one turn did; `pause` is how long the relay may be left alone."""

    leading: bool
    read: int = 0
    acknowledged: int = 0
    pause: float = 0.0


@dataclass(slots=True)
class RelayState:
    """What the heartbeat tells of this relay; numbers since it took the lane."""

    store: str
    lane: int
    leading: bool = False
    publishing: bool = False
    published: int = 0
    failed: int = 0
    last_success: float | None = None
    held_keys: set[tuple[str, bytes]] = field(default_factory=set)


class Relay:
    """Relays one lane of one store. Any number may run: one holds the lease, the others stand by."""

    def __init__(
        self,
        *,
        state: RelayState,
        holder: str,
        open_session: Callable[[], LaneSession],
        open_publisher: Callable[[str, int], Outlet],
        direct: Direct | None = None,
        interval: float | None = None,
        idle: Callable[[bool], float],
        is_paused: Callable[[str, bytes], bool] = lambda _topic, _key: False,
        batch: int = 1000,
        depth: int = 8,
    ) -> None:
        self.state = state
        self._holder = holder
        self._open_session, self._open_publisher = open_session, open_publisher
        self._direct, self._interval, self._idle, self._is_paused = direct, interval, idle, is_paused
        self._batch, self._depth = batch, depth
        self._session: LaneSession | None = None
        self._publisher: Outlet | None = None
        self._in_flight: deque[_Batch] = deque()
        self._ready: tuple[Cursor, int] | None = None
        self._turn: Turn | None = None
        self._catching_up: Iterator[None] | None = None
        # Rows of a batch that failed: sent one by one until each has shown what it is.
        self._suspects: set[int] = set()
        self._read_at = self._written_at = self._held_at = 0.0

    @property
    def name(self) -> str:
        """For log lines."""
        return f"relay {self.state.store}/{self.state.lane}"

    def run_once(self) -> RelayTurn:
        """One turn; raises `Transient` while PostgreSQL or Kafka is away and `Fatal` when the lane was taken over."""
        try:
            session, publisher = self._opened()
            if not self.state.leading and not self._take(session):
                return RelayTurn(leading=session.lane is not None, pause=_STANDBY if session.lane is None else 0.0)
            publisher.poll()
            done = self._settle(session, publisher)
            self._store_cursor(session)
            self._retry_held(session, publisher)
            read, full = self._read(session, publisher)
        except Transient:
            self.state.publishing = False
            if self._session is not None and self._session.broken:
                self._drop()
            raise
        except (Fatal, KafkaFatal):
            # Taken over: whatever is not sent yet is somebody else's by now.
            self._drop()
            raise
        self.state.last_success = time.time()
        self.state.publishing = bool(self._in_flight or read or done)
        return RelayTurn(
            leading=True, read=read, acknowledged=done, pause=self._pause(publisher, read + done, full=full)
        )

    def close(self) -> None:
        """Stop reading, wait for what is in flight, store the cursor, give the lane up: 0 repeats after this."""
        try:
            if self._publisher is not None and self._session is not None and self.state.leading:
                self._publisher.drain(10.0)
                self._settle(self._session, self._publisher)
                self._written_at = 0.0
                self._store_cursor(self._session)
        finally:
            self._drop()

    def _opened(self) -> tuple[LaneSession, Outlet]:
        if self._session is None:
            self._session = self._open_session()
        if self._publisher is None:
            self._publisher = self._open_publisher(*self._session.identity())
        return self._session, self._publisher

    def _take(self, session: LaneSession) -> bool:
        """Take the lane and, a step a turn, apply what the direct path must catch up with; True once it leads."""
        if session.lane is None:
            if not session.take(self.state.lane, self._holder):
                return False
            self.state.held_keys = session.held_keys()
            self._catching_up = None
        session.renew()
        if self._direct is not None:
            self._catching_up = self._catching_up or self._direct.catch_up()
            try:
                next(self._catching_up)
            except StopIteration:
                pass
            except Transient:
                self._catching_up = None
                raise
            else:
                return False
        self.state.leading = True
        log.info("%s leads", self.name)
        return True

    def _settle(self, session: LaneSession, publisher: Outlet) -> int:
        """Pop finished batches from the front; how many rows they had. After a refusal: read again, carefully."""
        broken = self._broken(publisher)
        away: Transient | None = None
        done = 0
        while self._in_flight:
            batch = self._in_flight[0]
            if not batch.delivered and self._direct is not None:
                try:
                    self._direct.deliver(batch.direct)
                    batch.delivered = True
                except Transient as not_now:
                    away = not_now
            if not batch.done:
                break
            self._in_flight.popleft()
            done += batch.count
            self._ready = (batch.cursor, batch.count + (self._ready[1] if self._ready else 0))
            self._count(batch)
        if broken is not None:
            self._recover(session, publisher, broken)
        if away:
            raise away
        return done

    def _broken(self, publisher: Outlet) -> _Batch | None:
        """The first batch that failed; of a client that broke without telling which, the first unfinished one."""
        unfinished = [batch for batch in self._in_flight if batch.ticket is not None and not batch.ticket.done]
        failed = next((batch for batch in unfinished if batch.ticket and batch.ticket.failure), None)
        if failed is None and publisher.fatal is not None:
            if not unfinished:
                publisher.rebuild()
                return None
            return unfinished[0]
        return failed

    def _recover(self, session: LaneSession, publisher: Outlet, broken: _Batch) -> None:
        """After a failure nothing later may pass: new client, read again from the acknowledged prefix.

        One record of a batch was refused; sent one by one it shows itself, and its innocent neighbours pass.
        """
        ticket = broken.ticket
        reason = (ticket.reason if ticket else "") or str(publisher.fatal)
        metrics.OUTBOX_PUBLISH_FAILURES.labels(reason=reason.partition(":")[0]).inc()
        self.state.failed += 1
        self._written_at = 0.0
        self._store_cursor(session)
        refused = ticket is not None and ticket.refuses_record(publisher.fatal)
        if refused and len(broken.published) == 1:
            self._hold(session, broken.published, reason, retry=names_missing_topic(reason))
        self._start_over(session, publisher)
        self._suspects |= {row[0] for row in broken.published}
        if not refused:
            raise Transient(f"Kafka: {reason}")

    def _start_over(self, session: LaneSession, publisher: Outlet) -> None:
        publisher.rebuild()
        self._in_flight.clear()
        self._turn = None
        session.rewind()

    def _hold(self, session: LaneSession, rows: Sequence[Row], reason: str, *, retry: bool) -> None:
        if rows:
            session.hold(rows, reason, retry=retry)
        fresh = {(row[1], row[2]) for row in rows} - self.state.held_keys
        self.state.held_keys |= fresh
        for topic, key in sorted(fresh):
            log.warning("%s holds key %s of %s: %s", self.name, key.decode(), topic, reason)

    def _retry_held(self, session: LaneSession, publisher: Outlet) -> None:
        """Now and then try the oldest held events again that may be tried; a released key goes on in order."""
        now = time.monotonic()
        if not self.state.held_keys or now - self._held_at < _RETRY_HELD_EVERY:
            return
        self._held_at = now
        for head in session.held_heads():
            if self._is_paused(head[1], head[2]):
                continue
            if self._direct is not None and self._direct.takes(head[1], head[2]):
                self._direct.deliver([head])
            elif publisher.exists(head[1]):
                ticket = publisher.send([head])
                publisher.drain(_LEASE_SAFE)
                if not ticket.done:
                    self._start_over(session, publisher)
                    return
            else:
                continue
            session.let_go(head)
            self._held_at = 0.0
        self.state.held_keys = session.held_keys()

    def _read(self, session: LaneSession, publisher: Outlet) -> tuple[int, bool]:
        """Read a turn and send it; (rows, whether more is known to wait). A turn that cannot be sent now is kept."""
        if time.monotonic() < self._read_at or not self._has_room():
            return 0, False
        turn = self._turn = self._turn or session.read(1 if self._suspects else self._batch)
        if turn.rows:
            published, direct = self._sorted_out(session, publisher, turn.rows)
            ticket = publisher.send(published) if published else None
            if not turn.full:
                publisher.hurry()
            self._in_flight.append(_Batch(ticket, published, direct, turn.cursor, len(turn.rows), not direct))
        else:
            self._keep_cursor(turn.cursor)
            if self._interval is not None and not turn.full:
                self._read_at = time.monotonic() + self._interval
        self._turn = None
        self._suspects -= {row[0] for row in turn.rows} if turn.rows else self._suspects
        return len(turn.rows), turn.full

    def _has_room(self) -> bool:
        waiting = sum(1 for batch in self._in_flight if not batch.done)
        return waiting < (1 if self._suspects else self._depth)

    def _sorted_out(self, session: LaneSession, publisher: Outlet, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        """(to publish, to hand over directly); rows of held keys and missing topics are copied out on the way."""
        paused = [row for row in rows if self._is_paused(row[1], row[2])]
        if paused:
            self._hold(session, paused, "its company is paused; `kylo-outbox company resume` lets it go on", retry=True)
        if self.state.held_keys:
            behind = [row for row in rows if (row[1], row[2]) in self.state.held_keys]
            # Rows that are held for themselves stay as they are.
            self._hold(session, behind, "waits behind an earlier event of its key", retry=False)
            rows = [row for row in rows if (row[1], row[2]) not in self.state.held_keys]
        direct: list[Row] = []
        if self._direct is not None:
            takes = self._direct.takes
            direct = [row for row in rows if takes(row[1], row[2])]
            rows = [row for row in rows if not takes(row[1], row[2])]
        for topic in {row[1] for row in rows}:
            if not publisher.exists(topic):
                lost = [row for row in rows if row[1] == topic]
                reason = f"topic {topic} does not exist; create it (`kylo-outbox topics apply`)"
                self._hold(session, lost, reason, retry=True)
                rows = [row for row in rows if row[1] != topic]
        return rows, direct

    def _keep_cursor(self, cursor: Cursor) -> None:
        # Nothing new: the newer snapshot is kept once all before it is acknowledged, so that it never grows old.
        if not self._in_flight and self._ready is None and time.monotonic() - self._written_at > _RENEW_EVERY:
            self._ready = (cursor, 0)

    def _store_cursor(self, session: LaneSession) -> None:
        now = time.monotonic()
        if self._ready is not None and now - self._written_at >= _CURSOR_EVERY:
            session.advance(*self._ready)
            self._ready = None
            self._written_at = now
        elif now - self._written_at >= _RENEW_EVERY:
            session.renew()
            self._written_at = now

    def _pause(self, publisher: Outlet, worked: int, *, full: bool) -> float:
        wait = self._idle(worked > 0)
        if full and self._has_room():
            return 0.0
        if any(batch.ticket is not None and not batch.ticket.done for batch in self._in_flight):
            publisher.poll(min(wait, 0.005))
            return 0.0
        return min(wait, _CURSOR_EVERY)

    def _count(self, batch: _Batch) -> None:
        self.state.published += batch.count
        for topic, number in Counter(row[1] for row in batch.published).items():
            metrics.OUTBOX_PUBLISHED.labels(topic=topic).inc(number)
        for topic, number in Counter(row[1] for row in batch.direct).items():
            metrics.OUTBOX_DELIVERED_DIRECTLY.labels(topic=topic).inc(number)
        if batch.published:
            metrics.OUTBOX_PUBLISH_DELAY.observe(max(0.0, time.time() - batch.published[0][7]))

    def _drop(self) -> None:
        """Give everything back at once; what is not acknowledged is read again by whoever leads next."""
        self.state.leading = self.state.publishing = False
        self._in_flight.clear()
        self._suspects.clear()
        self._ready = self._turn = None
        publisher, self._publisher = self._publisher, None
        session, self._session = self._session, None
        if publisher is not None:
            publisher.close()
        if session is not None:
            session.close()
