"""The life of one message: `Projection._live` and what it calls.

It ends applied, seen before, held behind a dead letter of its key, to be tried again (`Transient` leaves the batch as
it is), or dead. Effect, position and what the projector emits are one transaction of the database that holds the
effect; offsets are committed to Kafka afterwards.

Failures are buried after a round over the whole batch, because only then can it be told whether a few records are
poison or nearly everything fails. What comes after a failure of the same position waits for the next round.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kylo_outbox.flows.project.circuit import Circuit
from kylo_outbox.flows.project.release import Releases
from kylo_outbox.flows.project.retries import Retries
from kylo_outbox.model.delivery import place
from kylo_outbox.model.errors import CircuitOpen, Fatal, Stopping, Transient
from kylo_outbox.model.projector import EffectProjector, Projector
from kylo_outbox.model.upcast import lift
from kylo_outbox.store import dead_letters, keyholds, positions
from kylo_outbox.store.engine import SESSION_TIMEOUT, may_idle
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from kylo_outbox.flows.project.aside import Aside
    from kylo_outbox.model.delivery import Delivery, PositionAt, PositionKey
    from kylo_outbox.model.events import Event
    from kylo_outbox.model.topics import OnPoison
    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)
_TEND = 1.0
_SILENT = 60.0
_CIRCUIT = "circuit"


@dataclass(slots=True)
class _Round:
    """One look at a batch: what failed, what passed, and what must wait because something before it failed."""

    failed: list[tuple[Delivery, Exception, int]] = field(default_factory=list)
    behind: list[Delivery] = field(default_factory=list)
    passed: int = 0
    _blocked: set[PositionKey] = field(default_factory=set)

    def fail(self, delivery: Delivery, error: Exception, attempts: int) -> None:
        self.failed.append((delivery, error, attempts))
        self._blocked.add(delivery.position_key)

    def passing(self, part: Sequence[Delivery]) -> Sequence[Delivery]:
        if not self._blocked:
            return part
        self.behind += [delivery for delivery in part if delivery.position_key in self._blocked]
        return [delivery for delivery in part if delivery.position_key not in self._blocked]


class Projection:
    """Applies deliveries to one projector's effect. Safe to share between threads."""

    def __init__(
        self,
        projector: Projector,
        database_of: Callable[[Delivery], Database],
        dead_letter_topic: Callable[[str], str],
        *,
        on_poison: Callable[[str], OnPoison] | None = None,
        databases: Callable[[], Iterable[Database]] | None = None,
        aside: Aside | None = None,
        notices: Callable[[str, str, str | None], bool] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wire it.

        Args:
            projector: Whose effect.
            database_of: Where the effect of an event lives; may raise `Transient`.
            dead_letter_topic: Its name for a topic.
            on_poison: What holds for a topic; the projector's own policy without it.
            databases: Every database with effects of this projector that can be reached now, for `tend`.
            aside: Keeps what is for a database that is away; without it such records wait in place.
            notices: Tells (kind, subject, text or None for "over") to people; whether they have accepted it.
            stopping: Whether the process is to end: the search for bad records, which may be long, is broken off then.
        """
        self.projector = projector
        self._database_of = database_of
        self._dead_letter_topic = dead_letter_topic
        self._on_poison = on_poison or (lambda _topic: projector.on_poison)
        self._databases = databases or (list)
        self._aside = aside
        self._notices = notices or (lambda _kind, _subject, _text: False)
        self._stopping = stopping
        self._retries = Retries(stopping)
        self._silent: dict[str, float] = {}
        self._circuit = Circuit()
        # Unknown: whoever ran before may have left it open, and a person may have said yes to that one.
        self._open: bool | None = None
        self._tended_at = time.monotonic()

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Settle all of them, database by database, in the order given within each.

        Raises:
            Transient: nothing of the part that failed is stored; calling again with the same is harmless.
        """
        present = self._aside.behind(deliveries) if self._aside else deliveries
        for database, part in self._by_database(present):
            try:
                self.settle(database, part)
            except (CircuitOpen, Stopping):
                raise
            except Transient as away:
                self._put_aside(database, part, away)

    def _by_database(self, deliveries: Sequence[Delivery]) -> list[tuple[Database, list[Delivery]]]:
        parts: dict[int, tuple[Database, list[Delivery]]] = {}
        homes: dict[str, Database | Transient] = {}
        homeless: list[Delivery] = []
        for delivery in deliveries:
            key = delivery.event.key
            home = homes.get(key)
            if home is None:
                home = homes[key] = self._home(delivery)
            if isinstance(home, Transient):
                homeless.append(delivery)
            else:
                parts.setdefault(id(home), (home, []))[1].append(delivery)
        if homeless:
            why = next(home for home in homes.values() if isinstance(home, Transient))
            self._put_aside(None, homeless, why)
        return list(parts.values())

    def _home(self, delivery: Delivery) -> Database | Transient:
        try:
            return self._database_of(delivery)
        except Transient as away:
            return away

    def settle(self, database: Database, part: Sequence[Delivery]) -> None:
        """Settle what belongs to one database; raises like `handle`."""
        started, todo = time.monotonic(), part
        while todo:
            found = _Round()
            self._live(database, todo, 1, found)
            self._judge(found)
            for delivery, failed, attempts in found.failed:
                self._bury(database, delivery, failed, attempts)
            todo = found.behind
        metrics.PROJECTOR_APPLY.labels(self.projector.name).observe(time.monotonic() - started)

    def bury(self, delivery: Delivery, failed: Exception, attempts: int) -> None:
        """Set one record aside without trying it."""
        self._bury(self._database_of(delivery), delivery, failed, attempts)

    def tend(self, *, at_once: bool = False) -> None:
        """Go on with keys that were released or whose database is back; at most once a second. "Not now" is logged."""
        if not at_once and time.monotonic() - self._tended_at < _TEND:
            return
        self._tended_at = time.monotonic()
        releases = Releases(self.projector.name, self.attempt, self._release_failed, self._count, self._retries)
        databases: Iterable[Database] = []
        with self._patiently():
            databases = self._databases()
        # One database that is away stops nobody else's keys.
        for database in databases:
            with self._patiently():
                releases.run_once(database)
        if self._aside:
            with self._patiently():
                self._aside.drain(self._database_of, self.settle, self.bury, self._retries)

    def short_of(self, goals: Mapping[PositionKey, PositionAt]) -> Iterator[set[PositionKey]]:
        """Keys that are not known to be taken up to their goals, database by database.

        One that is away tells nothing of its keys, and is not asked again for a minute: it may take seconds each time.
        """
        homes: dict[str, tuple[Database | None, dict[PositionKey, PositionAt]]] = {}
        for key, at in goals.items():
            home = self._home(place(key, at))
            database = None if isinstance(home, Transient) or self._is_silent(home) else home
            homes.setdefault(database.dsn if database else "", (database, {}))[1][key] = at
        for database, those in homes.values():
            short = set(those)
            if database is not None:
                try:
                    with database.transaction() as tx:
                        short -= positions.reached(tx, self.projector.name, those)
                except Transient:
                    self._silent[database.dsn] = time.monotonic() + _SILENT
            yield short

    def _is_silent(self, database: Database) -> bool:
        return time.monotonic() < self._silent.get(database.dsn, 0.0)

    @contextmanager
    def _patiently(self) -> Iterator[None]:
        try:
            yield
        except Transient as not_now:
            log.debug("%s: what waits goes on waiting: %s", self.projector.name, not_now)

    @contextmanager
    def transaction(self, database: Database) -> Iterator[Any]:
        """One transaction as the projector wants it."""
        with database.transaction() as tx:
            if self.projector.session_timeout != SESSION_TIMEOUT:
                may_idle(tx, self.projector.session_timeout)
            yield tx

    def attempt(
        self, database: Database, take: Callable[[Any], Sequence[Delivery]], done: Callable[[Any], None]
    ) -> int:
        """Apply what `take` finds and call `done`, all in one transaction; how many events that were.

        An outside effect is performed between two transactions; the second one does nothing if `take` finds something
        else by then, because then somebody else was faster.
        """
        if not isinstance(self.projector, EffectProjector):
            with self.transaction(database) as tx:
                taken = take(tx)
                if taken:
                    self.projector.apply(tx, self.events(taken))
                done(tx)
            return len(taken)
        with database.transaction() as tx:
            taken = take(tx)
        if taken:
            self.projector.perform(self.events(taken))
        with database.transaction() as tx:
            same = [delivery.position for delivery in take(tx)] == [delivery.position for delivery in taken]
            if same:
                done(tx)
        return len(taken) if same else 0

    def _live(self, database: Database, given: Sequence[Delivery], attempts: int, found: _Round) -> None:
        part = found.passing(given)
        if not part:
            return  # held back for the next round
        try:
            split = self._apply(database, part)
        except (Transient, Fatal):  # try again
            self._count("retried", len(part))
            raise
        except Exception as failed:
            if self._stopping():
                raise Stopping(f"{self.projector.name}: stopped while bad records were looked for") from failed
            if len(part) > 1:
                middle = len(part) // 2
                self._live(database, part[:middle], attempts + 1, found)
                self._live(database, part[middle:], attempts + 1, found)
            else:  # dead
                found.fail(part[0], failed, attempts)
        else:
            # What had passed before a search was broken off passes as a repeat: it tells as much of the others.
            found.passed += len(split.fresh) + (len(split.seen) if attempts > 1 else 0)
            self._count("applied", len(split.fresh))
            self._count("held", len(split.held))  # behind a dead letter
            self._count("duplicate", len(split.seen))  # seen before

    def _apply(self, database: Database, part: Sequence[Delivery]) -> positions.Split:
        if isinstance(self.projector, EffectProjector):
            return self._perform(database, self.projector, part)
        name = self.projector.name
        with self.transaction(database) as tx:
            split = positions.split(tx, name, part)
            if split.fresh:
                self.projector.apply(tx, self.events(split.fresh))
            keyholds.queue(tx, name, "dead", split.held)
            with tx.pipeline():
                # The commit travels with the last statement: a round trip less.
                positions.move(tx, name, split.taken, split.seen)
                tx.commit()
        self._observe_delay(split.fresh)
        return split

    def _perform(self, database: Database, projector: EffectProjector, part: Sequence[Delivery]) -> positions.Split:
        with database.transaction() as tx:
            split = positions.split(tx, projector.name, part)
        if split.fresh:
            projector.perform(self.events(split.fresh))
        performed = {id(delivery) for delivery in split.fresh}
        with database.transaction() as tx:
            # Split again: whoever performed the same meanwhile has moved the position already. What was performed
            # although its key is held by now counts as done; what was held and is free by now waits for its turn.
            split = positions.split(tx, projector.name, part)
            late = [delivery for delivery in split.fresh if id(delivery) not in performed]
            if late:
                raise Transient(f"{projector.name}: a key was released meanwhile")
            waiting = [delivery for delivery in split.held if id(delivery) not in performed]
            keyholds.queue(tx, projector.name, "dead", waiting)
            positions.move(tx, projector.name, split.taken, split.seen)
        self._observe_delay(split.fresh)
        return split

    def _judge(self, found: _Round) -> None:
        failed = [delivery for delivery, _, _ in found.failed]
        if failed and self._circuit.opens(failed, found.passed):
            reason, _ = dead_letters.reason_of(found.failed[-1][1])
            text = f"most of what arrives fails, nothing is set aside until it passes again; the last reason: {reason}"
            accepted = self._notices(_CIRCUIT, "", text)
            self._open = True
            if not accepted:
                metrics.PROJECTOR_CIRCUIT.labels(self.projector.name).set(1)
                raise CircuitOpen(f"{self.projector.name}: {text}")
        elif self._open is not False and found.passed:
            self._notices(_CIRCUIT, "", None)
            self._open = False
            metrics.PROJECTOR_CIRCUIT.labels(self.projector.name).set(0)
        self._circuit.settled(failed, found.passed)

    def _bury(self, database: Database, delivery: Delivery, failed: Exception, attempts: int) -> None:
        name = self.projector.name
        with database.transaction() as tx:
            split = positions.split(tx, name, [delivery])
            if split.fresh:
                self._lay_down(tx, delivery, failed, attempts)
            keyholds.queue(tx, name, "dead", split.held)
            positions.move(tx, name, split.taken, split.seen)
        self._count("held", len(split.held))
        if split.fresh:
            self._tell_dead(delivery, failed)

    def _lay_down(self, tx: Any, delivery: Delivery, failed: Exception, attempts: int) -> tuple[int | None, str]:
        name, topic = self.projector.name, delivery.event.topic
        policy = self._on_poison(topic) if delivery.hold_key else "skip"
        letter = dead_letters.bury(tx, name, delivery, failed, attempts, self._dead_letter_topic(topic), policy)
        reason, _ = dead_letters.reason_of(failed)
        if policy == "hold" and delivery.hold_key:
            keyholds.hold(tx, keyholds.Hold(name, "dead", delivery.hold_key, reason, letter))
        return letter, reason

    def _release_failed(self, tx: Any, hold: keyholds.Hold, delivery: Delivery, failed: Exception) -> None:
        """A held event is poison too: the key waits behind it from now on."""
        letter, reason = self._lay_down(tx, delivery, failed, 1)
        keyholds.hold_again(tx, hold, letter, reason)
        self._tell_dead(delivery, failed)

    def _put_aside(self, database: Database | None, part: Sequence[Delivery], away: Transient) -> None:
        if self._aside is None or not self._aside.takes(database, part):
            raise away
        self._aside.put(part, str(away))
        self._count("held", len(part))

    def events(self, deliveries: Sequence[Delivery]) -> list[Event]:
        """What the projector gets to see: older versions lifted."""
        upcasters = self.projector.upcasters
        if not upcasters:
            return [delivery.event for delivery in deliveries]
        return [lift(delivery.event, upcasters) for delivery in deliveries]

    def _tell_dead(self, delivery: Delivery, failed: Exception) -> None:
        reason, _ = dead_letters.reason_of(failed)
        self._count("dead", 1)
        metrics.DLQ_MESSAGES_TOTAL.labels(reason=type(failed).__name__).inc()
        log.error(
            "%s: dead letter %s key %s: %s", self.projector.name, delivery.event.topic, delivery.event.key, reason
        )

    def _count(self, outcome: str, number: int) -> None:
        if number:
            metrics.CONSUMER_RECORDS.labels(self.projector.name, outcome).inc(number)

    def _observe_delay(self, fresh: Sequence[Delivery]) -> None:
        if fresh and fresh[0].event.created_at is not None:
            delay = time.time() - fresh[0].event.created_at.timestamp()
            metrics.PROJECTOR_DELAY.labels(self.projector.name).observe(max(0.0, delay))
