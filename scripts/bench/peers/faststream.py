"""faststream-outbox beside ours: its own environment, its own table, its own process."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench import rows
from scripts.bench.peers import installed
from scripts.bench.peers.contenders import Contender, program
from scripts.bench.stage import BenchFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

_PROGRAM = Path(__file__).with_name("faststream_relay.py")
FILL = """
insert into faststream_outbox (queue, payload, headers)
select 'bench',
       convert_to(rpad('{"n":' || n || ',"text":"', %(size)s - 2, repeat(md5(n::text), %(size)s / 32 + 1)) || '"}',
                  'UTF8'),
       jsonb_build_object('key', 'company-' || n %% %(keys)s, 'correlation_id', n::text)
  from generate_series(1, %(count)s::bigint) n
"""
# As its own `publish` does: the row, and in the same statement the notice that wakes the relay.
INSERT = """
with added as (
    insert into faststream_outbox (queue, payload, headers)
    values ('bench', convert_to(%(payload)s, 'UTF8'),
            jsonb_build_object('key', %(key)s::text, 'correlation_id', %(topic)s::text))
    returning queue
) select pg_notify('outbox_faststream_outbox', queue) from added
"""


class FastStream(Contender):
    """faststream-outbox 0.19 with the confluent broker, tuned."""

    name = installed.NAMES["faststream"]
    insert = INSERT

    def prepare(self, stage: Stage, database: Database, topic: str) -> None:
        """Its table, made by itself."""
        del topic
        done = subprocess.run([*self._argv("create"), database.dsn], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchFailed(f"faststream-outbox could not make its table: {done.stderr.strip()[-500:]}")
        stage.say("faststream-outbox: table made")

    def fill(self, database: Database, topic: str, count: int) -> None:
        """Rows in its table."""
        del topic
        with rows.connect(database) as connection:
            connection.execute(FILL, {"count": count, "keys": rows.KEYS, "size": rows.PAYLOAD})
            connection.execute("analyze faststream_outbox")

    @contextmanager
    def running(self, stage: Stage, database: Database, topic: str) -> Iterator[Callable[[], None]]:
        """`faststream_relay.py run`."""
        argv = [*self._argv("run"), database.dsn, stage.kafka.bootstrap, topic]
        with program(argv, stage.folder / "faststream.log", stage.environment()) as check:
            yield check

    @staticmethod
    def _argv(what: str) -> list[str]:
        # -P: the folder of the program has a module with the name of the package.
        return [str(installed.python(installed.folder("faststream"))), "-P", str(_PROGRAM), what]
