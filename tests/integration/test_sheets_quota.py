"""The quota of one Google account, shared by every process through one row."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kylo_outbox.sheets.errors import QuotaExceeded
from kylo_outbox.sheets.pacing import Pacer
from kylo_outbox.telemetry import metrics

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that moves when somebody waits."""

    def __init__(self) -> None:
        self.now = START
        self.waited = 0.0

    def __call__(self) -> datetime:
        """The time now."""
        return self.now

    def wait(self, seconds: float) -> None:
        """Move on."""
        self.waited += seconds
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    """A clock of the test's own."""
    return Clock()


def pacer(control_db, clock, **changes: Any) -> Pacer:
    """A pacer on the test's clock that waits as long as it takes."""
    given: dict[str, Any] = {"patience": 1000.0, "wait": clock.wait, "clock": clock} | changes
    return Pacer(control_db, "project/account", **given)


def most_in_a_minute(calls: list[datetime]) -> int:
    """The most calls that any minute holds."""
    return max(sum(first <= call < first + timedelta(seconds=60) for call in calls) for first in calls)


def test_never_more_than_sixty_in_any_minute(control_db, clock):
    """300 calls one after the other: no minute, wherever it begins, holds more than 60."""
    mine, calls = pacer(control_db, clock), []
    for number in range(300):
        mine.before("write")
        calls.append(clock.now)
        clock.now += timedelta(seconds=0.37 * (number % 3))
    assert most_in_a_minute(calls) == 60
    assert calls[59] - START < timedelta(seconds=60) < calls[60] - START
    assert clock.now - START < timedelta(seconds=5 * 62)


def test_processes_share_one_quota(control_db):
    """Eight posters at once get 60 calls together, not each, by the database's own clock."""
    allowed: list[bool] = []

    def call() -> None:
        mine = Pacer(control_db, "project/account", patience=0.0)
        for _ in range(10):
            try:
                mine.before("write")
            except QuotaExceeded:
                allowed.append(False)
            else:
                allowed.append(True)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (allowed.count(True), allowed.count(False)) == (60, 20)


def test_reads_and_writes_and_accounts_are_counted_apart(control_db, clock):
    """A used up quota of writes stops neither reads nor another account."""
    mine = pacer(control_db, clock, patience=0.0)
    for _ in range(60):
        mine.before("write")
    with pytest.raises(QuotaExceeded):
        mine.before("write")
    mine.before("read")
    Pacer(control_db, "project/other", patience=0.0, clock=clock).before("write")


def test_a_long_wait_is_told_and_takes_no_place(control_db, clock):
    """Who does not wait here learns when to come back; asking again and again moves the time for nobody."""
    mine = pacer(control_db, clock, patience=5.0)
    for _ in range(60):
        mine.before("write")
    for _ in range(3):
        with pytest.raises(QuotaExceeded) as refused:
            mine.before("write")
        assert refused.value.retry_after == pytest.approx(62.0)
    clock.wait(62.0)
    mine.before("write")


def test_googles_retry_after_holds_for_everybody(control_db, clock):
    """After a 429 no process calls before the time that Google named."""
    pacer(control_db, clock).refused("write", 17.0)
    other = pacer(control_db, clock)
    other.before("write")
    assert clock.now - START == timedelta(seconds=17)
    other.before("read")
    assert clock.now - START == timedelta(seconds=17)


def test_work_that_can_wait_leaves_half_to_posts(control_db, clock):
    """Reading approvals back stops at half of the quota; a post still gets its calls at once."""
    modest = pacer(control_db, clock, patience=0.0).modest()
    for _ in range(30):
        modest.before("read")
    with pytest.raises(QuotaExceeded):
        modest.before("read")
    poster = pacer(control_db, clock)
    for _ in range(30):
        poster.before("read")
    assert clock.waited == 0.0


def test_waiting_is_counted(control_db, clock):
    """Seconds spent waiting stand in the metric."""
    before = metrics.SHEETS_QUOTA_WAIT._value.get()
    mine = pacer(control_db, clock, writes=1)
    mine.before("write")
    mine.before("write")
    assert metrics.SHEETS_QUOTA_WAIT._value.get() - before == pytest.approx(62.0)
