"""Finding what kills the process among events that wait; live records are watched by `deaths`.

Whoever goes on with a key, or tries a dead letter again, writes that down before and takes it back afterwards. Who
finds what another worker never took back goes on one event at a time; the one in front at three deaths is set aside.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from kylo_outbox.flows.project.deaths import DEATHS, killer
from kylo_outbox.model.errors import Stopping, Transient
from kylo_outbox.store import retries
from kylo_outbox.store.keyholds import Hold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kylo_outbox.model.errors import Poison
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.retries import Subject

BATCH = 500
"""Events of a key that are applied at once; so many go one at a time after a death."""

_RENEW = 2.0


class Retries:
    """The marks of one projector's worker.

    Args:
        stopping: Whether the process is to end.
    """

    def __init__(self, stopping: Callable[[], bool] = lambda: False) -> None:
        self._process = uuid.uuid4()
        self._stopping = stopping

    @contextmanager
    def of(self, database: Database, subject: Subject) -> Iterator[Retry | None]:
        """Around the work on a hold or dead letter of `database`; None while another worker is at it.

        Raises:
            Stopping: nothing new is begun any more.
        """
        if self._stopping():
            raise Stopping("what waits goes on with the next start")
        with database.transaction() as tx:
            deaths = retries.begin(tx, subject, self._process)
        if deaths is None:
            yield None
            return
        over = threading.Event()
        threading.Thread(target=self._renew, args=(database, subject, over), name="still at it", daemon=True).start()
        try:
            yield Retry(subject, self._process, deaths, self._stopping)
        except Exception:
            self._rest(database, subject)
            raise
        finally:
            over.set()
        self._rest(database, subject)

    def _renew(self, database: Database, subject: Subject, over: threading.Event) -> None:
        # However long one attempt takes (many posts to a tab): whoever is stopped or dead does not come here.
        while not over.wait(_RENEW):
            with suppress(Transient), database.transaction() as tx:
                retries.renew(tx, subject, self._process)

    def _rest(self, database: Database, subject: Subject) -> None:
        # A mark that cannot be taken back for now is still ours, and no death for the next try.
        with suppress(Transient), database.transaction() as tx:
            retries.rest(tx, subject, self._process)


class Retry:
    """One spell of work on a hold or dead letter."""

    def __init__(self, subject: Subject, process: uuid.UUID, deaths: int, stopping: Callable[[], bool]) -> None:
        self._subject, self._process, self._stopping = subject, process, stopping
        self._deaths, self._alone = deaths, BATCH if deaths else 0

    @property
    def killer(self) -> Poison | None:
        """What is to be said about the first event in line if it has killed too often."""
        # The first death of a line was perhaps that of a whole batch.
        alone = self._deaths - isinstance(self._subject, Hold)
        return killer() if alone >= DEATHS else None

    def most(self, wanted: int) -> int:
        """How many events may be applied together now; raises `Stopping` once the process is to end."""
        if self._stopping():
            raise Stopping("the rest goes on with the next start")
        return 1 if self._alone else wanted

    def passed(self, tx: Any) -> None:
        """What was in front is applied with this transaction; the next one begins without its deaths."""
        self._alone = max(0, self._alone - 1)
        self._deaths = 1 if self._alone else 0
        # Also after a long transaction: who waited for it must not take it for that of a dead process.
        retries.count(tx, self._subject, self._process, self._deaths)
