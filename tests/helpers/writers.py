"""Writers that behave badly: they sleep with their transaction open, roll back, and commit in any order."""

from __future__ import annotations

import hashlib
import random
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from kylo_outbox import Event, emit, emit_many

if TYPE_CHECKING:
    from collections.abc import Iterator

# The business row behind every second key: its lock gives an order that owes nothing to the outbox.
_WALLETS = "create table if not exists wallets_of_test (key text primary key, version bigint not null default 0)"
_CREDIT = "update wallets_of_test set version = version + 1 where key = %s returning version"


@dataclass(frozen=True)
class Key:
    """A key, the slot whose lock orders its commits, and whether a business row carries its version."""

    name: str
    slot: int
    wallet: bool


class Writers:
    """Threads that emit on a few keys until told to stop; their ledger is kept here, outside the database.

    `committed` was acknowledged by PostgreSQL and must be in the log in the end; a writer that loses its connection has
    `failed`. With `wallets` every second key is a wallet whose events count its versions.
    """

    def __init__(
        self,
        dsn: str,
        topic: str,
        *,
        writers: int = 8,
        keys: int = 20,
        seed: int = 1,
        wallets: bool = False,
        most: int = 1,
    ) -> None:
        self.committed: set[str] = set()
        self.failed: list[Exception] = []
        self._dsn, self._topic, self._seed = dsn, topic, seed
        self._most = most
        self._keys = _keys(topic, keys, wallets=wallets)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(writers)]

    @contextmanager
    def running(self) -> Iterator[Writers]:
        """Start them; stop and wait at the end of the block."""
        with psycopg.connect(self._dsn) as connection:
            connection.execute(_WALLETS)
            for key in self._keys:
                if key.wallet:
                    connection.execute("insert into wallets_of_test (key) values (%s)", (key.name,))
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)

    def _write(self, number: int) -> None:
        dice = random.Random(self._seed * 1000 + number)
        try:
            with psycopg.connect(self._dsn, connect_timeout=5) as connection:
                while not self._stop.is_set():
                    self._transaction(connection, dice)
        except Exception as failed:  # noqa: BLE001 - told to the test, which fails
            self.failed.append(failed)

    def _transaction(self, connection: psycopg.Connection[Any], dice: random.Random) -> None:
        at_once = dice.random() < 0.3
        # Single emits take their locks one by one and `emit_many` all rows before all slots: in the order of slots,
        # and with keys of one kind in the latter, nobody can deadlock.
        kind = dice.random() < 0.5
        found = [key for key in self._keys if key.wallet == kind] or self._keys if at_once else self._keys
        keys = sorted(dice.sample(found, dice.randint(1, 3)), key=lambda key: key.slot)
        mine = self._many(connection, keys, dice) if at_once else [self._one(connection, key, dice) for key in keys]
        # The transaction stays open for a while, now and then for long: late commits are what this is about.
        self._stop.wait(dice.random() * (0.5 if dice.random() < 0.03 else 0.01))
        if dice.random() < 0.2:
            connection.rollback()
            return
        connection.commit()
        self.committed.update(mine)

    def _one(self, connection: psycopg.Connection[Any], key: Key, dice: random.Random) -> str:
        payload = self._payload(connection, key)
        event = emit(connection, topic=self._topic, key=key.name, type="WRITTEN", payload=payload)
        self._stop.wait(dice.random() * 0.01)
        return str(event.event_id)

    def _many(self, connection: psycopg.Connection[Any], keys: list[Key], dice: random.Random) -> list[str]:
        events = [
            Event(topic=self._topic, key=key.name, type="WRITTEN", payload=self._payload(connection, key))
            for key in keys
            for _ in range(dice.randint(1, self._most))
        ]
        return [str(event.event_id) for event in emit_many(connection, events)]

    def _payload(self, connection: psycopg.Connection[Any], key: Key) -> dict[str, Any]:
        if not key.wallet:
            return {}
        row = connection.execute(_CREDIT, (key.name,)).fetchone()
        assert row is not None
        return {"version": row[0]}


def _keys(topic: str, count: int, *, wallets: bool) -> list[Key]:
    """So many keys of slots of their own."""
    found: dict[int, Key] = {}
    number = 0
    while len(found) < count:
        name = f"key-{number}"
        digest = hashlib.sha256(f"{topic}\x1f{name}".encode()).digest()
        slot = digest[0] << 2 | digest[1] >> 6
        found.setdefault(slot, Key(name, slot, wallets and number % 2 == 0))
        number += 1
    return list(found.values())
