"""`kylo-outbox relay`, the command itself, with a note of the moment of each delivery report.

The client's class is replaced by one that wraps each callback before anything of the product is imported; nothing else
differs. It costs a microsecond a record, so it is for latency at a given pace and never for throughput.

Usage: recorded_relay FILE. FILE gets lines `n nanoseconds-since-1970`, n from the payload's `{"n":...`.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
from pathlib import Path
from typing import Any

import confluent_kafka

from scripts.bench.workers.writer import number_of

_WRITE_SECONDS = 0.2


class Recorder:
    """Moments by payload number, written to a file in the background."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._noted: list[tuple[bytes, int]] = []
        self._lock = threading.Lock()
        atexit.register(self.write)
        threading.Thread(target=self._write_on, daemon=True).start()

    def note(self, value: bytes) -> None:
        """One acknowledgement, now."""
        self._noted.append((value, time.time_ns()))

    def write(self) -> None:
        """Append what was noted since the last time."""
        with self._lock:
            noted, self._noted = self._noted, []
            with self._path.open("a", encoding="ascii") as out:
                out.writelines(f"{number_of(value)} {at}\n" for value, at in noted)

    def _write_on(self) -> None:
        while True:
            time.sleep(_WRITE_SECONDS)
            self.write()


def recording(recorder: Recorder) -> type[confluent_kafka.Producer]:
    """A producer class that tells the recorder of each acknowledgement, then whoever asked for it."""

    class Recorded(confluent_kafka.Producer):
        def produce(
            self,
            topic: str,
            value: Any = None,
            key: Any = None,
            partition: int = -1,
            callback: Any = None,
            on_delivery: Any = None,
            timestamp: int = 0,
            headers: Any = None,
        ) -> None:
            told = callback if on_delivery is None else on_delivery

            def report(error: Any, message: Any) -> None:
                if error is None:
                    recorder.note(value)
                if told is not None:
                    told(error, message)

            super().produce(topic, value, key, partition, report, report, timestamp, headers)

    return Recorded


def main() -> None:
    """Put the recorder in, then be the command."""
    recorder = Recorder(Path(sys.argv[1]))
    confluent_kafka.Producer = recording(recorder)  # type: ignore[misc]
    from kylo_outbox.cli import main as command  # noqa: PLC0415 - only after the class was replaced

    sys.argv = ["kylo-outbox", "relay"]
    command()


if __name__ == "__main__":
    main()
