"""From a commit to the broker's acknowledgement, event by event, at a given pace.

Both moments are taken in the processes that see them, on one machine with one clock: the commit when it has come back
to the writer, the acknowledgement when the sender's delivery report arrives.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from scripts.bench.figures import percentile
from scripts.bench.peers.contenders import Ours
from scripts.bench.stage import BenchFailed
from scripts.bench.workers import writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

_WARM_SECONDS = 1.0
_REST_SECONDS = 30.0
_AGAIN_SECONDS = 0.2
_runs = count()


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from commit to acknowledgement, and the commits a second that the writers really made."""

    p50: float
    p99: float
    pace: float


@dataclass(frozen=True, slots=True)
class Written:
    """When commits came back, by event number; `counted` are those after the first second."""

    commits: dict[int, int]
    counted: dict[int, int]
    pace: float
    direct: Path


def paced(
    stage: Stage,
    database: Database,
    topic: str,
    rate: float,
    seconds: float,
    acks: Callable[[], dict[int, int]],
    *,
    insert: str = Ours.insert,
    direct: str = "",
) -> Latency:
    """Write at a pace and compare with the acknowledgements.

    Args:
        stage: Where everything runs.
        database: Where to write.
        topic: Topic of the events.
        rate: Commits a second.
        seconds: How long; the first second does not count.
        acks: The moments of acknowledgements so far, by event number.
        insert: The statement that adds one event.
        direct: A topic that the writer itself sends to.

    Raises:
        BenchFailed: events did not arrive.
    """
    done = written(stage, database, topic, rate, seconds, insert=insert, direct=direct)
    return done_until(done, partial(writer.load, done.direct) if direct else acks)


def written(
    stage: Stage,
    database: Database,
    topic: str,
    rate: float,
    seconds: float,
    *,
    insert: str = Ours.insert,
    direct: str = "",
) -> Written:
    """Write at a pace; see `paced`."""
    first = next(_runs) * 10_000_000
    out = stage.folder / f"commits-{first}"
    own = stage.folder / f"acks-{first}"
    words = {"dsn": database.dsn, "topic": topic, "rate": rate, "seconds": seconds, "first": first, "out": out}
    more = {"direct": direct, "brokers": stage.kafka.bootstrap, "acks": own} if direct else {}
    told = stage.worker("writer", **words, insert=insert, **more)
    commits = writer.load(out)
    counted = {number: at for number, at in commits.items() if number - first >= rate * _WARM_SECONDS}
    return Written(commits, counted, told["written"] / told["seconds"], own)


def done_until(done: Written, find: Callable[[], dict[int, int]]) -> Latency:
    """Wait until every event has its moment, and compare.

    Raises:
        BenchFailed: events did not arrive.
    """
    until = time.monotonic() + _REST_SECONDS
    while lost := done.commits.keys() - (found := find()).keys():
        if time.monotonic() > until:
            raise BenchFailed(f"{len(lost)} of {len(done.commits)} events did not arrive")
        time.sleep(_AGAIN_SECONDS)
    took = [(found[number] - at) / 1e6 for number, at in done.counted.items()]
    return Latency(percentile(took, 0.50), percentile(took, 0.99), done.pace)
