"""P3: the same backlog drained by us, by the relays the world writes, and by the programs that are installed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from scripts.bench import pace, rows
from scripts.bench.figures import Figure, Goal, ratios
from scripts.bench.peers import contenders, installed
from scripts.bench.rounds import interleaved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.bench.peers.contenders import Contender
    from scripts.bench.stage import Stage

ROWS = 200_000
_LONGEST = 20.0
_GOALS = {
    contenders.BATCHED.name: Goal("P3", 4),
    "Debezium Server": Goal("P3", 5),
    "faststream-outbox": Goal("P3", 30),
}
_WAL = "select pg_current_wal_lsn() - '0/0'::pg_lsn"


@dataclass(frozen=True, slots=True)
class Run:
    """One drain: events a second, and bytes of WAL an event."""

    rate: float
    wal: float


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """Everyone in turn; each round on tables of its own."""
    ours = contenders.Ours()
    others = [contenders.TEXTBOOK, contenders.BATCHED, contenders.BEST, *contenders.asked_for(stage)]
    count = max(20_000, int(ROWS * scale))
    runs = interleaved(rounds, {each.name: partial(_drained, stage, each, count) for each in [ours, *others]})
    rates = {name: [each.rate for each in found] for name, found in runs.items()}
    figures = [
        Figure(f"kylo-outbox / {each.name}", "x", ratios(rates[ours.name], rates[each.name]), _GOALS.get(each.name))
        for each in others
    ]
    figures += [Figure(name, "events/s", tuple(found)) for name, found in rates.items()]
    figures += [
        Figure(f"WAL, {name}", "B per event", tuple(each.wal for each in found)) for name, found in runs.items()
    ]
    return figures + _missing(ours.name, others)


def _drained(stage: Stage, contender: Contender, count: int) -> Run:
    """Fill a backlog and let one relay work on it, to the end or for twenty seconds."""
    with (
        contenders.named(contender),
        stage.database() as database,
        stage.topic() as topic,
        rows.connect(database) as connection,
    ):
        contender.prepare(stage, database, topic)
        contender.fill(database, topic, count)
        with contender.running(stage, database, topic) as check:
            [before] = connection.execute(_WAL).fetchone() or (0,)
            found = pace.grow(stage, topic, count, check, longest=_LONGEST)
            [after] = connection.execute(_WAL).fetchone() or (0,)
    return Run(found.rate, float(after - before) / found.records)


def _missing(ours: str, there: Sequence[Contender]) -> list[Figure]:
    names = {each.name for each in there}
    return [
        Figure(f"{ours} / {name}", "x", goal=goal, missing=f"not asked for: {installed.how(name)}")
        for name, goal in _GOALS.items()
        if name not in names
    ]
