"""P5 and the cost of emit: what the outbox takes from those who write, with pgbench, the relay on the same cores."""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from scripts.bench import relays, rows
from scripts.bench.figures import Figure, Goal, ratios
from scripts.bench.rounds import interleaved
from scripts.bench.stage import BenchFailed

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

SECONDS = 8.0
WRITERS = (8, 32)
_EMIT_WRITERS = 8
_TPS = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)

TABLES = """
create table public.orders (id bigint generated always as identity primary key, customer text not null, amount int not null);
create table public.plain_outbox (
    id bigint generated always as identity primary key, topic text not null, key text not null, type text not null,
    payload jsonb not null, created_at timestamptz not null default now()
);
"""
_KEY = "\\set key random(1, 1000)\n"
_ORDER = "insert into public.orders (customer, amount) values ('c-' || :key, :key);\n"
_PAYLOAD = """'{"order": ' || :key || ', "text": "' || repeat('x', 470) || '"}'"""
_INSERT = "insert into public.plain_outbox (topic, key, type, payload) values (':topic', 'c-' || :key, 'ORDERED', "
_EMIT = "select kylo.emit(':topic', 'c-' || :key, 'ORDERED', "
SCRIPTS = {
    "business": f"{_KEY}begin;\n{_ORDER}end;\n",
    "insert": f"{_KEY}begin;\n{_ORDER}{_INSERT}({_PAYLOAD})::jsonb);\nend;\n",
    "emit": f"{_KEY}begin;\n{_ORDER}{_EMIT}({_PAYLOAD})::text);\nend;\n",
}


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """Writers with and without the relay, then with emit, a plain insert, and neither."""
    seconds = max(3.0, SECONDS * scale)
    figures: list[Figure] = []
    for writers in WRITERS:
        with stage.database() as database, stage.topic() as topic:
            _prepare(database)
            measure = partial(_tps, stage, database, topic, "emit", writers, seconds)
            found = interleaved(
                rounds, {"without": partial(measure, relayed=False), "with": partial(measure, relayed=True)}
            )
        name = f"{writers} writers"
        figures += [
            Figure(f"{name}: with the relay / without", "x", ratios(found["with"], found["without"]), Goal("P5", 0.85)),
            Figure(f"{name}, no relay", "transactions/s", tuple(found["without"])),
            Figure(f"{name}, relay running", "transactions/s", tuple(found["with"])),
        ]
    with stage.database() as database, stage.topic() as topic:
        _prepare(database)
        cost = interleaved(
            rounds,
            {
                name: partial(_tps, stage, database, topic, name, _EMIT_WRITERS, seconds, relayed=False)
                for name in SCRIPTS
            },
        )
    return [
        *figures,
        Figure("business row + emit / business row + plain insert", "x", ratios(cost["emit"], cost["insert"])),
        Figure("business row + emit / business row alone", "x", ratios(cost["emit"], cost["business"])),
        Figure("business row alone", "transactions/s", tuple(cost["business"]), note=f"{_EMIT_WRITERS} writers"),
        Figure("business row + plain insert", "transactions/s", tuple(cost["insert"])),
        Figure("business row + emit", "transactions/s", tuple(cost["emit"])),
    ]


def _prepare(database: Database) -> None:
    with rows.connect(database) as connection:
        connection.execute(TABLES)


def _tps(
    stage: Stage, database: Database, topic: str, script: str, writers: int, seconds: float, *, relayed: bool
) -> float:
    """Transactions a second of one pgbench run, on tables with what former runs left."""
    file = stage.folder / f"{script}.sql"
    file.write_text(SCRIPTS[script].replace("':topic'", f"'{topic}'"), encoding="ascii")
    argv = [str(stage.tool("pgbench")), "--no-vacuum", "--protocol=prepared", f"--file={file}", f"--client={writers}"]
    argv += ["--jobs=2", f"--time={seconds:.0f}", database.dsn]
    with ExitStack() as beside:
        if relayed:
            relay = beside.enter_context(relays.running(stage, database))
            relay.wait_until_leading()
        done = subprocess.run(argv, check=False, capture_output=True, text=True, env=stage.environment())
    found = _TPS.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise BenchFailed(f"pgbench ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    # What nobody relayed must not be drained at the cost of the next writers.
    rows.mark_published(database)
    return float(found[1])
