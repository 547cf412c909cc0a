"""Second lives of a database server: standbys, cold copies, and what a relay publishes from each life."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import closing
from typing import TYPE_CHECKING

from kylo_outbox.local import paths
from kylo_outbox.local.postgres import LocalPostgres
from kylo_outbox.store.engine import connect
from kylo_outbox.store.session import LaneSession

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {"max_connections": "50", "shared_buffers": "16MB", "max_prepared_transactions": "5"}


def server_in(folder: Path, name: str, **settings: str) -> LocalPostgres:
    """A server of a test, not started."""
    return LocalPostgres(
        folder / name, paths.free_port(), log_file=folder / f"{name}.log", settings=SETTINGS | settings
    )


def standby_of(primary: LocalPostgres, folder: Path) -> LocalPostgres:
    """A running standby of a running server."""
    standby = _like(primary, folder / "standby")
    target = standby.data_dir / "pgdata"
    primary._tool("pg_basebackup", *primary._address(), "-D", target, "-R", "-X", "stream", "-c", "fast")
    standby.start()
    return standby


def cold_copy_of(server: LocalPostgres, folder: Path) -> LocalPostgres:
    """A stopped server's files, copied; not started."""
    copy = _like(server, folder / "copy")
    shutil.copytree(server.data_dir / "pgdata", copy.data_dir / "pgdata")
    return copy


def _like(server: LocalPostgres, data_dir: Path) -> LocalPostgres:
    data_dir.mkdir(mode=0o711)
    for name in ("password", "complete"):
        shutil.copy(server.data_dir / name, data_dir / name)
    return LocalPostgres(data_dir, paths.free_port(), log_file=data_dir.with_suffix(".log"), settings=SETTINGS)


def caught_up(primary: str, standby: str) -> None:
    """Wait until the standby has replayed all that the primary has written."""
    with closing(connect(primary, "test", autocommit=True)) as one, closing(connect(standby, "test")) as other:
        written = one.execute("select pg_current_wal_lsn()::text").fetchone()
        other.autocommit = True
        until = time.monotonic() + 60
        while other.execute("select pg_last_wal_replay_lsn() < %s::pg_lsn", written).fetchone() != (False,):
            assert time.monotonic() < until, "the standby does not catch up"
            time.sleep(0.02)


def relay_once(dsn: str, *, stored: bool = True) -> list[tuple[int, int, object]]:
    """(generation, id, n) of all that a relay would publish now; not `stored`: it dies before it stores the cursor."""
    session = LaneSession(dsn, "test")
    try:
        session.identity()
        assert session.take(0, "test")
        found = []
        while (turn := session.read(0, 1000)).rows:
            found += [(row[8], row[0], json.loads(row[4])["n"]) for row in turn.rows]
        if stored:
            session.advance(0, turn.cursor, len(found))
    finally:
        session.close()
    return found
