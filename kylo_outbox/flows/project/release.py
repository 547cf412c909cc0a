"""Going on with keys that a person has let go: the dead letter first, then what waits behind it, in order.

The running projector does it, in transactions of its own database. The hold is locked FOR UPDATE from the look at the
queue to the commit of the effect, so nobody else works on the key and nobody queues behind a hold that ends.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from kylo_outbox.flows.project.retries import BATCH
from kylo_outbox.model.errors import Fatal, Stopping, Transient
from kylo_outbox.store import dead_letters, keyholds
from kylo_outbox.store.engine import answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.flows.project.retries import Retries, Retry
    from kylo_outbox.model.delivery import Delivery
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.keyholds import Hold

log = logging.getLogger(__name__)


class Attempt(Protocol):
    """Applies what `take` finds and calls `done`, in one transaction."""

    def __call__(  # noqa: D102
        self, database: Database, take: Callable[[Any], Sequence[Delivery]], done: Callable[[Any], None]
    ) -> int: ...


class Releases:
    """One round over what is released in a database."""

    def __init__(
        self,
        projector: str,
        attempt: Attempt,
        bury: Callable[[Any, Hold, Delivery, Exception], None],
        count: Callable[[str, int], None],
        retries: Retries,
    ) -> None:
        self._projector = projector
        self._attempt = attempt
        self._bury = bury
        self._count = count
        self._retries = retries

    def run_once(self, database: Database) -> None:
        """Drain every released key and try every single dead letter that is to be tried.

        One that must wait (its company is being moved) keeps none of the others waiting.

        Raises:
            Transient: not now; what is not done stays released.
        """
        with database.transaction() as tx:
            holds = keyholds.released(tx, self._projector)
            letters = dead_letters.to_retry(tx, self._projector)
        todo = [partial(self._drain, database, hold) for hold in holds]
        todo += [partial(self._retry, database, letter) for letter in letters]
        not_now: Transient | None = None
        for go_on in todo:
            try:
                go_on()
            except Stopping:
                raise
            except Transient as away:
                not_now = not_now or away
                if not answers(database):
                    break
        if not_now:
            raise not_now

    def _drain(self, database: Database, hold: Hold) -> None:
        with self._retries.of(database, hold) as retry:
            if retry is None:
                return
            if killer := retry.killer:
                self._give_up(database, hold, killer)
            else:
                self._go_on(database, hold, retry)

    def _go_on(self, database: Database, hold: Hold, retry: Retry) -> None:
        size = BATCH
        while True:
            front = _Front(hold, retry.most(size), retry)
            failed = self._failure(database, front.take, front.done)
            if failed is None:
                if front.over:
                    log.info("%s: key %s goes on", self._projector, hold.key[2])
                    return
            elif front.length > 1:
                # The first bad one is looked for.
                size = front.length // 2
            else:
                self._give_up(database, hold, failed, front.first)
                return

    def _give_up(
        self, database: Database, hold: Hold, failed: Exception, position: tuple[int, int] | None = None
    ) -> None:
        """The first one in line (that at `position`) cannot be applied: the key waits again, behind it."""
        with database.transaction() as tx:
            again = _Front(hold, 1)
            line = again.take(tx)
            if not line or position not in {None, line[0].position}:
                return  # somebody else went on with the key
            if again.letter is not None:
                reason = dead_letters.failed_again(tx, again.letter, failed)
                keyholds.hold_again(tx, hold, again.letter, reason)
            else:
                keyholds.forget(tx, again.places)
                self._bury(tx, hold, line[0], failed)
        log.warning("%s: key %s waits again: %s", self._projector, hold.key[2], failed)

    def _retry(self, database: Database, letter: int) -> None:
        found: list[Delivery] = []

        def take(tx: Any) -> list[Delivery]:
            tried = dead_letters.tried(tx, letter)
            found[:] = [] if tried is None else [tried]
            return found

        def done(tx: Any) -> None:
            # Not what a person has settled meanwhile.
            if found:
                dead_letters.settle(tx, letter, "applied")

        with self._retries.of(database, letter) as retry:
            if retry is None:
                return
            failed: Exception | None = retry.killer
            if failed is None:
                failed = self._failure(database, take, done)
            if failed is None:
                return
            with database.transaction() as tx:
                if dead_letters.tried(tx, letter) is None:
                    return
                dead_letters.failed_again(tx, letter, failed)
            log.warning("%s: dead letter %d failed again: %s", self._projector, letter, failed)

    def _failure(
        self, database: Database, take: Callable[[Any], Sequence[Delivery]], done: Callable[[Any], None]
    ) -> Exception | None:
        """Apply what `take` finds; what is wrong with it, None if it is applied. `Transient` and `Fatal` are raised."""
        try:
            self._count("applied", self._attempt(database, take, done))
        except (Transient, Fatal):
            raise
        except Exception as failed:  # noqa: BLE001 - whatever a projector raises: it is shown with the dead letter
            return failed
        return None


class _Front:
    """The first events in line of one key: the dead letter, if it is open, and what waits behind it."""

    def __init__(self, hold: Hold, size: int, retry: Retry | None = None) -> None:
        self.hold, self._size, self._retry = hold, size, retry
        self.letter: int | None = None
        self.places: list[int] = []
        self.first: tuple[int, int] | None = None
        self.length = 0
        self.over = False

    def take(self, tx: Any) -> list[Delivery]:
        """Lock the hold and read the front of the line; empty if the key is not released any more."""
        locked = keyholds.lock(tx, self.hold)
        if locked is None or not locked[1]:
            self.over = True
            return []
        head = dead_letters.open_letter(tx, locked[0])
        self.letter = locked[0] if head is not None else None
        # A statement of its own after the lock: it sees what was queued while the lock was waited for.
        waiting = keyholds.waiting(tx, self.hold, self._size - (head is not None))
        self.places = [place for place, _ in waiting]
        taken = [*([head] if head is not None else []), *(delivery for _, delivery in waiting)]
        self.first, self.length = (taken[0].position if taken else None), len(taken)
        if not taken:
            keyholds.let_go(tx, self.hold)
            self.over = True
        return taken

    def done(self, tx: Any) -> None:
        """They are applied."""
        if self.letter is not None:
            dead_letters.settle(tx, self.letter, "applied")
        keyholds.forget(tx, self.places)
        if self._retry is not None:
            self._retry.passed(tx)
