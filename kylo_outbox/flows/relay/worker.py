"""One turn of one lane: settle what was acknowledged, store the cursor, read the next rows, send them.

Several batches are in flight; the cursor moves over the acknowledged prefix only, so a crash repeats and never loses.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from kylo_outbox.flows.relay.away import OUTAGE, SILENCE, Breaker, LostPartitions
from kylo_outbox.flows.relay.caution import Caution
from kylo_outbox.flows.relay.fairness import Fairness
from kylo_outbox.flows.relay.holding import Holding
from kylo_outbox.flows.relay.rest import Rest
from kylo_outbox.flows.relay.state import RelayTurn
from kylo_outbox.flows.relay.track import Batch, Track, count, oldest_in_flight
from kylo_outbox.flows.relay.window import Window
from kylo_outbox.kafka.client import KafkaFatal, KafkaFault
from kylo_outbox.model.errors import Fatal, Transient
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kylo_outbox.flows.relay.state import Direct, Outlet, RelayState
    from kylo_outbox.kafka.producer import Ticket
    from kylo_outbox.store.outbox import Row, Turn
    from kylo_outbox.store.session import LaneSession

log = logging.getLogger(__name__)

_CURSOR_EVERY = 0.1
_RENEW_EVERY = 0.4
# Below what the client's smallest batches hold.
_SMALL = 12_000
# How long a stop waits for acknowledgements.
_DRAIN = 10.0
_STANDBY = 0.2
# Time enough for another process to take a lane that was given away.
_MAKE_WAY = 3.0


class Relay:
    """Relays one lane of one store. Any number may run: one holds the lease, the others stand by."""

    def __init__(
        self,
        *,
        state: RelayState,
        holder: str,
        open_session: Callable[[], LaneSession],
        open_publisher: Callable[[str], Outlet],
        direct: Direct | None = None,
        interval: float | None = None,
        is_paused: Callable[[str, bytes], bool] = lambda _topic, _key: False,
        batch: int = 1000,
        window: Window | None = None,
    ) -> None:
        self.state = state
        self._holder = holder
        self._open_session, self._open_publisher = open_session, open_publisher
        self._direct, self._window = direct, window or Window()
        self._session: LaneSession | None = None
        self._publisher: Outlet | None = None
        # The lane first, then its side lanes.
        self._tracks: list[Track] = []
        self._catching_up: Iterator[None] | None = None
        self._caution = Caution(batch)
        self._breaker = Breaker(state)
        self._lost = LostPartitions(state)
        self._holding = Holding(state, self._lost, direct, is_paused)
        self._fairness = Fairness(state)
        self._rest = Rest(interval)
        self._away = False
        self._steps_down = False
        self._written_at = self._renewed_at = 0.0

    @property
    def name(self) -> str:
        """For log lines."""
        return self.state.name

    def run_once(self) -> RelayTurn:
        """One turn; raises `Transient` while PostgreSQL or Kafka is away and `Fatal` when the lane was taken over."""
        if self._steps_down:
            self._steps_down = False
            self.close()
            return RelayTurn(leading=False, pause=_MAKE_WAY)
        try:
            session, outlet = self._opened()
            if not self.state.leading and not self._take(session):
                return RelayTurn(leading=session.lane is not None, pause=_STANDBY if session.lane is None else 0.0)
            outlet.poll()
            done, answered = self._settle(session, outlet)
            self._store_cursors(session)
            if self._fairness.step(session, self._tracks):
                self._track(session)
            self._holding.hand_over(session)
            read, full = self._go_on(session, outlet)
            self._watch(session, outlet, answered=answered)
            self.state.full_since = outlet.full_since
        except Transient as away:
            self.state.publishing = False
            if isinstance(away, KafkaFault):
                self._breaker.open(str(away))
            if self._session is not None and self._session.broken:
                self._drop()
            raise
        except (Fatal, KafkaFatal):
            # Taken over: whatever is not sent yet is somebody else's by now.
            self._drop()
            raise
        self.state.last_success = time.time()
        in_flight = oldest_in_flight(self._tracks) is not None
        self.state.publishing = bool(in_flight or read or done)
        more = full and not self._fairness.waits and self._has_room(self._tracks[0])
        pause = 0.0 if more else self._rest.after(session, outlet, in_flight=in_flight)
        return RelayTurn(leading=True, read=read, acknowledged=done, pause=pause)

    def step_down(self) -> None:
        """Give the lane to a standby, after what is in flight; safe to call from another thread."""
        self._steps_down = True

    def close(self) -> None:
        """Stop reading, wait for what is in flight, store the cursor, give the lane up: 0 repeats after this."""
        try:
            if self._publisher is not None and self._session is not None and self.state.leading:
                self._drain(self._session, self._publisher)
                self._settle(self._session, self._publisher)
                self._store_cursors(self._session, now=True)
                self._holding.settle(self._session)
        finally:
            self._drop()

    def _drain(self, session: LaneSession, outlet: Outlet) -> None:
        """Wait for what is in flight, with the lease kept: a standby that took the lane would send the same again."""
        until = time.monotonic() + _DRAIN
        while outlet.drain(_RENEW_EVERY) and outlet.fatal is None and time.monotonic() < until:
            session.renew()

    def _opened(self) -> tuple[LaneSession, Outlet]:
        if self._session is None:
            self._session = self._open_session()
        if self._publisher is None:
            self._publisher = self._open_publisher(self._session.identity().store_id)
        return self._session, self._publisher

    def _take(self, session: LaneSession) -> bool:
        """Take the lane and, a step a turn, apply what the direct path must catch up with; True once it leads."""
        if session.lane is None:
            if not session.take(self.state.lane, self._holder):
                return False
            self._holding.load(session)
            self._track(session)
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

    def _track(self, session: LaneSession) -> None:
        self._tracks = [Track(part) for part in session.parts]
        self.state.side_lanes = len(self._tracks) - 1

    def _settle(self, session: LaneSession, outlet: Outlet) -> tuple[int, bool]:
        """Take finished batches off the front: (rows, whether Kafka answered); after a refusal, read again."""
        broken = self._broken(outlet)
        away: Transient | None = None
        done, answered, innocent = 0, False, False
        for track in self._tracks:
            try:
                self._hand_over(track)
            except Transient as not_now:
                away = not_now
            for batch in track.pop_finished():
                done += batch.count
                answered = answered or batch.ticket is not None
                self.state.published += len(batch.published) + len(batch.direct)
                innocent = self._caution.passed(batch.published) or innocent
                count(batch)
        if broken is not None:
            self._recover(session, outlet, *broken)
        elif innocent:
            # No record of a refused batch was at fault: the topic takes smaller batches than the client made.
            self._start_over(session, outlet, smaller=True)
        if away:
            raise away
        return done, answered

    def _hand_over(self, track: Track) -> None:
        for batch in track.batches:
            if not batch.delivered and self._direct is not None:
                self._direct.deliver(batch.direct)
                batch.delivered = True
            if not batch.done:
                return

    def _broken(self, outlet: Outlet) -> tuple[Ticket, list[Row], bool] | None:
        """(ticket, rows, whether it surely is the one) of what failed; a client may break without telling which."""
        unfinished = [
            (batch.ticket, batch.published)
            for track in self._tracks
            for batch in track.batches
            if batch.ticket is not None and not batch.ticket.done
        ]
        if self._holding.ticket is not None and not self._holding.ticket.done:
            unfinished.append((self._holding.ticket, []))
        if failed := next((each for each in unfinished if each[0].refuses_record(None)), None):
            return (*failed, True)
        if outlet.fatal is None:
            failed = next((each for each in unfinished if each[0].failure), None)
            return None if failed is None else (*failed, True)
        # What was handed to a client that was broken already failed as well: that is no proof against it.
        if not unfinished:
            outlet.rebuild()
            return None
        return (*unfinished[0], len(unfinished) == 1)

    def _recover(self, session: LaneSession, outlet: Outlet, ticket: Ticket, rows: list[Row], sure: bool) -> None:
        """After a failure nothing later may pass: new client, read again from the acknowledged prefix."""
        reason = ticket.reason or str(outlet.fatal)
        metrics.OUTBOX_PUBLISH_FAILURES.labels(reason=reason.partition(":")[0]).inc()
        self.state.failed += 1
        refused, for_size = ticket.refuses_record(outlet.fatal), ticket.refused_for_size(outlet.fatal)
        if refused and self._batches_too_large(outlet, ticket):
            self._start_over(session, outlet, smaller=True)
            return
        if refused and not sure:
            # Nobody is blamed before one batch at a time has shown which it is.
            self._caution.doubt()
            self._holding.alone = True
        elif refused and ticket is self._holding.ticket:
            self._holding.resend_refused(session, reason, for_size=for_size)
        elif refused and self._caution.refused(rows):
            self._holding.refused(session, rows[0], reason, for_size=for_size)
        self._start_over(session, outlet)
        if not refused:
            raise KafkaFault(f"Kafka: {reason}", "broker", "_FATAL")

    def _batches_too_large(self, outlet: Outlet, ticket: Ticket) -> bool:
        """Whether the limit in the way is one that no record in flight can reach by itself: no need to doubt them."""
        if outlet.smallest or self._holding.ticket is not None or not ticket.refused_for_size(outlet.fatal):
            return False
        return all(
            len(row[4]) + len(row[5] or "") < _SMALL
            for track in self._tracks
            for batch in track.batches
            for row in batch.published
        )

    def _start_over(self, session: LaneSession, outlet: Outlet, *, smaller: bool = False) -> None:
        self._store_cursors(session, now=True)
        outlet.rebuild(smaller=smaller)
        self._holding.forget()
        self._fairness.forget()
        for track in self._tracks:
            track.forget()
        session.rewind()

    def _go_on(self, session: LaneSession, outlet: Outlet) -> tuple[int, bool]:
        """Try what is held, then read and send; (rows, whether more is known to wait)."""
        try:
            one_at_a_time = self._holding.alone or self._caution.active
            if not self.state.breaker and not (one_at_a_time and oldest_in_flight(self._tracks)):
                self._holding.go_on(session, outlet)
            return self._read(session, outlet)
        except KafkaFault as unanswered:
            self._breaker.open(str(unanswered))
            if oldest_in_flight(self._tracks) is not None:
                self._watch(session, outlet, answered=False)
            elif self._direct is not None:
                # Nothing is in flight that would tell by its silence; the kept turn is divided when it comes again.
                self._away = True
            raise

    def _read(self, session: LaneSession, outlet: Outlet) -> tuple[int, bool]:
        """Read a turn of the lane and of each side and send them; (rows, whether more is known to wait)."""
        quiet = self._holding.wants_quiet(doubt=self._caution.active)
        if self._fairness.waits or quiet or not self._rest.over():
            return 0, False
        lane, sides = self._tracks[0], self._tracks[1:]
        total, more = 0, False
        at_end: Turn | None = None
        if self._has_room(lane):
            turn = self._next(session, lane)
            if turn.full and not sides and not self._caution.active:
                session.read_ahead(self._rows)
            self._send(session, outlet, lane, turn)
            self._fairness.saw(lane, turn.rows)
            total, more = len(turn.rows), turn.full
            at_end = None if turn.full else turn
        for side in sides:
            if not self._has_room(side, side=True):
                continue
            if at_end is not None and not side.full_turns and not self._fairness.waits:
                turn = self._fairness.caught_up(session, at_end, side, self._rows)
            else:
                turn = self._next(session, side)
            self._send(session, outlet, side, turn)
            total, more = total + len(turn.rows), more or turn.full
        self._rest.read(session, total, full=more)
        return total, more

    def _next(self, session: LaneSession, track: Track) -> Turn:
        """The next turn; one that could not be sent is kept and comes again."""
        if track.turn is None:
            began = time.monotonic()
            track.turn = session.read(track.part, self._rows)
            self._rest.looked(time.monotonic() - began)
        return track.turn

    def _send(self, session: LaneSession, outlet: Outlet, track: Track, turn: Turn) -> None:
        track.turn = turn
        track.full_turns = track.full_turns + 1 if turn.full else 0
        if turn.rows:
            published, direct = self._holding.sift(session, outlet, turn.rows, away=self._away)
            self._caution.kept_back(turn.rows, published)
            ticket = outlet.send(published) if published else None
            if not turn.full:
                outlet.hurry()
            size = self._window.weigh(turn.rows)
            track.add(Batch(ticket, published, direct, turn.cursor, len(turn.rows), not direct, size))
        track.turn = None
        if not turn.rows and track.quiet:
            track.ready = (turn.cursor, 0)

    @property
    def _rows(self) -> int:
        return self._window.rows(self._caution.rows)

    def _has_room(self, track: Track, *, side: bool = False) -> bool:
        if self._publisher is not None and self._publisher.full_since is not None:
            return False
        if self._caution.active:
            return not any(each.waiting for each in self._tracks)
        return self._window.has_room(track, side=side)

    def _watch(self, session: LaneSession, outlet: Outlet, *, answered: bool) -> None:
        """Notice silence: partitions without a leader are set aside, anything else opens the breaker until it ends."""
        oldest = oldest_in_flight(self._tracks)
        if self._away and self._lost.look_is_due() and outlet.answers():
            answered, self._away = True, False
        if answered or (oldest is None and not self._away):
            self._breaker.close()
        if oldest is None or oldest.silent < SILENCE or not self._lost.look_is_due():
            return
        if self._lost.look(outlet, sorted({row[1] for row in oldest.published})):
            self._start_over(session, outlet)
        elif oldest.silent > OUTAGE:
            self._breaker.open(f"no acknowledgement for {oldest.silent:.0f} s")
            if self._direct is not None and not self._away:
                # What is for Kafka is copied out, so that what is handed over directly need not wait behind it.
                self._away = True
                self._start_over(session, outlet)

    def _store_cursors(self, session: LaneSession, *, now: bool = False) -> None:
        began = time.monotonic()
        # A side lane's cursor lengthens its own row's lease only; what a standby looks at is the lane's.
        renew = began - self._renewed_at >= _RENEW_EVERY
        everything = now or renew or self._fairness.waits
        if everything or began - self._written_at >= _CURSOR_EVERY:
            for track in self._tracks:
                if track.ready is not None and (track.ready[1] or everything):
                    session.advance(track.part, *track.ready)
                    track.ready = None
                    self._written_at = began
                    if track is self._tracks[0]:
                        self._renewed_at, renew = began, False
        if renew:
            session.renew()
            self._renewed_at = began

    def _drop(self) -> None:
        """Give everything back at once; what is not acknowledged is read again by whoever leads next."""
        self.state.leading = self.state.publishing = False
        self.state.full_since = None
        self._catching_up = None
        self._tracks = []
        self._caution.reset()
        self._holding.forget()
        self._fairness.forget()
        publisher, self._publisher = self._publisher, None
        session, self._session = self._session, None
        if publisher is not None:
            publisher.close()
        if session is not None:
            session.close()
