"""Processes of the product that a test may kill, stop, wake and ask to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kylo_outbox.local import parts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ROOT = Path(__file__).parents[2]


class OwnProcess:
    """`kylo-outbox` with some words, or the same with one planted fault (`tests.helpers.planted`)."""

    def __init__(self, log_file: Path, settings: Mapping[str, str], words: Sequence[str], planted: str = "") -> None:
        self.log_file = log_file
        self.stopped = False
        self._settings, self._words, self.planted = dict(settings), list(words), planted
        self._born_at = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns at once."""
        program = ["tests.helpers.planted", self.planted] if self.planted else ["kylo_outbox"]
        with self.log_file.open("ab") as log:
            self._born_at = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", *program, *self._words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=_ROOT,
                env=parts.environment(self._settings, isolated=True),
            )

    @property
    def pid(self) -> int:
        """The pid of its present life."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it lives, stopped or not."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def stop(self) -> None:
        """SIGSTOP: it does not run any more and does not know it."""
        self.stopped = True
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)
        self.stopped = False

    def kill(self) -> None:
        """End it with kill -9, and wait until it is gone; nothing when it does not run."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)
        self.stopped = False

    def end(self, seconds: float = 60.0) -> int:
        """SIGTERM, and wait for the end; its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = 60.0) -> int:
        """Wait for the end; its exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    def said(self) -> str:
        """What it has logged in its present life."""
        return self.log_file.read_bytes()[self._born_at :].decode(errors="replace")


class RelayProcess(OwnProcess):
    """`kylo-outbox relay --wait`."""

    def __init__(self, log_file: Path, settings: Mapping[str, str], planted: str = "") -> None:
        super().__init__(log_file, settings, ["relay", "--wait"], planted)
