"""A worker in a loop: run it, wait as its result says, wait longer after "not now", stop on request."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Protocol

from kylo_outbox.model.errors import Fatal, KyloError, Transient
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
    """When a loop last came round; the watchdog looks at it, because a thread can die without a trace."""

    def __init__(self) -> None:
        self.at = time.monotonic()

    def beat(self) -> None:
        """Say that the loop is alive."""
        self.at = time.monotonic()

    def age(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self.at


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
                # One line an outage, not one a try.
                if str(away) != told:
                    log.warning("%s waits: %s", worker.name, away)
                    told = str(away)
            else:
                if told:
                    log.info("%s goes on", worker.name)
                    told = ""
                backoff.succeeded()
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
