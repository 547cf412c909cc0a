"""The line that a relay shows of itself."""

from __future__ import annotations

import io
import logging
import sys

from kylo_outbox.cli import relay_status
from kylo_outbox.cli.relay_status import Status
from kylo_outbox.flows.relay import RelayState


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.now


def test_the_line_says_what_people_ask():
    """Leader or standby, rate since the last line, oldest age, held keys, and why Kafka is away."""
    first, second = RelayState(store="control", lane=0, leading=True), RelayState(store="other", lane=0)
    clock = Clock()
    status = Status(lambda: [first, second], lambda: 65.0, clock)
    first.published, clock.now = 5000, 2.0
    assert status.line() == "control/0 leader 2,500/s | other/0 standby | oldest 65 s"
    first.published, clock.now = 5100, 12.0
    first.held_keys, first.breaker, first.side_lanes = {("t", b"k")}, "no acknowledgement", 1
    assert status.line() == (
        "control/0 leader +1 side lanes 10/s | other/0 standby | oldest 65 s | "
        "1 keys held (`kylo-outbox outbox held`) | Kafka is away: no acknowledgement"
    )
    assert Status(list, lambda: None, clock).line() == "no store yet"
    assert Status(lambda: [second], lambda: None, clock).line() == "other/0 standby | nothing waits"


def test_a_change_is_worth_a_line():
    """Leading, holding and the breaker are; counts are not."""
    state = RelayState(store="control", lane=0)
    status = Status(lambda: [state], lambda: None)
    before = status.condition()
    state.published = 10
    assert status.condition() == before
    state.leading = True
    leads = status.condition()
    assert leads != before
    state.breaker = "away"
    assert status.condition() != leads


def test_log_lines_take_the_live_line_away(monkeypatch):
    """On a terminal a log line begins where the live line stood; afterwards the handler is as it was."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    with relay_status._cleared_logs(stream):
        logging.getLogger("kylo_outbox.test").warning("hello")
    assert stream.getvalue().startswith("\r\x1b[2Khello")
    assert handler.stream is stream
    assert sys.stderr is not stream
