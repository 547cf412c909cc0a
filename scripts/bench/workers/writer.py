"""Commits single events at an even pace and notes when each commit came back.

With `--direct` the writer also sends the record to the broker itself right after its commit, and notes the moment of
its delivery report: what a program without an outbox would see, on the same machine under the same load.

Prints JSON: how many, and the seconds they took. `--out` gets lines `n nanoseconds-since-1970`, `--acks` the same for
the delivery reports of `--direct`.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from scripts.bench.workers.raw import producer

if TYPE_CHECKING:
    from confluent_kafka import Producer

_KEYS = 200
_SIZE = 500
Moments = list[tuple[int, int]]


def payload(number: int) -> str:
    """The JSON text of an event: its number first, then what fills it up."""
    head = f'{{"n":{number},"text":"'
    return head + "x" * (_SIZE - len(head) - 2) + '"}'


def number_of(value: bytes) -> int:
    """The number in a payload."""
    return int(value[5 : value.index(b",")])


class Direct:
    """Sends each event itself and notes its acknowledgement."""

    def __init__(self, brokers: str, topic: str) -> None:
        self.acks: Moments = []
        self._topic = topic
        self._client: Producer = producer(brokers, **{"linger.ms": 0})
        self._stop = threading.Event()
        self._polling = threading.Thread(target=self._poll)
        self._polling.start()

    def send(self, number: int, key: str, text: str) -> None:
        """Send one event now."""

        def report(error: Any, _message: Any) -> None:
            if error is None:
                self.acks.append((number, time.time_ns()))

        headers: list[Any] = [("id", str(number).encode())]
        self._client.produce(self._topic, text, key, on_delivery=report, headers=headers)

    def close(self) -> None:
        """Wait for the rest."""
        self._client.flush()
        self._stop.set()
        self._polling.join()

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._client.poll(0.1)


def write(words: argparse.Namespace, thread: int, begin: float, direct: Direct | None) -> Moments:
    """The events of one thread, each at its moment; (number, moment of the commit)."""
    moments: Moments = []
    count = int(words.rate * words.seconds)
    with psycopg.connect(words.dsn, autocommit=True, application_name="bench writer") as connection:
        for number in range(thread, count, words.threads):
            wait = begin + number / words.rate - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            key, text = f"company-{number % _KEYS}", payload(words.first + number)
            connection.execute(words.insert, {"topic": words.topic, "key": key, "payload": text})
            moments.append((words.first + number, time.time_ns()))
            if direct:
                direct.send(words.first + number, key, text)
    return moments


def save(path: str, moments: Moments) -> None:
    """Keep moments for whoever compares them."""
    Path(path).write_text("".join(f"{number} {at}\n" for number, at in moments), encoding="ascii")


def load(path: Path) -> dict[int, int]:
    """The first moment of each number."""
    found: dict[int, int] = {}
    for line in path.read_text(encoding="ascii").splitlines():
        number, at = line.split()
        found.setdefault(int(number), int(at))
    return found


def main() -> int:
    """Write at the pace, then print what was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("dsn", "topic", "out", "insert"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("brokers", "direct", "acks"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--first", type=int, default=0)
    words = parser.parse_args()
    direct = Direct(words.brokers, words.direct) if words.direct else None
    found: list[Moments] = [[] for _ in range(words.threads)]
    begin = time.monotonic() + 0.2

    def work(thread: int) -> None:
        found[thread] = write(words, thread, begin, direct)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(words.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begin
    if direct:
        direct.close()
        save(words.acks, direct.acks)
    moments = sorted(moment for each in found for moment in each)
    save(words.out, moments)
    print(json.dumps({"written": len(moments), "seconds": took}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
