"""Loops, waiting and supervision: a worker that fails is run again, one that must stop stops, none dies unseen."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from kylo_outbox.model.errors import Fatal, QuotaSpent, Stopping, Transient
from kylo_outbox.runtime.backoff import Backoff
from kylo_outbox.runtime.loop import Pulse, run
from kylo_outbox.runtime.schedule import Schedule
from kylo_outbox.runtime.stop import Stop


class Scripted:
    """A worker that does what a list says, then stops its loop."""

    name = "scripted"

    def __init__(self, stop, *steps):
        self._stop, self._steps = stop, list(steps)
        self.turns, self.closed = 0, threading.Event()

    def run_once(self):
        """Do the next step."""
        self.turns += 1
        if not self._steps:
            self._stop.set()
            return SimpleNamespace(pause=0.0)
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return SimpleNamespace(pause=step)

    def close(self):
        """Be closed."""
        self.closed.set()


def test_not_now_is_tried_again_and_told_once(caplog):
    """Three failures in a row are one warning, and the loop goes on."""
    stop = Stop()
    worker = Scripted(stop, 0.0, Transient("away"), Transient("away"), Transient("away"), 0.0)
    run(worker, stop, Pulse())
    assert worker.turns == 6
    assert worker.closed.is_set()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_what_a_stop_breaks_off_is_no_outage(caplog):
    """A worker that says "not now" because it is to end warns nobody."""
    stop = Stop()

    class Breaks(Scripted):
        def run_once(self):
            stop.set()
            return super().run_once()

    run(Breaks(stop, Stopping("broken off")), stop, Pulse())
    assert caplog.records == []


def test_fatal_ends_the_loop_and_closes_the_worker():
    """A worker that would do harm by going on is closed and its error handed to the supervisor."""
    stop = Stop()
    worker = Scripted(stop, Fatal("taken over"))
    with pytest.raises(Fatal):
        run(worker, stop, Pulse())
    assert worker.closed.is_set()


def test_backoff_grows_is_bounded_and_forgets():
    """Waiting never exceeds the limit, and a success starts over."""
    backoff = Backoff(longest=0.5, first=0.1)
    assert all(0 <= backoff.failed() <= 0.5 for _ in range(50))
    backoff.succeeded()
    assert backoff.failed() <= 0.2


def test_the_schedule_starts_a_broken_worker_again():
    """A loop that ends by an error is built and run again; stopping waits for its end."""
    stop = Stop()
    built: list[Any] = []
    second = threading.Event()

    def build():
        broken: Any = Scripted(Stop(), Fatal("first")) if not built else SimpleNamespace(name="second")
        if built:
            broken.run_once = lambda: (second.set(), SimpleNamespace(pause=0.01))[1]
            broken.close = lambda: None
        built.append(broken)
        return broken

    schedule = Schedule(stop)
    schedule.keep_running("worker", build)
    schedule.start()
    assert second.wait(10)
    assert schedule.pulse_ages()["worker"] < 5
    schedule.stop()
    assert len(built) == 2


def test_a_failing_job_comes_again():
    """What a job raises is logged, and its next run comes all the same."""
    stop, twice = Stop(), threading.Event()
    runs = []

    def job():
        runs.append(1)
        if len(runs) == 2:
            twice.set()
        raise ValueError("no luck")

    schedule = Schedule(stop)
    schedule.every(0.1, "job", job)
    schedule.start()
    assert twice.wait(10)
    schedule.stop()


def test_a_wait_is_told_from_its_beginning_until_it_is_over():
    """Several failures in a row are one wait, with the newest reason; a quota is told apart; a success ends it."""
    pulse = Pulse()
    pulse.waits(Transient("first"))
    pulse._waits = (pulse._waits[0] - 20.0, pulse._waits[1]) if pulse._waits else None
    pulse.waits(QuotaSpent("60 a minute"))
    told = pulse.report("project sheets")
    assert told["waits"] >= 20.0
    assert (told["name"], told["why"], told["quota"]) == ("project sheets", "60 a minute", True)
    pulse.goes_on()
    assert (pulse.report("x")["waits"], pulse.report("x")["quota"]) == (None, False)


def test_the_loop_says_that_it_waits_and_that_it_goes_on():
    """While the worker raises "not now" its pulse says so, and the next good turn takes it back."""
    stop, pulse, seen = Stop(), Pulse(), []
    worker = Scripted(stop, Transient("away"), 0.0)
    run_once = worker.run_once

    def watched():
        seen.append(pulse.report("x")["why"])
        return run_once()

    worker.run_once = watched
    run(worker, stop, pulse)
    assert seen == ["", "away", ""]


def test_a_worker_that_cannot_be_built_waits():
    """Its supervisor tries again every second; from outside that is a wait, not a loop that comes round."""
    stop, twice = Stop(), threading.Event()
    tries = []

    def build():
        tries.append(1)
        if len(tries) == 2:
            twice.set()
        raise Fatal("no such table")

    schedule = Schedule(stop)
    schedule.keep_running("project x", build)
    schedule.start()
    assert twice.wait(10)
    [told] = schedule.report()
    schedule.stop()
    assert told["why"] == "no such table"
    assert told["waits"] > 0


def test_a_job_that_hangs_is_silent_and_the_watchdog_still_looks(monkeypatch):
    """Jobs that never end take every thread of the scheduler's; the watchdog has its own."""
    monkeypatch.setattr("kylo_outbox.runtime.schedule._LOOK_EVERY", 0.01)
    stop, release, looked = Stop(), threading.Event(), threading.Event()
    schedule = Schedule(stop)
    schedule._look_at_pulses = looked.set
    busy = threading.Semaphore(0)
    for number in range(8):
        schedule.every(0.2, f"job {number}", lambda: (busy.release(), release.wait(30)))
    schedule.start()
    for _ in range(8):
        assert busy.acquire(timeout=10)
    looked.clear()
    assert looked.wait(10)
    schedule._jobs["job 3"].at -= 20.0
    told = {each["name"]: each["silent"] > each["allowed"] for each in schedule.report()}
    release.set()
    schedule.stop()
    assert [name for name, late in told.items() if late] == ["job 3"]


def test_a_loop_that_no_longer_moves_ends_the_process(monkeypatch, caplog):
    """The watchdog sees its pulse grow old, tells where every thread stands, and leaves, for a new process."""
    hangs, release = threading.Event(), threading.Event()

    def hang_for_ever():
        hangs.set()
        release.wait(30)

    hanging = threading.Thread(target=hang_for_ever, name="the one that hangs")
    hanging.start()
    assert hangs.wait(10)
    left: list[int] = []
    monkeypatch.setattr("kylo_outbox.runtime.schedule.os._exit", left.append)
    schedule = Schedule(Stop())
    dead: Any = SimpleNamespace(age=lambda: 61.0)
    schedule._pulses["dead"] = dead
    schedule._look_at_pulses()
    release.set()
    hanging.join()
    assert left == [70]
    assert any("the one that hangs" in line and "in hang_for_ever" in line for line in caplog.messages)


def test_a_job_that_adds_jobs_while_everything_stops_holds_nobody_up():
    """A relay that finds another lane just then ends all the same."""
    schedule, begun = Schedule(Stop()), threading.Event()

    def grows():
        begun.set()
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            schedule.every(3600.0, "another", lambda: None, at_once=False)

    schedule.every(3600.0, "grows", grows)
    schedule.start()
    assert begun.wait(10)
    stopping = threading.Thread(target=schedule.stop, daemon=True)
    stopping.start()
    stopping.join(20)
    assert not stopping.is_alive()
