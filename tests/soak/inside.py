"""Stopping a process at the worst moment: half of a transaction is done, PostgreSQL waits for its next word."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import psycopg

if TYPE_CHECKING:
    from tests.helpers.relays import OwnProcess
    from tests.soak.door import Door

# Its effect is written and its position is not: a batch of repeats alone could do no harm.
_INSIDE = """
select client_port from pg_stat_activity
 where datname = current_database() and state = 'idle in transaction' and application_name like 'kylo-outbox %'
   and query ~ 'insert into (soak_journal|soak_balances|ledger_entries)'
"""
_TRIES = 400


def stop_inside(dsn: str, door: Door, process: OwnProcess) -> bool:
    """Stop the process; whether it was inside a transaction then. Without luck it is stopped somewhere else."""
    with suppress(psycopg.OperationalError), psycopg.connect(dsn, autocommit=True, connect_timeout=3) as look:
        for _ in range(_TRIES):
            process.stop()
            if _is_inside(look, door, process.pid):
                return True
            process.go_on()
            time.sleep(0.005)
    process.stop()
    return False


def _is_inside(look: psycopg.Connection[tuple[int]], door: Door, pid: int) -> bool:
    knockers = {door.knocker(port) for (port,) in look.execute(_INSIDE).fetchall()}
    if not knockers - {None}:
        return False
    connections = psutil.Process(pid).net_connections("tcp")
    return any(connection.laddr.port in knockers for connection in connections)
