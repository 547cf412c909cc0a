"""A worker in a loop: run it, wait as its result says, wait longer after "not now", stop on request."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

from kylo_outbox.model.errors import Fatal, KyloError, QuotaSpent, Transient
from kylo_outbox.model.stalls import PATIENCE
from kylo_outbox.runtime.backoff import Backoff

if TYPE_CHECKING:
    from kylo_outbox.runtime.stop import Stop

log = logging.getLogger(__name__)
_BEAT = 5.0


class Result(Protocol):
    """What one run tells the loop: seconds until the next one makes sense (0: at once)."""

    @property
    def pause(self) -> float:
        """Seconds the worker may be left alone."""
        ...


class Worker(Protocol):
    """Anything with one step and an end."""

    @property
    def name(self) -> str:
        """For log lines and the watchdog."""
        ...

    def run_once(self) -> Result:
        """Do one bounded piece of work."""
        ...

    def close(self) -> None:
        """Finish what is in hand and give everything back; called once, also after a failure."""
        ...


class Pulse:
    """When a loop last came round, and what it waits for; looked at from outside, as a thread can die without a trace.

    `allowed` is for how many seconds it may be silent before people are told.
    """

    def __init__(self, allowed: float = PATIENCE) -> None:
        self.at = time.monotonic()
        self.allowed = allowed
        self._waits: tuple[float, Exception] | None = None

    def beat(self) -> None:
        """Say that the loop is alive."""
        self.at = time.monotonic()

    def age(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self.at

    def waits(self, why: Exception) -> None:
        """Say what the loop waits for, or why it does not last; the first one counts for how long."""
        self._waits = (self._waits[0] if self._waits else time.monotonic(), why)

    def goes_on(self) -> None:
        """Say that it waits no more."""
        self._waits = None

    def report(self, name: str) -> dict[str, Any]:
        """For the heartbeat: `silent` and `waits` (None while it does not) in seconds, and `why`."""
        waits = self._waits
        return {
            "name": name,
            "silent": self.age(),
            "allowed": self.allowed,
            "waits": None if waits is None else time.monotonic() - waits[0],
            "why": "" if waits is None else str(waits[1]),
            "quota": waits is not None and isinstance(waits[1], QuotaSpent),
        }


def run(worker: Worker, stop: Stop, pulse: Pulse) -> None:
    """Run `worker` until `stop`; `Transient` waits in place, `Fatal` ends the loop (its supervisor starts it anew)."""
    backoff = Backoff()
    told = ""
    try:
        while not stop.is_set():
            pulse.beat()
            try:
                pause = worker.run_once().pause
            except Transient as away:
                # Whoever said when to come back (a quota) is believed.
                pause = max(backoff.failed(), float(getattr(away, "retry_after", 0.0)))
                pulse.waits(away)
                # One line an outage, not one a try; what a stop interrupts is no outage.
                if str(away) != told and not stop.is_set():
                    log.warning("%s waits: %s", worker.name, away)
                    told = str(away)
            else:
                if told:
                    log.info("%s goes on", worker.name)
                    told = ""
                backoff.succeeded()
                pulse.goes_on()
            # A long wait (a quota) is no hanging: the pulse goes on.
            while pause > 0 and not stop.wait(min(pause, _BEAT)):
                pulse.beat()
                pause -= _BEAT
    except Fatal as fatal:
        log.error("%s stops: %s", worker.name, fatal)  # noqa: TRY400 - the message is the whole story
        raise
    finally:
        _close(worker)


def _close(worker: Worker) -> None:
    try:
        worker.close()
    except KyloError as failed:
        log.warning("%s did not close cleanly: %s", worker.name, failed)
