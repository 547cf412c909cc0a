"""PostgreSQL and Kafka for tests: one of each shared by a whole session, and throw-away ones that a test may kill.

A pytest plugin: register it with `pytest_plugins = ["kylo_outbox.testing.servers"]`. Nothing is started before a test
asks for it. All workers of pytest-xdist share the servers of their session, and the process that pytest was started
in stops them at the end. What a killed session left running is found by the next one and ended, if it is provably its.
"""

from __future__ import annotations

import getpass
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kylo_outbox.local import paths, processes
from kylo_outbox.local.kafka import LocalKafka
from kylo_outbox.local.locks import exclusive
from kylo_outbox.local.postgres import LocalPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

# No KYLO_ name: this one is for the workers, not a setting of the product.
_RUN = "OUTBOX_TEST_RUN"
_POSTGRES = {"max_connections": "400", "shared_buffers": "64MB", "max_prepared_transactions": "50"}
_OWN_POSTGRES = {"max_connections": "100", "shared_buffers": "32MB", "max_prepared_transactions": "10"}
_OWN_HEAP = "384m"
# Tests kill their broker: it may register again as soon as the session of its former life is over.
_OWN_KAFKA = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "400"}


def pytest_configure(config: pytest.Config) -> None:
    """Give the session a folder of its own, whose name the workers inherit; the folder itself is made when needed."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        run = _base() / f"run-{os.getpid()}-{os.urandom(4).hex()}"
        os.environ[_RUN] = str(run)
        config.add_cleanup(lambda: end_run(run))


def shared_servers(tmp_root: Path) -> tuple[LocalPostgres, LocalKafka]:
    """Return the two servers whose state lies in `tmp_root`, not started; the same ones for every process that asks.

    Their ports are chosen by whoever comes first. Start each under `exclusive` or by its own `start`, which is safe
    for several processes.
    """
    remembered = tmp_root / "ports.json"
    with exclusive(tmp_root / "ports.lock"):
        ports = processes.load_json(remembered)
        if not ports:
            ports = {name: paths.free_port() for name in ("postgres", "kafka", "controller")}
            processes.save_json(remembered, ports)
    postgres = LocalPostgres(
        tmp_root / "postgres", ports["postgres"], log_file=tmp_root / "postgres.log", settings=_POSTGRES
    )
    kafka = LocalKafka(tmp_root / "kafka", ports["kafka"], ports["controller"], log_file=tmp_root / "kafka.log")
    return postgres, kafka


@pytest.fixture(scope="session")
def postgres_server() -> LocalPostgres:
    """One running PostgreSQL for all tests of the session: make a database of your own in it, never stop it."""
    server, _ = shared_servers(run_folder())
    server.start()
    return server


@pytest.fixture(scope="session")
def kafka_server() -> LocalKafka:
    """One running broker for all tests of the session: use topics and groups of your own, never stop it."""
    _, server = shared_servers(run_folder())
    server.start()
    return server


@pytest.fixture
def own_postgres() -> Iterator[LocalPostgres]:
    """A running PostgreSQL of this test alone: stop it, kill it, start it again; it is gone afterwards."""
    with _throw_away() as name:
        folder = Path(name)
        server = LocalPostgres(
            folder / "postgres", paths.free_port(), log_file=folder / "postgres.log", settings=_OWN_POSTGRES
        )
        try:
            server.start()
            yield server
        finally:
            server.kill()


@pytest.fixture
def own_kafka() -> Iterator[LocalKafka]:
    """A running broker of this test alone: stop it, kill it, start it again; it is gone afterwards."""
    with _throw_away() as name:
        folder = Path(name)
        server = LocalKafka(
            folder / "kafka",
            paths.free_port(),
            paths.free_port(),
            log_file=folder / "kafka.log",
            heap=_OWN_HEAP,
            settings=_OWN_KAFKA,
        )
        try:
            server.start()
            yield server
        finally:
            server.kill()


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder of this test alone that a PostgreSQL started as root may use; its servers end with it."""
    with _folder_of_servers() as folder:
        yield folder


@pytest.fixture(scope="module")
def module_folder() -> Iterator[Path]:
    """The same for all tests of one file."""
    with _folder_of_servers() as folder:
        yield folder


@contextmanager
def _folder_of_servers() -> Iterator[Path]:
    with _throw_away() as name:
        yield Path(name)
        for state in Path(name).rglob("server.json"):
            handle = processes.load_handle(state)
            if handle is not None:
                processes.kill(handle)


def run_folder() -> Path:
    """Return the folder of this session's servers, made at the first call together with a look for dead sessions."""
    run = Path(os.environ[_RUN])
    with exclusive(_base() / "runs.lock"):
        if not (run / "owner.json").exists():
            _sweep()
            # The process that pytest was started in: its pid is in the name, whichever worker comes first.
            processes.save_handle(run / "owner.json", processes.handle_of(int(run.name.split("-")[1])))
    return run


def end_run(run: Path) -> None:
    """End every server below the folder of a session and remove it; nothing when there is no such folder."""
    if not run.exists():
        return
    for state in run.rglob("server.json"):
        handle = processes.load_handle(state)
        if handle is not None:
            processes.kill(handle)
    shutil.rmtree(run, ignore_errors=True)  # a file that somebody still holds (Windows) is no fault of a test


def _sweep() -> None:
    for run in _base().glob("run-*"):
        owner = processes.load_handle(run / "owner.json")
        if owner is not None and not owner.alive():
            end_run(run)


def _throw_away() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=run_folder(), prefix="own-", ignore_cleanup_errors=True)


def _base() -> Path:
    """Return the folder of all sessions of this account. Not pytest's own: it takes away the right to pass through."""
    name = "somebody"
    with suppress(OSError, KeyError, ImportError):  # an account without a name
        name = getpass.getuser()
    base = Path(tempfile.gettempdir()) / f"kylo-outbox-tests-{name}"
    base.mkdir(mode=0o711, exist_ok=True)
    return base
