"""Scheduled jobs. The scheduler supervises: a worker's loop is a job that is started again whenever it has ended.

APScheduler skips a job whose former run has not ended (`max_instances=1`), so a worker runs once at a time; and it
never hears of a run that died without a trace, which is why each loop has a pulse that the watchdog looks at. The
watchdog is a thread of its own: jobs that hang would take the scheduler's threads from it.
"""

from __future__ import annotations

import logging
import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.util import undefined

from kylo_outbox.model.errors import KyloError
from kylo_outbox.model.stalls import PATIENCE
from kylo_outbox.runtime.loop import Pulse, Worker, run
from kylo_outbox.runtime.threads import standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from kylo_outbox.runtime.stop import Stop

log = logging.getLogger(__name__)
_RESTART = 1.0
_STUCK = 60.0
_LOOK_EVERY = 5.0


class Schedule:
    """Jobs of one process. `start`, then `stop`; both harmless when repeated."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._pulses: dict[str, Pulse] = {}
        self._jobs: dict[str, Pulse] = {}
        self._pools = {"default": ThreadPoolExecutor(8), "workers": ThreadPoolExecutor(256)}
        self._scheduler = BackgroundScheduler(
            executors=self._pools,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone="UTC",
        )
        self._started = False

    def every(self, seconds: float, name: str, job: Callable[[], Any], *, at_once: bool = True) -> None:
        """Run `job` every `seconds`; what it raises is logged and the next run comes all the same.

        A run may last as long as the time between two of them (15 seconds at least) before people are told.
        """
        pulse = self._jobs[name] = Pulse(seconds + PATIENCE)

        def guarded() -> None:
            pulse.allowed = max(seconds, PATIENCE)
            pulse.beat()
            try:
                job()
            except KyloError as failed:
                log.warning("job %s failed: %s", name, failed)
            except Exception:
                log.exception("job %s failed", name)
            pulse.allowed = seconds + PATIENCE
            pulse.beat()

        self._add(guarded, seconds, name, "default", at_once=at_once)

    def keep_running(self, name: str, build: Callable[[], Worker]) -> None:
        """Build a worker and run its loop until stopped; when it ends by an error, build and run a new one."""
        pulse = self._pulses[name] = Pulse()

        def supervised() -> None:
            if self._stop.is_set():
                return
            pulse.beat()
            try:
                run(build(), self._stop, pulse)
            except KyloError as failed:
                log.warning("%s ended and is started again: %s", name, failed)
                pulse.waits(failed)
            except Exception as failed:
                log.exception("%s ended and is started again", name)
                pulse.waits(failed)

        self._add(supervised, _RESTART, name, "workers", at_once=True)

    def start(self) -> None:
        """Begin, and watch over the loops."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
            self._scheduler.start()

    def stop(self) -> None:
        """Ask everything to stop and wait until it has."""
        self._stop.set()
        if self._started:
            self._started = False
            # The scheduler's own way of waiting keeps its lock meanwhile: a job that adds one would never end.
            self._scheduler.pause()
            self._scheduler.get_jobs()  # whatever is handed out just now has been
            for pool in self._pools.values():
                pool.shutdown(wait=True)
            self._scheduler.shutdown(wait=False)

    def report(self) -> list[dict[str, Any]]:
        """Every loop and job for the heartbeat: for how long it is silent or waits."""
        return [pulse.report(name) for name, pulse in (self._pulses | self._jobs).items()]

    def pulse_ages(self) -> dict[str, float]:
        """Seconds since each loop last came round."""
        return {name: pulse.age() for name, pulse in self._pulses.items()}

    def _add(self, job: Callable[[], None], seconds: float, name: str, pool: str, *, at_once: bool) -> None:
        first = datetime.now(UTC) if at_once else undefined
        self._scheduler.add_job(
            job, "interval", seconds=seconds, id=name, executor=pool, next_run_time=first, replace_existing=True
        )

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_EVERY):
            self._look_at_pulses()

    def _look_at_pulses(self) -> None:
        for name, age in self.pulse_ages().items():
            if age > _STUCK and not self._stop.is_set():
                # A thread that hangs or died unseen cannot be mended from inside; a new process can.
                for text in standing():
                    log.error("%s", text)
                log.critical("%s has not moved for %.0f s: leaving, so that the supervisor starts anew", name, age)
                os._exit(70)
