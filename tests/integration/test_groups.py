"""Several projector processes share a topic and are killed, stopped and restarted: nothing lost, doubled, reordered."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from kylo_outbox import Event, emit_many
from kylo_outbox.testing import ledger
from tests.helpers.broker import make_topic

REPOSITORY = Path(__file__).parents[2]
KEYS = [f"ledger-{number}" for number in range(12)]
MODULE = """
from kylo_outbox.testing.ledger import Ledger
class Own(Ledger):
    name = "{name}"
    topics = ("{topic}",)
    batch = 50
"""


class Group:
    """Processes of one consumer group, and the moves they are to write."""

    def __init__(self, database, kafka_server, folder):
        self.database, self.folder = database, folder
        self.topic = make_topic(kafka_server.bootstrap, partitions=6)
        self.name = f"own-{os.urandom(4).hex()}"
        (folder / "own_ledger.py").write_text(MODULE.format(name=self.name, topic=self.topic))
        unwanted = ("KYLO_", "KAFKA_", "PG", "COVERAGE", "PYTEST")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        self.environ |= {
            "PG_DSN_RW": database.dsn,
            "KAFKA_BROKERS": kafka_server.bootstrap,
            "PYTHONPATH": str(REPOSITORY),
        }
        self.processes: list[subprocess.Popen] = []
        self.moves = 0
        with database.transaction() as tx:
            tx.execute(ledger.TABLE)

    def start(self):
        """One process more."""
        words = [sys.executable, "-m", "kylo_outbox", "project", "own_ledger:Own"]
        with (self.folder / f"log-{len(self.processes)}").open("w") as out:
            process = subprocess.Popen(words, cwd=self.folder, env=self.environ, stdout=out, stderr=out)
        self.processes.append(process)
        return process

    def save(self, number):
        """Emit so many moves, numbered through, on all keys."""
        dice = random.Random(self.moves)
        events = []
        for _ in range(number):
            payload = {"from": "a", "to": "b", "cents": dice.randint(1, 999), "number": self.moves}
            events.append(Event(topic=self.topic, key=dice.choice(KEYS), type="MOVED", payload=payload))
            self.moves += 1
        with self.database.transaction() as tx:
            emit_many(tx, events)

    def written(self):
        """How many moves are in the ledger."""
        with self.database.transaction() as tx:
            return tx.execute("select count(distinct event_id) from ledger_entries").fetchone()[0]

    def wait(self, number, seconds=240):
        """Until so many moves are written."""
        until = time.monotonic() + seconds
        while self.written() < number:
            assert time.monotonic() < until, f"{self.written()} of {number}"
            time.sleep(0.1)

    def end(self):
        """Whatever still runs."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.wait(60)
        for log in sorted(self.folder.glob("log-*")):
            print(log.name, *log.read_text(errors="replace").splitlines()[-15:], sep="\n")


@pytest.fixture
def group(control_db, kafka_server, tmp_path):
    """An empty group."""
    made = Group(control_db, kafka_server, tmp_path)
    yield made
    made.end()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stopped", [9, pytest.param(30, marks=pytest.mark.full)])
def test_kills_stops_and_restarts_lose_double_and_reorder_nothing(group, make_relay, run_until, stopped):
    """One process, then two, then four; kill -9, SIGSTOP beyond the session, a rolling restart; the sums add up."""
    relay = make_relay()

    def go_on(number):
        published = relay.state.published
        group.save(number)
        run_until(relay, lambda: relay.state.published >= published + number, seconds=120)

    first = group.start()
    go_on(400)
    group.wait(100)
    second = group.start()
    go_on(400)
    first.kill()
    first.wait(60)
    third, fourth, fifth = group.start(), group.start(), group.start()
    go_on(400)
    group.wait(900)
    os.kill(second.pid, signal.SIGSTOP)
    go_on(400)
    time.sleep(stopped)  # longer than the session: its partitions are given to others meanwhile
    os.kill(second.pid, signal.SIGCONT)
    go_on(400)
    for process in (third, fourth, fifth):  # one after the other, each with its successor
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        group.start()
        go_on(100)
    group.wait(group.moves)
    with group.database.transaction() as tx:
        sums = ledger.check(tx)
        dead = tx.execute("select count(*) from kylo.dead_letters").fetchone()
    assert sum(sums.moves.values()) == group.moves == 2300
    assert (sums.unbalanced, sums.disordered, dead) == ({}, [], (0,))


KILLER = """
import os
from kylo_outbox.testing.ledger import Ledger
class Own(Ledger):
    name = "{name}"
    topics = ("{topic}",)
    def apply(self, tx, events):
        if any(event.payload["number"] == 77 for event in events):
            os._exit(9)
        super().apply(tx, events)
"""


@pytest.mark.timeout(900)
def test_a_record_that_ends_the_process_is_set_aside(group, make_relay, run_until):
    """A supervisor that starts the process again needs no person: after a few deaths the record is a dead letter."""
    (group.folder / "own_ledger.py").write_text(KILLER.format(name=group.name, topic=group.topic))
    relay = make_relay()
    group.save(120)
    run_until(relay, lambda: relay.state.published == 120, seconds=120)
    deaths, process = 0, group.start()
    until = time.monotonic() + 600
    while not dead_letters(group.database):
        assert time.monotonic() < until
        if process.poll() is not None:
            assert process.returncode == 9
            deaths += 1
            process = group.start()
        time.sleep(0.1)
    assert deaths <= 5
    assert "died 3 times" in dead_letters(group.database)[0][0]
    until = time.monotonic() + 240
    while group.written() + dead_letters(group.database)[0][1] < 119:
        assert time.monotonic() < until, "the others go on, or wait behind it"
        time.sleep(0.1)


def dead_letters(database):
    """(reason, how many wait behind it)."""
    with database.transaction() as tx:
        behind = "select count(*) from kylo.held_events"
        return tx.execute(f"select reason, ({behind}) from kylo.dead_letters").fetchall()
