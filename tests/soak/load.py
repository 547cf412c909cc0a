"""What is written during a soak: many keys, late commits, rollbacks, poison; every writer keeps books of its own."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

from kylo_outbox import Event, emit, emit_many
from tests.soak.projectors import BAD, CURABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LARGE = "LARGE"
# The topic `small` takes nothing above this.
LIMIT = 20_000
# Few: after each of them the relay looks for the one at fault, and is slow meanwhile.
SOME_LARGE = 0.0007
SOME_CURABLE = 0.0007

TABLE = "create table soak_versions (key text primary key, version bigint not null default 0)"
_NEXT = "update soak_versions set version = version + %s where key = %s returning version"
_ACCOUNTS = ("cash", "bank", "card", "fees")


class Note(NamedTuple):
    """What a writer knows of an event: `number` counts the commits of its key where a business row does."""

    topic: str
    key: str
    type: str
    number: int | None
    move: tuple[str, str, int] | None
    # When the commit was asked for, in seconds since 1970.
    at: float


class Key(NamedTuple):
    """A key of a topic, its slot, and whether a business row counts its events."""

    topic: str
    name: str
    slot: int
    counted: bool


class Load:
    """Threads that write until told to stop.

    `committed` was acknowledged by PostgreSQL; of `unknown` the connection broke during the commit. Both are by event
    id. Business rows are locked before anything is emitted, and both in one order: writers cannot deadlock.
    """

    def __init__(
        self,
        dsn: str,
        topics: Mapping[str, str],
        *,
        seed: int,
        large: float = SOME_LARGE,
        curable: float = SOME_CURABLE,
        writers: int = 6,
    ) -> None:
        """Prepare.

        Args:
            dsn: The database, through whatever door.
            topics: Names of the topics `events`, `moves` and `small`.
            seed: Each writer's dice come from it.
            large: The share of the topic `small` that is too large for it.
            curable: The share of the topic `events` that a person has to cure.
            writers: How many threads.
        """
        self.committed: dict[str, Note] = {}
        self.unknown: dict[str, Note] = {}
        self.failed: list[Exception] = []
        self.interrupted = self.rolled_back = 0
        self.topics = topics
        self.keys = [
            *(_key(topics["events"], f"key-{n}", counted=n % 2 == 0) for n in range(24)),
            *(_key(topics["moves"], f"ledger-{n}", counted=True) for n in range(12)),
            *(_key(topics["small"], f"small-{n}", counted=True) for n in range(6)),
        ]
        self._dsn, self._seed, self._large, self._curable = dsn, seed, large, curable
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(writers)]

    def prepare(self) -> None:
        """Make the business rows, and write one event for each key, so that it can be seen when all of them flow."""
        with psycopg.connect(self._dsn) as connection:
            rows = [(f"{key.topic}/{key.name}",) for key in self.keys if key.counted]
            connection.cursor().executemany("insert into soak_versions (key) values (%s)", rows)
            dice = random.Random(f"{self._seed} first")
            keys = sorted(self.keys, key=lambda key: (key.slot, key))
            events = [event for key in keys for event in self._events(connection, key, 1, dice)]
            ids = [str(event.event_id) for event in emit_many(connection, events)]
            self.committed |= dict(zip(ids, self._notes(events), strict=True))

    def start(self) -> None:
        """Begin to write."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop, with the last transactions ended."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(60)

    def _write(self, number: int) -> None:
        dice = random.Random(f"{self._seed} {number}")
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn, connect_timeout=3, tcp_user_timeout=8000) as connection:
                    while not self._stop.is_set():
                        self._transaction(connection, dice)
            except psycopg.OperationalError:
                self.interrupted += 1
                self._stop.wait(0.05)
            except Exception as failed:  # noqa: BLE001 - told to whoever runs the soak
                self.failed.append(failed)
                return

    def _transaction(self, connection: psycopg.Connection[Any], dice: random.Random) -> None:
        keys = sorted(dice.sample(self.keys, dice.randint(1, 4)), key=lambda key: (key.slot, key))
        many = dice.random() < 0.6
        events = [e for key in keys for e in self._events(connection, key, dice.randint(1, 15 if many else 2), dice)]
        if many:
            ids = [str(event.event_id) for event in emit_many(connection, events)]
        else:
            ids = [self._emit(connection, event, dice) for event in events]
        # The transaction stays open for a while, now and then for long: late commits are what this is about.
        self._stop.wait(dice.random() * (0.5 if dice.random() < 0.03 else 0.02))
        if dice.random() < 0.15:
            connection.rollback()
            self.rolled_back += 1
            return
        notes = dict(zip(ids, self._notes(events), strict=True))
        self.unknown |= notes
        connection.commit()
        self.committed |= notes
        for event_id in ids:
            del self.unknown[event_id]

    def _emit(self, connection: psycopg.Connection[Any], event: Event, dice: random.Random) -> str:
        saved = emit(connection, topic=event.topic, key=event.key, type=event.type, payload=event.payload)
        self._stop.wait(dice.random() * 0.004)
        return str(saved.event_id)

    def _events(
        self, connection: psycopg.Connection[Any], key: Key, count: int, dice: random.Random
    ) -> Sequence[Event]:
        found, last = [], 0
        if key.counted:
            [[last]] = connection.execute(_NEXT, (count, f"{key.topic}/{key.name}")).fetchall()
        for number in range(last - count + 1, last + 1):
            payload: dict[str, Any] = {"number": number} if key.counted else {}
            kind = self._kind(key, dice)
            if key.topic == self.topics["moves"]:
                one, other = dice.sample(_ACCOUNTS, 2)
                payload |= {"from": one, "to": other, "cents": 0 if kind == BAD else dice.randint(1, 10_000)}
            if kind == LARGE:
                payload["filling"] = "x" * (LIMIT + 10_000)
            found.append(Event(topic=key.topic, key=key.name, type=kind, payload=payload))
        return found

    def _kind(self, key: Key, dice: random.Random) -> str:
        luck = dice.random()
        if key.topic == self.topics["small"]:
            return LARGE if luck < self._large else "WRITTEN"
        if key.topic == self.topics["moves"]:
            return BAD if luck < 0.001 else "MOVED"
        return BAD if luck < 0.0007 else CURABLE if luck < 0.0007 + self._curable else "WRITTEN"

    @staticmethod
    def _notes(events: Sequence[Event]) -> list[Note]:
        now = time.time()
        return [
            Note(
                event.topic,
                event.key,
                event.type,
                event.payload.get("number"),
                (event.payload["from"], event.payload["to"], event.payload["cents"])
                if "cents" in event.payload
                else None,
                now,
            )
            for event in events
        ]


def _key(topic: str, name: str, *, counted: bool) -> Key:
    digest = hashlib.sha256(f"{topic}\x1f{name}".encode()).digest()
    return Key(topic, name, digest[0] << 2 | digest[1] >> 6, counted)
