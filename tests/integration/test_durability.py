"""What the relay has seen survives a crash of the server, whatever `synchronous_commit` the writers came with."""

from __future__ import annotations

import threading
from contextlib import closing, suppress

import psycopg
import pytest

from kylo_outbox import Event, emit, emit_many
from kylo_outbox.model.errors import Transient
from kylo_outbox.store import fixtures
from kylo_outbox.store.engine import connect
from kylo_outbox.store.session import LaneSession
from tests.helpers.lives import server_in

HASTY = "-c synchronous_commit=off"
RAW = (
    "insert into kylo.outbox_log (xid, event_id, created_at, slot, topic, key, type, payload) "
    "values (pg_current_xact_id(), gen_random_uuid(), now(), 1, 't', 'k', 'T', '{}')"
)


@pytest.fixture
def server(own_folder):
    """A server that writes its log to disk rarely unless somebody waits for it."""
    server = server_in(own_folder, "postgres", wal_writer_delay="10s", checkpoint_timeout="1h")
    server.start()
    fixtures.ensure_template(server.dsn("postgres"), server.dsn("hasty"), "hasty")
    yield server
    server.kill()


class Story:
    """Writers that do not wait for the disk, and a relay that reads what they commit, until the server is killed."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.seen: set[str] = set()
        self._enough = threading.Event()

    def run(self, server, write, rows: int) -> None:
        """Let them work until the relay has read so many rows more, then kill the server."""
        self._wanted = len(self.seen) + rows
        self._enough.clear()
        threads = [threading.Thread(target=self._write, args=(write, number)) for number in range(4)]
        threads.append(threading.Thread(target=self._read))
        for thread in threads:
            thread.start()
        assert self._enough.wait(120)
        server.kill()
        for thread in threads:
            thread.join(60)
        server.start()

    def lost(self) -> set[str]:
        """What was seen and is not there any more."""
        with closing(connect(self._dsn, "test")) as connection:
            return self.seen - {row[0] for row in connection.execute("select event_id::text from kylo.outbox_log")}

    def _write(self, write, number: int) -> None:
        with suppress(psycopg.Error), psycopg.connect(self._dsn, options=HASTY) as connection:
            while True:
                write(connection, f"k{number}")
                connection.commit()

    def _read(self) -> None:
        session = LaneSession(self._dsn, "test")
        with suppress(Transient):
            assert session.take(0, "test")
            while True:
                self.seen.update(row[6] for row in session.read(0, 1000).rows)
                if len(self.seen) >= self._wanted:
                    self._enough.set()
        session.close()


def one(connection, key):
    """An event as applications save it."""
    emit(connection, topic="t", key=key, type="T", payload={})


def many(connection, key):
    """Some at once."""
    emit_many(connection, [Event(topic="t", key=key, type="T", payload={}) for _ in range(3)])


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.full)])
def test_what_a_relay_has_seen_survives_every_kill(server, kills):
    """`kill -9` of the whole server, again and again, under writers with synchronous_commit off."""
    story = Story(server.dsn("hasty"))
    for number in range(kills):
        story.run(server, many if number % 2 else one, 60)
        assert story.lost() == set()
    assert len(story.seen) >= 60 * kills


def test_without_the_switch_in_emit_seen_rows_are_lost(server):
    """The same story with rows that are written past `kylo.emit`: this is what the switch is for."""
    story = Story(server.dsn("hasty"))
    story.run(server, lambda connection, _: connection.execute(RAW), 20)
    assert story.lost() != set()


def test_the_switch_is_for_off_alone(control_db):
    """A server, a role or a session that asks for less than `on` but for its own disk keeps what it asked for."""
    with psycopg.connect(control_db.dsn) as connection:
        for asked, kept in (("off", "on"), ("local", "local"), ("remote_write", "remote_write"), ("on", "on")):
            for save in (one, many):
                connection.execute(f"set synchronous_commit = {asked}")
                connection.commit()
                save(connection, "k")
                assert connection.execute("show synchronous_commit").fetchone() == (kept,)
                connection.commit()
                assert connection.execute("show synchronous_commit").fetchone() == (asked,)
