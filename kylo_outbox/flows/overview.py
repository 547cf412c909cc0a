"""One frozen snapshot of the whole system: what /metrics, /health/kafka and the console show.

Reads every store at once in threads; one that does not answer is listed as such and stops nothing. Callers within
a fifth of a second share one snapshot, so that a crowd of scrapers costs one.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from kylo_outbox.model import stalls
from kylo_outbox.model.errors import NotReady, Transient
from kylo_outbox.store import heartbeats, notices, sessions
from kylo_outbox.store.backlog import Backlog, read_backlog, read_posted_upto
from kylo_outbox.store.server import clock
from kylo_outbox.store.standing import Standing, standing
from kylo_outbox.telemetry.samples import add_up, lasting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.heartbeats import Heartbeat
    from kylo_outbox.telemetry.metrics import Sample

Status = Literal["healthy", "degraded", "unhealthy"]
_SHARED: Final = 0.2
_RECENT: Final = 2.0
# Probes are given a second, as a rule.
_PATIENCE: Final = 0.5
_FORGET_FAILURE: Final = 5.0
_WORKERS: Final = 8


@dataclass(frozen=True, slots=True)
class StoreView:
    """One store: its backlog and lanes, who holds back transactions in its cluster, its clock minus ours in seconds.

    With an `error` all of it is empty.
    """

    name: str
    backlog: Backlog
    error: str | None = None
    lanes: tuple[Standing, ...] = ()
    holders: tuple[sessions.Holder, ...] = ()
    clock_difference: float = 0.0


@dataclass(frozen=True, slots=True)
class RelayView:
    """The relay as its heartbeat tells: any alive, one leading, the leader's contact with the broker in seconds."""

    alive: bool = False
    leading: bool = False
    publishing: bool = False
    via_kafka: bool = True
    contact_age: float | None = None

    @property
    def connected(self) -> bool:
        """Whether the leading relay heard from the broker within ten seconds."""
        return self.leading and self.contact_age is not None and self.contact_age < heartbeats.FRESH


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The system at one moment; `control_error` says why heartbeats are missing.

    `leaderless`: for how many seconds this process has seen nobody lead (store, lane).
    """

    at: datetime
    stores: tuple[StoreView, ...]
    beats: tuple[Heartbeat, ...]
    relay: RelayView
    control_error: str | None = None
    notices: tuple[notices.Notice, ...] = ()
    leaderless: Mapping[tuple[str, int], float] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """`unhealthy`: no live relay, or no broker for it. `degraded`: a store is away, or nobody leads just now."""
        if not self.relay.alive or (self.relay.leading and self.relay.via_kafka and not self.relay.connected):
            return "unhealthy"
        if not self.relay.leading or any(store.error for store in self.stores):
            return "degraded"
        return "healthy"

    @property
    def unprocessed(self) -> int:
        """Events that wait for Kafka in all reachable stores."""
        return sum(sum(store.backlog.unprocessed.values()) for store in self.stores)

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest event that waits."""
        return max((store.backlog.oldest_age for store in self.stores), default=0.0)

    @property
    def holders(self) -> list[sessions.Holder]:
        """Who holds back transactions, in the clusters of all reachable stores; each once."""
        found = {(one.kind, one.name, one.pid): one for store in self.stores for one in store.holders}
        return list(found.values())

    def running(self) -> list[Heartbeat]:
        """Rows of processes, living or silent, without the sums of those that were cleaned away."""
        return [beat for beat in self.beats if beat.instance != heartbeats.ENDED]

    def stuck(self) -> list[stalls.Stall]:
        """What stands still, anywhere: each kind is told within 30 seconds of its beginning."""
        found = {one: None for beat in self.running() for one in self._of_process(beat)}
        for (store, lane), seconds in self.leaderless.items():
            found |= dict.fromkeys(stalls.leaderless(store, lane, seconds))
        for view in self.stores:
            found |= dict.fromkeys(stalls.clocks(f"this process, {view.name}", view.clock_difference))
            for held in view.backlog.stuck_keys:
                found |= dict.fromkeys(stalls.held(view.name, *held))
        for one in self.holders:
            where = f"{one.kind} {one.name if one.pid is None else f'pid {one.pid}'} in {one.database or '-'}"
            found |= dict.fromkeys(stalls.transaction(where, one.age, one.line))
        found |= {stalls.notice(each.projector, each.kind, each.detail): None for each in self.notices}
        return list(found)

    def _of_process(self, beat: Heartbeat) -> Iterator[stalls.Stall]:
        if beat.alive:
            return stalls.process(beat.part, beat.instance, beat.age, beat.state)
        last = self.at - timedelta(seconds=beat.age + stalls.CLOCKS)
        replaced = any(each.alive and each.part == beat.part and each.started_at > last for each in self.beats)
        stopped = beat.state.get("stopped") is True
        return stalls.silent(beat.part, beat.instance, beat.age, stopped=stopped, replaced=replaced)

    def samples(self) -> list[Sample]:
        """Samples of every process, merged; gauges of dead ones are left out."""
        return add_up(beat.samples if beat.alive else lasting(beat.samples) for beat in self.beats)


class Overview:
    """Makes snapshots. Safe to share between threads.

    Args:
        control: The control store.
        stores: Lists every store, the control store among them; called for each snapshot, may raise `Transient`.
        own: (part, instance) under which this very process writes heartbeats; left out, because it adds its samples
            itself.
    """

    def __init__(
        self, control: Database, stores: Callable[[], Sequence[Database]], own: tuple[str, str] | None = None
    ) -> None:
        self._control = control
        self._stores = stores
        self._own = own
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="overview")
        self._lock = threading.Lock()
        self._made_at = -1.0
        self._last: Snapshot | None = None
        self._failures: dict[str, tuple[float, str]] = {}
        self._making: Future[Snapshot] | None = None
        self._making_since = 0.0
        self._leaderless = stalls.Lasting()

    def snapshot(self) -> Snapshot:
        """The system now, or up to 0.2 s ago; an outage is told inside and never raised."""
        with self._lock:
            if self._last is None or time.monotonic() - self._made_at > _SHARED:
                self._last = self._make()
                self._made_at = time.monotonic()
            return self._last

    def recent(self, patience: float = _PATIENCE) -> Snapshot | None:
        """The last snapshot, at most two seconds old; after `patience` one up to ten seconds old, or None."""
        if time.monotonic() - self._made_at > _RECENT:
            if self._making is None or self._making.done():
                self._making_since = time.monotonic()
                self._making = self._workers.submit(self.snapshot)
            wait([self._making], patience)
        return self._last if time.monotonic() - self._made_at < heartbeats.FRESH else None

    def silent(self) -> float:
        """For how many seconds a snapshot has been in the making; every question in it has a time limit."""
        making = self._making
        return 0.0 if making is None or making.done() else time.monotonic() - self._making_since

    def close(self) -> None:
        """Stop the threads that read the stores."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _make(self) -> Snapshot:
        beats: list[Heartbeat] = []
        posted: Mapping[str, int] = {}
        told: list[notices.Notice] = []
        error = None
        stores: Sequence[Database] = [self._control]
        try:
            with self._control.transaction() as conn:
                beats = [beat for beat in heartbeats.read(conn) if (beat.part, beat.instance) != self._own]
                posted = read_posted_upto(conn)
                told = [each for each in notices.read(conn) if each.accepted_at is None]
            stores = self._stores()
        except Transient as away:
            error = str(away)
            self._failures[self._control.name] = (time.monotonic() + _FORGET_FAILURE, error)
        views = tuple(self._workers.map(lambda store: self._view(store, posted), stores))
        unled = {
            (view.name, lane.lane) for view in views for lane in view.lanes if lane.parent is None and not lane.led
        }
        leaderless = self._leaderless.seconds(time.monotonic(), unled)
        return Snapshot(datetime.now(UTC), views, tuple(beats), relay_view(beats), error, tuple(told), leaderless)

    def _view(self, store: Database, posted: Mapping[str, int]) -> StoreView:
        until, why = self._failures.get(store.name, (0.0, ""))
        if time.monotonic() < until:
            return StoreView(store.name, Backlog(), why)
        try:
            with store.transaction() as conn:
                backlog = read_backlog(conn, posted)
                holders = tuple(sessions.holders(conn, stalls.OPEN_FOR))
                lanes = tuple(standing(conn))
                found = StoreView(store.name, backlog, None, lanes, holders, _difference(conn))
        except (Transient, NotReady) as away:
            self._failures[store.name] = (time.monotonic() + _FORGET_FAILURE, str(away))
            return StoreView(store.name, Backlog(), str(away))
        self._failures.pop(store.name, None)
        return found


def _difference(conn: Any) -> float:
    before = time.time()
    there = clock(conn)
    after = time.time()
    difference = there - (before + after) / 2
    # What may be the way there and back is no difference.
    return difference if abs(difference) > after - before else 0.0


def relay_view(beats: Sequence[Heartbeat]) -> RelayView:
    """What the heartbeats say of the relay; only those under ten seconds old count, standbys count as alive."""
    alive = [beat for beat in beats if beat.part == "relay" and beat.alive]
    leaders = [beat for beat in alive if beat.state.get("leader") is True]
    contacts = [
        beat.age + float(age) for beat in leaders if (age := beat.state.get("broker_contact_age_seconds")) is not None
    ]
    return RelayView(
        alive=bool(alive),
        leading=bool(leaders),
        publishing=any(beat.state.get("publishing") is True for beat in leaders),
        via_kafka=any(beat.state.get("via_kafka", True) for beat in leaders or alive),
        contact_age=min(contacts, default=None),
    )
