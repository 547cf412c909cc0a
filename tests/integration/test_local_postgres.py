from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest

from kylo_outbox.local import paths, processes
from kylo_outbox.local.postgres import LocalPostgres
from kylo_outbox.model.errors import Unreachable

if TYPE_CHECKING:
    from pathlib import Path


def ask(server: LocalPostgres, query: str) -> str:
    """Return the only value of a query."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return str(row[0])


def write(server: LocalPostgres) -> None:
    """Commit a row that must survive."""
    with psycopg.connect(server.dsn()) as connection:
        connection.execute("create table kept as select 42 as answer")


def again(server: LocalPostgres) -> LocalPostgres:
    """Return what another process would make of the same folder."""
    return LocalPostgres(server.data_dir, server.port, log_file=server.log_file)


def test_committed_rows_survive_kill_and_stop(own_postgres):
    """After kill -9 and after an orderly stop the server starts again with everything that was committed."""
    write(own_postgres)
    for end in (own_postgres.kill, own_postgres.stop):
        end()
        assert not own_postgres.is_running()
        own_postgres.start()
        assert ask(own_postgres, "select answer from kept") == "42"


def test_kill_leaves_no_child(own_postgres):
    """Killing the server ends its workers and the backends of open connections too."""
    with psycopg.connect(own_postgres.dsn()) as connection:
        backend = processes.handle_of(connection.info.backend_pid)
        own_postgres.kill()
        assert not backend.alive()


def test_another_process_finds_and_stops_it(own_postgres):
    """Everything needed is on disk: a second look at the folder sees the server, starts no second one and stops it."""
    other = again(own_postgres)
    other.start()
    assert other.handle() == own_postgres.handle()
    other.stop()
    assert not own_postgres.is_running()


def test_it_outlives_the_process_that_started_it(tmp_path_factory, own_postgres):
    """A server started by a command goes on when the command has ended."""
    own_postgres.stop()
    code = (
        "import sys; from pathlib import Path; from kylo_outbox.local.postgres import LocalPostgres;"
        "LocalPostgres(Path(sys.argv[1]), int(sys.argv[2]), log_file=Path(sys.argv[3])).start()"
    )
    words = [sys.executable, "-c", code, own_postgres.data_dir, own_postgres.port, own_postgres.log_file]
    subprocess.run([str(word) for word in words], check=True, timeout=60)
    assert own_postgres.is_running()
    assert ask(own_postgres, "select 1") == "1"


def test_killed_behind_our_back_is_cleaned(own_postgres):
    """A postmaster that somebody else killed leaves a pid file; the next start cleans it."""
    write(own_postgres)
    handle = own_postgres.handle()
    processes.kill(handle)
    assert (own_postgres.data_dir / "pgdata" / "postmaster.pid").exists()
    own_postgres.start()
    assert ask(own_postgres, "select answer from kept") == "42"


def test_foreign_pid_in_stale_files_is_not_touched(own_postgres):
    """When the remembered pid belongs to somebody else now, that process is left alone and the server starts."""
    own_postgres.kill()
    foreign = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    try:
        (own_postgres.data_dir / "pgdata" / "postmaster.pid").write_text(f"{foreign.pid}\n")
        processes.save_handle(own_postgres.data_dir / "server.json", processes.Handle(foreign.pid, 1.0))
        assert not own_postgres.is_running()
        own_postgres.stop()
        own_postgres.kill()
        own_postgres.start()
        assert ask(own_postgres, "select 1") == "1"
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_durable_and_closed_to_others(own_postgres):
    """Data are synced to disk, passwords are asked for on TCP, and the password file is for its owner only."""
    assert ask(own_postgres, "show fsync") == "on"
    assert ask(own_postgres, "show unix_socket_directories") == ""
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://kylo:wrong@127.0.0.1:{own_postgres.port}/kylo")
    if os.name != "nt":
        assert stat.S_IMODE((own_postgres.data_dir / "password").stat().st_mode) == 0o600


def test_settings_and_databases(own_postgres):
    """Settings given to the server hold, and databases can be made, copied and removed."""
    assert ask(own_postgres, "show max_prepared_transactions") == "10"
    write(own_postgres)
    own_postgres.create_database("copy", template="kylo")
    with psycopg.connect(own_postgres.dsn("copy")) as connection:
        assert connection.execute("select answer from kept").fetchone() == (42,)
    own_postgres.drop_database("copy")
    own_postgres.drop_database("copy")
    with pytest.raises(Unreachable, match="already exists"):
        own_postgres.create_database("kylo")


def test_taken_port_is_named(own_postgres):
    """A port of another program gives one line with the remedy, and no half-started server."""
    taken = own_postgres.port
    folder: Path = own_postgres.data_dir.parent / "second"
    second = LocalPostgres(folder, taken, log_file=folder / "log")
    with pytest.raises(Unreachable, match=f"port {taken} is taken"):
        second.start()
    assert not second.is_running()
    free = LocalPostgres(folder, paths.free_port(), log_file=folder / "log")
    free.start()
    try:
        assert ask(free, "select 1") == "1"
        assert ask(own_postgres, "select 1") == "1"
    finally:
        free.kill()


def test_first_start_that_was_cut_short_is_done_anew(own_postgres):
    """A cluster whose making was interrupted holds nothing and is made again."""
    folder: Path = own_postgres.data_dir.parent / "half"
    (folder / "pgdata").mkdir(parents=True)
    (folder / "pgdata" / "PG_VERSION").write_text("18\n")
    server = LocalPostgres(folder, paths.free_port(), log_file=folder / "log")
    try:
        server.start()
        assert ask(server, "select 1") == "1"
    finally:
        server.kill()
