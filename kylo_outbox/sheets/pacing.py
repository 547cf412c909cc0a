"""Keeping under Google's quota: each call asks first, and all processes of one account share the answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kylo_outbox.sheets.errors import QuotaExceeded
from kylo_outbox.store import quota
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.quota import Kind

PER_MINUTE = 60
"""What Google allows one account, of reads and of writes."""

PATIENCE = 5.0


class Pacer:
    """Asks for each call whether it may be made now. Safe to share between threads and processes.

    Args:
        control: Where the calls of all processes are counted.
        account: Who calls, as Google counts: project and account.
        reads: Reads in any minute.
        writes: Writes in any minute.
        patience: A wait of up to so many seconds is waited here; a longer one is left to the caller as an error.
        wait: Waits so many seconds; a test gives one that moves its clock.
        clock: None is the database's clock; a test gives its own.
    """

    def __init__(
        self,
        control: Database,
        account: str,
        *,
        reads: int = PER_MINUTE,
        writes: int = PER_MINUTE,
        patience: float = PATIENCE,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._control, self._account = control, account
        self._limits: dict[Kind, int] = {"read": reads, "write": writes}
        self._patience, self._wait, self._clock = patience, wait, clock

    def modest(self) -> Pacer:
        """The same quota for work that can wait: it uses half of what is free and leaves the rest to posts."""
        half = {kind: max(1, limit // 2) for kind, limit in self._limits.items()}
        return Pacer(
            self._control,
            self._account,
            reads=half["read"],
            writes=half["write"],
            patience=self._patience,
            wait=self._wait,
            clock=self._clock,
        )

    def before(self, kind: Kind) -> None:
        """Return when the next call may be made.

        Raises:
            QuotaExceeded: The wait would be long; `retry_after` tells how long. Nothing was counted.
            Transient: The control database is away.
        """
        with self._control.transaction() as tx:
            grant = quota.reserve(
                tx, self._account, kind, limit=self._limits[kind], patience=self._patience, now=self._now()
            )
        metrics.SHEETS_QUOTA_WAIT.inc(grant.wait)
        if not grant.allowed:
            raise QuotaExceeded(f"{self._limits[kind]} {kind}s a minute are used up", grant.wait)
        if grant.wait > 0:
            self._wait(grant.wait)

    def refused(self, kind: Kind, seconds: float) -> None:
        """Google answered "too many" all the same: nobody calls for so many seconds."""
        with self._control.transaction() as tx:
            quota.postpone(tx, self._account, kind, seconds, self._now())

    def _now(self) -> datetime | None:
        return self._clock() if self._clock is not None else None
