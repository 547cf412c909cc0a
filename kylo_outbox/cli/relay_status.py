"""What `kylo-outbox relay` shows of itself on stderr: a live line on a terminal, now and then a log line elsewhere."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TextIO

from kylo_outbox.cli.output import duration
from kylo_outbox.model.errors import KyloError
from kylo_outbox.store.backlog import oldest_age

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kylo_outbox.flows.relay import RelayState
    from kylo_outbox.wiring.parts import Parts

log = logging.getLogger(__name__)

_LIVE_EVERY: Final = 1.0
_LOG_EVERY: Final = 10.0
_CLEAR: Final = "\r\x1b[2K"


class Status:
    """The line, with rates since the line before.

    Args:
        states: What each lane's relay says of itself.
        oldest: Age in seconds of the oldest event that waits in any store; None if none does or it is not known.
        clock: Seconds.
    """

    def __init__(
        self,
        states: Callable[[], Sequence[RelayState]],
        oldest: Callable[[], float | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._states, self._oldest, self._clock = states, oldest, clock
        self._counted: dict[str, int] = {}
        self._at = clock()

    def line(self) -> str:
        """Who leads, how fast, how old the oldest waiting event is, what is held, whether Kafka answers."""
        now, states = self._clock(), self._states()
        seconds = max(now - self._at, 0.001)
        rates = {state.name: (state.published - self._counted.get(state.name, 0)) / seconds for state in states}
        self._counted = {state.name: state.published for state in states}
        self._at = now
        if not states:
            return "no store yet"
        parts = [_lane(state, rates[state.name]) for state in states]
        oldest = self._oldest()
        parts.append("nothing waits" if oldest is None else f"oldest {duration(oldest)}")
        held = sum(len(state.held_keys) for state in states)
        if held:
            parts.append(f"{held} keys held (`kylo-outbox outbox held`)")
        parts += [f"Kafka is away: {state.breaker}" for state in states if state.breaker][:1]
        return " | ".join(parts)

    def condition(self) -> Any:
        """What is worth a line at once when it changes: who leads, whether anything is held, whether Kafka answers."""
        return [(state.name, state.leading, bool(state.held_keys), bool(state.breaker)) for state in self._states()]


@contextmanager
def shown(states: Callable[[], Sequence[RelayState]], parts: Parts) -> Iterator[None]:
    """Show the line while the block runs."""
    status = Status(states, lambda: _oldest(parts))
    done = threading.Event()
    live = sys.stderr.isatty()
    thread = threading.Thread(target=_draw if live else _log, args=(status, done), name="status", daemon=True)
    with _cleared_logs(sys.stderr) if live else nullcontext():
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(5)
            if live:
                sys.stderr.write(_CLEAR)


def _draw(status: Status, done: threading.Event) -> None:
    while not done.wait(_LIVE_EVERY):
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(_CLEAR + status.line()[:width])
        sys.stderr.flush()


def _log(status: Status, done: threading.Event) -> None:
    told: Any = None
    until = time.monotonic()
    while not done.wait(_LIVE_EVERY):
        condition = status.condition()
        if condition != told or time.monotonic() >= until:
            told, until = condition, time.monotonic() + _LOG_EVERY
            log.info("%s", status.line())


class _Clearing:
    """A stream for log lines on a terminal whose last line is live: it is taken away first."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(_CLEAR + text)

    def flush(self) -> None:
        self._stream.flush()


@contextmanager
def _cleared_logs(stream: TextIO) -> Iterator[None]:
    handlers = [each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)]
    for handler in handlers:
        handler.setStream(_Clearing(stream))
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(stream)


def _lane(state: RelayState, rate: float) -> str:
    if not state.leading:
        return f"{state.store}/{state.lane} standby"
    sides = f" +{state.side_lanes} side lanes" if state.side_lanes else ""
    return f"{state.store}/{state.lane} leader{sides} {rate:,.0f}/s"


def _oldest(parts: Parts) -> float | None:
    ages = []
    try:
        for store in parts.directory.stores():
            if not store.problem:
                with store.database.transaction() as tx:
                    ages.append(oldest_age(tx))
    except KyloError:
        return None
    return max((age for age in ages if age is not None), default=None)
