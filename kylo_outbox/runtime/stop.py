"""One stop sign for a process: the first signal drains, the second leaves now."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any

log = logging.getLogger(__name__)


class Stop:
    """An event that workers look at between two steps and wait on instead of sleeping."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask everything to finish what it has in hand; harmless when repeated."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether stopping was asked for."""
        return self._event.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait up to `seconds`; True as soon as stopping is asked for."""
        return self._event.wait(seconds)

    def on_signals(self) -> None:
        """SIGTERM and SIGINT (on Windows also SIGBREAK) ask to stop; the second one ends the process at once.

        What is unfinished then is repeated by the next start and absorbed as duplicates.
        """

        def handle(number: int, _frame: Any) -> None:
            if self._event.is_set():
                os._exit(128 + number)
            log.info("stopping after what is in hand (a second signal leaves at once)")
            self._event.set()

        for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), handle)
