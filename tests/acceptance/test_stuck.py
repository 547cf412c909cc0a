"""The whole pipeline: in quiet minutes nothing counts as stuck, and a process that stops silently is told in time."""

from __future__ import annotations

import signal
import time

import pytest

from tests.helpers.pipeline import Pipeline, transaction, wait_until


@pytest.fixture(scope="module")
def pipeline(module_folder):
    """The whole stack with one company, something of it applied."""
    pipeline = Pipeline(module_folder)
    pipeline.up()
    pipeline.ok("company", "add", "710", "--spreadsheet", "book-710")
    pipeline.post([transaction(1, "710")])
    wait_until(lambda: len(pipeline.rows("select from app_710.pending_txns")) == 1, 60, "the first post is applied")
    yield pipeline
    pipeline.tell()
    pipeline.down()


def stuck(pipeline: Pipeline) -> set[str]:
    """Kinds of what stands still; the API itself stays ready, whatever others do."""
    answer = pipeline.get("/readyz")
    assert answer["status"] == "ready", answer
    return {one["kind"] for one in answer["stuck"]}


@pytest.mark.parametrize("seconds", [25, pytest.param(600, marks=[pytest.mark.full, pytest.mark.timeout(900)])])
def test_quiet_minutes_raise_nothing(pipeline, seconds):
    """A post now and then, and nothing else: no alarm at any look."""
    wait_until(lambda: stuck(pipeline) == set(), 30, "it has come up")
    until = time.monotonic() + seconds
    looks = 0
    while time.monotonic() < until:
        if looks % 20 == 0:
            pipeline.post([transaction(100 + looks, "710")])
        answer = pipeline.get("/readyz")
        assert answer["stuck"] == [], answer
        looks += 1
        time.sleep(0.5)
    assert looks > seconds


@pytest.mark.parametrize(
    ("part", "kinds"), [("relay", {"dead_loop", "lost_lease"}), ("projectors", {"dead_loop", "stuck_partition"})]
)
def test_a_stopped_process_is_told_within_thirty_seconds(pipeline, part, kinds):
    """SIGSTOP: it is there and does nothing. What it should have done is named, and it is over when it goes on."""
    wait_until(lambda: stuck(pipeline) == set(), 60, "nothing is stuck before")
    handle = pipeline._handle(part)
    assert handle is not None
    process = handle.process()
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        pipeline.post([transaction(int(stopped), "710")])
        wait_until(lambda: kinds <= stuck(pipeline), 30, f"{kinds} are told")
        print(f"{part}: told after {time.monotonic() - stopped:.1f} s")
    finally:
        process.send_signal(signal.SIGCONT)
    wait_until(lambda: stuck(pipeline) == set(), 60, "it is over")
