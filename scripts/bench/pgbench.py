"""Writers as pgbench runs them: a business row a transaction, alone, with a plain insert, or with emit."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from scripts.bench import rows
from scripts.bench.stage import BenchFailed

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

_TPS = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)

TABLES = """
create table public.orders (
    id bigint generated always as identity primary key, customer text not null, amount int not null
);
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


def prepare(database: Database) -> None:
    """Make the tables of the scripts."""
    with rows.connect(database) as connection:
        connection.execute(TABLES)


def tps(stage: Stage, database: Database, topic: str, script: str, writers: int, seconds: float) -> float:
    """Transactions a second of one run, on tables with what former runs left.

    Raises:
        BenchFailed: pgbench failed; what it said is in the message.
    """
    file = stage.folder / f"{script}.sql"
    file.write_text(SCRIPTS[script].replace("':topic'", f"'{topic}'"), encoding="ascii")
    argv = [str(stage.tool("pgbench")), "--no-vacuum", "--protocol=prepared", f"--file={file}"]
    argv += [f"--client={writers}", "--jobs=2", f"--time={seconds:.0f}", database.dsn]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=stage.environment())
    found = _TPS.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise BenchFailed(f"pgbench ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return float(found[1])
